"""The commands as a user types them."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

from facedeid import __version__
from facedeid._cli_console import console
from facedeid.cli import main
from facedeid.faces import detect


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code, and what was printed on both streams."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0) if not isinstance(stop.code, str) else 1
    captured = capsys.readouterr()
    return code, captured.out + captured.err


TURNED_BOX = [113, 133, 204, 224]
"""The astronaut's face, upside down: no detector finds it."""


@pytest.fixture
def album(tmp_path: Path, hopper_path: Path, astronaut: np.ndarray) -> Path:
    """Two portraits in different folders, a photo without a face, and a text."""
    folder = tmp_path / "album"
    (folder / "a b").mkdir(parents=True)
    shutil.copy(hopper_path, folder / "hopper.jpg")
    Image.fromarray(astronaut[:300, 60:380]).save(folder / "a b" / "ünï.png")
    Image.new("RGB", (120, 90), "teal").save(folder / "wall.png")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def test_version_help_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capsys=capsys) == (0, f"facedeid {__version__}\n")
    code, text = run("--help", capsys=capsys)
    assert code == 0
    assert "protect" in text
    code, text = run("methods", capsys=capsys)
    assert code == 0
    assert "pixelate" in text
    code, text = run("methods", "blur", capsys=capsys)
    assert "sigma = 0.2" in text
    code, text = run("methods", "emoji", capsys=capsys)
    assert code == 2
    assert "no method is called 'emoji'" in text


