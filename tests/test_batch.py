"""Many photos: nothing is lost, whatever happens in the middle."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facedeid import batch, imaging
from facedeid.batch import MANIFEST, Done, collect, protect_folder
from facedeid.errors import FacedeidError, OptionError, OutputError
from facedeid.pipeline import Settings
from facedeid.plan import Plan, planned
from facedeid.report import read_records
from facedeid.weights import sha256_of

PORTRAITS = 6


@pytest.fixture
def album(tmp_path: Path, astronaut: NDArray[np.uint8]) -> Path:
    """Six crops of a portrait, small so that the tests are quick."""
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(PORTRAITS):
        Image.fromarray(astronaut[20 + i : 270, 100 + 2 * i : 340]).save(folder / f"{i}.png")
    return folder


def hashes(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def photos(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.png"))


def test_workers_and_order_change_nothing(album: Path, tmp_path: Path) -> None:
    one = protect_folder(album, tmp_path / "one", "noise", seed=3, on_unprotected="release")
    two = protect_folder(album, tmp_path / "two", "noise", seed=3, on_unprotected="release", jobs=2)
    assert one.counts == two.counts
    assert len(one.done) == PORTRAITS
    for item in one.done:
        assert item.record["sha256"] == sha256_of(tmp_path / "one" / item.photo)
    a, b = hashes(tmp_path / "one"), hashes(tmp_path / "two")
    for name in photos(album):
        assert a[name] == b[name]


def test_an_interrupted_run_goes_on(album: Path, tmp_path: Path) -> None:
    before = hashes(album)
    target = tmp_path / "out"

    def interrupt(item: Done) -> None:
        if item.photo == "2.png":
            raise KeyboardInterrupt

    first = protect_folder(album, target, progress=interrupt)
    assert first.interrupted
    assert photos(target) == ["0.png", "1.png", "2.png"]
    assert first.report_path.exists()
    finished = {name: (target / name).stat().st_mtime_ns for name in photos(target)}
    seen: list[str] = []
    second = protect_folder(
        album, target, resume=True, progress=lambda item: seen.append(item.photo)
    )
    assert not second.interrupted
    assert second.resumed == 3
    assert seen == ["3.png", "4.png", "5.png"]
    assert photos(target) == photos(album)
    assert {n: (target / n).stat().st_mtime_ns for n in finished} == finished
    assert hashes(album) == before
    third = protect_folder(album, target, resume=True)
    assert third.resumed == PORTRAITS


def test_kill_9_loses_nothing(album: Path, tmp_path: Path) -> None:
    before = hashes(album)
    target = tmp_path / "out"
    code = (
        "import sys, time; from facedeid.batch import protect_folder\n"
        "protect_folder(sys.argv[1], sys.argv[2], progress=lambda item: time.sleep(0.5))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(album), str(target)])
    deadline = time.monotonic() + 90
    while not (target / "1.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(photos(target)) < PORTRAITS
    for name in photos(target):
        assert imaging.read(target / name).rgb.shape[2] == 3  # whole files only
    with open(target / MANIFEST, "a") as manifest:
        manifest.write('{"type": "done", "photo": "torn')
    run = protect_folder(album, target, resume=True)
    assert run.counts == {"protected": PORTRAITS}
    assert photos(target) == photos(album)
    assert hashes(album) == before
    leftovers = [p.name for p in target.iterdir() if p.suffix != ".png"]
    assert sorted(leftovers) == [batch.REPORT_HTML, batch.REPORT_JSONL, MANIFEST]


@pytest.mark.parametrize(
    ("jobs", "times"),
    [(1, 1), *(pytest.param(2, times, marks=pytest.mark.slow) for times in (1, 2))],
)
def test_ctrl_c_ends_the_command_in_order(
    album: Path, tmp_path: Path, jobs: int, times: int
) -> None:
    for i in range(12):
        shutil.copy(album / "0.png", album / f"more{i}.png")
    target = tmp_path / "out"
    command = [sys.executable, "-m", "facedeid", "protect", str(album), "-o", str(target)]
    process = subprocess.Popen(
        [*command, "--jobs", str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not photos(target) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.05)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "go on with --resume" in text
    assert "Ctrl-C again to stop now" in text
    assert "Traceback" not in text
    assert times > 1 or photos(target)
    assert len(photos(target)) < 12
    lines = read_records(target / batch.REPORT_JSONL)
    assert sorted(line["photo"] for line in lines if line.get("released") is True) == photos(target)
    assert (target / batch.REPORT_HTML).exists()
    assert not list(target.glob(f"{imaging.TEMPORARY_PREFIX}*"))


def test_resume_wants_the_same_settings(album: Path, tmp_path: Path) -> None:
    protect_folder(album, tmp_path / "out", "mask")
    with pytest.raises(OptionError, match=r"had other settings \(method was .Mask.* is .Blur"):
        protect_folder(album, tmp_path / "out", "blur", resume=True)


def test_a_changed_source_is_done_afresh(album: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    protect_folder(album, target, "mask")
    old = (target / "0.png").read_bytes()
    shutil.copy(album / "5.png", album / "0.png")
    os.utime(album / "0.png", (1, 1))
    run = protect_folder(album, target, "mask", resume=True)
    assert run.resumed == PORTRAITS - 1
    assert (target / "0.png").read_bytes() != old


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_end_at_once_when_their_work_is_just_finished(workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, batch._as_worker, (pids,))
    running = {pool.submit(os.getpid) for _ in range(workers)}
    assert len({future.result(60) for future in running}) <= workers
    ended: list[list[int]] = []
    thread = threading.Thread(
        target=lambda: ended.append(list(batch._ended(pool, pids, running))), daemon=True
    )
    thread.start()
    thread.join(30)
    assert [len(found) for found in ended] == [workers]


def test_results_and_originals_are_never_overwritten(album: Path, tmp_path: Path) -> None:
    before = hashes(album)
    with pytest.raises(OutputError, match="originals are never overwritten"):
        protect_folder(album / "0.png", album, overwrite=True)
    (tmp_path / "link").symlink_to(album)
    with pytest.raises(OutputError, match="originals are never overwritten"):
        protect_folder(album / "0.png", tmp_path / "link", overwrite=True)
    target = tmp_path / "out"
    target.mkdir()
    (target / "0.png").write_bytes(b"somebody's only copy")
    with pytest.raises(OutputError, match="there are results already"):
        protect_folder(album, target)
    for mode in ("resume", "overwrite"):
        run = protect_folder(album, target, "mask", **{mode: True})  # type: ignore[arg-type]
        assert (target / "0.png").read_bytes() == b"somebody's only copy"
        assert run.counts == {"protected": PORTRAITS - 1, "error": 1}
    assert hashes(album) == before


def test_a_result_that_may_not_be_released_any_more_is_removed(album: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    bare = protect_folder(album, target, "noise", on_unprotected="release")
    assert bare.counts == {"released-unprotected": PORTRAITS}
    strict = protect_folder(album, target, "noise", overwrite=True)
    assert strict.counts == {"withheld": PORTRAITS}
    assert photos(target) == []


def test_names_of_the_reports_are_taken(album: Path, tmp_path: Path) -> None:
    shutil.copy(album / "0.png", album / batch.REPORT_HTML)
    with pytest.raises(OutputError, match="would both be written"):
        protect_folder(album, tmp_path / "out")


def test_numbers_and_regions_belong_to_one_photo(album: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="in one photo only"):
        protect_folder(album, tmp_path / "out", keep=("0",))
    assert not (tmp_path / "out").exists()
    run = protect_folder(album / "0.png", tmp_path / "out", keep=("0",))
    assert run.counts == {"kept": 1}


def test_a_reference_photo_that_changed_is_another_setting(album: Path, tmp_path: Path) -> None:
    reference = tmp_path / "me.png"
    shutil.copy(album / "0.png", reference)
    first = protect_folder(album, tmp_path / "out", keep=(str(reference),))
    assert first.counts == {"kept": PORTRAITS}
    shutil.copy(album / "1.png", reference)
    with pytest.raises(OptionError, match=r"had other settings \(a file that they name may"):
        protect_folder(album, tmp_path / "out", keep=(str(reference),), resume=True)


def test_a_recogniser_that_changed_is_another_setting(tmp_path: Path) -> None:
    file = tmp_path / "judge.onnx"
    settings = Settings(recognizers=("dlib", f"onnx:{file}?threshold=0.5"))
    seen = []
    for content in (b"old", b"new"):
        file.write_bytes(content)
        seen.append(batch._digest(settings, planned=False))
    assert seen[0] != seen[1]


def test_folders_are_not_told_whatever_signs_are_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / 'Anna\'s "best" photos'
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(400))
    run = protect_folder(folder, tmp_path / "o'ut", "mask")
    assert run.counts == {"error": 1}
    assert run.done[0].record["message"].startswith("x.jpg: ")
    written = run.report_path.read_text() + (run.output / batch.REPORT_JSONL).read_text()
    assert "Anna" not in written


def test_a_result_whose_source_broke_goes_and_that_is_told(album: Path, tmp_path: Path) -> None:
    source, target = album / "0.png", tmp_path / "out"
    protect_folder(source, target, "mask")
    source.write_bytes(b"half of it")
    run = protect_folder(source, target, "mask", resume=True)
    assert run.counts == {"error": 1}
    assert "the result of an earlier run was removed" in run.done[0].record["message"]
    assert photos(target) == []


def test_one_file_given_twice_is_taken_once(album: Path) -> None:
    found = collect([album, album / "0.png", str(album / ".." / album.name / "0.png")], None)
    assert [source.relative for source in found.sources] == [f"{i}.png" for i in range(PORTRAITS)]


def test_draws_of_a_photo_with_a_long_name(album: Path, tmp_path: Path) -> None:
    names = [f"{251 * letter}.png" for letter in "ab"]
    for name in names:
        shutil.copy(album / "0.png", tmp_path / name)
    given = [tmp_path / name for name in names]
    run = protect_folder(given, tmp_path / "out", draws=2, **WEAK)  # type: ignore[arg-type]
    assert len(run.done) == 4
    assert len(list((tmp_path / "out" / batch.SHEETS).iterdir())) == 2


def test_lines_of_something_else_are_no_manifest(album: Path, tmp_path: Path) -> None:
    run = protect_folder(album / "0.png", tmp_path / "out", "mask")
    shutil.copy(run.output / batch.REPORT_JSONL, run.output / MANIFEST)
    with pytest.raises(OptionError, match="is not the manifest of a run"):
        protect_folder(album / "0.png", tmp_path / "out", "mask", overwrite=True)


def test_a_full_disk_does_not_forget_what_is_there(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    protect_folder(album / "0.png", target, **WEAK)  # type: ignore[arg-type]
    before = (target / MANIFEST).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(batch.report, "write_whole", full)
    with pytest.raises(OutputError, match="full"):
        protect_folder(album / "0.png", target, "mask", overwrite=True)
    assert (target / MANIFEST).read_bytes() == before


def test_another_run_below_the_output_is_left_alone(album: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "other" / f"{imaging.TEMPORARY_PREFIX}1.tmp"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    protect_folder(album / "0.png", tmp_path / "out", "mask")
    assert theirs.exists()


def test_an_unexpected_error_ends_one_photo_not_the_run(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch.protect_file

    def moody(source: Path, *args: object, **kwargs: object) -> object:
        if source.name == "3.png":
            raise MemoryError("no room")
        return real(source, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "protect_file", moody)
    run = protect_folder(album, tmp_path / "out", "mask")
    assert run.counts == {"protected": PORTRAITS - 1, "error": 1}
    broken = next(item for item in run.done if item.photo == "3.png")
    assert broken.record["message"] == "unexpected MemoryError: no room"


def test_an_output_folder_inside_the_album_is_left_out(album: Path) -> None:
    protect_folder(album, album / "out", "mask")
    again = collect([album], album / "out").sources
    assert len(again) == PORTRAITS


def test_names_that_collide_are_refused(album: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(album / "0.png", other / "0.png")
    with pytest.raises(OutputError, match="would both be written"):
        protect_folder([album, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_globs_links_and_strangers(album: Path, tmp_path: Path) -> None:
    (album / "loop").symlink_to(album)
    (album / "dead.png").symlink_to(album / "gone.png")
    (album / "round.jpg").symlink_to(album / "round.jpg")
    (album / "empty.jpg").write_bytes(b"")
    (album / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 64)
    (album / "._0.png").write_bytes(b"\0\5\x16\7")
    (album / "letter.doc").write_bytes(b"hello")
    (album / "no suffix").write_bytes((album / "0.png").read_bytes())
    os.mkfifo(album / "pipe.jpg")
    run = protect_folder(album, tmp_path / "out", "mask")
    statuses = {item.photo: item.status for item in run.done}
    for stranger in ("dead.png", "round.jpg", "empty.jpg", "film.mp4", "pipe.jpg"):
        assert statuses.pop(stranger) == "error", stranger
    assert statuses.pop("no suffix") == "protected"
    assert set(statuses.values()) == {"protected"}
    assert len(statuses) == PORTRAITS
    assert sorted(run.ignored) == ["._0.png", "letter.doc"]
    assert run.links == ["loop"]
    head = read_records(run.output / batch.REPORT_JSONL)[0]
    assert (head["ignored"], head["links"]) == (run.ignored, run.links)
    page = run.report_path.read_text()
    assert "Left alone: 2 files" in page
    assert "letter.doc" in page
    assert "Linked: 1 folder" in page
    found = collect([str(album / "[0-2].png")], tmp_path / "out").sources
    assert [s.relative for s in found] == ["0.png", "1.png", "2.png"]
    with_output = collect([album, tmp_path / "out"], tmp_path / "out").sources
    assert {s.path.parent for s in with_output} == {album}


def test_a_full_disk_leaves_no_partial_photo(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: str, target: str, **kwargs: object) -> None:
        if str(target).endswith(".png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    target = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(os, "link", full)
        run = protect_folder(album, target, "mask")
    assert run.counts == {"error": PORTRAITS}
    assert "the disk is full" in run.done[0].record["message"]
    assert photos(target) == []
    assert all(not p.name.startswith(imaging.TEMPORARY_PREFIX) for p in target.iterdir())
    assert protect_folder(album, target, "mask", resume=True).counts == {"protected": PORTRAITS}


def test_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="there is no photo in"):
        protect_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(OptionError, match="there is no photo in nothing"):
        protect_folder([], tmp_path / "out")
    with pytest.raises(OptionError, match="no option strengh"):
        protect_folder(tmp_path, tmp_path / "out", strengh=1)


WEAK = {"method": "blur:sigma=0.01", "on_unprotected": "release"}


def reported(run: batch.Run) -> dict[str, str]:
    """Photo -> status, in the report for programs."""
    lines = read_records(run.output / batch.REPORT_JSONL)
    return {line["photo"]: line["status"] for line in lines if line["type"] == "photo"}


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "blank.png"
    Image.new("RGB", (80, 80), "grey").save(path)
    return path


def test_a_resumed_run_reports_other_photos_of_the_earlier_one(
    album: Path, blank: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    protect_folder(album / "0.png", target, **WEAK)  # type: ignore[arg-type]
    run = protect_folder(blank, target, resume=True, **WEAK)  # type: ignore[arg-type]
    assert reported(run) == {"0.png": "released-unprotected", "blank.png": "no-face"}
    assert "RELEASED UNPROTECTED" in run.report_path.read_text()
    assert [item.photo for item in run.earlier] == ["0.png"]
    assert (run.total, len(run.done), run.resumed, run.interrupted) == (1, 1, 0, False)
    (target / "0.png").unlink()
    run = protect_folder(blank, target, resume=True, **WEAK)  # type: ignore[arg-type]
    assert reported(run) == {"blank.png": "no-face"}


def test_a_resumed_run_does_not_replace_the_result_of_another_photo_of_that_name(
    album: Path, tmp_path: Path
) -> None:
    target, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    protect_folder(album / "0.png", target, "mask")
    before = (target / "0.png").read_bytes()
    (other / "0.png").write_bytes((album / "1.png").read_bytes())
    with pytest.raises(OptionError, match=r"out/0\.png is the result of another"):
        protect_folder(other, target, "mask", resume=True)
    assert (target / "0.png").read_bytes() == before
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy2(album / "0.png", moved)  # the same file in another place is gone on with
    assert protect_folder(moved, target, "mask", resume=True).resumed == 1
    assert protect_folder(other, target, "mask", overwrite=True).counts == {"protected": 1}
    assert (target / "0.png").read_bytes() != before


def test_overwriting_reports_what_it_does_not_replace(
    album: Path, blank: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    protect_folder([album / "0.png", blank], target, **WEAK)  # type: ignore[arg-type]
    run = protect_folder(blank, target, "mask", on_no_face="copy", overwrite=True)
    assert reported(run) == {"0.png": "released-unprotected", "blank.png": "copied"}
    text = run.report_path.read_text()
    assert "RELEASED UNPROTECTED" in text
    assert "Results of an earlier run: 1 photo" in text
    again = protect_folder(
        [album / "0.png", blank], target, "mask", on_no_face="copy", resume=True
    )  # what had other settings is done afresh
    assert again.resumed == 1
    assert reported(again) == {"0.png": "protected", "blank.png": "copied"}
    assert "Results of an earlier run" not in again.report_path.read_text()


def test_an_interrupted_overwriting_run_reports_what_is_still_there(
    album: Path, blank: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    protect_folder([album / "0.png", blank], target, **WEAK)  # type: ignore[arg-type]

    def interrupt(_: Done) -> None:
        raise KeyboardInterrupt

    run = protect_folder(
        [blank, album / "0.png"], target, "mask", overwrite=True, progress=interrupt
    )
    assert run.interrupted
    assert reported(run) == {"0.png": "released-unprotected", "blank.png": "no-face"}


@pytest.mark.parametrize("name", [MANIFEST, f"{imaging.TEMPORARY_PREFIX}x.tmp"])
def test_a_folder_that_cannot_be_written_is_said_in_words(
    blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / name).touch()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(OutputError, match=f"cannot remove .*{name}: Read-only file system"):
        protect_folder(blank, target, "mask", overwrite=True)


def test_a_read_only_disk_may_refuse_to_remove_what_is_not_there(
    blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match=r"cannot write the report .*Read-only file system"):
        protect_folder(blank, tmp_path / "out", "mask")


def test_the_input_folder_is_no_output_folder(album: Path) -> None:
    with pytest.raises(OptionError, match=r"album is the output folder too; choose another with"):
        protect_folder(album, album, "mask")


def test_a_selection_goes_into_the_plan_and_not_beside_it(album: Path, tmp_path: Path) -> None:
    for settings, protect in (
        (Settings(), True),
        (Settings(keep=("0",)), False),
        (Settings(only=("0",)), True),
        (Settings(only=("7",)), True),  # such a photo would not be released; a plan releases it
    ):
        choose = batch.selected(settings, single=True)
        entry = planned(album / "0.png", "0.png", detector="hog", min_face=24, choose=choose)
        assert [face["protect"] for face in entry["faces"]] == [protect]
    with pytest.raises(OptionError, match="in one photo only"):
        batch.selected(Settings(keep=("0",)), single=False)
    for option in ("keep", "only"):
        with pytest.raises(OptionError, match='edit "protect" in it'):
            protect_folder(
                album / "0.png", tmp_path / "out", "mask", plan=Plan({}), **{option: ("0",)}
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_answered_and_repeated(workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    with batch._Interrupts(workers) as asked:
        signal.raise_signal(signal.SIGINT)
        assert (asked.asked, asked.asked_twice) == (True, False)
        assert "under way; Ctrl-C again to stop now\n" in capfd.readouterr().err
        if workers > 1:
            signal.raise_signal(signal.SIGINT)  # for workers, who are looked after elsewhere
            assert asked.asked_twice
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("again", [False, True])
def test_a_result_that_could_not_be_noted_goes(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    target, real = tmp_path / "out", batch.protect_file
    if again:
        protect_folder(album / "0.png", target, **WEAK)  # type: ignore[arg-type]

    def late(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)  # type: ignore[arg-type]
        assert photos(target) == ["0.png"]
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "protect_file", late)
    run = protect_folder(album / "0.png", target, "mask", overwrite=again)
    assert run.interrupted
    assert photos(target) == []
    assert reported(run) == {}


def test_an_interruption_leaves_what_was_there(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "0.png").write_bytes(b"somebody's only copy")

    def early(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "protect_file", early)
    assert protect_folder(album / "0.png", target, "mask", overwrite=True).interrupted
    assert (target / "0.png").read_bytes() == b"somebody's only copy"


def test_a_run_that_an_error_ends_says_that_photos_may_be_missing(
    album: Path, tmp_path: Path
) -> None:
    def broken(_: Done) -> None:
        raise BrokenPipeError("nobody reads any more")

    target = tmp_path / "out"
    with pytest.raises(BrokenPipeError):
        protect_folder(album, target, "mask", progress=broken)
    assert photos(target) == ["0.png"]
    *_, summary = read_records(target / batch.REPORT_JSONL)
    assert (summary["photos"], summary["interrupted"]) == (1, True)
    text = (target / batch.REPORT_HTML).read_text()
    assert "This run did not finish" in text
    assert "All 1 photo protected" not in text


@pytest.mark.parametrize("option", ["overwrite", "resume"])
def test_what_lies_where_nothing_was_released_is_left_alone(
    album: Path, blank: Path, tmp_path: Path, option: str
) -> None:
    target = tmp_path / "out"
    weak = {"method": "blur:sigma=0.01"}
    run = protect_folder([album / "0.png", blank], target, **weak)  # type: ignore[arg-type]
    assert run.counts == {"withheld": 1, "no-face": 1}
    for name in ("0.png", "blank.png"):
        (target / name).write_bytes(b"done by hand")
        os.utime({"0.png": album / "0.png", "blank.png": blank}[name], (1, 1))
    protect_folder([album / "0.png", blank], target, **weak, **{option: True})  # type: ignore[arg-type]
    for name in ("0.png", "blank.png"):
        assert (target / name).read_bytes() == b"done by hand"


def test_a_report_without_its_manifest_is_not_written_over(album: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    protect_folder(album / "0.png", target, **WEAK)  # type: ignore[arg-type]
    (target / MANIFEST).unlink()  # as docs/limits.md advises before the folder is passed on
    with pytest.raises(OutputError, match="there are results already"):
        protect_folder(album / "1.png", target, "mask")
    lines = read_records(target / batch.REPORT_JSONL)
    assert [line["photo"] for line in lines if line["type"] == "photo"] == ["0.png"]


def test_originals_in_the_manifest_are_for_the_owner_only(album: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    protect_folder(album / "0.png", target, "mask")
    assert (target / MANIFEST).stat().st_mode & 0o044
    for options in ({"resume": True}, {"overwrite": True}):
        protect_folder(album, target, "mask", report_originals=True, **options)  # type: ignore[arg-type]
        lines = read_records(target / MANIFEST)
        assert any("before" in shown for line in lines for shown in line.get("previews", ()))
        assert (target / MANIFEST).stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_ends_the_workers_too_and_leaves_no_older_report(
    album: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    protect_folder(album / "0.png", target, **WEAK)  # type: ignore[arg-type]
    code = (
        "import sys; from facedeid.batch import protect_folder\n"
        "if __name__ == '__main__':\n"
        "    protect_folder(sys.argv[1], sys.argv[2], 'mask', jobs=2, overwrite=True,\n"
        "                   progress=lambda item: print(item.photo, flush=True))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(album), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=90)  # until the last worker has closed its end of the pipe
    assert not (target / batch.REPORT_JSONL).exists()  # the older one knew of one photo only
    assert not (target / batch.REPORT_HTML).exists()
    run = protect_folder(album, target, "mask", resume=True)
    assert run.counts == {"protected": PORTRAITS}
    assert set(reported(run)) == set(photos(target))


def written_plan(path: Path, source: Path, *more: list[float]) -> Plan:
    """A plan of one photo, with boxes that a person has added."""
    entry = planned(source, source.name, detector="hog", min_face=24)
    entry["faces"] += [{"box": box} for box in more]
    path.write_text(Plan.text([entry]))
    return Plan.read(path)


def test_a_run_with_a_plan_does_not_go_on_without_it(album: Path, tmp_path: Path) -> None:
    """A face that only the plan knows would lie open in a result that was right before."""
    source, target = album / "0.png", tmp_path / "out"
    plan = written_plan(tmp_path / "plan.json", source, [0, 150, 60, 210])
    run = protect_folder(source, target, "mask", plan=plan)
    assert len(run.done[0].record["faces"]) == 2
    before = (target / "0.png").read_bytes()
    with pytest.raises(OptionError, match="plan was 'followed' and is 'none'"):
        protect_folder(source, target, "mask", resume=True)
    assert (target / "0.png").read_bytes() == before
    assert protect_folder(source, target, "mask", plan=plan, resume=True).resumed == 1


def test_a_plan_belongs_to_the_photo_for_which_it_was_written(
    astronaut: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Of two photos of one size and name, the boxes of one leave the face of the other open."""
    crop = astronaut[20:270, 100:340]
    wall = np.full_like(crop, 128)
    source, file = tmp_path / "0.png", tmp_path / "plan.json"
    Image.fromarray(np.concatenate([crop, wall], 1)).save(source)
    plan = written_plan(file, source)
    Image.fromarray(np.concatenate([wall, crop], 1)).save(source)
    run = protect_folder(source, tmp_path / "out", "mask", plan=plan)
    assert run.counts == {"error": 1}
    assert "0.png has changed since the plan was written" in run.done[0].record["message"]
    data = json.loads(file.read_text())
    del data["photos"][0]["sha256"]
    file.write_text(json.dumps(data))
    run = protect_folder(source, tmp_path / "out", "mask", plan=Plan.read(file), resume=True)
    assert run.counts["error"] == 0  # a person has looked, and says that the boxes fit


