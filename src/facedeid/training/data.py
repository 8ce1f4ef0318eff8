"""Aligned face photos for training: folders and tar archives, decoded once, split by a hash.

Photos are expected in the canonical (FFHQ) frame. Beside an archive `faces.tar` or `faces.tar.gz`
(or a folder `faces/`) may lie `faces_landmarks.npz` (`names`: file stems, `points`: N×68×2 in
pixels of the photos) and `faces_identities.csv` (columns `name`, `identity`). Without landmarks
those of an average face in the frame are taken; without identities every photo is a person of its
own.
"""

import csv
import lzma
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facedeid import imaging
from facedeid.errors import PhotoError, TrainingError
from facedeid.landmarks import MEAN_FACE, MIRRORED

__all__ = ["Faces", "is_held_out", "load_faces", "mirrored"]

T = TypeVar("T")

HELD_OUT_OF = 10
"""One key in so many is held out."""
_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError)
"""What damaged zip archives raise; a RuntimeError where they seem encrypted, or unknown."""


@dataclass(frozen=True, eq=False)
class Faces:
    """Photos in memory: `images` N×3×S×S uint8 RGB, `landmarks` N×68×2 in pixels, `keys` of the
    people (or the photos), N strings.
    """

    images: Tensor
    landmarks: Tensor
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, *, held_out: bool) -> "Faces":
        """The photos to train on, or those held out.

        Raises:
            TrainingError: that part is empty.
        """
        chosen = [i for i, key in enumerate(self.keys) if is_held_out(key) == held_out]
        if not chosen:
            raise TrainingError(
                f"none of the {len(self)} photos is {'held out' if held_out else 'for training'}"
                " after the split; add photos"
            )
        keys = tuple(self.keys[i] for i in chosen)
        return Faces(self.images[chosen], self.landmarks[chosen], keys)


def mirrored(points: Tensor, flip: Tensor, side: int) -> Tensor:
    """Landmarks N×68×2 of pictures of which those in `flip` (N booleans) are mirrored."""
    turned = points[:, list(MIRRORED)].clone()
    turned[..., 0] = side - 1 - turned[..., 0]
    return torch.where(flip[:, None, None], turned, points)


def is_held_out(key: str) -> bool:
    """Whether a person is kept out of training: `crc32(key) % 10 == 0`."""
    return zlib.crc32(key.encode()) % HELD_OUT_OF == 0


def load_faces(sources: Sequence[Path], *, size: int, limit: int | None = None) -> Faces:
    """Decode every photo of the folders and archives, resized to `size` × `size`.

    Args:
        sources: folders and tar archives.
        size: side of the photos in memory.
        limit: at most so many photos of each source (None: all), evenly spread.

    Raises:
        TrainingError: a source is missing or damaged, holds no photo, or its landmarks or
            identities do not fit.
    """
    if not sources:
        raise TrainingError("no training data: name folders or tar archives of aligned photos")
    images, landmarks, keys = [], [], []
    for source in sources:
        points, identities = _landmarks(source), _identities(source)
        by_stem = points is not None or bool(identities)
        found = list(_decoded(source, size, limit, by_stem=by_stem))
        if not found:
            raise TrainingError(f"{source} holds no photo ({', '.join(sorted(imaging.SUFFIXES))})")
        if identities and not any(key in identities for key, *_ in found):
            raise TrainingError(
                f"{_beside(source, '_identities.csv')} names none of the photos; write the names "
                f"of the files without their suffix, such as {found[0][0]}"
            )
        for key, image, side in found:
            images.append(image)
            landmarks.append(_scaled(points, key, side, size, source))
            keys.append(identities.get(key, key))
    return Faces(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(landmarks)),
        tuple(keys),
    )


def _scaled(
    points: dict[str, NDArray[np.float32]] | None, stem: str, side: int, size: int, source: Path
) -> NDArray[np.float32]:
    if points is None:
        return (MEAN_FACE * size).astype(np.float32)
    if stem not in points:
        raise TrainingError(f"{_beside(source, '_landmarks.npz')} has no landmarks of {stem}")
    scaled: NDArray[np.float32] = (points[stem] + 0.5) * np.float32(size / side) - np.float32(0.5)
    return scaled


