"""The operators of `OnnxGraph` as plain functions of tensors, differentiable where it makes sense.

Each takes its tensors by position and everything that is fixed when the graph is read (strides,
axes, bounds) by keyword, as JSON values. What differs between ONNX operator sets has been settled
by `onnx_import`; here there is one meaning for each name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OPERATORS"]

_Pads = Sequence[int] | str
"""ONNX order (all begins, then all ends), or "upper" / "lower": as much as keeps size / stride."""

_CONVOLUTION: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _same(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    lower: bool,
) -> list[int]:
    """ONNX's SAME_UPPER / SAME_LOWER for an input of this size."""
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        begins.append(total - total // 2 if lower else total // 2)
        ends.append(total - begins[-1])
    return begins + ends


def _padded(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: _Pads,
    value: float,
    pooling: bool = False,
) -> tuple[Tensor, Sequence[int]]:
    """Pad what torch's own `padding` argument cannot express; the rest is returned for it."""
    n = len(kernel)
    if isinstance(pads, str):
        pads = _same(x.shape[2:], kernel, strides, dilations, pads == "lower")
    begins, ends = pads[:n], pads[n:]
    halves = all(2 * p <= k for p, k in zip(begins, kernel, strict=True))
    if begins == ends and (halves or not pooling):
        return x, begins
    return F.pad(x, _torch_order(begins, ends), value=value), [0] * n


def _torch_order(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    pairs = zip(reversed(begins), reversed(ends), strict=True)
    return [p for pair in pairs for p in pair]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: list[int],
    pads: _Pads,
    dilations: list[int],
    groups: int,
) -> Tensor:
    x, padding = _padded(x, weight.shape[2:], strides, dilations, pads, 0.0)
    convolve = _CONVOLUTION[len(strides)]
    return convolve(x, weight, bias, strides, padding, dilations, groups)


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    # The slope broadcasts from the right; the fast kernel takes one per channel (dimension 1).
    if slope.numel() == 1 or (slope.ndim == x.ndim - 1 and slope.shape[0] == slope.numel()):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, x * slope)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    trans_a: bool,
    trans_b: bool,
) -> Tensor:
    a = a.t() if trans_a else a
    b = b.t() if trans_b else b
    if c is None:
        return a @ b if alpha == 1 else alpha * (a @ b)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _clip(x: Tensor, *, low: float | None, high: float | None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _flatten(x: Tensor, *, axis: int) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _reshape(
    x: Tensor, target: Tensor | None = None, *, shape: list[int] | None, allow_zero: bool
) -> Tensor:
    sizes = shape if target is None else target.tolist()
    assert sizes is not None
    if not allow_zero:
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _squeeze(x: Tensor, *, axes: list[int] | None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(x: Tensor, *, axes: list[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(x: Tensor, *, order: list[int] | None) -> Tensor:
    return x.permute(order if order is not None else list(range(x.ndim))[::-1])


def _begun(y: Tensor, x: Tensor, strides: Sequence[int], pads: _Pads) -> Tensor:
    """Without windows that begin in the padding at the end, as ONNX has it; torch leaves those out
    only of padding that it does itself.
    """
    if isinstance(pads, str):  # as much as windows need, no more
        return y
    for axis, (stride, begin) in enumerate(zip(strides, pads, strict=False), 2):
        y = y.narrow(axis, 0, min(y.shape[axis], -(-(x.shape[axis] + begin) // stride)))
    return y


def _max_pool(
    x: Tensor,
    *,
    kernel: list[int],
    strides: list[int],
    pads: _Pads,
    dilations: list[int],
    ceil: bool,
) -> Tensor:
    padded, padding = _padded(x, kernel, strides, dilations, pads, -math.inf, pooling=True)
    pool = _MAX_POOL[len(kernel)]
    return _begun(pool(padded, kernel, strides, padding, dilations, ceil), x, strides, pads)


def _mean_pool(
    x: Tensor,
    *,
    kernel: list[int],
    strides: list[int],
    pads: _Pads,
    ceil: bool,
    count_pads: bool,
) -> Tensor:
    ones = [1] * len(kernel)
    padded, padding = _padded(x, kernel, strides, ones, pads, 0.0, pooling=True)
    pool = _MEAN_POOL[len(kernel)]
    mean = _begun(pool(padded, kernel, strides, padding, ceil, count_pads), x, strides, pads)
    if padded is x or count_pads:
        return mean
    counted, _ = _padded(torch.ones_like(x[:1, :1]), kernel, strides, ones, pads, 0.0, pooling=True)
    return mean / _begun(pool(counted, kernel, strides, padding, ceil), x, strides, pads)


def _global_mean(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _pad(x: Tensor, *, pads: list[int], value: float) -> Tensor:
    half = len(pads) // 2
    return F.pad(x, _torch_order(pads[:half], pads[half:]), value=value)


def _softmax(x: Tensor, *, axis: int, rest: bool) -> Tensor:
    """Over one axis, or (operator sets before 13) over all axes from there on."""
    if not rest:
        return x.softmax(axis)
    return _flatten(x, axis=axis).softmax(1).reshape(x.shape)


def _dims(x: Tensor, axes: list[int] | None) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axes is None else tuple(axes)


def _sum(x: Tensor, *, axes: list[int] | None, keep: bool) -> Tensor:
    return x.sum(_dims(x, axes), keepdim=keep)


def _mean(x: Tensor, *, axes: list[int] | None, keep: bool) -> Tensor:
    return x.mean(_dims(x, axes), keepdim=keep)


def _norm(x: Tensor, *, axes: list[int] | None, keep: bool, order: int = 2) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, order, _dims(x, axes), keepdim=keep)
    return length


def _normalise(x: Tensor, *, axis: int, order: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, order, axis, keepdim=True)
    return x / torch.where(length == 0, 1, length)


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _shape(x: Tensor, *, start: int, end: int | None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def _gather(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    axis = axis % x.ndim
    flat = x.index_select(axis, indices.reshape(-1) % x.shape[axis])
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _div(a: Tensor, b: Tensor) -> Tensor:
    """Of integers, towards zero."""
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _to_float(x: Tensor) -> Tensor:
    """A network keeps its own precision: only integers are converted."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _to_int(x: Tensor) -> Tensor:
    return x.to(torch.int64)


OPERATORS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "Abs": torch.abs,
        "Add": torch.add,
        "AveragePool": _mean_pool,
        "BatchNormalization": _batch_norm,
        "Clip": _clip,
        "Concat": _concat,
        "Conv": _conv,
        "Div": _div,
        "Elu": F.elu,
        "Exp": torch.exp,
        "Flatten": _flatten,
        "Gather": _gather,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_mean,
        "GlobalMaxPool": _global_max,
        "HardSigmoid": F.hardsigmoid,
        "HardSwish": F.hardswish,
        "LeakyRelu": F.leaky_relu,
        "Log": torch.log,
        "LpNormalization": _normalise,
        "MatMul": torch.matmul,
        "MaxPool": _max_pool,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "PRelu": _prelu,
        "Pad": _pad,
        "Pow": torch.pow,
        "Reciprocal": torch.reciprocal,
        "ReduceL1": _norm,
        "ReduceL2": _norm,
        "ReduceMean": _mean,
        "ReduceSum": _sum,
        "Relu": torch.relu,
        "Reshape": _reshape,
        "Shape": _shape,
        "Sigmoid": torch.sigmoid,
        "Softmax": _softmax,
        "Softplus": F.softplus,
        "Sqrt": torch.sqrt,
        "Squeeze": _squeeze,
        "Sub": torch.sub,
        "Tanh": torch.tanh,
        "ToFloat": _to_float,
        "ToInt": _to_int,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
"""Operator name -> function. All that a graph can do; there is no way to name anything else."""
