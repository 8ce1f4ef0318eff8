"""What happens to face photos before they are compared: ten families, from mild to destroyed.

A family takes N×3×S×S float32 in 0..255 and which photos of the data they are, and draws how far
to go for each picture on its own. Families that need other photos or a recogniser keep what they
need in a `Distortions`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.landmarks import CHIN
from facedeid.random import seeded, stream
from facedeid.training.data import Faces
from facedeid.training.degrade import blurred, compressed
from facedeid.training.synthesis import warped

__all__ = ["FAMILIES", "Distortions"]

Embed = Callable[[Tensor, Tensor], Tensor]
"""Faces N×3×S×S in [-1, 1] in the canonical frame and landmarks N×68×2 -> embeddings."""

FAMILIES = (
    "blur",
    "noise",
    "jpeg",
    "depth",
    "warp",
    "brightness",
    "mosaic",
    "adversarial",
    "swap",
    "reconstruction",
)


def _log(random: torch.Generator, low: float, high: float, n: int) -> Tensor:
    """N×1×1×1, uniform in the logarithm."""
    share = torch.rand(n, 1, 1, 1, generator=random)
    return low * (high / low) ** share


@dataclass(eq=False)
class Distortions:
    """The families over one set of photos.

    Args:
        faces: photos to swap with, and to learn reconstructions from.
        embed: the recogniser that adversarial residues are made against.
        seed: of the bank of residues.
        bank: photos with a residue of their own; swaps and residues use these.
        rank: components of the reconstructions.
    """

    faces: Faces
    embed: Embed
    seed: int = 0
    bank: int = 192
    rank: int = 160
    _residues: Tensor = field(init=False)
    _mean: Tensor = field(init=False)
    _components: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = min(self.bank, len(self.faces))
        chosen = torch.arange(count) * len(self.faces) // count
        parts = [self._attacked(part) for part in torch.split(chosen, 16)]
        self._residues = torch.cat(parts)
        few = torch.arange(min(1500, len(self.faces))) * len(self.faces)
        few = few // min(1500, len(self.faces))
        small = F.interpolate(self.faces.images[few].float(), size=(64, 64), mode="area")
        flat = small.flatten(1)
        self._mean = flat.mean(0)
        with seeded(self.seed):
            rank = min(self.rank, len(few) - 1)
            self._components = torch.svd_lowrank(flat - self._mean, q=rank, niter=2)[2]

    def apply(
        self, family: str, images: Tensor, landmarks: Tensor, random: torch.Generator
    ) -> Tensor:
        """One family, by name: as many pictures, in 0..255, rounded."""
        distort = getattr(self, f"_{family}")
        result: Tensor = distort(images, landmarks, random)
        return result.clamp(0, 255).round()

    def _blur(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        size = x.shape[-1] / 128
        parts = []
        for i in range(len(x)):
            sigma = float(_log(random, 0.3, 6, 1)) * size
            parts.append(blurred(x[i : i + 1], random, share=1.1, sigma=(sigma, sigma)))
        return torch.cat(parts)

    def _noise(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=random)
        grain = torch.rand(len(x), 1, 1, 1, generator=random) < 0.25
        coarse = F.interpolate(noise[..., ::2, ::2], size=x.shape[2:], mode="bilinear")
        return x + torch.where(grain, coarse, noise).to(x) * _log(random, 1, 60, len(x)).to(x)

    def _jpeg(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        return compressed(x, random, share=1.1, quality=(4, 95))

    def _depth(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        step = 256 / _log(random, 2, 40, len(x)).round().to(x)
        return (x / step).floor().mul(step) + step / 2

    def _warp(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        n, side = len(x), x.shape[-1]
        cells = 3 if torch.rand(1, generator=random) < 0.5 else 6
        flow = torch.randn(n, 2, cells, cells, generator=random) * _log(random, 0.004, 0.1, n)
        flow = F.interpolate(flow, size=(side, side), mode="bicubic", align_corners=False).to(x)
        still = torch.eye(2, 3, device=x.device).expand(n, -1, -1)
        grid = F.affine_grid(still, [n, 3, side, side], align_corners=False)
        grid = grid + flow.permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def _brightness(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        n = len(x)
        size = _log(random, 0.04, 1, n)
        gain = 1 + size * (torch.rand(n, 3, 1, 1, generator=random) - 0.5) * 0.6
        gain = gain * torch.exp(size * (torch.rand(n, 1, 1, 1, generator=random) * 2 - 1))
        shift = size * (torch.rand(n, 1, 1, 1, generator=random) - 0.5) * 120
        return x * gain.to(x) + shift.to(x)

    def _mosaic(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        side, parts = x.shape[-1], []
        for i in range(len(x)):
            cells = int(side / 128 * float(128 / _log(random, 1.5, 24, 1)))
            small = F.interpolate(x[i : i + 1], size=(cells, cells), mode="area")
            parts.append(F.interpolate(small, size=(side, side), mode="nearest"))
        return torch.cat(parts)

    def _adversarial(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        n, side = len(x), x.shape[-1]
        chosen = torch.randint(len(self._residues), (n,), generator=random)
        residue = self._residues[chosen].float() / 127
        if residue.shape[-1] != side:
            start = torch.randint(max(1, residue.shape[-1] - side), (2,), generator=random)
            top, left = start.tolist()
            if residue.shape[-1] > side:
                residue = residue[..., top : top + side, left : left + side]
            else:
                residue = F.interpolate(residue, size=(side, side), mode="bilinear")
        return x + residue.to(x) * _log(random, 1, 32, n).to(x)

    def _swap(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        n, side = len(x), x.shape[-1]
        who = torch.randint(len(self.faces), (n,), generator=random)
        other = warped(self.faces.images[who], self.faces.landmarks[who], landmarks, side).to(x)
        mean, wanted = (_face_mean(p, landmarks) for p in (other, x))
        other = other + (wanted - mean) * torch.rand(n, 1, 1, 1, generator=random).to(x)
        strength = torch.rand(n, 1, 1, 1, generator=random).to(x)
        return x + (other - x) * _oval(landmarks, side).to(x) * (0.1 + 0.9 * strength)

    def _reconstruction(self, x: Tensor, landmarks: Tensor, random: torch.Generator) -> Tensor:
        side = x.shape[-1]
        small = F.interpolate(x, size=(64, 64), mode="area").flatten(1)
        most = self._components.shape[1]
        ranks = (_log(random, 4, most, len(x)).flatten()).round()
        kept = (torch.arange(most) < ranks[:, None]).to(x)
        basis = self._components.to(x)
        coded = ((small - self._mean.to(x)) @ basis) * kept
        low = (self._mean.to(x) + coded @ basis.T).reshape(-1, 3, 64, 64)
        back = F.interpolate(low, size=(side, side), mode="bicubic", align_corners=False)
        keep = torch.rand(len(x), 1, 1, 1, generator=random).to(x) * 0.8
        return back + (x - back) * keep

    def _attacked(self, chosen: Tensor) -> Tensor:
        """Residues, int8 with 127 as the largest step, after a few momentum iterations."""
        clean = self.faces.images[chosen].float() / 127.5 - 1
        points = self.faces.landmarks[chosen]
        random = stream(self.seed, "residue", int(chosen[0]))
        with torch.no_grad():
            own = self.embed(clean, points)
        size = torch.rand(len(chosen), 1, 1, 1, generator=random) * 0.06 + 0.02
        change = (torch.rand(clean.shape, generator=random) - 0.5) * size
        momentum = torch.zeros_like(change)
        for _ in range(int(torch.randint(2, 5, (1,), generator=random))):
            change.requires_grad_()
            loss = (self.embed(clean + change, points) - own).square().sum()
            (gradient,) = torch.autograd.grad(loss, change)
            scale = gradient.abs().mean((1, 2, 3), keepdim=True) + 1e-12
            momentum = momentum + gradient / scale
            change = (change.detach() + momentum.sign() * size / 2).clamp(-size, size)
        return (change.detach() / size * 127).round().to(torch.int8)


def _face_mean(x: Tensor, landmarks: Tensor) -> Tensor:
    mask = _oval(landmarks, x.shape[-1]).to(x)
    return (x * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True)


def _oval(landmarks: Tensor, side: int) -> Tensor:
    """A soft ellipse over the face: N×1×side×side in 0..1."""
    low, high = landmarks[:, list(CHIN)].amin(1), landmarks[:, list(CHIN)].amax(1)
    low = torch.stack([low[:, 0], landmarks[:, :, 1].amin(1) - 0.12 * side], 1)
    centre, radius = (low + high) / 2, ((high - low) / 2).clamp_min(1)
    line = torch.arange(side, device=landmarks.device)
    x = ((line - centre[:, :1]) / radius[:, :1])[:, None, None, :]
    y = ((line - centre[:, 1:]) / radius[:, 1:])[:, None, :, None]
    return ((1 - (x.square() + y.square()).sqrt()) * 6 + 0.5).clamp(0, 1)
