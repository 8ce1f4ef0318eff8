import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facedeid.cli import main
from facedeid.errors import OptionError, TrainingError
from facedeid.nets import load_official
from facedeid.nets.hiding import HidingConfig, HidingNet
from facedeid.nets.lpips import Lpips
from facedeid.nets.vgg import Vgg19, vgg19
from facedeid.random import stream
from facedeid.training.data import Faces, is_held_out, load_faces
from facedeid.training.hanawa import HanawaTask, Pictures, Plateau
from facedeid.training.loop import Options, train
from facedeid.training.recipes import configured

CPU = torch.device("cpu")
NAME = "feature-embedding-paper"
SMALL = ("width=0.125", "batch=2", "photos=4", "epochs=2", "validation=2", "lr=0.001", "perc=0")
NO_LPIPS = (*SMALL, "lpips=0")
EN = "recognizer=facedeid-mobile"


def reinitialised(net):
    for key, parameter in net.named_parameters():
        if key.startswith("features") and parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return {k: v.abs() if k.startswith("lin") else v for k, v in net.state_dict().items()}


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    """LPIPS on a random SqueezeNet, the smallest, as two files."""
    torch.manual_seed(5)
    state = reinitialised(Lpips("squeeze"))
    folder = tmp_path_factory.mktemp("lpips")
    heads = {k: v for k, v in state.items() if k.startswith("lin")}
    save_file({k: v for k, v in state.items() if k not in heads}, folder / "features.safetensors")
    save_file(heads, folder / "heads.safetensors")
    return [f"lpips={folder / f'{part}.safetensors'}" for part in ("features", "heads")]


@pytest.fixture(scope="module")
def vgg_state():
    torch.manual_seed(2)
    return reinitialised(Vgg19())


def job(photos, /, settings=NO_LPIPS, teachers=(EN,), **changed):
    recipe = configured(NAME, [*settings, *(f"{k}={v}" for k, v in changed.items())])
    return recipe, recipe.task(load_faces([photos], size=64), teachers, photos, CPU, 3)


def run(photos, out, /, settings=NO_LPIPS, teachers=(EN,), **changed):
    recipe, task = job(photos, settings, teachers, **changed)
    options = Options(out=out, seed=3, log_every=1, save_every=1e9)
    return train(recipe, task, options, say=lambda _: None), task


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_defaults_are_the_papers():
    recipe = configured(NAME)
    assert (recipe.rec, recipe.perc, recipe.lpips, recipe.near, recipe.far) == (1, 1, 1, 0.14, 0.14)
    assert (recipe.epochs, recipe.lr, recipe.patience, recipe.decay) == (150, 1e-5, 5, 0.2)
    assert recipe.steps == 150 * math.ceil(199_599 / recipe.batch)


def test_a_word_needs_no_quotes():
    assert configured(NAME, ["embedded=noise"]) == configured(NAME, ['embedded="noise"'])
    assert configured(NAME, ["embedded=noise"]).embedded == "noise"


def test_vgg_has_torchvisions_layout_and_sees_differences(vgg_state):
    net = vgg19({**vgg_state, "classifier.0.weight": torch.zeros(1)})
    assert [k for k in vgg_state if k.endswith("weight")][-1] == "features.34.weight"
    assert sum(v.numel() for v in vgg_state.values()) == 20_024_384
    x = torch.rand(1, 3, 64, 64, generator=stream(0)) * 2 - 1
    with torch.no_grad():
        found = net(x)
        torch.testing.assert_close(
            found,
            torch.nn.functional.max_pool2d(
                net.features[:-1](((x + 1) / 2 - net.mean) / net.std), 2
            ),
        )
        assert found.shape == (1, 512, 2, 2)
        assert not torch.equal(found, net(-x))
    with pytest.raises(OptionError, match="32 px"):
        net(x[..., :16])


