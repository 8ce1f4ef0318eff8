"""What is released: photos after one method, as they were, or after something done to a release.

All three are read alike (`Views`): the photo, the original's place in it, the face found afresh,
and embeddings under both alignments. Everything is worked out when it is first asked for and kept
on disk, so that a run that was killed goes on.
"""

import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from facedeid.errors import PhotoError
from facedeid.evaluation import robustness
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.drawing import store
from facedeid.evaluation.embedding import Progress, Sheet, embed_all, vectors
from facedeid.evaluation.fingerprints import code, digest, method_digest, recognizer_digest, slug
from facedeid.evaluation.originals import FACE_WIDTH, Originals, face_of_row, face_row
from facedeid.evaluation.robustness import apply, moved_face
from facedeid.evaluation.shelf import Shelf, folder_of
from facedeid.faces import Face, Pasted, align, frame, native_size, paste
from facedeid.methods import Method
from facedeid.models import Models, Recognizer, recognizer_name
from facedeid.random import stream
from facedeid.verification import find_again

__all__ = ["Aligned", "Altered", "Releases", "Untouched", "Views", "text_of"]

Aligned = Literal["fresh", "original"]
"""Whether a face is found afresh in the release, or aligned by the original's landmarks."""
BATCH = 8
"""Faces that go through a method together."""
KEEP = 16
"""Photos kept in memory."""


def text_of(method: Method) -> str:
    """A method as `facedeid.methods.parse` takes it, without options that have their default."""
    usual = type(method)().options()
    options = {k: v for k, v in method.options().items() if v != usual[k]}
    words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items()]
    return f"{method.name}:{','.join(words)}" if words else method.name


class Views(ABC):
    """One release of every photo, and everything that is read out of it.

    Args:
        dataset: whose photos.
        originals: where their faces are.
        folder: of the cache, for these releases only.
    """

    method: Method | None
    """None: nothing was done."""
    label: str

    def __init__(self, dataset: Dataset, originals: Originals, folder: Path) -> None:
        self.dataset, self.originals, self.folder = dataset, originals, folder_of(folder)
        self.faces = Shelf(folder / "again", FACE_WIDTH, np.float64)
        self._shelves: dict[tuple[Recognizer, Aligned], Shelf] = {}
        self._recent: dict[tuple[str, int], NDArray[np.uint8]] = {}

    @abstractmethod
    def _photo(self, key: str, draw: int) -> NDArray[np.uint8]:
        """The release, which may be read often."""

    @abstractmethod
    def place(self, key: str) -> Face | None:
        """Where the original's face is in the release."""

    @abstractmethod
    def prepare(self, keys: Sequence[str], draw: int = 0, progress: Progress | None = None) -> None:
        """Make the releases of these photos, as far as they are not there yet."""

    def photo(self, key: str, draw: int = 0) -> NDArray[np.uint8]:
        """H×W×3, of the original's size.

        Raises:
            PhotoError: the original cannot be read, or there is no face in it.
        """
        if (key, draw) not in self._recent:
            while len(self._recent) >= KEEP:
                del self._recent[next(iter(self._recent))]
            self._recent[key, draw] = self._photo(key, draw)
        return self._recent[key, draw]

    def name(self, key: str, draw: int = 0) -> str:
        """Of a release on the shelves."""
        return f"{draw} {self.originals.name(key)}"

    def again(self, key: str, draw: int = 0) -> Face | None:
        """The face at its place, detected afresh; None: nothing is found there."""
        row = self.faces.get(self.name(key, draw))
        if row is not None:
            return face_of_row(row)
        place = self.place(key)
        if place is None:
            return None
        rgb = self.photo(key, draw)
        started = time.perf_counter()
        face = find_again(rgb, place, self.originals.detector)
        self.faces.put(self.name(key, draw), face_row(face), time.perf_counter() - started)
        return face

    def look(
        self, keys: Sequence[str], draw: int = 0, progress: Progress | None = None
    ) -> NDArray[np.bool_]:
        """Whether the face of each of N photos is found afresh."""
        try:
            seen = {}
            unique = list(dict.fromkeys(keys))
            for done, key in enumerate(unique, 1):
                row = self.faces.get(self.name(key, draw))
                if row is None:
                    seen[key] = self.again(key, draw) is not None
                else:
                    seen[key] = not np.isnan(row[0])
                if progress is not None:
                    progress(done, len(unique))
        finally:
            self.faces.flush()
        return np.array([seen[key] for key in keys], np.bool_)

    def embed(
        self,
        recognizers: Sequence[Recognizer],
        keys: Sequence[str],
        aligned: Sequence[Aligned] = ("fresh", "original"),
        draw: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Work out embeddings by several recognisers and under several alignments in one go."""
        places = {"fresh": lambda key: self.again(key, draw), "original": self.place}
        sheets = [
            Sheet(recognizer, self.shelf(recognizer, how), places[how])
            for recognizer in recognizers
            for how in aligned
        ]
        names, photos = lambda key: self.name(key, draw), lambda key: self.photo(key, draw)
        try:
            embed_all(sheets, keys, names, photos, progress)
        finally:
            self.faces.flush()

    def embeddings(
        self, recognizer: Recognizer, keys: Sequence[str], aligned: Aligned, draw: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of releases, N×D (NaN where no face was found), and N truths: which are."""
        self.embed([recognizer], keys, [aligned], draw)
        names = [self.name(key, draw) for key in keys]
        found = vectors(self.shelf(recognizer, aligned), names)
        return found, ~found.isnan().any(1)

    def shelf(self, recognizer: Recognizer, aligned: Aligned) -> Shelf:
        """Where these embeddings are kept."""
        if (recognizer, aligned) not in self._shelves:
            label = f"{slug(recognizer.name)}-{recognizer_digest(recognizer)}-{aligned}"
            self._shelves[recognizer, aligned] = Shelf(self.folder / label, recognizer.spec.dim)
        return self._shelves[recognizer, aligned]

    def white_box(self, recognizer: Recognizer) -> bool:
        """Whether the method was trained or optimised against this recogniser."""
        known = self.method.surrogates if self.method is not None else ()
        return recognizer.name in map(recognizer_name, known)


class Untouched(Views):
    """The photos as they are: what every figure is held against."""

    method = None
    label = "untouched"

    def __init__(self, dataset: Dataset, originals: Originals, folder: Path) -> None:
        super().__init__(dataset, originals, folder / f"untouched-{originals.digest}")

    def prepare(self, keys: Sequence[str], draw: int = 0, progress: Progress | None = None) -> None:
        """Nothing has to be made."""

    def place(self, key: str) -> Face | None:
        """As in the original, which it is."""
        return self.originals.face(key)

    def _photo(self, key: str, draw: int) -> NDArray[np.uint8]:
        return self.dataset.read(key)


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
        return self.folder / "photos" / str(draw) / f"{key}.png"

    def _has(self, key: str, draw: int) -> bool:
        """Whether the release is on disk, going by its header."""
        return self.told(key, draw) is not None

    def told(self, key: str, draw: int = 0) -> Mapping[str, Any] | None:
        """`facts` of the method and `seconds` it took, of a release that was made."""
        if (key, draw) not in self._facts:
            try:
                with Image.open(self._path(key, draw)) as picture:
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
            with Image.open(self._path(key, draw)) as picture:
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
        store(path, buffer.getvalue(), private=True)
        self._facts.pop((key, draw), None)


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
