"""Layers with an equalised learning rate and FIR resampling, as StyleGAN2 and its encoders use.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020. Parameters are stored
as unit normals; the He constant is applied in the forward pass.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BiasedLeaky", "Blur", "EqualConv", "EqualLinear", "Upsample", "biased_leaky"]

GAIN = sqrt(2)
SLOPE = 0.2


class EqualLinear(nn.Module):
    """N×I -> N×O. `lr_mul` scales weight and bias in the forward pass, and so their learning."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        lr_mul: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale = lr_mul / sqrt(inputs)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """The affine map, and √2 times a leaky ReLU with `activate`."""
        x = F.linear(x * self.scale, self.weight, self.bias * self.lr_mul)
        return F.leaky_relu(x, SLOPE) * GAIN if self.activate else x


class EqualConv(nn.Module):
    """A square convolution N×I×H×W -> N×O×H'×W'."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / sqrt(inputs * kernel**2)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight = self.weight * self.scale
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)


class BiasedLeaky(nn.Module):
    """Per-channel bias, leaky ReLU, and the √2 that keeps the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Activate."""
        return biased_leaky(x * GAIN, self.bias)


def biased_leaky(scaled: Tensor, bias: Tensor) -> Tensor:
    """√2·leaky(x + bias) from a fresh N×C×H×W tensor √2·x, which is overwritten.

    The leaky ReLU is positively homogeneous: the gain may go in before it, where it is free.
    """
    scaled += (bias * GAIN).to(scaled.dtype).view(1, -1, 1, 1)
    return F.leaky_relu_(scaled, SLOPE)


class _Filter(nn.Module):
    """The 4×4 binomial low-pass of the papers; its kernel is part of the official layout."""

    kernel: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps) * (gain / 64))

    def _depthwise(self, x: Tensor) -> Tensor:
        """One pass over the image, C×1×4×4: faster here than two with four taps each."""
        return self.kernel.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, 4, 4)


class Blur(_Filter):
    """Low-pass N×C×H×W with `padding` zeros around it, keeping every `stride`-th pixel."""

    def __init__(self, *, padding: int, gain: float = 1.0, stride: int = 1) -> None:
        super().__init__(gain)
        self.padding = padding
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Filter."""
        return F.conv2d(
            x, self._depthwise(x), padding=self.padding, stride=self.stride, groups=x.shape[1]
        )


class Upsample(_Filter):
    """N×C×H×W to twice the side, zeros beyond the border."""

    def __init__(self) -> None:
        super().__init__(4.0)

    def forward(self, x: Tensor) -> Tensor:
        """Filter."""
        weight = self._depthwise(x).flip(2, 3)  # the adjoint of a correlation
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])
