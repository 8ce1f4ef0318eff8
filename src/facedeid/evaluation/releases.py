"""Photos after one method, or after something done to a release; read as `Views` are."""

import io
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from facedeid.errors import PhotoError
from facedeid.evaluation import robustness
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.embedding import Progress
from facedeid.evaluation.fingerprints import code, digest, method_digest, slug
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.robustness import apply, moved_face
from facedeid.evaluation.shelf import folder_of
from facedeid.evaluation.views import Aligned, Views
from facedeid.faces import Face, Pasted, align, frame, native_size, paste
from facedeid.methods import Method
from facedeid.models import Models
from facedeid.random import stream
from facedeid.report import write_whole

__all__ = ["Aligned", "Altered", "Releases", "options_of", "text_of"]

BATCH = 8
"""Faces that go through a method together."""
LONGEST = 251
"""Bytes in the name of a file to which `.png` can be added."""


def options_of(method: Method) -> dict[str, Any]:
    """All options of a method; files without their folders, which say whose machine it was."""
    return {name: _without_folders(value) for name, value in method.options().items()}


def _without_folders(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_without_folders(each) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith("onnx:"):
        path, mark, query = value.removeprefix("onnx:").partition("?")
        return f"onnx:{_last(path)}{mark}{query}"
    return _last(value)


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def text_of(method: Method, without: Collection[str] = ()) -> str:
    """A method as `facedeid.methods.parse` takes it, without options that have their default.

    Files are named without their folders (`options_of`).

    Args:
        method: which.
        without: further options that are left out.
    """
    usual, given = type(method)().options(), method.options()
    changed = [k for k, v in given.items() if v != usual[k] and k not in without]
    options = {k: v for k, v in options_of(method).items() if k in changed}
    words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items()]
    return f"{method.name}:{','.join(words)}" if words else method.name


