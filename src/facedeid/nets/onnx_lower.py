"""What an ONNX operator means, whatever its operator set: one name of `onnx_ops` and plain values.

What ONNX passes as constant tensors (shapes, axes, clipping bounds) or spells differently in each
operator set becomes an attribute with one meaning. What is not understood is refused by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from facedeid.errors import WeightsError
from facedeid.nets.onnx_ops import OPERATORS

__all__ = ["INSTEAD", "Node", "Raw", "lower"]

INSTEAD = "evaluation through onnxruntime is still possible, gradients through it are not"


@dataclass(frozen=True)
class Node:
    """One operation: tensors by name ("" is an optional input left out), the rest by value."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Raw:
    """A node as ONNX has it. What a lowering does not take away is an error, never ignored."""

    def __init__(self, node: Any, version: int, constants: dict[str, Tensor]) -> None:
        import onnx

        self.op: str = node.op_type
        self.version = version
        self.inputs: list[str] = list(node.input)
        self.outputs: list[str] = list(node.output)
        self.constants = constants
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute; its value in Python's types."""
        value = self.attributes.pop(name, default)
        if isinstance(value, bytes):
            return value.decode()
        return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value

    def fixed(self, index: int) -> list[Any] | None:
        """Remove an input that must be constant; its values, or None if it was left out."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        if not name:
            return None
        if name not in self.constants:
            raise WeightsError(f"{self}: input {index + 1} is computed at run time; {INSTEAD}")
        self.inputs[index] = ""
        values: list[Any] = self.constants[name].reshape(-1).tolist()
        return values

    def one(self, index: int) -> Any:
        """Like `fixed`, for a scalar."""
        values = self.fixed(index)
        return None if values is None else values[0]

    def refuse(self, why: str) -> WeightsError:
        """The error that names this node."""
        return WeightsError(f"{self}: {why} is not supported; {INSTEAD}")

    def __str__(self) -> str:
        return f"ONNX operator {self.op} (output {self.outputs[0]!r})"


Lowered = tuple[str, dict[str, Any]]


def _window(raw: Raw, kernel: list[int]) -> dict[str, Any]:
    n = len(kernel)
    auto, pads = raw.take("auto_pad", "NOTSET"), raw.take("pads")
    if n > 3:
        raise raw.refuse(f"a window of {n} dimensions")
    named = {"SAME_UPPER": "upper", "SAME_LOWER": "lower", "VALID": [0] * 2 * n}
    return {
        "strides": raw.take("strides", [1] * n),
        "pads": named[auto] if auto in named else pads or [0] * 2 * n,
    }


def _conv(raw: Raw) -> Lowered:
    if raw.inputs[1] not in raw.constants:
        raise raw.refuse("a convolution whose weights are computed")
    kernel = list(raw.constants[raw.inputs[1]].shape[2:])
    if raw.take("kernel_shape", kernel) != kernel:
        raise raw.refuse("a kernel_shape that differs from the weights")
    window = _window(raw, kernel)
    dilations = raw.take("dilations", [1] * len(kernel))
    return "Conv", {**window, "dilations": dilations, "groups": raw.take("group", 1)}


def _max_pool(raw: Raw) -> Lowered:
    kernel = raw.take("kernel_shape")
    window = {"kernel": kernel, **_window(raw, kernel)}
    raw.take("storage_order")
    dilations = raw.take("dilations", [1] * len(kernel))
    return "MaxPool", {**window, "dilations": dilations, "ceil": bool(raw.take("ceil_mode", 0))}


def _mean_pool(raw: Raw) -> Lowered:
    kernel = raw.take("kernel_shape")
    window = {"kernel": kernel, **_window(raw, kernel)}
    if any(d != 1 for d in raw.take("dilations", [])):
        raise raw.refuse("a dilated average")
    counts = bool(raw.take("count_include_pad", 0))
    return "AveragePool", {**window, "ceil": bool(raw.take("ceil_mode", 0)), "count_pads": counts}


def _batch_norm(raw: Raw) -> Lowered:
    raw.take("momentum")
    if raw.take("training_mode", 0) or not raw.take("spatial", 1):
        raise raw.refuse("training mode or per-element normalisation")
    return "BatchNormalization", {"eps": raw.take("epsilon", 1e-5)}


def _gemm(raw: Raw) -> Lowered:
    return "Gemm", {
        "alpha": raw.take("alpha", 1.0),
        "beta": raw.take("beta", 1.0),
        "trans_a": bool(raw.take("transA", 0)),
        "trans_b": bool(raw.take("transB", 0)),
    }


def _clip(raw: Raw) -> Lowered:
    if raw.version < 11:
        return "Clip", {"low": raw.take("min"), "high": raw.take("max")}
    return "Clip", {"low": raw.one(1), "high": raw.one(2)}


def _reshape(raw: Raw) -> Lowered:
    shape = raw.take("shape")
    if shape is None and raw.inputs[1] in raw.constants:
        shape = raw.fixed(1)
    return "Reshape", {"shape": shape, "allow_zero": bool(raw.take("allowzero", 0))}


def _axes(raw: Raw) -> list[int] | None:
    axes: list[int] | None = raw.take("axes")
    return raw.fixed(1) if axes is None else axes


def _reduce(raw: Raw) -> Lowered:
    axes, keep = _axes(raw), bool(raw.take("keepdims", 1))
    if raw.take("noop_with_empty_axes", 0) and not axes:
        return "Identity", {}
    order = {"ReduceL1": {"order": 1}, "ReduceL2": {"order": 2}}.get(raw.op, {})
    return raw.op, {"axes": axes or None, "keep": keep, **order}


def _softmax(raw: Raw) -> Lowered:
    if raw.version < 13:
        return "Softmax", {"axis": raw.take("axis", 1), "rest": True}
    return "Softmax", {"axis": raw.take("axis", -1), "rest": False}


def _dropout(raw: Raw) -> Lowered:
    raw.take("ratio")
    raw.take("seed")
    raw.fixed(1)
    if raw.one(2):
        raise raw.refuse("dropout in training mode")
    return "Identity", {}


def _pad(raw: Raw) -> Lowered:
    if raw.take("mode", "constant") != "constant" or raw.version < 11:
        raise raw.refuse("padding with anything but a constant")
    pads, value = raw.fixed(1), raw.one(2)
    if raw.fixed(3) is not None:
        raise raw.refuse("padding of named axes")
    return "Pad", {"pads": pads, "value": value or 0.0}


def _cast(raw: Raw) -> Lowered:
    import onnx

    kind = onnx.TensorProto.DataType.Name(raw.take("to"))
    raw.take("saturate")
    if kind in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"):
        return "ToFloat", {}
    if kind in ("INT32", "INT64"):
        return "ToInt", {}
    raise raw.refuse(f"a cast to {kind}")


def _scaled(name: str, default: float, keyword: str) -> Callable[[Raw], Lowered]:
    return lambda raw: (raw.op, {keyword: raw.take(name, default)})


def _hard_sigmoid(raw: Raw) -> Lowered:
    alpha, beta = raw.take("alpha", 0.2), raw.take("beta", 0.5)
    if abs(alpha - 1 / 6) > 1e-6 or beta != 0.5:
        raise raw.refuse(f"alpha={alpha}, beta={beta}")
    return raw.op, {}


def _normalise(raw: Raw) -> Lowered:
    return raw.op, {"axis": raw.take("axis", -1), "order": raw.take("p", 2)}


def _shape(raw: Raw) -> Lowered:
    return raw.op, {"start": raw.take("start", 0), "end": raw.take("end")}


_LOWER: dict[str, Callable[[Raw], Lowered]] = {
    "AveragePool": _mean_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda raw: (raw.op, {"axis": raw.take("axis")}),
    "Conv": _conv,
    "Dropout": _dropout,
    "Elu": _scaled("alpha", 1.0, "alpha"),
    "Flatten": lambda raw: (raw.op, {"axis": raw.take("axis", 1)}),
    "Gather": lambda raw: (raw.op, {"axis": raw.take("axis", 0)}),
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda raw: (raw.op, {}),
    "LeakyRelu": _scaled("alpha", 0.01, "negative_slope"),
    "LpNormalization": _normalise,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "ReduceL1": _reduce,
    "ReduceL2": _reduce,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Shape": _shape,
    "Softmax": _softmax,
    "Squeeze": lambda raw: (raw.op, {"axes": _axes(raw)}),
    "Transpose": lambda raw: (raw.op, {"order": raw.take("perm")}),
    "Unsqueeze": lambda raw: (raw.op, {"axes": _axes(raw)}),
}
"""Operators with something to settle; the others of OPERATORS take their inputs as they come."""

_OURS = {"ToFloat", "ToInt"}


def lower(raw: Raw) -> Node:
    """Settle one node.

    Raises:
        WeightsError: the operator, or this use of it, is not supported.
    """
    if raw.op not in _LOWER and (raw.op not in OPERATORS or raw.op in _OURS):
        raise WeightsError(
            f"ONNX operator {raw.op} is not one of those that plain convolutional networks use, "
            f"so this network cannot be imported as a differentiable module; {INSTEAD}"
        )
    op, attributes = _LOWER[raw.op](raw) if raw.op in _LOWER else (raw.op, {})
    if raw.attributes:
        raise raw.refuse(f"attribute {', '.join(sorted(raw.attributes))}")
    while raw.inputs and not raw.inputs[-1]:
        raw.inputs.pop()
    return Node(op, tuple(raw.inputs), raw.outputs[0], attributes)
