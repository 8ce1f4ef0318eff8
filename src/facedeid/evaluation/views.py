"""One release of every photo, and everything that is read out of it.

The photo, the original's place in it, the face found afresh, and embeddings under both alignments.
Everything is worked out when it is first asked for and kept on disk, so that a run that was killed
goes on.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.embedding import Progress, Sheet, embed_all, vectors
from facedeid.evaluation.fingerprints import is_white_box, recognizer_digest, slug
from facedeid.evaluation.originals import FACE_WIDTH, Originals, face_of_row, face_row
from facedeid.evaluation.shelf import Shelf, folder_of
from facedeid.faces import Face
from facedeid.methods import Method
from facedeid.models import Recognizer
from facedeid.verification import find_again

__all__ = ["Aligned", "Untouched", "Views"]

Aligned = Literal["fresh", "original"]
"""Whether a face is found afresh in the release, or aligned by the original's landmarks."""
KEEP = 1
"""Photos that each method keeps in memory: they may be large, and the methods many."""


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
        return is_white_box(self.method, recognizer, self.originals.models)


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
