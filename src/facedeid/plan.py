"""A plan: the faces of each photo as boxes in a JSON file, for a person to correct.

Faces that a detector misses are the known weak point of every such tool. A plan is written, a
person adds, moves or removes boxes (or sets `protect` to false), and protection follows the plan.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError, WeightsError
from facedeid.faces import Face, detect, faces_from_boxes
from facedeid.imaging import Photo
from facedeid.weights import sha256_of

__all__ = ["SCHEMA", "Choose", "Plan", "planned"]

SCHEMA = "facedeid.plan/1"

Box = tuple[float, float, float, float]
Found = tuple[list[Face], list[bool]]
"""Faces, and per face whether it is to be protected."""
Choose = Callable[[NDArray[np.uint8], Sequence[Face]], Sequence[bool]]
"""Per face of a picture, whether it is to be protected."""


def planned(
    path: Path,
    relative: str,
    *,
    detector: str,
    min_face: int,
    first_frame: bool = False,
    choose: Choose | None = None,
) -> dict[str, Any]:
    """The entry of one photo, JSON-ready; an unreadable photo has an `error` and no faces.

    `choose` says per face whether it is to be protected (None: all), as `batch.selected` gives it.
    """
    try:
        photo, sha256 = imaging.read(path, first_frame=first_frame), sha256_of(path)
    except (PhotoError, WeightsError) as error:
        return {"photo": relative, "error": str(error), "faces": []}
    found = detect(photo.rgb8, detector=detector, min_face=min_face)
    chosen = [True] * len(found) if choose is None else choose(photo.rgb8, found)
    faces = [
        {
            "box": [round(float(v), 1) for v in face.box],
            "protect": bool(yes),
            "score": round(face.score, 3),
            "detector": face.detector,
        }
        for face, yes in zip(found, chosen, strict=True)
    ]
    size = {"width": photo.width, "height": photo.height}
    return {"photo": relative, **size, "sha256": sha256, "faces": faces}


@dataclass(frozen=True)
class Entry:
    """What a plan says of one photo."""

    boxes: tuple[Box, ...]
    protect: tuple[bool, ...]
    size: tuple[int, int] | None
    """Width and height, where the plan has them."""
    error: str | None
    """Why the photo could not be read when the plan was written."""
    sha256: str | None = None
    """Of the file, where the plan has it."""


@dataclass(frozen=True)
class Plan:
    """Entries by the photo's relative path."""

    entries: Mapping[str, Entry]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan that a person may have edited.

        Raises:
            OptionError: it cannot be read, or an entry is not as it should be; says which.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))  # Notepad may mark it so
        except (OSError, ValueError, RecursionError) as error:
            raise OptionError(f"cannot read the plan {path}: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise OptionError(f"{path} is not a plan of facedeid (schema {SCHEMA!r})")
        photos, entries = data.get("photos", []), dict[str, Entry]()
        if not isinstance(photos, list):
            raise OptionError(f'{path}: "photos" must be a list')
        for number, raw in enumerate(photos):
            try:
                name, entry = str(raw["photo"]), _entry(raw)
                if name in entries:
                    raise ValueError(f"{name} is there twice")
            except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise OptionError(
                    f"{path}: entry {number} is not as it should be ({error!r}); a photo needs "
                    '"photo" and "faces", a face "box": [left, top, right, bottom] in pixels'
                ) from error
            entries[name] = entry
        return cls(entries)

    @staticmethod
    def text(entries: Sequence[Mapping[str, Any]]) -> str:
        """The file's content."""
        head = {
            "schema": SCHEMA,
            "help": "correct, add or remove boxes: [left, top, right, bottom] of a face, pixels; "
            'with "protect": false it stays as it is',
        }
        return json.dumps({**head, "photos": list(entries)}, indent=1) + "\n"

    def digest(self, relative: str) -> str:
        """Changes when the entry of that photo does."""
        return hashlib.sha256(repr(self.entries.get(relative)).encode()).hexdigest()[:16]

    def finder(self, relative: str) -> Callable[[Photo], Found]:
        """What takes the detector's place for that photo; it raises PhotoError if it cannot."""

        def find(photo: Photo) -> Found:
            entry = self.entries.get(relative)
            if entry is None:
                raise PhotoError(
                    f"{relative} is not in the plan: add it there, or move the plan away and write "
                    "it again"
                )
            if entry.error is not None:
                raise PhotoError(f"{relative} could not be read for the plan: {entry.error}")
            size = (photo.width, photo.height)
            if entry.size not in (None, size):
                raise PhotoError(
                    f"{relative} has {size[0]}×{size[1]} pixels, in the plan "
                    f"{'×'.join(map(str, entry.size or ()))}: not the same photo"
                )
            source = photo.source
            if source and entry.sha256 and sha256_of(source.path) != entry.sha256:
                raise PhotoError(
                    f"{relative} has changed since the plan was written: write the plan again, or "
                    'take its "sha256" out of the plan if the boxes still lie on the faces'
                )
            for box in entry.boxes:
                if max(box[2] - box[0], box[3] - box[1]) > 2 * max(size):
                    raise PhotoError(f"{relative}: the box {box} is far larger than the photo")
            try:
                return faces_from_boxes(photo.rgb8, entry.boxes), list(entry.protect)
            except OptionError as error:
                raise PhotoError(f"{relative}: {error}; correct the plan") from error

        return find


def _entry(raw: Mapping[str, Any]) -> Entry:
    faces = raw["faces"]
    protect = tuple(face.get("protect", True) for face in faces)
    if not all(isinstance(yes, bool) for yes in protect):
        raise ValueError('"protect" must be true or false')
    size = (int(raw["width"]), int(raw["height"])) if "width" in raw else None
    error = raw.get("error") if not faces else None  # boxes added by hand count
    boxes, sha256 = tuple(map(_box, faces)), raw.get("sha256")
    if not (sha256 is None or isinstance(sha256, str)):
        raise ValueError('"sha256" must be a text')
    return Entry(boxes, protect, size, None if error is None else str(error), sha256)


def _box(face: Mapping[str, Any]) -> Box:
    if not isinstance(face["box"], list):
        raise TypeError(f"the box {face['box']!r} is not a list")
    left, top, right, bottom = (float(v) for v in face["box"])
    if not (left < right and top < bottom and all(map(math.isfinite, (left, top, right, bottom)))):
        raise ValueError(f"the box {face['box']} is empty or not finite")
    return left, top, right, bottom
