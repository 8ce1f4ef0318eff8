"""StyleGAN2's synthesis as the paper and its first public code write it, to time ours against.

A kernel per sample in one grouped convolution; up-sampling by inserting zeros and one 2-D filter
over all taps (pad, upsample, filter, downsample). It reads the weights of our own `Generator`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["textbook"]


def textbook(generator: nn.Module) -> Callable[[Tensor], Tensor]:
    """The same function of W+ as `generator`, computed the plain way."""

    def run(w: Tensor) -> Tensor:
        noises = list(generator.noises.buffers())
        x = generator.input.input.repeat(len(w), 1, 1, 1)
        x = styled(generator.conv1, x, w[:, 0], noises[0])
        rgb = to_rgb(generator.to_rgb1, x, w[:, 1], None)
        for i, layer in enumerate(generator.to_rgbs):
            x = styled(generator.convs[2 * i], x, w[:, 2 * i + 1], noises[2 * i + 1])
            x = styled(generator.convs[2 * i + 1], x, w[:, 2 * i + 2], noises[2 * i + 2])
            rgb = to_rgb(layer, x, w[:, 2 * i + 3], rgb)
        return rgb

    return run


def styled(layer: nn.Module, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    kernels = modulated(layer.conv, w)
    kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    if layer.conv.blur is None:
        x = grouped(x, kernels)
    else:
        x = filtered(transposed(x, kernels), layer.conv.blur.kernel, up=1, pad=(1, 1))
    x = x + layer.noise.weight * noise
    return F.leaky_relu(x + layer.activate.bias.view(1, -1, 1, 1), 0.2) * 2**0.5


def to_rgb(layer: nn.Module, x: Tensor, w: Tensor, rgb: Tensor | None) -> Tensor:
    x = grouped(x, modulated(layer.conv, w)) + layer.bias
    return x if rgb is None else x + filtered(rgb, layer.upsample.kernel, up=2, pad=(2, 1))


def modulated(conv: nn.Module, w: Tensor) -> Tensor:
    """N×O×I×k×k."""
    return conv.weight * conv.scale * conv.modulation(w)[:, None, :, None, None]


def grouped(x: Tensor, kernels: Tensor) -> Tensor:
    n, outputs, _, _, size = kernels.shape
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=size // 2, groups=n)
    return y.view(n, outputs, *y.shape[2:])


def transposed(x: Tensor, kernels: Tensor) -> Tensor:
    n, outputs = kernels.shape[:2]
    swapped = kernels.transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(x.flatten(0, 1)[None], swapped, stride=2, groups=n)
    return y.view(n, outputs, *y.shape[2:])


def filtered(x: Tensor, kernel: Tensor, *, up: int, pad: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, filter: every image and channel through one single-channel 2-D filter."""
    n, c, h, w = x.shape
    x = x.reshape(n * c, 1, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).view(n * c, 1, h * up, w * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), kernel.flip(0, 1)[None, None])
    return x.view(n, c, *x.shape[2:])
