"""TIP-IM: towards the best of several targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid import imaging
from facedeid.errors import OptionError
from facedeid.faces import align, detect, frame
from facedeid.methods.adversarial import (
    Adversarial,
    Embed,
    Norm,
    Surrogates,
    check_attack,
    in_cube,
)
from facedeid.methods.base import number
from facedeid.models import Recognizer
from facedeid.models.naming import expanded
from facedeid.optimize import Momentum, Problem, descend, rms_unit

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["TipIm", "gain", "impersonate", "mmd", "moved", "portraits", "turning"]

SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
"""Variances of the kernels of MMD."""

Diversify = Callable[[Tensor, Tensor, int], Tensor]
"""Pictures, faces at work (N numbers) and iteration -> the pictures, moved."""


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of vectors, P×D and Q×D, 19 Gaussian kernels."""

    def kernels(one: Tensor, two: Tensor) -> Tensor:
        squares = (one[:, None] - two[None]).square().sum(-1)
        return torch.exp(-squares[..., None] / (2 * squares.new_tensor(SIGMAS))).sum(-1).mean()

    return kernels(a, a) + kernels(b, b) - 2 * kernels(a, b)


def gain(features: Tensor, own: Tensor, targets: Tensor) -> Tensor:
    """Eq. 5 with the public code's maximum: features K×N×D, own N×D, targets N×T×D -> K×N.

    log(1 + max_t exp(‖f - own‖ - ‖f - t‖)): how much nearer a picture is to some target.
    """
    away = (features - own).norm(dim=-1)
    near = (features[:, :, None] - targets).norm(dim=-1).amin(-1)
    return F.softplus(away - near)


