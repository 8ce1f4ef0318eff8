"""From the canonical frame back into the photo, without touching anything but the face.

Every face has a soft mask: 1 over the whole face (jaw to hairline, with a small margin), falling
to 0 within a narrow border around it. What is put there:

- carry "change": what the method changed (`after - before`), enlarged to the photo's resolution
  and added. Detail finer than the frame stays, and where nothing changed, nothing changes.
- carry "replace": the method's own pixels, shifted in colour so that they meet the photo at the
  edge. The shift is diffused inwards from outside the face, so nothing of the face comes back.

Where masks overlap, faces do not paint over each other in turn, which would bring back what an
earlier one had hidden: all start from the untouched photo, and each pixel takes what the face in
which it lies deepest puts there, with a soft transition. The order of the faces does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.faces.alignment import Frame
from facedeid.faces.landmarks import Face, from_landmarks
from facedeid.faces.resampling import warp

__all__ = ["Pasted", "face_mask", "feature_masks", "frame_masks", "paste"]

Region = Literal["face", "box", "ellipse"]
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom (exclusive)."""


@dataclass(frozen=True, eq=False)
class Pasted:
    """A face on its way back: where it was cut, and both states of the crop."""

    face: Face
    frame: Frame
    before: Tensor
    """3×S×S in [-1, 1], as `align` gave it."""
    after: Tensor
    """The same after the method."""
    carry: Literal["replace", "change"]
    region: Region = "face"
    """What is covered: the face's outline with the forehead, or a box or ellipse around that."""


@dataclass(frozen=True, eq=False)
class _Cover:
    """What a mask covers: a convex outline (K×2, pixels of the photo) and its borders."""

    points: NDArray[np.float64]
    size: float
    """Diameter of a circle with the area of the face's hull."""
    margin: float
    feather: float


_Placed = tuple[Pasted, _Cover, Rectangle]


