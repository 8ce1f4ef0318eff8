"""Many photos: nothing is lost, whatever happens in the middle."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facedeid import batch, imaging
from facedeid.batch import MANIFEST, Done, collect, protect_folder
from facedeid.errors import OptionError, OutputError

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


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_the_command_in_order(album: Path, tmp_path: Path, jobs: int) -> None:
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
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "go on with --resume" in text
    assert "Traceback" not in text
    assert 1 <= len(photos(target)) < 12
    assert (target / batch.REPORT_HTML).exists()
    assert not list(target.glob(f"{imaging.TEMPORARY_PREFIX}*"))


def test_resume_wants_the_same_settings(album: Path, tmp_path: Path) -> None:
    protect_folder(album, tmp_path / "out", "mask")
    with pytest.raises(OptionError, match="had other settings"):
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
    with pytest.raises(OptionError, match="had other settings"):
        protect_folder(album, tmp_path / "out", keep=(str(reference),), resume=True)


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
    again, _ = collect([album], album / "out")
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
    assert sorted(run.ignored) == ["._0.png", "letter.doc", "loop"]
    found, _ = collect([str(album / "[0-2].png")], tmp_path / "out")
    assert [s.relative for s in found] == ["0.png", "1.png", "2.png"]
    with_output, _ = collect([album, tmp_path / "out"], tmp_path / "out")
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
