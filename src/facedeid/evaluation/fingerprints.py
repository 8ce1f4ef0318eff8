"""Short names for settings, so that nothing worked out under others is ever taken for it."""

import ast
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid import __version__, inversion, losses, registration
from facedeid.errors import OptionError, WeightsError
from facedeid.evaluation.datasets import Dataset
from facedeid.faces import alignment, detection, pasting, resampling
from facedeid.faces import landmarks as placing
from facedeid.landmarks import MEAN_FACE
from facedeid.methods import Method, base, classical
from facedeid.methods.adversarial import Adversarial
from facedeid.methods.tip_im import TipIm, portraits
from facedeid.models import Models, Recognizer, crops, recognizer_name
from facedeid.models.onnx import OnnxRuntime
from facedeid.nets.onnx_graph import OnnxGraph
from facedeid.random import stream
from facedeid.verification import find_again
from facedeid.weights import CHECKPOINTS
from facedeid.weights.local import sha256_of

__all__ = [
    "code",
    "detector_digest",
    "digest",
    "is_white_box",
    "method_digest",
    "recognizer_digest",
    "slug",
]

SAME_ANSWER = 0.98
"""Cosine of two networks' `_answers` from which they are taken for the same: rounding leaves more,
and networks that were trained apart have about 0."""

FINDING = (detection, placing, resampling)
MAKING = (alignment, pasting, base)


