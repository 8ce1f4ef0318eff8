"""Plots of how things are distributed: outcomes as stacked bars, distances as histograms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from facedeid.errors import OptionError
from facedeid.evaluation.drawing import COLOURS, INK, SOFT, broken, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OUTCOMES", "histograms", "outcomes"]

OUTCOMES: Mapping[str, tuple[str, str]] = {
    "not-matched": ("found, not matched", "#0072B2"),
    "not-detected": ("no face found", "#B9C2CC"),
    "matched": ("matched: still recognised", "#D55E00"),
}
"""Outcome of a recogniser -> words and colour, from left to right."""


def outcomes(
    shares: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    title: str = "What recognisers made of the results",
) -> "Figure":
    """The three outcomes as stacked bars, a bar per method and recogniser.

    Args:
        shares: method -> recogniser -> outcome (a key of OUTCOMES) -> count or share; every bar
            is scaled to 1, so that counts and shares look the same.
        title: above the plot.

    Raises:
        OptionError: an outcome has another name, a bar has nothing in it, or matplotlib is
            missing.
    """
    rows = [(m, r, c) for m, by_recognizer in shares.items() for r, c in by_recognizer.items()]
    for method, recognizer, counts in rows:
        if counts.keys() - OUTCOMES.keys() or sum(counts.values()) <= 0:
            raise OptionError(
                f"outcomes of {method}, {recognizer}: {dict(counts)}; wants {', '.join(OUTCOMES)}"
            )
    places, heads, y = [], [], 0.0
    for index, (method, _, _) in enumerate(rows):
        if index == 0 or rows[index - 1][0] != method:
            y += 1.5 if index else 0.9
            heads.append((y - 0.88, method))
        places.append(y)
        y += 1
    height = 1.5 + 0.3 * y
    with drawing(title, "share of faces", "", height=height) as (figure, axes):
        _stack(axes, places, [counts for _, _, counts in rows])
        for at, method in heads:
            axes.text(0, at, method, va="center", weight="bold", fontsize=10, color=INK)
        axes.set_yticks(places, [broken(recognizer) for _, recognizer, _ in rows], fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1), ylim=(max(places, default=0) + 0.6, -0.5))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        if rows:
            handles, words = axes.get_legend_handles_labels()
            figure.legend(handles[:3], words[:3], loc="outside lower center", ncols=3)
    return figure


def histograms(
    distances: Mapping[str, ArrayLike],
    *,
    threshold: float,
    recognizer: str,
    title: str = "",
) -> "Figure":
    """Distances of groups of pairs on one scale, with the threshold.

    Args:
        distances: group (genuine untouched, de-identified, impostor) -> its distances; values
            that are not finite are left out, and n says how many remain.
        threshold: below it the recogniser sees the same person.
        recognizer: its name, for the x axis.
        title: above the plot.

    Raises:
        OptionError: there is no distance at all, or matplotlib is missing.
    """
    groups = {label: np.asarray(d, float).ravel() for label, d in distances.items()}
    groups = {label: d[np.isfinite(d)] for label, d in groups.items()}
    every = np.concatenate([*groups.values(), np.empty(0)])
    if not every.size:
        raise OptionError(f"there is no distance of {recognizer} to draw")
    bins = np.linspace(min(every.min(), threshold), max(every.max(), threshold), 41)
    heading = title or f"Distances by {recognizer}"
    with drawing(heading, f"distance ({recognizer})", "share of pairs") as (figure, axes):
        axes.set_title(heading, pad=24)
        for (label, found), colour in zip(groups.items(), COLOURS, strict=False):
            accepted = f"{np.mean(found < threshold):.1%}" if found.size else "none"
            words = f"{broken(label)}\nn = {found.size:,}, accepted: {accepted}"
            weights = np.full(found.size, 1 / max(found.size, 1))
            options: dict[str, Any] = {"bins": bins, "weights": weights, "color": colour}
            axes.hist(found, **options, histtype="stepfilled", alpha=0.22)
            axes.hist(found, **options, histtype="step", linewidth=1.8, label=words)
        axes.axvline(threshold, color=INK, linewidth=1.6, linestyle=(0, (4, 2)))
        axes.annotate(
            f"← same person │ threshold {threshold:.3f} │ different →",
            (threshold, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=10,
            color=SOFT,
        )
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _stack(axes: "Axes", places: Sequence[float], bars: Sequence[Mapping[str, float]]) -> None:
    """Horizontal bars of three parts, with percentages where they fit."""
    for y, counts in zip(places, bars, strict=True):
        left, total = 0.0, sum(counts.values())
        for outcome, (words, colour) in OUTCOMES.items():
            width = counts.get(outcome, 0) / total
            axes.barh(y, width, 0.8, left, color=colour, edgecolor="white", label=words)
            if width >= 0.06:
                ink = INK if outcome == "not-detected" else "white"
                place: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontsize": 9,
                    "color": ink,
                }
                axes.text(left + width / 2, y, f"{width:.0%}", **place)
            left += width
