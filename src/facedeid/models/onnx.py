"""ONNX recognisers: differentiable where their graph allows it, by onnxruntime otherwise.

A network that `OnnxGraph` can run (plain convolutional ones) becomes a torch module with gradients
and runs on any device. Others run in onnxruntime on the CPU, for evaluation only.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from facedeid.errors import OptionError, WeightsError
from facedeid.nets.onnx_graph import OnnxGraph

__all__ = ["BACKENDS", "Backend", "OnnxRuntime", "load_onnx"]

Backend = Literal["auto", "torch", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = ("auto", "torch", "onnxruntime")


class OnnxRuntime(nn.Module):
    """Runs an .onnx file in onnxruntime; without gradients.

    Args:
        path: the file.
        why: why it is not differentiable, for messages.

    Raises:
        WeightsError: onnxruntime is missing, or it cannot read the file.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise WeightsError(f"{path}: run: pip install 'facedeid[onnx]' ({why})") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.source, self._why = path, why
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own kinds, none of them public
            raise WeightsError(f"{path} cannot be run: {error} ({why})") from error
        self._input = self._session.get_inputs()[0]

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """As declared in the file, None where free."""
        return tuple(n if isinstance(n, int) else None for n in self._input.shape)

    def forward(self, x: Tensor) -> Tensor:
        """N×... of the declared shape -> the first output.

        Raises:
            OptionError: gradients are wanted, or the input has another shape.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise OptionError(
                f"{self.source.name} runs in onnxruntime and has no gradients: {self._why}"
            )
        batch = (self.input_shape or (None,))[0] or max(1, len(x))
        try:
            outputs = [self._run(part) for part in torch.split(x.detach().cpu(), batch)]
        except Exception as error:  # as above
            raise OptionError(
                f"{self.source.name} does not take {tuple(x.shape)}: {error}"
            ) from error
        return torch.cat(outputs).to(x.device)

    def _run(self, x: Tensor) -> Tensor:
        array = np.ascontiguousarray(x.numpy(), dtype=np.float32)
        return torch.from_numpy(self._session.run(None, {self._input.name: array})[0])


def load_onnx(path: Path, backend: Backend = "auto") -> OnnxGraph | OnnxRuntime:
    """The network of an .onnx file.

    Args:
        path: the file.
        backend: `torch` (differentiable), `onnxruntime`, or `auto`: torch if that is possible.

    Raises:
        WeightsError: no such file, not ONNX, a missing library, or an operator without gradients
            where the backend is `torch`.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; give the path of an ONNX recogniser")
    if backend == "onnxruntime":
        return OnnxRuntime(path, "backend=onnxruntime was asked for")
    try:
        return OnnxGraph.from_onnx(path)
    except WeightsError as error:
        if backend == "torch":
            raise
        return OnnxRuntime(path, str(error))