@pytest.mark.parametrize("command", ["", "train", "evaluate", "invert", "sensitivity", "budget"])
def test_help_offers_no_completion(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(*command.split(), "--help", capsys=capsys)
    assert code == 0
    assert "--help" in text
    assert "completion" not in text  # its script would name a function with a space


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--strength", "0.5", "-m", "blur"], "blur has no option 'strength'"),
        (["--strength", "3"], "strength must lie between 0 and 1"),
        (["--identity", "4", "--album"], "album and identity exclude each other"),
        (["--album", "-j", "2"], "an album is remembered by one process"),
    ],
)
def test_wishes_that_do_not_fit_the_method(
    words: list[str],
    complaint: str,
    hopper_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = run("protect", hopper_path, "-o", tmp_path / "out", *words, capsys=capsys)
    assert code == 2
    assert complaint in text
    assert not (tmp_path / "out").exists()


def test_the_dial_reaches_the_method(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--strength", "0.4", "--identity", "7", "--on-unprotected", "release"]
    run("protect", hopper_path, "-o", out, *words, capsys=capsys)
    lines = (out / "facedeid-report.jsonl").read_text().splitlines()
    photos = [json.loads(line) for line in lines if '"type": "photo"' in line]
    (face,) = photos[0]["faces"]
    assert "strength=0.4" in face["method"]
    assert face["facts"] == {"identity": 7}


def test_protect_an_album(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    originals = {p: p.read_bytes() for p in album.rglob("*") if p.is_file()}
    target = tmp_path / "out"
    code, text = run("protect", album, "-o", target, "--method", "pixelate", capsys=capsys)
    assert code == 4, text  # the wall has no face
    assert "2  protected" in text
    assert "no face was found" in text
    assert "1  files that are no photos" in text
    made = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert made == [
        "a b/ünï.png",
        "facedeid-report.html",
        "facedeid-report.jsonl",
        "facedeid-run.jsonl",
        "hopper.jpg",
    ]
    assert {p: p.read_bytes() for p in album.rglob("*") if p.is_file()} == originals
    lines = [json.loads(t) for t in (target / "facedeid-report.jsonl").read_text().splitlines()]
    assert [x["photo"] for x in lines if x.get("type") == "photo"] == [
        "a b/ünï.png",
        "hopper.jpg",
        "wall.png",
    ]
    assert str(album) not in (target / "facedeid-report.jsonl").read_text()
    code, text = run("protect", album, "-o", target, capsys=capsys)
    assert code == 1
    assert "there are results already" in text
    code, text = run("verify", album / "hopper.jpg", target / "hopper.jpg", capsys=capsys)
    assert code == 0, text
    assert "0 of 1 faces are still matched" in text


def test_verify_says_when_a_face_is_still_there(
    hopper_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run("verify", hopper_path, hopper_path, capsys=capsys)
    assert code == 3
    assert "1 of 1 faces are still matched" in text
    assert "dlib" in text


def test_an_unprotected_face_is_withheld(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = ("protect", hopper_path, "-o", tmp_path, "-m", "blur:sigma=0.001")
    code, text = run(*weak, capsys=capsys)
    assert code == 3
    assert "not released" in text
    assert "warning: blur with sigma 0.001 is light" in text
    assert not (tmp_path / "grace_hopper.jpg").exists()
    code, text = run(*weak, "--on-unprotected", "release", "--overwrite", capsys=capsys)
    assert code == 0
    assert "RELEASED although" in text
    assert (tmp_path / "grace_hopper.jpg").exists()


def test_a_plan_is_written_corrected_and_followed(
    album: Path, astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, target = tmp_path / "plan.json", tmp_path / "out"
    Image.fromarray(np.rot90(astronaut[:300, 60:380], 2)).save(album / "turned.png")
    command = ("protect", album, "-o", target, "-m", "mask", "--plan", plan)
    code, text = run(*command, capsys=capsys)
    assert code == 0
    assert "nothing has been protected yet" in text
    assert "no face found in wall.png" in text
    assert not target.exists()
    data = json.loads(plan.read_text())
    entries = {entry["photo"]: entry for entry in data["photos"]}
    assert entries["turned.png"]["faces"] == []
    entries["turned.png"]["faces"].append({"box": TURNED_BOX})
    entries["hopper.jpg"]["faces"][0]["protect"] = False
    plan.write_text(json.dumps(data))
    code, text = run(*command, capsys=capsys)
    assert code == 4, text
    assert "1  all faces to be kept: written anew, no face changed" in text
    kept = np.asarray(Image.open(target / "hopper.jpg")).astype(int)
    assert np.abs(kept - np.asarray(Image.open(album / "hopper.jpg"))).mean() < 2
    turned = np.asarray(Image.open(target / "turned.png"))
    left, top, right, bottom = TURNED_BOX
    assert turned[(top + bottom) // 2, (left + right) // 2].tolist() == [0, 0, 0]
    assert np.array_equal(turned[:20], np.asarray(Image.open(album / "turned.png"))[:20])
    # a photo whose boxes have been corrected since is done again, the others are not
    entries["hopper.jpg"]["faces"][0]["protect"] = True
    plan.write_text(json.dumps(data))
    code, text = run(*command, "--resume", capsys=capsys)
    assert "3 of 4 photos were finished" in text
    masked = np.asarray(Image.open(target / "hopper.jpg")).astype(int)
    assert np.abs(kept - masked).mean() > 10
    plan.write_text('{"schema": "facedeid.plan/1", "photos": [{"photo": "x", "faces": [{}]}]}')
    code, text = run(*command, "--overwrite", capsys=capsys)
    assert code == 2
    assert "entry 0 is not as it should be" in text
    plan.write_text(json.dumps({**data, "photos": [*data["photos"], data["photos"][0]]}))
    code, text = run(*command, "--overwrite", capsys=capsys)
    assert code == 2
    assert "is there twice" in text


def test_a_plan_takes_over_which_faces_to_keep(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, target = tmp_path / "plan.json", tmp_path / "out"
    command = ("protect", hopper_path, "-o", target, "-m", "mask", "--plan", plan)
    code, text = run(*command, "--keep", "0", capsys=capsys)
    assert code == 0
    assert "without --keep and --only" in text
    (face,) = json.loads(plan.read_text())["photos"][0]["faces"]
    assert face["protect"] is False
    code, text = run(*command, "--keep", "0", capsys=capsys)
    assert code == 2
    assert "the plan says which faces" in text
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{]", "cannot read the plan"),
        (100_000 * "[", "cannot read the plan"),
        ('{"schema": "facedeid.plan/1", "photos": null}', '"photos" must be a list'),
        (
            '{"schema": "facedeid.plan/1", "photos": [{"photo": "x", "faces": [], "width": 1e999, '
            '"height": 2}]}',
            "entry 0 is not as it should be",
        ),
    ],
)
def test_a_plan_that_makes_no_sense(text, complaint, hopper_path, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    command = ["protect", hopper_path, "--plan", plan, "-o", tmp_path / "out"]
    code, said = run(*command, capsys=capsys)
    assert code == 2
    assert complaint in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["protect", "missing.jpg"], 2, "missing.jpg does not exist"),
        (["protect", "*.nothing"], 2, "does not exist"),
        (["protect", "{hopper}", "-m", "emoji"], 2, "no method is called"),
        (["protect", "{hopper}", "--require", "far=7"], 2, "no such operating point"),
        (["protect", "{hopper}", "--detector", "eyes"], 2, "detector"),
        (["protect", "{hopper}", "--detector", "no.onnx"], 2, "there is no file no.onnx"),
        (["protect", "{hopper}", "--detector", "{here}/bad.onnx"], 2, "is not a YuNet model"),
        (["protect", "{hopper}", "--device", "tpu9"], 2, "use cpu or cuda"),
        (["protect", "{hopper}", "--recognizer", "mum"], 2, "no recogniser is called 'mum'"),
        (["protect", "{hopper}", "--recognizer", "onnx:no.onnx"], 2, "there is no file no.onnx"),
        (["protect", "{hopper}", "--recognizer", "onnx:{here}/bad.onnx"], 2, "bad.onnx cannot be"),
        (["verify", "{hopper}", "{hopper}", "--recognizer", "onnx:no.onnx"], 2, "there is no file"),
        (["protect", "{hopper}", "-m", 'lgc:recognizers=["onnx:no.onnx"]'], 2, "there is no file"),
        (["protect", "{hopper}", "-m", 'fsap:recognizers=["onnx:no.onnx"]'], 2, "there is no file"),
        (["protect", "{hopper}", "-m", "tip-im:images={here}/empty"], 2, "no portraits in"),
        (["protect", "{hopper}", "-m", "fsap:pair=psp"], 1, "psp_ffhq_encode"),
        (["protect", "{hopper}", "--keep", "nobody.jpg"], 2, "cannot tell which face"),
        (["protect", "{hopper}", "--keep", "{here}/bad.onnx"], 2, "bad.onnx: this is not a photo"),
        (["protect", "{hopper}", "--keep", "9,9,1,1"], 2, "is empty"),
        (["protect", "{hopper}", "--keep", "²"], 2, "cannot tell which face"),
        (["protect", "{hopper}", "--keep", 300 * "x"], 2, "cannot tell which face"),
        (["protect", "{hopper}", "--keep", "0", "--only", "1"], 2, "exclude each other"),
        (["protect", "{hopper}", "--min-face", "3"], 2, "--min-face"),
        (["protect", "{hopper}", "--plan", "no/where.json"], 2, "no such folder"),
        (["protect", "{hopper}", "--jobs", "0"], 2, "--jobs"),
        (["protect", "{hopper}", "--on-no-face", "maybe"], 2, "--on-no-face"),
        (["protect"], 2, "inputs"),
        (["verify", "{hopper}"], 2, "protected"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_bad_usage_is_explained(
    arguments: list[str],
    code: int,
    complaint: str,
    hopper_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad.onnx").write_text("no network")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("COLUMNS", "200")
    filled = [a.format(hopper=hopper_path, here=tmp_path) if "{h" in a else a for a in arguments]
    got, text = run(*filled, capsys=capsys)
    assert (got, complaint in text) == (code, True), text
    assert "Traceback" not in text
    assert list(Path().iterdir()) == []


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """A photo without a face."""
    photo = tmp_path / "in" / "wall.png"
    photo.parent.mkdir()
    Image.new("RGB", (60, 40), "teal").save(photo)
    return photo


@pytest.mark.parametrize(
    "name",
    [
        "cli",
        "_cli_budget",
        "_cli_evaluate",
        "_cli_invert",
        "_cli_models",
        "_cli_sensitivity",
        "_cli_train",
    ],
)
def test_words_between_colons_stay_words(name: str) -> None:
    out = importlib.import_module(f"facedeid.{name}").out
    table = Table("o:car:", title="t:car:")
    table.add_row("lfw:two:car:")
    with out.capture() as printed:
        out.print("mask:car:", table)
    text = printed.get()
    for word in ("mask:car:", "o:car:", "t:car:", "lfw:two:car:"):
        assert word in text


def test_what_was_not_protected_was_still_written_anew(
    wall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "o:car:"
    words = ["-m", "mask", "--on-no-face", "copy"]
    code, text = run("protect", wall, "-o", target, *words, capsys=capsys)
    assert code == 0
    assert "1  without a face: written anew, no face changed" in text
    assert f"results  {target}\n" in text


def test_options_that_do_nothing_are_named(
    wall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["protect", wall, "--draws", "2"]
    words = ["-m", "mask", "--subject", "bob"]
    _, text = run(*base, *words, "-o", tmp_path / "a", capsys=capsys)
    assert "warning: --subject does nothing: mask spends no privacy budget" in text
    assert "warning: --draws 2: mask draws nothing, so all will be the same" in text
    _, text = run(*base, "--identity", "3", "-o", tmp_path / "b", capsys=capsys)
    assert "warning: --draws 2: feature-embedding draws nothing" in text
    _, text = run(*base, "-m", "noise:sigma=60", "-o", tmp_path / "c", capsys=capsys)
    assert "does nothing" not in text
    assert "--draws" not in text


def test_numbers_and_regions_of_no_face_are_named(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["protect", hopper_path, "-m", "mask"]
    said = "warning: --keep 5 names no face; faces found: 1, numbered from 0\n"
    code, text = run(*base, "--keep", "5", "-o", tmp_path / "a", capsys=capsys)
    assert code == 0
    assert text.count(said) == 1
    assert said[9:-1] in (tmp_path / "a" / "facedeid-report.html").read_text()
    code, text = run(*base, "--plan", tmp_path / "plan.json", "--keep", "5", capsys=capsys)
    assert code == 0
    assert text.count(said) == 1
    _, text = run(*base, "--only", "0,0,5,5.5", "-o", tmp_path / "b", capsys=capsys)
    assert "warning: --only 0,0,5,5.5 names no face; none has its centre there" in text
    _, text = run(*base, "--keep", "0", "-o", tmp_path / "c", capsys=capsys)
    assert "warning" not in text


def test_linked_folders_are_not_followed_and_that_is_said(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "more").symlink_to(album)
    (linked / "notes.txt").symlink_to(album / "notes.txt")
    base = ["protect", linked, "-m", "mask"]
    said = "linked folders, not followed; name them as arguments to include them"
    code, text = run(*base, "-o", tmp_path / "out", capsys=capsys)
    assert code == 2
    assert f"there is no photo in {linked} (1 {said})" in text
    (linked / "hopper.jpg").symlink_to(album / "hopper.jpg")
    code, text = run(*base, "--plan", tmp_path / "plan.json", capsys=capsys)
    assert code == 0
    assert f"1 {said}" in text
    code, text = run(*base, "-o", tmp_path / "out", capsys=capsys)
    assert code == 0
    for line in ("1  protected", "1  files that are no photos, left alone", f"1  {said}"):
        assert line in text
    code, text = run(*base, linked / "more" / "a b", "-o", tmp_path / "both", capsys=capsys)
    assert "2  protected" in text


def test_a_line_names_its_photo_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = [Image.new("L", (20, 20), shade) for shade in (0, 255)]
    Path("in").mkdir()
    frames[0].save("in/anim.gif", save_all=True, append_images=frames[1:])
    words = ["-m", "noise:sigma=60", "-o", "out"]
    for given in ("in", "in/anim.gif", "in/*.gif", tmp_path / "in"):
        code, text = run("protect", given, *words, "--overwrite", capsys=capsys)
        assert code == 1
        assert "\nanim.gif: it has 2 frames" in f"\n{text}"
    _, text = run("protect", "in", *words, "--overwrite", "--draws", "2", capsys=capsys)
    assert "draw-1/anim.gif: it has 2 frames" in text


def test_words_after_two_dashes_reach_the_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run("budget", "set", "--", "-1", capsys=capsys)
    assert code == 2
    assert "from 0 up" in text


def test_an_encoding_without_epsilon_ends_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "facedeid", "budget"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "FACEDEID_LEDGER": str(tmp_path / "none")},
    )
    assert result.returncode == 0, result.stderr
    assert b"spent ?" in result.stdout


def test_sizes_must_agree_to_verify(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    code, text = run("verify", hopper_path, tmp_path / "small.png", capsys=capsys)
    assert code == 2
    assert "same size" in text


def test_the_module_runs() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "facedeid", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("facedeid ")


def test_a_plan_that_could_not_be_followed_is_not_written(
    hopper_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    for wish in (["-m", "noise", "--draws", "2"], ["--album", "-j", "2"]):
        code, text = run("protect", hopper_path, "--plan", plan, *wish, capsys=capsys)
        assert code == 2, text
        assert not plan.exists()


def test_a_plan_of_what_could_not_be_read_says_so_with_its_exit_code(
    wall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (wall.parent / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    code, text = run("protect", wall.parent, "--plan", tmp_path / "plan.json", capsys=capsys)
    assert code == 1
    assert "torn.jpg" in text
    assert (tmp_path / "plan.json").exists()


def test_a_plan_may_come_back_from_notepad(
    wall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    command = ("protect", wall, "-m", "mask", "--plan", plan, "-o", tmp_path / "out")
    assert run(*command, capsys=capsys)[0] == 0
    plan.write_bytes(b"\xef\xbb\xbf" + plan.read_bytes())
    assert run(*command, capsys=capsys)[0] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(("stream", "expected"), [("> /dev/full", 1), (">&-", 0)])
def test_where_nothing_can_be_printed_there_is_no_traceback(stream: str, expected: int) -> None:
    command = f'"{sys.executable}" -m facedeid --version {stream}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr


def test_a_distance_that_is_no_match_for_its_surroundings_is_marked(
    hopper_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facedeid import verification

    match = verification.Match(
        recognizer="dlib",
        aligned="original",
        distance=0.46,
        threshold=0.6,
        matched=False,
        white_box=False,
        control=0.455,
    )
    verdict = verification.Verdict(detected=False, matches=(match,))
    (face,) = detect(np.asarray(Image.open(hopper_path).convert("RGB")))
    pair = verification.FacePair(face, verdict, 0.5)
    monkeypatch.setattr(verification, "compare", lambda *_, **__: [pair])
    code, text = run("verify", hopper_path, hopper_path, capsys=capsys)
    assert code == 0
    assert "0.460 *" in text
    assert "painted over" in text


def test_verify_looks_at_translucent_photos_on_pages(
    hopper: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the colours there is no face any more; on white the opacity shows it."""
    crop = hopper[70:420, 110:420]
    opacity = 255 - crop.min(2)
    Image.fromarray(np.dstack([crop, opacity])).save(tmp_path / "before.png")
    Image.fromarray(np.dstack([0 * crop, opacity])).save(tmp_path / "after.png")
    code, text = run("verify", tmp_path / "before.png", tmp_path / "after.png", capsys=capsys)
    assert code == 3, text
    assert "0 on white" in text


def test_names_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("\x9b2J")
    table.add_row("\x1b[2J")
    for shown in ("a\x1b[31mb", table):
        console().print(shown)
    printed = capsys.readouterr().out
    assert "a\ufffd[31mb" in printed
    assert not {"\x1b", "\x9b"} & set(printed)
