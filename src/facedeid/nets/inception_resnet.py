"""InceptionResnetV1, the FaceNet network, in the key layout of facenet-pytorch.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015;
Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI 2017. The public weights (CASIA-WebFace, VGGFace2) come from D. Sandberg's FaceNet.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["InceptionResnetV1", "without_logits"]


class _Conv(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3), ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Residual(nn.Module):
    """x + scale · 1×1(cat(branches)), then ReLU unless `last`."""

    def __init__(
        self, channels: int, branches: list[nn.Module], joined: int, scale: float, *, last: bool
    ) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.branches = len(branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale = scale
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{i}")(x) for i in range(self.branches)]
        y = x + self.scale * self.conv2d(torch.cat(parts, 1))
        return y if self.last else F.relu(y)


class _Reduction(nn.Module):
    """Concatenation of strided branches and a max pool; halves the map."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.branches = len(branches)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{i}")(x) for i in range(self.branches)]
        return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)


def _block35() -> _Residual:
    branches: list[nn.Module] = [
        _Conv(256, 32, 1),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1)),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1), _Conv(32, 32, 3, padding=1)),
    ]
    return _Residual(256, branches, 96, 0.17, last=False)


def _crossed(channels: int, width: int, length: int, scale: float, *, last: bool) -> _Residual:
    """Block17 and Block8: a 1×1 branch beside 1×1, 1×length, length×1."""
    pad = length // 2
    branches: list[nn.Module] = [
        _Conv(channels, width, 1),
        nn.Sequential(
            _Conv(channels, width, 1),
            _Conv(width, width, (1, length), padding=(0, pad)),
            _Conv(width, width, (length, 1), padding=(pad, 0)),
        ),
    ]
    return _Residual(channels, branches, 2 * width, scale, last=last)


def _mixed_6a() -> _Reduction:
    deep = nn.Sequential(_Conv(256, 192, 1), _Conv(192, 192, 3, padding=1), _Conv(192, 256, 3, 2))
    return _Reduction([_Conv(256, 384, 3, 2), deep])


def _mixed_7a() -> _Reduction:
    return _Reduction(
        [
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 384, 3, 2)),
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, 2)),
            nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 256, 3, 2)),
        ]
    )


class InceptionResnetV1(nn.Module):
    """FaceNet's embedding network.

    Input: N×3×160×160 (any size from 75 up works), RGB, (x - 127.5)/128 with x in 0..255, so in
    about [-1, 1]. Output: N×512 of unit length; compare by Euclidean distance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, 2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _mixed_6a()
        self.repeat_2 = nn.Sequential(*(_crossed(896, 128, 7, 0.1, last=False) for _ in range(10)))
        self.mixed_7a = _mixed_7a()
        self.repeat_3 = nn.Sequential(*(_crossed(1792, 192, 3, 0.2, last=False) for _ in range(5)))
        self.block8 = _crossed(1792, 192, 3, 1.0, last=True)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of faces; see the class for range and order."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(F.max_pool2d(x, 3, 2))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x)).mean((2, 3))
        return F.normalize(self.last_bn(self.last_linear(self.dropout(x))))


def without_logits(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict less the classification head that the public files carry."""
    return {key: value for key, value in state.items() if not key.startswith("logits.")}
