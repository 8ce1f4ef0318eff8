"""The StyleGAN2 discriminator in the state-dict layout of rosinality's implementation.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from collections.abc import Mapping
from math import gcd, sqrt

import torch
from torch import Tensor, nn

from facedeid.nets.equalised import BiasedLeaky, Blur, EqualConv, EqualLinear
from facedeid.nets.stylegan2 import EPS, sides_and_channels

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    """RGB N×3×size×size in [-1, 1] -> N×1 logits, high for real images; residual, as the paper's.

    Arguments as of `stylegan2.Generator`.
    """

    def __init__(
        self,
        size: int,
        *,
        channel_multiplier: int = 2,
        channels: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        sides, table = sides_and_channels(size, channel_multiplier, channels)
        self.convs = nn.Sequential(
            _conv(3, table[size], 1),
            *(_ResBlock(table[side], table[side // 2]) for side in reversed(sides[1:])),
        )
        self.final_conv = _conv(table[4] + 1, table[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(table[4] * 16, table[4], activate=True), EqualLinear(table[4], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Judge a batch; the deviation within groups of up to four images is one feature."""
        x = self.convs(x)
        x = self.final_conv(torch.cat([x, _group_deviation(x)], 1))
        logits: Tensor = self.final_linear(x.flatten(1))
        return logits


class _ResBlock(nn.Module):
    """N×I×H×W -> N×O×H/2×W/2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, inputs, 3)
        self.conv2 = nn.Sequential(
            Blur(padding=2), EqualConv(inputs, outputs, 3, stride=2), BiasedLeaky(outputs)
        )
        self.skip = nn.Sequential(Blur(padding=1, stride=2), EqualConv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(self.conv1(x))
        shortcut: Tensor = self.skip(x)
        return (residual + shortcut) / sqrt(2)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        EqualConv(inputs, outputs, kernel, padding=kernel // 2), BiasedLeaky(outputs)
    )


def _group_deviation(x: Tensor) -> Tensor:
    """N×C×H×W -> N×1×H×W: mean standard deviation over the images of a group.

    Image i is in group i mod N/g. Up to four images make a group; g divides N.
    """
    n = len(x)
    group = n if n <= 4 else gcd(n, 4)
    deviation = torch.sqrt(x.view(group, -1, *x.shape[1:]).var(0, correction=0) + EPS)
    means = deviation.mean((1, 2, 3)).repeat(group)
    return means[:, None, None, None].expand(n, 1, *x.shape[2:])
