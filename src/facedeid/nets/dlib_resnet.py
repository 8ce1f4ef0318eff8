"""dlib's face recognition network (King 2017), as a differentiable PyTorch module.

A ResNet of 29 convolutions with half the usual filters: 7×7 stem of 32 channels, 14 residual
blocks of 32/64/128/256/256 channels, average pooling, 256 -> 128 without bias. Batch
normalisation has been folded into per-channel affines. Down-sampling shortcuts are average-pooled
and zero-padded in channels and, because dlib's strided convolutions use no padding, in space.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import WeightsError

__all__ = ["DlibFaceNet", "state_from_dat"]

MEAN = (122.782, 117.001, 104.298)
LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Channels, blocks, and whether the first block halves the resolution."""


class Affine(nn.Module):
    """Per-channel scale and shift: N×C×H×W -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class Block(nn.Module):
    """Two 3×3 convolutions and a parameter-free shortcut."""

    def __init__(self, inputs: int, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(inputs, channels, 3, 2 if down else 1, 0 if down else 1)
        self.affine1 = Affine(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.affine2 = Affine(channels)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W -> N×C'×H'×W'."""
        y = self.affine2(self.conv2(F.relu(self.affine1(self.conv1(x)))))
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
        self.stem_affine = Affine(32)
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
        x = F.relu(self.stem_affine(self.stem(x)))
        x = self.blocks(F.max_pool2d(x, 3, 2))
        descriptor: Tensor = self.fc(x.mean((2, 3)))
        return descriptor


def state_from_dat(data: bytes) -> dict[str, Tensor]:
    """The weights in `dlib_face_recognition_resnet_model_v1.dat`, as a state dict.

    The file lists the layers from the input on; each one with weights is a tag, then a tensor of
    four dimensions and plain little-endian float32 values: a convolution's filters with its
    biases behind them, an affine's scales with its shifts, the last layer's matrix transposed.

    Raises:
        WeightsError: the bytes are not that file.
    """
    state: dict[str, Tensor] = {}
    position = 0
    try:
        for name, module in _layers(DlibFaceNet()):
            tag = {nn.Conv2d: b"con_4", Affine: b"affine_", nn.Linear: b"fc_2"}[type(module)]
            position = data.index(tag, position) + len(tag)
            if isinstance(module, nn.Linear):
                for _ in range(2):  # outputs, inputs
                    _, position = _integer(data, position)
            values, position = _tensor(data, position)
            weight = module.weight
            count = weight.numel()
            if isinstance(module, nn.Linear):
                state[f"{name}.weight"] = values.reshape(weight.shape[::-1]).T.contiguous()
                continue
            bias = module.bias
            assert bias is not None
            if len(values) != count + bias.numel():
                raise ValueError(f"{name} has {len(values)} values")
            state[f"{name}.weight"] = values[:count].reshape(weight.shape)
            state[f"{name}.bias"] = values[count:]
    except (ValueError, IndexError, RuntimeError) as error:
        raise WeightsError(
            "not dlib's face recognition network (dlib_face_recognition_resnet_model_v1.dat): "
            f"{error}; reinstall face_recognition_models"
        ) from error
    return state


def _layers(net: DlibFaceNet) -> Iterator[tuple[str, nn.Conv2d | Affine | nn.Linear]]:
    """Layers with weights, in the order in which they run."""
    yield "stem", net.stem
    yield "stem_affine", net.stem_affine
    for i, block in enumerate(net.blocks):
        assert isinstance(block, Block)
        yield f"blocks.{i}.conv1", block.conv1
        yield f"blocks.{i}.affine1", block.affine1
        yield f"blocks.{i}.conv2", block.conv2
        yield f"blocks.{i}.affine2", block.affine2
    yield "fc", net.fc


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
