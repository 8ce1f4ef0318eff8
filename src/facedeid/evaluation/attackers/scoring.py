"""What an attack achieves: figures from distances of probes to a gallery, with intervals.

All attackers are scored alike. N genuine pairs give N gallery photos and N probes; every probe is
compared with every gallery photo, so that the diagonal is genuine and whatever shows two people is
impostor. Every figure is a mean over probes, and its interval a bootstrap over people: several
pairs of one person are not independent evidence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.evaluation.statistics import clopper_pearson

__all__ = ["MEASURES", "Scores", "auc", "cosine_distance", "figures", "interval", "scored"]

MEASURES = ("accepted", "accuracy", "AUC", "TAR at FAR 1e-2", "TAR at FAR 1e-3", "Rank-1")
"""`accepted`: genuine pairs below the threshold fitted on other people; `accuracy`: mean of that
and of impostor pairs above it; TAR at the distance that lets that share of impostor pairs in;
Rank-1: the nearest gallery photo is of the same person. More is a stronger attack, everywhere;
but the first two also rise by a mere re-fit of the threshold (`accepted` even as more impostors are
let in), so that an attack sees more than the ordinary one only where the other four say so."""

LEAST_ALARMS = 5
"""A false-accept rate is measured only where it stands for so many impostor pairs."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Row by row, N×D and N×D (or 1×D) -> N; larger is less alike."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Distances of N probes (rows) to N gallery photos (columns)."""

    distances: NDArray[np.float64]
    """N×N; infinite where no face was found in the probe or the gallery photo."""
    people: tuple[str, ...]
    """Who is in probe and gallery photo i."""

    @property
    def different(self) -> NDArray[np.bool_]:
        """N×N: pairs of two people."""
        codes = np.unique(np.array(self.people), return_inverse=True)[1]
        return np.asarray(codes[:, None] != codes[None], np.bool_)

    @property
    def genuine(self) -> NDArray[np.float64]:
        """N distances of probes to the photos that they are paired with."""
        return np.asarray(self.distances.diagonal(), np.float64)

    @property
    def impostor(self) -> NDArray[np.float64]:
        """All distances between different people, ascending."""
        return np.sort(self.distances[self.different])

    def threshold(self) -> float | None:
        """Below it, calling a pair genuine is right most often, both kinds weighing the same.

        None: there is nothing to choose from, no finite distance of one of both kinds.
        """
        genuine, impostor = np.sort(self.genuine), self.impostor
        finite = np.unique(np.concatenate([genuine, impostor]))
        finite = finite[np.isfinite(finite)]
        if not len(genuine) or not len(impostor) or not len(finite):
            return None
        cuts = np.append((finite[:-1] + finite[1:]) / 2, finite[-1] + 1e-6)
        right = np.searchsorted(genuine, cuts) / len(genuine)
        wrong = np.searchsorted(impostor, cuts) / len(impostor)
        return float(cuts[int(np.argmax(right - wrong))])


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of unit vectors, row by row: N."""
    return 1 - (a * b).sum(-1)


def scored(
    distance: Distance,
    gallery: Tensor,
    probes: Tensor,
    people: Sequence[str],
    valid: Tensor | None = None,
    known: Tensor | None = None,
) -> Scores:
    """Compare every probe (N×D) with every gallery photo (N×D).

    Args:
        distance: of embeddings, row by row.
        gallery: embeddings of one photo of each pair.
        probes: of the other.
        people: N names.
        valid: N truths, False where no face was found in the probe: it matches nothing.
        known: the same of the gallery.
    """
    table = torch.stack([distance(gallery, probe[None]) for probe in probes]).double().numpy()
    table = np.where(np.isnan(table), np.inf, table)
    if valid is not None:
        table[~valid.numpy()] = np.inf
    if known is not None:
        table[:, ~known.numpy()] = np.inf
    return Scores(table, tuple(people))


def auc(scores: Scores) -> float:
    """Probability that a genuine pair is nearer than an impostor pair, ties counting half."""
    return float(_placed(scores).mean())


def _placed(scores: Scores) -> NDArray[np.float64]:
    """Per probe, the share of all impostor pairs that are farther apart than its genuine pair."""
    impostor, genuine = scores.impostor, scores.genuine
    below = np.searchsorted(impostor, genuine, "left") + np.searchsorted(impostor, genuine, "right")
    return np.asarray(1 - below / (2 * max(len(impostor), 1)), np.float64)


def figures(scores: Scores, threshold: float | None) -> Mapping[str, NDArray[np.float64] | str]:
    """Per name of `MEASURES`, N values whose mean is the figure; or why there is none.

    Args:
        scores: of the people who are tested.
        threshold: fitted on other people, who were attacked in the same way.
    """
    different, impostor = scores.different, scores.impostor
    if not len(impostor):
        return dict.fromkeys(MEASURES, "fewer than two people with a genuine pair")
    found: dict[str, NDArray[np.float64] | str] = {}
    if threshold is None:
        found |= dict.fromkeys(("accepted", "accuracy"), "no pairs to fit a threshold on")
    else:
        accepted = (scores.genuine < threshold).astype(float)
        rejected = ((scores.distances >= threshold) & different).sum(1) / different.sum(1)
        found |= {"accepted": accepted, "accuracy": (accepted + rejected) / 2}
    found["AUC"] = _placed(scores)
    for text, rate in (("1e-2", 1e-2), ("1e-3", 1e-3)):
        alarms = int(len(impostor) * rate)
        found[f"TAR at FAR {text}"] = (
            (scores.genuine < impostor[alarms]).astype(float)
            if alarms >= LEAST_ALARMS
            else f"{len(impostor)} impostor pairs are too few for a false-accept rate of {text}"
        )
    nearest = np.where(different, scores.distances, np.inf).min(1)
    own = np.where(different, np.inf, scores.distances).min(1)
    found["Rank-1"] = (own < nearest).astype(float)
    return found


def interval(
    values: NDArray[np.float64], people: Sequence[str], *, seed: int, draws: int = 2000
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of N values, by drawing people with replacement.

    Where all values are 0 or all are 1 the bootstrap would answer with a point; the exact
    (Clopper-Pearson) interval for as many people is given instead. Of other values of one person
    there is none.
    """
    codes = np.unique(np.array(people), return_inverse=True)[1]
    counts = np.bincount(codes)
    sums = np.bincount(codes, values)
    if values.min() == values.max() and values[0] in (0.0, 1.0):
        exact = clopper_pearson(int(values[0]) * len(counts), len(counts))
        return exact.low, exact.high
    if len(counts) < 2:
        return None, None
    chosen = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
