"""Where faces may be: three detectors behind one seam, searched over scales and tiles.

Recall matters more than precision here: a face that is missed is a face that is released. So the
photo is enlarged until the smallest face wanted fills the detector's window, and every size from
there up to the whole photo is searched. Enlarging a 12-megapixel photo as a whole would take
gigabytes; it is searched in overlapping tiles instead, and sizes too large for the tiles' overlap
are left to the next, coarser pass. Memory is bounded by one tile, whatever the photo, but for grey
copies where it is also searched turned.

All boxes follow the convention of dlib's HOG detector, a square from the brows to just below the
chin, so that `min_face` means the same for every detector and the landmark predictor gets the
boxes it was trained with.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, radians
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.weights import dlib_model_path

__all__ = ["DETECTORS", "Finder", "dlib_model", "finder", "scan", "suppress"]

Boxes = NDArray[np.float64]
"""N×5: left, top, right, bottom (pixels, edges at integers), score."""

DETECTORS = ("hog", "cnn")
"""Detectors known by name; the path of a YuNet `.onnx` file is the third kind."""

SMALLEST = 10
"""Faces below this many pixels hold nothing that a detector or a recogniser could use."""

_REACH = 3.0
"""A pass over tiles is trusted for faces from the detector's window to this multiple of it."""


@dataclass(frozen=True)
class Finder:
    """The seam: one detector, and what the search has to know about it."""

    name: str
    find: Callable[[NDArray[np.uint8]], Boxes]
    """H×W×3 uint8 RGB -> boxes of all faces whose side is `window` pixels or more."""
    window: int
    """Side of the smallest face found without enlarging, in pixels."""
    area: int
    """Most pixels to give to `find` at once; bounds memory."""
    tilted: Callable[[NDArray[np.uint8]], Boxes] | None = None
    """The same for H×W uint8 grey and sure finds only; for a detector that misses faces tilted by
    more than about 25 degrees. The photo is searched again with it, turned to either side."""


_local = threading.local()


def dlib_model(kind: Callable[[str], Any], file: str) -> Any:
    """A dlib object made from a model file, one per thread (they are not safe to share).

    Raises:
        WeightsError: the package `face_recognition_models` or a file of it is missing.
    """
    if file not in vars(_local):
        setattr(_local, file, kind(str(dlib_model_path(file))))
    return getattr(_local, file)


def finder(detector: str) -> Finder:
    """The detector of that name: "hog", "cnn", or the path of a YuNet `.onnx` file.

    The first costs about 0.15 s per megapixel searched on one core, the second about 10 s, and
    it finds more profile and half-hidden faces; the third needs a file that is not shipped.

    Raises:
        OptionError: no such detector or file, or the file holds something else.
    """
    if detector == "hog":
        return Finder("hog", _find_hog, window=80, area=16_000_000, tilted=_find_sure)
    if detector == "cnn":
        return Finder("cnn", _find_cnn, window=70, area=1_000_000)
    if detector.lower().endswith(".onnx"):
        return Finder("yunet", _yunet(detector), window=20, area=1_000_000)
    raise OptionError(
        f"unknown detector {detector!r}: use {' or '.join(DETECTORS)}, or the path of a YuNet .onnx"
    )


