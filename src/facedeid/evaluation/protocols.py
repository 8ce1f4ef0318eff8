"""Verification (1:1): releases against another photo of the person, and against themselves.

All are scored twice, with the face found afresh in the release and with the original's landmarks.
A face that is not found afresh is matched by nobody who looks for it afresh, and is counted as not
detected, never as protected. Everything is arithmetic on embeddings that `Views` keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.metrics import Outcomes, pairwise, three_way
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.tables import Estimate
from facedeid.evaluation.views import Aligned, Views

__all__ = [
    "ALIGNED",
    "Comparison",
    "Score",
    "compare",
    "headline",
    "score",
]

ALIGNED: tuple[Aligned, ...] = get_args(Aligned)
STRANGERS = 300
"""People whose first photo every release is compared with, to see who else is accepted."""


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
                    rejected=bootstrap.share(~matched, counted),
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
