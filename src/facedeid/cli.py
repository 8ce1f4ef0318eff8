"""The command line. Thin: it reads options, calls the library, and prints.

Exit codes: 0 everything asked for was done; 1 something failed; 2 wrong usage; 3 a photo was not
released because a face in it could not be protected (`verify`: a face is still matched); 4 a photo
had no face, or none of those to protect, and was not released; 130 interrupted. The gravest applies
(1, then 3, then 4). Networks are imported only by commands that need them, so that `--help` answers
at once.
"""

import errno
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from facedeid import __version__
from facedeid._cli_console import application, console, encodable
from facedeid.defaults import METHOD
from facedeid.errors import FacedeidError, NoFaceError, OptionError

if TYPE_CHECKING:
    from facedeid.batch import Done, Run, Source
    from facedeid.methods import Method
    from facedeid.pipeline import Settings
    from facedeid.verification import Match

__all__ = ["app", "main"]

app = application(
    name="facedeid",
    help="Make faces in photos stop identifying anyone while the photos stay useful.",
    no_args_is_help=True,
)
out = console()
err = console(stderr=True)

FAILED, USAGE, UNPROTECTED, NO_FACE, INTERRUPTED = 1, 2, 3, 4, 130
CODES = {OptionError: USAGE, NoFaceError: NO_FACE}


