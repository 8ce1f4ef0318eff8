"""A plan: the faces of each photo as boxes in a JSON file, for a person to correct.

Faces that a detector misses are the known weak point of every such tool. A plan is written, a
person adds, moves or removes boxes (or sets `protect` to false), and protection follows the plan.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError
from facedeid.faces import Face, detect, faces_from_boxes
from facedeid.imaging import Photo

__all__ = ["SCHEMA", "Plan", "planned"]

SCHEMA = "facedeid.plan/1"

Box = tuple[float, float, float, float]


def planned(path: Path, relative: str, *, detector: str, min_face: int) -> dict[str, Any]:
    """The entry of one photo, JSON-ready; an unreadable photo has an `error` and no faces."""
    try:
        photo = imaging.read(path)
    except PhotoError as error:
        return {"photo": relative, "error": str(error), "faces": []}
    height, width = photo.rgb.shape[:2]
    faces = [
        {
            "box": [round(float(v), 1) for v in face.box],
            "protect": True,
            "score": round(face.score, 3),
            "detector": face.detector,
        }
        for face in detect(photo.rgb8, detector=detector, min_face=min_face)
    ]
    return {"photo": relative, "width": width, "height": height, "faces": faces}


@dataclass(frozen=True)
class Plan:
    """Boxes to protect, by the photo's relative path."""

    boxes: Mapping[str, tuple[Box, ...]]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan that a person may have edited.

        Raises:
            OptionError: it cannot be read, or an entry is not as it should be; says which.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot read the plan {path}: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise OptionError(f"{path} is not a plan of facedeid (schema {SCHEMA!r})")
        boxes: dict[str, tuple[Box, ...]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for number, entry in enumerate(data.get("photos", [])):
            try:
                name = str(entry["photo"])
                boxes[name] = tuple(_box(f) for f in entry["faces"] if f.get("protect", True))
                if "width" in entry:
                    sizes[name] = (int(entry["width"]), int(entry["height"]))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise OptionError(
                    f"{path}: entry {number} is not as it should be ({error!r}); a photo needs "
                    '"photo" and "faces", a face "box": [left, top, right, bottom] in pixels'
                ) from error
        return cls(boxes, sizes)

    @staticmethod
    def text(entries: Sequence[Mapping[str, Any]]) -> str:
        """The file's content."""
        head = {"schema": SCHEMA, "help": "correct the boxes: [left, top, right, bottom], pixels"}
        return json.dumps({**head, "photos": list(entries)}, indent=1) + "\n"

    def finder(self, relative: str) -> Callable[[Photo], list[Face]]:
        """What takes the detector's place for that photo."""

        def find(photo: Photo) -> list[Face]:
            if relative not in self.boxes:
                raise PhotoError(f"{relative} is not in the plan; write the plan again")
            height, width = photo.rgb.shape[:2]
            if self.sizes.get(relative, (width, height)) != (width, height):
                raise PhotoError(
                    f"{relative} has {width}×{height} pixels, in the plan "
                    f"{'×'.join(map(str, self.sizes[relative]))}: not the same photo"
                )
            return faces_from_boxes(photo.rgb8, self.boxes[relative])

        return find


def _box(face: Mapping[str, Any]) -> Box:
    left, top, right, bottom = (float(v) for v in face["box"])
    if not (left < right and top < bottom):
        raise ValueError(f"the box {face['box']} is empty")
    return left, top, right, bottom
