"""iResNet, the backbone of ArcFace, in the key layout of insightface's arcface_torch.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019
(LResNet-E-IR), with the pre-activated block of Duta et al., "Improved Residual Networks", 2020.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

__all__ = ["DEPTHS", "IResNet", "iresnet"]

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
"""Blocks per stage of the published depths."""


class _Block(nn.Module):
    """norm, 3×3, norm, PReLU, 3×3 (strided), norm, plus the (projected) input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None if stride == 1 else _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        residual: Tensor = y + (x if self.downsample is None else self.downsample(x))
        return residual


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = _Block(inputs, outputs, 2)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class IResNet(nn.Module):
    """An ArcFace backbone.

    Input: N×3×112×112 aligned to the ArcFace template, RGB, (x/255 - 0.5)/0.5, so in [-1, 1].
    Output: N×`features` raw embeddings; compare them by cosine, they are not normalised.
    Official files: `backbone.pth` as a bare dict; training checkpoints keep it under
    `state_dict_backbone`.
    """

    def __init__(self, blocks: Sequence[int], features: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, blocks[0])
        self.layer2 = _stage(64, 128, blocks[1])
        self.layer3 = _stage(128, 256, blocks[2])
        self.layer4 = _stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, features)
        self.features = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of aligned faces; see the class for range and order."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        embedding: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return embedding


def iresnet(depth: Literal[18, 34, 50, 100]) -> IResNet:
    """The iResNet of a published depth, with random weights."""
    return IResNet(DEPTHS[depth])
