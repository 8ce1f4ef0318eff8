"""Reads an ONNX file into the few operators of `onnx_ops`, with every fixed value settled.

Constants are computed once, what does not reach the output is dropped, and batch normalisation
right after a convolution can be folded into it.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facedeid.errors import WeightsError
from facedeid.nets.onnx_lower import INSTEAD, Node, Raw, lower
from facedeid.nets.onnx_ops import OPERATORS

__all__ = ["Graph", "read_onnx"]


@dataclass(frozen=True)
class Graph:
    """A network with one input and one output; nodes in an order in which they can run."""

    input: str
    shape: tuple[int | None, ...]
    """The declared shape of the input; None where it is free."""
    output: str
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor]


def _tensor(proto: Any) -> Tensor:
    import onnx

    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise WeightsError(
            "the ONNX file keeps its weights in a second file; save it again with everything in "
            "one file (onnx.save_model(..., save_as_external_data=False))"
        )
    array = onnx.numpy_helper.to_array(proto)
    tensor = torch.from_numpy(array.copy())
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _constant(raw: Raw) -> Tensor:
    name, value = next(iter(raw.attributes.items()))
    if name == "value":
        return _tensor(value)
    if name in ("value_float", "value_floats", "value_int", "value_ints"):
        kind = torch.float32 if "float" in name else torch.int64
        return torch.tensor(raw.take(name), dtype=kind)
    raise raw.refuse(name)


def _needed(nodes: Iterable[Any], output: str) -> list[Any]:
    """The nodes that the output depends on, in their order."""
    wanted, kept = {output}, []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _parse(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise WeightsError(
            "reading ONNX files needs the extra 'onnx': pip install 'facedeid[onnx]'; or convert "
            "the network on a machine that has it (OnnxGraph.save) and copy the .safetensors file"
        ) from None
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise WeightsError(f"{path} is not an ONNX network: {error}") from error


def _endpoints(model: Any, output: str | None) -> tuple[Any, str]:
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    outputs = [o.name for o in model.graph.output]
    if len(inputs) != 1:
        raise WeightsError(f"a network with one input is needed, this one has {len(inputs)}")
    if output is None and len(outputs) == 1:
        output = outputs[0]
    if output is None or output not in outputs:
        raise WeightsError(f"say which output is wanted: {', '.join(outputs)}")
    return inputs[0], output


def read_onnx(path: Path, *, output: str | None = None, fold: bool = True) -> Graph:
    """Read and settle a network.

    Args:
        path: a self-contained .onnx file.
        output: which output, where there are several.
        fold: put batch normalisation into the convolution before it.

    Raises:
        WeightsError: not ONNX, or beyond what `OnnxGraph` runs; the operator is named.
    """
    model = _parse(path)
    try:
        graph = _read(model, output)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: the ONNX graph is malformed ({error})") from error
    return _pruned(_folded(graph) if fold else graph)


def _read(model: Any, output: str | None) -> Graph:
    versions = {o.domain: o.version for o in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", 1))
    source, output = _endpoints(model, output)
    dims = source.type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    constants = {t.name: _tensor(t) for t in model.graph.initializer}
    nodes: list[Node] = []
    alias: dict[str, str] = {}
    for proto in _needed(model.graph.node, output):
        if proto.domain not in ("", "ai.onnx"):
            raise WeightsError(f"ONNX operator {proto.domain}.{proto.op_type}: {INSTEAD}")
        raw = Raw(proto, version, constants)
        raw.inputs = [alias.get(name, name) for name in raw.inputs]
        if raw.op == "Constant":
            constants[raw.outputs[0]] = _constant(raw)
            continue
        node = lower(raw)
        if node.op == "Identity":
            alias[node.output] = node.inputs[0]
        elif all(name in constants for name in node.inputs if name):
            values = [constants[name] if name else None for name in node.inputs]
            constants[node.output] = OPERATORS[node.op](*values, **node.attributes)
        else:
            nodes.append(node)
    return Graph(source.name, shape, alias.get(output, output), tuple(nodes), constants)


def _pruned(graph: Graph) -> Graph:
    used = {name for node in graph.nodes for name in node.inputs}
    made = {node.output for node in graph.nodes}
    if graph.output not in made:
        raise WeightsError("the output of this ONNX network does not depend on its input")
    constants = {k: v.contiguous() for k, v in graph.constants.items() if k in used}
    return dataclasses.replace(graph, constants=constants)


def _folded(graph: Graph) -> Graph:
    """Batch normalisation put into the convolution or Gemm whose only reader it is."""
    constants = dict(graph.constants)
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers[graph.output] += 1
    nodes: list[Node] = []
    last: dict[str, int] = {}
    for node in graph.nodes:
        before = last.get(node.inputs[0]) if node.op == "BatchNormalization" else None
        if before is not None and readers[node.inputs[0]] == 1:
            merged = _merge(nodes[before], node, constants)
            if merged is not None:
                nodes[before] = merged
                last[node.output] = before
                continue
        last[node.output] = len(nodes)
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes), constants=constants)


def _merge(layer: Node, norm: Node, constants: dict[str, Tensor]) -> Node | None:
    """γ(Wx + b - μ)/σ + β = (γ/σ)W x + (γ/σ)(b - μ) + β, in float64; None: not possible."""
    plain = layer.op == "Gemm" and layer.attributes["alpha"] == layer.attributes["beta"] == 1
    if layer.op != "Conv" and not plain:
        return None
    names = (*layer.inputs[1:], *norm.inputs[1:])
    if not all(name in constants for name in names):
        return None
    weight, *rest = (constants[name] for name in layer.inputs[1:])
    gamma, beta, mean, var = (constants[name].double() for name in norm.inputs[1:])
    bias = rest[0].double() if rest else torch.zeros_like(mean)
    if bias.shape != mean.shape:
        return None
    factor = gamma / (var + norm.attributes["eps"]).sqrt()
    along = 1 if layer.op == "Gemm" and not layer.attributes["trans_b"] else 0
    view = [-1 if i == along else 1 for i in range(weight.ndim)]
    stem = f"{norm.output}/folded"
    constants[f"{stem}/weight"] = (weight.double() * factor.view(view)).to(weight.dtype)
    constants[f"{stem}/bias"] = (factor * (bias - mean) + beta).to(weight.dtype)
    inputs = (layer.inputs[0], f"{stem}/weight", f"{stem}/bias")
    return Node(layer.op, inputs, norm.output, layer.attributes)
