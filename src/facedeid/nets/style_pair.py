"""`facedeid-generator` and `facedeid-encoder`: a compact StyleGAN2 and its way into W+."""

import torch
from torch import Tensor, nn

from facedeid.nets.psp import GradualStyleEncoder
from facedeid.nets.residual import small
from facedeid.nets.stylegan2 import Generator, Noise
from facedeid.nets.stylegan2_discriminator import Discriminator

__all__ = ["CHANNELS", "StylePair", "compact_discriminator", "compact_encoder", "compact_generator"]

CHANNELS = {4: 192, 8: 192, 16: 192, 32: 160, 64: 96, 128: 48}
"""Of the feature maps, by side."""
STYLE = 256
"""D, the length of z and w."""


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


class StylePair(nn.Module):
    """Generator, encoder, and the mean latent that codes are offsets from.

    Input: aligned faces N×3×S×S RGB in [-1, 1], S a multiple of 128. Output: N×3×128×128,
    nominally in [-1, 1], not clipped.
    """

    centre: Tensor
    """Mean latent: D."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = compact_generator()
        self.encoder = compact_encoder(self.generator.n_latent)
        self.register_buffer("centre", torch.zeros(STYLE))

    def encode(self, faces: Tensor) -> Tensor:
        """W+ codes N×12×256."""
        offsets: Tensor = self.encoder(small(faces, self.generator.size))
        return self.centre + offsets

    def decode(self, codes: Tensor, *, noise: Noise = "stored") -> Tensor:
        """Faces of W (N×256) or W+ codes."""
        faces: Tensor = self.generator(codes, noise=noise)
        return faces

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """The faces as the pair gives them back, and their codes."""
        codes = self.encode(faces)
        return self.decode(codes), codes
