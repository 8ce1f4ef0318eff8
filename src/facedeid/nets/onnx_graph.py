"""Any plain convolutional ONNX network as a differentiable torch module.

So the recogniser that a user fears can take part in an attack or in training. The network is read
once from ONNX (extra 'onnx'); saved again as safetensors, with the graph as JSON in its metadata,
it runs where onnx is not installed.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from facedeid.errors import OptionError, WeightsError
from facedeid.nets.onnx_import import Graph, read_onnx
from facedeid.nets.onnx_lower import Node
from facedeid.nets.onnx_ops import OPERATORS

__all__ = ["OnnxGraph"]

_FORMAT = "facedeid-onnx-graph-1"

ROUNDING = 0.05
"""What batches may change, of the largest value: little even in bfloat16."""

_Step = tuple[Callable[..., Tensor], tuple[int, ...], int, tuple[int, ...]]
"""What to run, the slots it reads, the slot it fills, the slots nobody reads afterwards."""


class OnnxGraph(nn.Module):
    """Runs a `Graph`: one input, one output, frozen weights (buffers), differentiable in the input.

    `.to(dtype, device, memory_format=torch.channels_last)` work as for any module; `.double()`
    gives a network for checking gradients. Inputs and outputs are those of the ONNX file: the
    caller knows the range and channel order it wants.

    Raises:
        WeightsError: the graph is malformed (unknown operator, value used before it is made).
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = Graph(graph.input, graph.shape, graph.output, graph.nodes, {})
        slots = {"": 0, graph.input: 1}
        self._constants: list[tuple[int, str]] = []
        for i, (name, tensor) in enumerate(graph.constants.items()):
            slots[name] = len(slots)
            self._constants.append((slots[name], f"c{i}"))
            self.register_buffer(f"c{i}", tensor)
        self._names = {f"c{i}": name for i, name in enumerate(graph.constants)}
        self._steps = _compile(graph, slots)
        self._slots = len(slots)
        self._result = slots[graph.output]
        self._apart = self._compared = False
        self.source: Path | None = None
        """The file that it was read from, if it was `from_onnx`."""
        self.eval()

    @classmethod
    def from_onnx(
        cls, path: Path | str, *, output: str | None = None, fold: bool = True
    ) -> "OnnxGraph":
        """Read an .onnx file.

        Args:
            path: a self-contained file.
            output: the wanted output, where there are several.
            fold: put batch normalisation into the convolution before it (results then agree to
                rounding, and the network is faster).

        Raises:
            WeightsError: not ONNX, the extra 'onnx' is missing, or an operator is not supported.
        """
        net = cls(read_onnx(Path(path), output=output, fold=fold))
        net.source = Path(path)
        return net

    @property
    def structure(self) -> str:
        """Everything but the weights, as JSON; `constants` are the names of the buffers."""
        return json.dumps({**asdict(self.graph), "constants": self._names})

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """As declared in the file, None where free; the batch size is always free here."""
        return (None, *self.graph.shape[1:]) if self.graph.shape else ()

    def forward(self, x: Tensor) -> Tensor:
        """Run the network on N×... of the declared shape, in the module's dtype.

        Of files made for a batch of fixed size, some write that size down on the way (a `Reshape`
        to 1×-1, a norm over all axes) and would join pictures; they get them in batches of that
        size. Which those are is found out at the first larger batch.

        Raises:
            OptionError: the input has another shape.
        """
        self._check(x)
        declared = self.graph.shape[0] if self.graph.shape else None
        if declared in (None, len(x)):
            return self._run(x)
        if not self._apart:
            try:
                whole = self._run(x)
            except RuntimeError:
                self._apart = True
            else:
                self._apart = whole.ndim == 0 or len(whole) != len(x)
                if not self._apart and not self._compared and len(x) > declared:
                    self._apart, self._compared = self._joins(x[:declared]), True
        if not self._apart:
            return whole
        return torch.cat([self._run(part) for part in torch.split(x, declared)])

    @torch.no_grad()
    def _joins(self, x: Tensor) -> bool:
        """Whether pictures of the declared batch size give something else beside quite others."""
        alone, beside = self._run(x), self._run(torch.cat([x, -x - 1]))[: len(x)]
        return float((beside - alone).abs().amax()) > ROUNDING * float(alone.abs().amax())

    def _run(self, x: Tensor) -> Tensor:
        values: list[Tensor | None] = [None] * self._slots
        for slot, name in self._constants:
            values[slot] = self._buffers[name]
        values[1] = x
        for run, sources, target, done in self._steps:
            values[target] = run(*[values[i] for i in sources])
            for i in done:
                values[i] = None
        return cast(Tensor, values[self._result])

    def _check(self, x: Tensor) -> None:
        wanted = self.input_shape
        if wanted and (
            len(wanted) != x.ndim
            or any(w not in (None, n) for w, n in zip(wanted, x.shape, strict=True))
        ):
            text = "×".join("N" if w is None else str(w) for w in wanted)
            raise OptionError(f"this network takes {text}, got {tuple(x.shape)}")

    def save(self, path: Path | str) -> None:
        """Write weights and graph as one safetensors file that `load` reads without onnx."""
        from safetensors.torch import save_file

        tensors = {
            k: v.cpu().contiguous().clone() for k, v in self._buffers.items() if v is not None
        }
        save_file(tensors, str(path), {"format": _FORMAT, "graph": self.structure})

    @classmethod
    def load(cls, path: Path | str) -> "OnnxGraph":
        """Read what `save` wrote.

        Raises:
            WeightsError: not such a file, or it names operators that do not exist here.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
        if meta.get("format") != _FORMAT:
            raise WeightsError(
                f"{path} holds no converted ONNX network; make one from the .onnx file"
            )
        try:
            return cls(_from_json(json.loads(meta["graph"]), tensors))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: its graph is malformed ({error})") from error


def _from_json(data: dict[str, Any], tensors: dict[str, Tensor]) -> Graph:
    nodes = tuple(
        Node(n["op"], tuple(n["inputs"]), n["output"], dict(n["attributes"])) for n in data["nodes"]
    )
    constants = {name: tensors[key] for key, name in data["constants"].items()}
    return Graph(data["input"], tuple(data["shape"]), data["output"], nodes, constants)


def _compile(graph: Graph, slots: dict[str, int]) -> list[_Step]:
    """Names to slot numbers, attributes bound, once; `slots` receives those of the results."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    kept = {"", graph.output, *graph.constants}
    steps: list[_Step] = []
    for i, node in enumerate(graph.nodes):
        missing = [name for name in node.inputs if name not in slots]
        if missing or node.output in slots:
            raise WeightsError(f"{node.op} {node.output!r}: the graph is not in running order")
        sources = tuple(slots[name] for name in node.inputs)
        done = {slots[n] for n in node.inputs if last[n] == i and n not in kept}
        slots[node.output] = len(slots)
        steps.append((_bound(node), sources, slots[node.output], tuple(sorted(done))))
    if graph.output not in slots:
        raise WeightsError(f"the graph never makes its output {graph.output!r}")
    return steps


def _bound(node: Node) -> Callable[..., Tensor]:
    run = OPERATORS.get(node.op)
    if run is None:
        raise WeightsError(f"operator {node.op!r} is not known")
    if not node.attributes:
        return run
    try:
        inspect.signature(run).bind_partial(**node.attributes)
    except TypeError as error:
        raise WeightsError(f"{node.op} {node.output!r}: {error}") from error
    return partial(run, **node.attributes)
