"""The recipe of generator and encoder, a few steps, on two people's portraits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from facedeid.errors import TrainingError
from facedeid.nets import load_official
from facedeid.nets.style_pair import STYLE, StylePair
from facedeid.random import stream
from facedeid.training.augment import augmented
from facedeid.training.autoencoder import fit_mapping
from facedeid.training.data import load_faces
from facedeid.training.loop import Options, train
from facedeid.training.recipes import configured

CPU = torch.device("cpu")
SMALL = ('guides=["dlib"]', "batch=4", "warmup=2", "lr=0.002")
ADAPTIVE = ("steps=6", "horizon=200", "target=-1.5")
"""A critic is always surer than the target."""


def job(photos, out, *settings, name="autoencoder", small=SMALL):
    recipe = configured(name, [*small, *settings])
    return recipe, recipe.task(load_faces([photos], size=128), [], out, CPU, 3)


def learned(photos, out, *settings, **options):
    recipe, task = job(photos, out, *settings, **options)
    how = Options(out=out, seed=3, log_every=1, bf16=False)
    return out, train(recipe, task, how, say=lambda _: None), task


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoder")
    return learned(photos, out, "steps=12", "adversary_from=10")


def likeness(task):
    """What the first step's photos lose after training."""
    return task.loss(task.model, 0)[1]["likeness"]


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_reconstructions_come_nearer_and_the_contest_begins_when_it_should(trained):
    out, outcome, task = trained
    steps = [row for row in rows(out) if "likeness" in row]
    assert outcome.finished
    assert likeness(task) < 0.9 * steps[0]["likeness"]
    assert "critic" not in steps[9]
    assert {"critic", "fooling"} <= set(steps[11])
    assert {"perceptual", "ssim", "kept dlib"} <= set(outcome.figures)


def test_figures_where_no_threshold_is_known(trained, no_threshold):
    _, outcome, task = trained
    assert set(task.evaluate(task.model.eval())) == set(outcome.figures) - {"kept dlib"}


def test_the_file_holds_the_pair_and_its_mean_latent(trained):
    out, _, _ = trained
    state = load_file(out / "autoencoder.safetensors")
    assert not any(key.startswith("critic") for key in state)
    pair = StylePair()
    load_official(pair, {k.removeprefix("pair."): v.float() for k, v in state.items()})
    mean = pair.generator.mean_latent(random=stream(0, "mean latent"))[0]
    assert torch.allclose(pair.centre, mean, atol=1e-2)
    assert pair.centre.abs().max() > 0
    assert pair.sample(3, stream(1)).shape == (3, 12, STYLE)


def test_faces_stay_the_same_when_mean_latent_and_layers_offsets_are_taken_out(photos, tmp_path):
    _, task = job(photos, tmp_path)
    pair = task.model.eval().pair
    faces = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        before, codes = pair(faces)
        task.finish(task.model)
        after, moved = pair(faces)
    assert torch.allclose(before, after, atol=1e-4)
    shift = moved - codes
    assert torch.allclose(shift.mean(1), torch.zeros_like(shift[:, 0]), atol=1e-4)


def test_a_step_depends_on_seed_and_step_alone(photos, tmp_path):
    _, task = job(photos, tmp_path, "adversary_from=0")
    first, second = (task.loss(task.model, 16)[0] for _ in range(2))
    assert first.item() == pytest.approx(second.item(), rel=1e-4)


def test_the_prior_is_that_of_the_codes():
    pair = StylePair()
    widths = torch.tensor([3.0, 1.0, 0.5])[:, None, None]
    directions = torch.linalg.qr(torch.randn(12 * STYLE, 3, generator=stream(0)))[0].T
    drawn = torch.randn(2000, 3, generator=stream(1)) @ (widths[:, 0] * directions)
    pair.learn_prior(2 + drawn.view(-1, 12, STYLE))
    made = pair.sample(2000, stream(2)).flatten(1)
    assert (made.mean(0) - 2).abs().max() < 0.2
    along = ((made - 2) @ directions.T).std(0)
    assert torch.allclose(along, widths.flatten(), rtol=0.1)
    near = pair.sample(2000, stream(2), truncation=0.5).flatten(1)
    assert torch.allclose(near.std(0), 0.5 * made.std(0), rtol=1e-3)


def test_some_faces_are_drawn_from_the_mean_of_their_styles(photos, tmp_path):
    _, task = job(photos, tmp_path)
    contest = task.model.eval()
    faces = torch.rand(4, 3, 128, 128)
    with torch.no_grad():
        made, codes = contest(faces, 2, None, None)
        mean = contest.pair.decode(codes.mean(1))
        full = contest.pair.decode(codes)
    assert torch.allclose(made[:2], mean[:2], atol=1e-4)
    assert torch.allclose(made[2:], full[2:], atol=1e-4)
    assert not torch.allclose(full[:2], mean[:2], atol=1e-3)


def test_the_mapping_network_learns_where_styles_lie():
    torch.manual_seed(0)
    mapping = StylePair().generator.style
    spread = torch.linspace(0.1, 2, STYLE)
    styles = 0.5 + spread * torch.randn(512, STYLE, generator=stream(0))
    fit_mapping(mapping, styles, stream(1), steps=200)
    with torch.no_grad():
        made = mapping(torch.randn(512, STYLE, generator=stream(2)))
    assert (made.mean(0) - styles.mean(0)).abs().mean() < 0.2
    assert torch.corrcoef(torch.stack([made.std(0), spread]))[0, 1] > 0.6  # untrained: 0.0


