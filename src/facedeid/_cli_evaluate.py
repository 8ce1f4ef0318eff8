"""`facedeid evaluate`: methods against recognisers on photos of known people, in one command."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table as RichTable

from facedeid import __version__
from facedeid._cli_console import application, console

if TYPE_CHECKING:
    from facedeid.evaluation.embedding import Progress
    from facedeid.evaluation.results import Results
    from facedeid.evaluation.tables import Table

__all__ = ["app"]

app = application()
out = console()
err = console(stderr=True)


@app.command()
def evaluate(
    data: Annotated[
        str, typer.Option(help="lfw:PATH, people:PATH (person/photo.jpg) or photos:PATH.")
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME:option=value, separated by commas (repeatable)."),
    ] = None,
    recognizers: Annotated[
        list[str] | None,
        typer.Option(help="Who judges, by commas (repeatable). Without: dlib and facedeid-mobile."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for results.")] = Path(
        "facedeid-evaluation"
    ),
    limit: Annotated[
        int | None, typer.Option(help="First N genuine pairs (or photos). Without: all.", min=1)
    ] = None,
    threshold_pairs: Annotated[
        int | None,
        typer.Option(
            help="Untouched pairs of each kind for thresholds. Without: all, or as many as "
            "--limit, but at least 300."
        ),
    ] = None,
    limit_ranked: Annotated[int, typer.Option(help="People in 1:N; 0: none.", min=0)] = 200,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD:option=v1|v2|v3; several options with as many values change together "
            "(repeatable)."
        ),
    ] = None,
    robustness: Annotated[
        str | None, typer.Option(help="all, or operations such as jpeg-10,webp-30.")
    ] = None,
    attackers: Annotated[
        str | None, typer.Option(help="all, or attackers such as parrot,retrained.")
    ] = None,
    attack_limit: Annotated[
        int, typer.Option(help="Pairs for --robustness and --attackers at most.", min=1)
    ] = 300,
    realism: Annotated[
        list[str] | None,
        typer.Option(help="squeezenet[=FILE], embedding:RECOGNISER or onnx:FILE (repeatable)."),
    ] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option(help="Weight files of LPIPS: features, heads (twice); or store: AlexNet's."),
    ] = None,
    detector: Annotated[str, typer.Option(help="hog, cnn, or a YuNet .onnx file.")] = "hog",
    grid: Annotated[
        int, typer.Option(help="Photos in the picture grid: IDENTIFIES PEOPLE; 0: none.", min=0)
    ] = 4,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn; 0 or more.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that several evaluations may share. Without: OUTPUT/cache."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure what methods do to recognition and to photos; run again to go on."""
    from facedeid.evaluation import choices
    from facedeid.evaluation import output as writing
    from facedeid.evaluation.attackers import ATTACKERS
    from facedeid.evaluation.datasets import load
    from facedeid.evaluation.robustness import ROBUSTNESS
    from facedeid.evaluation.run import Settings
    from facedeid.evaluation.run import evaluate as run
    from facedeid.models import Models

    settings = Settings(
        methods=choices.methods(methods or ()),
        recognizers=choices.recognizers(recognizers or ()) or None,
        limit=limit,
        threshold_pairs=threshold_pairs,
        ranked=limit_ranked,
        sweeps=choices.sweeps(sweep or ()),
        robustness=choices.names(robustness, ROBUSTNESS, "robustness"),
        attackers=choices.names(attackers, ATTACKERS, "attackers"),
        attack_limit=attack_limit,
        realism=tuple(text.replace("squeezenet=", "squeezenet:", 1) for text in realism or ()),
        lpips=tuple(lpips or ()),
        detector=detector,
        seed=seed,
    )
    models = Models(device)
    kept = cache or output / writing.CACHE
    dataset = load(data, (kept, output / writing.CACHE, output / writing.PLOTS))
    writing.claim(output)
    err.print(escape(dataset.summary))
    with _Bars() as bars:
        results = run(dataset, settings, kept, models=models, report=bars.begin)
    for key, why in list(results.originals.unreadable.items())[:5]:
        err.print(f"[yellow]warning:[/] {escape(key)} is left out: {escape(why)}")
    page = writing.write_results(
        output, results, _facts(results, settings.seed), seed=seed, grid=grid, warn=_warn
    )
    _show(results)
    out.print(f"results  {escape(str(page))}")


def _warn(text: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(text)}")


class _Bars:
    """A bar on the terminal for what is going on; lines where there is no terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", style="progress.description", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "_Bars":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, stage: str) -> "Progress":
        """A stage; gives whom to tell about it."""
        self._bar.reset(self._task, description=stage, total=None)
        said = False

        def progress(done: int, total: int) -> None:
            nonlocal said
            self._bar.update(self._task, completed=done, total=total or None)
            if not said and not err.is_terminal:
                err.print(escape(stage))
                said = True

        return progress


def _facts(results: "Results", seed: int) -> dict[str, str]:
    import torch

    subjects = results.subjects
    return {
        "data": results.dataset.summary,
        "genuine pairs": f"{len(subjects.pairs):,}",
        "photos released": f"{len(subjects.unique):,} and {3 * len(subjects.ranked):,} for 1:N",
        "untouched pairs for thresholds": f"{len(subjects.fitting):,}",
        "left out": f"{subjects.dropped:,} for want of a face",
        "detector": Path(results.originals.detector).name,
        "seed": str(seed),
        "versions": f"facedeid {__version__}, torch {torch.__version__}",
        "command": _command(sys.argv),
    }


def _command(words: Sequence[str]) -> str:
    """As typed, but files without their folders: these say whose machine it was."""
    if words[1:2] != ["evaluate"]:
        return "not from the command line"
    short = [re.sub(r"(?<![^:=,])[^:=,]*[/\\](?=[^/\\])", "", word) for word in words[1:]]
    return shlex.join(["facedeid", *short])


def _show(results: "Results") -> None:
    from facedeid.evaluation.sheets import headline_table, tables

    _print(headline_table(results))
    for table in tables(results):
        if table.name == "cost":
            _print(table)


def _print(table: "Table") -> None:
    from facedeid.evaluation.tables import text_of

    shown = RichTable(title=escape(table.title), title_justify="left")
    for head in table.columns:
        shown.add_column(head, overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(text_of(cell)) for cell in row))
    out.print(shown)
