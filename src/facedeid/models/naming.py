"""Recognisers by name: `dlib`, `ir-se50?crop=psp`, `onnx:net.onnx?size=112&mean=127.5&std=128`.

After a known name may stand

- `threshold`: a distance that counts as every operating point;
- `crop`: another one of `crops.CROPS` of the same size (the known thresholds then do not hold).

`onnx:PATH` is any ONNX network that takes N×3×H×W and gives N×D. Besides those two it takes

- `size`: rows of the input; by default as declared in the file, else 112;
- `mean`, `std`: (x - mean)/std of x in 0..255, by default ArcFace's 127.5 and 127.5; a network
  that normalises inside takes mean=0&std=1;
- `layout`: `rgb` (default) or `bgr`;
- `metric`: `cosine` (default) or `euclidean` (of what the network gives, as it is);
- `backend`: `auto` (default), `torch`, `onnxruntime`; see `models.onnx`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args
from urllib.parse import unquote

import torch
from torch import Tensor

from facedeid.errors import OptionError, WeightsError
from facedeid.models.crops import CROPS, Crop, resized
from facedeid.models.onnx import BACKENDS, Backend, OnnxRuntime, load_onnx
from facedeid.models.recognizers import GIVEN, Metric, RecognizerSpec
from facedeid.models.registry import RECOGNIZERS
from facedeid.nets.onnx_graph import OnnxGraph

__all__ = ["expanded", "recognizer_name", "specified"]

_ANY = ("threshold", "crop")
_ONNX = (*_ANY, "size", "mean", "std", "layout", "metric", "backend")


def expanded(text: str) -> Path:
    """A path as a user writes it, where `~` is a home folder.

    Raises:
        OptionError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise OptionError(f"{text}: there is no home folder of that name; write it out") from error


def recognizer_name(text: str) -> str:
    """The recogniser's own name, without options and, for a file, without its folder.

    So results can be compared and published: `onnx:/home/me/net.onnx?size=112` is `onnx:net.onnx`.
    """
    base = text.partition("?")[0]
    if not base.startswith("onnx:"):
        return base
    return f"onnx:{Path(base.removeprefix('onnx:')).name}"


def specified(text: str) -> RecognizerSpec:
    """What a name with its options stands for.

    Raises:
        OptionError: unknown name or option, a value that makes no sense, or an ONNX file that is
            missing or cannot be used.
    """
    base, _, query = text.partition("?")
    if base.startswith("onnx:"):
        options = _options(text, query, _ONNX)
        try:
            return _judging(_onnx(base, options), options)
        except WeightsError as error:  # of a file that the user named, not of one in the store
            raise OptionError(str(error)) from error
    if base not in RECOGNIZERS:
        known = ", ".join(RECOGNIZERS)
        raise OptionError(f"no recogniser is called {base!r}; there are: {known}, onnx:PATH")
    spec = RECOGNIZERS[base]
    options = _options(text, query, _ANY)
    if "crop" in options:
        spec = _recropped(spec, _crop(options), text)
    return _judging(spec, options)


