"""One JSON line per image and recogniser, so that others can score again with other thresholds."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facedeid import __version__
from facedeid.evaluation.protocols import ALIGNED, Comparison
from facedeid.evaluation.releases import options_of
from facedeid.evaluation.results import Results
from facedeid.report import write_whole

__all__ = ["RECORDS", "SCHEMA", "records", "write_records"]

RECORDS = "records.jsonl"
SCHEMA = 1


def records(results: Results, seed: int) -> Iterator[dict[str, Any]]:
    """First what holds for all, then a record per release, recogniser and alignment.

    Fields are explained in docs/evaluation.md.
    """
    yield {
        "type": "evaluation",
        "schema": SCHEMA,
        "facedeid": __version__,
        "dataset": results.dataset.name,
        "detector": Path(results.originals.detector).name,
        "seed": seed,
        "recognizers": [
            {
                "name": judge.name,
                "metric": judge.recognizer.spec.metric,
                "thresholds": dict(judge.thresholds),
            }
            for judge in results.judges
        ],
    }
    for result in results.all:
        for comparison in result.comparisons:
            yield from _of(results, comparison)


def _of(results: Results, comparison: Comparison) -> Iterator[dict[str, Any]]:
    views, judge = comparison.views, comparison.judge
    method = views.method
    shared = {
        "type": "comparison",
        "dataset": results.dataset.name,
        "method": "untouched" if method is None else method.name,
        "options": {} if method is None else _finite(options_of(method)),
        "draw": 0,
        "recognizer": judge.name,
        "white_box": comparison.white_box,
        "thresholds": dict(judge.thresholds),
    }
    for i, key in enumerate(comparison.probes):
        for aligned in ALIGNED:
            itself = comparison.itself[aligned][i]
            partner = comparison.partner[aligned][i] if comparison.partner else np.inf
            counts = partner if comparison.partner else itself
            seen = bool(comparison.detected[i])
            yield {
                **shared,
                "key": key,
                "partner": comparison.partners[i] if comparison.partners else None,
                "aligned": aligned,
                "detected": seen,
                "distance_to_partner": _number(partner),
                "distance_to_self": _number(itself),
                "outcome": {
                    point: _outcome(bool(counts < threshold), seen)
                    for point, threshold in judge.thresholds.items()
                },
            }


def _finite(options: dict[str, Any]) -> dict[str, Any]:
    """Infinity as the methods' own facts have it: JSON has no such number."""
    return {
        name: "infinite" if isinstance(value, float) and math.isinf(value) else value
        for name, value in options.items()
    }


def _outcome(matched: bool, detected: bool) -> str:
    return "matched" if matched else "not-matched" if detected else "not-detected"


def _number(value: float) -> float | None:
    """None: no face was found, so there is no distance."""
    return round(float(value), 6) if np.isfinite(value) else None


def write_records(folder: Path, results: Results, seed: int) -> Path:
    """Write `records.jsonl`, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    lines = (json.dumps(each, allow_nan=False) + "\n" for each in records(results, seed))
    write_whole(folder / RECORDS, lines)
    return folder / RECORDS
