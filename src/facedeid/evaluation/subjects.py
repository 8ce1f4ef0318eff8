"""Which photos of a data set an evaluation is about: pairs, probes, and people for 1:N."""

from collections.abc import Sequence
from dataclasses import dataclass

from facedeid.errors import OptionError
from facedeid.evaluation.datasets import Pair
from facedeid.evaluation.embedding import Reporter
from facedeid.evaluation.identification import SETS, ranked_people
from facedeid.evaluation.originals import Originals

__all__ = ["LEAST_FITTING", "Subjects", "subjects"]

LEAST_FITTING = 300
"""Untouched pairs of each kind for thresholds, where a limit would leave fewer."""


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The photos of an evaluation; in all of them there is a face."""

    pairs: tuple[Pair, ...]
    """Genuine pairs; empty where nobody knows who is who."""
    probes: tuple[str, ...]
    """Photos that are released: the second ones of the pairs, in their order."""
    people: tuple[str, ...]
    """Who is in each probe (or its key)."""
    fitting: tuple[Pair, ...]
    """Untouched pairs for thresholds."""
    folds: int
    ranked: tuple[tuple[str, ...], ...]
    """Per person the photos for 1:N."""
    dropped: int = 0
    """Genuine pairs or photos left out, for want of a face or because they cannot be read."""

    @property
    def unique(self) -> tuple[str, ...]:
        """Each probe once."""
        return tuple(dict.fromkeys(self.probes))


def subjects(
    originals: Originals,
    *,
    limit: int | None,
    threshold_pairs: int | None,
    ranked: int,
    report: Reporter,
) -> Subjects:
    """Choose, and find the faces.

    Args:
        originals: of the data set.
        limit: first genuine pairs, or photos where nobody is known; None: all.
        threshold_pairs: untouched pairs of each kind; None: as many as `limit`, 300 at least.
        ranked: people for 1:N at most.
        report: told about progress.

    Raises:
        OptionError: there is no face in any of the photos.
    """
    if originals.dataset.identities is None:
        found = _unknown(originals, limit, report)
    else:
        found = _known(originals, limit, threshold_pairs, ranked, report)
    if not found.probes:
        reasons = next(iter(originals.unreadable.values()), "no face was found in any photo")
        raise OptionError(f"there is nothing to evaluate: {reasons}")
    return found


def _unknown(originals: Originals, limit: int | None, report: Reporter) -> Subjects:
    wanted = originals.dataset.keys[:limit]
    originals.prepare(wanted, report("finding faces"))
    probes = tuple(key for key in wanted if originals.face(key) is not None)
    return Subjects(
        pairs=(),
        probes=probes,
        people=probes,
        fitting=(),
        folds=0,
        ranked=(),
        dropped=len(wanted) - len(probes),
    )


def _known(
    originals: Originals,
    limit: int | None,
    threshold_pairs: int | None,
    people: int,
    report: Reporter,
) -> Subjects:
    dataset = originals.dataset
    chosen = dataset.genuine(limit)
    most = threshold_pairs
    if most is None and limit is not None:
        most = max(limit, LEAST_FITTING)
    allowed = {*dataset.genuine(most), *dataset.impostor(most)}
    fitting: list[Pair] = [pair for pair in dataset.pairs if pair in allowed]
    keys = [key for pair in (*chosen, *fitting) for key in (pair.first, pair.second)]
    likely = list(dataset.people(SETS).values())[:people]
    keys += [key for photos in likely for key in photos[:SETS]]
    originals.prepare(keys, report("finding faces"))
    pairs, kept = _usable(chosen, originals), _usable(fitting, originals)
    who = dataset.identities or {}
    return Subjects(
        pairs=pairs,
        probes=tuple(pair.second for pair in pairs),
        people=tuple(who[pair.second] for pair in pairs),
        fitting=kept,
        folds=dataset.folds if len(kept) == len(dataset.pairs) else 0,
        ranked=ranked_people(dataset, originals, people) if people else (),
        dropped=len(chosen) - len(pairs),
    )


def _usable(pairs: Sequence[Pair], originals: Originals) -> tuple[Pair, ...]:
    """Those in whose two photos there is a face."""
    return tuple(
        pair
        for pair in pairs
        if originals.face(pair.first) is not None and originals.face(pair.second) is not None
    )
