"""Cutting and warping pixels: what alignment, landmarks and paste-back share."""

from math import hypot
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["reflected", "warp"]


def reflected(rgb: NDArray[Any], left: int, top: int, right: int, bottom: int) -> NDArray[Any]:
    """A rectangle of a photo that may reach beyond it, where the photo is mirrored."""
    height, width = rgb.shape[:2]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return rgb[top:bottom, left:right]
    rows, columns = _mirror(top, bottom, height), _mirror(left, right, width)
    return np.asarray(rgb[rows[:, None], columns[None]])


def _mirror(start: int, end: int, length: int) -> NDArray[np.intp]:
    turn = np.arange(start, end) % max(2 * length - 2, 1)
    return np.asarray(np.minimum(turn, 2 * length - 2 - turn), np.intp)


def warp(image: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[Any]:
    """Resample by a similarity: cubic where it grows, box average where it shrinks.

    Args:
        image: H×W or H×W×C, uint8, uint16 or float32; edges continue outwards.
        matrix: 2×3, image -> result.
        size: width and height of the result.

    Returns:
        float32, levels of the image kept within its range if that is an integer type.
    """
    scale = hypot(matrix[0, 0], matrix[1, 0])
    fold = max(1, round(1 / scale))  # shrink by sampling fold² points per pixel
    fine = matrix * fold
    fine[:, 2] += (fold - 1) / 2
    wide = (size[0] * fold, size[1] * fold)
    result = cv2.warpAffine(
        image, fine, wide, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    if fold > 1:
        result = cv2.resize(result.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(result, np.float32)
