"""`facedeid models`: which weights there are, which are here, and how they come here."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from facedeid._cli_console import application, console
from facedeid.errors import OptionError, WeightsError

if TYPE_CHECKING:
    from facedeid.weights import Checkpoint, Progress, Status

__all__ = ["app"]

app = application(help="Public weights: list, fetch, import and verify them.")
out = console()
err = console(stderr=True)

Name = Annotated[str, typer.Argument(help="A name from `facedeid models list`.")]

_BUILT_IN = (
    ("dlib", "dlib_face_recognition_resnet_model_v1.dat", "CC0", "recogniser, dlib ResNet"),
    (
        "dlib landmarks",
        "shape_predictor_68_face_landmarks.dat",
        "iBUG 300-W excludes commercial use",
        "68 points of a face",
    ),
)
"""What the package face_recognition_models brings: name, file, licence, what it is."""

_COMMERCIAL = {True: "yes", False: "no", None: "unclear"}
_STATE = {
    "missing": "-",
    "present": "here",
    "verified": "verified",
    "altered": "ALTERED",
    "unpinned": "not imported",
}


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """Public weights: list, fetch, import and verify them. Without a command: list."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """All checkpoints that facedeid knows, and whether they are in the store."""
    from facedeid import weights

    table = Table("name", "here", "size", "commercial use", "what it is", box=None)
    for name, file, licence, summary in _BUILT_IN:
        here = "built in" if _built_in(file) else "[red]missing[/]"
        table.add_row(name, here, "", _use(licence), f"{summary} (face_recognition_models)")
    for name in _shipped():
        facts = weights.shipped_facts(name)
        use = _use(facts.get("licence", ""))
        what = f"{facts.get('what', '')} (comes with facedeid)"
        table.add_row(escape(name), "built in", _size(facts.get("size")), use, escape(what))
    for known in weights.CHECKPOINTS.values():
        state = _STATE[weights.status(known.name).state]
        use = _COMMERCIAL[known.commercial]
        table.add_row(known.name, state, _size(known.size), use, escape(known.summary))
    out.print(table)
    out.print(f"\nstore: {escape(str(weights.store()))}")


def _use(licence: str) -> str:
    """Whether the licence of what comes along allows commercial use."""
    if licence == "CC0":
        return "yes"
    return "no" if re.search("non-commercial|excludes commercial", licence) else "unclear"


def _entry(name: str) -> "Checkpoint":
    """The registry's entry.

    Raises:
        OptionError: nothing is known by that name.
    """
    from facedeid import weights

    try:
        return weights.entry(name)
    except WeightsError as error:
        raise OptionError(str(error)) from error


def _built_in(file: str) -> bool:
    from facedeid import weights

    try:
        weights.dlib_model_path(file)
    except WeightsError:
        return False
    return True


def _shipped() -> tuple[str, ...]:
    from facedeid import weights

    try:
        return weights.shipped_names()
    except WeightsError:
        return ()


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


@app.command()
def show(name: Name) -> None:
    """Everything about one checkpoint: licence, paper, input, hash, where to get it."""
    from facedeid import weights

    facts = _brought(name) or _facts(_entry(name), weights.status(name))
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts:
        table.add_row(label, escape(text))
    out.print(table)


def _brought(name: str) -> list[tuple[str, str]]:
    """What is known of a file that comes along, by its name or file name; of others, nothing."""
    from facedeid import weights

    for known, file, licence, summary in _BUILT_IN:
        if name in (known, file):
            return [
                ("name", known),
                ("what it is", summary),
                ("licence", licence),
                ("commercial use", _use(licence)),
                ("file", file),
                ("comes with", "face_recognition_models"),
            ]
    for file in _shipped():
        if name in (file, Path(file).stem):
            facts = weights.shipped_facts(file)
            licence = facts.get("licence", "not known")
            return [
                ("name", Path(file).stem),
                ("what it is", facts.get("what", "")),
                ("licence", licence),
                ("commercial use", _use(licence)),
                ("file", file),
                ("size", _size(facts.get("size"))),
                ("sha256", facts.get("sha256", "not known")),
                ("card", facts.get("card", "none")),
                ("comes with", "facedeid"),
            ]
    return []


def _facts(known: "Checkpoint", status: "Status") -> list[tuple[str, str]]:
    published = known.sha256 or "not publicly known: trusted on first use, then enforced"
    facts = [
        ("name", known.name),
        ("what it is", known.summary),
        ("licence", known.licence),
        ("commercial use", _COMMERCIAL[known.commercial]),
        ("paper", known.paper),
        ("source", known.source),
        ("addresses", "\n".join(known.urls) or "none: by hand, from the source"),
        ("file", known.filename),
        ("size", _size(known.size) or "not known"),
        ("sha256", published),
        ("input", known.input),
        ("architecture", known.architecture),
        ("layout", known.layout + (" (converted on import)" if known.converted else "")),
        ("in the store", f"{_STATE[status.state]}: {status.path}"),
    ]
    if status.sha256 is not None and status.sha256 != known.sha256:
        facts.append(("held to", f"{status.sha256} ({status.trust})"))
    return facts


@app.command()
def download(name: Name) -> None:
    """Fetch a checkpoint into the store; a transfer that was cut off goes on where it stopped."""
    from facedeid import weights

    known = _entry(name)
    before = weights.status(name).state
    err.print(f"{known.name}: {escape(known.licence)}")
    with _bar(name) as progress:
        if known.converted:
            from facedeid import checkpoints

            path = checkpoints.download(name, progress)
        else:
            path = weights.download(name, progress)
    if before == "missing":
        _say_trust(weights.status(name))
    out.print(escape(str(path)))


@contextmanager
def _bar(name: str) -> Iterator["Progress"]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say_trust(status: "Status") -> None:
    if status.trust == "first use":
        err.print(
            f"No published hash of {status.name} is known. What came was trusted and recorded "
            f"(sha256 {status.sha256}); from now on the file is held to that."
        )


@app.command("import")
def import_(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The published file.", exists=True, dir_okay=False)],
) -> None:
    """Take a file that you fetched yourself into the store, after checking what it is."""
    from facedeid import weights

    if _entry(name).converted:
        from facedeid import checkpoints

        status = checkpoints.import_checkpoint(name, file)
    else:
        status = weights.import_file(name, file)
    _say_trust(status)
    out.print(escape(str(status.path)))


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="A name, or `all` that are in the store.")] = "all",
) -> None:
    """Hash files of the store again and compare."""
    from facedeid import weights

    if name != "all":
        _entry(name)
    found = weights.verify(name)
    table = Table("name", "state", Column("sha256", overflow="fold"), "known from", box=None)
    for status in found:
        table.add_row(status.name, _STATE[status.state], status.sha256 or "", status.trust)
    out.print(table if found else "the store is empty")
    if "missing" in (status.state for status in found):  # only where it was asked for by name
        raise WeightsError(f"not in the store: {name}")
    bad = [status.name for status in found if status.state != "verified"]
    if bad:
        raise WeightsError(f"not as they should be: {', '.join(bad)}")


@app.command()
def path(
    name: Annotated[str | None, typer.Argument(help="A checkpoint; without: the store.")] = None,
) -> None:
    """Print where the store is, or where one verified file is."""
    from facedeid import weights

    found = weights.store() if name is None else weights.locate(_entry(name).name)
    out.print(escape(str(found)))
