"""Metrics, one name each: pure functions of pictures, points, distances and outcomes.

Pictures are H×W×3, uint8 or uint16, two of one shape and type. Distances are those of
`facedeid.models`: Euclidean or 1 - cosine, larger is less alike; below a threshold two faces count
as one person. Shares lie in 0..1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facedeid import losses
from facedeid.errors import OptionError
from facedeid.landmarks import PARTS
from facedeid.models import Metric

__all__ = [
    "Displacement",
    "Identification",
    "MeanSd",
    "Outcomes",
    "asr",
    "cmc",
    "detection_rate",
    "face_region",
    "found_by_rank",
    "identity_distance",
    "identity_similarity",
    "landmark_displacement",
    "mean_sd",
    "mse01",
    "pairwise",
    "psnr",
    "rank_n",
    "six_sets",
    "ssim",
    "ssim_face",
    "tar",
    "three_way",
]

FACE_GROWN = 1.2
"""How much of a photo counts as the face: the detector's box (brows to chin), grown by this."""


def _levels(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both pictures in [0, 1]."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise OptionError(f"two alike are compared, got {a.shape} {a.dtype}, {b.shape} {b.dtype}")
    if a.ndim != 3 or a.shape[2] != 3 or a.dtype not in (np.uint8, np.uint16) or 0 in a.shape:
        raise OptionError(f"pictures must be H×W×3 uint8 or uint16, got {a.shape} {a.dtype}")
    top = np.iinfo(a.dtype).max
    return a.astype(np.float64) / top, b.astype(np.float64) / top


def mse01(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean squared error of pictures scaled to [0, 1]; a quarter of the one on [-1, 1]."""
    one, two = _levels(a, b)
    return float(np.square(one - two).mean())


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB, -10·log10 of `mse01`; infinite for equal pictures."""
    error = mse01(a, b)
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Structural similarity (Wang et al. 2004; see `losses.ssim`): 1 for equal pictures.

    Raises:
        OptionError: sides of 10 px or less, which the window does not fit.
    """
    one, two = (torch.from_numpy(x * 2 - 1).permute(2, 0, 1)[None] for x in _levels(a, b))
    return float(losses.ssim(one, two))


def face_region(
    rgb: NDArray[Any], box: Sequence[float], *, grow: float = FACE_GROWN
) -> NDArray[Any]:
    """The part of a photo within a face's box grown about its centre: a view.

    Args:
        rgb: H×W×3.
        box: left, top, right, bottom in pixels; what lies beyond the photo is left out.
        grow: factor on both sides of the box.

    Raises:
        OptionError: nothing of it lies in the photo.
    """
    corners = np.array(box, np.float64).reshape(2, 2)
    centre, half = corners.mean(0), (corners[1] - corners[0]) * grow / 2
    left, top = np.maximum(np.floor(centre - half), 0).astype(int)
    right, bottom = np.maximum(np.ceil(centre + half), 0).astype(int)
    region = rgb[top:bottom, left:right]
    if not region.size:
        raise OptionError(f"box {list(box)} holds nothing of a photo of {rgb.shape[1::-1]} px")
    return region


def ssim_face(a: NDArray[Any], b: NDArray[Any], box: Sequence[float]) -> float:
    """`ssim` of the face alone: of its box, grown by 1.2.

    Raises:
        OptionError: sides of 10 px or less, or nothing of it lies in the photo.
    """
    return ssim(face_region(a, box), face_region(b, box))


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """Mean distances in pixels between landmarks before and after, by part of the face."""

    chin: float
    """Landmarks 0 to 16, the jaw from ear to ear."""
    nose: float
    """27 to 35."""
    eyes: float
    """36 to 47."""
    mouth: float
    """48 to 67."""


def landmark_displacement(before: ArrayLike, after: ArrayLike) -> Displacement:
    """How far the parts of a face have moved; the brows (17 to 26) are not counted.

    Args:
        before: 68×2 (iBUG 300-W order) of the original.
        after: 68×2, found again in the result. Both in the same pixels: to compare faces of
            different size, take those of the canonical frame (`Frame.to_frame`).

    Raises:
        OptionError: not 68×2 finite numbers each.
    """
    points = [np.array(x, np.float64) for x in (before, after)]
    if any(x.shape != (68, 2) or not np.isfinite(x).all() for x in points):
        raise OptionError(f"landmarks must be 68×2 finite numbers, got {[x.shape for x in points]}")
    moved = np.linalg.norm(points[0] - points[1], axis=1)
    return Displacement(**{name: float(moved[list(part)].mean()) for name, part in PARTS.items()})


@dataclass(frozen=True)
class MeanSd:
    """Mean, (population) standard deviation, and of how many."""

    mean: float
    sd: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.sd:.3f}"


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise OptionError(f"one or more finite numbers are wanted in a row, got {found.shape}")
    return found


def mean_sd(values: ArrayLike) -> MeanSd:
    """Of N finite values.

    Raises:
        OptionError: there is none, or one is not finite.
    """
    found = _numbers(values)
    return MeanSd(float(found.mean()), float(found.std()), len(found))


def identity_similarity(before: Tensor, after: Tensor) -> MeanSd:
    """Cosine similarity of embeddings N×D to those of the originals, row by row; -1..1."""
    return mean_sd(1 - losses.cosine(before.double(), after.double()).numpy())


def identity_distance(before: Tensor, after: Tensor) -> MeanSd:
    """Euclidean distance of embeddings N×D to those of the originals, row by row."""
    return mean_sd((before.double() - after.double()).square().sum(-1).sqrt().numpy())


def asr(distances: ArrayLike, threshold: float) -> float:
    """Attack success rate, also called SPR or de-identification rate: share at or over threshold.

    Say which distances: to the original, or to another photo of the same person.

    Raises:
        OptionError: there is none, or one is not finite (a face without an embedding counts in
            `three_way`, never here).
    """
    return float((_numbers(distances) >= threshold).mean())


def tar(distances: ArrayLike, threshold: float) -> float:
    """True acceptance rate of genuine pairs: the share below the threshold, 1 - `asr`."""
    return float((_numbers(distances) < threshold).mean())


def detection_rate(detected: ArrayLike) -> float:
    """Share of faces that a detector still finds, of N truth values."""
    return float(_numbers(detected).astype(bool).mean())


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How many faces ended how; the three add up to n."""

    not_detected: int
    """Neither found again nor matched: by itself no protection against an aligned attacker."""
    not_matched: int
    """Found again and matched by nobody."""
    matched: int
    """Matched, found again or not (by the alignment of the original)."""

    @property
    def n(self) -> int:
        """All faces."""
        return self.not_detected + self.not_matched + self.matched


def three_way(detected: ArrayLike, matched: ArrayLike) -> Outcomes:
    """Outcomes of N faces, as `Verdict.outcome` decides them: a match comes first.

    Args:
        detected: N truth values: found again in the result.
        matched: N truth values: matched under any alignment.
    """
    seen, hit = (_numbers(x).astype(bool) for x in (detected, matched))
    if seen.shape != hit.shape:
        raise OptionError(f"as many outcomes as faces are wanted, got {len(seen)} and {len(hit)}")
    return Outcomes(
        not_detected=int((~seen & ~hit).sum()),
        not_matched=int((seen & ~hit).sum()),
        matched=int(hit.sum()),
    )


def pairwise(probes: ArrayLike, gallery: ArrayLike, metric: Metric) -> NDArray[np.float64]:
    """Distances of embeddings P×D to G×D: P×G, Euclidean, or 1 - cosine for "cosine"."""
    a, b = (np.asarray(x, np.float64) for x in (probes, gallery))
    if metric == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return np.asarray(1 - a @ b.T)
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def cmc(
    distances: ArrayLike, probe_ids: Sequence[Any], gallery_ids: Sequence[Any]
) -> NDArray[np.float64]:
    """Cumulative match curve of closed-set identification: value r-1 is the rank-r rate.

    People are ranked by their nearest photo. Among people at exactly the same distance the order
    is drawn by lot, of which this is the expectation: the same picture of everybody
    identifies nobody.

    Args:
        distances: P×G, of probes to the gallery.
        probe_ids: P people.
        gallery_ids: G people; may repeat.

    Returns:
        As many shares as there are people in the gallery, never falling, the last one 1.

    Raises:
        OptionError: shapes do not fit, a distance is not finite, or a probe shows nobody of the
            gallery.
    """
    found, people = np.asarray(distances, np.float64), sorted(set(gallery_ids))
    if found.shape != (len(probe_ids), len(gallery_ids)) or not found.size:
        raise OptionError(
            f"distances must be {len(probe_ids)}×{len(gallery_ids)}, got {found.shape}"
        )
    if not np.isfinite(found).all():
        raise OptionError("a distance is not finite: no rank follows from it")
    strangers = set(probe_ids) - set(people)
    if strangers:
        raise OptionError(f"not in the gallery: {', '.join(map(str, sorted(strangers)[:3]))}")
    place = {person: i for i, person in enumerate(people)}
    nearest = np.full((len(found), len(people)), np.inf)
    for column, person in enumerate(gallery_ids):
        i = place[person]
        nearest[:, i] = np.minimum(nearest[:, i], found[:, column])
    own = nearest[np.arange(len(found)), [place[person] for person in probe_ids]][:, None]
    return np.asarray(found_by_rank(nearest, own).mean(0))


def found_by_rank(distances: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """N×P distances to people, N×1 to the right one, which is among them -> N×P: probability that
    it is among the first r (column r - 1), people at the same distance being ordered by lot.
    """
    before, tied = (distances < own).sum(1)[:, None], (distances == own).sum(1)[:, None]
    ranks = np.arange(1, distances.shape[1] + 1)
    return np.asarray(np.clip((ranks - before) / tied, 0, 1))


def rank_n(curve: NDArray[np.float64], n: int) -> float:
    """Rank-n rate of a curve of `cmc`: the right person is among the first n.

    Raises:
        OptionError: n is below 1 or beyond the number of people.
    """
    if not 1 <= n <= len(curve):
        raise OptionError(f"rank {n}: the gallery holds {len(curve)} people")
    return float(curve[n - 1])


@dataclass(frozen=True, eq=False)
class Identification:
    """1:N identification over all ordered pairs of sets."""

    curve: NDArray[np.float64]
    """Mean cumulative match curve: one share per person of the gallery."""
    curves: dict[tuple[int, int], NDArray[np.float64]]
    """(gallery set, probe set) -> its own curve."""


def six_sets(originals: ArrayLike, deidentified: ArrayLike, metric: Metric) -> Identification:
    """1:N identification of P people with 3 photos each: six galleries and probe sets, averaged.

    Set s holds photo s of everybody. Each of the six ordered pairs of different sets gives one
    curve: the gallery is untouched, the probes are de-identified. (S sets give S·(S-1).)

    Args:
        originals: P×S×D embeddings of the untouched photos.
        deidentified: P×S×D embeddings of the same photos after the method.
        metric: the recogniser's.

    Raises:
        OptionError: shapes differ, fewer than two sets, or an embedding is not finite.
    """
    clean, changed = (np.asarray(x, np.float64) for x in (originals, deidentified))
    if clean.shape != changed.shape or clean.ndim != 3 or clean.shape[1] < 2:
        raise OptionError(f"two of people×sets×D are wanted: {clean.shape}, {changed.shape}")
    people = range(len(clean))
    curves = {
        (gallery, probe): cmc(
            pairwise(changed[:, probe], clean[:, gallery], metric), people, people
        )
        for gallery, probe in permutations(range(clean.shape[1]), 2)
    }
    return Identification(np.mean(list(curves.values()), axis=0), curves)