def _find_hog(rgb: NDArray[np.uint8]) -> Boxes:
    """The HOG detector, with a second opinion from the CNN where it hesitates.

    HOG is steered by its score: above 0 a hit stands. From -0.5 to 0 lie as many hats, profiles
    and shadows over true faces as chance patterns; the CNN, far too slow for whole photos, looks
    at just these. Of 170 faces that YuNet reports on 160 photos (a few are hands), HOG alone finds
    143, and 156 with the second look; boxes that YuNet does not report: 2 either way.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)  # as good as colour here, and a quarter faster
    boxes = suppress(_hog(np.asarray(grey, np.uint8), _DOUBTFUL))
    sure = boxes[:, 4] >= 0
    return np.concatenate([boxes[sure], *(_second_look(rgb, box) for box in boxes[~sure])])


def _find_sure(grey: NDArray[np.uint8]) -> Boxes:
    return _hog(grey, _SURE)


def _hog(grey: NDArray[np.uint8], least: float) -> Boxes:
    if not hasattr(_local, "hog"):
        import dlib

        _local.hog = dlib.get_frontal_face_detector()
    rectangles, scores, _ = _local.hog.run(grey, 0, least)
    return _boxes(rectangles, scores)


_DOUBTFUL = -0.5
_SURE = 0.4
_LOOK = 76
"""Side that a doubtful box gets in the crop for the CNN, which finds 70 pixels and more."""


def _second_look(rgb: NDArray[np.uint8], box: NDArray[np.float64]) -> Boxes:
    side = box[2] - box[0]
    left, top = np.maximum(box[:2] - 0.5 * side, 0).astype(int)
    right, bottom = (box[2:4] + 0.5 * side).astype(int)
    crop = rgb[top:bottom, left:right]
    ratio = _LOOK / side
    size = (max(1, round(crop.shape[1] * ratio)), max(1, round(crop.shape[0] * ratio)))
    small = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
    found = _find_cnn(small)
    found[:, :4] = found[:, :4] / ratio + np.array([left, top, left, top])
    return found


def _find_cnn(rgb: NDArray[np.uint8]) -> Boxes:
    import dlib

    network = dlib_model(dlib.cnn_face_detection_model_v1, "mmod_human_face_detector.dat")
    found = network(rgb, 0)
    return _boxes([f.rect for f in found], [f.confidence for f in found])


def _boxes(rectangles: Any, scores: Any) -> Boxes:
    rows = [
        (r.left(), r.top(), r.right() + 1, r.bottom() + 1, s)
        for r, s in zip(rectangles, scores, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 5)


def _yunet(path: str) -> Callable[[NDArray[np.uint8]], Boxes]:
    key = f"yunet {Path(path).resolve()}"
    if not Path(path).is_file():
        raise OptionError(
            f"there is no file {path}; use {' or '.join(DETECTORS)}, or the path of a YuNet .onnx"
        )
    if key not in vars(_local):
        try:
            setattr(_local, key, cv2.FaceDetectorYN.create(path, "", (320, 320), 0.6, 0.3, 5000))
        except cv2.error as error:
            raise OptionError(
                f"{path} is not a YuNet model that OpenCV can read; "
                f"use {' or '.join(DETECTORS)}, or another file"
            ) from error
    network = getattr(_local, key)

    def find(rgb: NDArray[np.uint8]) -> Boxes:
        network.setInputSize((rgb.shape[1], rgb.shape[0]))
        _, found = network.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        if found is None:
            return np.zeros((0, 5))
        left, top, width, height = found[:, :4].T.astype(np.float64)
        side = np.sqrt(width * height) / 1.06  # YuNet's boxes reach up to the hair
        x, y = left + width / 2, top + height / 2 + 0.085 * side
        low, high = (x - side / 2, y - side / 2), (x + side / 2, y + side / 2)
        return np.stack([*low, *high, found[:, 14].astype(np.float64)], 1)

    return find


def scan(rgb8: NDArray[np.uint8], finder: Finder, min_face: float) -> Boxes:
    """Search a photo for faces of `min_face` pixels and more.

    Args:
        rgb8: H×W×3 uint8.
        finder: the detector.
        min_face: side of the smallest face wanted, in pixels, 10 or more.

    Returns:
        Boxes in pixels of the photo, overlaps suppressed, best score first.

    A detector that has a `tilted` one beside it is run upright first; then the photo, turned by
    35 degrees to either side, is searched with that for faces of 2.5 times `min_face`, at least
    60 pixels. The boxes of these are upright squares around the same centre, of the same side.
    """
    if min_face < SMALLEST:
        raise OptionError(f"min_face must be {SMALLEST} pixels or more, got {min_face}")
    found = [_search(rgb8, finder.find, finder, min_face)]
    if finder.tilted is not None:
        found += [_search_turned(rgb8, finder.tilted, finder, min_face, d) for d in _TURNS]
    return suppress(np.concatenate(found))


def _search(
    photo: NDArray[np.uint8],
    find: Callable[[NDArray[np.uint8]], Boxes],
    finder: Finder,
    min_face: float,
) -> Boxes:
    """Passes over a photo, with doubles.

    Each pass shrinks (or enlarges) the photo once. Where the result fits into the detector's
    `area`, that pass sees all sizes and is the last; otherwise it is cut into tiles, and only
    faces up to 3 windows are taken from it, the rest from the next pass at a third of the scale.
    """
    finder = replace(finder, find=find)
    scale = finder.window / min_face
    found = [np.zeros((0, 5))]
    while True:
        last = photo.shape[0] * photo.shape[1] * scale**2 <= finder.area
        boxes = _one_pass(photo, finder, scale)
        found.append(boxes if last else boxes[_sides(boxes) * scale <= finder.window * _REACH])
        if last:
            return np.concatenate(found)
        scale /= _REACH / 1.2  # sizes at the limit are searched from both sides


_TURNS = (35, -35)
"""Degrees, anticlockwise. HOG sees about 25 either way, so together that is 60 either way."""

_COARSER = 2.5
_LEAST_TURNED = 60
"""Turned photos are searched for faces of this many pixels, or times `min_face`: their canvas is
twice the photo, so the two passes cost 4 / 2.5² of the upright search with HOG."""

_LONGEST_TURNED = 4
"""The canvas of a turned strip grows as the square of its length. What is longer, in its short
sides, is turned in pieces, which overlap by the short side: no face is larger than that."""


def _search_turned(
    rgb8: NDArray[np.uint8],
    find: Callable[[NDArray[np.uint8]], Boxes],
    finder: Finder,
    min_face: float,
    degrees: float,
) -> Boxes:
    height, width = rgb8.shape[:2]
    least = max(_COARSER * min_face, _LEAST_TURNED)
    if max(height, width) < least:
        return np.zeros((0, 5))
    short = max(min(height, width), least)
    found = [np.zeros((0, 5))]
    for top, bottom in _spans(height, _LONGEST_TURNED * short, short):
        for left, right in _spans(width, _LONGEST_TURNED * short, short):
            piece = rgb8[top:bottom, left:right]
            boxes = _search_turned_piece(piece, find, finder, least, radians(degrees))
            found.append(boxes + np.array([left, top, left, top, 0]))
    return np.concatenate(found)


def _search_turned_piece(
    rgb8: NDArray[np.uint8],
    find: Callable[[NDArray[np.uint8]], Boxes],
    finder: Finder,
    least: float,
    angle: float,
) -> Boxes:
    grey = np.asarray(cv2.cvtColor(rgb8, cv2.COLOR_RGB2GRAY), np.uint8)
    grey, ratio = _resized(grey, min(1.0, finder.window / least))
    matrix, size = _turn(grey.shape[1], grey.shape[0], angle)
    turned = cv2.warpAffine(grey, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    shrunk = float(np.sqrt(ratio.prod()))
    boxes = _search(np.asarray(turned, np.uint8), find, finder, least / shrunk)
    half = _sides(boxes)[:, None] / 2 * shrunk
    centre = ((boxes[:, :2] + boxes[:, 2:4]) / 2 - 0.5 - matrix[:, 2]) @ matrix[:, :2]
    centre = (centre + 0.5) * ratio
    boxes = np.concatenate([centre - half, centre + half, boxes[:, 4:]], 1)
    return boxes[((centre >= 0) & (centre <= rgb8.shape[1::-1])).all(1)]


def _turn(width: int, height: int, angle: float) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Rotation of pixel coordinates, anticlockwise as seen, and the canvas that holds it all."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    across, down = np.ceil(np.abs(turn) @ (width, height)).astype(int).tolist()
    middle = np.array([width - 1, height - 1]) / 2
    shift = np.array([across - 1, down - 1]) / 2 - turn @ middle
    return np.column_stack([turn, shift]), (across, down)


def _sides(boxes: Boxes) -> NDArray[np.float64]:
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _one_pass(rgb8: NDArray[np.uint8], finder: Finder, scale: float) -> Boxes:
    height, width = rgb8.shape[:2]
    side = finder.area**0.5 / scale
    overlap = finder.window * _REACH * 1.3 / scale
    if height * width * scale**2 <= finder.area:
        return _in_tile(rgb8, finder, scale, (0, height), (0, width))
    found = [
        _in_tile(rgb8, finder, scale, rows, columns)
        for rows in _spans(height, side, overlap)
        for columns in _spans(width, side, overlap)
    ]
    return np.concatenate(found)


def _spans(length: int, side: float, overlap: float) -> list[tuple[int, int]]:
    """Equal overlapping spans that cover `length`, none longer than `side`."""
    if length <= side:
        return [(0, length)]
    count = ceil((length - overlap) / (side - overlap))
    span = (length - overlap) / count + overlap
    return [
        (int(i * (span - overlap)), min(ceil(i * (span - overlap) + span), length))
        for i in range(count)
    ]


def _in_tile(
    rgb8: NDArray[np.uint8],
    finder: Finder,
    scale: float,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Boxes:
    resized, ratio = _resized(rgb8[slice(*rows), slice(*columns)], scale)
    boxes = finder.find(np.ascontiguousarray(resized, np.uint8))
    corner = np.array([columns[0], rows[0]], np.float64)
    boxes[:, :4] = boxes[:, :4] * np.tile(ratio, 2) + np.tile(corner, 2)
    return boxes


def _resized(
    photo: NDArray[np.uint8], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The photo at about that scale, and pixels of it per resulting pixel, across and down."""
    if scale == 1:
        return photo, np.ones(2)
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(photo, size, interpolation=how), np.uint8)
    return resized, np.array([photo.shape[1] / size[0], photo.shape[0] / size[1]])


def suppress(boxes: Boxes, *, overlap: float = 0.35, inside: float = 0.8) -> Boxes:
    """Drop boxes that are the same face as a better-scored one.

    Two boxes are one face if they share `overlap` of their union or `inside` of the smaller, with
    one exception: a box does not give way to a better-scored one within it that is less than a
    quarter of its area. That may be a child before its mother, or an eye that scores higher than
    the face around it, and both stay: a box too many costs less than a missed face.

    Returns:
        The boxes that stay, best score first.
    """
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep: list[int] = []
    for i, box in enumerate(boxes):
        low = np.maximum(box[:2], boxes[keep, :2])
        high = np.minimum(box[2:4], boxes[keep, 2:4])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        union = area[i] + area[keep] - shared
        smaller = np.minimum(area[i], area[keep])
        within = (shared > inside * smaller) & (area[keep] >= area[i] / 4)
        if not np.any((shared > overlap * union) | within):
            keep.append(i)
    return boxes[keep]
