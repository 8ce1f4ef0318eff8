"""Which faces of a photo are meant: by number, by region, or by a reference photo of a person."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError
from facedeid.faces import Face, detect
from facedeid.models import Recognizer

__all__ = ["Selection"]

Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class Selection:
    """Faces to keep as they are, or the only ones to protect; neither: protect all."""

    recognizers: tuple[Recognizer, ...]
    only: bool
    numbers: frozenset[int]
    regions: tuple[Region, ...]
    people: tuple[tuple[Tensor, ...], ...]
    """Per reference photo, the person's embedding under each recogniser."""

    @classmethod
    def of(
        cls,
        keep: Sequence[str],
        only: Sequence[str],
        recognizers: Sequence[Recognizer],
        *,
        detector: str = "hog",
        first_frame: bool = False,
    ) -> "Selection":
        """Read `--keep` and `--only`: numbers, `left,top,right,bottom`, or paths.

        Reference photos are searched with `detector`; of animations `first_frame` takes the first.

        Raises:
            OptionError: neither of these, or a reference photo that cannot be read or has not
                exactly one face.
        """
        numbers, regions, people = set(), [], []
        for text in (*keep, *only):
            if text.strip().isdecimal() and len(text) < 10:  # no photo has more faces
                numbers.add(int(text))
            elif (region := _region(text)) is not None:
                regions.append(region)
            elif os.path.isfile(text):  # noqa: PTH113 (no error for names that are too long)
                changed = Path(text).stat().st_mtime_ns
                people.append(_person(text, changed, tuple(recognizers), detector, first_frame))
            else:
                raise OptionError(
                    f"cannot tell which face {text!r} means: give its number, a region as "
                    "left,top,right,bottom in pixels, or the path of a photo of the person (no "
                    "file has that name)"
                )
        return cls(
            tuple(recognizers), bool(only), frozenset(numbers), tuple(regions), tuple(people)
        )

    @property
    def of_one_photo(self) -> bool:
        """Whether it names faces by number or place, which means something in one photo only."""
        return bool(self.numbers or self.regions)

    def choose(self, rgb: NDArray[np.uint8], faces: Sequence[Face]) -> list[bool]:
        """Per face, whether it is to be protected."""
        named = [self._named(rgb, i, face) for i, face in enumerate(faces)]
        return named if self.only else [not yes for yes in named]

    def unused(self, faces: Sequence[Face]) -> tuple[str, ...]:
        """What to say of numbers and regions that name none of the faces (if there are any)."""
        if not faces:
            return ()
        said = {
            str(number): f"faces found: {len(faces)}, numbered from 0"
            for number in sorted(self.numbers)
            if number >= len(faces)
        }
        for region in self.regions:
            if not any(_inside(face, region) for face in faces):
                said[",".join(f"{v:g}" for v in region)] = "none has its centre there"
        option = "--only" if self.only else "--keep"
        return tuple(f"{option} {given} names no face; {why}" for given, why in said.items())

    def _named(self, rgb: NDArray[np.uint8], index: int, face: Face) -> bool:
        inside = any(_inside(face, region) for region in self.regions)
        return index in self.numbers or inside or self._known(rgb, face)

    def _known(self, rgb: NDArray[np.uint8], face: Face) -> bool:
        """Whether the face is one of the people.

        In doubt a face is protected: to be kept, every recogniser must agree at its strictest
        operating point; to be protected, one is enough at its most generous.
        """
        if not self.people:
            return False
        agree, limit = (any, max) if self.only else (all, min)
        own = [r.embed_photo(rgb, [face.landmarks])[0] for r in self.recognizers]
        return any(
            agree(
                float(r.distance(a, b)) < limit(r.spec.thresholds.values())
                for r, a, b in zip(self.recognizers, own, person, strict=True)
            )
            for person in self.people
        )


def _inside(face: Face, region: Region) -> bool:
    left, top, right, bottom = face.box
    x, y = (left + right) / 2, (top + bottom) / 2
    return region[0] <= x < region[2] and region[1] <= y < region[3]


def _region(text: str) -> Region | None:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        return None
    if not (left < right and top < bottom):
        raise OptionError(f"the region {text} is empty: give left,top,right,bottom in pixels")
    return left, top, right, bottom


@lru_cache(maxsize=64)
def _person(
    path: str,
    changed: int,
    recognizers: tuple[Recognizer, ...],
    detector: str,
    first_frame: bool,
) -> tuple[Tensor, ...]:
    """Embeddings of the one face in a photo; `changed` renews what is remembered of it."""
    try:
        rgb = imaging.read(path, first_frame=first_frame).rgb8
    except PhotoError as error:
        raise OptionError(f"a reference photo cannot be read: {error}") from error
    found = detect(rgb, detector=detector)
    if len(found) != 1:
        raise OptionError(
            f"{path}: a reference photo must show exactly one face, {len(found)} were found"
        )
    return tuple(r.embed_photo(rgb, [found[0].landmarks])[0] for r in recognizers)
