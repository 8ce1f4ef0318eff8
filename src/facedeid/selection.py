"""Which faces of a photo are meant: by number, by region, or by a reference photo of a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facedeid import imaging
from facedeid.errors import OptionError
from facedeid.faces import Face, detect
from facedeid.models import Recognizer

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Faces to keep as they are, or the only ones to protect; neither: protect all."""

    recognizers: tuple[Recognizer, ...]
    require: str
    only: bool
    numbers: frozenset[int]
    regions: tuple[tuple[float, float, float, float], ...]
    people: tuple[tuple[Tensor, ...], ...]
    """Per reference photo, the person's embedding under each recogniser."""

    @classmethod
    def of(
        cls,
        keep: Sequence[str],
        only: Sequence[str],
        recognizers: Sequence[Recognizer],
        require: str,
    ) -> "Selection":
        """Read `--keep` and `--only`: numbers, `left,top,right,bottom`, or paths.

        Raises:
            OptionError: neither of these, or a reference photo without exactly one face.
        """
        numbers, regions, people = set(), [], []
        for text in (*keep, *only):
            parts = text.split(",")
            if text.strip().isdigit():
                numbers.add(int(text))
            elif len(parts) == 4 and (region := _floats(parts)) is not None:
                regions.append(region)
            elif Path(text).is_file():
                people.append(_person(Path(text), recognizers))
            else:
                raise OptionError(
                    f"cannot tell which face {text!r} means: give its number, a region as "
                    "left,top,right,bottom in pixels, or the path of a photo of the person"
                )
        return cls(
            tuple(recognizers),
            require,
            bool(only),
            frozenset(numbers),
            tuple(regions),
            tuple(people),
        )

    def choose(self, rgb: NDArray[np.uint8], faces: Sequence[Face]) -> list[bool]:
        """Per face, whether it is to be protected."""
        named = [self._named(rgb, i, face) for i, face in enumerate(faces)]
        return named if self.only else [not yes for yes in named]

    def _named(self, rgb: NDArray[np.uint8], index: int, face: Face) -> bool:
        left, top, right, bottom = face.box
        x, y = (left + right) / 2, (top + bottom) / 2
        inside = any(a <= x < c and b <= y < d for a, b, c, d in self.regions)
        return index in self.numbers or inside or self._known(rgb, face)

    def _known(self, rgb: NDArray[np.uint8], face: Face) -> bool:
        """Whether the face is one of the people.

        In doubt a face is protected: to be kept, every recogniser must agree; to be protected,
        one is enough.
        """
        if not self.people:
            return False
        own = [r.embed_photo(rgb, [face.landmarks])[0] for r in self.recognizers]
        agree = any if self.only else all
        return any(
            agree(
                float(r.distance(a, b)) < r.threshold(self.require)
                for r, a, b in zip(self.recognizers, own, person, strict=True)
            )
            for person in self.people
        )


def _floats(parts: Sequence[str]) -> tuple[float, float, float, float] | None:
    try:
        left, top, right, bottom = (float(p) for p in parts)
    except ValueError:
        return None
    return left, top, right, bottom


def _person(path: Path, recognizers: Sequence[Recognizer]) -> tuple[Tensor, ...]:
    rgb = imaging.read(path).rgb8
    found = detect(rgb)
    if len(found) != 1:
        raise OptionError(
            f"{path}: a reference photo must show exactly one face, {len(found)} were found"
        )
    return tuple(r.embed_photo(rgb, [found[0].landmarks])[0] for r in recognizers)
