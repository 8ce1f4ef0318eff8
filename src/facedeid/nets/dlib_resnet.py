"""dlib's face recognition network (King 2017), as a differentiable PyTorch module.

A ResNet of 29 convolutions with half the usual filters: 7×7 stem of 32 channels, 14 residual
blocks of 32/64/128/256/256 channels, average pooling, 256 -> 128 without bias. The per-channel
affines that dlib keeps of its batch normalisation are in the convolutions here. Down-sampling
shortcuts are average-pooled and zero-padded in channels and, because dlib's strided convolutions
use no padding, in space.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import WeightsError

__all__ = ["DlibFaceNet", "state_from_dat"]

MEAN = (122.782, 117.001, 104.298)
LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Channels, blocks, and whether the first block halves the resolution."""


class Block(nn.Module):
    """Two 3×3 convolutions and a parameter-free shortcut."""

    def __init__(self, inputs: int, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(inputs, channels, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W -> N×C'×H'×W'."""
        y = self.conv2(F.relu(self.conv1(x)))
        if not self.down:
            return F.relu(x + y)
        short = F.avg_pool2d(x, 2, 2)
        shape = [max(a, b) for a, b in zip(short.shape[1:], y.shape[1:], strict=True)]
        return F.relu(_zero_extended(short, shape) + _zero_extended(y, shape))


def _zero_extended(x: Tensor, shape: list[int]) -> Tensor:
    channels, height, width = (want - have for want, have in zip(shape, x.shape[1:], strict=True))
    return F.pad(x, (0, width, 0, height, 0, channels)) if channels or height or width else x


class DlibFaceNet(nn.Module):
    """N×3×150×150 RGB in 0..255 (dlib's face chip, padding 0.25) -> N×128, not normalised.

    Two faces of one person are nearer than 0.6 (Euclidean), says the library.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        blocks, inputs = [], 32
        for channels, count, down in LEVELS:
            for i in range(count):
                blocks.append(Block(inputs, channels, down and i == 0))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Descriptors of a batch of chips."""
        x = (x - self.mean) / 256
        x = F.relu(self.stem(x))
        x = self.blocks(F.max_pool2d(x, 3, 2))
        descriptor: Tensor = self.fc(x.mean((2, 3)))
        return descriptor


def state_from_dat(data: bytes) -> dict[str, Tensor]:
    """The weights in `dlib_face_recognition_resnet_model_v1.dat`, as a state dict.

    The file lists the layers from the input on; each one with weights is a tag, then a tensor of
    four dimensions and plain little-endian float32 values: a convolution's filters with its
    biases behind them, its affine's scales with the shifts, the last layer's matrix transposed.

    Raises:
        WeightsError: the bytes are not that file.
    """
    net, state, position = DlibFaceNet(), dict[str, Tensor](), 0
    try:
        convolutions = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        for name, conv in convolutions:  # in the order in which they run
            shape, channels = conv.weight.shape, conv.out_channels
            (weight, bias), position = _pair(data, b"con_4", position, [shape.numel(), channels])
            (scale, shift), position = _pair(data, b"affine_", position, [channels, channels])
            state[f"{name}.weight"] = weight.view(shape) * scale.view(-1, 1, 1, 1)
            state[f"{name}.bias"] = bias * scale + shift
        position = data.index(b"fc_2", position) + len(b"fc_2")
        for _ in range(2):  # outputs, inputs
            _, position = _integer(data, position)
        values, position = _tensor(data, position)
        state["fc.weight"] = values.reshape(net.fc.weight.shape[::-1]).T.contiguous()
    except (ValueError, IndexError, RuntimeError) as error:
        raise WeightsError(
            "not dlib's face recognition network (dlib_face_recognition_resnet_model_v1.dat): "
            f"{error}; reinstall face_recognition_models"
        ) from error
    return state


def _pair(data: bytes, tag: bytes, position: int, sizes: list[int]) -> tuple[list[Tensor], int]:
    """The two parts of the next layer's values, and where they end."""
    values, position = _tensor(data, data.index(tag, position) + len(tag))
    return list(torch.split(values, sizes)), position


def _integer(data: bytes, position: int) -> tuple[int, int]:
    """One of dlib's integers: a byte with the sign and the length, then little-endian bytes."""
    head = data[position]
    end = position + 1 + (head & 0x0F)
    value = int.from_bytes(data[position + 1 : end], "little")
    return -value if head & 0x80 else value, end


def _tensor(data: bytes, position: int) -> tuple[Tensor, int]:
    version, position = _integer(data, position)
    count = 1
    for _ in range(4):
        size, position = _integer(data, position)
        count *= size
    end = position + 4 * count
    if version != 2 or count <= 0 or end > len(data):
        raise ValueError("a tensor's header is damaged")
    return torch.from_numpy(np.frombuffer(data[position:end], "<f4").copy()), end
