"""The report as one self-contained HTML page: no script, nothing loaded from anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from facedeid.report.attention import attention, note
from facedeid.report.cards import OUTCOMES, STATUSES, is_open, legend, photo_card
from facedeid.report.journal import write_whole
from facedeid.report.markup import Markup, element
from facedeid.report.pictures import COLOURS
from facedeid.report.records import latest, summary_record
from facedeid.report.style import STYLE

__all__ = ["write_html"]

Record = Mapping[str, Any]
Encoded = Mapping[str, Sequence[Mapping[str, str]]]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
EVIDENCE = (
    "A recogniser that fails to match a face is measured evidence, not a proof of anonymity. "
    "Another recogniser, a person who knows the face, or clothes, place and company in the photo "
    "may still identify somebody. Faces that the detector missed are not counted here."
)
IDENTIFIES = (
    "It shows faces before protection, because it was made with --report-originals. Keep it as "
    "safely as the photos themselves and do not pass it on. Without that option the page holds no "
    "picture from before protection."
)


def write_html(
    path: Path,
    records: Sequence[Record],
    previews: Encoded,
    *,
    originals: bool,
    interrupted: bool = False,
) -> None:
    """Write the page, whole or not at all; an existing page is replaced.

    Args:
        path: where to.
        records: as in the JSON lines; of runs that were resumed, the last word on each photo
            counts.
        previews: photo (as in its record) -> what `encode_previews` made of it.
        originals: show crops before and exact differences where `previews` has them. The page
            then identifies people and is readable by its owner only.
        interrupted: the run ended before its last photo (or the last summary says so).

    Raises:
        OutputError: the page cannot be written.
    """
    chunks = _page(records, previews, originals, interrupted)
    write_whole(path, chunks, private=originals)


def _page(
    records: Sequence[Record], previews: Encoded, originals: bool, interrupted: bool
) -> Iterator[str]:
    photos = latest(records)
    summary = summary_record(photos)
    run = next((r for r in reversed(records) if r.get("type") == "run"), None)
    yield '<!doctype html><html lang="en">'
    yield element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("meta", name="robots", content="noindex"),
        element("title", "facedeid report"),
        element("style", STYLE),
    )
    yield "<body><main>"
    yield _top(run)
    if originals:
        yield note("bad", "This page identifies people", IDENTIFIES)
    yield _tiles(summary)
    summaries = [r for r in records if r.get("type") == "summary"]
    interrupted = interrupted or (bool(summaries) and summaries[-1]["interrupted"])
    yield from attention(run, photos, interrupted=interrupted)
    yield note("calm", "What this report shows", EVIDENCE)
    yield from _photos(photos, previews, originals)
    yield element("div", _timings(photos, summary), _recognizers(run), class_="pair")
    yield _settings(run)
    yield element("footer", "The same facts for programs are in the JSON lines of this run.")
    yield "</main></body></html>\n"


def _top(run: Record | None) -> Markup:
    if run is None:
        return element("header", element("h1", "Face de-identification report"), class_="top")
    when = run["started"].replace("T", " ").replace("+00:00", " UTC")
    return element(
        "header",
        element("h1", "Face de-identification report"),
        element("p", element("code", run["method"]["repr"])),
        element("p", f"facedeid {run['version']} · started {when}"),
        class_="top",
    )


def _tiles(summary: Record) -> Markup:
    """Two rows of counts: photos by status, faces by outcome."""
    return Markup(
        _tile_row(("photos", summary["photos"]), summary["status"], STATUSES)
        + _tile_row(("faces found", summary["faces"]), summary["outcomes"], OUTCOMES)
    )


def _tile_row(
    total: tuple[str, int],
    counts: Mapping[str, int],
    words: Mapping[str, tuple[str, str]],
) -> Markup:
    tiles = [(*total, "calm")]
    for key in (*words, *(counts.keys() - words.keys())):
        if key in counts:
            label, kind = words.get(key, (key, "bad"))
            tiles.append((label, counts[key], kind))
    shown = [
        element("div", element("b", f"{count:,}"), element("span", label), class_=f"tile {kind}")
        for label, count, kind in tiles
    ]
    return element("div", *shown, class_="tiles")


def _photos(photos: Sequence[Record], previews: Encoded, originals: bool) -> Iterator[str]:
    shown = [photo for photo in photos if photo["faces"]]
    if not shown:
        return
    yield element("h2", "Faces")
    if any(map(is_open, shown)):
        yield _filter()
    yield legend(COLOURS, originals=originals)
    yield '<div class="photos">'
    for photo in shown:
        yield photo_card(photo, previews.get(photo["photo"], ()), originals=originals)
    yield "</div>"


def _filter() -> Markup:
    labels = [
        element("label", element("input", type="radio", name="show", id=key, checked=on), words)
        for key, words, on in (
            ("show-all", "All", True),
            ("show-open", "Needs a look", False),
            ("show-fine", "Protected", False),
        )
    ]
    return element("div", *labels, class_="bar-row filter", role="radiogroup")


def _timings(photos: Sequence[Record], summary: Record) -> Markup:
    seconds = summary["seconds"]
    total = sum(seconds.values())
    rows = [
        (stage, f"{spent:.2f} s", f"{spent / max(len(photos), 1):.3f} s", spent / (total or 1))
        for stage, spent in seconds.items()
    ]
    body = [
        element(
            "tr",
            element("th", stage),
            element("td", spent, class_="number"),
            element("td", each, class_="number"),
            element("td", _share(share), class_="share-cell"),
        )
        for stage, spent, each, share in rows
    ]
    mean = total / max(len(photos), 1)
    body.append(_row("total, all workers", f"{total:.2f} s", f"{mean:.3f} s", ""))
    return _table("Time", ("stage", "all", "per photo", "share"), body)


def _share(share: float) -> Markup:
    return element("span", class_="share", style=f"width:{100 * share:.1f}%")


def _recognizers(run: Record | None) -> Markup | None:
    if run is None:
        return None
    body = [
        _row(
            r["name"] + (" (white-box: no evidence)" if r["white_box"] else ""),
            f"{r['threshold']:g}",
            f"{r['require']}, {r['metric']}; {r['protocol']}",
        )
        for r in run["recognizers"]
    ]
    return _table("Recognisers", ("name", "same person below", "operating point"), body)


def _settings(run: Record | None) -> Markup:
    if run is None:
        return Markup()
    method = run["method"]
    pairs = {"method": method["name"], **{f"method: {k}": v for k, v in method["options"].items()}}
    pairs |= run["settings"]
    body = [_row(key, _setting(value)) for key, value in pairs.items()]
    return _table("Settings", ("setting", "value"), body)


def _setting(value: object) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(head: object, *cells: object) -> Markup:
    return element("tr", element("th", head), *(element("td", cell) for cell in cells))


def _table(title: str, heads: Sequence[str], body: Sequence[Markup]) -> Markup:
    head = element("thead", element("tr", *(element("th", words) for words in heads)))
    table = element("table", head, element("tbody", *body))
    return element("section", element("h2", title), element("div", table, class_="wide"))