class Releases(Views):
    """The photos of a data set after one method; made when first asked for, kept as PNG.

    Args:
        dataset: whose photos.
        originals: where their faces are.
        method: what is done to the one face of each photo (`Originals.face`).
        models: networks of the method.
        folder: of the cache; each method with its options, its code and its seed has its own in it.
        seed: of methods that draw random numbers; `draw` counts releases of one photo.
    """

    method: Method

    def __init__(
        self,
        dataset: Dataset,
        originals: Originals,
        method: Method,
        models: Models,
        folder: Path,
        *,
        seed: int = 0,
    ) -> None:
        self.method, self.models, self.seed = method, models, seed
        self.label = text_of(method)
        known = digest(method_digest(method, models, seed), originals.digest)
        super().__init__(dataset, originals, folder / f"{slug(self.label)}-{known}")
        self._facts: dict[tuple[str, int], dict[str, Any]] = {}

    def place(self, key: str) -> Face | None:
        """As in the original: releases have its geometry."""
        return self.originals.face(key)

    def _photo(self, key: str, draw: int) -> NDArray[np.uint8]:
        held = self._kept(key, draw)
        if held is None:
            self._make([key], draw)
            held = self._kept(key, draw)
        if held is None:
            raise PhotoError(f"{key}: there is no face in it, so nothing to release")
        return held

    def prepare(self, keys: Sequence[str], draw: int = 0, progress: Progress | None = None) -> None:
        """Make the releases of these photos, a batch of faces at a time."""
        unique = list(dict.fromkeys(keys))
        missing = [key for key in unique if not self._has(key, draw)]
        done = 0
        for batch in self._batches(missing):
            self._make(batch, draw)
            done += len(batch)
            if progress is not None:
                progress(done, len(missing))

    def _batches(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Of photos whose crops are of one size."""
        waiting: dict[int, list[str]] = {}
        for key in keys:
            face = self.originals.face(key)
            if face is not None:
                batch = waiting.setdefault(self._side(face), [])
                batch.append(key)
                if len(batch) == BATCH:
                    yield waiting.pop(self._side(face))
        yield from waiting.values()

    def _side(self, face: Face) -> int:
        return self.method.frame or native_size(face)

    def _make(self, keys: Sequence[str], draw: int) -> None:
        """De-identify faces whose crops are of one size, paste them back, and keep the photos."""
        placed = [(key, face) for key in keys if (face := self.originals.face(key)) is not None]
        if not placed:
            return
        started = time.perf_counter()
        photos = [self.dataset.read(key) for key, _ in placed]
        frames = [frame(face, self._side(face)) for _, face in placed]
        before = torch.stack([align(p, f) for p, f in zip(photos, frames, strict=True)])
        points = [
            torch.from_numpy(place.to_frame(face.landmarks)).float()
            for place, (_, face) in zip(frames, placed, strict=True)
        ]
        made = self.method(
            before,
            self.models,
            random=[stream(self.seed, key, draw) for key, _ in placed],
            landmarks=torch.stack(points),
        )
        results = []
        for i, ((_, face), place, rgb) in enumerate(zip(placed, frames, photos, strict=True)):
            item = Pasted(
                face=face,
                frame=place,
                before=before[i],
                after=made.faces[i],
                carry=self.method.carry,
                region=self.method.region,
            )
            results.append(paste(rgb, [item])[0])
        each = (time.perf_counter() - started) / len(placed)
        for (key, _), rgb, facts in zip(placed, results, made.facts, strict=True):
            self._keep(key, draw, rgb, {"facts": dict(facts), "seconds": each})

    def _path(self, key: str, draw: int) -> Path:
        path = self.folder / "photos" / str(draw) / f"{key}.png"
        if len(os.fsencode(path.stem)) > LONGEST:
            path = path.with_name(f"{slug(path.stem)}-{digest(key)}.png")
        return path

    def _has(self, key: str, draw: int) -> bool:
        """Whether the release is on disk, going by its header."""
        return self.told(key, draw) is not None

    def told(self, key: str, draw: int = 0) -> Mapping[str, Any] | None:
        """`facts` of the method and `seconds` it took, of a release that was made."""
        if (key, draw) not in self._facts:
            try:
                with _opened(self._path(key, draw)) as picture:
                    facts = json.loads(picture.info.get("facedeid", "null"))
            except (OSError, SyntaxError, ValueError):
                return None
            if not isinstance(facts, dict) or facts.get("of") != self.dataset.stamp(key):
                return None
            self._facts[key, draw] = facts
        return self._facts[key, draw]

    def _kept(self, key: str, draw: int) -> NDArray[np.uint8] | None:
        """The release on disk; None: it is not there, damaged, or of another original."""
        if not self._has(key, draw):
            return None
        try:
            with _opened(self._path(key, draw)) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            del self._facts[key, draw]
            return None

    def _keep(self, key: str, draw: int, rgb: NDArray[np.uint8], facts: dict[str, Any]) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text("facedeid", json.dumps({"of": self.dataset.stamp(key), **facts}, default=str))
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "PNG", pnginfo=text, compress_level=1)
        path = self._path(key, draw)
        folder_of(path.parent)
        write_whole(path, [buffer.getvalue()], private=True)
        self._facts.pop((key, draw), None)


def _opened(path: Path) -> Image.Image:
    """A release, its header read; goes past `Image.open`, which refuses large photos."""
    return PngImagePlugin.PngImageFile(path)


class Altered(Views):
    """Releases after an image operation (see `robustness`), which moves the landmarks along.

    Args:
        views: the releases.
        operation: a name of `ROBUSTNESS`.
    """

    def __init__(self, views: Views, operation: str) -> None:
        self.views, self.operation, self.method = views, operation, views.method
        self.label = f"{views.label}, then {operation}"
        super().__init__(
            views.dataset,
            views.originals,
            views.folder / f"then-{slug(operation)}-{code(robustness)[:8]}",
        )
        self._matrices: dict[tuple[int, int], NDArray[np.float64]] = {}

    def prepare(self, keys: Sequence[str], draw: int = 0, progress: Progress | None = None) -> None:
        """Make the releases; the operation is done whenever a photo is read."""
        self.views.prepare(keys, draw, progress)

    def place(self, key: str) -> Face | None:
        """The original's face, moved as the operation moves pixels."""
        face = self.originals.face(key)
        if face is None:
            return None
        return moved_face(face, self._matrix(key))

    def _matrix(self, key: str) -> NDArray[np.float64]:
        """By the size of the photo, which alone decides it."""
        shape = self.views.photo(key).shape
        size = (shape[0], shape[1])
        if size not in self._matrices:
            self._matrices[size] = apply(self.operation, np.zeros((*size, 3), np.uint8))[1]
        return self._matrices[size]

    def _photo(self, key: str, draw: int) -> NDArray[np.uint8]:
        return apply(self.operation, self.views.photo(key, draw))[0]
