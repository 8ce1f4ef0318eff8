"""Releases of one photo side by side."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from facedeid import imaging
from facedeid.report.journal import write_whole

__all__ = ["contact_sheet"]

GAP = 8
WIDEST = 65_500
"""Pixels of a side of a JPEG file."""


def contact_sheet(photos: Sequence[Path], target: Path, *, height: int = 320) -> None:
    """Write one photo or more, `height` pixels high, in one row to a JPEG file without metadata.

    Panoramas are made smaller, so that the sheet is no wider than JPEG allows.

    Raises:
        PhotoError: one of them cannot be read.
        OutputError: the sheet cannot be written.
    """
    tiles, widest = [], WIDEST // len(photos) - GAP
    for path in photos:
        picture = Image.fromarray(imaging.read(path).rgb8)
        scale = min(height / picture.height, widest / picture.width)
        size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
        tiles.append(picture.resize(size, Image.Resampling.LANCZOS))
    total = sum(tile.width + GAP for tile in tiles) - GAP
    tallest = max(tile.height for tile in tiles)
    sheet, x = Image.new("RGB", (total, tallest), "white"), 0
    for tile in tiles:
        sheet.paste(tile, (x, 0))
        x += tile.width + GAP
    data = io.BytesIO()
    sheet.save(data, "jpeg", quality=90)
    write_whole(target, [data.getvalue()])
