"""Where photos lie: below a folder, or in an archive."""

import tarfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError

__all__ = [
    "CACHE",
    "CACHE_MARKER",
    "MARKER",
    "PLOTS",
    "content_of",
    "lfw_photos",
    "listed",
    "photos_below",
]

MARKER, CACHE, PLOTS = "evaluation.json", "cache", "plots"
"""What marks the output of an evaluation, and the folders in it that hold pictures."""
CACHE_MARKER = "evaluation-cache.json"
"""What marks a cache, wherever it lies."""


def lfw_photos(
    path: Path, wanted: Collection[str]
) -> tuple[Callable[[str], bytes], frozenset[str]]:
    """How to get at photos, and those of the wanted keys that there are.

    Raises:
        OptionError: one of them lies there twice, or the archive cannot be read.
    """
    if path.is_dir():
        archives = [path / "lfw.tar", path / "lfw-deepfunneled.tar"]
        archive = next((p for p in archives if p.is_file()), None)
        names = photos_below(path)
        if archive is None or names:
            files = _by_key(names, wanted, path)
            return (lambda key: content_of(path / files[key])), frozenset(files)
        path = archive
    return _archived(path, wanted)


def _by_key(names: Iterable[str], wanted: Collection[str], path: Path) -> dict[str, str]:
    """Key -> where it lies, of the wanted ones."""
    found: dict[str, str] = {}
    for name in names:
        key = "/".join(name.split("/")[-2:])
        if key in wanted and found.setdefault(key, name) != name:
            raise OptionError(
                f"--data lfw:{path}: {key} lies there twice: {found[key]} and {name}; name the "
                "folder that you mean, or an archive with one version of the photos"
            )
    return found


def _archived(path: Path, wanted: Collection[str]) -> tuple[Callable[[str], bytes], frozenset[str]]:
    try:
        with tarfile.open(path, "r:") as archive:
            places = {
                member.name: (member.offset_data, member.size)
                for member in archive
                if member.isfile()
            }
    except (OSError, tarfile.TarError) as error:
        raise OptionError(
            f"--data lfw:{path} is neither a folder nor a plain .tar archive (unpack compressed "
            f"ones first): {error}"
        ) from error
    members = _by_key(places, wanted, path)

    def content(key: str) -> bytes:
        start, size = places[members[key]]
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
        OptionError: not a folder, a cache, there are none, or it is one of those to leave out.
    """
    if not path.is_dir():
        raise OptionError(f"--data: {path} is not a folder")
    if (path / CACHE_MARKER).is_file():
        raise OptionError(
            f"--data: {path} is the cache of an evaluation; name the folder of the photos, or move "
            f"{CACHE_MARKER} and what the evaluation made out of it"
        )
    names = photos_below(path, away)
    if not names:
        raise OptionError(f"--data: there are no photos in {path}")
    return names


def photos_below(path: Path, away: Collection[Path] = ()) -> list[str]:
    """Paths of photos relative to a folder, sorted.

    What is hidden is left out, and so are the plots and caches of evaluations.

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
    files = list(path.rglob("*"))
    ours = {each.relative_to(root) for each in others if each.is_relative_to(root)}
    for file in files:
        where = file.relative_to(path).parent
        if file.name == MARKER:
            ours |= {where / CACHE, where / PLOTS}
        elif file.name == CACHE_MARKER and where != Path():
            ours.add(where)
    found = []
    for file in files:
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        left_out = hidden or not ours.isdisjoint(relative.parents)
        if not left_out and imaging.named_as_photo(file) and file.is_file():
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
