"""The canonical frame: an oriented square around eyes and mouth, and crops in it.

This is the crop of the FFHQ data set (Karras et al. 2019), which StyleGAN and everything built on
it expects: centre a tenth of the way from the eyes to the mouth, half side the larger of twice the
distance of the eyes and 1.8 times that from eyes to mouth, upright along the eyes.

Pixel centres lie at integer coordinates, in the photo as in the frame (the convention of OpenCV
and of dlib's landmarks). FFHQ's own script counts from pixel corners and adds one half to its
quadrangle; the half pixels below are that convention, so both give the same crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.faces.landmarks import Face
from facedeid.faces.resampling import reflected, warp

__all__ = ["Frame", "align", "frame", "native_size"]

SIZES = (128, 256, 512, 1024)


@dataclass(frozen=True, eq=False)
class Frame:
    """A similarity between photo and canonical frame."""

    matrix: NDArray[np.float64]
    """2×3: homogeneous x, y in photo pixels -> pixels of the frame."""
    size: int
    """Side of the frame in pixels."""

    @property
    def scale(self) -> float:
        """Frame pixels per photo pixel."""
        return hypot(self.matrix[0, 0], self.matrix[1, 0])

    @property
    def inverse(self) -> NDArray[np.float64]:
        """2×3: frame -> photo."""
        return np.asarray(cv2.invertAffineTransform(self.matrix), np.float64)

    def to_frame(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) of the photo, in the frame."""
        return _moved(points, self.matrix)

    def to_photo(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) of the frame, in the photo."""
        return _moved(points, self.inverse)

    def bounds(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom (exclusive) of the frame in the photo, whole pixels."""
        end = self.size - 0.5
        corners = self.to_photo([(-0.5, -0.5), (end, -0.5), (end, end), (-0.5, end)])
        left, top = np.floor(corners.min(0)).astype(int)
        right, bottom = np.ceil(corners.max(0)).astype(int) + 1
        return int(left), int(top), int(right), int(bottom)


def _moved(points: ArrayLike, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return result


def frame(face: Face, size: int = 256) -> Frame:
    """The canonical frame of a face, `size` pixels wide."""
    centre, half = _square(face.landmarks)
    turn = np.array([half, [-half[1], half[0]]])  # rows: the frame's x and y axis in the photo
    scale = size / (2 * hypot(*half))
    rotation = turn / hypot(*half) * scale
    shift = (size - 1) / 2 - rotation @ centre
    return Frame(np.column_stack([rotation, shift]), size)


def _square(landmarks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre of FFHQ's square, and the vector from there to the middle of its right side."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes, mouth = (left + right) / 2, (landmarks[48] + landmarks[54]) / 2
    across, down = right - left, mouth - eyes
    axis = across + np.array([down[1], -down[0]])
    axis = axis / max(hypot(*axis), 1e-9)
    return eyes + 0.1 * down, axis * max(2 * hypot(*across), 1.8 * hypot(*down))


def native_size(face: Face, sizes: Sequence[int] = SIZES) -> int:
    """The smallest of `sizes` whose frame keeps the photo's detail, or the largest."""
    side = 1 / frame(face, 1).scale
    return next((size for size in sorted(sizes) if size >= side), max(sizes))


def align(rgb: NDArray[Any], frame: Frame) -> Tensor:
    """Cut a face out of a photo.

    Args:
        rgb: H×W×3, uint8 or uint16.
        frame: where.

    Returns:
        3×S×S float32 in [-1, 1]. The photo is averaged where it shrinks, interpolated by cubics
        where it grows, and continues as its mirror image beyond its border.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise OptionError(f"photo must be H×W×3 uint8 or uint16, got {rgb.shape} {rgb.dtype}")
    left, top, right, bottom = frame.bounds()
    margin = 3
    left, top = left - margin, top - margin
    crop = reflected(rgb, left, top, right + margin, bottom + margin)
    matrix = frame.matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    chip = warp(crop, matrix, (frame.size, frame.size))
    level = 2 / np.iinfo(rgb.dtype).max
    return torch.from_numpy(np.ascontiguousarray(chip.transpose(2, 0, 1)) * np.float32(level) - 1)
