"""Multi-scale PatchGAN discriminator, the adversary of the AEI-Nets.

Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs"
(pix2pixHD), CVPR 2018; the one that IdentityDP names through Park et al. (SPADE), CVPR 2019.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MultiscaleDiscriminator", "hinge_fake", "hinge_generator", "hinge_real"]


def _critic(inputs: int, layers: int, width: int, norm: Literal["instance", "batch"]) -> nn.Module:
    """4×4 convolutions with a padding of 2; the last two of `layers` + 2 have stride 1."""
    new_norm = nn.InstanceNorm2d if norm == "instance" else nn.BatchNorm2d
    stack: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 2), nn.LeakyReLU(0.2)]
    channels = width
    for layer in range(1, layers + 1):
        last, channels = channels, min(2 * channels, 8 * width)
        stride = 1 if layer == layers else 2
        stack += [nn.Conv2d(last, channels, 4, stride, 2), new_norm(channels), nn.LeakyReLU(0.2)]
    return nn.Sequential(*stack, nn.Conv2d(channels, 1, 4, 1, 2))


class MultiscaleDiscriminator(nn.Module):
    """The same patch critic, with its own weights, on an image pyramid.

    Input: N×3×S×S in the generator's range. Output: one N×1×h×w map of raw scores per scale, full
    size first. Public AEI-Nets: taotaonice and sber-swap train with 6 layers and instance norm,
    mindslab with 3 and batch norm. Keys as in those files (`layer2` looks at the full size).
    """

    def __init__(
        self,
        *,
        inputs: int = 3,
        layers: int = 6,
        scales: int = 3,
        width: int = 64,
        norm: Literal["instance", "batch"] = "instance",
    ) -> None:
        super().__init__()
        self.scales = scales
        for scale in range(scales):
            self.add_module(f"layer{scale}", _critic(inputs, layers, width, norm))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Score maps, from full size to the coarsest scale."""
        maps: list[Tensor] = []
        for scale in reversed(range(self.scales)):
            maps.append(self.get_submodule(f"layer{scale}")(x))
            if scale:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return maps


def hinge_real(maps: Sequence[Tensor]) -> Tensor:
    """The discriminator's loss on real images: mean over scales of E[max(0, 1 - D)]."""
    return torch.stack([F.relu(1 - scores).mean() for scores in maps]).mean()


def hinge_fake(maps: Sequence[Tensor]) -> Tensor:
    """The discriminator's loss on generated images: mean over scales of E[max(0, 1 + D)]."""
    return torch.stack([F.relu(1 + scores).mean() for scores in maps]).mean()


def hinge_generator(maps: Sequence[Tensor]) -> Tensor:
    """The generator's loss: mean over scales of E[-D]."""
    return torch.stack([-scores.mean() for scores in maps]).mean()
