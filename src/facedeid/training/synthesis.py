"""Novel faces from few photos: shapes and appearances of several people, mixed by landmarks.

Distillation needs no labels: the teacher says where a face that nobody has lies. So a few thousand
photos give any number of identities. A novel face has a shape (landmarks of one photo, moved
towards another's and by the difference between two more) and an appearance (two photos warped to
that shape by thin-plate splines, mixed by a smooth random mask).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.landmarks import FIVE_POINTS, similarity
from facedeid.models import ARCFACE_CROP
from facedeid.training.data import Faces

__all__ = ["Chips", "novel_faces", "real_faces", "thin_plate", "warped"]

SIDE = 160
"""Side of the chips made here."""
_SCALE, _MARGIN = 1.25, 10.0
"""Chip = ArcFace template × scale + margin."""


@dataclass(frozen=True, eq=False)
class Chips:
    """`images` N×3×160×160 float32 in 0..255 around the face, `landmarks` N×68×2 in pixels."""

    images: Tensor
    landmarks: Tensor


def _to_chip(points: Tensor) -> Tensor:
    """Landmarks in any frame, N×68×2 -> in pixels of the chip (least squares on five points)."""
    five = torch.stack([points[:, list(g)].mean(1) for g in FIVE_POINTS], 1)
    template = torch.tensor(ARCFACE_CROP.template) * _SCALE + _MARGIN
    matrices = similarity(five.double().cpu().numpy(), template.double().numpy())
    m = torch.from_numpy(matrices).to(points)
    return points @ m[:, :, :2].mT + m[:, None, :, 2]


def thin_plate(centres: Tensor, values: Tensor, at: Tensor, *, smooth: float = 1e-3) -> Tensor:
    """Thin-plate spline through values at centres (Bookstein 1989), evaluated elsewhere.

    Args:
        centres: N×K×2.
        values: N×K×D.
        at: M×2, the same for the whole batch.
        smooth: weight of the bending energy; 0 interpolates.

    Returns:
        N×M×D.
    """
    n, k, _ = centres.shape
    ones = centres.new_ones(n, k, 1)
    affine = torch.cat([ones, centres], 2)
    kernel = _radial(torch.cdist(centres, centres)) + smooth * torch.eye(k, device=centres.device)
    top = torch.cat([kernel, affine], 2)
    bottom = torch.cat([affine.mT, centres.new_zeros(n, 3, 3)], 2)
    right = torch.cat([values, values.new_zeros(n, 3, values.shape[2])], 1)
    weights = torch.linalg.solve(torch.cat([top, bottom], 1).double(), right.double()).to(values)
    where = at.expand(n, -1, -1)
    basis = torch.cat([_radial(torch.cdist(where, centres)), ones[:, :1].expand(n, len(at), 1)], 2)
    result: Tensor = torch.cat([basis, where], 2) @ weights
    return result


def _radial(distance: Tensor) -> Tensor:
    return distance.square() * torch.log(distance + 1e-6)


def warped(images: Tensor, sources: Tensor, targets: Tensor, side: int = SIDE) -> Tensor:
    """Images (N×3×S×S) warped so that source landmarks land on targets: N×3×side×side float32.

    Args:
        images: any type, 0..255.
        sources: N×68×2, in pixels of the images.
        targets: N×68×2, in pixels of the result.
        side: of the result.
    """
    coarse = 20
    line = (torch.arange(coarse, device=targets.device) + 0.5) / coarse * 2 - 1
    at = torch.stack([line.repeat(coarse), line.repeat_interleave(coarse)], 1)
    unit = (targets + 0.5) / side * 2 - 1
    flow = thin_plate(unit, (sources + 0.5) / images.shape[-1] * 2 - 1, at)
    flow = flow.mT.reshape(len(images), 2, coarse, coarse)
    grid = F.interpolate(flow, size=(side, side), mode="bicubic", align_corners=False)
    return F.grid_sample(
        images.float(), grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
    )


def real_faces(faces: Faces, chosen: Tensor) -> Chips:
    """Photos as they are, cut to chips."""
    points = faces.landmarks[chosen]
    targets = _to_chip(points)
    return Chips(warped(faces.images[chosen], points, targets), targets)


def novel_faces(faces: Faces, count: int, random: torch.Generator, *, real: float = 0.2) -> Chips:
    """So many faces, a share `real` of them photos as they are (mirrored half of the time)."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=random) * (high - low) + low

    who = torch.randint(len(faces), (4, count), generator=random)
    plain = (uniform(0, 1, count) < real)[:, None, None]
    first, second, third, fourth = (faces.landmarks[i] for i in who)
    towards = uniform(-0.25, 1.1, count, 1, 1)
    away = uniform(-0.45, 0.45, count, 1, 1)
    shape = first + towards * (second - first) + away * (third - fourth)
    targets = _to_chip(torch.where(plain, first, shape))
    one = warped(faces.images[who[0]], first, targets)
    two = warped(faces.images[who[1]], second, targets)
    two = _recoloured(two, one, uniform(0, 1, count, 1, 1, 1))
    mask = torch.where(plain[..., None], 0.0, _masks(count, random))
    images = (one + mask * (two - one)).clamp(0, 255)
    return Chips(images, targets)


def _recoloured(images: Tensor, like: Tensor, amount: Tensor) -> Tensor:
    """Means and spreads of the colours moved towards another picture's."""
    mean, std = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    wanted = (images - mean) / (std + 1) * (like.std((2, 3), keepdim=True) + 1)
    wanted = wanted + like.mean((2, 3), keepdim=True)
    return images + amount * (wanted - images)


def _masks(count: int, random: torch.Generator) -> Tensor:
    """Share of the second appearance, N×1×160×160 in 0..1: uniform, or patchy and smooth."""
    level = torch.rand(count, 1, 1, 1, generator=random) * 1.2 - 0.1
    patchy = torch.randn(count, 1, 4, 4, generator=random)
    patchy = patchy * (torch.rand(count, 1, 1, 1, generator=random) < 0.6)
    field = F.interpolate(patchy, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    return (level + 0.8 * field).clamp(0, 1)
