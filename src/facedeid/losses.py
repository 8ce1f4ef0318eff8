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
    "lost_edges",
    "mse",
    "new_edges",
    "new_stains",
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
    line = _window(a, sigma)
    if min(a.shape[2:]) < len(line):
        raise OptionError(f"SSIM needs more than {len(line) - 1} px, got {tuple(a.shape[2:])}")
    a, b = (a + 1) / 2, (b + 1) / 2
    maps = torch.cat([a, b, a * a, b * b, a * b], 1)
    # all maps as channels of one depthwise convolution: six times as fast as one by one on CPUs
    count = maps.shape[1]
    row = line.expand(count, 1, 1, -1)
    means = F.conv2d(F.conv2d(maps, row, groups=count), row.mT, groups=count)
    one, two, first, second, both = means.chunk(5, 1)
    first, second, both = first - one * one, second - two * two, both - one * two
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * one * two + c1) * (2 * both + c2)
    value = value / ((one * one + two * two + c1) * (first + second + c2))
    return value.reshape(len(a), -1).mean(1)


def _window(like: Tensor, sigma: float) -> Tensor:
    """Weights of a Gaussian, of sum 1, over 2·⌊3.5·sigma + 0.5⌋ + 1 pixels."""
    radius = int(3.5 * sigma + 0.5)
    place = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    line = torch.exp(-place.square() / (2 * sigma**2))
    return line / line.sum()


def new_edges(before: Tensor, after: Tensor, *, sigma: float = 1.0) -> Tensor:
    """How much sharper the strongest new edges are than any edge nearby was: N.

    Slopes of smoothed brightness, over two pixels; those of `before` are the largest within two
    pixels. What exceeds them is averaged over the fiftieth of the picture where it is most. Strokes
    beside noses and second brows have 0.12 and more, faces that look natural 0.06 (frames of 128
    px).

    Args:
        before: N×3×H×W.
        after: the same shape.
        sigma: of the smoothing, in pixels.
    """
    excess = _slopes(after, sigma) - F.max_pool2d(_slopes(before, sigma), 5, 1, 2)
    return _worst(F.relu(excess))


def lost_edges(
    before: Tensor, after: Tensor, where: Tensor | None = None, *, sigma: float = 1.0
) -> Tensor:
    """How far below seven tenths of what they were the strongest edges have faded: N.

    The counterpart of `new_edges`: slopes of `after` are the largest within four pixels, and what
    they fall short of is averaged over the fiftieth of the picture where it is most. Faces without
    brows have 0.04 and more, natural ones 0.02 (frames of 128 px).

    Args:
        before: N×3×H×W.
        after: the same shape.
        where: how much edges count at each pixel, N×1×H×W in [0, 1]; None: all alike.
        sigma: of the smoothing, in pixels.
    """
    near = F.max_pool2d(_slopes(after, sigma), 9, 1, 4)
    lost = F.relu(0.7 * _slopes(before, sigma) - near)
    return _worst(lost if where is None else lost * where)


def new_stains(before: Tensor, after: Tensor, *, sigma: float = 2.0) -> Tensor:
    """How much darker than anything within four pixels was the darkest new places are: N.

    Of smoothed brightness; averaged over the fiftieth of the picture where it is most: blotted
    noses and pits for eyes have 0.08 and more, faces that look natural 0.03 (frames of 128 px, the
    default σ).

    Args:
        before: N×3×H×W.
        after: the same shape.
        sigma: of the smoothing, in pixels.
    """
    darkest = -F.max_pool2d(-_smooth(before, sigma), 9, 1, 4)
    return _worst(F.relu(darkest - _smooth(after, sigma)))


def _worst(maps: Tensor) -> Tensor:
    """Mean over the fiftieth of N×1×H×W where it is most: N."""
    flat = maps.flatten(1)
    return flat.topk(max(1, flat.shape[1] // 50), dim=1).values.mean(1)


def _smooth(pictures: Tensor, sigma: float, border: int = 0) -> Tensor:
    """Smoothed brightness, with so many more pixels around: N×1×H×W."""
    line = _window(pictures, sigma).view(1, 1, 1, -1)
    around = [line.shape[-1] // 2 + border] * 4
    grey = F.pad(pictures.mean(1, keepdim=True), around, mode="replicate")
    return F.conv2d(F.conv2d(grey, line), line.mT)


def _slopes(pictures: Tensor, sigma: float) -> Tensor:
    """Length of the gradient of the smoothed brightness, over two pixels: N×1×H×W."""
    smooth = _smooth(pictures, sigma, 1)
    across = smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]
    down = smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]
    return (across.square() + down.square() + 1e-8).sqrt()


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
