"""Whole files or none, and never over an original."""

import builtins
import errno
import io
import os
import stat

import numpy as np
import pytest

import imaging_files as files
from facedeid import imaging
from facedeid.errors import OutputError
from facedeid.imaging import writing


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.png"
    path.write_bytes(files.saved(files.image(), "PNG"))
    return imaging.read(path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_can_be_read(photo, tmp_path):
    imaging.write(photo, tmp_path / "b.png")
    assert np.array_equal(imaging.read(tmp_path / "b.png").rgb, photo.rgb)
    assert names(tmp_path) == ["b.png", "in"]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("b.png", "PNG"),
        ("b", "PNG"),
        ("b.unknown", "PNG"),
        ("b.JPG", "JPEG"),
        ("b.webp", "WEBP"),
        ("b.tif", "TIFF"),
        ("b.heic", "HEIF"),
        ("b.avif", "AVIF"),
    ],
)
def test_another_known_suffix_asks_for_another_format(photo, tmp_path, name, format):
    imaging.write(photo, tmp_path / name)
    assert imaging.read(tmp_path / name).format == format


def test_an_array_needs_a_suffix(tmp_path):
    photo = imaging.from_array(files.face())
    imaging.write(photo, tmp_path / "a.png")
    with pytest.raises(OutputError, match="cannot tell the format"):
        imaging.write(photo, tmp_path / "a")


def test_existing_files_are_kept_unless_asked(photo, tmp_path):
    target = tmp_path / "b.png"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        imaging.write(photo, target)
    assert target.read_bytes() == b"precious"
    imaging.write(photo, target, overwrite=True)
    assert imaging.read(target).width == 64
    assert names(tmp_path) == ["b.png", "in"]


def test_a_file_that_appears_meanwhile_is_kept(photo, tmp_path):
    target = tmp_path / "b.png"
    with (
        pytest.raises(OutputError, match="exists already"),
        imaging.staged(photo, target),
    ):
        target.write_bytes(b"precious")
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["b.png", "in"]


def test_a_file_that_appears_at_the_last_moment_is_kept(photo, tmp_path):
    target, temporary = tmp_path / "b.png", tmp_path / "t"
    target.write_bytes(b"precious")
    temporary.write_bytes(b"new")
    with pytest.raises(FileExistsError):
        writing._release(temporary, target, overwrite=False)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_original_is_never_replaced(photo, tmp_path, overwrite, monkeypatch):
    source = photo.source.path
    before = source.read_bytes()
    (tmp_path / "symbolic.png").symlink_to(source)
    (tmp_path / "folder").symlink_to(source.parent)
    os.link(source, tmp_path / "hard.png")
    monkeypatch.chdir(source.parent)
    for name in (
        source,
        "a.png",
        "../in/a.png",
        tmp_path / "symbolic.png",
        tmp_path / "folder" / "a.png",
        tmp_path / "hard.png",
    ):
        with pytest.raises(OutputError, match="original"):
            imaging.write(photo, name, overwrite=overwrite)
    assert source.read_bytes() == before
    assert (tmp_path / "symbolic.png").is_symlink()
    changed = photo.replaced(photo.rgb[::-1], np.ones((64, 64), bool))
    with pytest.raises(OutputError, match="original"):
        imaging.write(changed, source, overwrite=True)


def test_what_is_not_a_file_is_never_replaced(photo, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(OutputError, match="not a file"):
            imaging.write(photo, tmp_path / name, overwrite=True)
    with pytest.raises(OutputError, match="not a file"):
        imaging.write(photo, "/dev/null", overwrite=True)


def test_a_missing_folder_is_named(photo, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere does not exist"):
        imaging.write(photo, tmp_path / "nowhere" / "b.png")
    with pytest.raises(OutputError, match="file name"):
        imaging.write(photo, tmp_path / "nul\0.png")


class FullDisk(io.FileIO):
    def write(self, data):
        super().write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing(photo, tmp_path, monkeypatch):
    target = tmp_path / "b.png"
    target.write_bytes(b"older")
    monkeypatch.setattr(writing, "open", lambda path, *_, **__: FullDisk(path, "xb"), raising=False)
    with pytest.raises(OutputError, match="disk is full"):
        imaging.write(photo, target, overwrite=True)
    assert target.read_bytes() == b"older"
    assert names(tmp_path) == ["b.png", "in"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, OSError(5, "I/O")])
@pytest.mark.parametrize("where", ["fsync", "link", "write"])
def test_an_interruption_leaves_nothing(photo, tmp_path, monkeypatch, error, where):
    def fail(*_args, **_options):
        raise error

    class Interrupted(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[:100])
            fail()

    if where == "write":
        monkeypatch.setattr(
            writing, "open", lambda path, *_, **__: Interrupted(path, "xb"), raising=False
        )
    else:
        monkeypatch.setattr(os, where, fail)
    interrupted = where == "link" and isinstance(error, OSError)
    if interrupted:  # a file system without links: another way is taken
        imaging.write(photo, tmp_path / "b.png")
        assert names(tmp_path) == ["b.png", "in"]
        return
    expected = OutputError if isinstance(error, OSError) else error
    with pytest.raises(expected):
        imaging.write(photo, tmp_path / "b.png")
    assert names(tmp_path) == ["in"]


def test_without_hard_links_existing_files_are_kept_too(photo, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    target = tmp_path / "b.png"
    with pytest.raises(OutputError, match="exists already"), imaging.staged(photo, target):
        target.write_bytes(b"precious")
    assert target.read_bytes() == b"precious"


def test_a_failed_check_releases_nothing(photo, tmp_path):
    target = tmp_path / "b.png"

    def check_and_fail():
        with imaging.staged(photo, target) as temporary:
            assert np.array_equal(imaging.read(temporary).rgb, photo.rgb)
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(imaging.TEMPORARY_PREFIX)
            assert not target.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check_and_fail()
    assert names(tmp_path) == ["in"]


def test_what_was_checked_is_what_is_released(photo, tmp_path):
    with imaging.staged(photo, tmp_path / "b.png", metadata="keep") as temporary:
        checked = temporary.read_bytes()
    assert (tmp_path / "b.png").read_bytes() == checked
    assert checked == imaging.encode(photo, metadata="keep")


def test_the_longest_names_can_be_written(photo, tmp_path):
    name = "ü" * 125 + ".png"
    imaging.write(photo, tmp_path / name)
    assert (tmp_path / name).exists()


def test_permissions_follow_the_umask(photo, tmp_path):
    before = os.umask(0o027)
    try:
        imaging.write(photo, tmp_path / "b.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "b.png").stat().st_mode) == 0o640


def test_no_permission_is_said(photo, tmp_path, monkeypatch):
    real = builtins.open

    def refused(path, *args, **options):
        if str(path).endswith(".tmp"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(writing, "open", refused, raising=False)
    with pytest.raises(OutputError, match="no permission"):
        imaging.write(photo, tmp_path / "b.png")


def test_a_photo_that_cannot_be_encoded_leaves_nothing(tmp_path):
    wide = imaging.from_array(np.zeros((1, 70_000), np.uint8))
    with pytest.raises(OutputError, match="cannot be written as JPEG"):
        imaging.write(wide, tmp_path / "a.jpg")
    assert names(tmp_path) == []
