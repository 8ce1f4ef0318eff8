"""Crops and difference pictures for the page, small enough to travel between processes.

A page without originals must not identify anyone. Two pictures would: the exact difference of,
say, a pixelated face, which shows the original's edges; and the crop of a face that a recogniser
still matches, which is as good as the original. So the first is replaced by a coarse map of how
much changed where, and the second is left out.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facedeid.errors import OptionError

if TYPE_CHECKING:
    from facedeid.pipeline import PhotoReport, Previews

__all__ = ["CELL", "COLOURS", "GAIN", "LEVELS", "difference", "encode_previews"]

CELL = 16
"""Side of the cells of the coarse map in pixels: 10 cells across a crop of 160 px."""
LEVELS = (1, 4, 8, 16, 32)
"""Where one colour of the coarse map ends and the next begins, in 8-bit luma. Few levels, because
the mean change under a solid mask is the face itself, at the resolution of the cells."""
COLOURS = (
    (31, 34, 48),
    (59, 47, 107),
    (123, 50, 148),
    (200, 69, 107),
    (245, 138, 75),
    (253, 227, 140),
)
GAIN = 10
"""Amplification of the exact difference."""
QUALITY = 80


def difference(
    before: NDArray[np.uint8], after: NDArray[np.uint8], *, exact: bool
) -> NDArray[np.uint8]:
    """What a method changed, as a picture.

    Args:
        before: H×W×3 RGB.
        after: the same shape.
        exact: the absolute difference per channel times GAIN, clipped: it shows the original's
            edges and so identifies. Otherwise the mean absolute change of luma per CELL×CELL
            pixels in six colours, which carries no detail finer than that.

    Returns:
        uint8 RGB: H×W×3 if exact; otherwise one pixel per cell, ⌈H/CELL⌉×⌈W/CELL⌉×3.

    Raises:
        OptionError: the shapes differ or are not H×W×3.
    """
    if before.shape != after.shape or before.ndim != 3 or before.shape[2] != 3:
        raise OptionError(f"difference wants two H×W×3, got {before.shape} and {after.shape}")
    if exact:
        gained = np.abs(after.astype(np.int16) - before) * GAIN
        return np.asarray(np.minimum(gained, 255), np.uint8)
    luma = np.array([0.299, 0.587, 0.114])
    change = np.abs(after @ luma - before @ luma)
    rows, columns = (np.arange(0, n, CELL) for n in change.shape)
    sums = np.add.reduceat(np.add.reduceat(change, rows, 0), columns, 1)
    sizes = [
        np.diff(np.append(starts, n))
        for starts, n in zip((rows, columns), change.shape, strict=True)
    ]
    level = np.digitize(sums / np.outer(*sizes), LEVELS)
    return np.asarray(np.array(COLOURS, np.uint8)[level])


def encode_previews(
    report: "PhotoReport", previews: Sequence["Previews"], *, originals: bool
) -> list[dict[str, str]]:
    """Pictures of the protected faces of one photo, JSON-ready.

    Args:
        report: of the photo; its faces that were not kept belong to the previews, in order.
        previews: crops before and after.
        originals: also what identifies: the crop before, the exact difference, and crops after
            even of photos that are not protected.

    The list belongs in the run's own state for resuming; with originals it identifies people.

    Returns:
        Per preview `face` (its number), `difference` and perhaps `after` and `before`, as data
        URIs. Without originals `after` is there only when the photo's status is `protected`: in
        the others a recogniser still matches somebody.
    """
    numbers = [face.index for face in report.faces if face.outcome != "kept"]
    shown = []
    for number, preview in zip(numbers, previews, strict=True):
        change = difference(preview.before, preview.after, exact=originals)
        entry = {"face": str(number), "difference": _uri(change, lossless=not originals)}
        if originals or report.status == "protected":
            entry["after"] = _uri(preview.after)
        if originals:
            entry["before"] = _uri(preview.before)
        shown.append(entry)
    return shown


def _uri(rgb: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """A data URI: PNG where lossless, WebP otherwise."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=QUALITY)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
