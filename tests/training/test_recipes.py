import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from facedeid.cli import main
from facedeid.errors import TrainingError
from facedeid.models import Models
from facedeid.nets.lpips import Lpips, lpips
from facedeid.random import stream
from facedeid.training.data import Faces, is_held_out, load_faces
from facedeid.training.distortions import FAMILIES, Distortions
from facedeid.training.loop import Options, Outcome, train
from facedeid.training.perceptual import _rank_correlation, inherited
from facedeid.training.recipes import RECIPES, configured
from facedeid.training.recognizer import _joined, _principal, load_teacher

CPU = torch.device("cpu")
RECOGNIZER = (
    "steps=16",
    "batch=12",
    "dim=16",
    "stem=8",
    "widths=[8,16,16,16]",
    "depths=[1,1,1,1]",
    "shard=24",
    "shards_first=2",
    "shards_last=3",
    "grow_every=6",
    "warmup=2",
)
PERCEPTUAL = ("steps=14", "batch=10", "crop=64", "bank=4", "warmup=1", "lr=0.0005")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """LPIPS on a random AlexNet, as the two files of the authors."""
    torch.manual_seed(5)
    net = Lpips("alex")
    for key, parameter in net.named_parameters():
        if key.startswith("features") and parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    state = net.state_dict()
    folder = tmp_path_factory.mktemp("lpips")
    heads = {k: 8 * v.abs() for k, v in state.items() if k.startswith("lin")}
    save_file({k: v for k, v in state.items() if k not in heads}, folder / "features.safetensors")
    save_file(heads, folder / "heads.safetensors")
    return [str(folder / "features.safetensors"), str(folder / "heads.safetensors")]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def run(recipe, photos, teachers, out, **options):
    faces = load_faces([photos], size=96)
    task = recipe.task(faces, teachers, out, CPU, 3)
    settings = Options(out=out, seed=3, log_every=1, **options)
    return train(recipe, task, settings, say=lambda _: None), task


def before_and_after(recipe, photos, teachers, task, out):
    """Loss on steps that were not trained on: untrained, and trained."""
    untrained = recipe.task(load_faces([photos], size=96), teachers, out, CPU, 3)
    with torch.no_grad():
        return (
            sum(t.loss(t.model, step)[0].item() for step in range(100, 106))
            for t in (untrained, task)
        )


@pytest.mark.slow
def test_recognizer_learns_from_dlib(photos, tmp_path):
    recipe = configured("recognizer", [*RECOGNIZER, "steps=30"])
    outcome, task = run(recipe, photos, ["dlib"], tmp_path)
    before, after = before_and_after(recipe, photos, ["dlib"], task, tmp_path)
    assert after < 0.85 * before
    assert outcome.figures.keys() == {"cosine", "correlation"}
    assert len(list((tmp_path / "pool").iterdir())) == 3
    with safe_open(tmp_path / "recognizer.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facedeid"])
    assert facts["teachers"] == ["dlib"]
    assert facts["step"] == 30
    assert task.grid().shape == (3, 224, 8 * 112)


