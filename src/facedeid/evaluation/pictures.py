"""Results as plots and as a grid of faces."""

import math
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facedeid.evaluation import plots
from facedeid.evaluation.drawing import named
from facedeid.evaluation.fingerprints import slug
from facedeid.evaluation.grids import picture_grid, write_grid
from facedeid.evaluation.judges import Judge
from facedeid.evaluation.metrics import face_region
from facedeid.evaluation.protocols import Comparison, Score
from facedeid.evaluation.releases import text_of
from facedeid.evaluation.results import MethodResult, Results
from facedeid.evaluation.tables import Cell, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

__all__ = ["MADE", "Figure", "write_grid_of", "write_plots"]

Figure = tuple[str, Path]
"""Caption and file."""
MADE = re.compile(r"(grid|outcomes|privacy-utility|(cmc|distances|sweep)-[A-Za-z0-9.=-]+)\.png")
"""Names of all files that are written here."""
TOGETHER = 5
"""Methods in one plot of distances."""
AROUND = 2.2
"""How much of a photo the grid shows, in sides of the face's box."""


def write_plots(folder: Path, results: Results) -> list[Figure]:
    """Outcomes, CMC curves, distances, privacy against utility and sweeps.

    Raises:
        OptionError: matplotlib is missing.
        OutputError: a file cannot be written.
    """
    place = _Folder(folder)
    return [
        *_outcomes(place, results),
        *_cmc(place, results),
        *_distances(place, results),
        *_utility(place, results),
        *_sweeps(place, results),
    ]


