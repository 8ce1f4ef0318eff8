"""Reads foreign pickles without running anything.

A pickle is a program: it may name any callable and call it. Here every name stands for an inert
object of this module, and a name that is not on the list ends the reading before anything happens.
Tensors are only described while the pickle runs; they are made afterwards, from what was described
and within the bounds of the bytes that are really there.
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Never

import torch
from torch import Tensor

from facedeid.errors import UnsafeCheckpointError, WeightsError

__all__ = ["Described", "Persistent", "Record", "unpickle"]


class _Dict(dict[Any, Any]):
    """Stands for every kind of dict; the state that some carry besides is dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class Record:
    """Stands for an object of which only the attributes matter (argparse.Namespace)."""

    __slots__ = ("fields",)
    fields: dict[str, Any]

    def __new__(cls) -> "Record":
        """Without attributes, until they come."""
        made = super().__new__(cls)
        made.fields = {}
        return made

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise UnsafeCheckpointError("an options object carries something unusual")
        self.fields = {str(key): value for key, value in state.items()}


class _Sealed:
    """A value that the pickle can pass on but neither change nor look into."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> Never:
        raise UnsafeCheckpointError(f"the file tries to change {name} of a built-in object")

    def __setstate__(self, state: object) -> Never:
        raise UnsafeCheckpointError("the file tries to change a built-in object")


def _sealed(self: object, state: object) -> Never:
    """In place of the `__setstate__` that frozen dataclasses with slots bring."""
    raise UnsafeCheckpointError("the file tries to change what it has described")


class _Value(_Sealed):
    """A number or type whose content is of no interest (numpy scalars and dtypes)."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:  # type: ignore[override]
        pass  # numpy's dtypes are always followed by their details


@dataclass(frozen=True, slots=True)
class _Storage:
    data: bytes
    __setstate__ = _sealed


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    __setstate__ = _sealed

    def tensor(self) -> Tensor:
        """The tensor itself, in memory of its own.

        Raises:
            WeightsError: it reaches beyond its data.
        """
        flat = _flat(self.storage.data)
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if count > flat.numel() or (count and last >= flat.numel()):
            raise WeightsError("a tensor reaches beyond its data; the file is damaged")
        return flat.as_strided(self.size, self.stride, self.offset).clone(
            memory_format=torch.contiguous_format
        )


@dataclass(frozen=True, slots=True)
class Persistent:
    """A module of NVIDIA's persistence library: its attributes, without its source code."""

    kind: str
    state: Mapping[str, Any]
    __setstate__ = _sealed


def _flat(data: bytes) -> Tensor:
    """All numbers of a storage that torch saved.

    Raises:
        UnsafeCheckpointError: it holds anything else; nothing was run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch deprecates such storages
            storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # hostile or damaged: torch raises many kinds
        raise UnsafeCheckpointError("a tensor's data is not what torch would write") from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UnsafeCheckpointError("a tensor's data is not a list of numbers")
    return torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)


def _storage(data: object) -> _Storage:
    if not isinstance(data, bytes):
        raise UnsafeCheckpointError("a tensor's data is not bytes")
    return _Storage(data)


def _ints(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and v >= 0 for v in values):
        raise UnsafeCheckpointError("a tensor has an impossible shape")
    return values


def _tensor(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> Described:
    sizes, strides, (start,) = _ints(size), _ints(stride), _ints((offset,))
    if not isinstance(storage, _Storage) or len(sizes) != len(strides):
        raise UnsafeCheckpointError("a tensor has no data of its own")
    return Described(storage, start, sizes, strides)


def _parameter(data: object, *rest: object) -> Described:
    if not isinstance(data, Described):
        raise UnsafeCheckpointError("a parameter is not a tensor")
    return data


def _persistent(meta: object) -> Persistent:
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise UnsafeCheckpointError("a module of NVIDIA's persistence library is malformed")
    state = meta.get("state")
    return Persistent(str(meta.get("class_name")), state if isinstance(state, dict) else {})


def _latin(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafeCheckpointError("bytes are encoded in an unusual way")
    return text.encode("latin1")


def _set(items: object = ()) -> set[Any]:
    if not isinstance(items, list | tuple):
        raise UnsafeCheckpointError("a set is made of something unusual")
    return set(items)


class _Call(_Sealed):
    """Stands for a function of the list: callable, and nothing else.

    A real function would not do: a pickle can set attributes of what it is handed.
    """

    __slots__ = ("_which",)
    _which: str

    def __init__(self, which: str) -> None:
        object.__setattr__(self, "_which", which)

    def __call__(self, *args: object) -> object:
        function: Any = _FUNCTIONS[self._which]
        return function(*args)


_FUNCTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "bytes": _latin,
        "parameter": _parameter,
        "persistent": _persistent,
        "set": _set,
        "storage": _storage,
        "tensor": _tensor,
        "value": lambda *args: _Value(),
    }
)

_TYPES: Mapping[tuple[str, str], type] = MappingProxyType(
    {
        ("argparse", "Namespace"): Record,
        ("collections", "OrderedDict"): _Dict,
        ("dnnlib.util", "EasyDict"): _Dict,
    }
)

_CALLS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("_codecs", "encode"): "bytes",
        ("__builtin__", "set"): "set",
        ("builtins", "set"): "set",
        ("numpy", "dtype"): "value",
        ("numpy._core.multiarray", "scalar"): "value",
        ("numpy.core.multiarray", "scalar"): "value",
        ("torch._utils", "_rebuild_parameter"): "parameter",
        ("torch._utils", "_rebuild_tensor_v2"): "tensor",
        ("torch.storage", "_load_from_bytes"): "storage",
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): "persistent",
    }
)

_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS"),
        *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
    }
)
"""What pickles of protocol 2 to 4 consist of, without extensions, persistent identifiers,
classes by name and keyword construction."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Exactly the names of the list; a dotted name is a name like any other."""
        key = (module, name)
        if key in _TYPES:
            return _TYPES[key]
        if key in _CALLS:
            return _Call(_CALLS[key])
        raise UnsafeCheckpointError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: object) -> Never:
        raise UnsafeCheckpointError("it asks for data outside the file")


def _scan(data: bytes) -> None:
    """Refuse unusual instructions, lengths and places before anything is read."""
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise UnsafeCheckpointError(f"unusual instruction {opcode.name} at byte {position}")
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > count:
            raise UnsafeCheckpointError(f"impossible place {argument} at byte {position}")
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            if (module, name) not in _TYPES and (module, name) not in _CALLS:
                raise UnsafeCheckpointError(f"it asks for {module}.{name}")


def unpickle(path: Path) -> object:
    """What a pickle describes: dicts, lists, numbers, `Described`, `Persistent` and `Record`.

    Raises:
        UnsafeCheckpointError: it asks for anything else; nothing of it was run.
        WeightsError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    try:
        _scan(data)
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} was refused and nothing of it was run: {error}"
        ) from error
    except Exception as error:  # whatever the instructions of a made-up file lead to
        raise UnsafeCheckpointError(
            f"{path} was refused, it is not a well-formed pickle: {type(error).__name__}: {error}"
        ) from error