@pytest.mark.slow
def test_recognizer_resumes_as_if_never_interrupted(photos, tmp_path):
    recipe = configured("recognizer", RECOGNIZER)
    whole, _ = run(recipe, photos, ["dlib"], tmp_path / "whole")
    half = configured("recognizer", [*RECOGNIZER, "steps=8", "decay_from=1"])
    flat = configured("recognizer", [*RECOGNIZER, "decay_from=1"])
    run(half, photos, ["dlib"], tmp_path / "parts")
    run(flat, photos, ["dlib"], tmp_path / "parts")
    run(flat, photos, ["dlib"], tmp_path / "flat")
    one, two = (load_file(tmp_path / d / "recognizer.safetensors") for d in ("flat", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert whole.finished


def test_pool_of_another_recipe_is_refused(photos, tmp_path):
    run(configured("recognizer", [*RECOGNIZER, "steps=1"]), photos, ["dlib"], tmp_path)
    (tmp_path / "state.pt").unlink()
    with pytest.raises(TrainingError, match="of another recipe"):
        run(configured("recognizer", [*RECOGNIZER, "shard=8"]), photos, ["dlib"], tmp_path)
    recipe, faces = (
        configured("recognizer", [*RECOGNIZER, "steps=1"]),
        load_faces([photos], size=96),
    )
    lighter = replace(faces, images=faces.images.clamp_min(90))
    for data, seed, changes, pools in (
        (faces, 3, {}, True),
        (faces, 4, {}, False),
        (lighter, 3, {}, False),
        (faces, 3, {"real": 0.9}, False),
    ):
        task = replace(recipe, **changes).task(data, ["dlib"], tmp_path, CPU, seed)
        if pools:
            task.loss(task.model, 0)
            continue
        with pytest.raises(TrainingError, match=r"or of other photos; remove .*pool and start"):
            task.loss(task.model, 0)
    file = tmp_path / "pool/00000.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrainingError, match="is damaged"):
        run(recipe, photos, ["dlib"], tmp_path)


def test_a_recognizer_of_few_people_has_the_figures_that_can_be_had(photos, tmp_path):
    recipe, faces = (
        configured("recognizer", [*RECOGNIZER, "steps=1"]),
        load_faces([photos], size=96),
    )
    held = next(str(i) for i in range(100) if is_held_out(str(i)))
    few = Faces(faces.images[:3], faces.landmarks[:3], ("a", "b", held))
    task = recipe.task(few, ["dlib"], tmp_path, CPU, 3)
    outcome = train(recipe, task, Options(out=tmp_path, seed=3), say=lambda _: None)
    assert outcome.figures.keys() == {"cosine"}
    one = Faces(faces.images[:1], faces.landmarks[:1], ("a",))
    with pytest.raises(TrainingError, match="two are needed"):
        recipe.task(one, ["dlib"], tmp_path, CPU, 3)


@pytest.mark.slow
def test_teachers_can_come_as_safetensors(photos, tmp_path):
    from facedeid.models import RECOGNIZERS

    save_file(RECOGNIZERS["dlib"].build().state_dict(), tmp_path / "dlib.safetensors")
    recipe = configured("recognizer", [*RECOGNIZER, "steps=1"])
    run(recipe, photos, [str(tmp_path / "dlib.safetensors")], tmp_path / "a")
    run(recipe, photos, ["dlib"], tmp_path / "b")
    one, two = (load_file(tmp_path / d / "recognizer.safetensors") for d in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("name", ["damaged.safetensors", "foreign.safetensors", "text.pth"])
def test_teachers_that_are_none(name, tmp_path):
    path = tmp_path / name
    if name.startswith("foreign"):
        save_file({"stem.weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(b"\x10" + 7 * b"\0" + b"{" if "damaged" in name else b"not a network")
    with pytest.raises(TrainingError, match=f"--teacher .*{name}: "):
        load_teacher(str(path), CPU)


def test_targets_keep_the_teachers_cosines():
    parts = [torch.randn(200, 6) + 3, torch.randn(200, 9) - 1]
    centres, rotation = _principal(parts, 15)
    joined = _joined(parts, centres)
    turned = joined @ rotation
    torch.testing.assert_close(turned @ turned.T, joined @ joined.T, atol=1e-4, rtol=0)
    units = [torch.nn.functional.normalize(p - p.mean(0)) for p in parts]
    mean = (units[0] @ units[0].T + units[1] @ units[1].T) / 2
    torch.testing.assert_close(joined @ joined.T, mean, atol=1e-5, rtol=0)
    with pytest.raises(TrainingError, match="more than"):
        _principal(parts, 16)


@pytest.mark.slow
def test_perceptual_learns_from_lpips(photos, teacher, tmp_path):
    recipe = configured("perceptual", PERCEPTUAL)
    outcome, task = run(recipe, photos, teacher, tmp_path)
    before, after = before_and_after(recipe, photos, teacher, task, tmp_path)
    assert after < 0.8 * before
    assert set(outcome.figures) == {"mixed", *FAMILIES}
    assert lpips({k: v.float() for k, v in load_file(tmp_path / "perceptual.safetensors").items()})
    assert task.grid().shape == (3, 128, 640)


def test_student_shares_the_first_two_depths():
    torch.manual_seed(1)
    net = Lpips("alex").eval()
    for i in range(5):
        net.get_submodule(f"lin{i}").get_parameter("model.1.weight").data.abs_()
    student = inherited(net).eval()
    a, b = torch.rand(2, 1, 3, 64, 64, generator=stream(0)) * 2 - 1
    one, two = net(a, b, by_depth=True), student(a, b, by_depth=True)
    torch.testing.assert_close(one[:2], two[:2])
    assert not torch.isclose(one[2:], two[2:]).any()


def test_families_distort_more_or_less_and_follow_the_seed(photos):
    faces = load_faces([photos], size=96)
    distortions = Distortions(faces, Models().recognizer("dlib").embed, bank=4)
    images = faces.images.float()
    for family in FAMILIES:
        changed = distortions.apply(family, images, faces.landmarks, stream(1, family))
        again = distortions.apply(family, images, faces.landmarks, stream(1, family))
        assert torch.equal(changed, again), family
        assert changed.shape == images.shape
        assert torch.equal(changed, changed.round().clamp(0, 255))
        strength = (changed - images).abs().mean((1, 2, 3))
        assert strength.max() > 1, family
        assert strength.max() > 2 * strength.min(), family
        small = distortions.apply(family, images[..., :64, :64], faces.landmarks, stream(1, family))
        assert small.shape == (16, 3, 64, 64)


def test_residues_move_the_recogniser_more_than_noise(photos):
    faces = load_faces([photos], size=96)
    embed = Models().recognizer("dlib").embed
    residues = Distortions(faces, embed, bank=4)._residues.float()
    assert residues.abs().max() == 127
    clean = faces.images[:16:4].float() / 127.5 - 1
    noise = torch.randn(residues.shape, generator=stream(0)).sign()
    moved = []
    for change in (residues / 127, noise):
        after = embed((clean + 0.04 * change).clamp(-1, 1), faces.landmarks[:16:4])
        moved.append((after - embed(clean, faces.landmarks[:16:4])).norm(dim=1).mean().item())
    assert moved[0] > 2 * moved[1]


def test_rank_correlation_is_spearmans():
    both = torch.randn(2, 40, generator=stream(0))
    assert _rank_correlation(both) == pytest.approx(spearmanr(*both.numpy()).statistic)


def test_settings():
    recipe = configured("recognizer", ["lr=1", "widths=[8, 8]"])
    assert recipe.lr == 1.0
    assert recipe.widths == (8, 8)
    assert configured("perceptual") == RECIPES["perceptual"]()


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("stylegan", None, "recognizer, perceptual"),
        ("recognizer", "speed=3", "recognizer has batch"),
        ("recognizer", "lr", "name=value"),
        ("recognizer", "lr=fast", "not a number"),
        ("recognizer", "batch=2.5", "expected int"),
        ("recognizer", "batch=0", "batch=0: 1 at least"),
        ("recognizer", "steps=-3", "steps=-3: 1 at least"),
        ("recognizer", "lr=-1", "lr=-1: 0 at least"),
        ("recognizer", "lr=NaN", "not a finite number"),
        ("recognizer", "ema=1.5", r"ema=1\.5: 0 at least, 1 at most"),
        ("recognizer", "weight_decay=-1", "weight_decay=-1: 0 at least"),
        ("recognizer", "decay_from=-1", "decay_from=-1: 0 at least, 1 at most"),
        ("recognizer", "warmup=-1", "warmup=-1: 0 at least"),
        ("recognizer", "real=2", "real=2: 0 at least, 1 at most"),
        ("generator", "mixing=-1", "mixing=-1: 0 at least, 1 at most"),
        ("generator", "r1=-1", "r1=-1: 0 at least"),
        ("autoencoder", "flat=-0.5", r"flat=-0\.5: 0 at least, 1 at most"),
        ("recognizer", "grow_every=0", "grow_every=0: 1 at least"),
        ("recognizer", "shard=0", "shard=0: 1 at least"),
        ("perceptual", "crop=300", "crop=300: 32 at least, 256 at most"),
        ("perceptual", "bank=0", "bank=0: 1 at least"),
        ("landmarks", "changed=0", "changed=0: 1 at least"),
        ("generator", "horizon=0", "horizon=0: 1 at least"),
        ("feature-embedding", "together=0", "together=0: 1 at least"),
        ("feature-embedding", "levels=20", "levels=20: 2 at least, 7 at most"),
        ("identity-dp-paper", "scales=0", "scales=0: 1 at least, 8 at most"),
        ("identity-dp-paper", "scales=12", "8 at most"),
        ("feature-embedding-paper", "ema=0.9", "feature-embedding-paper has batch"),
        ("private-encoder", "beta=2", "beta=2: 1 at most"),
        ("encoder", "adversarial=1", "encoder has batch"),
        ("joint", "flat=0.5", "joint has adversarial, adversary_from, batch"),
        ("private-encoder-paper", "continued=true", "private-encoder-paper has adversarial"),
        ("recognizer", 'widths=["a"]', "expected a list of int"),
        ("feature-embedding", "guides=[1]", "expected a list of str"),
        ("identity-dp", "shares=[1, true, 0, 0, 0]", "expected a list of float"),
    ],
)
def test_refuses_other_settings(name, setting, message):
    with pytest.raises(TrainingError, match=message):
        configured(name, [setting] if setting else [])


@pytest.mark.parametrize(
    "name", ["recognizer", "perceptual", "feature-embedding-paper", "identity-dp-paper"]
)
def test_says_which_teacher_is_missing(name, photos, tmp_path):
    faces = load_faces([photos], size=96)
    recipe = configured(name)
    with pytest.raises(TrainingError, match="--teacher"):
        recipe.task(faces, [], tmp_path, CPU, 0)
    with pytest.raises(TrainingError, match=r"none\.onnx"):
        recipe.task(faces, [str(tmp_path / "none.onnx")], tmp_path, CPU, 0)


@pytest.mark.parametrize("setting", ["widths=[]", "depths=[1,1]", "widths=[8,16,16,0]"])
def test_levels_of_a_recognizer_that_make_no_sense(setting, photos, tmp_path):
    recipe = configured("recognizer", [*RECOGNIZER, setting])
    with pytest.raises(TrainingError, match="widths and depths"):
        recipe.task(load_faces([photos], size=96), ["dlib"], tmp_path, CPU, 0)


@pytest.mark.parametrize("limit", [100, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_full_disk_is_told_in_one_line(limit, photos, tmp_path):
    """Files of no more than so many bytes: first the options are too large, then the pool."""
    settings = [part for s in (*RECOGNIZER, "steps=1") for part in ("--set", s)]
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from facedeid.cli import main; main()"
    )
    out = tmp_path / "run"
    base = ["train", "recognizer", "--data", photos, "--teacher", "dlib", *settings, "-o", out]
    done = subprocess.run([sys.executable, "-c", code, *base], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("; run again to go on\n")
    assert done.stderr.startswith(f"error: {out}: ")
    assert not list(out.rglob("*.part"))


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0


def test_command_line(photos, tmp_path, capsys):
    settings = [part for s in RECOGNIZER for part in ("--set", s)]
    base = ["train", "recognizer", "--data", str(photos), "--teacher", "dlib", *settings]
    command(*base, "-o", str(tmp_path / "run"), "--set", "steps=2")
    assert "step 2, finished" in capsys.readouterr().out
    assert (tmp_path / "run/recognizer.safetensors").exists()


def test_dry_run_of_the_command_writes_nothing(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [part for s in RECOGNIZER for part in ("--set", s)]
    data = ["--data", str(photos), "--teacher", "dlib"]
    command("train", "recognizer", *data, *settings, "--dry-run")
    told = capsys.readouterr().out
    assert "minutes for 16 steps" in told
    assert '"shard": 24' in told
    assert list(tmp_path.iterdir()) == []


def test_dry_run_tells_no_total_where_it_is_smaller_than_the_run(photos, tmp_path, capsys):
    settings = [part for s in RECOGNIZER[:7] for part in ("--set", s)]
    data = ["--data", str(photos), "--teacher", "dlib"]
    command("train", "recognizer", *data, *settings, "--dry-run")
    told = capsys.readouterr().out
    assert "minutes" not in told
    assert "s a step with shards_first=5, shards_last=5;" in told
    assert "--set shards_first=8 --set shards_last=64" in told


def test_the_budget_of_the_command_counts_the_reading_of_photos(photos, tmp_path, monkeypatch):
    read, given = [], []

    def reading(*sources, **how):
        read.append(time.monotonic())
        return load_faces(*sources, **how)

    def begun(recipe, task, options, *, say):
        given.append(options)
        return Outcome(step=1, finished=False, seconds_per_step=0, figures={})

    monkeypatch.setattr("facedeid.training.data.load_faces", reading)
    monkeypatch.setattr("facedeid.training.loop.train", begun)
    monkeypatch.setattr(RECIPES["recognizer"], "task", lambda *job: None)
    data = ["--data", str(photos), "-o", str(tmp_path / "run")]
    command("train", "recognizer", *data, "--budget", "8m")
    assert given[0].budget == 480
    assert given[0].begun < read[0]


@pytest.mark.parametrize("output", [[], ["-o", "run"], ["-o", "."]])
def test_output_within_the_data(output, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(photos.iterdir()), tmp_path)
    before = list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["train", "recognizer", "--data", ".", "--teacher", "dlib", *output])
    assert stop.value.code == 2
    assert "lies in --data .; choose another folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_that_cannot_be_a_folder(place, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    arguments = ["recognizer", "--data", str(photos), "--teacher", "none.onnx"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments, "-o", str(tmp_path / place)])
    assert stop.value.code == 1
    assert "name a folder that can be made" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recognizer"], 1, "no training data"),
        (["portrait"], 2, "no recipe is called"),
        (["recognizer", "--budget", "soon"], 2, "8m"),
        (["recognizer", "--seed", "-1"], 2, "--seed -1: give a whole number"),
        (["recognizer", "--seed", str(2**63)], 2, "from 0 to"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, code, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    assert stop.value.code == code
    assert message in capsys.readouterr().err


def test_training_does_not_import_what_gpu_machines_lack():
    code = (
        "import sys, facedeid._cli_train, facedeid.training.recipes, facedeid.training.loop;"
        "bad = {'dlib', 'face_recognition_models', 'onnx', 'onnxruntime'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
