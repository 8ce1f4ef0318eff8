"""Tables of what is measured on request, of the recognisers themselves, and of the cost."""

from facedeid.evaluation.choices import Sweep
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.realism import REFERENCES, Realism
from facedeid.evaluation.releases import text_of
from facedeid.evaluation.results import Results
from facedeid.evaluation.tables import WHITE_BOX, Cell, Estimate, Table
from facedeid.methods import Method
from facedeid.models import recognizer_name

__all__ = [
    "ALIGNMENTS",
    "INTERVALS",
    "attackers_table",
    "cost_table",
    "data_of",
    "realism_table",
    "recognizers_table",
    "robustness_table",
    "sweeps_table",
]

ALIGNMENTS = (
    "fresh: the face was found again in the release (one that was not is matched by nobody); "
    "original: aligned by the original's landmarks."
)
INTERVALS = "Intervals: 95 %, bootstrap over people, 2,000 draws."


def data_of(results: Results) -> str:
    """What the figures were measured on, in a sentence."""
    subjects = results.subjects
    if subjects.pairs:
        text = f"{results.dataset.name}, {len(subjects.pairs):,} genuine pairs"
    else:
        text = f"{results.dataset.name}, {len(subjects.probes):,} photos"
    left = f", {subjects.dropped:,} left out for want of a face" if subjects.dropped else ""
    return f"Data: {text}{left}."


def robustness_table(results: Results) -> Table:
    """Releases after image operations."""
    return Table(
        "robustness",
        "After something was done to the release",
        "Share of faces not matched (with the partner, or the original where nobody is known) at "
        "the threshold of the headline, after an operation and before it on the same photos. "
        f"{ALIGNMENTS} {INTERVALS}",
        (
            "method",
            "operation",
            "recogniser",
            WHITE_BOX,
            "aligned",
            "rejected",
            "without it",
            "detected",
        ),
        tuple(
            (
                row.method,
                row.operation,
                row.recognizer,
                row.white_box,
                row.aligned,
                row.rejected,
                row.before,
                row.detected,
            )
            for row in results.robustness
        ),
    )


def attackers_table(results: Results) -> Table:
    """Attackers that adapt."""
    names = {repr(result.views.method): result.views.label for result in results.methods}
    rows = []
    for row in results.attacks:
        value: Cell = row.reason if row.value is None else row.value
        if row.value is not None and row.low is not None and row.high is not None:
            value = Estimate(
                row.value, min(row.low, row.value), max(row.high, row.value), max(row.n, 1)
            )
        rows.append(
            (
                names.get(row.method, row.method),
                row.attacker,
                row.variant,
                recognizer_name(row.recognizer or ""),
                row.white_box,
                row.aligned,
                row.measure,
                value,
                row.ordinary,
                row.untouched,
            )
        )
    return Table(
        "attackers",
        "Attackers that adapt",
        "More is a stronger attack. Ordinary: the recogniser as it is; untouched: with nothing "
        "de-identified. Whom an attacker learns from and who is tested are different people. "
        f"{INTERVALS}",
        (
            "method",
            "attacker",
            "variant",
            "recogniser",
            WHITE_BOX,
            "aligned",
            "measure",
            "attacker's",
            "ordinary",
            "untouched",
        ),
        tuple(rows),
    )


def realism_table(results: Results) -> Table:
    """Distances to photos of other people."""
    rows: list[tuple[Cell, ...]] = []
    for features, found in results.realism.items():
        for name, row in found.items():
            label = f"reference: {name}" if name in REFERENCES else name
            if isinstance(row, Realism):
                kid = f"{row.kid.mean:.4g} ± {row.kid.sd:.2g}"
                known = row.white_box
                rows.append((features, label, known, row.frechet, kid, row.n, row.reference_n))
            else:
                rows.append((features, label, None, row, None, None, None))
    return Table(
        "realism",
        "How real faces look",
        "Fréchet and kernel distance of face crops to untouched photos of other people. Values "
        "mean something only beside the reference rows of the same features and n; only with "
        "Inception's 2048 pooled features would the Fréchet distance be the FID. ± is the standard "
        "deviation over subsets.",
        ("features", "method", WHITE_BOX, "Fréchet distance", "KID", "n", "reference n"),
        tuple(rows),
    )


