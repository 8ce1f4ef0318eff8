"""`facedeid-generator` and `facedeid-encoder`: a compact StyleGAN2 and its way into W+."""

from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn

from facedeid.nets.landmark_net import LandmarkNet
from facedeid.nets.psp import GradualStyleEncoder
from facedeid.nets.residual import small
from facedeid.nets.stylegan2 import Generator, Noise
from facedeid.nets.stylegan2_discriminator import Discriminator

__all__ = [
    "AXES",
    "CHANNELS",
    "LIKELY",
    "LatentPair",
    "StylePair",
    "compact_discriminator",
    "compact_encoder",
    "compact_generator",
    "shortened",
]

CHANNELS = {4: 192, 8: 192, 16: 192, 32: 160, 64: 96, 128: 48}
"""Of the feature maps, by side."""
STYLE = 256
"""D, the length of z and w."""


AXES = 64
"""Of the prior; they hold nine tenths of the variance of photos' codes."""
LIKELY = 1.2
"""How far from the prior's mean codes may go, in standard deviations; photos' are at 0.7 to 1.4."""

POSING = 1280
"""Faces drawn to find out which directions move landmarks."""


def compact_generator() -> Generator:
    """128 px, L = 12 styles of 256 numbers, 3.4 million parameters."""
    return Generator(max(CHANNELS), style_dim=STYLE, n_mlp=4, channels=CHANNELS)


def compact_discriminator() -> Discriminator:
    """Of the same size and channels."""
    return Discriminator(max(CHANNELS), channels=CHANNELS)


def compact_encoder(styles: int = 12) -> GradualStyleEncoder:
    """128 px -> offsets N×12×256 from the mean latent; 2.5 million parameters."""
    return GradualStyleEncoder(
        styles,
        size=max(CHANNELS),
        layers=(2, 2, 3, 2),
        width=16,
        style_dim=STYLE,
        heads="light",
    )


class LatentPair(Protocol):
    """An encoder into W+ and its generator, ours or the published ones."""

    @property
    def side(self) -> int:
        """Of the faces it makes, in pixels."""

    def encode(self, faces: Tensor) -> Tensor:
        """Aligned faces N×3×256×256 in [-1, 1] -> W+ N×L×D."""

    def decode(self, w: Tensor, *, noise: Noise = "stored") -> Tensor:
        """W or W+ -> N×3×side×side, nominally in [-1, 1], not clipped."""

    def likely(self, codes: Tensor, start: Tensor, steady: Tensor | None = None) -> Tensor:
        """Codes N×L×D near `codes` where the pair makes faces; `start`: codes of photos. `steady`:
        directions of its prior along which those stay as they are, if it has one.
        """


def shortened(coordinates: Tensor, before: Tensor) -> Tensor:
    """Coordinates N×K, in root mean square at most `LIKELY`, or what those `before` are: N×K."""
    limit = before.square().mean(1).sqrt().clamp_min(LIKELY)
    size = coordinates.square().mean(1).add(1e-6).sqrt()
    return coordinates * (limit / size).clamp_max(1)[:, None]