# ------------------------------------------------------------------- the GAN, and its encoder


@pytest.fixture(scope="module")
def gan(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("generator")
    return learned(photos, out, "batch=4", *ADAPTIVE, name="generator", small=())


def test_the_gan_adapts_its_augmentation_and_pays_the_penalty_now_and_then(gan):
    out, outcome, task = gan
    steps = [row for row in rows(out) if "fooling" in row]
    assert outcome.finished
    assert task.chance.p == pytest.approx(4 * 4 / 200)  # surer than the target: up, once
    assert "r1" in steps[0]
    assert "r1" not in steps[1]
    assert "frechet over facedeid-mobile" in outcome.figures
    held = task.state()
    task.restore({"p": 0.3, "sure": []})
    assert task.chance.p == 0.3
    task.restore(held)


@pytest.fixture(scope="module")
def joint(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("joint")
    settings = ["adversary_from=6", *ADAPTIVE, "steps=8", "lr=0.001"]
    return learned(photos, out, *settings, name="joint")


@pytest.mark.slow
def test_pair_and_gan_learn_at_once(joint):
    out, outcome, task = joint
    steps = [row for row in rows(out) if "likeness" in row]
    assert outcome.finished
    assert {"sample fooling", "sample real", "sample made", "inverse"} <= set(steps[0])
    assert "sample r1" in steps[0]
    assert "sample r1" not in steps[1]
    assert "critic" not in steps[5]
    assert "critic" in steps[7]
    assert likeness(task) < 0.9 * steps[0]["likeness"]
    assert task.chance.p == pytest.approx(2 * 4 * 4 / 200)
    assert steps[-1]["p"] == pytest.approx(4 * 4 / 200)  # before the last change


@pytest.mark.slow
def test_the_joint_pair_keeps_the_mapping_network_that_learned_and_no_critic(joint):
    out, _, task = joint
    state = load_file(out / "joint.safetensors")
    assert all(key.startswith("pair.") for key in state)
    learned = task.model.pair.generator.style.state_dict()
    for key, value in learned.items():  # averaged, not fitted anew
        kept = state[f"pair.generator.style.{key}"].float()
        assert (kept - value).abs().mean() < 0.01 * value.abs().mean() + 0.05
    pair = StylePair()
    load_official(pair, {k.removeprefix("pair."): v.float() for k, v in state.items()})
    mean = pair.generator.mean_latent(random=stream(0, "mean latent"))[0]
    assert torch.allclose(pair.centre, mean, atol=1e-2)


def test_augmentation_leaves_alone_what_chance_does_not_touch():
    faces = torch.rand(6, 3, 32, 32) * 2 - 1
    assert augmented(faces, 0.0, stream(1)) is faces
    some = augmented(faces, 0.15, stream(2))
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(faces, some, strict=True)]
    assert 0 < sum(same) < 6
    assert not any(
        torch.allclose(a, b, atol=1e-2)
        for a, b in zip(faces, augmented(faces, 1.0, stream(3)), strict=True)
    )


def test_an_encoder_learns_into_a_generator_that_stays(gan, photos, tmp_path):
    file = gan[0] / "generator.safetensors"
    recipe = configured("encoder", [*SMALL, "steps=8"])
    faces = load_faces([photos], size=128)
    task = recipe.task(faces, [f"generator={file}"], tmp_path, CPU, 3)
    before = {k: v.clone() for k, v in task.model.pair.generator.state_dict().items()}
    centre = task.model.pair.centre.clone()
    options = Options(out=tmp_path, seed=3, log_every=1, bf16=False)
    train(recipe, task, options, say=lambda _: None)
    after = task.model.pair.generator.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(task.model.pair.centre, centre)
    steps = [row for row in rows(tmp_path) if "likeness" in row]
    assert likeness(task) < 0.9 * steps[0]["likeness"]
    state = {k: v + 0 for k, v in load_file(file).items()}
    save_file(state | {"centre": state["centre"] + 1}, tmp_path / "later.safetensors")
    later = [f"generator={tmp_path / 'later.safetensors'}"]
    more = configured("encoder", [*SMALL, "steps=9"])
    with pytest.raises(TrainingError, match="the run to go on with had generator"):
        train(more, more.task(faces, later, tmp_path, CPU, 3), options, say=lambda _: None)


@pytest.mark.parametrize(
    ("name", "teachers", "message"),
    [
        ("encoder", [], "generator=FILE"),
        ("encoder", ["generator=none.safetensors"], r"none\.safetensors"),
        ("generator", ["dlib"], "no teacher"),
    ],
)
def test_teachers_that_make_no_sense(name, teachers, message, photos, tmp_path):
    settings = ['guides=["dlib"]'] if name == "encoder" else []
    recipe = configured(name, settings)
    with pytest.raises(TrainingError, match=message):
        recipe.task(load_faces([photos], size=128), teachers, tmp_path, CPU, 3)