class _Folder:
    """Where figures are saved, each under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._taken = folder, set[str]()

    def save(self, figure: "Drawn", name: str) -> Path:
        """Write a PNG; the name gets a number where another figure has it."""
        names = (name if i == 1 else f"{name}-{i}" for i in count(1))
        free = next(each for each in names if each.lower() not in self._taken)
        self._taken.add(free.lower())
        return plots.save(figure, self.folder, free)


def _outcomes(folder: _Folder, results: Results) -> Iterator[Figure]:
    """Per method and recogniser, under the alignment that serves the recogniser better."""
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for result in results.all:
        for judge in results.judges:
            row = _worse(result, judge.name, results)
            known = [row.recognizer] if row.white_box else []
            counts: dict[str, float] = {
                "not-matched": row.outcomes.not_matched,
                "not-detected": row.outcomes.not_detected,
                "matched": row.outcomes.matched,
            }
            bars = shares.setdefault(result.views.label, {})
            bars[f"{named(row.recognizer, known)}, {row.aligned}"] = counts
    against = "the other photo of the person" if results.subjects.pairs else "the very photo"
    caption = f"Outcomes against {against}; of the two alignments the one with more matched"
    yield caption, folder.save(plots.outcomes(shares), "outcomes")


def _distances(folder: _Folder, results: Results) -> Iterator[Figure]:
    """Per recogniser, before and after every method (Xue et al. 2022, figure 5)."""
    for judge in results.judges:
        before = _untouched_distances(results, judge)
        for first in range(0, len(results.methods), TOGETHER):
            groups = dict(before)
            for result in results.methods[first : first + TOGETHER]:
                row, found = _worse(result, judge.name, results), _comparison(result, judge)
                values = found.itself if found.partner is None else found.partner
                groups[f"{result.views.label} ({row.aligned})"] = values[row.aligned]
            if not any(np.isfinite(values).any() for values in groups.values()):
                continue
            pairs = "genuine pairs" if results.subjects.pairs else "releases and their originals"
            title = f"Distances of {pairs}, {judge.name}"
            figure = plots.histograms(
                groups,
                threshold=judge.thresholds[judge.headline],
                recognizer=judge.name,
                title=title,
            )
            caption = f"{title}; of the two alignments the one with more matched"
            yield caption, folder.save(figure, f"distances-{slug(judge.name)}")


def _untouched_distances(results: Results, judge: Judge) -> dict[str, NDArray[np.float64]]:
    """Of the untouched photos to others of the people, and to those of strangers."""
    found = _comparison(results.untouched, judge)
    if found.partner is None or found.strangers is None:
        return {}
    aligned = _worse(results.untouched, judge.name, results).aligned
    return {"untouched": found.partner[aligned], "strangers, untouched": found.strangers[aligned]}


def _comparison(result: MethodResult, judge: Judge) -> Comparison:
    return next(each for each in result.comparisons if each.judge is judge)


def _cmc(folder: _Folder, results: Results) -> Iterator[Figure]:
    """Per recogniser, all methods, each under the alignment that serves the recogniser better."""
    for judge in results.judges:
        curves: dict[str, NDArray[np.float64]] = {}
        known: list[str] = []
        for result in results.all:
            rows = [row for row in result.rankings if row.recognizer == judge.name]
            if rows:
                best = max(rows, key=lambda row: row.rank1.value)
                curves[f"{result.views.label} ({best.aligned})"] = best.curve
                known += [f"{result.views.label} ({best.aligned})"] if best.white_box else []
        if curves:
            title = f"1:N among {len(results.subjects.ranked)} people, {judge.name}"
            figure = plots.cmc(curves, white_box=known, title=title)
            caption = f"{title}; of the two alignments the one with the higher Rank-1"
            yield caption, folder.save(figure, f"cmc-{slug(judge.name)}")


def _utility(folder: _Folder, results: Results) -> Iterator[Figure]:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for result in results.methods:
        worst, ssim = result.headline(results.points), result.quality.cells["SSIM"]
        method = result.views.method
        if worst is not None and isinstance(ssim, Estimate | float) and method is not None:
            rejected = worst.rejected
            likeness = ssim.value if isinstance(ssim, Estimate) else ssim
            point = (1 - likeness, rejected.value, rejected.low, rejected.high)
            points.setdefault(method.name, []).append(point)
    if points:
        share = _share(results)
        figure = plots.privacy_utility(
            {name: sorted(found) for name, found in points.items()},
            change="1 - SSIM of the face",
            success=f"{share}, worst held-out recogniser",
        )
        caption = f"{share} of the headline against distortion; a point per setting"
        yield caption, folder.save(figure, "privacy-utility")


def _share(results: Results) -> str:
    return "ASR" if results.subjects.pairs else "SPR"


def _sweeps(folder: _Folder, results: Results) -> Iterator[Figure]:
    by_method = {result.views.method: result for result in results.methods}
    for sweep in results.sweeps:
        found = [by_method[method] for method in sweep.methods]
        x, numbers = sweep.values, [value for value in sweep.values if math.isfinite(value)]
        log = bool(numbers) and min(numbers) > 0 and max(numbers) >= 20 * min(numbers)
        label = text_of(sweep.methods[0], sweep.changing)
        name = f"sweep-{slug(label)}-{slug(sweep.option)}"
        title = f"{label} by {sweep.option}"
        across = sweep.option
        if sweep.along:
            across += f" (and with it {', '.join(sweep.along)})"
        series = {
            judge.name: [_worse(result, judge.name, results).rejected for result in found]
            for judge in results.judges
        }
        known = [judge.name for judge in results.judges if _knows(found, judge.name)]
        quantity = f"{_share(results)}, lower of two alignments"
        figure = plots.sweep(
            across, x, series, quantity=quantity, log=log, white_box=known, title=title
        )
        yield f"{title}: {quantity}", folder.save(figure, name)
        costs: dict[str, list[Cell]] = {
            "SSIM": [result.quality.cells["SSIM"] for result in found],
            "faces detected": [result.quality.detected for result in found],
        }
        figure = plots.sweep(across, x, costs, quantity="share", log=log, title=title)
        yield f"{title}: SSIM and faces found", folder.save(figure, f"{name}-quality")


def _worse(result: MethodResult, recognizer: str, results: Results) -> Score:
    """At the headline's threshold, under the alignment that serves the recogniser better."""
    rows = [
        row
        for row in result.partner or result.itself
        if row.recognizer == recognizer and row.point == results.points[recognizer]
    ]
    return min(rows, key=lambda row: row.rejected.value)


def _knows(found: list[MethodResult], recognizer: str) -> bool:
    rows = (row for result in found for row in result.itself if row.recognizer == recognizer)
    return any(row.white_box for row in rows)


def write_grid_of(folder: Path, results: Results, count: int) -> Figure:
    """Some originals, what each method made of them, and the difference times ten.

    Args:
        folder: where to.
        results: of the evaluation.
        count: how many photos, spread over those that were released.

    Raises:
        OutputError: it cannot be written.
    """
    keys = results.subjects.unique
    count = min(count, len(keys))
    rows = []
    for key in (keys[i * len(keys) // count] for i in range(count)):
        face = results.originals.face(key)
        assert face is not None  # subjects have one
        shown = {
            result.views.label: _around(result.views.photo(key), face.box)
            for result in results.methods
        }
        rows.append((_around(results.dataset.read(key), face.box), shown))
    path = write_grid(folder / "grid.png", picture_grid(rows))
    return "Originals, releases, and what was changed, ten times amplified", path


def _around(rgb: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    return np.asarray(face_region(rgb, box, grow=AROUND), np.uint8)