Detector = Annotated[
    str, typer.Option(help="hog, cnn (finds profiles, slow), or the path of a YuNet .onnx file.")
]
MinFace = Annotated[int, typer.Option(help="Smallest face to look for, in pixels.", min=10)]
Require = Annotated[
    str, typer.Option(help="Operating point that counts as a match: library, best, far=1e-3.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
FirstFrame = Annotated[
    bool, typer.Option("--first-frame", help="Of animations, take the first frame, drop the rest.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"facedeid {__version__}")
        raise typer.Exit


@app.command()
def protect(
    inputs: Annotated[list[str], typer.Argument(help="Photos, folders, glob patterns.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "facedeid-out"
    ),
    method: Annotated[
        str, typer.Option("-m", "--method", help="NAME or NAME:option=value; see 'methods'.")
    ] = METHOD,
    strength: Annotated[
        float | None, typer.Option(help="Of feature-embedding: 0 (nothing) to 1.")
    ] = None,
    identity: Annotated[
        int | None,
        typer.Option(help="Of feature-embedding: number of one synthetic person for all."),
    ] = None,
    album: Annotated[
        bool | None,
        typer.Option("--album", help="Of feature-embedding: each person as one synthetic person."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of identity-dp: privacy budget of one release.")
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="Of fsap: how far from the original, 1 - cosine.")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Of private-encoder: 0 (private, unless given) to 1 (as it is)."),
    ] = None,
    target_similarity: Annotated[
        float | None,
        typer.Option(help="Of private-encoder, in place of beta: cosine by facedeid-mobile."),
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Releases of each photo, in draw-1, draw-2, ...", min=1)
    ] = 1,
    subject: Annotated[
        str | None,
        typer.Option(
            help="Whose budget is spent: a name, folder (the folder's name), cluster (each face, "
            "as dlib knows it). Without: each photo has its own."
        ),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="File of the budgets; see 'facedeid budget'.")
    ] = None,
    detector: Detector = "hog",
    min_face: MinFace = 24,
    require: Require = "library",
    recognizer: Annotated[
        list[str] | None,
        typer.Option(help="Who verifies, in place of dlib and facedeid-mobile (repeatable)."),
    ] = None,
    on_unprotected: Annotated[
        Literal["fail", "blur", "skip", "release"],
        typer.Option(
            help="When a face is still recognised: withhold the photo (fail), blur the face, leave "
            "the photo out without an error (skip), or release it all the same."
        ),
    ] = "fail",
    on_no_face: Annotated[
        Literal["copy", "skip", "fail"],
        typer.Option(
            help="When no face is found: copy the photo, or leave it out (skip: exit code 4, "
            "fail: 1)."
        ),
    ] = "skip",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Face to leave alone: number (from 0), left,top,right,bottom, or a photo of the "
            "person (repeatable)."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Protect only these; given as for --keep.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Write the boxes there to correct; if it exists, follow it."),
    ] = None,
    metadata: Annotated[
        Literal["strip", "keep-safe", "keep"],
        typer.Option(help="EXIF and the like; thumbnails are always dropped."),
    ] = "strip",
    first_frame: FirstFrame = False,
    seed: Annotated[int | None, typer.Option(help="Make random methods repeatable.")] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Worker processes.", min=1)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over, replacing earlier results.")
    ] = False,
    report_originals: Annotated[
        bool,
        typer.Option("--report-originals", help="Original faces in the report: IDENTIFIES PEOPLE."),
    ] = False,
    device: Device = "cpu",
) -> None:
    """Write a protected copy of every photo, and a report."""
    from facedeid.batch import check_together, collect, protect_folder
    from facedeid.methods import parse
    from facedeid.pipeline import Settings
    from facedeid.plan import Plan

    given = {
        "strength": strength,
        "identity": identity,
        "album": album,
        "epsilon": epsilon,
        "tau": tau,
        "beta": beta,
        "target_similarity": target_similarity,
    }
    chosen = parse(method, **{k: v for k, v in given.items() if v is not None})
    idle = _ineffective(chosen, draws=draws, subject=subject, ledger=ledger)
    for warning in (*chosen.warnings, *idle):
        _warn(warning)
    if plan is not None and not os.path.exists(plan):  # noqa: PTH110 (nor for long names)
        if not plan.absolute().parent.is_dir():
            raise OptionError(f"--plan {plan}: there is no such folder")
        options = {
            "detector": detector,
            "min_face": min_face,
            "first_frame": first_frame,
            "recognizers": tuple(recognizer) if recognizer else None,
            "keep": tuple(keep or ()),
            "only": tuple(only or ()),
            "device": device,
        }
        settings = Settings.of(chosen, options)
        check_together(
            settings, jobs=jobs, draws=draws, resume=resume, overwrite=overwrite, planned=True
        )
        found = collect(inputs, output)
        if found.links:
            _warn(found.linked)
        raise typer.Exit(_write_plan(found.sources, plan, settings))
    with _Progress() as progress:
        run = protect_folder(
            inputs,
            output,
            chosen,
            jobs=jobs,
            draws=draws,
            resume=resume,
            overwrite=overwrite,
            plan=None if plan is None else Plan.read(plan),
            report_originals=report_originals,
            started=progress.started,
            progress=progress.finished,
            detector=detector,
            min_face=min_face,
            recognizers=tuple(recognizer) if recognizer else None,
            require=require,
            on_unprotected=on_unprotected,
            on_no_face=on_no_face,
            keep=tuple(keep or ()),
            only=tuple(only or ()),
            metadata=metadata,
            first_frame=first_frame,
            seed=seed,
            device=device,
            subject=subject,
            ledger=None if ledger is None else str(ledger),
        )
    _summary(run)
    raise typer.Exit(_exit_code(run, on_no_face))


def _warn(text: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(text)}")


def _ineffective(
    method: "Method", *, draws: int, subject: str | None, ledger: Path | None
) -> list[str]:
    """What to say of options that do nothing with this method."""
    idle = []
    for option, value in (("--subject", subject), ("--ledger", ledger)):
        if value is not None and method.cost is None:
            idle.append(f"{option} does nothing: {method.name} spends no privacy budget")
    if draws > 1 and not method.varies:
        idle.append(f"--draws {draws}: {method.name} draws nothing, so all will be the same")
    return idle


class _Progress:
    """A progress bar on the terminal, and a line for each photo that was not released."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            "[progress.description]{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("protecting", total=None)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, total: int, already: int) -> None:
        if already:
            err.print(f"{already} of {total} photos were finished by the earlier run")
        self._bar.update(self._task, total=total, completed=already)

    def finished(self, item: "Done") -> None:
        self._bar.advance(self._task)
        for text in item.record.get("unused", ()):
            _warn(text)
        if item.status not in ("protected", "copied", "kept"):
            err.print(f"[yellow]{escape(item.photo)}[/]: {escape(_why(item))}")


def _why(item: "Done") -> str:
    """Its message without the photo's own name or path at the beginning."""
    message = str(item.record["message"]).removeprefix(f"{item.photo}: ")
    name = PurePath(item.photo).name
    folder, found, rest = message.partition(f"{name}: ")
    return rest if found and os.path.lexists(folder + name) else message


LABELS = {
    "protected": "protected",
    "kept": "all faces to be kept: written anew, no face changed",
    "copied": "without a face: written anew, no face changed",
    "released-unprotected": "RELEASED although a face is still recognisable",
    "withheld": "not released: a face could not be protected",
    "skipped": "skipped: a face could not be protected",
    "no-face": "not released: no face was found (look at them: detectors miss faces)",
    "none-selected": "not released: no face is one of those to protect",
    "error": "failed",
}


LEFT_ALONE = "files that are no photos, left alone (or of kinds not handled; the report lists them)"


def _summary(run: "Run") -> None:
    from facedeid.batch import NOT_FOLLOWED

    counts = run.counts
    table = Table(show_header=False, box=None, pad_edge=False)
    for status, label in LABELS.items():
        if counts[status]:
            table.add_row(str(counts[status]), label)
    if run.ignored:
        table.add_row(str(len(run.ignored)), LEFT_ALONE)
    if run.links:
        table.add_row(str(len(run.links)), NOT_FOLLOWED)
    if run.earlier:
        table.add_row(str(len(run.earlier)), "of earlier runs, in the report too")
    if run.interrupted:
        rest = run.total - len(run.done)
        table.add_row(str(rest), "not begun or not finished; go on with --resume")
    out.print(table)
    out.print(f"results  {escape(str(run.output))}")
    out.print(f"report   {escape(str(run.report_path))}")
    spent: Counter[str] = Counter()
    for item in run.done:
        spent.update({k: v or math.inf for k, v in item.record.get("charges", {}).items()})
    if spent:
        most = max(spent.values())
        out.print(f"privacy  at most ε = {most:g} of one person in this run; facedeid budget show")


def _exit_code(run: "Run", on_no_face: str) -> int:
    counts = run.counts
    if run.interrupted:
        return INTERRUPTED
    without = counts["no-face"] + counts["none-selected"]
    if counts["error"] or (without and on_no_face == "fail"):
        return FAILED
    if counts["withheld"]:
        return UNPROTECTED
    return NO_FACE if without else 0


def _write_plan(sources: "Sequence[Source]", path: Path, settings: "Settings") -> int:
    """The exit code: whether every photo could be read."""
    from rich.progress import track

    from facedeid.batch import selected
    from facedeid.plan import Plan, planned
    from facedeid.report import counted, write_whole

    choose = selected(settings, single=len(sources) == 1, warn=_warn)
    entries = [
        planned(
            source.path,
            source.relative,
            detector=settings.detector,
            min_face=settings.min_face,
            first_frame=settings.first_frame,
            choose=choose,
        )
        for source in track(sources, "looking for faces", console=err, disable=not err.is_terminal)
    ]
    write_whole(path, [Plan.text(entries)])
    faces = sum(len(entry["faces"]) for entry in entries)
    said = f"{counted(faces, 'face')} in {counted(len(entries), 'photo')}"
    out.print(f"{said}; nothing has been protected yet")
    for entry in entries:
        if "error" in entry:
            out.print(f"[red]{escape(entry['photo'])}[/]: {escape(entry['error'])}")
        elif not entry["faces"]:
            out.print(f"[yellow]no face found in {escape(entry['photo'])}[/]")
    without = ", without --keep and --only" if settings.keep or settings.only else ""
    out.print(f"correct {escape(str(path))}, then run the same command again{without}")
    return FAILED if any("error" in entry for entry in entries) else 0


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(help="The photo before.")],
    protected: Annotated[Path, typer.Argument(help="The photo after.")],
    detector: Detector = "hog",
    min_face: MinFace = 24,
    require: Require = "library",
    recognizer: Annotated[list[str] | None, typer.Option(help="Who judges (repeatable).")] = None,
    first_frame: FirstFrame = False,
    device: Device = "cpu",
) -> None:
    """Say for each face of ORIGINAL whether recognisers still match it in PROTECTED."""
    from facedeid import imaging
    from facedeid.models import Models
    from facedeid.pipeline import looks_of
    from facedeid.verification import compare

    before = imaging.read(original, first_frame=first_frame)
    after = imaging.read(protected, first_frame=first_frame)
    if before.rgb.shape != after.rgb.shape:
        raise OptionError(
            f"{original} has {before.width}×{before.height} pixels, {protected} "
            f"{after.width}×{after.height}: faces are compared place by place, so both must "
            "have the same size"
        )
    translucent = before.translucent or after.translucent
    looks = zip(
        ("", " on white", " on black"),
        looks_of(before, translucent),
        looks_of(after, translucent),
        strict=False,
    )
    models = Models(device)
    options: Any = {"require": require, "detector": detector, "min_face": min_face}
    found = [
        (f"{number}{page}", pair)
        for page, one, other in looks
        for number, pair in enumerate(compare(one, other, models, recognizer, **options))
    ]
    pairs = [pair for _, pair in found]
    if not pairs:
        err.print(f"no face was found in {escape(str(original))}")
        raise typer.Exit(NO_FACE)
    table = Table()
    for head in ("face", "box", "outcome", "facedeid-lpips"):
        table.add_column(head, overflow="fold")
    for head in ("recogniser", "aligned", "distance", "threshold"):
        table.add_column(head, overflow="fold")
    for number, pair in found:
        box = ",".join(str(round(v)) for v in pair.face.box)
        outcome = pair.verdict.outcome + (" (they disagree)" if pair.verdict.disagreement else "")
        change = f"{pair.perceptual:.3f}"
        for match in pair.verdict.matches:
            color = "red" if match.matched else "green"
            table.add_row(
                number,
                box,
                outcome,
                change,
                escape(match.recognizer),
                match.aligned,
                f"[{color}]{match.distance:.3f}[/]{_control(match)}",
                f"{match.threshold:g}",
            )
            number, box, outcome, change = "", "", "", ""
    out.print(table)
    if any(_control(match) for pair in pairs for match in pair.verdict.matches):
        out.print(CONTROL)
    matched = sum(not pair.verdict.protected for pair in pairs)
    out.print(f"{matched} of {len(pairs)} faces are still matched")
    raise typer.Exit(UNPROTECTED if matched else 0)