def sweeps_table(results: Results) -> Table:
    """The headline by the value of an option."""
    by_method = {result.views.method: result for result in results.methods}
    rows: list[tuple[Cell, ...]] = []
    for sweep in results.sweeps:
        for value, method in zip(sweep.values, sweep.methods, strict=True):
            result = by_method[method]
            worst = result.headline(results.points)
            rows.append(
                (
                    sweep.method,
                    sweep.option,
                    value,
                    _beside(sweep, method),
                    None if worst is None else worst.recognizer,
                    None if worst is None else worst.aligned,
                    "none held out" if worst is None else worst.rejected,
                    result.quality.cells["SSIM"],
                    result.quality.cells["facedeid-lpips"],
                    result.quality.detected,
                )
            )
    return Table(
        "sweeps",
        "Sweeps over an option",
        "The headline of each value. With: options that change together with that one, and those "
        f"that stay. {INTERVALS} {data_of(results)}",
        (
            "method",
            "option",
            "value",
            "with",
            "worst held-out recogniser",
            "aligned",
            "rejected",
            "SSIM",
            "facedeid-lpips",
            "detected",
        ),
        tuple(rows),
    )


def _beside(sweep: Sweep, method: Method) -> str | None:
    """Options of a method of a sweep other than the one it is told by."""
    moved = [f"{name}={getattr(method, name):g}" for name in sweep.along]
    fixed = text_of(method, sweep.changing).partition(":")[2]
    return ",".join([*moved, *([fixed] if fixed else [])]) or None


def recognizers_table(results: Results) -> Table:
    """Thresholds and accuracy of the recognisers."""
    rows: list[tuple[Cell, ...]] = []
    for judge in results.judges:
        folds = judge.folds
        crossed = None
        if folds is not None:
            crossed = f"{100 * folds.mean:.2f} ± {100 * folds.standard_error:.2f}"
        rows.append(
            (
                judge.name,
                judge.recognizer.spec.metric,
                judge.thresholds.get("best", "not measured"),
                judge.thresholds.get("library", "none known"),
                None if judge.accuracy is None else 100 * judge.accuracy,
                crossed,
                _tar(judge),
                judge.genuine,
                judge.impostor,
            )
        )
    return Table(
        "recognisers",
        "The recognisers on the untouched pairs",
        "Distances (Euclidean, or 1 - cosine) below which two faces count as one person: the most "
        "accurate one on these untouched pairs, and the library's own. ± is the standard error "
        "over ten folds (only where all pairs of the data set were used).",
        (
            "recogniser",
            "metric",
            "best",
            "library",
            "accuracy, %",
            "10-fold accuracy, %",
            "TAR at FAR 1e-3",
            "genuine",
            "impostor",
        ),
        tuple(rows),
    )


def _tar(judge: Judge) -> Cell:
    """TAR, or why there is none; empty where nothing was measured."""
    few = judge.tar is None and judge.impostor > 0
    return f"{judge.impostor:,} impostor pairs are too few" if few else judge.tar


def cost_table(results: Results) -> Table:
    """Seconds by stage."""
    costs = [*results.costs, *(cost for result in results.all for cost in result.costs)]
    return Table(
        "cost",
        "Seconds per 1,000 photos",
        "As measured when each was worked out, on the machine and under the load of that time; "
        "with reading, aligning and pasting back.",
        ("stage", "method", "seconds", "photos timed"),
        tuple((cost.stage, cost.method, cost.seconds, cost.n) for cost in costs),
    )
