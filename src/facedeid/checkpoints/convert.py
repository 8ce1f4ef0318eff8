"""Published checkpoints that hold more than weights, turned into plain tensors.

This is the explicit step in which foreign files are opened; everything else reads safetensors or
weights-only torch files.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from facedeid import weights
from facedeid.checkpoints.unpickle import Described, Persistent, Record, unpickle
from facedeid.errors import WeightsError
from facedeid.weights.loading import load_mixed, plain

__all__ = ["LAYOUTS", "Converted", "convert", "download", "import_checkpoint", "options", "read"]


_MODULES = 2_000
"""More modules than any generator has."""


@dataclass(frozen=True)
class Converted:
    """Tensors by name, and the few options without which they cannot be used."""

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def _dict(held: object, what: str) -> Mapping[Any, Any]:
    if not isinstance(held, Mapping):
        raise WeightsError(f"{what} is missing or not a dict")
    return held


def _tensors(held: object, what: str) -> dict[str, Tensor]:
    found = _dict(held, what)
    strange = [str(key) for key, value in found.items() if not plain(value)]
    if strange or not found:
        raise WeightsError(f"{what} does not hold tensors only: {', '.join(strange[:5])}")
    return {str(key): value for key, value in found.items()}


def _nested(path: Path) -> Converted:
    """A state dict, bare or inside a training file, maybe of a DataParallel network."""
    held = _dict(_opened(path), "the file")
    inside = ("state_dict_backbone", "net_state_dict", "state_dict", "model")
    key = next((key for key in inside if isinstance(held.get(key), Mapping)), None)
    state = _tensors(held if key is None else held[key], key or "the file")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return Converted(state)


def _psp(path: Path) -> Converted:
    """`encoder.*`, `decoder.*`, `latent_avg`; options that say how codes are made."""
    held = _dict(_opened(path), "the file")
    state = _tensors(held.get("state_dict"), "state_dict")
    if held.get("latent_avg") is not None:
        state |= _tensors({"latent_avg": held["latent_avg"]}, "the file")
    opts = held.get("opts", {})
    given = opts.fields if isinstance(opts, Record) else _dict(opts, "opts")
    wanted = ("encoder_type", "start_from_latent_avg", "learn_in_w", "output_size", "input_nc")
    kept = {key: given[key] for key in wanted if isinstance(given.get(key), bool | int | str)}
    return Converted(state, kept)


def _rosinality(path: Path) -> Converted:
    """The averaged generator's state dict, and `latent_avg` where the file has it."""
    held = _dict(_opened(path), "the file")
    state = _tensors(held.get("g_ema"), "g_ema")
    if held.get("latent_avg") is not None:
        state |= _tensors({"latent_avg": held["latent_avg"]}, "the file")
    return Converted(state)


def _nvidia(path: Path) -> Converted:
    """The averaged generator's state dict with NVIDIA's names (`mapping.fc0.weight`, ...)."""
    held = unpickle(path)
    generator = _dict(held, "the file").get("G_ema")
    if not isinstance(generator, Persistent):
        raise WeightsError("G_ema is missing: not a network of stylegan2-ada-pytorch")
    return Converted(_collect(generator), {"class": generator.kind})


def _collect(generator: Persistent) -> dict[str, Tensor]:
    """What `state_dict()` of the module would be."""
    found: dict[str, Tensor] = {}
    waiting = [("", generator)]
    for _ in range(_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        temporary = module.state.get("_non_persistent_buffers_set") or ()
        if not isinstance(temporary, set | list | tuple):
            raise WeightsError("_non_persistent_buffers_set is not a set")
        for group in ("_parameters", "_buffers"):
            for name, value in _dict(module.state.get(group, {}), group).items():
                if isinstance(value, Described) and name not in temporary:
                    found[f"{prefix}{name}"] = value.tensor()
        for name, child in _dict(module.state.get("_modules", {}), "_modules").items():
            if isinstance(child, Persistent):
                waiting.append((f"{prefix}{name}.", child))
    raise WeightsError("its modules contain each other without end; the file is malformed")


LAYOUTS: Mapping[str, Callable[[Path], Converted]] = MappingProxyType(
    {"nested": _nested, "nvidia": _nvidia, "psp": _psp, "rosinality": _rosinality}
)
"""Layout -> how a published file of it is read."""


def _opened(path: Path) -> object:
    return load_mixed(path, {"argparse.Namespace": Record})


def read(path: Path | str, layout: str) -> Converted:
    """Tensors and options of a published checkpoint; nothing in it is run.

    Args:
        path: the file.
        layout: a name of `LAYOUTS`.

    Raises:
        UnsafeCheckpointError: it would run code; nothing was run.
        WeightsError: it is damaged, or of another layout.
    """
    if layout not in LAYOUTS:
        raise WeightsError(f"no layout is called {layout!r}; there are: {', '.join(LAYOUTS)}")
    try:
        found = LAYOUTS[layout](Path(path))
    except WeightsError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path} is not a checkpoint of layout {layout}: {error}") from error
    own = {name: value.detach().clone().contiguous() for name, value in found.tensors.items()}
    return Converted(own, found.options)


def convert(path: Path | str, layout: str) -> dict[str, Tensor]:
    """The tensors alone; see `read`."""
    return read(path, layout).tensors


def options(path: Path | str) -> dict[str, Any]:
    """The options that an import kept beside the tensors, for instance pSp's output size.

    Raises:
        WeightsError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("options", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return found


def import_checkpoint(name: str, path: Path | str) -> weights.Status:
    """Take a published file into the store, converted where its layout needs it.

    The hash is checked before the file is opened.

    Raises:
        UnsafeCheckpointError: it would run code; nothing was run.
        WeightsError: another file than the published one, damaged, or the store is read-only.
    """
    known, path = weights.entry(name), Path(path)
    if not known.converted:
        return weights.import_file(name, path)
    weights.accept(known, path)
    found = read(path, known.layout)
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / known.stored
        _save(found, converted, known.layout)
        return weights.import_file(name, path, converted=converted)


def _save(found: Converted, path: Path, layout: str) -> None:
    from safetensors.torch import save_file

    meta = {"layout": layout, "options": json.dumps(found.options, sort_keys=True)}
    save_file(found.tensors, path, meta)


def download(name: str, progress: weights.Progress | None = None) -> Path:
    """as `facedeid.weights.download`, and converted where the layout needs it.

    Raises:
        WeightsError: no network, no such file, wrong content.
    """
    known = weights.entry(name)
    if not known.converted or weights.status(name).state != "missing":
        return weights.download(name, progress)
    fetched = weights.fetch(name, progress)
    import_checkpoint(name, fetched)
    fetched.unlink()
    return weights.locate(name)
