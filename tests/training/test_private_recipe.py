"""The recipes of Private-Encoder, a few steps, on two people's portraits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facedeid.errors import TrainingError
from facedeid.faces import feature_masks
from facedeid.landmarks import LIPS
from facedeid.methods import create
from facedeid.models import Models
from facedeid.nets import load_official, style_pair
from facedeid.nets.private_encoder import PrivateEncoder
from facedeid.nets.psp import GradualStyleEncoder, PSp
from facedeid.nets.stylegan2 import Generator
from facedeid.random import stream
from facedeid.training.data import load_faces
from facedeid.training.loop import Options, train
from facedeid.training.private import _strangeness
from facedeid.training.recipes import configured

CPU = torch.device("cpu")
SMALL = ('guides=["dlib"]', "batch=4", "warmup=2", "adversary_from=7", "steady=0")


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_at_first_the_level_changes_nothing():
    net = PrivateEncoder().eval()
    faces = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        low, high = (net(faces, torch.full((2,), beta)) for beta in (0.0, 1.0))
        assert torch.equal(low, high)
        assert torch.allclose(low, net.centre + net.encoder(faces), atol=1e-5)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("private")
    recipe = configured("private-encoder", [*SMALL, "steps=9", "lr=0.002"])
    task = recipe.task(load_faces([photos], size=128), [], out, CPU, 3)
    options = Options(out=out, seed=3, log_every=1, bf16=False)
    before = identity(task)
    return out, train(recipe, task, options, say=lambda _: None), task, before


def identity(task):
    """The mean loss of identity on four batches, always the same ones."""
    return np.mean([task.loss(task.model, step)[1]["identity"] for step in range(4)])


def test_it_starts_from_the_encoder_that_ships_and_learns_to_lower_the_likeness(trained):
    _, outcome, task, before = trained
    assert outcome.finished
    assert identity(task) < before
    assert {"dlib 0", "rejected dlib 0", "ssim 1", "mse 0.4"} <= set(outcome.figures)
    assert outcome.figures["dlib 0"] < outcome.figures["dlib 1"]
    generator = Models().pair().generator.state_dict()
    (pair,) = task.model._pair
    assert all(torch.equal(v, generator[k]) for k, v in pair.generator.state_dict().items())


def test_figures_where_no_threshold_is_known(trained, no_threshold):
    _, outcome, task, _ = trained
    left_out = {name for name in outcome.figures if name.startswith("rejected")}
    assert set(task.evaluate(task.model.eval())) == set(outcome.figures) - left_out


def test_first_weights_follow_the_seed(photos, tmp_path):
    recipe = configured("private-encoder", SMALL)
    faces = load_faces([photos], size=128)
    one, two = (recipe.task(faces, [], tmp_path, CPU, 3).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], value) for key, value in two.items())


def test_a_batch_of_one_face_is_refused(photos, tmp_path):
    recipe = configured("private-encoder", [*SMALL, "batch=1"])
    with pytest.raises(TrainingError, match="two faces"):
        recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)


@pytest.mark.parametrize("steady", [3, 1])
def test_it_may_begin_with_the_network_that_ships(steady, photos, tmp_path):
    recipe = configured("private-encoder", [*SMALL, "continued=true", f"steady={steady}"])
    task = recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)
    shipped = {k: v.clone() for k, v in Models().private_encoder.state_dict().items()}
    assert shipped["steady"].norm(dim=0).min() > 0.99
    shipped["steady"][:, steady:] = 0  # those that are asked for
    assert all(torch.equal(shipped[k], v) for k, v in task.model.net.state_dict().items())


def test_heads_do_not_turn(photos, tmp_path):
    """Codes keep the photo's coordinates along what moves landmarks, and change along the rest."""
    recipe = configured("private-encoder", [*SMALL, "steady=2"])
    task = recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)
    pair, steady = Models().pair(), task.model.net.steady
    torch.testing.assert_close(steady[:, :2].T @ steady[:, :2], torch.eye(2), atol=1e-4, rtol=0)
    assert not steady[:, 2:].any()
    with torch.no_grad():
        task.model.net.level[-1].bias.normal_(generator=stream(0))
        faces = task.training.draw(2, stream(0), CPU, plain=True).cover
        _, _, codes = task.model.eval()(faces, torch.zeros(2))
        moved = pair.coordinates(codes) - pair.coordinates(pair.encode(faces))
    assert (moved @ steady).abs().max() < 1e-3
    assert moved.square().sum(1).min() > 1


def test_posing_directions_move_landmarks_more_than_others(monkeypatch):
    monkeypatch.setattr(style_pair, "POSING", 256)
    models = Models()
    pair = models.pair()
    steady = pair.posing(models.landmarks, 4)
    others = torch.linalg.qr(torch.cat([steady, torch.randn(64, 4, generator=stream(0))], 1))[0]
    codes = pair.prior + torch.einsum(
        "nk,kld->nld", torch.cat([steady, others[:, 4:]], 1).T, pair.axes
    )
    with torch.no_grad():
        at = models.landmarks(pair.decode(torch.cat([pair.prior[None], codes])))
    moved = (at[1:] - at[:1]).norm(dim=-1).mean(1)
    assert moved[:4].mean() > 2 * moved[4:].mean()


