"""Pictures side by side: originals, what each method made of them, and the difference times ten.

A grid shows original faces and so identifies people. Its file is readable by its owner only and
carries a mark, by which the page that embeds it knows to say so.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from facedeid.errors import OptionError
from facedeid.report import write_whole

__all__ = ["GAIN", "identifies", "picture_grid", "signed_difference", "write_grid"]

Pixels = NDArray[np.uint8]
Row = tuple[Pixels, Mapping[str, Pixels]]

GAIN = 10
"""Amplification of differences; what exceeds ±12 levels of 255 is clipped."""
GAP, HEAD, FONT = 6, 46, 16
"""Pixels between pictures, height of the column heads, size of their letters."""
PAPER, INK, SOFT = (255, 255, 255), (27, 31, 39), (91, 100, 114)
SPELT = str.maketrans(
    {"σ": "sigma", "ε": "epsilon", "β": "beta", "λ": "lambda", "γ": "gamma", "×": "x"}
)
"""Symbols that the font of the heads lacks."""
MARK = ("facedeid", "identifies people")
"""Text chunk in the PNG file of a grid."""


def signed_difference(before: Pixels, after: Pixels) -> Pixels:
    """`after - before` times GAIN around grey (128), clipped to 0..255, per channel.

    Args:
        before: H×W×3 RGB.
        after: the same shape.

    Raises:
        OptionError: the shapes differ or are not H×W×3, or these are not 8-bit pictures.
    """
    for picture in (before, after):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise OptionError(f"a grid wants H×W×3 uint8, got {picture.shape} {picture.dtype}")
    if before.shape != after.shape:
        raise OptionError(f"original and result differ in shape: {before.shape}, {after.shape}")
    change = (after.astype(np.int16) - before) * GAIN + 128
    return np.asarray(change.clip(0, 255), np.uint8)


def picture_grid(rows: Sequence[Row], *, side: int = 160) -> Pixels:
    """One picture of many: a row per original, and two columns per method.

    Args:
        rows: (original, method -> result), H×W×3 uint8 RGB, of one shape within a row. Methods
            come in the order in which they first occur; one that lacks a result leaves its cells
            empty.
        side: of the square, in pixels, into which each picture is fitted.

    Returns:
        uint8 RGB: column heads, then per row the original, and per method the result and
        `signed_difference`.

    Raises:
        OptionError: there is no row, or pictures do not fit together.
    """
    if not rows:
        raise OptionError("a picture grid wants at least one row")
    methods = list(dict.fromkeys(method for _, results in rows for method in results))
    step = side + GAP
    size = (GAP + step * (1 + 2 * len(methods)), HEAD + step * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    _heads(ImageDraw.Draw(sheet), methods, side)
    for number, (original, results) in enumerate(rows):
        cells: list[Pixels | None] = [original]
        signed_difference(original, original)  # complains about what is not a picture
        for method in methods:
            result = results.get(method)
            change = None if result is None else signed_difference(original, result)
            cells += [result, change]
        for column, cell in enumerate(cells):
            if cell is not None:
                _paste(sheet, cell, (GAP + step * column, HEAD + step * number), side)
    return np.asarray(sheet)


def write_grid(path: Path, grid: Pixels) -> Path:
    """Write a grid as PNG, readable by its owner only and marked as identifying people.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written; an older file is still there.
    """
    facts = PngImagePlugin.PngInfo()
    facts.add_text(*MARK)
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "PNG", pnginfo=facts, optimize=True)
    write_whole(path, [buffer.getvalue()], private=True)
    return path


def identifies(path: Path) -> bool:
    """Whether a picture file is one that `write_grid` marked."""
    if path.suffix != ".png":
        return False
    with PngImagePlugin.PngImageFile(path) as picture:  # `Image.open` refuses large ones
        return bool(picture.info.get(MARK[0]) == MARK[1])


def _paste(sheet: Image.Image, cell: Pixels, corner: tuple[int, int], side: int) -> None:
    """A picture, fitted into its square and centred there."""
    height, width = cell.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    picture = Image.fromarray(np.ascontiguousarray(cell)).resize(size, way)
    left, top = corner
    sheet.paste(picture, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))


def _heads(draw: ImageDraw.ImageDraw, methods: Sequence[str], side: int) -> None:
    """The method above its two columns, and below it what each of them is."""
    step = side + GAP
    words = f"difference x {GAIN}"
    _text(draw, (GAP, 24), "original", side, INK)
    for number, method in enumerate(methods):
        left = GAP + step * (1 + 2 * number)
        _text(draw, (left, 4), method, 2 * side, INK)
        _text(draw, (left, 24), "result", side, SOFT)
        _text(draw, (left + step, 24), words, side, SOFT)


def _text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    words: str,
    width: int,
    colour: tuple[int, int, int],
) -> None:
    """Words that stay inside a width: smaller letters first, then cut off."""
    words, size = words.translate(SPELT), FONT
    while size > 11 and ImageFont.load_default(size).getlength(words) > width:
        size -= 1
    font = ImageFont.load_default(size)
    while len(words) > 4 and font.getlength(words) > width:
        words = words[:-4] + "..."
    draw.text(corner, words, fill=colour, font=font)