class StylePair(nn.Module):
    """Generator, encoder, the mean latent that codes are offsets from, and a prior of codes.

    Input: aligned faces N×3×S×S RGB in [-1, 1], S a multiple of 128. Output: N×3×128×128,
    nominally in [-1, 1], not clipped.
    """

    centre: Tensor
    """Mean latent: D."""
    prior: Tensor
    """Mean code in W+: L×D."""
    axes: Tensor
    """Principal axes of codes, each as long as its standard deviation: AXES×L×D."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = compact_generator()
        self.encoder = compact_encoder(self.generator.n_latent)
        styles = self.generator.n_latent
        self.register_buffer("centre", torch.zeros(STYLE))
        self.register_buffer("prior", torch.zeros(styles, STYLE))
        self.register_buffer("axes", torch.zeros(AXES, styles, STYLE))

    @property
    def side(self) -> int:
        """Of the faces it makes, in pixels."""
        return self.generator.size

    def encode(self, faces: Tensor) -> Tensor:
        """W+ codes N×12×256."""
        offsets: Tensor = self.encoder(small(faces, self.generator.size))
        return self.centre + offsets

    def decode(self, w: Tensor, *, noise: Noise = "stored") -> Tensor:
        """Faces of W (N×256) or W+ codes."""
        faces: Tensor = self.generator(w, noise=noise)
        return faces

    @torch.no_grad()
    def learn_prior(self, codes: Tensor) -> None:
        """The normal distribution of codes N×L×D along their principal axes."""
        flat = codes.flatten(1)
        mean = flat.mean(0)
        _, spread, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        count = min(AXES, len(spread))
        scaled = axes[:count] * (spread[:count, None] / len(flat) ** 0.5)
        self.prior = mean.view_as(self.prior)
        self.axes[:count] = scaled.view(count, *self.prior.shape)

    def _axes(self) -> tuple[Tensor, Tensor]:
        """Unit directions of the prior's axes, AXES×(L·D), and the standard deviations along."""
        spread = self.axes.flatten(1).norm(dim=1).clamp_min(1e-6)
        return self.axes.flatten(1) / spread[:, None], spread

    def coordinates(self, codes: Tensor) -> Tensor:
        """Codes N×L×D along the prior's axes, in standard deviations from its mean: N×AXES."""
        directions, spread = self._axes()
        return (codes - self.prior).flatten(1) @ directions.T / spread

    def likely(self, codes: Tensor, start: Tensor, steady: Tensor | None = None) -> Tensor:
        """Codes near `codes` that the prior finds likely: N×L×D.

        What is off its axes stays as in `start`, codes of photos; along them, the root mean square
        is at most `LIKELY` standard deviations, or that of `start` if it is more. So does then what
        lies along `steady`, orthonormal columns AXES×K in the prior's coordinates (see `posing`).
        """
        directions, spread = self._axes()
        before = self.coordinates(start)
        wanted = before + (codes - start).flatten(1) @ directions.T / spread
        return self.moved(start, shortened(wanted, before) - before, steady)

    def moved(self, codes: Tensor, by: Tensor, steady: Tensor | None = None) -> Tensor:
        """Codes N×L×D moved by coordinates N×AXES, but not along `steady` (as for `likely`)."""
        directions, spread = self._axes()
        if steady is not None:
            by = by - by @ steady @ steady.T
        return codes + (by * spread @ directions).view_as(codes)

    def onto(self, codes: Tensor, kept: float = 0.0) -> Tensor:
        """Codes N×L×D with a share of what they have off the axes of the prior, 0 to 1."""
        nearest = self.moved(self.prior.expand_as(codes), self.coordinates(codes))
        return nearest + kept * (codes - nearest)

    def around(self, codes: Tensor, drawn: Tensor, share: float, steady: Tensor) -> Tensor:
        """Codes of other people near those of one, in the same pose: N×L×D.

        Args:
            codes: N×L×D.
            drawn: standard normal numbers, N×AXES.
            share: of the variance along the prior's axes that comes from them, 0 to 1.
            steady: directions along which the codes stay as they are, as for `likely`.
        """
        by = (sqrt(1 - share) - 1) * self.coordinates(codes) + sqrt(share) * drawn
        return self.moved(codes, by, steady)

    @torch.no_grad()
    def posing(self, network: LandmarkNet, count: int) -> Tensor:
        """Directions of the prior that move landmarks most, turn and expression: AXES×count.

        Orthonormal columns in its coordinates, from a linear fit of landmarks to faces drawn from
        it, always the same ones.
        """
        codes = self.sample(POSING, torch.Generator().manual_seed(0))
        drawn = self.coordinates(codes)
        found = [network(self.decode(part)).flatten(1) for part in torch.split(codes, 32)]
        points = torch.cat(found)
        square = drawn.T @ drawn + 10 * torch.eye(len(self.axes)).to(drawn)
        slopes = torch.linalg.solve(square, drawn.T @ (points - points.mean(0)))
        directions: Tensor = torch.linalg.svd(slopes, full_matrices=False)[0]
        return directions[:, :count]

    def sample(self, count: int, random: torch.Generator, *, truncation: float = 1.0) -> Tensor:
        """W+ codes of people who do not exist, from the prior: count×L×D.

        Args:
            count: how many.
            random: a generator on the CPU.
            truncation: below 1 nearer to the mean code, likelier and more alike.
        """
        z = torch.randn(count, len(self.axes), generator=random).to(self.axes)
        return self.prior + truncation * torch.einsum("nk,kld->nld", z, self.axes)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """The faces as the pair gives them back, and their codes."""
        codes = self.encode(faces)
        return self.decode(codes), codes
