"""Rows of the table of attacks: one figure each, beside what needs no attacker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.attackers.bench import Bench, Trial
from facedeid.evaluation.attackers.scoring import MEASURES, Scores, figures, interval
from facedeid.evaluation.releases import Aligned
from facedeid.models import Recognizer, recognizer_name

__all__ = ["Attack", "AttackResult", "figure", "refused", "rows"]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One figure of one attacker; JSON-ready through `record`."""

    attacker: str
    variant: str
    """What of the attacker, where it has several ways; or empty."""
    method: str
    recognizer: str | None
    """Who judged; None: nobody had to."""
    aligned: Aligned
    white_box: bool
    """The method was trained or optimised against this recogniser."""
    measure: str
    n: int
    """Genuine pairs behind the figure."""
    value: float | None
    low: float | None
    """95 % interval of `value`, from a bootstrap over people; None: there is none."""
    high: float | None
    ordinary: float | None
    """The same of the attacker who compares the released photo and does not adapt."""
    untouched: float | None
    """The same with nothing de-identified."""
    reason: str | None = None
    """Why there is no value."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: n of training photos, steps, seconds, what was chosen."""

    def record(self) -> dict[str, Any]:
        """As a dict of JSON values."""
        return asdict(self)


Attack = Callable[[Bench], tuple[AttackResult, ...]]
"""An attacker."""
Values = NDArray[np.float64] | str
"""One value per pair, or why there is none."""


def rows(
    bench: Bench,
    attacker: str,
    recognizer: Recognizer,
    trials: tuple[Trial, Trial],
    attacked: tuple[Scores, Scores],
    *,
    variant: str = "",
    facts: Mapping[str, Any] | None = None,
) -> tuple[AttackResult, ...]:
    """A row per measure.

    Args:
        bench: where the attack was made.
        attacker: its name.
        recognizer: who judged, and judges the ordinary attacker and the untouched photos too.
        trials: the pairs that are tested, and those for the thresholds.
        attacked: the attacker's scores on the two.
        variant: what of the attacker.
        facts: how it came about.
    """
    tested, fitting = trials
    own, best = attacked[1].threshold(), _customary(bench, recognizer, fitting)
    found = figures(attacked[0], own)
    ordinary, untouched = (
        figures(bench.ordinary(recognizer, tested, touched=touched), best)
        for touched in (True, False)
    )
    return tuple(
        figure(
            bench,
            attacker,
            recognizer.name,
            measure,
            (found[measure], ordinary[measure], untouched[measure]),
            tested.people,
            variant=variant,
            facts={"threshold": own, "ordinary_threshold": best, **(facts or {})},
        )
        for measure in MEASURES
    )


def _customary(bench: Bench, recognizer: Recognizer, fitting: Trial) -> float | None:
    """The recogniser's best-accuracy threshold, or where none is known, that of these people."""
    try:
        return recognizer.threshold("best")
    except OptionError:
        return bench.ordinary(recognizer, fitting, touched=False).threshold()


def figure(
    bench: Bench,
    attacker: str,
    recognizer: str | None,
    measure: str,
    values: tuple[Values, Values, Values],
    people: Sequence[str],
    *,
    variant: str = "",
    facts: Mapping[str, Any] | None = None,
) -> AttackResult:
    """One row.

    Args:
        bench: where the attack was made.
        attacker: its name.
        recognizer: who judged, if anyone.
        measure: what the values are.
        values: of the attacker, of the ordinary one and of untouched photos: one per pair, or why
            there is none.
        people: who each is of.
        variant: what of the attacker.
        facts: how it came about.
    """
    value, ordinary, untouched = values
    none = (None, None)
    low, high = none if isinstance(value, str) else interval(value, people, seed=bench.seed)
    return AttackResult(
        attacker=attacker,
        variant=variant,
        method=bench.method,
        recognizer=recognizer,
        aligned=bench.aligned,
        white_box=recognizer is not None and bench.white_box(recognizer),
        measure=measure,
        n=len(people),
        value=_mean(value),
        low=low,
        high=high,
        ordinary=_mean(ordinary),
        untouched=_mean(untouched),
        reason=value if isinstance(value, str) else None,
        facts={"people": len(set(people)), **(facts or {})},
    )


def _mean(values: Values) -> float | None:
    return None if isinstance(values, str) else float(values.mean())


def refused(
    bench: Bench, attacker: str, recognizer: str, reason: str, *, variant: str = ""
) -> tuple[AttackResult, ...]:
    """The one row of an attack that cannot be made: no value, but why."""
    none = (reason, reason, reason)
    name = recognizer_name(recognizer)
    return (figure(bench, attacker, name, MEASURES[0], none, (), variant=variant),)
