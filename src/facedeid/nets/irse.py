"""IR and IR-SE face recognition networks in the layout of TreB1eN's InsightFace_Pytorch.

The same layout holds the recogniser of pSp's identity loss (`model_ir_se50.pth`), the body of the
pSp encoders, and CurricularFace's IR-101 (no SE, last BatchNorm without affine, no normalisation).
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import OptionError

__all__ = ["STAGES", "IrSe", "input_layer", "psp_identity_crop", "stages"]

STAGES: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
)
"""Blocks per stage by the name of the network; every stage halves the side."""


class IrSe(nn.Module):
    """RGB N×3×112×112 in [-1, 1] -> N×`dim` embedding, of unit length with `normalize`.

    A frozen copy is a fifth faster on CPUs after `.to(memory_format=torch.channels_last)`.

    Args:
        layers: 50, 100 (which papers call 101) or 152, or the blocks of each of four stages.
        se: squeeze-and-excitation in every block.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        dim: length of the embedding.
        affine: whether the last BatchNorm has weight and bias.
        normalize: whether the embedding is divided by its Euclidean norm.
    """

    def __init__(
        self,
        layers: int | tuple[int, ...] = 50,
        *,
        se: bool = True,
        width: int = 64,
        dim: int = 512,
        affine: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.input_layer = input_layer(width)
        self.body = nn.Sequential(
            *(block for stage in stages(layers, se, width) for block in stage)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(8 * width),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(8 * width * 7 * 7, dim),
            nn.BatchNorm1d(dim, affine=affine),
        )
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        """Embed faces that are aligned for this network."""
        x = self.output_layer(self.body(self.input_layer(x)))
        return x / x.norm(dim=1, keepdim=True) if self.normalize else x


def psp_identity_crop(x: Tensor) -> Tensor:
    """What pSp's identity loss shows to IR-SE50: aligned N×3×256×256 -> N×3×112×112."""
    if x.shape[-2:] != (256, 256):
        raise OptionError(f"pSp's identity crop is one of 256×256, got {tuple(x.shape)}")
    return F.adaptive_avg_pool2d(x[:, :, 35:223, 32:220], 112)


def input_layer(width: int) -> nn.Sequential:
    """N×3×H×W -> N×`width`×H×W."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
    )


def stages(layers: int | tuple[int, ...], se: bool, width: int) -> list[list[nn.Module]]:
    """The blocks, by stage; the first of each stage halves the side.

    Raises:
        OptionError: no network of that many layers is known.
    """
    if isinstance(layers, int) and layers not in STAGES:
        raise OptionError(f"IR networks have {', '.join(map(str, STAGES))} layers, not {layers}")
    counts = STAGES[layers] if isinstance(layers, int) else layers
    widths = [width, *(width << i for i in range(len(counts)))]
    return [
        [
            _Block(widths[i] if j == 0 else outputs, outputs, 2 if j == 0 else 1, se)
            for j in range(n)
        ]
        for i, (n, outputs) in enumerate(zip(counts, widths[1:], strict=True))
    ]


class _Block(nn.Module):
    """Pre-activated residual block; N×I×H×W -> N×O×H/s×W/s."""

    def __init__(self, inputs: int, outputs: int, stride: int, se: bool) -> None:
        super().__init__()
        self.shortcut_layer = (
            _Subsample(stride)
            if inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            *([_SqueezeExcite(outputs)] if se else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.res_layer(x)
        shortcut: Tensor = self.shortcut_layer(x)
        return residual + shortcut


class _Subsample(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(hidden))