def test_all_five_losses_from_files(photos, lpips_files, vgg_state, tmp_path):
    save_file(vgg_state, tmp_path / "vgg19.safetensors")
    teachers = [EN, *lpips_files, f"vgg19={tmp_path / 'vgg19.safetensors'}"]
    _, task = job(photos, SMALL, teachers, perc=1, near=0.5, far=0.25)
    loss, parts = task.loss(task.model, 0)
    assert list(parts) == ["rec", "perc", "lpips", "near", "far"]
    weighed = sum(parts[k] * w for k, w in zip(parts, (1, 1, 1, 0.5, 0.25), strict=True))
    assert loss.item() == pytest.approx(weighed, rel=1e-5)
    batch = task._batch(torch.arange(2), stream(0), plain=True)
    same = task.terms(batch.cover, batch.cover.new_ones(2, 256), batch.cover, batch.points)
    assert same["rec"] == same["perc"] == same["lpips"] == 0
    assert same["far"] == pytest.approx(1, abs=1e-5)
    assert task.metadata()["lpips_on"] == "squeeze"


def test_near_falls_towards_the_other_and_far_away_from_oneself(photos):
    """D on the way from C to E, with the landmarks on the way, too."""
    _, task = job(photos)
    batch = task._batch(task.training[:3], stream(1), plain=True)
    wanted = task.extractor.embed(batch.other, batch.other_points)
    way = []
    for share in (0, 0.5, 1):
        made = batch.cover + share * (batch.other - batch.cover)
        points = batch.points + share * (batch.other_points - batch.points)
        terms = _floats(task.terms(batch.cover, wanted, made, points))
        cosines = (wanted * task.extractor.embed(made, points)).sum(1)
        assert terms["near"] == pytest.approx(1 - cosines.mean().item(), abs=1e-5)
        way.append(terms | {"far": task.terms(batch.cover, wanted, made, batch.points)["far"]})
    here, between, there = way
    assert here["near"] > between["near"] > there["near"]
    assert there["near"] == pytest.approx(0, abs=1e-4)
    assert here["far"] == pytest.approx(1, abs=1e-4)
    assert there["far"] < 0.8
    assert here["rec"] == 0
    assert there["rec"] == pytest.approx(4 * between["rec"], rel=1e-3)
    squares = (batch.other - batch.cover).square().mean().item()
    assert there["rec"] == pytest.approx(squares, rel=1e-4)


def _floats(terms):
    return {k: v.item() for k, v in terms.items()}


def test_a_weight_of_nothing_removes_the_loss(photos):
    _, only_near = job(photos, near=0.3, far=0)
    _, only_far = job(photos, near=0, far=0.3)
    assert set(only_near.loss(only_near.model, 0)[1]) == {"rec", "near"}
    assert set(only_far.loss(only_far.model, 0)[1]) == {"rec", "far"}
    loss, parts = only_far.loss(only_far.model, 0)
    assert loss.item() == pytest.approx(parts["rec"] + 0.3 * parts["far"], rel=1e-5)


def test_gradients_reach_the_whole_network_and_nothing_else(photos, lpips_files):
    _, task = job(photos, SMALL, [EN, *lpips_files])
    task.loss(task.model, 0)[0].backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters() if p.ndim > 1
    )
    assert all(p.grad is None for p in task.extractor.net.parameters())
    assert all(p.grad is None for p in task.distance.parameters())


def test_the_network_is_the_papers_with_the_recognisers_length(photos):
    _, task = job(photos)
    assert task.model.config == HidingConfig(width=0.125, identity=256)
    assert task.metadata()["extractor"] == "facedeid-mobile"
    _, dlib = job(photos, teachers=["recognizer=dlib"])
    assert dlib.model.config.identity == 128


def test_the_network_gets_features_of_unit_variance(photos):
    _, task = job(photos)
    seen = []
    task._hidden(
        lambda cover, feature: seen.append(feature) or cover,
        task._batch(torch.arange(4), stream(0)),
    )
    assert seen[0].square().mean(1) == pytest.approx(1, abs=1e-5)


def test_noise_is_noise(photos):
    _, task = job(photos, embedded="noise", near=0.26, far=0)
    one = task._batch(torch.arange(4), stream(1)).other
    two = task._batch(torch.arange(4), stream(2)).other
    assert one.shape == (4, 3, 64, 64)
    assert abs(one.mean()) < 0.02
    assert one.std() == pytest.approx(1, abs=0.02)
    neighbours = torch.corrcoef(torch.stack([one[..., 1:].flatten(), one[..., :-1].flatten()]))
    assert abs(neighbours[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]) < 0.02
    assert torch.isfinite(task.loss(task.model, 0)[0])


