"""How recognisers cut their input out of a photo, or differentiably out of a canonical face."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.landmarks import FIVE_POINTS, MEAN_FACE, similarity
from facedeid.nets.irse import psp_identity_crop

__all__ = [
    "ARCFACE_CROP",
    "CROPS",
    "DLIB_CROP",
    "FACENET_CROP",
    "MOBILEFACENET_CROP",
    "PSP_CROP",
    "Crop",
    "resized",
]


@dataclass(frozen=True)
class Crop:
    """How a recogniser cuts its input out: a similarity that takes landmarks to a template."""

    size: int
    """Side of the square chip in pixels."""
    groups: tuple[tuple[int, ...], ...]
    """Per point of the template, the landmarks of the 68 whose mean it is."""
    template: tuple[tuple[float, float], ...]
    """(x, y) in pixels of the chip."""
    columns: tuple[int, int] | None = None
    """Columns of the chip that the network takes; None: all."""
    stretch: float = 1.0
    """Factor on the width after the similarity, about the middle of the chip."""

    def matrices(self, landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Affine maps from photo (or frame) to chip: N×68×2 -> N×2×3."""
        points = np.stack([landmarks[:, list(g)].mean(1) for g in self.groups], 1)
        found = similarity(points, np.array(self.template))
        found[:, 0] *= self.stretch
        found[:, 0, 2] += (1 - self.stretch) * (self.size - 1) / 2
        return found

    def chips(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Differentiable warp: N×3×S×S canonical faces -> N×3×size×(columns) of the same range.

        Without landmarks (N×68×2, pixels of the frame) the frame's mean face is taken.
        """
        side = faces.shape[-1]
        if landmarks is None:
            points = np.repeat(MEAN_FACE[None] * side, len(faces), 0)
        else:
            points = landmarks.detach().cpu().numpy().astype(np.float64)
        return self._columns(_shrunk_and_warped(faces, self.matrices(points), self.size))

    def chips_from_photo(
        self, rgb: NDArray[np.uint8], landmarks: Sequence[NDArray[np.float64]]
    ) -> Tensor:
        """Chips straight from an H×W×3 photo: N×3×size×(columns) float32, RGB in 0..255."""
        chips = [_chip(rgb, m, self.size) for m in self.matrices(np.stack(landmarks))]
        return self._columns(torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float())

    def _columns(self, chips: Tensor) -> Tensor:
        return chips if self.columns is None else chips[..., slice(*self.columns)]


def _shrunk_and_warped(images: Tensor, matrices: NDArray[np.float64], size: int) -> Tensor:
    """`_warp`, each image averaged down first where bilinear sampling alone would alias."""
    scales = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))
    shrinks = [max(1, int(1 / scale)) for scale in scales]
    if len(set(shrinks)) > 1:  # one by one: no face's chip depends on the others
        parts = [slice(i, i + 1) for i in range(len(images))]
        return torch.cat([_shrunk_and_warped(images[p], matrices[p], size) for p in parts])
    shrink = shrinks[0] if shrinks else 1
    if shrink > 1:
        images, matrices = F.avg_pool2d(images, shrink), matrices.copy()
        matrices[:, :, 2] += matrices[:, :, :2].sum(2) * (shrink - 1) / 2
        matrices[:, :, :2] *= shrink
    return _warp(images, matrices, size)


def _warp(images: Tensor, matrices: NDArray[np.float64], size: int) -> Tensor:
    """Bilinear; outside the image is black (0 in 8 bits, so -1)."""
    height, width = images.shape[-2:]
    full = np.tile(np.eye(3), (len(matrices), 1, 1))
    full[:, :2] = matrices
    to_image = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    to_chip = np.array(
        [[(size - 1) / 2, 0, (size - 1) / 2], [0, (size - 1) / 2, (size - 1) / 2], [0, 0, 1]]
    )
    theta = (to_image @ np.linalg.inv(full) @ to_chip)[:, :2]
    grid = F.affine_grid(
        torch.from_numpy(theta).to(images), [len(images), 3, size, size], align_corners=True
    )
    return F.grid_sample(images + 1, grid, align_corners=True) - 1


def _chip(rgb: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """One size×size×3 chip; the photo's face is averaged down first when it is much larger."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    low = np.clip(np.floor(corners.min(1)) - 2, 0, None).astype(int)
    high = np.clip(np.ceil(corners.max(1)) + 3, 0, rgb.shape[1::-1]).astype(int)
    region: NDArray[Any] = rgb[low[1] : high[1], low[0] : high[0]]
    if not region.size:
        return np.zeros((size, size, 3), np.uint8)
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ low
    shrink = 1 / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink > 1.5:
        width, height = (max(1, round(n / shrink)) for n in region.shape[1::-1])
        scale = np.array([region.shape[1] / width, region.shape[0] / height])
        local[:, 2] += local[:, :2] @ ((scale - 1) / 2)
        local[:, :2] = local[:, :2] * scale
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.warpAffine(region, local, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


DLIB_CROP = Crop(
    size=150,
    groups=((45,), (42,), (36,), (39,), (33,)),
    template=tuple(
        ((0.25 + x) / 1.5 * 150 - 0.5, (0.25 + y) / 1.5 * 150 - 0.5)
        for x, y in (
            (0.8595674595992, 0.2134981538014),
            (0.6460604764104, 0.2289674387677),
            (0.1205750620789, 0.2137274526848),
            (0.3340850613712, 0.2290642403242),
            (0.4901123135679, 0.6277975316475),
        )
    ),
)
"""dlib's face chip, 150 px with padding 0.25: corners of the eyes and base of the nose.

dlib counts the chip's pixels from their corners, hence the half."""

ARCFACE_CROP = Crop(
    size=112,
    groups=FIVE_POINTS,
    template=(
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
)
"""The template of ArcFace (Deng et al. 2019) and most open recognisers, 112 px."""

MOBILEFACENET_CROP = replace(ARCFACE_CROP, columns=(8, 104))
"""112×96: the middle of the ArcFace chip, which is the older template of SphereFace."""

FACENET_CROP = Crop(
    size=160,
    groups=FIVE_POINTS,
    template=((55.5, 62.2), (104.5, 62.2), (80.0, 91.4), (55.9, 115.5), (104.1, 115.5)),
    stretch=1.339,
)
"""An approximation of facenet-pytorch's input, which is MTCNN's box with a margin of 14 of 160
pixels, squeezed into a square and not turned upright. The points are the mean of nine LFW photos
for which MTCNN's boxes are public, made symmetric (they vary by 3 to 4 pixels down and 10 across,
with the pose); the stretch is the boxes' mean ratio of height to width. Here faces are turned
upright."""


class _PspCrop(Crop):
    """A fixed part of the canonical face, whatever the landmarks; photos are cut alike."""

    def chips(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """As `Crop.chips`; the landmarks are not used."""
        if faces.shape[-1] != 256:
            enlarge = faces.shape[-1] < 256
            faces = F.interpolate(faces, (256, 256), mode="bilinear" if enlarge else "area")
        return psp_identity_crop(faces)


def _psp_template() -> tuple[tuple[float, float], ...]:
    """The mean face's five points in the chip; 188 pixels of the frame become 112."""
    points = [MEAN_FACE[list(g)].mean(0) * 256 for g in FIVE_POINTS]
    return tuple(
        (float(x - 32 + 0.5) * 112 / 188 - 0.5, float(y - 35 + 0.5) * 112 / 188 - 0.5)
        for x, y in points
    )


PSP_CROP = _PspCrop(size=112, groups=FIVE_POINTS, template=_psp_template())
"""What pSp's identity loss shows to its recogniser: [:, :, 35:223, 32:220] of the canonical face
at 256 pixels, pooled to 112. From photos: the same place of the mean face, by five points."""

CROPS: Mapping[str, Crop] = MappingProxyType(
    {
        "arcface": ARCFACE_CROP,
        "mobilefacenet": MOBILEFACENET_CROP,
        "facenet": FACENET_CROP,
        "psp": PSP_CROP,
        "dlib": DLIB_CROP,
    }
)
"""Crops that can be asked for by name."""


def resized(crop: Crop, size: int, columns: tuple[int, int] | None) -> Crop:
    """The same cut with `size` rows, and of these columns.

    Raises:
        OptionError: a fixed part of the canonical face has its one size.
    """
    if size == crop.size and columns == crop.columns:
        return crop
    if isinstance(crop, _PspCrop):
        raise OptionError(f"crop=psp is of {crop.size}×{crop.size} pixels")
    factor = size / crop.size
    template = tuple((x * factor, y * factor) for x, y in crop.template)
    return replace(crop, size=size, template=template, columns=columns)
