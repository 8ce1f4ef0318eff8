"""How networks that work at a small side change a face in the full frame."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["changed", "repeated", "retoned", "small", "tint"]


def small(cover: Tensor, side: int) -> Tensor:
    """N×3×S×S reduced to N×3×side×side by averaging."""
    return cover if cover.shape[-1] == side else F.interpolate(cover, (side, side), mode="area")


def repeated(x: Tensor, count: int) -> Tensor:
    """A batch of N again and again until there are `count`, a multiple of N; keeps its layout."""
    return x if len(x) == count else torch.cat([x] * (count // len(x)))


def changed(cover: Tensor, side: int, limit: float, network: Callable[[Tensor], Tensor]) -> Tensor:
    """The cover and a smooth change, worked out at `side`; detail finer than that is the cover's.

    Args:
        cover: N×3×S×S RGB in [-1, 1].
        side: what the network works at.
        limit: largest change of a value (the range -1..1 is 2 wide).
        network: N×3×side×side cover -> as many changes within the limit, or T of them a face.

    Returns:
        N×3×S×S (T·N×3×S×S) in [-1, 1].
    """
    full = cover.shape[-1]
    change = _smoothed(network(small(cover, side)))
    if full != side:
        change = F.interpolate(change, (full, full), mode="bicubic", align_corners=False)
        change = change.clamp(-limit, limit)  # cubics overshoot
    return (repeated(cover, len(change)) + change).clamp(-1, 1)


def tint(x: Tensor) -> Tensor:
    """What of a picture or a change N×3×H×W is not brightness."""
    return x - x.mean(1, keepdim=True)


def retoned(cover: Tensor, made: Tensor, *, brightness: float, colour: float) -> Tensor:
    """The change from cover to made with its brightness, and what is not brightness, so many times
    as large: N×3×S×S in [-1, 1].
    """
    change = made - cover
    tinted = tint(change)
    return (cover + brightness * (change - tinted) + colour * tinted).clamp(-1, 1)


def _smoothed(change: Tensor) -> Tensor:
    """Binomial 3×3: without it folded pixels show as a checked pattern."""
    line = change.new_tensor([0.25, 0.5, 0.25]).expand(change.shape[1], 1, 1, 3)
    padded = F.pad(change, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(F.conv2d(padded, line, groups=len(line)), line.mT, groups=len(line))
