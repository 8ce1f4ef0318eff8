"""The protocols: verification (1:1), identification (1:N), and a face against itself.

All are scored twice, with the face found afresh in the release and with the original's landmarks.
A face that is not found afresh is matched by nobody who looks for it afresh, and is counted as not
detected, never as protected. Everything is arithmetic on embeddings that `Views` keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from facedeid.evaluation.datasets import Dataset, Pair
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.metrics import Outcomes, pairwise, three_way
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.releases import Aligned, Views
from facedeid.evaluation.tables import Estimate

__all__ = [
    "ALIGNED",
    "Comparison",
    "Ranking",
    "Score",
    "cmc_of_probes",
    "compare",
    "headline",
    "rank",
    "ranked_people",
    "score",
    "usable",
]

ALIGNED: tuple[Aligned, ...] = get_args(Aligned)
STRANGERS = 300
"""People whose first photo every release is compared with, to see who else is accepted."""
SETS = 3
"""Photos of each person in 1:N identification."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Distances by one recogniser of N releases to their originals and, of a pair, the partner.

    Distances are infinite where no face was found.
    """

    views: Views
    judge: Judge
    probes: tuple[str, ...]
    """Keys of the released photos."""
    partners: tuple[str, ...] | None
    """Keys of untouched photos of the same people; None: there are none."""
    detected: NDArray[np.bool_]
    """N: the face is found afresh."""
    itself: Mapping[Aligned, NDArray[np.float64]]
    partner: Mapping[Aligned, NDArray[np.float64]] | None
    strangers: Mapping[Aligned, NDArray[np.float64]] | None
    """Distances to untouched photos of other people."""

    @property
    def white_box(self) -> bool:
        """Whether the method knew the recogniser."""
        return self.views.white_box(self.judge.recognizer)


def compare(
    views: Views,
    originals: Originals,
    judge: Judge,
    probes: Sequence[str],
    partners: Sequence[str] | None,
    people: Sequence[str],
) -> Comparison:
    """Compare releases with what is untouched.

    Args:
        views: the releases.
        originals: the untouched photos.
        judge: who compares.
        probes: N keys of photos that are released, with a face each.
        partners: N keys of other photos of the same people; None: nobody knows who is who.
        people: N names.
    """
    recognizer = judge.recognizer
    own = originals.embeddings(recognizer, probes)
    other = None if partners is None else originals.embeddings(recognizer, partners)
    first = {person: i for i, person in reversed(list(enumerate(people)))}
    chosen = sorted(first.values())[:STRANGERS]
    itself, partner, strangers = {}, {}, {}
    for aligned in ALIGNED:
        found, valid = views.embeddings(recognizer, probes, aligned)
        missed = ~valid.numpy()
        itself[aligned] = _filled(recognizer.distance(own, found).double().numpy(), missed)
        if other is not None:
            partner[aligned] = _filled(recognizer.distance(other, found).double().numpy(), missed)
            table = pairwise(found[valid].numpy(), other[chosen].numpy(), recognizer.spec.metric)
            names = np.array(people)
            different = names[valid.numpy(), None] != names[None, chosen]
            strangers[aligned] = table[different]
    return Comparison(
        views=views,
        judge=judge,
        probes=tuple(probes),
        partners=None if partners is None else tuple(partners),
        detected=views.look(probes),
        itself=itself,
        partner=partner or None,
        strangers=strangers or None,
    )


def _filled(found: NDArray[np.float64], missed: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(missed, np.inf, found)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How N releases fared with one recogniser, threshold and alignment."""

    method: str
    recognizer: str
    white_box: bool
    against: str
    """`partner` (another photo of the person) or `itself` (the photo that was released)."""
    point: str
    """Operating point: `best` or `library`."""
    threshold: float
    aligned: Aligned
    rejected: Estimate
    """Share not matched: the attack success rate (ASR) against a partner, SPR against itself."""
    outcomes: Outcomes
    strangers: float | None
    """Share of comparisons with other people that are accepted: false acceptance."""
    distance: float | None
    """Mean of those releases in which a face was found."""
    sd: float | None


def score(comparison: Comparison, against: str, bootstrap: Bootstrap) -> list[Score]:
    """A row per operating point and alignment.

    Args:
        comparison: of N releases.
        against: `partner` or `itself`.
        bootstrap: over the people in them.
    """
    rows = []
    found = comparison.partner if against == "partner" else comparison.itself
    counted = np.ones(len(comparison.probes), np.bool_)
    if against == "itself":  # a photo that is in several pairs counts once
        counted = np.isin(np.arange(len(counted)), np.unique(comparison.probes, True)[1])
    for point, threshold in comparison.judge.thresholds.items():
        for aligned in ALIGNED if found is not None else ():
            assert found is not None
            matched = found[aligned] < threshold
            values = found[aligned][counted]
            finite = values[np.isfinite(values)]
            others = comparison.strangers[aligned] if comparison.strangers else np.zeros(0)
            rows.append(
                Score(
                    method=comparison.views.label,
                    recognizer=comparison.judge.name,
                    white_box=comparison.white_box,
                    against=against,
                    point=point,
                    threshold=threshold,
                    aligned=aligned,
                    rejected=bootstrap.mean(~matched, counted),
                    outcomes=three_way(comparison.detected[counted], matched[counted]),
                    strangers=float((others < threshold).mean()) if others.size else None,
                    distance=float(finite.mean()) if len(finite) else None,
                    sd=float(finite.std()) if len(finite) else None,
                )
            )
    return rows


def headline(scores: Sequence[Score], points: Mapping[str, str]) -> Score | None:
    """The worst held-out recogniser under the alignment that serves it best: the lowest share.

    Args:
        scores: of one method.
        points: recogniser -> the operating point that counts.

    Returns:
        That row; None: all recognisers were known to the method, so nothing is shown.
    """
    held_out = [row for row in scores if row.point == points[row.recognizer] and not row.white_box]
    return min(held_out, key=lambda row: row.rejected.value, default=None)


# 1:N ----------------------------------------------------------------------------------------


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
        with_face = [key for key in keys if originals.face(key) is not None]
        if len(with_face) >= SETS:
            chosen.append(tuple(with_face[:SETS]))
    return tuple(chosen)


def cmc_of_probes(distances: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """P×P: probability that probe i has its person among the first r (column r - 1).

    The mean over probes is the cumulative match curve (`metrics.cmc`); people at exactly the same
    distance are ordered by lot, and a probe without a face is never found.

    Args:
        distances: P×P, of probes to the gallery; person i of both is the same one.
        valid: P truths.
    """
    own = distances.diagonal()[:, None]
    before, tied = (distances < own).sum(1)[:, None], (distances == own).sum(1)[:, None]
    ranks = np.arange(1, len(distances) + 1)
    found = np.clip((ranks - before) / np.maximum(tied, 1), 0, 1)
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
                rank1=bootstrap.mean(each[:, 0]),
                rank5=bootstrap.mean(each[:, 4]) if len(photos) >= 5 else None,
                detected=detected,
            )
        )
    return rows


def usable(pairs: Sequence[Pair], originals: Originals) -> tuple[Pair, ...]:
    """Those in whose two photos there is a face."""
    return tuple(
        pair
        for pair in pairs
        if originals.face(pair.first) is not None and originals.face(pair.second) is not None
    )
