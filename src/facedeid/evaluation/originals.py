"""The untouched photos: where their face is, and its embeddings. Worked out once, kept on disk."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facedeid.errors import PhotoError
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.embedding import Progress, Sheet, embed_all, vectors
from facedeid.evaluation.fingerprints import (
    code,
    detector_digest,
    digest,
    recognizer_digest,
    slug,
)
from facedeid.evaluation.shelf import Shelf
from facedeid.faces import Face, detect
from facedeid.landmarks import MEAN_FACE
from facedeid.models import Models, Recognizer

__all__ = [
    "FACE_WIDTH",
    "Originals",
    "central",
    "face_of_row",
    "face_row",
    "found",
    "usual_face",
]

FACE_WIDTH = 4 + 3 + 2 * 68
"""Numbers in a row that holds a face."""
DETECTORS = ("given", "hog", "cnn", "yunet")
PLACED: tuple[Literal["given", "dlib", "box"], ...] = ("given", "dlib", "box")

ALIGNED_LEAST, LEAST, SHARE = 40, 24, 20
"""Smallest face looked for: in aligned photos (theirs have about 100 px); in others this, or this
share of the photo's shorter side if that is more. Faces in the background are not what counts."""
USUAL = 0.68
"""Side of the canonical frame in heights of a deep-funneled LFW photo."""


def usual_face(rgb: NDArray[np.uint8]) -> Face:
    """Where deep-funneled photos of LFW have the face: the mean face in the middle."""
    height, width = rgb.shape[:2]
    side, middle = USUAL * height, np.array([width, height]) / 2
    landmarks = (MEAN_FACE - 0.5) * side + middle
    left, top = (np.array([0.1975, 0.294]) - 0.5) * side + middle
    box = (float(left), float(top), float(left + 0.601 * side), float(top + 0.601 * side))
    return Face(box, landmarks, 0.0, "given", "box")


def central(faces: Sequence[Face], rgb: NDArray[np.uint8]) -> Face | None:
    """Of the faces whose box holds the middle of a photo the one nearest to it; others, which may
    have been found where its own was not, are of bystanders.
    """
    middle = np.array(rgb.shape[1::-1]) / 2
    holding = [f for f in faces if (f.box[:2] <= middle).all() and (f.box[2:] >= middle).all()]
    return min(
        holding, key=lambda f: float(np.hypot(*(f.landmarks.mean(0) - middle))), default=None
    )


def face_row(face: Face | None) -> NDArray[np.float64]:
    """A face as numbers; all NaN: there is none."""
    if face is None:
        return np.full(FACE_WIDTH, np.nan)
    codes = (DETECTORS.index(face.detector), PLACED.index(face.landmarks_from))
    return np.array([*face.box, face.score, *codes, *face.landmarks.ravel()], np.float64)


def face_of_row(row: NDArray[np.float64]) -> Face | None:
    """The inverse of `face_row`."""
    if np.isnan(row[0]):
        return None
    left, top, right, bottom, score, detector, placed = row[:7].tolist()
    points = np.array(row[7:], np.float64).reshape(68, 2)
    box = (left, top, right, bottom)
    return Face(box, points, score, DETECTORS[int(detector)], PLACED[int(placed)])


class Originals:
    """Faces and embeddings of the untouched photos of a data set.

    Args:
        dataset: whose photos.
        models: where recognisers come from.
        folder: of the cache. What is in it is used only where detector, recogniser and photo are
            the same.
        detector: how faces are found.

    Raises:
        OptionError: no such detector.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self, dataset: Dataset, models: Models, folder: Path, *, detector: str = "hog"
    ) -> None:
        self.dataset, self.models, self.folder, self.detector = dataset, models, folder, detector
        self.digest = detector_digest(detector, dataset)
        if dataset.aligned:
            self.digest = digest(self.digest, code(central))
        self.faces = Shelf(folder / f"faces-{self.digest}", FACE_WIDTH, np.float64)
        self.unreadable: dict[str, str] = {}
        """Photos that cannot be read, and why; they count as photos without a face."""
        self._shelves: dict[Recognizer, Shelf] = {}
        self._held: dict[str, Face | None] = {}

    def name(self, key: str) -> str:
        """Of a photo on the shelves; changes with its content."""
        return f"{self.dataset.stamp(key)} {key}"

    def face(self, key: str) -> Face | None:
        """The one face of a photo that the evaluation is about.

        In aligned photos (LFW) the one in the middle, and where none is found there the place that
        such photos have it at (`detector` is then "given"); in others the largest, or None.
        """
        if key not in self._held:
            self._held[key] = self._face(key)
        return self._held[key]

    def _face(self, key: str) -> Face | None:
        try:
            row = self.faces.get(self.name(key))
            if row is None:
                started = time.perf_counter()
                face = self._found(self.dataset.read(key))
                self.faces.put(self.name(key), face_row(face), time.perf_counter() - started)
                return face
        except PhotoError as error:
            self.unreadable[key] = str(error)
            return None
        return face_of_row(row)

    def _found(self, rgb: NDArray[np.uint8]) -> Face | None:
        least = max(LEAST, min(rgb.shape[:2]) // SHARE)
        if not self.dataset.aligned:
            faces = detect(rgb, detector=self.detector, min_face=least)
            return max(faces, key=lambda face: face.box[2] - face.box[0], default=None)
        faces = detect(rgb, detector=self.detector, min_face=ALIGNED_LEAST)
        return central(faces, rgb) or usual_face(rgb)

    def prepare(self, keys: Sequence[str], progress: Progress | None = None) -> None:
        """Find the faces of these photos."""
        unique = list(dict.fromkeys(keys))
        try:
            for done, key in enumerate(unique, 1):
                self.face(key)
                if progress is not None:
                    progress(done, len(unique))
        finally:
            self.faces.flush()

    def embed(
        self,
        recognizers: Sequence[Recognizer],
        keys: Sequence[str],
        progress: Progress | None = None,
    ) -> None:
        """Work out the embeddings of these photos by several recognisers in one go."""
        sheets = [Sheet(each, self.shelf(each), self.face) for each in recognizers]
        embed_all(sheets, keys, self.name, self.dataset.read, progress)
        self.faces.flush()

    def embeddings(self, recognizer: Recognizer, keys: Sequence[str]) -> Tensor:
        """N×D; rows of NaN where there is no face."""
        self.embed([recognizer], keys)
        return vectors(self.shelf(recognizer), [self.name(key) for key in keys])

    def shelf(self, recognizer: Recognizer) -> Shelf:
        """Where the embeddings of a recogniser are kept."""
        if recognizer not in self._shelves:
            known = digest(recognizer_digest(recognizer), self.digest)
            folder = self.folder / f"originals-{slug(recognizer.name)}-{known}"
            self._shelves[recognizer] = Shelf(folder, recognizer.spec.dim)
        return self._shelves[recognizer]


def found(face: Face | None) -> bool:
    """Whether a detector found the face, and not just the place where such photos have it."""
    return face is not None and face.detector != "given"
