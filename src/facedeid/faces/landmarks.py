"""From a box to 68 landmarks, and a face that carries both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facedeid.errors import OptionError
from facedeid.faces.detection import dlib_model, finder, scan
from facedeid.faces.resampling import reflected, warp
from facedeid.landmarks import FACE_BOX, MEAN_FACE

__all__ = ["Face", "detect", "faces_from_boxes", "from_landmarks"]


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo; all coordinates in pixels of the photo, x to the right, y down."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, brows to chin; may reach beyond the photo."""
    landmarks: NDArray[np.float64]
    """68×2, the iBUG 300-W points: jaw, brows, nose, eyes, mouth, each image left first."""
    score: float
    """Of the detector; scales differ between detectors."""
    detector: str
    """"hog", "cnn", "yunet" or "given"."""
    landmarks_from: Literal["dlib", "box", "given"]
    """Who placed the landmarks: the predictor, a mean face in the box, or the caller."""


def detect(rgb8: NDArray[np.uint8], *, detector: str = "hog", min_face: float = 24) -> list[Face]:
    """Every face of a photo.

    Args:
        rgb8: H×W×3 uint8.
        detector: "hog", "cnn", or the path of a YuNet `.onnx` file.
        min_face: side of the smallest face wanted, in pixels (brows to chin), 10 or more.

    Returns:
        Faces from top to bottom, then left to right, without overlapping doubles.

    Raises:
        OptionError: no such detector, a senseless size, or not a photo.
        WeightsError: the detector's or the landmark predictor's model is missing.
    """
    _check(rgb8)
    found = finder(detector)
    boxes = scan(rgb8, found, min_face)
    order = np.lexsort((boxes[:, 0], boxes[:, 1]))
    return [_face(rgb8, boxes[i, :4], float(boxes[i, 4]), found.name) for i in order]


def faces_from_boxes(rgb8: NDArray[np.uint8], boxes: Sequence[ArrayLike]) -> list[Face]:
    """Faces where the caller says that they are.

    Args:
        rgb8: H×W×3 uint8.
        boxes: left, top, right, bottom of each, about from brows to chin, in pixels.

    Returns:
        As many faces, in the same order, detector "given".

    Raises:
        OptionError: a box is not four finite numbers, is empty, lies outside the photo, or is
            more than three times as large as the photo.
    """
    _check(rgb8)
    return [_face(rgb8, _checked_box(rgb8, box), 1.0, "given") for box in boxes]