def test_what_others_had_finished_when_a_worker_died_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...
        def shutdown(self, **_: object) -> None: ...
        def submit(self, _: object, job: SimpleNamespace) -> "Future[int]":
            future: Future[int] = Future()
            if job.number is None:
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(job.number)
            return future

    monkeypatch.setattr(batch, "ProcessPoolExecutor", Pool)
    jobs = [SimpleNamespace(number=n, target=tmp_path / "a.png") for n in (1, 2, None, 3)]
    for _ in range(20):  # they come in any order
        unverified = tmp_path / f"{imaging.TEMPORARY_PREFIX}1.tmp"
        unverified.touch()
        found: list[object] = []
        results = batch._results(
            jobs,  # type: ignore[arg-type]
            4,
            lambda _: None,
            lambda: False,
            lambda: False,
        )
        with pytest.raises(FacedeidError, match="what is done is kept"):
            found.extend(results)
        assert sorted(map(str, found)) == ["1", "2", "3"]
        assert not unverified.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_two_runs_at_once_do_not_spoil_each_other(album: Path, tmp_path: Path) -> None:
    target, refused = tmp_path / "out", []
    staged = target / f"{imaging.TEMPORARY_PREFIX}of-the-first.tmp"

    def another(_: Done) -> None:
        staged.touch()
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another run is writing") as error:
                protect_folder(album / "5.png", target, "mask", **options)  # type: ignore[arg-type]
            refused.append(error)
        assert staged.exists()

    protect_folder(album / "0.png", target, "mask", progress=another)
    assert len(refused) == 2
    lines = read_records(target / MANIFEST)
    assert [line["photo"] for line in lines if line["type"] == "done"] == ["0.png"]


