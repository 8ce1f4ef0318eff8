"""`make demo`: protect the real portraits that come with scikit-image and matplotlib."""

import shutil
import sys
from pathlib import Path

from rich.console import Console

from facedeid.batch import protect_folder
from facedeid.errors import FacedeidError

METHODS = ("pixelate", "blur", "mask:shape=ellipse,color=[120,120,120]")


def portraits(folder: Path) -> None:
    """Put two public-domain portraits there: Eileen Collins (NASA), Grace Hopper (US Navy)."""
    import matplotlib
    import skimage.data

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    astronaut = Path(skimage.data.__file__).parent / "astronaut.png"
    folder.mkdir(parents=True, exist_ok=True)
    for photo in (hopper, astronaut):
        shutil.copyfile(photo, folder / photo.name)


def run(folder: Path) -> int:
    """Protect the portraits with each method; the number of photos that were not protected."""
    console = Console(highlight=False, soft_wrap=True)
    originals = folder / "originals"
    portraits(originals)
    failed = 0
    for method in METHODS:
        name = method.partition(":")[0]
        result = protect_folder(originals, folder / name, method, overwrite=True, seed=0)
        protected = result.counts["protected"]
        failed += len(result.done) - protected
        console.print(f"[bold]{method}[/]: {protected} of {len(result.done)} photos protected")
        console.print(f"  pictures  {result.output.resolve()}")
        console.print(f"  report    {result.report_path.resolve()}")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(1 if run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")) else 0)
    except FacedeidError as error:
        sys.exit(f"error: {error}")
