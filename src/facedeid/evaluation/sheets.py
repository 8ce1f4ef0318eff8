"""Results as tables: what is in them, in which order, and what the notes say."""

from collections.abc import Iterator

from facedeid.evaluation.protocols import Score
from facedeid.evaluation.quality import COLUMNS
from facedeid.evaluation.realism import REFERENCES, Realism
from facedeid.evaluation.results import MethodResult, Results
from facedeid.evaluation.tables import WHITE_BOX, Cell, Estimate, Table
from facedeid.models import recognizer_name

__all__ = ["headline_table", "tables"]

ALIGNMENTS = (
    "fresh: the face was found again in the release (one that was not is matched by nobody); "
    "original: aligned by the original's landmarks."
)
INTERVALS = "Intervals: 95 %, bootstrap over people, 2,000 draws."


def tables(results: Results) -> list[Table]:
    """All tables but the headline; those of which nothing was measured are left out."""
    found = [
        *_scores(results),
        _identification(results),
        _quality(results),
        _robustness(results),
        _attackers(results),
        _realism(results),
        _sweeps(results),
        _recognizers(results),
        _cost(results),
    ]
    return [table for table in found if table is not None and table.rows]


def _name(result: MethodResult) -> str:
    return result.views.label


def _one_minus(estimate: Estimate) -> Estimate:
    return Estimate(1 - estimate.value, 1 - estimate.high, 1 - estimate.low, estimate.n)


def headline_table(results: Results) -> Table:
    """A row per method: the worst held-out recogniser, the lower of the two alignments."""
    pairs = bool(results.subjects.pairs)
    share = "ASR" if pairs else "SPR"
    against = "another photo of the person" if pairs else "the photo that was de-identified"
    rows: list[tuple[Cell, ...]] = []
    for result in results.all:
        worst, ranking = result.headline(results.points), result.worst_rank()
        ssim, found = result.quality.cells["SSIM"], result.quality.detected
        row: tuple[Cell, ...]
        if worst is None:
            row = ("none held out", None, None, None, None)
        else:
            share_lost = worst.outcomes.not_detected / worst.outcomes.n
            row = (worst.recognizer, worst.aligned, worst.threshold, worst.rejected, share_lost)
        rank1 = None if ranking is None else ranking.rank1
        rows.append((_name(result), *row, rank1, ssim, found))
    columns = ("method", "worst held-out recogniser", "aligned", "threshold", share)
    return Table(
        "headline",
        f"How many are no longer recognised ({share})",
        f"{share}: share of faces that the worst held-out recogniser no longer matches with "
        f"{against}, under the alignment that serves it better. A face that is not detected and "
        "not matched is in it, and shown beside it as a share of all. Rank-1: the highest of a "
        "held-out recogniser. Detected: of the faces that the detector found before. "
        f"{INTERVALS} {_data(results)}",
        (*columns, "not detected", "Rank-1", "SSIM", "detected"),
        tuple(rows),
    )


def _data(results: Results) -> str:
    subjects = results.subjects
    if subjects.pairs:
        text = f"{results.dataset.name}, {len(subjects.pairs):,} genuine pairs"
    else:
        text = f"{results.dataset.name}, {len(subjects.probes):,} photos"
    left = f", {subjects.dropped:,} left out for want of a face" if subjects.dropped else ""
    return f"Data: {text}{left}."


def _scores(results: Results) -> Iterator[Table]:
    columns = (
        "method",
        "recogniser",
        WHITE_BOX,
        "aligned",
        "threshold",
        "distance below",
    )
    tail = ("not detected", "not matched", "matched", "strangers accepted", "distance")
    partner = [row for result in results.all for row in result.partner]
    yield Table(
        "verification",
        "1:1: the second photo of a genuine pair de-identified",
        "ASR: share of genuine pairs that are rejected; TAR: accepted, 1 - ASR. Outcomes are "
        "shares of all pairs. Strangers accepted: share of comparisons of the released photos with "
        "untouched photos of up to 300 other people that are accepted. Distance: mean ± sd where "
        f"a face was found. {ALIGNMENTS} {INTERVALS} {_data(results)}",
        (*columns, "ASR", "TAR", *tail),
        tuple(_score(row, True) for row in partner),
    )
    itself = [row for result in results.all for row in result.itself]
    yield Table(
        "self-match",
        "Self-match: a released photo against its own original",
        "SPR: share of released faces that are not matched with the very photo they were made of, "
        f"at the library's own threshold and at the best one. {ALIGNMENTS} {INTERVALS} "
        f"{_data(results)}",
        (*columns, "SPR", *tail),
        tuple(_score(row, False) for row in itself),
    )


