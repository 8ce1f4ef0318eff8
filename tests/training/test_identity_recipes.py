"""The recipes of IdentityDP's networks, small, on two people's portraits."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facedeid.errors import TrainingError
from facedeid.nets import load_official
from facedeid.nets.aei import AEIConfig, AEINet, IdentityNet
from facedeid.nets.residual import tint
from facedeid.random import stream
from facedeid.training.data import Faces, is_held_out, load_faces
from facedeid.training.loop import Options, train
from facedeid.training.recipes import configured

CPU = torch.device("cpu")
COMPACT = ('guides=["dlib"]', "width=0.25", "batch=6", "warmup=2", "adversary_from=4")
PAPER = ("width=0.125", "batch=4", "scales=2", "layers=3", "lr=0.001")
TEACHER = {"identity-dp": [], "identity-dp-paper": ["recognizer=facedeid-mobile"]}


def run(name, photos, out, settings, **options):
    recipe = configured(name, settings)
    task = recipe.task(load_faces([photos], size=64), TEACHER[name], out, CPU, 3)
    chosen = Options(out=out, seed=3, log_every=1, bf16=False, **options)
    return train(recipe, task, chosen, say=lambda _: None), task


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def compact(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("identity")
    return out, *run("identity-dp", photos, out, [*COMPACT, "steps=24", "lr=0.003"])


def test_the_compact_network_starts_as_the_identity_and_learns(compact):
    out, outcome, _ = compact
    assert outcome.finished
    rows = [row for row in logged(out) if "identity" in row]
    assert rows[0]["structure"] < 1e-6 < rows[10]["structure"]
    parts = [row["identity"] for row in rows]
    assert np.mean(parts[-5:]) < 0.95 * np.mean(parts[:5])
    assert rows[2]["fooling"] == 0
    assert rows[10]["fooling"] != 0
    assert set(outcome.figures) >= {"rejected dlib", "swapped", "own ssim", "ssim"}


def test_figures_where_no_threshold_is_known(compact, no_threshold):
    _, outcome, task = compact
    assert set(task.evaluate(task.model.eval())) == set(outcome.figures) - {"rejected dlib"}


def test_first_weights_follow_the_seed(photos, tmp_path):
    recipe = configured("identity-dp", COMPACT)
    faces = load_faces([photos], size=64)
    one, two = (recipe.task(faces, [], tmp_path, CPU, 3).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], value) for key, value in two.items())


def test_a_run_writes_its_model_card(compact):
    out, outcome, _ = compact
    text = (out / "identity-dp.md").read_text()
    for row in ("| step | 24 |", '| guides | ["dlib"] |', "| lr | 0.003 |", "| seed | 3 |"):
        assert row in text
    assert f"| swapped | {outcome.figures['swapped']:.4g} |" in text
    assert "To be written by a person" in text


def test_the_file_holds_the_network_its_centre_and_no_adversary(compact):
    out, _, task = compact
    state = load_file(out / "identity-dp.safetensors")
    assert not any("critic" in key for key in state)
    net = IdentityNet(width=0.25)
    load_official(net, {k.removeprefix("net."): v.float() for k, v in state.items()})
    centre = task.training.own["dlib"].mean(0)
    assert torch.allclose(net.centre, centre, atol=1e-3)
    units = net.unit(task.training.own["dlib"])
    assert torch.allclose(units.norm(dim=1), torch.ones(len(units)), atol=1e-5)


def test_kinds_of_identities_ask_for_what_they_are(compact):
    _, _, task = compact
    source = task.training
    batch = source.draw(6, stream(1), CPU, plain=True)
    for kind in range(5):
        shares = tuple(float(i == kind) for i in range(5))
        object.__setattr__(task.recipe, "shares", shares)
        wanted = task._wanted(source, batch, stream(2))
        own = task.net.unit(batch.own["dlib"])
        assert torch.allclose(wanted.unit.norm(dim=1), torch.ones(6), atol=1e-5)
        if kind == 0:
            assert torch.equal(wanted.unit, own)
            assert torch.equal(wanted.target["dlib"], batch.own["dlib"])
            assert (wanted.change < 1e-5).all()
        if kind in (2, 3):
            people = task.models.identities("dlib")
            assert all((people == row).all(1).any() for row in wanted.target["dlib"])
        if kind == 3:
            assert (wanted.change == 1).sum() >= 4  # a random direction is nobody's
    object.__setattr__(task.recipe, "shares", type(task.recipe)().shares)


@pytest.mark.parametrize("stranger", [0.2, 0.8])
def test_from_what_likeness_on_an_identity_is_another_one(stranger, photos, tmp_path):
    settings = [*COMPACT, f"stranger={stranger}", "shares=[0,0,0,0,1]"]
    recipe = configured("identity-dp", settings)
    task = recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)
    batch = task.training.draw(6, stream(1), CPU, plain=True)
    wanted, own = task._wanted(task.training, batch, stream(2)), task.net.unit(batch.own["dlib"])
    alike = (wanted.unit * own).sum(1)
    assert torch.equal(wanted.change > 0.999, alike < stranger + 0.0005)
    assert 0 < (wanted.change > 0.999).sum() < 6


@pytest.mark.parametrize("kept", [0, 0.3])
def test_the_losses_see_the_share_of_colour_that_the_method_keeps(kept, photos, tmp_path):
    settings = ['guides=["dlib"]', "continued=true", f"kept={kept}"]
    task = configured("identity-dp", settings).task(
        load_faces([photos], size=128), [], tmp_path, CPU, 3
    )
    batch = task.training.draw(2, stream(0), CPU, plain=True)
    batch = replace(batch, cover=0.5 * batch.cover)  # nothing is clipped
    with torch.no_grad():
        whole = task.model.eval()(batch.cover, task.net.unit(batch.own["dlib"]).roll(1, 0))
    changes = [
        float(tint(made - batch.cover).abs().mean())
        for made in (task._within(batch, whole), batch.within(whole))
    ]
    assert changes[0] == pytest.approx(kept * changes[1], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "small"), [("identity-dp", COMPACT), ("identity-dp-paper", PAPER)]
)
def test_a_step_depends_on_seed_and_step_alone(name, small, photos, tmp_path):
    recipe = configured(name, list(small))
    faces = load_faces([photos], size=64)
    tasks = [recipe.task(faces, TEACHER[name], tmp_path, CPU, 3) for _ in range(2)]
    tasks[1].model.load_state_dict(tasks[0].model.state_dict())
    one, two = (task.loss(task.model, 5)[0] for task in tasks)
    assert torch.equal(one, two)
    assert not torch.equal(one, tasks[0].loss(tasks[0].model, 6)[0])


@pytest.fixture(scope="module")
def paper(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    return out, *run("identity-dp-paper", photos, out, [*PAPER, "steps=20"])


def test_the_papers_losses_fall(paper):
    out, outcome, _ = paper
    assert outcome.finished
    rows = [row for row in logged(out) if "identity" in row]
    for name in ("identity", "reconstruction"):
        parts = [row[name] for row in rows]
        assert np.mean(parts[-10:]) < np.mean(parts[:10])
    state = load_file(out / "identity-dp-paper.safetensors")
    net = AEINet(AEIConfig(size=64, identity=256, width=0.125))
    load_official(net, {k.removeprefix("net."): v.float() for k, v in state.items()})


def test_the_papers_settings():
    recipe = configured("identity-dp-paper")
    assert (recipe.side, recipe.width, recipe.betas, recipe.lr) == (256, 1.0, (0, 0.999), 4e-4)
    assert (recipe.attributes, recipe.identity, recipe.reconstruction) == (10, 5, 10)
    assert AEIConfig(size=recipe.side, width=recipe.width).maps == 8


def test_the_generators_loss_leaves_the_discriminator_alone(paper):
    _, _, task = paper
    task.model.zero_grad()
    faces = torch.rand(2, 3, 64, 64, requires_grad=True)
    for adversary in ("log", "hinge"):
        object.__setattr__(task.recipe, "adversary", adversary)
        fooling, _ = task._adversarial(faces.detach(), faces)
        fooling.backward()
        assert faces.grad.abs().sum() > 0
        critic = task.model.get_submodule("critic")
        assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "teachers", "message"),
    [
        ("identity-dp", ["shares=[1,0,0]"], [], "five numbers"),
        ("identity-dp", ["stranger=1"], [], "a cosine below 1"),
        ("identity-dp", ["batch=1"], [], "two faces at least"),
        ("feature-embedding", ["batch=1"], [], "two faces at least"),
        ("identity-dp", ['guides=["facedeid-mobile"]'], [], "must include dlib"),
        ("identity-dp-paper", ["adversary=wgan"], TEACHER["identity-dp-paper"], "log, hinge"),
        ("identity-dp-paper", ["same=1.5"], TEACHER["identity-dp-paper"], "a share"),
        ("identity-dp-paper", [], [], "recognizer=NAME"),
        ("identity-dp-paper", [], ["recognizer=nobody"], "nobody"),
    ],
)
def test_settings_that_make_no_sense(name, settings, teachers, message, photos, tmp_path):
    recipe = configured(name, settings)
    with pytest.raises(TrainingError, match=message):
        recipe.task(load_faces([photos], size=64), teachers, tmp_path, CPU, 3)


def test_the_papers_network_does_not_go_on_with_another_encoder(photos, tmp_path):
    settings = [*PAPER, "steps=1"]
    run("identity-dp-paper", photos, tmp_path, settings)
    recipe = configured("identity-dp-paper", [*PAPER, "steps=2"])
    task = recipe.task(load_faces([photos], size=64), ["recognizer=dlib"], tmp_path, CPU, 3)
    assert not asdict(recipe).keys() & task.metadata().keys()  # both are told in the file
    with pytest.raises(TrainingError, match="had encoder facedeid-mobile, now it is dlib"):
        train(recipe, task, Options(out=tmp_path, seed=3, bf16=False), say=lambda _: None)


@pytest.mark.parametrize("name", ["identity-dp", "identity-dp-paper"])
def test_one_person_held_out_cannot_be_swapped(name, photos, tmp_path):
    faces = load_faces([photos], size=64)
    held = next(str(i) for i in range(100) if is_held_out(str(i)))
    few = Faces(faces.images[:3], faces.landmarks[:3], ("a", "b", held))
    small = COMPACT if name == "identity-dp" else PAPER
    task = configured(name, list(small)).task(few, TEACHER[name], tmp_path, CPU, 3)
    figures = task.evaluate(task.model.eval())
    assert "own ssim" in figures
    assert "swapped" not in figures


@pytest.mark.parametrize(
    ("name", "setting"), [("identity-dp", "width=0.25"), ("feature-embedding", "levels=3")]
)
def test_a_network_of_another_shape_cannot_begin_with_the_one_that_ships(
    name, setting, photos, tmp_path
):
    recipe = configured(name, ['guides=["dlib"]', "continued=true", setting])
    with pytest.raises(TrainingError, match="continued=true: the network that ships has another"):
        recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)
