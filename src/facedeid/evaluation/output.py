"""The folder of an evaluation: what is written there, and nothing else is touched."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation.page import PAGE, write_page
from facedeid.evaluation.pictures import MADE, Figure, write_grid_of, write_plots
from facedeid.evaluation.records import RECORDS, write_records
from facedeid.evaluation.results import Results
from facedeid.evaluation.sheets import NAMES, headline_table, tables
from facedeid.evaluation.sources import CACHE, MARKER, PLOTS
from facedeid.evaluation.tables import write_tables
from facedeid.report import write_whole

__all__ = ["CACHE", "MARKER", "PLOTS", "claim", "write_results"]

TABLES, SUMMARY = "tables", "results.md"
OURS = (PAGE, RECORDS, CACHE, TABLES, PLOTS, SUMMARY)
SHEETS = re.compile(rf"({'|'.join(NAMES)})\.(md|csv|json)")


def claim(folder: Path) -> None:
    """Make the folder ours: a marker says that files of these names may be replaced.

    Raises:
        OutputError: it holds files of such names that an evaluation has not written, or it cannot
            be made.
    """
    marker = folder / MARKER
    try:
        if not marker.exists():
            foreign = [name for name in OURS if (folder / name).exists()]
            if foreign:
                raise OutputError(
                    f"{folder} holds {', '.join(foreign)}, not from an evaluation; choose another "
                    "folder with -o"
                )
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(marker, ["{}\n"])
        elif not isinstance(json.loads(marker.read_text("utf-8")), dict):
            raise ValueError
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    except ValueError:
        raise OutputError(
            f"{marker} was not written by an evaluation; choose another folder with -o"
        ) from None


def write_results(
    folder: Path,
    results: Results,
    facts: Mapping[str, str],
    *,
    seed: int = 0,
    grid: int = 4,
    warn: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write tables, plots, grid, records and the page into a folder that was claimed.

    Tables, plots and the grid of an earlier evaluation that this one does not have are removed.

    Args:
        folder: where to.
        results: of the evaluation.
        facts: how it was measured, for the page and the marker.
        seed: of the evaluation, for the records.
        grid: photos in the grid, which shows original faces; 0: no grid.
        warn: told what could not be made.

    Returns:
        The page.

    Raises:
        OutputError: something cannot be written.
    """
    headline, others = headline_table(results), tables(results)
    written = write_tables(folder / TABLES, [headline, *others])
    _remove_others(folder / TABLES, SHEETS, written)
    text = "\n".join(table.markdown() for table in (headline, *others))
    write_whole(folder / SUMMARY, [text])
    write_records(folder, results, seed)
    figures: list[Figure] = []
    try:
        figures += write_plots(folder / PLOTS, results)
    except OptionError as error:
        warn(f"no plots: {error}")
    if grid:
        (folder / PLOTS).mkdir(exist_ok=True)
        figures.append(write_grid_of(folder / PLOTS, results, grid))
    _remove_others(folder / PLOTS, MADE, [path for _, path in figures])
    write_whole(folder / MARKER, [json.dumps(dict(facts), indent=1) + "\n"])
    title = f"Evaluation on {results.dataset.name}"
    return write_page(folder, title, facts, others, figures, headline)


def _remove_others(folder: Path, ours: re.Pattern[str], kept: Collection[Path]) -> None:
    """Remove files that an evaluation makes, by their names, and this one has not made.

    Raises:
        OutputError: one of them cannot be removed.
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in found:
        if ours.fullmatch(path.name) and path not in kept and not path.is_dir():
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(
                    f"cannot remove {path}, which is of an earlier evaluation: {error.strerror}"
                ) from error
