"""Plots of results: CMC curves, privacy against utility, sweeps, outcomes, distances.

Each function returns a figure, `save` writes it. matplotlib is in the extra `evaluate`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.bars import OUTCOMES, histograms, outcomes
from facedeid.evaluation.drawing import (
    SOFT,
    broken,
    drawing,
    label_ends,
    line,
    looks,
    named,
    save,
    tall_enough,
)
from facedeid.evaluation.tables import Cell, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OUTCOMES", "cmc", "histograms", "outcomes", "privacy_utility", "save", "sweep"]


def cmc(
    curves: Mapping[str, ArrayLike],
    *,
    white_box: Collection[str] = (),
    title: str = "Identification among the gallery (CMC)",
) -> "Figure":
    """Cumulative match characteristics, one labelled curve each.

    Args:
        curves: label -> rate for rank 1, 2, …, each in [0, 1]; the lengths may differ.
        white_box: labels whose recogniser the method knew; drawn dashed and named so.
        title: above the plot.

    Raises:
        OptionError: a curve is empty or not one-dimensional, or matplotlib is missing.
    """
    series = {label: np.asarray(curve, float) for label, curve in curves.items()}
    for label, curve in series.items():
        if curve.ndim != 1 or not len(curve):
            raise OptionError(f"the CMC curve {label!r} wants a rate per rank, got {curve.shape}")
    names = [named(label, white_box) for label in series]
    longest = max((len(curve) for curve in series.values()), default=1)
    with drawing(
        title, "rank", "share of probes found by this rank", height=tall_enough(names)
    ) as (figure, axes):
        ends = []
        for (label, rates), (colour, marker) in zip(series.items(), looks(), strict=False):
            ranks = np.arange(1, len(rates) + 1)
            few = marker if len(rates) <= 20 else None
            style = line(label, white_box)
            axes.plot(ranks, rates, style, color=colour, marker=few, label=label)
            ends.append((float(ranks[-1]), float(rates[-1]), named(label, white_box), colour))
        axes.set(xlim=(1 - 0.015 * (longest - 1), longest), ylim=(-0.02, 1.02))
        axes.set_xticks(_rank_ticks(longest))
        label_ends(figure, axes, ends)
    return figure


def sweep(
    option: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[Cell]],
    *,
    quantity: str,
    log: bool = False,
    white_box: Collection[str] = (),
    title: str = "",
) -> "Figure":
    """A quantity against the values of an option (ε, β, λ, a radius, …).

    Args:
        option: label of the x axis.
        x: its values, in order; infinity stands a step to the right of the largest number.
        series: label -> one cell per value: an Estimate (drawn with its interval as a band), a
            number, or anything else where there is none, which leaves a gap.
        quantity: label of the y axis.
        log: logarithmic x axis; all values must then be above 0.
        white_box: labels whose recogniser the method knew; drawn dashed.
        title: above the plot.

    Raises:
        OptionError: a series has another length than `x`, a value does not fit the scale, or
            matplotlib is missing.
    """
    if log and min(x, default=1) <= 0:
        raise OptionError(f"a logarithmic axis wants values above 0, got {min(x)} for {option}")
    for label, cells in series.items():
        if len(cells) != len(x):
            raise OptionError(f"{label!r} has {len(cells)} values for {len(x)} of {option}")
    places = _places(x, log)
    height = tall_enough(named(label, white_box) for label in series)
    heading = title or f"{quantity} by {option}"
    with drawing(heading, option, quantity, height=height) as (figure, axes):
        ends = []
        if log:
            axes.set_xscale("log")
        for (label, cells), (colour, marker) in zip(series.items(), looks(), strict=False):
            value, low, high = _columns(cells)
            style = line(label, white_box)
            axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(places, value, style, color=colour, marker=marker, label=label)
            (known,) = np.nonzero(np.isfinite(value))
            if len(known):
                end = (places[known[-1]], float(value[known[-1]]))
                ends.append((*end, named(label, white_box), colour))
        _share_limits(axes)
        if len(x) <= 8 or math.inf in x:
            axes.set_xticks(places, ["∞" if value == math.inf else f"{value:g}" for value in x])
            axes.minorticks_off()
        label_ends(figure, axes, ends)
    return figure


def _places(x: Sequence[float], log: bool) -> list[float]:
    """Where values are drawn: infinity by the mean step right of the largest number."""
    known = sorted(value for value in x if value != math.inf)
    steps = max(1, len(known) - 1)
    low, high = (known[0], known[-1]) if known else (1.0, 1.0)
    if log:
        beyond = high * ((high / low) ** (1 / steps) if high > low else 10)
    else:
        beyond = high + ((high - low) / steps or 1)
    return [beyond if value == math.inf else float(value) for value in x]


def privacy_utility(
    points: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    change: str,
    success: str = "attack success rate",
    title: str = "Privacy against utility",
) -> "Figure":
    """What privacy costs: a point per setting of each method, up and left is better.

    Args:
        points: method -> (change, success, low, high) per setting, in the order of the setting;
            low and high are the interval of the success.
        change: label of the x axis, where less is better: LPIPS, 1 - SSIM.
        success: label of the y axis, where more is better.
        title: above the plot.

    Raises:
        OptionError: matplotlib is missing.
    """
    across, up = f"{change}  (← less change)", f"{success}  (more private →)"
    with drawing(title, across, up, height=tall_enough(points)) as (figure, axes):
        for (label, settings), (colour, marker) in zip(points.items(), looks(), strict=False):
            x, y, low, high = np.asarray(settings, float).reshape(-1, 4).T
            axes.errorbar(
                x,
                y,
                yerr=np.maximum([y - low, high - y], 0),
                color=colour,
                marker=marker,
                markersize=7,
                linewidth=1,
                elinewidth=1.4,
                capsize=3,
                label=broken(label),
            )
        axes.margins(0.06)
        _share_limits(axes)
        if points:
            figure.legend(loc="outside right upper", handlelength=1.4, labelspacing=0.7)
        axes.set_title("better: up and to the left", loc="right", fontsize=10, color=SOFT)
    return figure


def _rank_ticks(longest: int) -> list[int]:
    """Rank 1 and round ones."""
    step = next(s for s in (1, 5, 10, 20, 50, 100, 200, 500, longest) if longest <= 12 * s)
    return sorted({1, *range(step, longest + 1, step)})


def _columns(cells: Sequence[Cell]) -> tuple[NDArray[np.float64], ...]:
    """Values and the ends of their intervals; NaN where there is none."""
    rows = []
    for cell in cells:
        if isinstance(cell, Estimate):
            rows.append((cell.value, cell.low, cell.high))
        elif isinstance(cell, int | float) and not isinstance(cell, bool):
            rows.append((float(cell), float(cell), float(cell)))
        else:
            rows.append((np.nan, np.nan, np.nan))
    return tuple(np.array(rows, float).reshape(-1, 3).T)


def _share_limits(axes: "Axes") -> None:
    """The whole of 0 to 1 where everything drawn lies in it, so that plots can be compared."""
    low, high = axes.dataLim.intervaly
    if low >= 0 and high <= 1:
        axes.set_ylim(-0.02, 1.02)