def test_a_start_that_failed_keeps_nobody_from_the_folder(album: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "out" / batch.REPORT_HTML
    blocked.mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot remove"):
        protect_folder(album / "0.png", tmp_path / "out", "mask", overwrite=True)
    blocked.rmdir()
    run = protect_folder(album / "0.png", tmp_path / "out", "mask", resume=True)
    assert run.counts == {"protected": 1}


@pytest.mark.parametrize("step", ["pipeline.perceptual_change", "report.encode_previews"])
def test_a_result_of_which_nothing_could_be_said_goes(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(f"facedeid.{step}", broken)
    run = protect_folder(album / "0.png", tmp_path / "out", **WEAK)  # type: ignore[arg-type]
    assert run.counts == {"error": 1}
    assert not run.done[0].record["released"]
    assert photos(tmp_path / "out") == []


def test_wishes_that_exclude_each_other_are_refused(album: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give one of them"):
        protect_folder(album, tmp_path / "out", "mask", resume=True, overwrite=True)
    assert not (tmp_path / "out").exists()


def test_what_is_given_twice_is_taken_once(album: Path, tmp_path: Path) -> None:
    (album / "letter.doc").write_bytes(b"hello")
    found = collect([album, album / "0.png", str(album / "*.png"), album], tmp_path / "out")
    assert [source.relative for source in found.sources] == photos(album)
    assert found.ignored == ["letter.doc"]


def test_an_album_ends_with_its_run(album: Path, tmp_path: Path) -> None:
    who = []
    for seed in (1, 2):
        method = "feature-embedding:album=true"
        run = protect_folder(album / "0.png", tmp_path / f"{seed}", method, seed=seed)
        who.append(run.done[0].record["faces"][0]["facts"]["identity"])
    assert who[0] != who[1]


def test_one_photo_for_many_workers_leaves_the_threads_of_the_caller(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(batch.torch, "set_num_threads", asked.append)
    protect_folder(album / "0.png", tmp_path / "out", "mask", jobs=8)
    assert asked == []