def _options(text: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    options = {key: unquote(value) for key, _, value in pairs}
    for key, sign, _ in pairs:
        if key not in known or not sign:
            raise OptionError(f"{text}: {key!r} is no option; there are: {', '.join(known)}")
    return options


def _judging(spec: RecognizerSpec, options: Mapping[str, str]) -> RecognizerSpec:
    if "threshold" not in options:
        return spec
    value = _number(options["threshold"], "threshold")
    if value <= 0:
        raise OptionError(f"threshold={value:g}: a distance, larger than 0, is wanted")
    return replace(spec, thresholds={GIVEN: value}, protocol="given by the user")


def _recropped(spec: RecognizerSpec, crop: Crop, text: str) -> RecognizerSpec:
    if crop == spec.crop:
        return spec
    if (crop.size, crop.columns) != (spec.crop.size, spec.crop.columns):
        raise OptionError(f"{text}: that crop is not of the size that {spec.name} takes")
    return replace(spec, crop=crop, thresholds={}, protocol="none is known for this crop")


def _crop(options: Mapping[str, str]) -> Crop:
    return CROPS[_choice(options, "crop", tuple(CROPS))]


def _choice(options: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    value = options.get(key, allowed[0])
    if value not in allowed:
        raise OptionError(f"{key}={value}: use {', '.join(allowed)}")
    return value


def _number(text: str, key: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OptionError(f"{key}={text}: a number is wanted")
    return value


def _onnx(base: str, options: Mapping[str, str]) -> RecognizerSpec:
    path = expanded(base.removeprefix("onnx:"))
    backend = cast(Backend, _choice(options, "backend", BACKENDS))
    net = load_onnx(path, backend)
    crop = _fitted(_crop(options), net.input_shape, options, path)
    scale = _scale(options)
    net, dim = _running(net, scale, crop, path, backend)
    return RecognizerSpec(
        name=recognizer_name(base),
        summary="an ONNX network of the user's",
        source="given by the user",
        licence="not known",
        dim=dim,
        metric=cast(Metric, _choice(options, "metric", get_args(Metric)[::-1])),
        crop=crop,
        thresholds={},
        protocol="none is known; give one with ?threshold=",
        scale=scale,
        build=lambda: net,
        available=path.is_file,
    )


def _fitted(
    crop: Crop, declared: tuple[int | None, ...], options: Mapping[str, str], path: Path
) -> Crop:
    """The crop at the size that the network takes; of narrow inputs the middle columns."""
    if declared and (len(declared) != 4 or declared[1] not in (3, None)):
        raise WeightsError(f"{path} takes {declared}, not N×3×H×W pictures")
    rows, columns = declared[2:] if declared else (None, None)
    size = rows or crop.size
    if "size" in options:
        asked = _number(options["size"], "size")
        if not asked.is_integer():
            raise OptionError(f"size={options['size']}: a whole number is wanted")
        size = int(asked)
    if not 8 <= size <= 2048:
        raise OptionError(f"size={size}: use 8 to 2048")
    if columns is None or columns == size:
        return resized(crop, size, crop.columns if columns is None and size == crop.size else None)
    if columns > size and size != (rows or size):
        raise OptionError(f"size={size}: {path} takes pictures of {columns}×{rows}, leave size out")
    if columns > size:
        raise WeightsError(f"{path} takes pictures wider than high, which no crop is")
    start = (size - columns) // 2
    return resized(crop, size, (start, start + columns))


def _scale(options: Mapping[str, str]) -> Callable[[Tensor], Tensor]:
    mean, std = (_number(options.get(key, "127.5"), key) for key in ("mean", "std"))
    if std == 0:
        raise OptionError("std=0: the input is divided by it")
    order = slice(None) if _choice(options, "layout", ("rgb", "bgr")) == "rgb" else [2, 1, 0]
    return lambda chips: (chips[:, order] - mean) / std


def _running(
    net: OnnxGraph | OnnxRuntime,
    scale: Callable[[Tensor], Tensor],
    crop: Crop,
    path: Path,
    backend: Backend,
) -> tuple[OnnxGraph | OnnxRuntime, int]:
    """The network and the length of its embedding.

    In onnxruntime, if that is left open and the network, read as a graph, does not run.
    """
    try:
        return net, _dim(net, scale, crop, path)
    except OptionError as error:
        if backend != "auto" or isinstance(net, OnnxRuntime):
            raise
        try:
            other = OnnxRuntime(path, str(error))
            return other, _dim(other, scale, crop, path)
        except (OptionError, WeightsError):
            raise error from None


def _dim(net: torch.nn.Module, scale: Callable[[Tensor], Tensor], crop: Crop, path: Path) -> int:
    """Length of the embedding, found by running the network once."""
    left, right = crop.columns or (0, crop.size)
    try:
        with torch.no_grad():
            out = net(scale(torch.zeros(1, 3, crop.size, right - left)))
    except OptionError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise OptionError(
            f"{path} does not take pictures of {right - left}×{crop.size}, give the right "
            f"size=: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    if out.ndim != 2 or len(out) != 1:
        raise WeightsError(f"{path} gives {tuple(out.shape)}, not one N×D embedding")
    return int(out.shape[1])