def digest(*parts: Any) -> str:
    """12 hexadecimal digits of JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "-", text).strip("-.")[:60] or "x"


@lru_cache
def code(of: ModuleType | Callable[..., Any]) -> str:
    """Hash of a module's or function's code, as far as it computes something.

    Comments, docstrings, layout and imports do not count.
    """
    tree = ast.parse(inspect.getsource(of))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_idle(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_idle(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.Import | ast.ImportFrom)


def detector_digest(detector: str, dataset: Dataset) -> str:
    """Of how faces are found in photos of that kind."""
    file = sha256_of(Path(detector)) if detector.lower().endswith(".onnx") else detector
    mean = hashlib.sha256(MEAN_FACE.tobytes()).hexdigest()
    return digest(file, dataset.aligned, mean, *map(code, (*FINDING, find_again)))


@lru_cache
@torch.no_grad()
def _net_digest(recognizer: Recognizer) -> str:
    """Of the weights and, where a file says what is done with them, of that."""
    net = recognizer.net
    weights = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    if isinstance(net, OnnxRuntime):
        weights.update(sha256_of(net.source).encode())
    if isinstance(net, OnnxGraph):
        weights.update(net.structure.encode())
    return weights.hexdigest()


@lru_cache
@torch.no_grad()
def recognizer_digest(recognizer: Recognizer) -> str:
    """Of the network, the crop and the normalisation; thresholds do not count."""
    net = recognizer.net
    probe = torch.linspace(0, 255, 3 * 4).reshape(1, 3, 2, 2)
    scaled = [round(value, 5) for value in recognizer.spec.scale(probe).flatten().tolist()]
    spec = recognizer.spec
    parts = (type(net).__name__, spec.metric, repr(spec.crop), scaled, _net_digest(recognizer))
    return digest(*parts, code(crops))


def is_white_box(method: Method | None, recognizer: Recognizer, models: Models) -> bool:
    """Whether a method was trained or optimised against a recogniser, whatever it is called.

    They are the same by their name, by their network (with another crop or normalisation too), by
    their file, which is known of a public checkpoint even where the store lacks it, or by what they
    answer: a network that was exported to another format or rounded is still that network.

    Args:
        method: the method; None: nothing is done.
        recognizer: who judges.
        models: where the recognisers come from that the method knows.
    """
    if method is None:
        return False
    if recognizer.name in map(recognizer_name, method.surrogates):
        return True
    # What is attacked is given with the folders of files, which `surrogates` leaves out.
    given = method.recognizers if isinstance(method, Adversarial) else method.surrogates
    return any(
        _marks(recognizer) & _marks_of(name, models) or _answers_as(recognizer, name, models)
        for name in given
    )


def _marks(recognizer: Recognizer) -> set[str]:
    """The digests of the network and of its ONNX file."""
    marks, net = {_net_digest(recognizer)}, recognizer.net
    if isinstance(net, OnnxGraph | OnnxRuntime) and net.source is not None:
        marks.add(sha256_of(net.source))
    return marks


def _marks_of(name: str, models: Models) -> set[str]:
    """The same of a recogniser that a method knows, and that may not be here."""
    published = CHECKPOINTS.get(recognizer_name(name).replace("-", "_"))
    marks = {published.sha256} if published is not None and published.sha256 else set()
    try:
        return marks | _marks(models.recognizer(name))
    except (OptionError, WeightsError):
        return marks


def _answers_as(recognizer: Recognizer, name: str, models: Models) -> bool:
    try:
        known = models.recognizer(name)
        if known.spec.dim != recognizer.spec.dim:
            return False
        alike = F.cosine_similarity(_answers(recognizer), _answers(known), dim=0)
    except (OptionError, WeightsError):  # it is not here
        return False
    return bool(alike > SAME_ANSWER)


@lru_cache
@torch.no_grad()
def _answers(recognizer: Recognizer) -> Tensor:
    """Embeddings of eight pictures of soft noise, without what they have in common: 8·D."""
    noise = torch.randn(8, 3, 16, 16, generator=stream(0, "answers"))
    pictures = F.interpolate(noise, (256, 256), mode="bicubic").clamp(-1, 1)
    points = torch.from_numpy(MEAN_FACE * 256).float().expand(8, -1, -1)
    found = recognizer.embed(pictures, points).float().cpu()
    return (found - found.mean(0)).flatten()


def method_digest(method: Method, models: Models, seed: int) -> str:
    """Of everything that decides how a method's results look.

    The code of the method, of modules of other methods that it uses, of what all methods share and
    of inversion (if it inverts), the networks that ship (unless it uses none), the recognisers it
    knows and the portraits it is given; not the code of networks and of privacy mechanisms, nor
    other files of the store.

    Raises:
        OptionError: it names a recogniser or a folder that there is not.
        WeightsError: a recogniser that it attacks has no weights here.
    """
    own = {sys.modules[kind.__module__] for kind in type(method).__mro__ if _is_ours(kind)}
    used = {sys.modules[name] for module in own for name in _taken(module)}
    parts = [repr(method), seed, __version__, *sorted(map(code, {*own, *used, *FINDING, *MAKING}))]
    if sys.modules[type(method).__module__] is not classical:
        manifest = files("facedeid").joinpath("data", "MANIFEST.json").read_bytes()
        parts += [hashlib.sha256(manifest).hexdigest(), code(losses), *_optimizer()]
        if isinstance(method, Adversarial):
            parts += map(recognizer_digest, models.recognizers(method.recognizers))
        else:
            parts += [_known(name, models) for name in method.surrogates]
        if any(vars(module).get("invert") is inversion.invert for module in own):
            parts += [code(inversion), code(registration)]
        if isinstance(method, TipIm) and method.images is not None:
            parts += [[path.name, sha256_of(path)] for path in portraits(method.images)]
    return digest(*parts)


def _known(name: str, models: Models) -> str:
    """A recogniser that a method knows: trained networks know some that are not here."""
    try:
        return recognizer_digest(models.recognizer(name))
    except WeightsError:
        return name


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "facedeid"


def _taken(module: ModuleType) -> set[str]:
    """The modules of methods from which a module has classes or functions."""
    things = (v for v in vars(module).values() if isinstance(v, (type, FunctionType)))
    return {t.__module__ for t in things if t.__module__.startswith("facedeid.methods.")}


def _optimizer() -> list[str]:
    """The code of the adversarial loop, where a method has imported it."""
    return [code(module) for name, module in sys.modules.items() if name == "facedeid.optimize"]
