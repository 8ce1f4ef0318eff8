"""Reading golden files, and comparing tensors and key layouts with what is published."""

import hashlib
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from seedweights import GOLDENS
from torch import Tensor, nn

__all__ = ["digest", "distance", "golden", "on_meta", "shapes"]


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of a golden file; its metadata says how they were made."""
    return load_file(GOLDENS / f"{name}.safetensors")


def distance(result: Tensor, reference: Tensor) -> float:
    """‖result - reference‖ / ‖reference‖."""
    assert result.shape == reference.shape
    return ((result - reference).norm() / reference.norm()).item()


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def digest(layout: Mapping[str, tuple[int, ...]]) -> str:
    """sha256 over the sorted lines "key 64x3x3x3"."""
    lines = sorted(f"{key} {'x'.join(map(str, shape))}" for key, shape in layout.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def on_meta() -> torch.device:
    """As a context: networks are built without memory, for their layout only."""
    return torch.device("meta")
