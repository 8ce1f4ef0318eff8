"""Adaptive augmentation for GANs with little data: differentiable, the same for real and made.

Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020: the
geometric and colour transforms, each with probability p.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Chance", "augmented"]

ADAPT_EVERY = 4
"""Steps."""
MOST = 0.8


class Chance:
    """The probability of augmentation, which follows how sure a critic is of real photos.

    Args:
        target: share of real photos that it should be sure of, less that of the others.
        horizon: photos after which the probability may have gone from 0 to 1.
    """

    def __init__(self, target: float, horizon: int) -> None:
        self.target, self.horizon = target, horizon
        self.p = 0.0
        self._sure: list[float] = []

    def saw(self, scores: Tensor) -> None:
        """Take note of a critic's scores of real photos."""
        self._sure.append(scores.detach().sign().mean().item())

    def adapt(self, step: int, batch: int) -> None:
        """Every fourth step: up where the critic is too sure, else down."""
        if step % ADAPT_EVERY == 0 and self._sure:
            sure = sum(self._sure) / len(self._sure)
            change = ADAPT_EVERY * batch / self.horizon
            self.p = min(max(self.p + (change if sure > self.target else -change), 0.0), MOST)
            self._sure.clear()

    def state(self) -> dict[str, Any]:
        """To go on from."""
        return {"p": self.p, "sure": list(self._sure)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.p, self._sure = float(state["p"]), list(state["sure"])


def augmented(faces: Tensor, p: float, random: torch.Generator) -> Tensor:
    """N×3×S×S in [-1, 1] -> the same, each picture moved and recoloured by chance.

    Shifts reach an eighth of the side; turns follow a normal distribution of 10°, scales one of
    0.2, contrasts of 0.3 and saturations of 0.5 (in log2), light one of 0.2; what comes in from
    outside repeats the border.
    """
    if not p:
        return faces
    return _recoloured(_moved(faces, p, random), p, random)


def _chance(values: Tensor, p: float, random: torch.Generator) -> Tensor:
    """The values where it happens, 0 elsewhere."""
    return values * (torch.rand(values.shape, generator=random) < p)


def _moved(faces: Tensor, p: float, random: torch.Generator) -> Tensor:
    n = len(faces)
    angle = _chance(torch.randn(n, generator=random) * 0.17, p, random)
    scale = 2 ** _chance(torch.randn(n, generator=random) * 0.2, p, random)
    shift = _chance((torch.rand(n, 2, generator=random) - 0.5) * 0.5, p, random)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(rows.to(faces), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _recoloured(faces: Tensor, p: float, random: torch.Generator) -> Tensor:
    n = len(faces)
    light = _chance(torch.randn(n, generator=random) * 0.2, p, random)
    contrast = 2 ** _chance(torch.randn(n, generator=random) * 0.3, p, random)
    colour = 2 ** _chance(torch.randn(n, generator=random) * 0.5, p, random)
    light, contrast, colour = (x.to(faces)[:, None, None, None] for x in (light, contrast, colour))
    grey = faces.mean(1, keepdim=True)
    return (grey + (faces - grey) * colour) * contrast + light
