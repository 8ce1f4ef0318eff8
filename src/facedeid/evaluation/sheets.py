"""Results as tables: what is in them, in which order, and what the notes say."""

from collections.abc import Iterator

from facedeid.evaluation import appendix
from facedeid.evaluation.appendix import ALIGNMENTS, INTERVALS, data_of
from facedeid.evaluation.protocols import Score
from facedeid.evaluation.quality import COLUMNS
from facedeid.evaluation.results import MethodResult, Results
from facedeid.evaluation.tables import WHITE_BOX, Cell, Estimate, Table

__all__ = ["NAMES", "headline_table", "tables"]

NAMES = (
    "headline",
    "verification",
    "self-match",
    "identification",
    "quality",
    "robustness",
    "attackers",
    "realism",
    "sweeps",
    "recognisers",
    "cost",
)
"""Of all tables that there can be."""


def tables(results: Results) -> list[Table]:
    """All tables but the headline; those of which nothing was measured are left out."""
    found = [
        *_scores(results),
        _identification(results),
        _quality(results),
        appendix.robustness_table(results),
        appendix.attackers_table(results),
        appendix.realism_table(results),
        appendix.sweeps_table(results),
        appendix.recognizers_table(results),
        appendix.cost_table(results),
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
        f"{INTERVALS} {data_of(results)}",
        (*columns, "not detected", "Rank-1", "SSIM", "detected"),
        tuple(rows),
    )


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
        f"a face was found. {ALIGNMENTS} {INTERVALS} {data_of(results)}",
        (*columns, "ASR", "TAR", *tail),
        tuple(_score(row, True) for row in partner),
    )
    itself = [row for result in results.all for row in result.itself]
    yield Table(
        "self-match",
        "Self-match: a released photo against its own original",
        "SPR: share of released faces that are not matched with the very photo they were made of, "
        f"at the library's own threshold and at the best one. {ALIGNMENTS} {INTERVALS} "
        f"{data_of(results)}",
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
        f"detector found before. {INTERVALS} {data_of(results)}",
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
