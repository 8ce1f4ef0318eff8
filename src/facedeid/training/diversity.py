"""Input diversity: what a face goes through before a recogniser sees it in a loss.

Differentiable (JPEG and bit depth by a straight-through estimate); a draw decides per picture.
N×3×S×S in [-1, 1] -> the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.training.degrade import blurred, compressed

__all__ = ["diverse", "jittered_landmarks"]


def diverse(faces: Tensor, random: torch.Generator) -> Tensor:
    """Half of the pictures as they are; the others blurred, noisy, coarse, compressed or shrunk."""
    kinds = torch.randint(10, (len(faces),), generator=random).tolist()
    return torch.cat(
        [_CHANGES[kind](faces[i : i + 1], random) for i, kind in enumerate(kinds)]
        if len(faces)
        else [faces]
    )


def _same(face: Tensor, random: torch.Generator) -> Tensor:
    return face


def _blur(face: Tensor, random: torch.Generator) -> Tensor:
    return blurred(face, random, share=1.0, sigma=(0.4, 1.6))


def _noise(face: Tensor, random: torch.Generator) -> Tensor:
    return face + torch.randn(face.shape, generator=random).to(face) * 0.06


def _shrink(face: Tensor, random: torch.Generator) -> Tensor:
    side = face.shape[-1]
    small = int(torch.randint(side // 2, side, (1,), generator=random))
    reduced = F.interpolate(face, (small, small), mode="bilinear", antialias=True)
    return F.interpolate(reduced, (side, side), mode="bilinear")


def _jpeg(face: Tensor, random: torch.Generator) -> Tensor:
    levels = ((face.detach() + 1) * 127.5).clamp(0, 255)
    written = compressed(levels, random, share=1.0, quality=(10, 50)) / 127.5 - 1
    return face + (written - face.detach())


def _depth(face: Tensor, random: torch.Generator) -> Tensor:
    coarse = ((face.detach() + 1) * 3.5).round() / 3.5 - 1
    return face + (coarse - face.detach())


_CHANGES = (_same, _same, _same, _same, _same, _blur, _noise, _shrink, _jpeg, _depth)


def jittered_landmarks(landmarks: Tensor, random: torch.Generator) -> Tensor:
    """N×68×2, turned, scaled and shifted about their middle: so the crops of recognisers vary."""
    count = len(landmarks)
    middle = landmarks.mean(1, keepdim=True)
    size = (landmarks - middle).norm(dim=-1).mean(1)[:, None, None]
    angle = torch.randn(count, generator=random) * 0.06
    scale = 1 + torch.randn(count, generator=random) * 0.05
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2).to(landmarks)
    shift = torch.randn(count, 1, 2, generator=random) * 0.04 * size
    moved: Tensor = (landmarks - middle) @ turn.mT + middle + shift
    return moved
