"""What all plots share: style, colours, labels that keep off the data, and saving.

Everything goes through matplotlib's objects; its global state is left alone, and it is imported
only when something is drawn. Colours are those of Okabe and Ito, which colour-blind people tell
apart, and go with markers.
"""

import contextlib
import io
import itertools
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedeid.errors import OptionError, OutputError
from facedeid.report import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "INK",
    "SOFT",
    "broken",
    "drawing",
    "label_ends",
    "line",
    "looks",
    "named",
    "save",
    "tall_enough",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
INK, SOFT = "#1b1f27", "#5b6472"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.facecolor": "white",
    "text.parse_math": False,
    "svg.hashsalt": "facedeid",
}
WIDTH, HEIGHT, DPI = 8.0, 4.8, 150
"""Inches and dots per inch: 1,200 pixels across, meant to be shown at 800."""
WRAP = 26
"""Labels beside a plot are broken after so many characters."""
LINE, AROUND = 0.18, 0.75
"""Height of a line of a label, and what title and x axis take of a figure's, in inches."""


@contextlib.contextmanager
def drawing(
    title: str, across: str, up: str, *, height: float = HEIGHT
) -> "Iterator[tuple[Figure, Axes]]":
    """A figure with one set of axes, in the style of this package.

    Raises:
        OptionError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("plots need matplotlib: pip install 'facedeid[evaluate]'") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=across, ylabel=up)
        yield figure, axes


def looks() -> Iterator[tuple[str, str]]:
    """Colours and markers, each pair once before any comes again."""
    for turn in itertools.count():
        for index, colour in enumerate(COLOURS):
            yield colour, MARKERS[(index + turn) % len(MARKERS)]


def line(label: str, white_box: Collection[str]) -> str:
    """Dashed for a recogniser that the method knew."""
    return "--" if label in white_box else "-"


def named(label: str, white_box: Collection[str]) -> str:
    """A label, with the remark that the method knew the recogniser where it did."""
    return f"{label} (white-box)" if label in white_box else label


def broken(label: str) -> str:
    """A label on as many lines as it needs beside a plot."""
    return "\n".join(textwrap.wrap(label, WRAP, break_on_hyphens=False)) or label


def tall_enough(labels: Iterable[str]) -> float:
    """Height in inches of a figure beside which all the labels fit."""
    return max(HEIGHT, AROUND + sum(_height(broken(label)) for label in labels))


def _height(label: str) -> float:
    return LINE * (label.count("\n") + 4 / 3)


def label_ends(
    figure: "Figure", axes: "Axes", ends: Sequence[tuple[float, float, str, str]]
) -> None:
    """Labels to the right of the axes, each at the height of its line's end or near it.

    Args:
        figure: that they are on.
        axes: with their final limits.
        ends: x, y, label and colour of each line's end.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    drawn = sorted(
        (
            (to_share.transform((x, y))[1], x, y, broken(label), colour)
            for x, y, label, colour in ends
        ),
        key=lambda end: -end[0],
    )
    inch = 1 / (figure.get_figheight() - AROUND)
    sizes = [inch * _height(label) for *_, label, _ in drawn]
    heights = spread([end[0] for end in drawn], sizes)
    for (_, x, y, label, colour), height in zip(drawn, heights, strict=True):
        axes.annotate(
            label,
            (x, y),
            (1.05, height),
            xycoords="data",
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            color=INK,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.2, "relpos": (0, 0.5)},
        )


def spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places near the wanted ones, from the top down, that keep each size free of the next.

    They stay between 0 and 1 as long as all of them fit.
    """
    places = list(wanted)
    for i, size in enumerate(sizes):
        ceiling = places[i - 1] - (sizes[i - 1] + size) / 2 if i else 1 - size / 2
        places[i] = min(places[i], ceiling)
    floor = 0.0
    for i in reversed(range(len(places))):
        places[i] = max(places[i], floor + sizes[i] / 2)
        floor = places[i] + sizes[i] / 2
    return places


def save(figure: "Figure", folder: Path, name: str, *, svg: bool = False) -> Path:
    """Write `name.png`, and `name.svg` if asked; the same figure gives the same bytes.

    Returns:
        Path of the PNG.

    Raises:
        OutputError: it cannot be written; an older file is still there.
    """
    import matplotlib

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    for ending, facts in (("png", {"Software": None}), ("svg", {"Date": None})):
        if ending == "svg" and not svg:
            continue
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=ending, dpi=DPI, metadata=facts)
        write_whole(folder / f"{name}.{ending}", [buffer.getvalue()])
    return folder / f"{name}.png"
