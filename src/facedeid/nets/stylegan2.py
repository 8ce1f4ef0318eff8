"""The StyleGAN2 generator in the state-dict layout of rosinality's implementation.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. The modulated
convolution is not carried out with a kernel per sample: scaling input and output channels around
one shared kernel is the same (the paper's section 2.2) and lets a batch share one convolution.
"""

from collections.abc import Mapping, Sequence
from math import log2, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import OptionError
from facedeid.nets.equalised import (
    GAIN,
    BiasedLeaky,
    Blur,
    EqualLinear,
    Upsample,
    biased_leaky,
)

__all__ = ["Generator", "Noise", "channel_table", "mix", "sides_and_channels"]

Noise = Literal["stored", "random", "none"] | Sequence[Tensor]
"""Where the noise comes from: the checkpoint, the default generator, nowhere, or given per layer
(`Generator.draw_noise`)."""

EPS = 1e-8


def channel_table(multiplier: int = 2) -> dict[int, int]:
    """The published channels by side of the feature map; 2 is the paper's large network."""
    wide = {64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    return {4: 512, 8: 512, 16: 512, 32: 512} | {r: n * multiplier for r, n in wide.items()}


class Generator(nn.Module):
    """Mapping network and synthesis network.

    Args:
        size: side of the images, a power of two from 8.
        style_dim: D, the length of z and w.
        n_mlp: layers of the mapping network.
        channel_multiplier: 2 for the paper's network, 1 for half the channels from 64 px on.
        channels: channels by side, 4 to `size`, instead of the published table.
        clamp: bound of all activations; NVIDIA's mixed-precision networks have 256.

    Attributes:
        n_latent: L, the number of style vectors that a face takes in W+.
    """

    def __init__(
        self,
        size: int,
        *,
        style_dim: int = 512,
        n_mlp: int = 8,
        channel_multiplier: int = 2,
        channels: Mapping[int, int] | None = None,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        sides, table = sides_and_channels(size, channel_multiplier, channels)
        self.size, self.style_dim, self.n_latent = size, style_dim, 2 * len(sides)
        self.style = nn.Sequential(
            _PixelNorm(),
            *(EqualLinear(style_dim, style_dim, lr_mul=0.01, activate=True) for _ in range(n_mlp)),
        )
        self.input = _Constant(table[4])
        self.conv1 = _StyledConv(table[4], table[4], style_dim, clamp=clamp)
        self.to_rgb1 = _ToRgb(table[4], style_dim, upsample=False, clamp=clamp)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for i, side in enumerate(sides[1:]):
            inputs, outputs = table[side // 2], table[side]
            self.convs.append(_StyledConv(inputs, outputs, style_dim, upsample=True, clamp=clamp))
            self.convs.append(_StyledConv(outputs, outputs, style_dim, clamp=clamp))
            self.to_rgbs.append(_ToRgb(outputs, style_dim, upsample=True, clamp=clamp))
            for j in (2 * i + 1, 2 * i + 2):
                self.noises.register_buffer(f"noise_{j}", torch.randn(1, 1, side, side))

    def latent(self, z: Tensor, *, truncation: float = 1.0, centre: Tensor | None = None) -> Tensor:
        """N×D normal z -> N×D w, pulled towards `centre` (the mean w) when `truncation` < 1.

        Raises:
            OptionError: truncation without a centre.
        """
        w: Tensor = self.style(z)
        if truncation == 1.0:
            return w
        if centre is None:
            raise OptionError(
                "truncation needs a centre: the checkpoint's latent_avg or mean_latent"
            )
        return centre + truncation * (w - centre)

    @torch.no_grad()
    def mean_latent(self, n: int = 4096, random: torch.Generator | None = None) -> Tensor:
        """The mean w of n draws, 1×D."""
        z = torch.randn(n, self.style_dim, generator=random)
        w: Tensor = self.style(z.to(self.input.input))
        return w.mean(0, keepdim=True)

    @torch.no_grad()
    def absorb(self, offsets: Tensor) -> None:
        """Move the origin of each layer's style, L×D: w gives from now on what w + offsets gave."""
        layers: list[tuple[nn.Module, int]] = [(self.conv1, 0), (self.to_rgb1, 1)]
        layers += [(conv, i + 1) for i, conv in enumerate(self.convs)]
        layers += [(rgb, 2 * i + 3) for i, rgb in enumerate(self.to_rgbs)]
        for layer, index in layers:
            modulation = layer.get_submodule("conv.modulation")
            nothing = torch.zeros_like(offsets[index])
            modulation.get_parameter("bias").add_(modulation(offsets[index]) - modulation(nothing))

    def draw_noise(self, n: int, random: torch.Generator | None = None) -> list[Tensor]:
        """Fresh noise for n images, one N×1×H×W per layer, from a CPU generator."""
        return [
            torch.randn(n, *buffer.shape[1:], generator=random).to(buffer)
            for buffer in self.noises.buffers()
        ]

    def widen(self, w: Tensor) -> Tensor:
        """N×D -> N×L×D, the same style at every layer; N×L×D as it is.

        Raises:
            OptionError: the shape is neither.
        """
        if w.ndim == 2:
            w = w.unsqueeze(1).expand(-1, self.n_latent, -1)
        if w.ndim != 3 or w.shape[1:] != (self.n_latent, self.style_dim):
            raise OptionError(
                f"this generator takes N×{self.style_dim} or N×{self.n_latent}×{self.style_dim} "
                f"styles, got {tuple(w.shape)}"
            )
        return w

    def forward(self, w: Tensor, *, noise: Noise = "stored") -> Tensor:
        """W (N×D) or W+ (N×L×D) -> RGB N×3×size×size, nominally in [-1, 1], not clipped."""
        w = self.widen(w)
        layers = self._noise(noise, len(w))
        x = self.conv1(self.input.input.expand(len(w), -1, -1, -1), w[:, 0], layers[0])
        rgb: Tensor = self.to_rgb1(x, w[:, 1], None)
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i](x, w[:, 2 * i + 1], layers[2 * i + 1])
            x = self.convs[2 * i + 1](x, w[:, 2 * i + 2], layers[2 * i + 2])
            rgb = to_rgb(x, w[:, 2 * i + 3], rgb)
        return rgb

    def _noise(self, noise: Noise, n: int) -> Sequence[Tensor | None]:
        stored = list(self.noises.buffers())
        if noise == "stored":
            return stored
        if noise == "none":
            return [None] * len(stored)
        if noise == "random":
            return [torch.randn_like(each.expand(n, -1, -1, -1)) for each in stored]
        if isinstance(noise, str) or len(noise) != len(stored):
            raise OptionError(f"noise is 'stored', 'random', 'none' or {len(stored)} tensors")
        return noise


def mix(first: Tensor, second: Tensor, index: int) -> Tensor:
    """Style mixing: W+ with the coarse styles below `index` of one, the fine ones of the other."""
    return torch.cat([first[:, :index], second[:, index:]], 1)


def sides_and_channels(
    size: int, multiplier: int, channels: Mapping[int, int] | None
) -> tuple[list[int], Mapping[int, int]]:
    """The sides of the feature maps from 4 to `size`, and the channels by side.

    Raises:
        OptionError: no such size, or a side without channels.
    """
    if size < 8 or size & (size - 1):
        raise OptionError(f"StyleGAN2 makes images of a power of two from 8, not {size}")
    sides = [1 << i for i in range(2, int(log2(size)) + 1)]
    table = channel_table(multiplier) if channels is None else channels
    if absent := [side for side in sides if side not in table]:
        raise OptionError(f"no channels given for the sides {absent}")
    return sides, table


class _PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPS)


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class _NoiseStrength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class _Modulated(nn.Module):
    """What every convolution with a style has: its kernel and the style's affine map.

    Styles and demodulation are computed in full precision, also under autocast.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.scale = 1 / sqrt(inputs * kernel**2)

    def scales(self, w: Tensor) -> Tensor:
        """N×D -> N×I, the equalising constant included."""
        with torch.autocast(w.device.type, enabled=False):
            style: Tensor = self.modulation(w.to(self.weight.dtype))
            return style * self.scale

    def demodulation(self, scales: Tensor) -> Tensor:
        """N×I -> N×O, one over the standard deviation that the modulated kernel gives."""
        with torch.autocast(scales.device.type, enabled=False):
            kernels = self.weight[0].square().flatten(2)
            energy = kernels @ kernels.new_ones(kernels.shape[2])
            return torch.rsqrt(scales.square() @ energy.t() + EPS)


class _ModulatedConv(_Modulated):
    """3×3, N×I×H×W -> N×O×H×W, or twice the side; the caller multiplies by the demodulation."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, upsample: bool) -> None:
        super().__init__(inputs, outputs, 3, style_dim)
        self.blur = Blur(padding=1, gain=4.0) if upsample else None

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:
        x = x * scales.to(x.dtype)[:, :, None, None]
        if self.blur is None:
            return F.conv2d(x, self.weight[0], padding=1)
        blurred: Tensor = self.blur(F.conv_transpose2d(x, self.weight[0].transpose(0, 1), stride=2))
        return blurred


class _StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_dim: int,
        *,
        upsample: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.conv = _ModulatedConv(inputs, outputs, style_dim, upsample)
        self.noise = _NoiseStrength()
        self.activate = BiasedLeaky(outputs)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        scales = self.conv.scales(w)
        demodulation = self.conv.demodulation(scales)[:, :, None, None]
        x = self.conv(_layout(x), scales)
        x = x * (demodulation * GAIN).to(x.dtype)
        if noise is not None:
            x += (noise * (self.noise.weight * GAIN)).to(x.dtype)
        x = biased_leaky(x, self.activate.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _ToRgb(nn.Module):
    """1×1 modulated convolution to RGB without demodulation, added to the coarser image."""

    def __init__(
        self, inputs: int, style_dim: int, *, upsample: bool, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = _Modulated(inputs, 3, 1, style_dim)
        self.upsample = Upsample() if upsample else None
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, rgb: Tensor | None) -> Tensor:
        kernel = self.conv.weight[0, :, :, 0, 0] * self.conv.scales(w)[:, None]  # N×3×I
        pixels = x.flatten(2).transpose(1, 2) @ kernel.transpose(1, 2)  # rows as channels last
        fresh = pixels.transpose(1, 2).view(-1, 3, *x.shape[2:]) + self.bias
        if self.clamp is not None:
            fresh = fresh.clamp(-self.clamp, self.clamp)
        if rgb is None or self.upsample is None:
            return fresh
        with torch.autocast(x.device.type, enabled=False):
            total: Tensor = fresh + self.upsample(rgb)
        return total


def _layout(x: Tensor) -> Tensor:
    """Channels last from 16 px on; below, the kernels outweigh the image and are not reordered."""
    return x.contiguous(memory_format=torch.channels_last) if x.shape[2] >= 16 else x