def _score(row: Score, both: bool) -> tuple[Cell, ...]:
    outcomes, n = row.outcomes, row.outcomes.n
    distance = "no face found" if row.distance is None else f"{row.distance:.3f} ± {row.sd:.3f}"
    return (
        row.method,
        row.recognizer,
        row.white_box,
        row.aligned,
        row.point,
        row.threshold,
        row.rejected,
        *((_one_minus(row.rejected),) if both else ()),
        outcomes.not_detected / n,
        outcomes.not_matched / n,
        outcomes.matched / n,
        row.strangers,
        distance,
    )


def _identification(results: Results) -> Table:
    people = len(results.subjects.ranked)
    return Table(
        "identification",
        f"1:N: released probes among {people:,} people",
        "Three photos each of the first people who have as many: six combinations of untouched "
        "gallery and released probes, averaged. Rank-1, Rank-5: share of probes whose person comes "
        f"first, or among five. Probes without a face are never found. {ALIGNMENTS} {INTERVALS}",
        ("method", "recogniser", WHITE_BOX, "aligned", "Rank-1", "Rank-5", "detected", "people"),
        tuple(
            (
                row.method,
                row.recognizer,
                row.white_box,
                row.aligned,
                row.rank1,
                row.rank5,
                row.detected,
                row.people,
            )
            for result in results.all
            for row in result.rankings
        ),
    )


def _quality(results: Results) -> Table:
    names = [name for name in COLUMNS if name in results.untouched.quality.cells]
    heads = [f"{name} moved, px" if name.islower() and "-" not in name else name for name in names]
    return Table(
        "quality",
        "What it costs the photo",
        "SSIM, PSNR (dB) and MSE (levels in 0..1; ×4 for -1..1) of the detector's box grown by "
        "1.2; facedeid-lpips (our own, not LPIPS) and LPIPS of the canonical frame at 256 px; "
        "landmarks in px of that frame, of faces found again; detected: of the faces that the "
        f"detector found before. {INTERVALS} {_data(results)}",
        ("method", *heads, "detected", "n"),
        tuple(
            (
                _name(result),
                *(result.quality.cells[name] for name in names),
                result.quality.detected,
                result.quality.n,
            )
            for result in results.all
        ),
    )


def _robustness(results: Results) -> Table:
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


def _attackers(results: Results) -> Table:
    names = {repr(result.views.method): _name(result) for result in results.methods}
    rows = []
    for row in results.attacks:
        value: Cell = row.reason
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


def _realism(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for features, found in results.realism.items():
        for name, row in found.items():
            label = f"reference: {name}" if name in REFERENCES else name
            if isinstance(row, Realism):
                kid = f"{row.kid.mean:.4g} ± {row.kid.sd:.2g}"
                rows.append((features, label, row.frechet, kid, row.n, row.reference_n))
            else:
                rows.append((features, label, row, None, None, None))
    return Table(
        "realism",
        "How real faces look",
        "Fréchet and kernel distance of face crops to untouched photos of other people. Values "
        "mean something only beside the reference rows of the same features and n; only with "
        "Inception's 2048 pooled features would the Fréchet distance be the FID. ± is the standard "
        "deviation over subsets.",
        ("features", "method", "Fréchet distance", "KID", "n", "reference n"),
        tuple(rows),
    )


def _sweeps(results: Results) -> Table:
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
        f"The headline of each value. {INTERVALS} {_data(results)}",
        (
            "method",
            "option",
            "value",
            "worst held-out recogniser",
            "aligned",
            "rejected",
            "SSIM",
            "facedeid-lpips",
            "detected",
        ),
        tuple(rows),
    )


def _recognizers(results: Results) -> Table:
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
                judge.tar,
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


def _cost(results: Results) -> Table:
    costs = [*results.costs, *(cost for result in results.all for cost in result.costs)]
    return Table(
        "cost",
        "Seconds per 1,000 photos",
        "As measured when each was worked out, on the machine and under the load of that time; "
        "with reading, aligning and pasting back.",
        ("stage", "method", "seconds", "photos timed"),
        tuple((cost.stage, cost.method, cost.seconds, cost.n) for cost in costs),
    )
