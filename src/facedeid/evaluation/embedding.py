"""Embeddings of many photos, each read once for all recognisers and alignments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.evaluation.shelf import Shelf
from facedeid.faces import Face
from facedeid.models import Recognizer

__all__ = ["Progress", "Reporter", "Sheet", "embed_all", "vectors"]

CHUNK = 32
"""Photos whose crops are embedded at once; bounds memory."""

Progress = Callable[[int, int], None]
"""How many are done, and of how many."""
Reporter = Callable[[str], Progress]
"""Told what begins, gives whom to tell how far it is."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Embeddings by one recogniser under one alignment."""

    recognizer: Recognizer
    shelf: Shelf
    place: Callable[[str], Face | None]
    """Photo -> where its face is taken to be."""


def embed_all(
    sheets: Sequence[Sheet],
    keys: Sequence[str],
    name: Callable[[str], str],
    photo: Callable[[str], NDArray[np.uint8]],
    progress: Progress | None = None,
) -> None:
    """Fill what is missing on the sheets; a photo without a face gets a row of NaN.

    Args:
        sheets: what is wanted.
        keys: of photos, any of them more than once.
        name: photo -> its name on the shelves.
        photo: how to get it, H×W×3.
        progress: called after every chunk.
    """
    unique = list(dict.fromkeys(keys))
    missing = [key for key in unique if any(name(key) not in sheet.shelf for sheet in sheets)]
    try:
        for first in range(0, len(missing), CHUNK):
            _embed(sheets, missing[first : first + CHUNK], name, photo)
            if progress is not None:
                progress(min(first + CHUNK, len(missing)), len(missing))
    finally:
        for sheet in sheets:
            sheet.shelf.flush()


def _embed(
    sheets: Sequence[Sheet],
    keys: Sequence[str],
    name: Callable[[str], str],
    photo: Callable[[str], NDArray[np.uint8]],
) -> None:
    cut: list[list[tuple[str, Tensor]]] = [[] for _ in sheets]
    took = [0.0] * len(sheets)
    for key in keys:
        rgb = None
        for i, sheet in enumerate(sheets):
            if name(key) in sheet.shelf:
                continue
            place = sheet.place(key)
            if place is None:
                sheet.shelf.put(name(key), _nothing(sheet.recognizer))
                continue
            rgb = photo(key) if rgb is None else rgb
            started = time.perf_counter()
            crop = sheet.recognizer.spec.crop
            cut[i].append((name(key), crop.chips_from_photo(rgb, [place.landmarks])))
            took[i] += time.perf_counter() - started
    for i, (sheet, chips) in enumerate(zip(sheets, cut, strict=True)):
        if not chips:
            continue
        started = time.perf_counter()
        found = sheet.recognizer.embed_chips(torch.cat([chip for _, chip in chips])).numpy()
        each = (took[i] + time.perf_counter() - started) / len(chips)
        for (label, _), row in zip(chips, found, strict=True):
            sheet.shelf.put(label, row, each)


def _nothing(recognizer: Recognizer) -> NDArray[Any]:
    return np.full(recognizer.spec.dim, np.nan)


def vectors(shelf: Shelf, names: Sequence[str]) -> Tensor:
    """N×D of rows that are there."""
    return torch.from_numpy(shelf.rows(names).astype(np.float32))
