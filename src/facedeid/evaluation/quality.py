"""What a method costs a photo: distortion of the face, landmarks that moved, faces still found."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facedeid import losses
from facedeid.errors import OptionError
from facedeid.evaluation import metrics
from facedeid.evaluation.embedding import Progress
from facedeid.evaluation.fingerprints import code, digest
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.originals import found
from facedeid.evaluation.shelf import Shelf
from facedeid.evaluation.tables import Cell, Estimate
from facedeid.evaluation.views import Views
from facedeid.faces import align, frame
from facedeid.landmarks import PARTS
from facedeid.models import Models
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.weights import locate, shipped_facts
from facedeid.weights.loading import load_state
from facedeid.weights.local import sha256_of

__all__ = ["COLUMNS", "STORE", "Perceptual", "Quality", "load_lpips", "quality"]

COLUMNS = ("SSIM", "PSNR", "MSE", "facedeid-lpips", "LPIPS", *PARTS)
"""Of a row per photo. SSIM, PSNR (dB) and MSE (on [0, 1]) are of the face's box grown by 1.2, the
two perceptual distances of the canonical frame at 256 px, and so many pixels of that frame the
parts' landmarks have moved. NaN where there is none."""
SIDE = 256
STORE = Path("store")
"""Stands for the files of AlexNet's LPIPS in the store of weights."""
STORED = ("lpips_alex_backbone", "lpips_alex_heads")


@dataclass(frozen=True, eq=False)
class Perceptual:
    """LPIPS with weights that the user gave."""

    net: Lpips
    digest: str


def load_lpips(paths: Sequence[Path], models: Models) -> Perceptual | None:
    """LPIPS from its features and its heads, one file or two; None: no files were given.

    Args:
        paths: the files, or `STORE` alone.
        models: on whose device it runs.

    Raises:
        WeightsError: they are not the weights of LPIPS, or the store does not have them.
    """
    if not paths:
        return None
    if list(paths) == [STORE]:
        paths = [locate(name) for name in STORED]
    net = lpips(lpips_state(*(load_state(path) for path in paths)))
    return Perceptual(net.to(models.device).requires_grad_(False), digest(*map(sha256_of, paths)))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Means over the releases of a method, with their intervals."""

    method: str
    cells: Mapping[str, Cell]
    """A cell for each of `COLUMNS`; text where there is no number."""
    detected: Estimate | str
    """Share of the faces that the detector found in the original that it finds in the release."""
    n: int


def quality(
    views: Views,
    keys: Sequence[str],
    bootstrap: Bootstrap,
    models: Models,
    perceptual: Perceptual | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Measure N releases, of which each has a face.

    Args:
        views: the releases.
        keys: their photos.
        bootstrap: over the people in them.
        models: where facedeid-lpips comes from.
        perceptual: LPIPS, if there are weights.
        progress: called after every photo.
    """
    shelf = shelf_of(views, perceptual)
    try:
        for done, key in enumerate(dict.fromkeys(keys), 1):
            if views.name(key) not in shelf:
                started = time.perf_counter()
                row = _row(views, key, models, perceptual)
                shelf.put(views.name(key), row, time.perf_counter() - started)
            if progress is not None:
                progress(done, len(keys))
    finally:
        shelf.flush()
    rows = shelf.rows(views.name(key) for key in keys)
    cells = {name: _cell(rows[:, i], bootstrap) for i, name in enumerate(COLUMNS)}
    if perceptual is None:
        del cells["LPIPS"]
    known = np.array([found(views.originals.face(key)) for key in keys])
    detected = views.look(keys)
    rate = bootstrap.share(detected, known) if known.any() else "no face was detected before"
    return Quality(method=views.label, cells=cells, detected=rate, n=len(keys))


def shelf_of(views: Views, perceptual: Perceptual | None) -> Shelf:
    """Where the rows are kept."""
    own = shipped_facts("facedeid-lpips.safetensors").get("sha256")
    measuring = [code(each) for each in (metrics, losses, _row)]
    known = digest(perceptual and perceptual.digest, own, measuring, SIDE, COLUMNS)
    return Shelf(views.folder / f"quality-{known}", len(COLUMNS), np.float64)


def _cell(values: NDArray[np.float64], bootstrap: Bootstrap) -> Cell:
    counted = ~np.isnan(values)
    if not counted.any():
        return "no face found"
    if not np.isfinite(values[counted]).all():
        same = int(np.isinf(values).sum())
        return f"infinite ({same} of {len(values)} unchanged)"
    return bootstrap.mean(values, counted)


@torch.no_grad()
def _row(
    views: Views, key: str, models: Models, perceptual: Perceptual | None
) -> NDArray[np.float64]:
    face, again = views.originals.face(key), views.again(key)
    if face is None:
        raise OptionError(f"{key}: there is no face in it")
    before, after = views.dataset.read(key), views.photo(key)
    regions = [metrics.face_region(rgb, face.box) for rgb in (before, after)]
    small = min(regions[0].shape[:2]) <= 10
    error = metrics.mse01(*regions)
    pair = [align(rgb, frame(face, SIDE))[None].to(models.device) for rgb in (before, after)]
    row = [
        math.nan if small else metrics.ssim(*regions),
        metrics.psnr(*regions),
        error,
        float(models.perceptual(*pair)),
        math.nan if perceptual is None else float(perceptual.net(*pair)),
    ]
    if again is None or not found(face):
        return np.array([*row, *[math.nan] * len(PARTS)])
    place = frame(face, SIDE)
    moved = metrics.landmark_displacement(
        place.to_frame(face.landmarks), place.to_frame(again.landmarks)
    )
    return np.array([*row, *(getattr(moved, part) for part in PARTS)])
