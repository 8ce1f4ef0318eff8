"""MobileFaceNet (Chen et al. 2018), in the layout of the public PyTorch checkpoints.

Keys as in Xiaoccer/MobileFaceNet_Pytorch: `conv1`, `dw_conv1`, `blocks.N.conv.K`, `conv2`,
`linear7`, `linear1`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from facedeid.errors import WeightsError

__all__ = ["MobileFaceNet", "mobilefacenet"]

# expansion, channels, repeats, stride of the first
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class ConvBlock(nn.Module):
    """Convolution (depthwise or full), batch normalisation and, unless linear, PReLU."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        *,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.prelu = nn.Identity() if linear else nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W -> N×C'×H'×W'."""
        y: Tensor = self.prelu(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; residual where the shape stays."""

    def __init__(self, inputs: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == channels
        wide = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W -> N×C'×H'×W'."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileFaceNet(nn.Module):
    """N×3×H×W RGB, (x - 127.5) / 128 -> N×dim embeddings, not normalised.

    Args:
        size: (height, width) of the input; 112×96 in the paper, 112×112 elsewhere.
        dim: length of the embedding.
        width: factor on all channels but the embedding's.
    """

    def __init__(
        self, size: tuple[int, int] = (112, 96), *, dim: int = 128, width: float = 1.0
    ) -> None:
        super().__init__()
        stem, last = _scaled(64, width), _scaled(512, width)
        self.conv1 = ConvBlock(3, stem, 3, 2, 1)
        self.dw_conv1 = ConvBlock(stem, stem, 3, 1, 1, depthwise=True)
        blocks, channels = [], stem
        for expansion, outputs, repeats, stride in BOTTLENECKS:
            for i in range(repeats):
                wide = _scaled(outputs, width)
                blocks.append(Bottleneck(channels, wide, stride if i == 0 else 1, expansion))
                channels = wide
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(channels, last, 1)
        window = ((size[0] + 15) // 16, (size[1] + 15) // 16)
        self.linear7 = ConvBlock(last, last, window, depthwise=True, linear=True)
        self.linear1 = ConvBlock(last, dim, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Embed aligned faces."""
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        return torch.flatten(self.linear1(self.linear7(x)), 1)


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width / 8) * 8)


def mobilefacenet(state: Mapping[str, Tensor]) -> MobileFaceNet:
    """The network that a state dict belongs to, with its weights, in evaluation mode.

    `num_batches_tracked` may be missing.

    Raises:
        WeightsError: the keys or shapes are not those of a MobileFaceNet.
    """
    try:
        last, height, width = (state["linear7.conv.weight"].shape[i] for i in (0, 2, 3))
        net = MobileFaceNet(
            (16 * height, 16 * width), dim=len(state["linear1.conv.weight"]), width=last / 512
        )
        report = net.load_state_dict(dict(state), strict=False)
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"not the weights of a MobileFaceNet: {error}") from error
    missing = [k for k in report.missing_keys if not k.endswith("num_batches_tracked")]
    if missing or report.unexpected_keys:
        raise WeightsError(
            f"not the weights of a MobileFaceNet: missing {missing[:3]}, "
            f"not expected {report.unexpected_keys[:3]}"
        )
    return net.eval()