def test_the_losses_see_what_the_method_releases(photos, tmp_path):
    recipe = configured("private-encoder", [*SMALL, "continued=true", "steady=3"])
    task = recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)
    batch = task.training.draw(2, stream(0), CPU, plain=True)
    beta = torch.full((2,), 0.3)  # up to 0.2 the method goes on from there
    with torch.no_grad():
        made, base, _ = task.model.eval()(batch.cover, beta)
        seen = task._shown(made, base, batch, beta).clamp(-1, 1)
    method, models = create("private-encoder", beta=0.3), Models()  # apply: at the recipe's side
    result = method.apply(batch.cover, models, random=[stream(0)] * 2, landmarks=batch.landmarks)
    released = batch.within(result.faces)
    assert (seen - batch.cover).abs().mean() > 0.01
    assert (seen - released).abs().mean() < 0.03 * (seen - batch.cover).abs().mean()


def test_light_and_features_may_stay_the_photos(photos, tmp_path):
    faces, changes = load_faces([photos], size=128), []
    for options in (["tone=false", "spared=none"], ["spared=mouth"]):
        recipe = configured("private-encoder", [*SMALL, "continued=true", *options])
        task = recipe.task(faces, [], tmp_path, CPU, 3)
        batch, beta = task.training.draw(2, stream(0), CPU, plain=True), torch.zeros(2)
        with torch.no_grad():
            made, base, _ = task.model.eval()(batch.cover, beta)
            changes.append((task._shown(made, base, batch, beta) - batch.cover).abs())
    mouth = feature_masks(batch.landmarks, 128, [LIPS], 1).expand(-1, 3, -1, -1) > 0.99
    assert changes[1][mouth].mean() < 0.4 * changes[0][mouth].mean()
    assert changes[1].mean() < 0.9 * changes[0].mean()


def test_features_that_cannot_be_spared_are_refused(photos, tmp_path):
    recipe = configured("private-encoder", [*SMALL, "spared=nose"])
    with pytest.raises(TrainingError, match="spared=nose: use forehead-eyes-mouth, "):
        recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)


def test_codes_that_the_prior_would_draw_are_not_strange():
    random = stream(0)
    likely = torch.randn(64, 32, generator=random)
    common = likely + 2 * torch.randn(32, generator=random)
    same = likely[:1] + 0.1 * likely
    found = [float(_strangeness(codes, random)) for codes in (likely, common, 2 * likely, same)]
    assert abs(found[0]) < 0.02
    assert min(found[1:]) > 0.05


def test_the_file_holds_the_network_alone(trained):
    out, *_ = trained
    state = load_file(out / "private-encoder.safetensors")
    net = PrivateEncoder()
    load_official(net, {k.removeprefix("net."): v.float() for k, v in state.items()})
    assert torch.allclose(net.centre, Models().pair().centre, atol=1e-3)


def test_a_step_depends_on_seed_and_step_alone(photos, tmp_path):
    recipe = configured("private-encoder", SMALL)
    task = recipe.task(load_faces([photos], size=128), [], tmp_path, CPU, 3)
    first, second = (task.loss(task.model, 12)[0] for _ in range(2))
    assert first.item() == pytest.approx(second.item(), rel=1e-4)


@pytest.mark.slow
def test_the_papers_recipe_trains_one_level_into_a_published_pair(photos, tmp_path, monkeypatch):
    decoder = Generator(256, style_dim=16, channels={4 << i: 16 for i in range(7)})
    encoder = GradualStyleEncoder(decoder.n_latent, layers=(1, 1, 1, 1), width=16, style_dim=16)
    pair = PSp(encoder, decoder, latent_avg=torch.zeros(16)).eval().requires_grad_(False)
    monkeypatch.setattr(Models, "pair", lambda self, name="facedeid": pair)
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    recipe = configured("private-encoder-paper", ["batch=2", "steps=2", "beta=0.3"])
    task = recipe.task(load_faces([photos], size=256), ["recognizer=dlib"], tmp_path, CPU, 3)
    options = Options(out=tmp_path, seed=3, log_every=1, bf16=False)
    assert all(part.training for part in task.model.modules())  # batch statistics are learned
    outcome = train(recipe, task, options, say=lambda _: None)
    assert outcome.finished
    assert {"pixels", "perceptual", "identity"} == set(rows(tmp_path)[0]) - {
        "step", "loss", "rate", "pace"
    }  # fmt: skip
    assert "dlib 0.3" in outcome.figures
    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "teachers", "message"),
    [
        ([], [], "private-encoder-paper needs a generator: .*psp_ffhq_encode"),
        (["beta=-0.5"], [], "beta must lie between 0 and 1"),
        ([], ["recognizer=nobody"], "--teacher recognizer: "),
    ],
)
def test_what_cannot_be_trained(settings, teachers, message, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "empty"))
    recipe = configured("private-encoder-paper", settings)
    with pytest.raises(TrainingError, match=message):
        recipe.task(load_faces([photos], size=64), teachers, tmp_path, CPU, 3)
