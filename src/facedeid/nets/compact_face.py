"""The library's own compact recogniser: a small residual network with full convolutions.

As small as a MobileFaceNet (Chen et al. 2018) in parameters, but without depthwise convolutions,
which CPUs compute slowly.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CompactFaceNet"]


class Residual(nn.Module):
    """Two 3×3 convolutions; N×C×H×W -> N×C'×⌈H/stride⌉×⌈W/stride⌉."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.short = nn.Sequential()
        if stride != 1 or inputs != channels:
            self.short = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(inputs, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and add."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.short(x))


class CompactFaceNet(nn.Module):
    """N×3×112×112 RGB in [-1, 1] (ArcFace template) -> N×dim unit vectors.

    In evaluation mode a face and its mirror image are embedded and averaged, so that both give
    the same vector, and the result is whitened: small networks put too much of their length into
    few directions. `whiten` learns how; until then nothing changes.

    Args:
        dim: length of the embedding.
        stem: channels of the first convolution (half resolution).
        widths: channels of the levels at a quarter of the resolution and below.
        depths: residual blocks of each level.
        squeeze: channels kept per position before the last layer, which weighs every position.
        side: side of the input.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(
        self,
        dim: int = 256,
        *,
        stem: int = 32,
        widths: tuple[int, ...] = (32, 64, 128, 128),
        depths: tuple[int, ...] = (1, 2, 3, 2),
        squeeze: int = 64,
        side: int = 112,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        blocks, channels, side = [], stem, (side + 1) // 2
        for width, depth in zip(widths, depths, strict=True):
            side = (side + 1) // 2
            for i in range(depth):
                blocks.append(Residual(channels, width, 2 if i == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, squeeze, 1, bias=False), nn.BatchNorm2d(squeeze)
        )
        self.fc = nn.Linear(squeeze * side * side, dim, bias=False)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Embed aligned faces."""
        if self.training:
            return F.normalize(self._embed(x))
        return F.normalize((self._mirrored(x) - self.centre) @ self.whitening)

    @torch.no_grad()
    def whiten(self, faces: Iterable[Tensor], *, shrink: float) -> None:
        """Learn centre and whitening from batches of faces of many people.

        Args:
            faces: N×3×112×112 each.
            shrink: share of the mean variance that is added to that of every direction.
        """
        found = torch.cat([self._mirrored(batch) for batch in faces]).double()
        covariance = torch.cov(found.T)
        eye = torch.eye(len(covariance), device=covariance.device, dtype=covariance.dtype)
        values, vectors = torch.linalg.eigh(
            covariance + shrink * covariance.trace() / len(eye) * eye
        )
        scale = (values[0] / values).sqrt()
        self.centre.copy_(found.mean(0))
        self.whitening.copy_(vectors * scale @ vectors.T)

    def _mirrored(self, x: Tensor) -> Tensor:
        return F.normalize(F.normalize(self._embed(x)) + F.normalize(self._embed(x.flip(3))))

    def _embed(self, x: Tensor) -> Tensor:
        x = self.squeeze(self.blocks(self.stem(x)))
        y: Tensor = self.fc(x.flatten(1)).float()
        return y
