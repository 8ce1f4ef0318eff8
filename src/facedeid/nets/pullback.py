"""Several gradients with respect to a generator's codes, for little more than its convolutions.

Methods that move codes run a frozen generator many times, and pull two to four gradients back
through each run. Autograd begins each anew, casts the weights every time, and multiplies maps by
factors of their channels in rows too short for a CPU. `Synthesis` is the chain rule written out
for StyleGAN2's synthesis network, for all gradients at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.nets.equalised import GAIN, SLOPE
from facedeid.nets.style_pair import LatentPair, StylePair
from facedeid.nets.stylegan2 import EPS, Generator

__all__ = ["Pullback", "Synthesis", "Traced", "pullback"]

MAPS = 6
"""Gradients times faces, pulled back at once on a CPU: maps of more do not stay in its cache."""


class Pullback(Protocol):
    """A frozen generator that can be asked for gradients."""

    def decode(self, codes: Tensor) -> tuple[Tensor, Any]:
        """Codes N×L×D -> faces N×3×s×s, without a graph, and what `pull` needs to know of them."""

    def pull(self, seen: Any, gradients: Tensor) -> Tensor:
        """Gradients K×N×3×s×s with respect to the faces -> K×N×L×D with respect to the codes."""


def pullback(pair: LatentPair, *, bf16: bool = False) -> Pullback:
    """`Synthesis` for the pair that ships, `Traced` for others; in bfloat16 if asked for."""
    if isinstance(pair, StylePair):
        return Synthesis(pair.generator, bf16=bf16)
    return Traced(pair, bf16=bf16)


class Traced:
    """By autograd, one gradient after the other."""

    def __init__(self, pair: LatentPair, *, bf16: bool = False) -> None:
        self.pair, self.bf16 = pair, bf16

    def decode(self, codes: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Pullback`."""
        leaf, kind = codes.detach().requires_grad_(), codes.device.type
        with torch.enable_grad(), torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            made = self.pair.decode(leaf).float()
        return made.detach(), (leaf, made)

    def pull(self, seen: tuple[Tensor, Tensor], gradients: Tensor) -> Tensor:
        """See `Pullback`."""
        leaf, made = seen
        found = [torch.autograd.grad(made, leaf, g, retain_graph=True)[0] for g in gradients]
        return torch.stack(found)


class _Style(NamedTuple):
    """From one of the L styles to factors of channels: D -> C."""

    number: int
    matrix: Tensor
    bias: Tensor

    def factors(self, codes: Tensor) -> Tensor:
        """N×L×D -> N×C."""
        return torch.addmm(self.bias, codes[:, self.number], self.matrix.T)


class _Conv(NamedTuple):
    style: _Style
    weight: Tensor
    """O×I×3×3; I×O×3×3 where the side is doubled."""
    energy: Tensor
    """O×I, of the weight: for the demodulation."""
    added: Tensor
    """Noise and bias, 1×H×W·O."""
    bias: Tensor
    sums: Tensor
    """Noise and ones, 2×H·W: what gradients are summed with."""
    blur: Tensor | None
    """O×1×4×4 where the side is doubled."""


class _Rgb(NamedTuple):
    style: _Style
    weight: Tensor
    """3×I."""
    bias: Tensor
    blur: Tensor | None
    """3×1×4×4, with which coarser colours are doubled."""


class _Layer(NamedTuple):
    """What a convolution has seen of N faces, and the colours that follow every second one."""

    x: Tensor
    """In, N×h×w×I."""
    z: Tensor
    """Out, N×H×W×O."""
    scales: Tensor
    """Of x, N×I."""
    demodulation: Tensor
    """N×O."""
    kernel: Tensor | None
    """Of the colours, N×3×O."""

    def rows(self, part: slice) -> "_Layer":
        """Of some of the faces."""
        return _Layer(*(None if x is None else x[part] for x in self))  # type: ignore[arg-type]