def test_faces_are_of_somebody_else_and_for_training(photos):
    _, task = job(photos)
    people = task.people[task.training]
    drawn = task.embedded.draw(people.repeat(20), stream(0))
    assert (task.people[drawn] != people.repeat(20)).all()
    assert set(drawn.tolist()) == set(task.training.tolist())
    pictures = Pictures(torch.zeros(6, 1), None, torch.tensor([0, 2, 4]), torch.tensor([7, 7, 8]))
    assert pictures.draw(torch.tensor([7] * 9), stream(0)).tolist() == [4] * 9


def test_every_cover_once_an_epoch(photos):
    _, task = job(photos, batch=3)
    count = len(task.training)
    drawn = torch.cat([task._covers(step) for step in range(count)])  # three times all
    for turn in drawn.split(count):
        assert sorted(turn.tolist()) == sorted(task.training.tolist())
    assert drawn[:count].tolist() != drawn[count : 2 * count].tolist()
    assert torch.equal(task._covers(2), drawn[6:9])


def test_mirrored_covers_keep_their_landmarks(photos):
    _, task = job(photos)
    rows = task.training[:1].repeat(16)
    plain = task._batch(rows[:1], stream(0), plain=True)
    batch = task._batch(rows, stream(0))
    flipped = [i for i in range(16) if not torch.equal(batch.cover[i], plain.cover[0])]
    assert 2 < len(flipped) < 14
    for i in flipped:
        assert torch.equal(batch.cover[i], plain.cover[0].flip(-1))
        mirrored = 63 - plain.points[0, :, 0]
        assert batch.points[i, 36, 0] == mirrored[45]
        assert batch.points[i, 8, 0] == mirrored[8]


def test_generated_faces_and_objects_come_from_their_own_folder(photos, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "things").mkdir()
    for i, level in enumerate((10, 200)):
        Image.new("RGB", (96, 96), (level,) * 3).save(tmp_path / f"made/{i}.png")
        Image.new("L", (120, 70), level).save(tmp_path / f"things/{i}.jpg")
    levels = {round(v, 3) for v in (10 / 127.5 - 1, 200 / 127.5 - 1)}
    for kind, folder in (("generated", "made"), ("object", "things")):
        _, task = job(photos, teachers=[EN, f"{kind}={tmp_path / folder}"], embedded=kind)
        other = task._batch(torch.arange(16), stream(0)).other
        assert {round(v, 3) for v in other[:, 0, 0, 0].tolist()} == levels
        assert task.embedded.images.shape == (2, 3, 64, 64)
        assert torch.isfinite(task.loss(task.model, 0)[0])


def test_plateau():
    plateau = Plateau(patience=3, decay=0.2)
    assert plateau.saw(1.0)
    assert [plateau.saw(x) for x in (1.0, 1.5, 0.9, 0.95, 0.9)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert plateau.factor == 1
    assert not plateau.saw(2.0)
    assert plateau.factor == pytest.approx(0.2)
    assert [plateau.saw(2.0) for _ in range(3)] == [False] * 3
    assert plateau.factor == pytest.approx(0.04)
    assert (plateau.best, plateau.epochs) == (0.9, 10)


def test_learns_validates_and_exports_the_best_epoch(photos, tmp_path, monkeypatch):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.8])
    validated = HanawaTask._validated
    weights = []

    def scripted(self, model, rows, **options):
        figures = validated(self, model, rows, **options)
        if options:
            return figures
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return figures | {"loss": next(losses)}

    monkeypatch.setattr(HanawaTask, "_validated", scripted)
    outcome, task = run(photos, tmp_path, epochs=5, patience=2, lr=0.002)
    assert outcome.finished
    assert outcome.step == 10
    log = logged(tmp_path)
    steps = [line for line in log if "rate" in line]
    assert [line["rate"] for line in steps] == pytest.approx([0.002] * 8 + [0.0004] * 2)
    epochs = [line for line in log if "epoch" in line]
    assert [line["rate factor"] for line in epochs] == [1, 1, 1, 0.2, 0.2]
    assert log[-1]["best validation loss"] == 0.4
    assert {"loss", "rec", "near", "far", "ssim"} <= log[-1].keys()
    found = load_file(tmp_path / f"{NAME}.safetensors")
    assert all(torch.equal(v, weights[1][k].half()) for k, v in found.items())
    assert any(not torch.equal(v, weights[4][k].half()) for k, v in found.items())
    load_official(HidingNet(HidingConfig(width=0.125, identity=256)), found)
    with safe_open(tmp_path / f"{NAME}.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facedeid"])
    assert (facts["extractor"], facts["embedded"]) == ("facedeid-mobile", "face")
    assert task.grid().shape == (3, 4 * 64, 64 * min(8, len(task.validation)))


