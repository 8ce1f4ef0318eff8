"""`facedeid invert`: a face as the generator gives it back, beside the photo."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from facedeid._cli_console import application, console
from facedeid.errors import NoFaceError, OutputError

__all__ = ["app"]

app = application()
out = console()


@app.command()
def invert(
    photo: Annotated[Path, typer.Argument(help="The photo; every face in it is a row.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Picture to write; must not exist.")
    ] = Path("facedeid-inverted.png"),
    refine: Annotated[int, typer.Option(help="Steps of latent optimisation.", min=0)] = 0,
    tune: Annotated[int, typer.Option(help="Steps of pivotal tuning, after that.", min=0)] = 0,
    pair: Annotated[str, typer.Option(help="facedeid, which ships, or psp.")] = "facedeid",
    detector: Annotated[str, typer.Option(help="hog, cnn, or a YuNet .onnx file.")] = "hog",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Encode each face into W+ and decode it: photo, reconstruction, difference ×2, in a row."""
    import torch

    from facedeid import imaging
    from facedeid.faces import align, detect, frame
    from facedeid.inversion import invert as inverted
    from facedeid.inversion import refined, tuned
    from facedeid.losses import ssim
    from facedeid.models import Models

    if os.path.exists(output):  # noqa: PTH110 - False for a name that is too long
        raise OutputError(f"{output} exists; choose another file")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"--output {output}: there is no such folder")
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise OutputError(f"--output {output}: write a .png, .jpg or .webp file")
    models = Models(device)
    net = models.pair(pair)
    rgb = imaging.read(photo).rgb8
    faces = detect(rgb, detector=detector)
    if not faces:
        raise NoFaceError(f"{photo}: no face was found")
    rows = []
    for number, face in enumerate(faces):
        place = frame(face, 256)
        crop = align(rgb, place)[None].to(models.device)
        points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
        started = time.perf_counter()
        found = inverted(net, crop, points)
        if refine:
            found = refined(net, found, models.perceptual, steps=refine)
        if tune:
            found = tuned(net, found, models.perceptual, steps=tune)[1]
        spent = time.perf_counter() - started
        made = found.base.clamp(-1, 1)
        with torch.no_grad():
            pasted = found.cover + found.mask * (made - found.cover)
            figures = {
                "SSIM": ssim(found.cover, made),
                "SSIM pasted": ssim(found.cover, pasted),
                "facedeid-lpips": models.perceptual(found.cover, made),
            }
            for judge in models.recognizers():
                vectors = [judge.embed(x, found.landmarks) for x in (found.cover, made)]
                figures[f"distance {judge.name}"] = judge.distance(*vectors)
        words = ", ".join(f"{name} {value.item():.3f}" for name, value in figures.items())
        out.print(f"face {number}: {words}; {spent:.2f} s")
        difference = (made - found.cover).abs().clamp_max(1) * 2 - 1
        rows.append(torch.cat([found.cover[0], made[0], difference[0]], 2))
    picture = ((torch.cat(rows, 1).cpu().permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    imaging.write(imaging.from_array(picture), output)
    out.print(f"{escape(str(output))}: photo, reconstruction at {net.side} px, difference ×2")
