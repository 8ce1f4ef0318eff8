"""Architectures only: no file names, no I/O, no preprocessing beyond what the network carries."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from facedeid.errors import WeightsError

__all__ = ["load_official"]

_SHOWN = 4

M = TypeVar("M", bound=nn.Module)


def load_official(module: M, state: Mapping[str, Tensor]) -> M:
    """Copy a published state dict into a network of the same layout, strictly.

    Only BatchNorm's `num_batches_tracked` may be missing or left over: no published forward pass
    depends on it, and many files were written without it.

    Returns:
        The module itself.

    Raises:
        WeightsError: keys are missing, unknown or of another shape; the network is unchanged.
    """
    expected = module.state_dict()
    complaints = [
        _complaint("missing", [key for key in expected if _matters(key) and key not in state]),
        _complaint("unknown", [key for key in state if _matters(key) and key not in expected]),
        _complaint(
            "of another shape",
            [
                f"{key} {_shape(state[key])} instead of {_shape(tensor)}"
                for key, tensor in expected.items()
                if key in state and _shape(state[key]) != _shape(tensor)
            ],
        ),
    ]
    if any(complaints):
        raise WeightsError(
            f"these weights do not fit {type(module).__name__}: "
            + "; ".join(filter(None, complaints))
            + ". Is this the right checkpoint, and the right part of it?"
        )
    module.load_state_dict({key: state[key] for key in expected if key in state}, strict=False)
    return module


def _matters(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _shape(value: object) -> str:
    return "×".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else "no tensor"


def _complaint(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{rest})"
