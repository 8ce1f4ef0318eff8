"""What happens to photos after release: filters, compression, rescaling, cropping.

Each operation takes a photo H×W×3 uint8 to one of the same shape, without randomness, and says
where its pixels went: protection that a mild operation undoes was none.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from facedeid.errors import OptionError
from facedeid.faces import Face

__all__ = ["ROBUSTNESS", "Operation", "Photo8", "apply", "encoded", "moved", "moved_face"]

Photo8 = NDArray[np.uint8]
Operation = Callable[[Photo8], tuple[Photo8, NDArray[np.float64]]]
"""A photo -> the changed photo, and the 2×3 matrix that takes old pixels (x, y, 1) to new ones;
pixel centres lie at integer coordinates."""

KEPT = 0.9
"""Share of width and height that cropping leaves."""
_LONGEST = {"JPEG": 65_500, "WEBP": 16_383}
"""Pixels that a side of such a file can have."""
_LARGEST = 80_000_000
"""Pixels of a file that Pillow opens without a word."""


def _still() -> NDArray[np.float64]:
    return np.eye(2, 3)


def _median(rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    return np.asarray(cv2.medianBlur(rgb, 5), np.uint8), _still()


def _gaussian(rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    blurred = cv2.GaussianBlur(rgb, (5, 5), 2, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.uint8), _still()


def encoded(rgb: Photo8, kind: str, quality: int) -> Photo8:
    """A photo H×W×3 uint8 after a lossy file: `kind` "JPEG" (4:2:0) or "WEBP", quality 1..95.

    One that is larger than such a file can be goes in parts.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > _LONGEST[kind] or height * width > _LARGEST:
        axis = int(width > height)
        parts = np.array_split(rgb, 2, axis)
        return np.concatenate([encoded(part, kind, quality) for part in parts], axis)
    file = io.BytesIO()
    options: dict[str, Any] = {"subsampling": "4:2:0"} if kind == "JPEG" else {}
    Image.fromarray(rgb).save(file, kind, quality=quality, **options)
    file.seek(0)
    with Image.open(file) as read:
        return np.array(read.convert("RGB"))


def _compressed(kind: str, quality: int) -> Operation:
    return lambda rgb: (encoded(rgb, kind, quality), _still())


def _shallow(rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    table = np.rint(np.rint(np.arange(256) / 255 * 7) / 7 * 255).astype(np.uint8)
    return table[rgb], _still()


def _resized(rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    height, width = rgb.shape[:2]
    half = (max(1, round(width / 2)), max(1, round(height / 2)))
    small = cv2.resize(rgb, half, interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(back, np.uint8), _still()


def _cropped(rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    size = np.array(rgb.shape[1::-1])
    kept = np.maximum(1, np.rint(size * KEPT).astype(int))
    start = (size - kept) // 2
    (left, top), (right, bottom) = start, start + kept
    window = np.ascontiguousarray(rgb[top:bottom, left:right])
    grown = cv2.resize(window, (int(size[0]), int(size[1])), interpolation=cv2.INTER_LINEAR)
    scale = size / kept
    return np.asarray(grown, np.uint8), np.column_stack(
        [np.diag(scale), (0.5 - start) * scale - 0.5]
    )


ROBUSTNESS: Mapping[str, Operation] = MappingProxyType(
    {
        "median-5": _median,
        "gaussian-5": _gaussian,
        "jpeg-10": _compressed("JPEG", 10),
        "depth-3": _shallow,
        "resize-0.5": _resized,
        "crop-0.9": _cropped,
        "webp-30": _compressed("WEBP", 30),
    }
)
"""By name: median of 5×5; Gaussian of 5×5, σ 2 px; JPEG of quality 10; 3 bits per channel (to the
nearest of 8 levels, black and white kept: Xu et al. 2018, Feature Squeezing); half size by area
and back by bilinear interpolation; the middle 0.9 of width and height, enlarged to the old size;
WebP of quality 30."""


def apply(name: str, rgb: Photo8) -> tuple[Photo8, NDArray[np.float64]]:
    """The operation of that name on a photo: a new H×W×3 uint8 array, and where pixels went.

    Raises:
        OptionError: no such operation, or not a photo.
    """
    if name not in ROBUSTNESS:
        raise OptionError(f"no operation is called {name!r}; there are: {', '.join(ROBUSTNESS)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise OptionError(f"photo must be H×W×3 uint8, got {rgb.shape} {rgb.dtype}")
    return ROBUSTNESS[name](np.ascontiguousarray(rgb))


def moved(points: ArrayLike, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (..., 2) of the old photo in the new one."""
    return np.asarray(np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2])


def moved_face(face: Face, matrix: NDArray[np.float64]) -> Face:
    """A face of the old photo at its place in the new one; it may now reach beyond it."""
    corners = np.reshape(face.box, (2, 2)) - 0.5  # of a box, edges are meant, not centres
    left, top, right, bottom = (moved(corners, matrix) + 0.5).ravel().tolist()
    return replace(face, box=(left, top, right, bottom), landmarks=moved(face.landmarks, matrix))
