"""`make demo`: protect the real portraits that come with scikit-image and matplotlib."""

import shutil
import sys
from pathlib import Path

from PIL import Image

from facedeid import imaging
from facedeid._cli_console import console
from facedeid.batch import protect_folder
from facedeid.errors import FacedeidError
from facedeid.methods import parse

METHODS = (
    "feature-embedding",
    "identity-dp",
    "pixelate",
    "blur",
    "mask:shape=ellipse,color=[120,120,120]",
)
DRAWS = 4
"""Times at most that a method with noise of its own is tried until no photo is withheld; each draw
spends its budget again."""


def portraits(folder: Path) -> None:
    """Put two public-domain portraits there: Eileen Collins (NASA), Grace Hopper (US Navy)."""
    import matplotlib
    import skimage.data

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    astronaut = Path(skimage.data.__file__).parent / "astronaut.png"
    folder.mkdir(parents=True, exist_ok=True)
    for photo in (hopper, astronaut):
        shutil.copyfile(photo, folder / photo.name)


def overview(folder: Path, height: int = 320) -> Path:
    """One picture with the portraits as they were and after each method, side by side."""
    columns = [folder / "originals", *(folder / method.partition(":")[0] for method in METHODS)]
    rows = []
    for photo in sorted(columns[0].iterdir()):
        pictures = [imaging.read(column / photo.name).to_pil().convert("RGB") for column in columns]
        width = round(height * pictures[0].width / pictures[0].height)
        rows.append([picture.resize((width, height)) for picture in pictures])
    widths = [max(row[i].width for row in rows) for i in range(len(columns))]
    page = Image.new("RGB", (sum(widths), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for i, picture in enumerate(row):
            page.paste(picture, (sum(widths[:i]) + (widths[i] - picture.width) // 2, y * height))
    target = folder / "overview.png"
    page.save(target)
    return target


def run(folder: Path) -> int:
    """Protect the portraits with each method; the number of photos that were not protected."""
    out = console()
    originals = folder / "originals"
    portraits(originals)
    failed = 0
    for method in METHODS:
        name = method.partition(":")[0]
        seedable = parse(method).seedable
        for _ in range(1 if seedable else DRAWS):
            result = protect_folder(
                originals,
                folder / name,
                method,
                overwrite=True,
                seed=0 if seedable else None,
                ledger=str(folder / "budget.sqlite"),
            )
            if result.counts["protected"] == len(result.done):
                break
        protected = result.counts["protected"]
        failed += len(result.done) - protected
        out.print(f"[bold]{method}[/]: {protected} of {len(result.done)} photos protected")
        out.print(f"  pictures  {result.output.resolve()}")
        out.print(f"  report    {result.report_path.resolve()}")
    if not failed:
        out.print(f"[bold]side by side[/]: {overview(folder).resolve()}")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(1 if run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")) else 0)
    except FacedeidError as error:
        sys.exit(f"error: {error}")
