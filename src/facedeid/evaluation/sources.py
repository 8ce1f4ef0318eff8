"""Where photos lie: below a folder, or in an archive."""

import tarfile
from collections.abc import Callable
from pathlib import Path

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError

__all__ = ["content_of", "lfw_photos", "listed", "photos_below"]


def lfw_photos(path: Path) -> tuple[Callable[[str], bytes], frozenset[str]]:
    """How to get at photos, and the keys that there are."""
    if path.is_dir():
        archives = [path / "lfw.tar", path / "lfw-deepfunneled.tar"]
        archive = next((p for p in archives if p.is_file()), None)
        files = {"/".join(name.split("/")[-2:]): name for name in photos_below(path)}
        if archive is None or files:
            return (lambda key: content_of(path / files[key])), frozenset(files)
        path = archive
    return _archived(path)


def _archived(path: Path) -> tuple[Callable[[str], bytes], frozenset[str]]:
    try:
        with tarfile.open(path, "r:") as archive:
            members = {
                "/".join(member.name.split("/")[-2:]): (member.offset_data, member.size)
                for member in archive
                if member.isfile()
            }
    except (OSError, tarfile.TarError) as error:
        raise OptionError(
            f"--data lfw:{path} is neither a folder nor a plain .tar archive (unpack compressed "
            f"ones first): {error}"
        ) from error

    def content(key: str) -> bytes:
        start, size = members[key]
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise PhotoError(f"{path}: cannot be read: {error.strerror}") from error

    return content, frozenset(members)


def listed(path: Path) -> list[str]:
    """As `photos_below`.

    Raises:
        OptionError: not a folder, or there are none.
    """
    if not path.is_dir():
        raise OptionError(f"--data: {path} is not a folder")
    names = photos_below(path)
    if not names:
        raise OptionError(f"--data: there are no photos in {path}")
    return names


def photos_below(path: Path) -> list[str]:
    """Paths of photos relative to a folder, sorted; what is hidden is left out."""
    found = []
    for file in path.rglob("*"):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and file.suffix.lower() in imaging.SUFFIXES and file.is_file():
            found.append(relative.as_posix())
    return sorted(found)


def content_of(path: Path) -> bytes:
    """A file as it is.

    Raises:
        PhotoError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(f"{path}: cannot be read: {error.strerror}") from error