class Synthesis:
    """`Generator.forward` with the stored noise, and its gradients.

    Args:
        generator: whose weights are copied; one without a clamp.
        bf16: maps and kernels in bfloat16, styles and colours in float32: about twice as fast on a
            machine that has it (`nets.speed`), and rounded as under `torch.autocast`.
    """

    @torch.no_grad()
    def __init__(self, generator: Generator, *, bf16: bool = False) -> None:
        dtype = torch.bfloat16 if bf16 else torch.float32
        noises = generator.noises.buffers()
        convs = [generator.conv1, *generator.convs]
        rgbs = [generator.to_rgb1, *generator.to_rgbs]
        pairs = zip(convs, noises, strict=True)
        self.convs = [_conv(conv, noise, i, dtype) for i, (conv, noise) in enumerate(pairs)]
        self.rgbs = [_rgb(rgb, 2 * i + 1) for i, rgb in enumerate(rgbs)]
        self.start = _last(generator.input.input.to(dtype))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> tuple[Tensor, list[_Layer]]:
        """See `Pullback`."""
        x, colours = self.start.expand(len(codes), -1, -1, -1), torch.zeros(())
        layers = []
        for i, conv in enumerate(self.convs):
            scales = conv.style.factors(codes)
            demodulation = torch.rsqrt(scales.square() @ conv.energy.T + EPS)
            y = _first((x.flatten(2) * _rows(scales, x)).view_as(x))
            if conv.blur is None:
                y = F.conv2d(y, conv.weight, padding=1)
            else:
                y = F.conv_transpose2d(y, conv.weight, stride=2)
                y = F.conv2d(y, conv.blur, padding=1, groups=len(conv.blur))
            y = _last(y)
            z = torch.addcmul(conv.added, y.flatten(2), _rows(demodulation * GAIN, y))
            z = F.leaky_relu_(z, SLOPE).view_as(y)
            kernel = None
            if i % 2 == 0:
                rgb = self.rgbs[i // 2]
                kernel = rgb.weight * rgb.style.factors(codes)[:, None]
                fresh = (z.flatten(1, 2) @ kernel.to(z.dtype).mT).float().mT
                fresh = fresh.view(*fresh.shape[:2], *z.shape[1:3]) + rgb.bias
                if rgb.blur is not None:
                    fresh += F.conv_transpose2d(colours, rgb.blur, stride=2, padding=1, groups=3)
                colours = fresh
            layers.append(_Layer(x, z, scales, demodulation, kernel))
            x = z
        return colours, layers

    @torch.no_grad()
    def pull(self, seen: Sequence[_Layer], gradients: Tensor) -> Tensor:
        """See `Pullback`."""
        many, total = gradients.shape[:2]
        count = max(1, MAPS // many) if gradients.device.type == "cpu" else total
        return torch.cat(
            [
                self._pulled([layer.rows(part) for layer in seen], gradients[:, part])
                for part in (slice(i, i + count) for i in range(0, total, count))
            ],
            1,
        )

    def _pulled(self, layers: Sequence[_Layer], gradient: Tensor) -> Tensor:
        """K×N×3×s×s -> K×N×L×D.

        The gradient of a channel's factor is the sum over the map of gradient times map, the
        factor left out. One such product is made for each convolution, of what goes in; that of
        what comes out follows from those of the layers it goes to, because a leaky ReLU does not
        change the product of gradient and map.
        """
        of = gradient.shape[:2]
        total = gradient.new_zeros(*of, len(self.convs) + 1, self.convs[0].style.matrix.shape[1])
        back, product = None, gradient.new_zeros(())
        for i in reversed(range(len(self.convs))):
            conv, layer = self.convs[i], layers[i]
            z = layer.z.flatten(2)
            if layer.kernel is not None:
                rgb, pixels = self.rgbs[i // 2], gradient.flatten(3).to(z.dtype)
                outer = (pixels @ layer.z.flatten(1, 2)).float()
                total[:, :, rgb.style.number] += (outer * rgb.weight).sum(2) @ rgb.style.matrix
                product = product + (outer * layer.kernel).sum(2)
                own = (pixels.mT @ layer.kernel.to(z.dtype)).view(*of, *z.shape[1:])
                back = own if back is None else back.add_(own)
                if rgb.blur is not None:
                    gradient = F.conv2d(
                        gradient.flatten(0, 1), rgb.blur, stride=2, padding=1, groups=3
                    )
                    gradient = gradient.view(*of, *gradient.shape[1:])
            assert back is not None
            back = torch.ops.aten.leaky_relu_backward(back, z.expand(*of, -1, -1), SLOPE, True)
            sums = (conv.sums @ back.view(*of, -1, len(conv.bias))).float()
            product = product - sums[:, :, 0] - sums[:, :, 1] * conv.bias
            back *= _rows(layer.demodulation * GAIN, layer.z)
            y = _first(back.view(-1, *layer.z.shape[1:]))
            if conv.blur is None:
                y = F.conv_transpose2d(y, conv.weight, padding=1)
            else:
                y = F.conv2d(y, conv.blur, padding=2, groups=len(conv.blur))
                y = F.conv2d(y, conv.weight, stride=2)
            back = _last(y).view(*of, layer.x.shape[1], -1)
            flat = (back * layer.x.flatten(2)).view(*of, -1, layer.x.shape[3])
            inner = (flat.new_ones(1, flat.shape[2]) @ flat)[:, :, 0].float()
            scaling = layer.scales * ((product * layer.demodulation.square()) @ conv.energy)
            total[:, :, conv.style.number] += (inner - scaling) @ conv.style.matrix
            product = inner * layer.scales
            back *= _rows(layer.scales, layer.x)
        return total


def _style(conv: Any, index: int) -> _Style:
    """Of a modulated convolution, the equalising constants multiplied in."""
    affine = conv.modulation
    return _Style(
        index,
        affine.weight * (affine.scale * conv.scale),
        affine.bias * (affine.lr_mul * conv.scale),
    )


def _conv(layer: Any, noise: Tensor, index: int, dtype: torch.dtype) -> _Conv:
    weight, bias = layer.conv.weight[0], layer.activate.bias * GAIN
    side, noise = noise.shape[-1], noise.flatten() * (layer.noise.weight * GAIN)
    blur = layer.conv.blur
    kernel = weight if blur is None else weight.transpose(0, 1)
    return _Conv(
        _style(layer.conv, index),
        kernel.to(dtype).contiguous(memory_format=torch.channels_last),
        weight.square().sum((2, 3)),
        (noise[:, None] + bias).view(1, side, -1).to(dtype),
        bias,
        torch.stack([noise, torch.ones_like(noise)]).to(dtype),
        None if blur is None else blur.kernel.to(dtype).repeat(len(bias), 1, 1, 1),
    )  # the filters are symmetric: their own adjoints


def _rgb(layer: Any, index: int) -> _Rgb:
    weight, up = layer.conv.weight[0, :, :, 0, 0], layer.upsample
    blur = None if up is None else up.kernel.repeat(3, 1, 1, 1)
    return _Rgb(_style(layer.conv, index), weight, layer.bias, blur)


def _last(x: Tensor) -> Tensor:
    """Channels last: N×C×H×W -> N×H×W×C; without a copy if x lies so in memory."""
    return x.permute(0, 2, 3, 1).contiguous()


def _rows(factors: Tensor, x: Tensor) -> Tensor:
    """N×C -> N×1×W·C for a map N×H×W×C: whole rows are multiplied faster than single pixels."""
    return factors.to(x.dtype).repeat(1, x.shape[2])[:, None]


def _first(x: Tensor) -> Tensor:
    """N×H×W×C -> N×C×H×W, as it lies in memory."""
    return x.permute(0, 3, 1, 2)
