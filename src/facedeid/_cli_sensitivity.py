"""`facedeid sensitivity`: how far apart the identity vectors of a reference set lie."""

import json
import os
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from facedeid._cli_console import application, console
from facedeid.errors import NoFaceError

__all__ = ["app"]

app = application()
out = console()
err = console(stderr=True)


@app.command()
def sensitivity(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders, glob patterns.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the figures there (JSON).")
    ] = None,
    detector: Annotated[str, typer.Option(help="hog, cnn, or a YuNet .onnx file.")] = "hog",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure the empirical sensitivity of identity-dp over the faces of PHOTOS.

    That is the largest L1 distance between two identity vectors, as in the paper.

    It guarantees nothing for a face outside of PHOTOS; the bounded one, the default, does.
    """
    import torch
    from rich.progress import track

    from facedeid import imaging
    from facedeid.batch import collect
    from facedeid.errors import OutputError, PhotoError
    from facedeid.faces import align, detect, frame
    from facedeid.models import Models
    from facedeid.privacy import bounded, empirical
    from facedeid.report import counted, write_whole

    if output is not None and os.path.exists(output):  # noqa: PTH110 (nor for long names)
        raise OutputError(f"{output} exists; choose another file")
    if output is not None and not output.absolute().parent.is_dir():
        raise OutputError(f"--output {output}: there is no such folder")
    models = Models(device)
    dlib, net = models.recognizer("dlib"), models.identity
    found = []
    inputs = collect(photos, None)
    if inputs.links:
        err.print(f"[yellow]warning:[/] {inputs.linked}")
    sources = inputs.sources
    for source in track(sources, "looking", console=err, disable=not err.is_terminal):
        try:
            rgb = imaging.read(source.path).rgb8
        except PhotoError as error:
            err.print(f"[yellow]left out[/]: {escape(str(error))}")
            continue
        for face in detect(rgb, detector=detector):  # read as the method reads them
            place = frame(face)
            points = torch.from_numpy(place.to_frame(face.landmarks)).float()
            with torch.no_grad():
                found.append(dlib.embed(align(rgb, place)[None], points[None]).cpu())
    vectors = torch.cat(found) if found else torch.zeros(0, net.IDENTITY)
    if len(vectors) < 2:
        raise NoFaceError(f"{len(vectors)} faces were found; a sensitivity needs two at least")
    units = net.unit(vectors)
    measured, bound = _upwards(empirical(units).value), bounded(units.shape[1]).value
    figures = {
        "empirical_sensitivity": measured,
        "bounded_sensitivity": bound,
        "photos": len(sources),
        "faces": len(units),
        "guarantee": "none for a face outside of these photos",
    }
    if output is not None:
        write_whole(output, [json.dumps(figures, indent=2) + "\n"])
    out.print(f"{counted(len(units), 'face')} in {counted(len(sources), 'photo')}")
    out.print(f"empirical sensitivity {measured:.6g} (no guarantee for a face outside of these)")
    out.print(f"bounded sensitivity   {bound:.6g} (holds for every face)")
    out.print(f"use it: --method identity-dp:sensitivity=empirical,measured={measured:.6g}")


def _upwards(value: float) -> float:
    """With six digits, and no smaller: a sensitivity that is too small promises too much."""
    rounded = Decimal(value).normalize(Context(prec=6, rounding=ROUND_CEILING))
    return float(rounded)
