"""Losses: pure functions of tensors or embeddings, one value per picture.

Pictures are N×3×H×W in [-1, 1]. Every function returns N values, so that the caller decides how
pictures are weighed; all are differentiable in all their inputs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.landmarks import PARTS

__all__ = [
    "away_from",
    "cosine",
    "displacement",
    "euclidean",
    "mse",
    "perceptual",
    "ssim",
    "towards",
]


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error over a picture in [-1, 1]: N."""
    return (a - b).square().flatten(1).mean(1)


def ssim(a: Tensor, b: Tensor, *, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang et al. 2004), Gaussian window: N values, 1 for equal pictures.

    As `skimage.metrics.structural_similarity` of pictures in [0, 1] (`gaussian_weights=True,
    use_sample_covariance=False`): channels on their own, then averaged, borders left out.

    Args:
        a: N×C×H×W, sides larger than the window of 2·⌊3.5·sigma + 0.5⌋ + 1.
        b: the same shape.
        sigma: width of the window in pixels.

    Raises:
        OptionError: pictures smaller than the window.
    """
    radius = int(3.5 * sigma + 0.5)
    if min(a.shape[2:]) <= 2 * radius:
        raise OptionError(f"SSIM needs more than {2 * radius} px, got {tuple(a.shape[2:])}")
    a, b = (a + 1) / 2, (b + 1) / 2
    line = torch.arange(-radius, radius + 1, dtype=a.dtype, device=a.device)
    line = torch.exp(-line.square() / (2 * sigma**2))
    maps = torch.cat([a, b, a * a, b * b, a * b], 1)
    # all maps as channels of one depthwise convolution: six times as fast as one by one on CPUs
    count = maps.shape[1]
    row = (line / line.sum()).expand(count, 1, 1, -1)
    means = F.conv2d(F.conv2d(maps, row, groups=count), row.mT, groups=count)
    one, two, first, second, both = means.chunk(5, 1)
    first, second, both = first - one * one, second - two * two, both - one * two
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * one * two + c1) * (2 * both + c2)
    value = value / ((one * one + two * two + c1) * (first + second + c2))
    return value.reshape(len(a), -1).mean(1)


def perceptual(distance: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A perceptual network's distance (`facedeid.nets.lpips`) of pictures of any size: N.

    Pictures under 64 px are enlarged: deeper features need room.
    """
    side = min(a.shape[2:])
    if side < 64:
        size = [round(n * 64 / side) for n in a.shape[2:]]
        a, b = (F.interpolate(x, size=size, mode="bilinear", antialias=True) for x in (a, b))
    return distance(a, b)


def displacement(before: Tensor, after: Tensor, side: int) -> Tensor:
    """Mean distance by which chin, nose, eyes and mouth have moved, in pixels of 256: N×4.

    Args:
        before: 68 landmarks N×68×2, in pixels of a frame.
        after: of the changed faces, in the same pixels.
        side: of that frame.
    """
    apart = (after - before).norm(dim=-1) * (256 / side)
    return torch.stack([apart[:, list(p)].mean(1) for p in PARTS.values()], 1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of embeddings N×D: N."""
    return 1 - F.cosine_similarity(a, b, dim=-1)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of embeddings N×D: N; at equality the gradient is zero, not undefined."""
    return (a - b).square().sum(-1).clamp_min(1e-12).sqrt()


def away_from(distance: Tensor, margin: float | Tensor) -> Tensor:
    """Dodging: push a distance to one's own embedding up to the margin, and no further."""
    return F.relu(margin - distance)


def towards(distance: Tensor, margin: float | Tensor) -> Tensor:
    """Impersonation: pull a distance to a target's embedding down to the margin, no further."""
    return F.relu(distance - margin)
