"""LGC: landmark-guided cutout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from facedeid.landmarks import MEAN_FACE
from facedeid.methods.adversarial import Adversarial, Embed, Norm, Surrogates, check_attack, in_cube
from facedeid.optimize import Momentum, Problem, descend, rms_unit

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["Lgc", "cutout", "dodge"]

CUTS = 4
"""Landmarks that are covered in each iteration, of those that are not the chin's."""
FIRST = 17
"""The first of them."""
PATCH = 5
"""Side of a patch in pixels of the frame at 256. The public code takes 3 in ArcFace's chip of 112
pixels, where the eyes are 35 pixels apart; here they are 64 apart, so 3 become 5.4."""
START = 0.25
"""The random start is uniform in ± this share of the radius: at the own feature there is no
gradient, and a start at the rim would leave its noise in the picture."""

Mask = Callable[[Tensor, int], Tensor]
"""Faces at work (N numbers) and iteration -> N×1×S×S, 0 where the picture is covered."""


def cutout(points: Tensor, side: int, patch: int) -> Tensor:
    """N×K×2 points (x, y) -> N×1×side×side, 0 in a square of `patch` pixels around each, else 1.

    Coordinates count from 0 (the public code's patches lie a pixel further up and left).
    """
    corner = points.floor().long() - patch // 2
    line = torch.arange(side, device=points.device)
    inside = (line >= corner[..., None]) & (line < corner[..., None] + patch)  # N×K×2×side
    covered = inside[:, :, 1, :, None] & inside[:, :, 0, None, :]
    return (~covered.any(1, keepdim=True)).float()


@dataclass
class _Dodging(Problem):
    """Away from y, or towards it, under changing masks."""

    x: Tensor
    y: Tensor
    embed: Embed
    radius: float
    norm: Norm
    mask: Mask
    away: bool

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            features = self.embed(leaf * self.mask(rows, i), rows)
            loss = (features - self.y[rows]).square().mean(1).sum()
            return torch.autograd.grad(-loss if self.away else loss, leaf)[0][None]

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        centre = self.x[rows]
        if self.norm == "linf":
            return in_cube(x, centre, self.radius)
        change = x - centre
        size = change.square().mean((2, 3, 4), keepdim=True).sqrt()
        return (centre + change * (self.radius / size.clamp_min(self.radius))).clamp(0, 255)


def dodge(
    x: Tensor,
    y: Tensor,
    embed: Embed,
    *,
    radius: float,
    iterations: int,
    mask: Mask,
    norm: Norm = "linf",
    start: Tensor | None = None,
    away: bool = True,
) -> Tensor:
    """Momentum iterative attack under masks, on any network.

    Args:
        x: N×3×S×S in 0..255.
        y: N×D features to move away from (or, with `away=False`, towards).
        embed: the network.
        radius: of the ball in 8-bit levels; for `l2` the root mean square of the change.
        iterations: steps of 1.5·radius/iterations.
        mask: what is covered in each iteration.
        norm: of ball and step.
        start: where to begin, by default at x.
        away: dodging; False: impersonation.
    """
    problem = _Dodging(x, y, embed, radius, norm, mask, away)
    rule = Momentum(1.5 * radius / iterations, unit=torch.sign if norm == "linf" else rms_unit)
    return descend(problem, rule, x if start is None else start, iterations)


@dataclass(frozen=True, kw_only=True)
class Lgc(Adversarial):
    """Yang et al. 2020 (RobFR), section 3.2: MI-FGSM with landmark-guided cutout, dodging.

    Maximises mean((f(x'·mask) - f(x))²) over |x' - x| ≤ `radius` (8-bit levels; with norm "l2" the
    root mean square); each iteration covers patches around 4 of the 51 inner landmarks. Without
    landmarks the frame's mean face is used.
    """

    name: ClassVar[str] = "lgc"
    summary: ClassVar[str] = "pixel attack: landmark-guided cutout, change up to 4 levels"
    source: ClassVar[str] = "Yang et al. 2020"
    radius: float = 4
    iterations: int = 20
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attack(self.radius, self.iterations, self.norm)

    def attack(
        self,
        x: Tensor,
        surrogates: Surrogates,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """Dodge the own feature from a random start."""
        side = x.shape[-1]
        if landmarks is None:
            landmarks = torch.from_numpy(MEAN_FACE * side).float().expand(len(x), -1, -1)
        inner = landmarks[:, FIRST:].cpu()

        def mask(rows: Tensor, i: int) -> Tensor:
            points = [inner[r, _drawn(inner.shape[1], random[r])] for r in rows.tolist()]
            return cutout(torch.stack(points), side, PATCH).to(x)

        noise = torch.stack([torch.rand(x.shape[1:], generator=g) for g in random]).to(x)
        embed = surrogates.embed(landmarks)
        with torch.no_grad():
            own = embed(x, torch.arange(len(x)))
        made = dodge(
            x,
            own,
            embed,
            radius=self.radius,
            iterations=self.iterations,
            mask=mask,
            norm=self.norm,
            start=(x + (2 * noise - 1) * self.radius * START).clamp(0, 255),
        )
        return made, [{"iterations": self.iterations}] * len(x)


def _drawn(count: int, generator: torch.Generator) -> Tensor:
    """Four different numbers."""
    return torch.randperm(count, generator=generator)[:CUTS]