def test_training_lowers_the_loss(photos, tmp_path):
    _, task = run(photos, tmp_path, photos=20, epochs=1, rec=4, lr=0.004)
    _, untrained = job(photos, rec=4)
    with torch.no_grad():
        before, after = (
            sum(t.loss(t.model, step)[0].item() for step in range(100, 104))
            for t in (untrained, task)
        )
    assert after < 0.7 * before


def test_resumes_as_if_never_interrupted(photos, tmp_path):
    """Cut within an epoch and at the end of one, after the rate has fallen."""
    settings = {"photos": 6, "patience": 1, "lr": 0.05, "epochs": 3}
    run(photos, tmp_path / "whole", **settings)
    for stop in (4, 6):

        class Stopped(HanawaTask):
            def loss(self, model, step, stop=stop):
                if step == stop:
                    raise KeyboardInterrupt
                return super().loss(model, step)

            def evaluate(self, model):
                return {}

            def grid(self):
                return torch.zeros(3, 1, 1, dtype=torch.uint8)

        recipe, task = job(photos, **settings)
        task.__class__ = Stopped
        options = Options(out=tmp_path / "parts", seed=3, log_every=1, save_every=-1)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, task, options, say=lambda _: None)
    run(photos, tmp_path / "parts", **settings)
    one, two = (torch.load(tmp_path / d / "state.pt") for d in ("whole", "parts"))
    assert one["task"]["plateau"] == two["task"]["plateau"]
    assert one["task"]["plateau"]["epochs"] == 3
    assert one["task"]["plateau"]["factor"] < 1
    for key in ("model", "average"):
        assert all(torch.equal(v, two[key][k]) for k, v in one[key].items())
    one, two = (load_file(tmp_path / d / f"{NAME}.safetensors") for d in ("whole", "parts"))
    assert all(torch.equal(v, two[k]) for k, v in one.items())


def test_more_epochs_go_on(photos, tmp_path):
    run(photos, tmp_path, epochs=1)
    outcome, task = run(photos, tmp_path, epochs=2)
    assert outcome.step == 4
    assert task.plateau.epochs == 2
    with pytest.raises(TrainingError, match="had extractor facedeid-mobile, now it is dlib"):
        run(photos, tmp_path, epochs=3, teachers=["recognizer=dlib"])


def test_objects_are_seen_upright_and_damaged_ones_named(photos, tmp_path):
    turned, rows = Image.Exif(), np.linspace(0, 255, 64).astype(np.uint8)[:, None].repeat(64, 1)
    turned[0x112] = 6
    Image.fromarray(rows).save(tmp_path / "a.jpg", exif=turned, quality=98)
    (tmp_path / "._a.jpg").write_bytes(b"no picture")
    teachers = [EN, f"object={tmp_path}"]
    _, task = job(photos, teachers=teachers, embedded="object")
    assert np.abs(task.embedded.images[0, 0].numpy() - np.rot90(rows, -1).astype(int)).max() < 5
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"--teacher object=.*b\.jpg"):
        job(photos, teachers=teachers, embedded="object")


