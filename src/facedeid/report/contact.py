"""Releases of one photo side by side."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from facedeid import imaging
from facedeid.report.journal import write_whole

__all__ = ["contact_sheet"]

GAP = 8


def contact_sheet(photos: Sequence[Path], target: Path, *, height: int = 320) -> None:
    """Write the photos, `height` pixels high, in one row to a JPEG file without metadata.

    Raises:
        PhotoError: one of them cannot be read.
        OutputError: the sheet cannot be written.
    """
    tiles = []
    for path in photos:
        picture = imaging.read(path).to_pil().convert("RGB")
        width = max(1, round(height * picture.width / picture.height))
        tiles.append(picture.resize((width, height), Image.Resampling.LANCZOS))
    total = sum(tile.width + GAP for tile in tiles) - GAP
    sheet, x = Image.new("RGB", (max(1, total), height), "white"), 0
    for tile in tiles:
        sheet.paste(tile, (x, 0))
        x += tile.width + GAP
    data = io.BytesIO()
    sheet.save(data, "jpeg", quality=90)
    write_whole(target, [data.getvalue()])
