"""Results as plots and as a grid of faces."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facedeid.evaluation import plots
from facedeid.evaluation.fingerprints import slug
from facedeid.evaluation.grids import picture_grid, write_grid
from facedeid.evaluation.metrics import face_region
from facedeid.evaluation.results import MethodResult, Results
from facedeid.evaluation.tables import Cell, Estimate

__all__ = ["write_grid_of", "write_plots"]

Figure = tuple[str, Path]
"""Caption and file."""
AROUND = 2.2
"""How much of a photo the grid shows, in sides of the face's box."""


def write_plots(folder: Path, results: Results) -> list[Figure]:
    """CMC curves, privacy against utility, outcomes and sweeps.

    Raises:
        OptionError: matplotlib is missing.
        OutputError: a file cannot be written.
    """
    return [*_cmc(folder, results), *_utility(folder, results), *_sweeps(folder, results)]


def _cmc(folder: Path, results: Results) -> Iterator[Figure]:
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
            yield caption, plots.save(figure, folder, f"cmc-{slug(judge.name)}")


def _utility(folder: Path, results: Results) -> Iterator[Figure]:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for result in results.methods:
        worst, ssim = result.headline(results.points), result.quality.cells["SSIM"]
        method = result.views.method
        if worst is not None and isinstance(ssim, Estimate) and method is not None:
            rejected = worst.rejected
            point = (1 - ssim.value, rejected.value, rejected.low, rejected.high)
            points.setdefault(method.name, []).append(point)
    if points:
        share = _share(results)
        figure = plots.privacy_utility(
            {name: sorted(found) for name, found in points.items()},
            change="1 - SSIM of the face",
            success=f"{share}, worst held-out recogniser",
        )
        caption = f"{share} of the headline against distortion; a point per setting"
        yield caption, plots.save(figure, folder, "privacy-utility")


def _share(results: Results) -> str:
    return "ASR" if results.subjects.pairs else "SPR"


def _sweeps(folder: Path, results: Results) -> Iterator[Figure]:
    by_method = {result.views.method: result for result in results.methods}
    for sweep in results.sweeps:
        found = [by_method[method] for method in sweep.methods]
        x = sweep.values
        log = min(x) > 0 and max(x) >= 20 * min(x)
        name = f"sweep-{sweep.method}-{slug(sweep.option)}"
        title = f"{sweep.method} by {sweep.option}"
        series = {
            judge.name: [_lower(result, judge.name, results) for result in found]
            for judge in results.judges
        }
        known = [judge.name for judge in results.judges if _knows(found, judge.name)]
        quantity = f"{_share(results)}, lower of two alignments"
        figure = plots.sweep(
            sweep.option, x, series, quantity=quantity, log=log, white_box=known, title=title
        )
        yield f"{title}: {quantity}", plots.save(figure, folder, name)
        costs: dict[str, list[Cell]] = {
            "SSIM": [result.quality.cells["SSIM"] for result in found],
            "faces detected": [result.quality.detected for result in found],
        }
        figure = plots.sweep(sweep.option, x, costs, quantity="share", log=log, title=title)
        yield f"{title}: SSIM and faces found", plots.save(figure, folder, f"{name}-quality")


def _lower(result: MethodResult, recognizer: str, results: Results) -> Cell:
    rows = [
        row.rejected
        for row in result.partner or result.itself
        if row.recognizer == recognizer and row.point == results.points[recognizer]
    ]
    return min(rows, key=lambda row: row.value)


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
    chosen = [keys[i * len(keys) // count] for i in range(min(count, len(keys)))]
    rows = []
    for key in dict.fromkeys(chosen):
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