@pytest.mark.parametrize(
    ("teachers", "settings", "message"),
    [
        ([], [], r"--teacher recognizer=NAME.*iresnet-50"),
        ([EN, EN], [], "one network"),
        (["facedeid-mobile"], [], "write recognizer=NAME"),
        (["recognizer=nobody"], [], "no recogniser is called 'nobody'"),
        ([EN], ["embedded=cat"], "use face, generated, noise, object"),
        ([EN], ["embedded=object"], "object=FOLDER"),
        ([EN, "generated=faces"], [], "of no use without --set embedded=generated"),
        ([EN, "object=none"], ["embedded=object"], "no such folder"),
        ([EN, "vgg19=none.pth"], ["perc=1"], r"none\.pth cannot be read"),
        ([EN, "lpips=none.pth"], ["lpips=1"], r"none\.pth cannot be read"),
        ([EN], ["near=0", "far=0"], "nothing would hide"),
        ([EN], ["rec=-1.0"], "rec=-1.0: a weight"),
        ([EN], ["batch=0"], "batch=0: 1 at least"),
        ([EN], ["width=0.05"], r"width=0\.05: 0\.1 at least"),
    ],
)
def test_says_what_is_missing_or_wrong(photos, teachers, settings, message):
    with pytest.raises(TrainingError, match=message):
        job(photos, [*NO_LPIPS, *settings], teachers)


def test_says_how_to_get_the_networks_of_the_losses(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path))
    with pytest.raises(TrainingError, match="facedeid models download vgg19"):
        job(photos, NO_LPIPS, perc=1)
    with pytest.raises(TrainingError, match="facedeid models download lpips_vgg_backbone"):
        job(photos, NO_LPIPS, lpips=1)


def test_needs_two_people_and_some_held_out(photos, tmp_path):
    recipe, faces = configured(NAME, NO_LPIPS), load_faces([photos], size=64)
    held_out = next(str(i) for i in range(100) if is_held_out(str(i)))
    for keys, message in (
        (("a",) * 15 + (held_out,), "two people"),
        (("a", "b") * 8, "none of the 16 photos is held out"),
        ((held_out,) * 16, "none of the 16 photos is for training"),
    ):
        with pytest.raises(TrainingError, match=message):
            recipe.task(Faces(faces.images, faces.landmarks, keys), [EN], tmp_path, CPU, 0)


def test_dry_run_of_the_command(photos, lpips_files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["width=0.125", "perc=0", "embedded=noise", "near=0.26", "far=0"]
    options = [part for s in settings for part in ("--set", s)]
    options += [part for t in (EN, *lpips_files) for part in ("--teacher", t)]
    with pytest.raises(SystemExit) as stop:
        main(["train", NAME, "--data", str(photos), *options, "--dry-run"])
    assert stop.value.code == 0
    assert "s a step with batch=2, validation=2; for the time" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_with_the_same_teachers_only(photos, lpips_files, tmp_path, capsys):
    """Another file of the same name is another teacher; the same one elsewhere is not."""
    settings = ["width=0.125", "perc=0", "embedded=noise", "near=0.26", "far=0"]
    settings += ["batch=2", "photos=4", "validation=2", "epochs=1"]

    def run(folder, *more):
        files = [f"lpips={folder / Path(t.partition('=')[2]).name}" for t in lpips_files]
        options = [part for s in (*settings, *more) for part in ("--set", s)]
        options += [part for t in (EN, *files) for part in ("--teacher", t)]
        with pytest.raises(SystemExit) as stop:
            main(["train", NAME, "--data", str(photos), *options, "-o", str(tmp_path / "run")])
        return stop.value.code

    before = Path(lpips_files[0].partition("=")[2]).parent
    assert run(before) == 0
    shutil.copytree(before, tmp_path / "same")
    assert run(tmp_path / "same", "epochs=2") == 0
    shutil.copytree(before, tmp_path / "other")
    changed = tmp_path / "other" / Path(lpips_files[0].partition("=")[2]).name
    save_file({k: v * 1.01 for k, v in load_file(changed).items()}, changed)
    capsys.readouterr()
    assert run(tmp_path / "other", "epochs=3") == 1
    assert "the run to go on with had teacher_files" in capsys.readouterr().err
