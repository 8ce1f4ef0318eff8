"""The notes at the head of the page: what a person has to do something about, gravest first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facedeid.report.cards import is_open
from facedeid.report.markup import Markup, counted, element, name_of

__all__ = ["attention", "note"]

Record = Mapping[str, Any]

FOLD = 12
"""Longer lists of photos are folded."""

ATTENTION: Sequence[tuple[str, str, str, str]] = (
    (
        "released-unprotected",
        "bad",
        "Released although not protected",
        "A recogniser still matches a face in these, or none could judge it, and they were written "
        "because of --on-unprotected release. Do not publish them; run again without that option "
        "or with a stronger method.",
    ),
    (
        "error",
        "bad",
        "Could not be processed",
        "Nothing new was written for these. Mend or convert the file as the message says, then run "
        "again with --resume.",
    ),
    (
        "withheld",
        "warn",
        "Not released: a face is still recognisable",
        "Nothing was written for these. Choose a stronger setting or another method, or let "
        "--on-unprotected blur fall back to a heavy blur.",
    ),
    (
        "skipped",
        "warn",
        "Skipped: a face is still recognisable",
        "Nothing was written for these, as --on-unprotected skip asks. Choose a stronger setting "
        "or another method, or --on-unprotected blur.",
    ),
    (
        "copied",
        "warn",
        "Released although no face was found",
        "No face in these was changed, as --on-no-face copy asks; the files are written anew, with "
        "the metadata that --metadata says. Look at each one: a face that the detector missed is "
        "unprotected in the result.",
    ),
    (
        "no-face",
        "warn",
        "No face found, not released",
        "Look at each one. If somebody is in it, lower --min-face, try --detector cnn, or mark "
        "the face with --plan. If nobody is, --on-no-face copy lets it through.",
    ),
    (
        "none-selected",
        "warn",
        "Not released: no face of those asked for",
        "Faces were found in these, but none that --only asks for. Look at each one: if the person "
        "is in it, name the face by number or region, or with --plan.",
    ),
)
"""Status, kind of note, what happened, what to do; the gravest first."""


def note(kind: str, title: str, text: str, *more: Markup) -> Markup:
    """A coloured box; `kind` is good, bad, warn or calm."""
    return element("div", element("h3", title), element("p", text), *more, class_=f"note {kind}")


def attention(
    run: Record | None, photos: Sequence[Record], *, interrupted: bool
) -> Iterator[Markup]:
    """What somebody has to do something about, the gravest first."""
    if interrupted:
        text = "It was interrupted: photos may be missing here. Go on with --resume."
        yield note("bad", "This run did not finish", text)
    for status, kind, title, text in ATTENTION:
        found = [photo for photo in photos if photo["status"] == status]
        if found:
            yield note(kind, f"{title}: {counted(len(found), 'photo')}", text, _names(found))
    kept = [p for p in photos if p["released"] and any(f["outcome"] == "kept" for f in p["faces"])]
    if kept:
        text = "These hold faces that were not changed, because of --keep, --only or the plan."
        yield note("calm", f"Faces kept: {counted(len(kept), 'photo')}", text, _names(kept))
    unused = [{**p, "message": "; ".join(p["unused"])} for p in photos if p.get("unused")]
    if unused:
        text = "Look whether the faces that were meant are the ones that were kept or protected."
        title = f"--keep or --only names no face: {counted(len(unused), 'photo')}"
        yield note("warn", title, text, _names(unused))
    earlier = [p for p in photos if p.get("earlier")]
    if earlier:
        text = (
            "--overwrite did not replace these. They may have been made with other settings than "
            "those below."
        )
        title = f"Results of an earlier run: {counted(len(earlier), 'photo')}"
        yield note("calm", title, text, _names(earlier))
    if run:
        yield from _left_alone(run)
    for warning in run["method"]["warnings"] if run else ():
        yield note("warn", "About the method", warning)
    if photos and not interrupted and not any(map(is_open, photos)):
        text = "In every one, no recogniser matches a protected face in the file as written."
        yield note("good", f"All {counted(len(photos), 'photo')} protected", text)


def _left_alone(run: Record) -> Iterator[Markup]:
    """What was in the folders and is not among the photos; earlier versions did not say."""
    if ignored := run.get("ignored"):
        text = (
            "These are no photos, or of a kind that is not handled (camera raw, JPEG XL, Photoshop "
            "and the like). Nothing was looked for in them, and nothing of them was written."
        )
        yield note("calm", f"Left alone: {counted(len(ignored), 'file')}", text, _files(ignored))
    if links := run.get("links"):
        text = "They were not followed, so photos in them are missing. To include them, name them."
        yield note("warn", f"Linked: {counted(len(links), 'folder')}", text, _files(links))


def _names(photos: Sequence[Record]) -> Markup:
    """The photos of a note, each with its message."""
    items = [element("li", name_of(p["photo"]), f" - {p['message']}") for p in photos]
    return _folded(items, "photo")


def _files(names: Sequence[str]) -> Markup:
    return _folded([element("li", name_of(name)) for name in names], "name")


def _folded(items: Sequence[Markup], noun: str) -> Markup:
    """A list, folded when it is long."""
    names = element("ul", *items)
    if len(items) <= FOLD:
        return names
    return element("details", element("summary", f"List of {counted(len(items), noun)}"), names)
