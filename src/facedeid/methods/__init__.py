"""All methods in plain sight, and how a name with options becomes one of them."""

import json
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from facedeid.errors import OptionError
from facedeid.methods.base import Deidentified, Method
from facedeid.methods.classical import Blur, DownUp, Mask, Noise, Pixelate
from facedeid.methods.embedding import FeatureEmbedding
from facedeid.methods.fawkes import Fawkes
from facedeid.methods.fsap import Fsap
from facedeid.methods.identity import IdentityDp
from facedeid.methods.lgc import Lgc
from facedeid.methods.private import PrivateEncoding
from facedeid.methods.tip_im import TipIm

__all__ = ["METHODS", "Deidentified", "Method", "create", "parse"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Blur,
        DownUp,
        Mask,
        Noise,
        Pixelate,
        FeatureEmbedding,
        IdentityDp,
        Fsap,
        PrivateEncoding,
        Lgc,
        TipIm,
        Fawkes,
    )
}
"""Name -> class. A new method is one file, one entry here, one case in the contract test."""

LARGEST = 1e300
"""Below the largest float: whole numbers from there on are no values of an option."""


def create(name: str, **options: Any) -> Method:
    """The method of that name with those hyper-parameters.

    Raises:
        OptionError: unknown name or option, or a value of the wrong type or range.
    """
    if name not in METHODS:
        raise OptionError(f"no method is called {name!r}; there are: {', '.join(METHODS)}")
    kind = METHODS[name]
    known = {f.name for f in fields(kind)}
    hints = get_type_hints(kind)
    for key, value in options.items():
        if key not in known:
            takes = ", ".join(sorted(known)) or "no options"
            raise OptionError(f"{name} has no option {key!r}; it takes {takes}")
        if not _fits(value, hints[key]):
            raise OptionError(f"{name}: {key} must be {_worded(hints[key])}, got {value!r}")
    return kind(**options)


def parse(text: str, **more: Any) -> Method:
    """A method from text such as `pixelate`, `pixelate:cells=8` or `mask:color=[255,0,0]`.

    Options follow the name after a colon, separated by commas; values are JSON or bare words.
    What is in `more` comes on top.

    Raises:
        OptionError: see `create`.
    """
    name, _, rest = text.partition(":")
    return create(name.strip(), **{**_options(text, rest), **more})


def _options(text: str, rest: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    key = ""
    for part in rest.split(",") if rest else ():
        head, equals, value = part.partition("=")
        if key and (not equals or _open(options[key])):  # a comma inside a value: [255,0,0]
            options[key] += "," + part
        elif equals:
            key = head.strip()
            options[key] = value.strip()
        else:
            raise OptionError(f"cannot read {text!r}: write NAME:option=value,option=value")
    return {key: _value(value) for key, value in options.items()}


def _worded(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>")


def _open(value: str) -> bool:
    """Whether a value is a list that has only begun."""
    return value.startswith("[") and not value.rstrip().endswith("]")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value suits the annotation of a hyper-parameter."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        wanted = (args[0],) * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is Literal:
        return value in args
    if args:  # a union
        return any(_fits(value, arg) for arg in args)
    if type(value) is int and abs(value) >= LARGEST:
        return False
    if hint is float:
        return type(value) in (float, int)
    return value is None if hint is NoneType else type(value) is hint