CONTROL = "* as near with the face painted over: hair or surroundings make it, so it is no match"


def _control(match: "Match") -> str:
    """A mark where a distance below the threshold is no match."""
    return " *" if not match.matched and match.distance < match.threshold else ""


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method in full.")] = None,
) -> None:
    """List the methods and their options."""
    from facedeid.methods import METHODS, create

    if name is not None:
        method = create(name)
        out.print(f"[bold]{name}[/]  {escape(method.summary)}  ({escape(method.source)})")
        out.print(escape(_dedent(type(method).__doc__ or "")))
        for option, value in method.options().items():
            out.print(f"  {option} = {escape(repr(value))}")
        return
    table = Table()
    for head in ("method", "what it does", "options (default)", "source"):
        table.add_column(head, overflow="fold")
    for key, kind in METHODS.items():
        options = ", ".join(f"{k}={v}" for k, v in kind().options().items())
        table.add_row(key, escape(kind.summary), escape(options), escape(kind.source))
    out.print(table)


def _dedent(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)


class _Through(TyperCommand):
    """A command that leaves all words after its name to somebody else, `--` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return args


def _mount(name: str, module: str, summary: str) -> None:
    """Add a group of commands that is imported when it is used."""

    @app.command(name, cls=_Through, help=summary, add_help_option=False)
    def run(context: typer.Context) -> None:
        group: Any = import_module(module)
        code = group.app(args=context.args, prog_name=f"facedeid {name}", standalone_mode=False)
        raise typer.Exit(code if isinstance(code, int) else 0)


_mount("budget", "facedeid._cli_budget", "Show and limit what releases have spent of privacy.")
_mount("sensitivity", "facedeid._cli_sensitivity", "Measure how far identity vectors lie apart.")
_mount("invert", "facedeid._cli_invert", "Show faces as the generator gives them back.")
_mount("models", "facedeid._cli_models", "List, download, import and check networks.")
_mount("evaluate", "facedeid._cli_evaluate", "Measure methods against recognisers on your photos.")
_mount("train", "facedeid._cli_train", "Train the networks that ship, or your own.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors that can be expected are printed in one line, without a traceback."""
    encodable()
    try:
        app(args=None if arguments is None else list(arguments))
    except FacedeidError as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(next((code for kind, code in CODES.items() if isinstance(error, kind)), FAILED))
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        with suppress(OSError):
            err.print(f"[red]error:[/] what is to be said cannot be written: {error.strerror}")
        sys.exit(FAILED)