def from_landmarks(landmarks: ArrayLike) -> Face:
    """A face whose 68 landmarks the caller knows; its box encloses them.

    Args:
        landmarks: 68×2, x and y in pixels of the upright photo, in the order of dlib's 68 points.

    Raises:
        OptionError: they are not 68×2 finite numbers.
    """
    points = np.array(landmarks, np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise OptionError(f"landmarks must be 68×2 finite numbers, got shape {points.shape}")
    box = (*points.min(0).tolist(), *points.max(0).tolist())
    return Face(box, points, 1.0, "given", "given")


def _check(rgb8: NDArray[Any]) -> None:
    if not isinstance(rgb8, np.ndarray):
        raise OptionError(f"photo must be an array, H×W×3 uint8, got {type(rgb8).__name__}")
    if rgb8.ndim != 3 or rgb8.shape[2] != 3 or rgb8.dtype != np.uint8 or 0 in rgb8.shape:
        raise OptionError(f"photo must be H×W×3 uint8, got {rgb8.shape} {rgb8.dtype}")


def _checked_box(rgb8: NDArray[np.uint8], box: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.array(box, np.float64)
    except (TypeError, ValueError):  # words, or numbers in disorder
        values = np.zeros(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise OptionError(f"a box is left, top, right, bottom; got {box!r}")
    left, top, right, bottom = values
    if right - left < 1 or bottom - top < 1:
        raise OptionError(f"box {values.tolist()} is empty: left, top must be above right, bottom")
    if max(right - left, bottom - top) > 3 * max(rgb8.shape):
        raise OptionError(f"box {values.tolist()} is far larger than the photo")
    if right <= 0 or bottom <= 0 or left >= rgb8.shape[1] or top >= rgb8.shape[0]:
        raise OptionError(f"box {values.tolist()} lies outside the photo")
    return values


def _face(rgb8: NDArray[np.uint8], box: NDArray[np.float64], score: float, name: str) -> Face:
    edges = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    square = _square(box)
    side = square[2] - square[0]
    landmarks, doubt = _best(_trials(rgb8, square), square)
    if doubt <= _MOST_SPREAD:
        return Face(edges, landmarks, score, name, "dlib")
    return Face(edges, square[:2] + side * _MEAN_FACE, score, name, "box")


def _best(
    trials: NDArray[np.float64], square: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Of several tilts' trials (R×3×68×2): the mean of those that agree best, and their spread.

    The spread is in sides of the box, doubled after the first tilt since each further try is one
    more chance for agreement where there is no face; infinite where the shape
    could not be the face in the box.
    """
    side = square[2] - square[0]
    means = trials.mean(1)
    off = np.linalg.norm(trials - means[:, None], axis=-1)[:, :, 17:].mean((1, 2)) / side
    fits = [_plausible((points - square[:2]) / side) for points in means]
    off[1:] *= 2
    doubts = np.where(fits, off, np.inf)
    best = int(doubts.argmin())
    return means[best], float(doubts[best])


def _trials(rgb8: NDArray[np.uint8], square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Landmarks (R×3×68×2) for R tilts tried, from three boxes each.

    A large face is shrunk once for all of them.
    """
    side = square[2] - square[0]
    if side > 4 * _SIDE:
        left, top = np.maximum(np.floor(square[:2] - 1.5 * side), 0).astype(int)
        right, bottom = np.minimum(np.ceil(square[2:] + 1.5 * side), rgb8.shape[1::-1]).astype(int)
        around, scale = rgb8[top:bottom, left:right], 2 * _SIDE / side
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        small = np.asarray(cv2.resize(around, size, interpolation=cv2.INTER_AREA), np.uint8)
        ratio = np.array([right - left, bottom - top]) / size
        placed = _trials(small, (square - np.tile([left, top], 2)) / np.tile(ratio, 2))
        return np.asarray((placed + 0.5) * ratio - 0.5 + (left, top), np.float64)
    level = _at(rgb8, square, 0.0)
    if abs(_roll(level.mean(0))) <= _LEVEL and _best(level[None], square)[1] <= _CLEAR:
        return level[None]
    return np.stack([level, *(_at(rgb8, square, start) for start in _STARTS)])


def _at(rgb8: NDArray[np.uint8], square: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """Landmarks (3×68×2) from the nudged boxes, tilted as a first look tilted by `start` says."""
    roll = _roll(_predict(rgb8, square, start))
    return np.stack([_predict(rgb8, _nudged(square, *nudge), roll) for nudge in _NUDGES])


_LEVEL = np.radians(15)
_CLEAR = 0.015
"""A face found level, from boxes that agree this well, is not sought at other tilts. Beyond 25
degrees the first look may be wrong, also about the tilt, so it is repeated from both sides."""

_STARTS = (np.radians(40), np.radians(-40))

_NUDGES = ((0, 0, 1), (0.08, 0.04, 1.08), (-0.08, -0.04, 0.95))
"""Right, down (of the box's side), larger: the boxes from which the landmarks are predicted."""

_MOST_SPREAD = 0.05
"""The predictor always answers with the shape of a face. On a face it answers the same from a
nudged box (mean distance from the mean, in sides of the box: median 0.004, 96 % below 0.05, of 158
faces found by HOG); elsewhere the answer moves with the box (85 % above, of random places)."""


def _plausible(points: NDArray[np.float64]) -> bool:
    """Whether landmarks, in units of the box's side, could be those of the face in the box.

    Bounds are about twice as wide as the range over 146 faces found by HOG: eyes apart by 0.15 to
    0.7, that distance 0.45 to 1.6 of the one from eyes to mouth, rolled by 65 degrees at most,
    the mouth below the eyes, and no point farther than 0.45 outside the box.
    """
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    across, down = right - left, (points[48] + points[54]) / 2 - (left + right) / 2
    apart, tall = hypot(*across), hypot(*down)
    upright = across[0] > 0 and abs(across[1]) <= 2.14 * across[0]
    below = across[0] * down[1] - across[1] * down[0] > 0.85 * apart * tall
    sized = 0.15 <= apart <= 0.7 and 0.45 * tall <= apart <= 1.6 * tall
    inside = points.min() >= -0.45 and points.max() <= 1.45
    return bool(upright and below and sized and inside)


_SIDE = 160


def _predict(
    rgb8: NDArray[np.uint8], square: NDArray[np.float64], roll: float
) -> NDArray[np.float64]:
    """The predictor's landmarks, from an upright copy in which the box has 160 pixels.

    The predictor reads single pixels, answers in whole ones, and was trained on faces that are
    more or less upright: on the photo itself, noise would move the landmarks of a large face,
    rounding those of a small one, and a tilt of 20 degrees can throw the brows off.
    """
    side, centre = square[2] - square[0], (square[:2] + square[2:]) / 2 - 0.5
    left, top = np.floor(centre - 1.5 * side).astype(int)
    right, bottom = np.ceil(centre + 1.5 * side).astype(int) + 1
    scale = _SIDE / side
    cosine, sine = scale * np.cos(roll), scale * np.sin(roll)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = _SIDE - 0.5 - turn @ (centre - (left, top))
    around = reflected(rgb8, left, top, right, bottom)
    copy = warp(around, np.column_stack([turn, shift]), (2 * _SIDE, 2 * _SIDE))
    upright = np.clip(np.rint(copy), 0, 255).astype(np.uint8)
    import dlib

    predictor = dlib_model(dlib.shape_predictor, "shape_predictor_68_face_landmarks.dat")
    low, high = _SIDE // 2, _SIDE // 2 + _SIDE - 1
    shape = predictor(upright, dlib.rectangle(low, low, high, high))
    points = np.array([(p.x, p.y) for p in shape.parts()], np.float64)
    return np.asarray((points - shift) @ turn / scale**2 + (left, top), np.float64)


def _roll(points: NDArray[np.float64]) -> float:
    """Angle of the line through the eyes, within 60 degrees either way."""
    across = points[42:48].mean(0) - points[36:42].mean(0)
    return float(np.clip(np.arctan2(across[1], across[0]), -_STEEPEST, _STEEPEST))


_STEEPEST = np.radians(60)


def _square(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square of the same centre whose side is the mean of the box's."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).mean() / 2
    return np.concatenate([centre - half, centre + half])


def _nudged(
    square: NDArray[np.float64], right: float, down: float, larger: float
) -> NDArray[np.float64]:
    side = square[2] - square[0]
    centre = (square[:2] + square[2:]) / 2 + side * np.array([right, down])
    return np.concatenate([centre - side * larger / 2, centre + side * larger / 2])


_MEAN_FACE = (MEAN_FACE - FACE_BOX[:2]) / (FACE_BOX[2] - FACE_BOX[0])
"""The mean face in units of a HOG box."""