def moved(images: Tensor, matrices: Tensor) -> Tensor:
    """N×3×S×S through affine maps N×2×3 of the coordinates in [-1, 1]; black outside."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    inside = F.grid_sample(torch.ones_like(images[:, :1]), grid, align_corners=False) > 0.9999
    return F.grid_sample(images, grid, align_corners=False) * inside


def turning(angles: Tensor) -> Tensor:
    """Angles N in radians -> N×2×3."""
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    return torch.stack([cosine, sine, zero, -sine, cosine, zero], 1).view(-1, 2, 3)


@dataclass
class _Impersonation(Problem):
    """One candidate per target; the one that gains most is kept."""

    x: Tensor
    own: Tensor
    targets: Tensor
    embed: Embed
    radius: float
    gamma: float
    diversify: Diversify | None

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        """Of mse(f, t) - mse(f, own) + γ·MMD. Its gradient in f is 2(own - t)/D wherever f is.

        So one forward pass serves all targets: each pulls back a constant vector.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            shown = leaf if self.diversify is None else self.diversify(leaf, rows, i)
            features = self.embed(shown, rows)
        pulls = 2 / features.shape[1] * (self.own[rows, None] - self.targets[rows])
        gradients = torch.stack(
            [torch.autograd.grad(features, leaf, p, retain_graph=True)[0] for p in pulls.unbind(1)]
        )
        return gradients + self._naturalness(x, rows) if self.gamma else gradients

    def _naturalness(self, x: Tensor, rows: Tensor) -> Tensor:
        """Gradient of γ·MMD between the picture and the original, face by face: N×…."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            pairs = zip(leaf.flatten(1), self.x[rows].flatten(1), strict=True)
            total = torch.stack([mmd(a[None], b[None]) for a, b in pairs]).sum()
        return self.gamma * torch.autograd.grad(total, leaf)[0]

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        return in_cube(x, self.x[rows], self.radius)

    def choose(self, candidates: Tensor, rows: Tensor) -> Tensor:
        """By `gain`, in one forward pass of all candidates."""
        count = len(candidates)
        features = self.embed(candidates.flatten(0, 1), rows.repeat(count))
        return gain(features.view(count, len(rows), -1), self.own[rows], self.targets[rows]).argmax(
            0
        )


def impersonate(
    x: Tensor,
    own: Tensor,
    targets: Tensor,
    embed: Embed,
    *,
    radius: float,
    iterations: int,
    norm: Norm = "l2",
    gamma: float = 0.0,
    diversify: Diversify | None = None,
) -> Tensor:
    """Away from the own features and towards a target's, on any network.

    Args:
        x: N×3×S×S in 0..255.
        own: N×D features.
        targets: N×T×D features.
        embed: the network.
        radius: greatest change of a value, in 8-bit levels, whatever the norm.
        iterations: steps of 1.5·radius/iterations: of each value (`linf`) or root mean square.
        norm: of the step.
        gamma: weight of MMD, which keeps the picture near the original.
        diversify: moves the picture before each gradient.
    """
    problem = _Impersonation(x, own, targets, embed, radius, gamma, diversify)
    rule = Momentum(1.5 * radius / iterations, unit=torch.sign if norm == "linf" else rms_unit)
    return descend(problem, rule, x, iterations)


@dataclass(frozen=True, kw_only=True)
class TipIm(Adversarial):
    """Yang et al. 2021, eq. 4-7 and algorithm 1, as in the public code.

    Each iteration moves the picture a little (affine), and takes one step per target that lowers
    mse(f, target) - mse(f, own) + `gamma`·MMD(x', x); the candidate with the largest gain (eq. 5)
    is kept with its momentum. No value changes by more than `radius` 8-bit levels.

    Targets are `targets` synthetic people drawn for each face, or portraits in the folder
    `images`. MMD compares picture and original, as in the public code, here face by face.

    Cost per face: `iterations`·(1 + `targets`) forward and `iterations`·`targets` backward passes.
    """

    name: ClassVar[str] = "tip-im"
    summary: ClassVar[str] = "pixel attack towards synthetic people, change up to 12 levels"
    source: ClassVar[str] = "Yang et al. 2021"
    radius: float = 12
    iterations: int = 100
    targets: int = 10
    norm: Norm = "l2"
    gamma: float = 0.0
    images: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attack(self.radius, self.iterations, self.norm)
        number("targets", self.targets, 1, 1000)
        number("gamma", self.gamma, 0, 1e6)

    def ready(self, models: "Models") -> None:
        """And there are targets for them."""
        self._bank(Surrogates(models.recognizers(self.recognizers)), models)

    def attack(
        self,
        x: Tensor,
        surrogates: Surrogates,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """Impersonate; the facts tell which target each face came nearest to, by its number."""
        bank = self._bank(surrogates, models)
        drawn = torch.stack(
            [torch.randperm(len(bank), generator=g)[: self.targets] for g in random]
        )
        embed = surrogates.embed(landmarks)
        rows = torch.arange(len(x), device=x.device)
        targets = bank[drawn.to(bank.device)]
        with torch.no_grad():
            own = embed(x, rows)
        made = impersonate(
            x,
            own,
            targets,
            embed,
            radius=self.radius,
            iterations=self.iterations,
            norm=self.norm,
            gamma=self.gamma,
            diversify=lambda p, r, i: _diversified(p, [random[k] for k in r.tolist()]),
        )
        with torch.no_grad():
            near = (embed(made, rows)[:, None] - targets).norm(dim=-1).argmin(1).cpu()
        nearest = drawn[torch.arange(len(x)), near].tolist()
        return made, [{"iterations": self.iterations, "target": t} for t in nearest]

    def _bank(self, surrogates: Surrogates, models: "Models") -> Tensor:
        """Features of all possible targets, M×D."""
        if self.images is None:
            return surrogates.identities(models)
        files = [(path, path.stat()) for path in portraits(self.images)]
        state = tuple((path, seen.st_size, seen.st_mtime_ns) for path, seen in files)
        return _features(state, tuple(surrogates.recognizers))


def _diversified(images: Tensor, random: Sequence[torch.Generator]) -> Tensor:
    """Affine noise, then a turn; their standard deviations are drawn from 0.01 to 0.1."""
    draws = torch.stack(
        [
            (0.01 + 0.09 * torch.rand(2, generator=g)).repeat_interleave(torch.tensor([6, 1]))
            * torch.randn(7, generator=g)
            for g in random
        ]
    ).to(images)
    noise = draws[:, :6].view(-1, 2, 3) + torch.eye(2, 3).to(images)
    return moved(moved(images, noise), turning(draws[:, 6]))


def portraits(images: str) -> list[Path]:
    """Files of a folder that may be photos, in order; others, and what is hidden, are left out.

    Raises:
        OptionError: not a folder, or there are none.
    """
    folder = expanded(images)
    if not folder.is_dir():
        raise OptionError(f"images: {folder} is not a folder of portraits")
    seen = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    found = sorted(path for path in seen if imaging.may_be_photo(path))
    if not found:
        raise OptionError(f"images: there are no portraits in {folder}")
    return found


@lru_cache(2)
@torch.no_grad()
def _features(
    files: tuple[tuple[Path, int, int], ...], recognizers: tuple[Recognizer, ...]
) -> Tensor:
    """Features of portraits (path, size and time of change), M×D; worked out once a process."""
    surrogates = Surrogates(recognizers)
    found = [_portrait(path) for path, _, _ in files]
    return torch.cat([surrogates.features(face[None], points[None]) for face, points in found])


def _portrait(path: Path) -> tuple[Tensor, Tensor]:
    """The surest face in a photo: 3×256×256 in the canonical frame, and its landmarks there."""
    rgb = imaging.read(path).rgb8
    faces = detect(rgb)
    if not faces:
        raise OptionError(f"images: no face was found in {path}")
    face = max(faces, key=lambda f: f.score)
    canonical = frame(face, 256)
    points = torch.from_numpy(canonical.to_frame(face.landmarks)).float()
    return align(rgb, canonical), points
