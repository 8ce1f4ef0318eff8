import json
import shutil
import subprocess
import sys

import pytest

from evaluation_photos import make
from facedeid._cli_evaluate import _Bars, _command
from facedeid.cli import main
from facedeid.errors import OptionError


@pytest.fixture(scope="module")
def lfw(tmp_path_factory, astronaut, hopper):
    return make(tmp_path_factory.mktemp("data") / "lfw", {"Ann_A": astronaut, "Bea_B": hopper})


@pytest.fixture
def run(capsys, monkeypatch):
    """Exit code and what was printed on both streams."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = 0
        try:
            main(["evaluate", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_a_whole_evaluation_and_again(run, lfw, tmp_path):
    arguments = ("--data", f"lfw:{lfw}", "--methods", "mask,noise:sigma=5", "--limit", 4)
    arguments += ("--recognizers", "facedeid-mobile", "-o", tmp_path / "out", "--limit-ranked", 2)
    code, text = run(*arguments)
    assert code == 0, text
    assert "8 photos of 2 people, 12 genuine and 12 impostor pairs" in text
    assert "ASR" in text
    assert "Seconds per 1,000 photos" in text
    first = (tmp_path / "out" / "records.jsonl").read_text()
    assert len(first.splitlines()) == 1 + 4 * 3 * 2
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["genuine pairs"] == "4"
    assert str(lfw.parent) not in (tmp_path / "out" / "index.html").read_text()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _ = run(*arguments)
    assert code == 0
    assert (tmp_path / "out" / "records.jsonl").read_text() == first
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--data", "lfw:nowhere", "--methods", "mask"), 2, "does not exist"),
        (("--data", "{lfw}", "--methods", "nonsense"), 2, "nonsense"),
        (("--data", "{lfw}", "--methods", "mask", "--recognizers", "nobody"), 2, "nobody"),
        (("--data", "{lfw}", "--methods", "mask", "--attackers", "x"), 2, "parrot"),
        (("--data", "{lfw}", "--methods", "mask", "--realism", "x"), 2, "no features are called"),
        (("--data", "{lfw}", "--methods", "mask", "--detector", "x"), 2, "unknown detector"),
        (("--data", "{lfw}"), 2, "--methods"),
        (("--data", "{lfw}", "--methods", "mask", "--seed", "-1"), 2, "seed must be 0"),
        (("--data", "~nosuchuser/x", "--methods", "mask"), 2, "home folder"),
        (("--data", "{lfw}", "--methods", "mask", "--lpips", "{lfw}/pairs.txt"), 1, "pairs.txt"),
    ],
)
def test_mistakes_are_explained(run, lfw, tmp_path, arguments, code, reason):
    filled = [word.format(lfw=lfw) for word in arguments]
    found, text = run(*filled, "-o", tmp_path / "out")
    assert found == code
    assert reason in text


def test_an_output_that_belongs_to_somebody_else(run, lfw, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    code, text = run("--data", lfw, "--methods", "mask", "-o", tmp_path)
    assert code == 1
    assert "choose another folder" in text
    assert (tmp_path / "index.html").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_own_pictures_are_no_data(run, lfw, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    for name in ("mine.jpg", "out/plots/grid.jpg", "out/cache/x.jpg", "kept/y.jpg", "out/mine.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", folder / name)
    (folder / "out" / "evaluation.json").write_text("{}")

    def told(dataset, *_, **__):
        raise OptionError(" ".join(dataset.keys))

    monkeypatch.setattr("facedeid.evaluation.run.evaluate", told)
    monkeypatch.chdir(folder)
    arguments = ("--methods", "mask", "-o", "out")
    for data in (".", "photos:.", f"photos:{folder}"):
        _, text = run("--data", data, *arguments, "--cache", "kept")
        assert "error: mine.jpg out/mine.jpg\n" in text
    _, text = run("--data", "photos:out/cache", *arguments)
    assert "choose another folder with -o or --cache" in text


def test_missing_photos_are_named(run, lfw, tmp_path):
    copy = shutil.copytree(lfw, tmp_path / "lfw")
    (copy / "Bea_B" / "Bea_B_0001.jpg").unlink()
    code, text = run("--data", f"lfw:{copy}", "--methods", "mask", "-o", tmp_path / "out")
    assert code == 2
    assert "Bea_B/Bea_B_0001.jpg" in text
    assert not (tmp_path / "out").exists()


def test_help_comes_without_networks():
    code = (
        "import sys; from facedeid.cli import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "--robustness" in text


def test_a_stage_is_named_as_it_is():
    bars = _Bars()
    bars.begin("releases [of] mask:car:")
    bar = bars._bar
    assert bar.columns[0](bar.tasks[0]).plain == "releases [of] mask:car:"


def test_the_command_is_told_without_folders():
    words = ["/bin/facedeid", "evaluate", "--data", "lfw:/home/me/lfw", "--lpips=/a/b.safetensors"]
    words += ["--recognizers", "dlib,onnx:../w/m.onnx?mean=0&std=1", "--methods", "blur:sigma=0.1"]
    told = _command(words)
    assert told == (
        "facedeid evaluate --data lfw:lfw --lpips=b.safetensors --recognizers "
        "'dlib,onnx:m.onnx?mean=0&std=1' --methods blur:sigma=0.1"
    )
    assert "pytest" not in _command(["/bin/pytest", "tests"])