def _decoded(
    source: Path, size: int, limit: int | None, *, by_stem: bool
) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Key, photo (size×size×3) and the side it had, of each photo of a source."""
    for key, name, data in _files(source, limit, by_stem=by_stem):
        try:
            photo = Image.fromarray(imaging.parsed(data, first_frame=True).rgb8)
        except PhotoError as error:
            raise TrainingError(f"{source}: {name} is not a readable photo: {error}") from error
        if photo.width != photo.height:
            raise TrainingError(
                f"{source}: {name} is {photo.width}×{photo.height}; training photos are aligned"
                " faces and square: docs/training_recipes.md has a script that cuts them out"
            )
        side = photo.width
        if side != size:
            photo = photo.resize((size, size), Image.Resampling.LANCZOS)
        yield key, np.asarray(photo), side


def _files(source: Path, limit: int | None, *, by_stem: bool) -> Iterator[tuple[str, str, bytes]]:
    """Key, name within the source and content of each photo."""
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if imaging.named_as_photo(p))
        keys = _keys([p.relative_to(source) for p in paths], source, by_stem=by_stem)
        for key, path in _spread(list(zip(keys, paths, strict=True)), limit):
            name = path.relative_to(source).as_posix()
            try:
                data = path.read_bytes()
            except OSError as error:
                raise TrainingError(f"{source}: {name} cannot be read: {error}") from error
            yield key, name, data
        return
    if not source.is_file():
        raise TrainingError(f"{source} does not exist; name a folder or a tar archive of photos")
    try:
        with tarfile.open(source) as archive:
            members = [m for m in archive if m.isfile() and imaging.named_as_photo(Path(m.name))]
            keys = _keys([Path(m.name) for m in members], source, by_stem=by_stem)
            for key, member in _spread(list(zip(keys, members, strict=True)), limit):
                file = archive.extractfile(member)
                assert file is not None
                yield key, member.name, file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise TrainingError(f"{source} is not a readable tar archive: {error}") from error


def _keys(names: Sequence[Path], source: Path, *, by_stem: bool) -> list[str]:
    """A photo's key: its stem; where photos in several folders have that, its path.

    Raises:
        TrainingError: there are such photos, and `by_stem` landmarks or identities are given.
    """
    places: dict[str, dict[Path, Path]] = defaultdict(dict)
    for name in names:
        places[name.stem].setdefault(name.parent, name)
    for same in places.values():
        if by_stem and len(same) > 1:
            one, two, *_ = (name.as_posix() for name in same.values())
            raise TrainingError(
                f"{source}: {one} and {two} have the same name, by which their landmarks and"
                " identities are found; rename one"
            )
    return [
        name.stem if len(places[name.stem]) == 1 else name.with_suffix("").as_posix()
        for name in names
    ]


def _spread(items: list[T], limit: int | None) -> list[T]:
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _beside(source: Path, ending: str) -> Path:
    place = source if source.name not in ("", "..") else source.resolve()
    name = place.name if place.is_dir() else place.stem.removesuffix(".tar")
    return place.parent / (name + ending)


def _landmarks(source: Path) -> dict[str, NDArray[np.float32]] | None:
    path = _beside(source, "_landmarks.npz")
    if not path.exists():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names, points = file["names"], file["points"].astype(np.float32)
    except (OSError, EOFError, ValueError, KeyError, TypeError, *_ZIP) as error:
        raise TrainingError(f"{path} is not a file of landmarks: {error}") from error
    if names.ndim != 1 or points.shape != (len(names), 68, 2):
        raise TrainingError(f"{path}: points must be N×68×2 for N names, got {points.shape}")
    if not np.isfinite(points).all():
        worst = names[~np.isfinite(points).all((1, 2))][0]
        raise TrainingError(f"{path}: not all points of {worst} are finite numbers")
    return dict(zip(names.tolist(), points, strict=True))


def _identities(source: Path) -> dict[str, str]:
    path = _beside(source, "_identities.csv")
    if not path.exists():
        return {}
    identities = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"name", "identity"} <= set(rows.fieldnames or ()):
                raise TrainingError(f"{path} must have the columns name and identity")
            for row in rows:
                if not row["name"] or not row["identity"]:
                    raise TrainingError(f"{path}: line {rows.line_num} lacks a name or an identity")
                identities[row["name"]] = row["identity"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path} is not a readable CSV file in UTF-8: {error}") from error
    return identities
