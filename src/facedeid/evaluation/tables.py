"""Tables of results: one value, written as Markdown for people, CSV and JSON for programs."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from facedeid.errors import OptionError, OutputError
from facedeid.report import write_whole

__all__ = ["WHITE_BOX", "Cell", "Estimate", "Table", "text_of", "write_tables"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPECIAL = re.compile(r"([\\|*`\[])")
WHITE_BOX = "white-box"
"""Head of the column that says whether the method knew the row's recogniser."""
DECIMALS = ((1000, 0), (100, 1), (10, 2), (0.01, 3), (0.001, 4))
"""From this size of the largest number on, so many decimals; smaller ones get two digits."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval.

    Args:
        value: what was measured; finite.
        low: lower end of the 95 % interval.
        high: upper end.
        n: number of observations behind it.

    Raises:
        OptionError: a number is not finite, the ends are the wrong way round, or n is below 1.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        numbers = [float(number) for number in (self.value, self.low, self.high)]
        if not all(map(math.isfinite, numbers)) or numbers[1] > numbers[2] or self.n < 1:
            raise OptionError(
                f"no estimate: {self.value} ({self.low} to {self.high}), n = {self.n}; put text "
                "into the cell that says why there is none"
            )
        for field, number in zip(("value", "low", "high"), numbers, strict=True):
            object.__setattr__(self, field, number)
        object.__setattr__(self, "n", int(self.n))

    def __str__(self) -> str:
        decimals = _decimals(max(abs(self.value), abs(self.low), abs(self.high)))
        value, low, high = (
            f"{number:,.{decimals}f}" for number in (self.value, self.low, self.high)
        )
        return f"{value} ({low}{' to ' if self.low < 0 else '-'}{high})"


Cell = str | float | int | bool | None | Estimate
"""None is an empty cell; text can say why there is no number."""


@dataclass(frozen=True)
class Table:
    """A table that knows how it is written.

    NumPy scalars become Python's. A float that is not finite becomes text, `infinite` or
    `undefined`, so that no program takes it for a measurement.

    Args:
        name: stem of its files and its anchor in the page: letters, digits, `.`, `_`, `-`.
        title: heading, plain text.
        note: what the figures are: data, n, threshold, interval; plain text, may be empty.
        columns: heads, each once. In a column WHITE_BOX True marks rows whose recogniser the
            method knew; the page prints these in grey.
        rows: a cell per column.

    Raises:
        OptionError: the name is no file stem, a head is there twice, a row has another length.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OptionError(f"table name {self.name!r}: use letters, digits, '.', '_' and '-'")
        if len(set(self.columns)) < len(self.columns):
            raise OptionError(f"table {self.name}: two columns have the same head: {self.columns}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise OptionError(
                    f"table {self.name}: {len(row)} cells for {len(self.columns)} columns: {row}"
                )
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(map(_plain, row)) for row in self.rows))

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers, and is therefore aligned to the right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return any(isinstance(c, int | float | Estimate) and not isinstance(c, bool) for c in cells)

    def markdown(self) -> str:
        """Heading, note and table; cells are text, so Markdown in them is shown as it is."""
        rules = ["---:" if self.is_number(i) else "---" for i in range(len(self.columns))]
        rows = [self.columns, *(map(text_of, row) for row in self.rows)]
        lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
        lines.insert(1, f"| {' | '.join(rules)} |")
        note = [_escaped(self.note), ""] if self.note else []
        return "\n".join([f"## {_escaped(self.title)}", "", *note, *lines]) + "\n"

    def csv(self) -> str:
        """One line of heads, one line per row, numbers in full precision.

        A column that holds an `Estimate` anywhere is followed by `… low`, `… high` and `… n`.
        True and false are `true` and `false`, None is empty.
        """
        wide = [
            any(isinstance(r[i], Estimate) for r in self.rows) for i in range(len(self.columns))
        ]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        heads = [
            [head, *(f"{head} {end}" for end in ("low", "high", "n"))] if w else [head]
            for head, w in zip(self.columns, wide, strict=True)
        ]
        writer.writerow([name for head in heads for name in head])
        for row in self.rows:
            fields = [list(_fields(cell, w)) for cell, w in zip(row, wide, strict=True)]
            writer.writerow([field for group in fields for field in group])
        return file.getvalue()

    def json(self) -> str:
        """The table's own fields; an `Estimate` is an object of value, low, high and n."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The table that `json` wrote.

        Raises:
            OptionError: the text is something else.
        """
        try:
            entry: dict[str, Any] = json.loads(text)
            rows = tuple(
                tuple(Estimate(**cell) if isinstance(cell, dict) else cell for cell in row)
                for row in entry["rows"]
            )
            return cls(entry["name"], entry["title"], entry["note"], tuple(entry["columns"]), rows)
        except (ValueError, TypeError, KeyError) as error:
            raise OptionError(f"this is not a table of facedeid: {error}") from error


def text_of(cell: Cell) -> str:
    """A cell as people read it: `0.975`, `0.975 (0.968-0.981)`, `3,000`, `yes`, or its text."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return (
            f"{cell:,.{_decimals(abs(cell))}f}" if cell == 0 or abs(cell) >= 1e-6 else f"{cell:.1e}"
        )
    return str(cell)


def write_tables(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write `name.md`, `name.csv` and `name.json` of every table, each whole or not at all.

    Args:
        folder: made if it is not there; files of the same name are replaced.
        tables: of different names.

    Returns:
        What was written, in order.

    Raises:
        OptionError: two tables share a name; nothing was written.
        OutputError: a file cannot be written.
    """
    names = [table.name.lower() for table in tables]
    if len(set(names)) < len(names):
        raise OptionError(f"two tables share a name: {', '.join(sorted(names))}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    written = []
    for table in tables:
        for ending, write in (("md", table.markdown), ("csv", table.csv), ("json", table.json)):
            written.append(folder / f"{table.name}.{ending}")
            write_whole(written[-1], [write()])
    return written


def _plain(cell: Any) -> Cell:
    """Python's own types; numbers that are not finite as text."""
    if cell is None or isinstance(cell, str | bool | Estimate):
        return cell
    value = cell.item() if hasattr(cell, "item") else cell
    if isinstance(value, float) and not math.isfinite(value):
        return "undefined" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    if isinstance(value, bool | int | float):
        return value
    raise OptionError(f"a cell holds text, a number, a truth value, an Estimate or None: {cell!r}")


def _fields(cell: Cell, wide: bool) -> Iterator[object]:
    """A cell as one field, or as four where its column holds estimates."""
    if isinstance(cell, Estimate):
        yield from (cell.value, cell.low, cell.high, cell.n)
        return
    yield str(cell).lower() if isinstance(cell, bool) else cell
    yield from (None, None, None) if wide else ()


def _decimals(size: float) -> int:
    """How many decimals a number of this size is shown with."""
    fixed = next((decimals for least, decimals in DECIMALS if size >= least), None)
    if fixed is not None:
        return fixed
    return 3 if size == 0 else 1 - math.floor(math.log10(max(size, 1e-12)))


def _escaped(text: str) -> str:
    """Plain text inside a Markdown table."""
    text = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", text).replace("<", "&lt;")
