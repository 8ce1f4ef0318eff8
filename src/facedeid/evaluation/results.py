"""What an evaluation has found out, before anybody writes it down."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from facedeid.evaluation.attackers import AttackResult
from facedeid.evaluation.choices import Sweep
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.identification import Ranking
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.protocols import Comparison, Score, headline
from facedeid.evaluation.quality import Quality
from facedeid.evaluation.realism import Realism
from facedeid.evaluation.subjects import Subjects
from facedeid.evaluation.tables import Estimate
from facedeid.evaluation.views import Aligned, Views

__all__ = ["Cost", "Hardened", "MethodResult", "Results"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds per 1,000 photos of a stage."""

    stage: str
    method: str
    seconds: float
    n: int
    """Photos that were timed."""


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """A method's releases after one operation, on one recogniser at its headline threshold."""

    method: str
    operation: str
    recognizer: str
    white_box: bool
    aligned: Aligned
    rejected: Estimate
    before: Estimate
    """The same without the operation, on the same photos."""
    detected: float


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """Everything measured of one method, or of the photos as they are."""

    views: Views
    comparisons: tuple[Comparison, ...]
    """One per recogniser."""
    partner: tuple[Score, ...]
    itself: tuple[Score, ...]
    rankings: tuple[Ranking, ...]
    quality: Quality
    costs: tuple[Cost, ...]

    def headline(self, points: Mapping[str, str]) -> Score | None:
        """See `protocols.headline`; against the partner where there is one."""
        return headline(self.partner or self.itself, points)

    def worst_rank(self) -> Ranking | None:
        """The highest Rank-1 of a held-out recogniser under any alignment."""
        held_out = [row for row in self.rankings if not row.white_box]
        return max(held_out, key=lambda row: row.rank1.value, default=None)


@dataclass(frozen=True, kw_only=True)
class Results:
    """A whole evaluation."""

    dataset: Dataset
    originals: Originals
    subjects: Subjects
    judges: tuple[Judge, ...]
    untouched: MethodResult
    methods: tuple[MethodResult, ...]
    sweeps: tuple[Sweep, ...] = ()
    robustness: tuple[Hardened, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    realism: Mapping[str, Mapping[str, Realism | str]] = field(default_factory=dict)
    """Features -> method (or reference) -> distances, or why there are none."""
    costs: tuple[Cost, ...] = ()
    """Of what does not belong to a method."""

    @property
    def points(self) -> dict[str, str]:
        """Recogniser -> the operating point of the headline."""
        return {judge.name: judge.headline for judge in self.judges}

    @property
    def all(self) -> tuple[MethodResult, ...]:
        """The untouched photos first."""
        return (self.untouched, *self.methods)
