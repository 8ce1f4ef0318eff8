"""`facedeid-private-encoder`: a W+ encoder with the privacy level β as a second input."""

import torch
from torch import Tensor, nn

from facedeid.nets.psp import GradualStyleEncoder
from facedeid.nets.residual import small
from facedeid.nets.style_pair import AXES, CHANNELS, STYLE, compact_encoder

__all__ = ["PrivateEncoder", "residue"]

WIDTH = 64
STEADY = 3
"""Directions of the prior along which codes can be left as they were: those that turn heads."""


def residue(beta: Tensor) -> Tensor:
    """The share of what the generator cannot draw that a photo keeps at a level: none at 0, where a
    trace of it already tells who it is, all at 1.
    """
    return beta**2


class PrivateEncoder(nn.Module):
    """Zhao et al. 2022 with the level as an input: one network instead of one per level.

    The body and heads are those of `compact_encoder` (and start from its weights); a small network
    turns β into a scale and a shift of every channel of the three maps that the heads read
    (feature-wise modulation, Perez et al. 2018), at first of 1 and 0.

    Attributes:
        centre: D, the mean latent that codes are offsets from.
        steady: AXES×`STEADY`, directions along which the method leaves codes as they are
            (`StylePair.posing`); columns of zeros leave nothing.
    """

    SIDE = max(CHANNELS)
    centre: Tensor
    steady: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder: GradualStyleEncoder = compact_encoder()
        self.channels = [
            self.encoder.latlayer2.in_channels,
            self.encoder.latlayer1.in_channels,
            self.encoder.latlayer1.out_channels,
        ]
        self.level = nn.Sequential(
            nn.Linear(1, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, 2 * sum(self.channels)),
        )  # fmt: skip
        last = self.level[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("centre", torch.zeros(STYLE))
        self.register_buffer("steady", torch.zeros(AXES, STEADY))

    def forward(self, faces: Tensor, beta: Tensor) -> Tensor:
        """Aligned faces N×3×S×S in [-1, 1], S a multiple of 128, and β in [0, 1], N -> W+ N×12×256.

        1 asks for the same identity, 0 for one that has nothing to do with it.
        """
        maps = self.encoder.pyramid(small(faces, self.SIDE))
        scale, shift = self.level(2 * beta[:, None].to(faces) - 1)[:, :, None, None].chunk(2, 1)
        parts = zip(maps, scale.split(self.channels, 1), shift.split(self.channels, 1), strict=True)
        offsets = self.encoder.heads([m * (1 + a) + b for m, a, b in parts])
        return self.centre + offsets
