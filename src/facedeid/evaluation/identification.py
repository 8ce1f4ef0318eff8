"""Identification (1:N): released probes among untouched galleries, by six pairs of sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, permutations

import numpy as np
from numpy.typing import NDArray

from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.metrics import found_by_rank, pairwise
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.protocols import ALIGNED
from facedeid.evaluation.tables import Estimate
from facedeid.evaluation.views import Aligned, Views

__all__ = ["Ranking", "cmc_of_probes", "rank", "ranked_people"]

SETS = 3
"""Photos of each person."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """Identification of released probes among P people, the mean of six galleries and probes."""

    method: str
    recognizer: str
    white_box: bool
    aligned: Aligned
    people: int
    curve: NDArray[np.float64]
    """Cumulative match curve: share of probes whose person is among the first r."""
    rank1: Estimate
    rank5: Estimate | None
    """None: fewer than five people."""
    detected: float
    """Share of probes in which a face was found afresh."""


def ranked_people(
    dataset: Dataset, originals: Originals, people: int
) -> tuple[tuple[str, ...], ...]:
    """Three photos each of the first people, in the order of names, who have as many with a face.

    Args:
        dataset: whose people.
        originals: where faces are.
        people: how many at most.
    """
    chosen: list[tuple[str, ...]] = []
    for keys in dataset.people(SETS).values():
        if len(chosen) == people:
            break
        with_face = (key for key in keys if originals.face(key) is not None)
        photos = tuple(islice(with_face, SETS))  # no more are searched than that takes
        if len(photos) == SETS:
            chosen.append(photos)
    return tuple(chosen)


def cmc_of_probes(distances: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """P×P: probability that probe i has its person among the first r (column r - 1).

    The mean over probes is the cumulative match curve (`metrics.cmc`); people at exactly the same
    distance are ordered by lot, and a probe without a face is never found.

    Args:
        distances: P×P, of probes to the gallery; person i of both is the same one.
        valid: P truths.
    """
    found = found_by_rank(distances, distances.diagonal()[:, None])
    return np.asarray(np.where(valid[:, None], found, 0.0))


def rank(
    views: Views,
    originals: Originals,
    judge: Judge,
    photos: Sequence[tuple[str, ...]],
    bootstrap: Bootstrap,
) -> list[Ranking]:
    """Identify released probes among untouched galleries, a row per alignment.

    Set s holds photo s of everybody; each of the six ordered pairs of sets gives a gallery and
    probes.

    Args:
        views: the releases.
        originals: the untouched photos.
        judge: who compares.
        photos: per person three keys.
        bootstrap: over the people.
    """
    recognizer, sets = judge.recognizer, list(zip(*photos, strict=True))
    clean = [originals.embeddings(recognizer, keys).numpy() for keys in sets]
    detected = float(np.mean([views.look(keys).mean() for keys in sets]))
    rows = []
    for aligned in ALIGNED:
        shown = [views.embeddings(recognizer, keys, aligned) for keys in sets]
        curves = []
        for gallery, probe in permutations(range(len(sets)), 2):
            found, valid = (x.numpy() for x in shown[probe])
            metric = recognizer.spec.metric
            table = pairwise(np.where(valid[:, None], found, 1.0), clean[gallery], metric)
            curves.append(cmc_of_probes(table, valid))
        each = np.mean(curves, axis=0)
        rows.append(
            Ranking(
                method=views.label,
                recognizer=recognizer.name,
                white_box=views.white_box(recognizer),
                aligned=aligned,
                people=len(photos),
                curve=each.mean(0),
                rank1=bootstrap.share(each[:, 0]),
                rank5=bootstrap.share(each[:, 4]) if len(photos) >= 5 else None,
                detected=detected,
            )
        )
    return rows