def paste(rgb: NDArray[Any], items: Sequence[Pasted]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Put de-identified faces back.

    Args:
        rgb: H×W×3 uint8 or uint16, the photo from which the faces were cut; not written to.
        items: the faces, in any order.

    Returns:
        A new photo of the same type, and an H×W mask of the pixels that may have changed; all
        others are equal to the input. Faces are held at the photo's resolution one at a time
        (overlapping ones: together), never the whole photo.

    Raises:
        OptionError: not a photo of that kind, or crops that do not fit their frame.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise OptionError(f"photo must be H×W×3 uint8 or uint16, got {rgb.shape} {rgb.dtype}")
    for item in items:
        _check(item)
    result, touched = rgb.copy(), np.zeros(rgb.shape[:2], np.bool_)
    covers = [(item, _cover(item.face, item.region)) for item in items]
    inside = [(item, cover, _extent(cover, rgb.shape)) for item, cover in covers]
    for group in _groups([member for member in inside if _area(member[2])]):
        _paste_group(rgb, group, result, touched)
    return result, touched


def _check(item: Pasted) -> None:
    shape = (3, item.frame.size, item.frame.size)
    if item.before.shape != shape or item.after.shape != shape:
        raise OptionError(
            f"crops must be {shape} like their frame, got {tuple(item.before.shape)} before and "
            f"{tuple(item.after.shape)} after"
        )
    if item.carry not in ("replace", "change"):
        raise OptionError(f"carry must be 'replace' or 'change', got {item.carry!r}")


def _paste_group(
    rgb: NDArray[Any],
    group: list[_Placed],
    result: NDArray[Any],
    touched: NDArray[np.bool_],
) -> None:
    """Blend faces whose masks may overlap, and write them into the result."""
    left, top, right, bottom = _union([where for _, _, where in group])
    photo = rgb[top:bottom, left:right]
    masks, weights = (np.zeros(photo.shape[:2], np.float32) for _ in range(2))
    change = np.zeros(photo.shape, np.float32)
    for item, cover, where in group:
        here = np.s_[where[1] - top : where[3] - top, where[0] - left : where[2] - left]
        mask = _mask(cover, where)
        weight = _weight(cover, mask, where) if len(group) > 1 else np.ones_like(mask)
        change[here] = change[here] + weight[..., None] * _change(photo[here], item, where)
        weights[here] = weights[here] + weight
        masks[here] = np.maximum(masks[here], mask)
    share = np.asarray(masks / np.maximum(weights, 1e-36), np.float32)
    change = photo + change * share[..., None]
    inside = masks > 0
    level = np.clip(np.rint(change[inside]), 0, np.iinfo(rgb.dtype).max)
    result[top:bottom, left:right][inside] = level.astype(rgb.dtype)
    touched[top:bottom, left:right] |= inside


def _change(photo: NDArray[Any], item: Pasted, where: Rectangle) -> NDArray[np.float32]:
    """What to add to the photo within a rectangle where the mask is 1, in levels of the photo."""
    half = np.float32(np.iinfo(photo.dtype).max / 2)
    before, after = _pixels(item.before), _pixels(item.after)
    matrix = item.frame.inverse
    matrix[:, 2] -= where[:2]
    size = (where[2] - where[0], where[3] - where[1])
    if item.carry == "change":
        return np.asarray(warp((after - before) * half, matrix, size), np.float32)
    shifted = after + _seam_shift(before - after, item)
    placed = warp((shifted + 1) * half, matrix, size)
    return np.asarray(np.clip(placed, 0, 2 * half) - photo, np.float32)


def _pixels(crop: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(crop.detach().cpu().numpy().transpose(1, 2, 0), np.float32)


_GRID = 64
_INTENDED = 0.35
"""A seam that differs by more, on the scale of -1 to 1, is a cover and not a colour cast."""


def _seam_shift(difference: NDArray[np.float32], item: Pasted) -> NDArray[np.float32]:
    """The colour shift that makes `after` meet the photo at the edge of the mask.

    `difference` (S×S×3) is read where the mask falls from 1 to 0, at a resolution of 64×64, and
    diffused from there over the frame: inside the face, the shift is a smooth mixture of what
    lies around it. Methods that cover the face with a colour of their own differ a lot at the
    edge; the shift fades out for them, so that black stays black.
    """
    size = item.frame.size
    landmarks = (item.frame.to_frame(item.face.landmarks) + 0.5) * (_GRID / size) - 0.5
    small_face = replace(item.face, landmarks=landmarks)
    mask = _mask(_cover(small_face, item.region), (0, 0, _GRID, _GRID))
    ring = ((mask > 0) & (mask < 1)).astype(np.float32)
    small = cv2.resize(difference, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    typical = float(np.median(np.abs(small[ring > 0]))) if ring.any() else 0.0
    trust = min(1.0, max(0.0, 2 - typical / _INTENDED * 2))
    if trust == 0 or not ring.any():
        return np.zeros((1, 1, 3), np.float32)
    shift = _diffused(small * trust, ring)
    return np.asarray(cv2.resize(shift, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _diffused(values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth `values` (H×W×3) known where `weight` is, over the whole grid.

    Normalised averages over wider and wider neighbourhoods; near the known values the narrow ones
    decide, far from them the wide ones.
    """
    total: NDArray[Any] = np.zeros_like(values)
    certainty: NDArray[Any] = np.zeros_like(weight)
    for radius in (2.0, 4.0, 8.0, 16.0):
        near = cv2.GaussianBlur(weight, (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
        mean = cv2.GaussianBlur(
            values * weight[..., None], (0, 0), radius, borderType=cv2.BORDER_CONSTANT
        )
        total = total + mean / radius**2
        certainty = certainty + near / radius**2
    return np.asarray(total / np.maximum(certainty, 1e-9)[..., None], np.float32)


def face_mask(face: Face, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The soft mask with which a face is pasted.

    Args:
        face: whose landmarks are in pixels of the picture.
        shape: height and width of the picture (more numbers are ignored).

    Returns:
        H×W float32: 1 over the face from jaw to hairline, 0 away from it.
    """
    mask = np.zeros(shape[:2], np.float32)
    cover = _cover(face)
    where = _extent(cover, shape)
    if _area(where):
        mask[where[1] : where[3], where[0] : where[2]] = _mask(cover, where)
    return mask


def frame_masks(landmarks: Tensor, side: int) -> Tensor:
    """`face_mask` of faces in the aligned frame, landmarks N×68×2 in its pixels: N×1×side×side."""
    faces = [from_landmarks(points.double().cpu().numpy()) for points in landmarks]
    masks = [torch.from_numpy(face_mask(face, (side, side))) for face in faces]
    return torch.stack(masks)[:, None] if masks else torch.zeros(0, 1, side, side)


def feature_masks(
    landmarks: Tensor, side: int, parts: Sequence[Sequence[int]], softness: float
) -> Tensor:
    """Masks of parts of faces in the aligned frame, such as the eyes.

    Args:
        landmarks: N×68×2 in pixels of the frame.
        side: of the frame, in pixels.
        parts: the landmarks of each part; it is their convex hull.
        softness: σ of the Gaussian with which edges fade, in pixels.

    Returns:
        N×1×side×side float32 in [0, 1].
    """
    masks = np.zeros((len(landmarks), side, side), np.float32)
    for mask, points in zip(masks, landmarks.double().cpu().numpy(), strict=True):
        for part in parts:
            hull = cv2.convexHull(points[list(part)].astype(np.float32))
            cv2.fillPoly(mask, [np.rint(hull * 16).astype(np.int32)], 1.0, shift=4)
        mask[:] = cv2.GaussianBlur(mask, (0, 0), softness)
    return torch.from_numpy(masks)[:, None]


_MARGIN, _FEATHER, _UNSURE = 0.03, 0.09, 0.12
"""Solid border around the hull, soft border around that, and what is added to the solid one when
the landmarks are only estimated from the box; all in units of the face's size."""


def _cover(face: Face, region: Region = "face") -> _Cover:
    outline = _outline(face.landmarks)
    area = cv2.contourArea(cv2.convexHull(outline.astype(np.float32)))
    size = float(np.sqrt(4 / pi * max(area, 1.0)))
    margin = size * (_MARGIN + _UNSURE * (face.landmarks_from == "box"))
    if region != "face":
        outline = _around(outline, face.landmarks, region)
    return _Cover(outline, size, margin, max(size * _FEATHER, 1.0))


def _around(
    outline: NDArray[np.float64], landmarks: NDArray[np.float64], region: Region
) -> NDArray[np.float64]:
    """The box or ellipse around an outline, turned as the line through the eyes."""
    across = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    across = across / max(float(np.hypot(*across)), 1e-9)
    axes = np.array([across, [-across[1], across[0]]])
    turned = outline @ axes.T
    low, high = turned.min(0), turned.max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    if region == "box":
        unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    else:
        angle = np.linspace(0, 2 * pi, 72, endpoint=False)[:, None]
        reach = np.hypot(*((turned - centre) / half).T).max()
        unit = np.hstack([np.cos(angle), np.sin(angle)]) * reach
    return np.asarray((centre + unit * half) @ axes, np.float64)


def _mask(cover: _Cover, where: Rectangle) -> NDArray[np.float32]:
    ramp = np.clip((cover.margin + cover.feather - _distance(cover, where)) / cover.feather, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _outline(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The landmarks and an arch over the forehead, N×2.

    Hairline to brows, brows to nose and nose to chin are about equal thirds; the arch is half an
    ellipse from ear to ear, one third above the brows.
    """
    brows, nose = landmarks[17:27].mean(0), landmarks[33]
    up = brows - nose
    ear, other = landmarks[0], landmarks[16]
    centre, half = (ear + other) / 2, (other - ear) / 2
    top = brows + up
    angle = np.linspace(0, pi, 25)[1:-1, None]
    arch = centre + np.cos(angle) * half + np.sin(angle) * (top - centre)
    return np.concatenate([landmarks, arch])


def _distance(cover: _Cover, where: Rectangle) -> NDArray[np.float32]:
    """Distance of each pixel of a rectangle to the outline; negative inside.

    Worked out on a grid of at most 256 cells a side: it is smooth, so that is as good.
    """
    left, top, right, bottom = where
    cell = max((right - left) / 256, (bottom - top) / 256, 1 / 16)
    pad = 2
    across, down = int((right - left) / cell) + 1, int((bottom - top) / cell) + 1
    hull = (cover.points - (left, top)) / cell + pad
    solid = np.zeros((down + 2 * pad, across + 2 * pad), np.uint8)
    points = cv2.convexHull(hull.astype(np.float32))
    cv2.fillPoly(solid, [np.rint(points * 16).astype(np.int32)], 1, shift=4)
    outside = cv2.distanceTransform(1 - solid, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(solid, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    matrix = np.array([[cell, 0, -pad * cell], [0, cell, -pad * cell]])
    signed = (outside - inside).astype(np.float32)
    size = (right - left, bottom - top)
    flags = cv2.INTER_LINEAR
    placed = cv2.warpAffine(signed, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(placed * cell, np.float32)


def _weight(cover: _Cover, mask: NDArray[np.float32], where: Rectangle) -> NDArray[np.float32]:
    """How strongly a face claims a pixel against others: deep inside its mask, almost wholly."""
    depth = cover.margin + cover.feather - _distance(cover, where)
    depth = np.clip(depth / cover.size, 0, None)
    return np.asarray(depth**6 * mask / (1.001 - mask), np.float32)


def _extent(cover: _Cover, shape: tuple[int, ...]) -> Rectangle:
    """The part of the photo that a mask can reach."""
    outline = cover.points
    reach = cover.margin + cover.feather + 2
    left, top = np.floor(outline.min(0) - reach).astype(int)
    right, bottom = np.ceil(outline.max(0) + reach).astype(int) + 1
    return (
        max(int(left), 0),
        max(int(top), 0),
        min(int(right), shape[1]),
        min(int(bottom), shape[0]),
    )


def _area(where: Rectangle) -> int:
    return max(where[2] - where[0], 0) * max(where[3] - where[1], 0)


def _union(rectangles: Sequence[Rectangle]) -> Rectangle:
    left, top, right, bottom = zip(*rectangles, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _groups(items: list[_Placed]) -> list[list[_Placed]]:
    """Split into groups so that rectangles of different groups do not overlap."""
    groups: list[list[_Placed]] = []
    for item in items:
        touching = [g for g in groups if any(_overlap(item[2], where) for _, _, where in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([member for g in touching for member in g] + [item])
    return groups


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
