"""What the lines of a report say: one for the run, one per photo, one for the summary."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import facedeid
from facedeid.errors import WeightsError
from facedeid.weights import sha256_of

if TYPE_CHECKING:
    from facedeid.models import Recognizer
    from facedeid.pipeline import FaceReport, PhotoReport, Settings
    from facedeid.verification import Match

__all__ = ["SCHEMA", "latest", "record", "run_record", "summary_record"]

SCHEMA = "facedeid.report/1"
LONGEST = 16
"""Numbers in a list that may still be a parameter (a colour, a region); more are left out, so that
no embedding or picture comes into a report by way of a method's facts."""

_ROOT = r"(?<![\w.<)\]}!?%&+$#^*-])(?<!:/)(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)"
"""Where an absolute path begins: not after a letter or a sign that ends the name of a folder."""
_SPACED = r"[^\s/\\'\":;](?:[^/\\'\":;\n]*[^\s/\\'\":;])?"
"""A name of a folder that may have spaces within."""
_FOLDERS = _ROOT + rf"(?:(?:[^\s/\\'\":]+|{_SPACED})[/\\])*(?=[^\s/\\'\":])"


def run_record(
    settings: "Settings",
    recognizers: Sequence["Recognizer"],
    *,
    ignored: Sequence[str] = (),
    links: Sequence[str] = (),
    started: datetime | None = None,
) -> dict[str, Any]:
    """The line that opens a run.

    Args:
        settings: of the run.
        recognizers: who judges.
        ignored: files in the given folders that are no photos.
        links: links to folders in them, which were not followed.
        started: aware; None: now.
    """
    method = settings.method
    others = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "method"}
    return {
        "schema": SCHEMA,
        "type": "run",
        "version": facedeid.__version__,
        "started": _utc(started),
        "method": {
            "name": method.name,
            "repr": _text(repr(method)),
            "options": _plain(method.options()),
            "surrogates": list(method.surrogates),
            "warnings": list(method.warnings),
        },
        "settings": _plain(others),
        "recognizers": [
            {
                "name": recognizer.name,
                "metric": recognizer.spec.metric,
                "require": settings.require,
                "threshold": _plain(recognizer.threshold(settings.require)),
                "thresholds": _plain(recognizer.spec.thresholds),
                "protocol": recognizer.spec.protocol,
                "white_box": recognizer.name in method.surrogates,
            }
            for recognizer in recognizers
        ],
        "ignored": list(ignored),
        "links": list(links),
    }


def record(relative: str, report: "PhotoReport", *, output: Path | None) -> dict[str, Any]:
    """The line of one photo.

    Args:
        relative: path below the input folder, with `/`; it names the source and the result.
        report: what happened to it.
        output: the result, None: there is none. Its hash is kept, not where it lies.
    """
    return {
        "schema": SCHEMA,
        "type": "photo",
        "photo": relative,
        "status": report.status,
        "message": _text(report.message, relative),
        "released": output is not None,
        "sha256": None if output is None else _sha256(output),
        "width": report.width,
        "height": report.height,
        "dropped": [_text(part, relative) for part in report.dropped],
        "seconds": _plain(report.seconds),
        "charges": _plain(report.charges),
        "unused": list(report.unused),
        "faces": [_face(face) for face in report.faces],
    }


def _sha256(path: Path) -> str | None:
    """Of a file's content; None where it cannot be read."""
    try:
        return sha256_of(path)
    except WeightsError:
        return None


def _face(face: "FaceReport") -> dict[str, Any]:
    verdict = face.verdict
    matches = verdict.matches if verdict else ()
    counting = [m.recognizer for m in matches if not m.white_box and math.isfinite(m.distance)]
    return {
        "index": face.index,
        "box": _plain(face.box),
        "detector": _text(face.detector),
        "landmarks_from": face.landmarks_from,
        "method": None if face.method is None else _text(face.method),
        "fallback": face.fallback,
        "attempts": face.attempts,
        "outcome": face.outcome,
        "disagreement": verdict.disagreement if verdict else False,
        "evidence": list(dict.fromkeys(counting)),
        "matches": [_match(match) for match in matches],
        "facedeid_lpips": _plain(face.perceptual),
        "facts": _plain(face.facts),
    }


def _match(match: "Match") -> dict[str, Any]:
    return {
        "recognizer": match.recognizer,
        "aligned": match.aligned,
        "distance": _plain(match.distance),
        "threshold": _plain(match.threshold),
        "matched": bool(match.matched),
        "white_box": bool(match.white_box),
        "control": _plain(match.control),
    }


def summary_record(
    records: Iterable[Mapping[str, Any]],
    *,
    interrupted: bool = False,
    finished: datetime | None = None,
) -> dict[str, Any]:
    """The line that closes a run: counts over the last record of every photo."""
    photos = latest(records)
    faces = [face for photo in photos for face in photo["faces"]]
    seconds: Counter[str] = Counter()
    for photo in photos:
        seconds.update({k: v for k, v in photo["seconds"].items() if v is not None})
    return {
        "schema": SCHEMA,
        "type": "summary",
        "finished": _utc(finished),
        "interrupted": interrupted,
        "photos": len(photos),
        "released": sum(photo["released"] for photo in photos),
        "status": dict(sorted(Counter(photo["status"] for photo in photos).items())),
        "faces": len(faces),
        "outcomes": dict(sorted(Counter(face["outcome"] for face in faces).items())),
        "fallbacks": sum(face["fallback"] for face in faces),
        "disagreements": sum(face["disagreement"] for face in faces),
        "seconds": {stage: round(spent, 4) for stage, spent in seconds.items()},
    }


def latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last record of every photo, in the order in which the photos first came."""
    by_name = {r["photo"]: r for r in records if r.get("type") == "photo"}
    return list(by_name.values())


def _plain(value: Any) -> Any:
    """JSON-ready: numbers that are not finite become null, long lists of numbers a remark."""
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        count = _numbers(value)
        return f"{count} numbers left out" if count > LONGEST else [_plain(v) for v in value]
    text = str(value)
    if Path(text).is_absolute() and os.path.lexists(text):  # whatever signs are in it
        return Path(text).name
    return _text(text)


def _numbers(value: Any) -> int:
    """How many numbers are in a list of lists."""
    if isinstance(value, list | tuple | set | frozenset):
        return sum(map(_numbers, value))
    return int(hasattr(value, "tolist") or isinstance(value, int | float))


def _text(text: str, relative: str = "") -> str:
    """Without folders of absolute paths: they name users and places. `relative` stays whole."""
    own = rf"(?:{_ROOT}[^\n'\"]*?)?({re.escape(relative)})|" if relative else "()"
    return re.sub(own + _FOLDERS, lambda found: found[1] or "", text)


def _utc(moment: datetime | None) -> str:
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
