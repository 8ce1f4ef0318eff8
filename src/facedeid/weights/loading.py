"""Reading weights without running anything: safetensors, or torch files through weights-only."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from facedeid.errors import UnsafeCheckpointError, WeightsError

__all__ = ["load_mixed", "load_state", "plain"]


def load_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a plain torch state dict, on the CPU.

    Raises:
        UnsafeCheckpointError: opening it would run code; nothing was run.
        WeightsError: it is neither, it is damaged, or it holds more than tensors.
    """
    path = Path(path)
    state = load_mixed(path, {})
    if not isinstance(state, dict) or not all(map(plain, state.values())):
        held = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise WeightsError(
            f"{path} is not a plain dict of tensors (it holds: {held[:200]}); "
            "`facedeid models import` converts the published training files"
        )
    return {str(key): value for key, value in state.items()}


def plain(value: object) -> bool:
    """Whether it is a dense tensor whose numbers are all in the file."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    if value.is_nested or value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def load_mixed(path: Path, inert: Mapping[str, type]) -> object:
    """Whatever weights-only loading allows: tensors in dicts and lists, numbers, text.

    Args:
        path: a safetensors or torch file.
        inert: full name of a class -> harmless class whose objects stand for its objects.

    Raises:
        UnsafeCheckpointError: it asks for anything else; nothing was run.
        WeightsError: it is neither kind of file, or damaged.
    """
    head = _head(path)
    if head[8:9] == b"{":
        return _load_safetensors(path)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(f"{path} is neither safetensors nor a torch file")
    with torch.serialization.safe_globals([(kind, name) for name, kind in inert.items()]):
        return _load_torch(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    return state


def _load_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "unusual pickle protocol": see below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} asks for more than tensors and was not opened ({_reason(error)}). If it is a "
            "published checkpoint, `facedeid models import` converts it without running it"
        ) from error
    except Exception as error:  # damaged files raise what they like
        raise WeightsError(f"{path} is damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The part of torch's message that names the culprit, without its advice to switch off."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip() or type(error).__name__
    return text.splitlines()[0][:200]
