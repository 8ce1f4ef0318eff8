"""Adaptive augmentation for GANs with little data: differentiable, the same for real and made.

Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020: the
geometric and colour transforms, each with probability p.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["augmented"]


def augmented(faces: Tensor, p: float, random: torch.Generator) -> Tensor:
    """N×3×S×S in [-1, 1] -> the same, each picture moved and recoloured by chance.

    Shifts reach an eighth of the side, turns follow a normal distribution of 10°, scales and
    contrasts one of 20 % (in log2); what comes in from outside repeats the border.
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
