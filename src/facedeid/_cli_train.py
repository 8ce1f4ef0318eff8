"""`facedeid train`: one recipe, time-boxed, resumable."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from facedeid._cli_console import application, console
from facedeid.errors import OptionError, OutputError, TrainingError
from facedeid.weights import sha256_of

__all__ = ["app"]

app = application()
out = console(markup=False)


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="recognizer, perceptual, landmarks, feature-embedding[-paper], "
            "identity-dp[-paper], autoencoder, joint, generator, encoder or "
            "private-encoder[-paper]."
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or tar archive of aligned photos (repeatable)."),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="dlib, or an .onnx or .safetensors file; encoder: generator=FILE; the paper "
            "recipes: recognizer=NAME, and feature-embedding-paper also vgg19=FILE, lpips=FILE, "
            "generated=FOLDER, object=FOLDER (repeatable)."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder. Without: facedeid-train/RECIPE.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Stop and save after 90s, 8m, 1.5h, from the start of the command; run again to "
            "go on."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Hyper-parameter, name=value (repeatable)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="bfloat16 where the recipe allows it. Without: if it is fast here.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many photos of each source.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Two steps, an estimate, nothing written.")
    ] = False,
) -> None:
    """Train a network, or go on where the last run in the same folder stopped."""
    begun = time.monotonic()
    from facedeid.models import device_of
    from facedeid.training.data import load_faces
    from facedeid.training.loop import Options, seconds
    from facedeid.training.loop import train as run
    from facedeid.training.recipes import configured

    try:
        chosen = configured(recipe, settings or ())
        allowed = None if budget is None else seconds(budget)
    except TrainingError as error:
        raise OptionError(str(error)) from error
    on = device_of(device)
    if not 0 <= seed < 2**63:
        raise OptionError(f"--seed {seed}: give a whole number from 0 to 2**63 - 1")
    given = {setting.partition("=")[0] for setting in settings or ()}
    small = {k: v for k, v in chosen.small.items() if dry_run and k not in given}
    reduced = {k: getattr(chosen, k) for k, v in small.items() if getattr(chosen, k) != v}
    chosen = replace(chosen, **small)
    folder = output or Path("facedeid-train") / recipe
    if data and not dry_run:
        _apart(folder, data)
        _make(folder)
    faces = load_faces(data or [], size=chosen.side, limit=limit)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if dry_run else folder
        options = Options(
            out=place,
            budget=allowed,
            begun=begun,
            device=device,
            bf16=bf16,
            seed=seed,
            dry_run=dry_run,
            reduced=reduced,
            facts={"teacher_files": _files(teacher or ())},
        )
        try:
            task = chosen.task(faces, teacher or [], place, on, seed)
            outcome = run(chosen, task, options, say=out.print)
        except OSError as error:  # a full disk, most likely
            raise OutputError(f"{place}: {error.strerror or error}; run again to go on") from error
    if not dry_run:
        state = "finished" if outcome.finished else "stopped by the budget; run again to go on"
        out.print(f"{folder / recipe}.safetensors: step {outcome.step}, {state}")


def _apart(folder: Path, data: list[Path]) -> None:
    """Check that pictures of the run will not be taken for photos when it goes on."""
    for source in data:
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise OptionError(f"-o {folder} lies in --data {source}; choose another folder")


def _files(teachers: Sequence[str]) -> list[str]:
    """Hashes of the files among them, with or without `kind=`, in an order of their own."""
    named = {part for text in teachers for part in (text, text.partition("=")[2])}
    files = (Path(name) for name in named if os.path.isfile(name))  # noqa: PTH113 (any length)
    return sorted(sha256_of(path)[:12] for path in files)


def _make(folder: Path) -> None:
    """The folder, before work is done whose result could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"-o {folder}: {error.strerror}; name a folder that can be made and written to"
        ) from error
