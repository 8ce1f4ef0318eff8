"""Where photos lie: below a folder, or in an archive."""

import tarfile
from collections.abc import Callable, Collection
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


def listed(path: Path, away: Collection[Path] = ()) -> list[str]:
    """As `photos_below`.

    Raises:
        OptionError: not a folder, there are none, or it is one of those to leave out.
    """
    if not path.is_dir():
        raise OptionError(f"--data: {path} is not a folder")
    names = photos_below(path, away)
    if not names:
        raise OptionError(f"--data: there are no photos in {path}")
    return names


def photos_below(path: Path, away: Collection[Path] = ()) -> list[str]:
    """Paths of photos relative to a folder, sorted; what is hidden is left out.

    Args:
        path: the folder.
        away: folders that are left out too, such as those where an evaluation keeps its pictures.

    Raises:
        OptionError: the folder is itself one of those.
    """
    root, others = path.resolve(), [each.resolve() for each in away]
    if root in others:
        raise OptionError(
            f"--data: {path} is where this evaluation keeps its own pictures; choose another "
            "folder with -o or --cache"
        )
    ours = {each.relative_to(root) for each in others if each.is_relative_to(root)}
    found = []
    for file in path.rglob("*"):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        left_out = hidden or not ours.isdisjoint(relative.parents)
        if not left_out and file.suffix.lower() in imaging.SUFFIXES and file.is_file():
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
