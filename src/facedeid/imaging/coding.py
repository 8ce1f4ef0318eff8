"""How a photo's file was compressed, to write the result the same way."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from facedeid.imaging.photo import Coding

__all__ = ["coding"]


def coding(image: Any, data: bytes, format: str, orientation: int) -> Coding:
    """The coding of an opened image; `orientation` as in EXIF, since tables turn too."""
    if format == "JPEG":
        return _jpeg_coding(image, turned=orientation > 4)
    return Coding(
        format,
        lossless=format == "WEBP" and b"VP8L" in _chunk_names(data),
        compression=image.info.get("compression") if format == "TIFF" else None,
    )


def _jpeg_coding(image: Any, *, turned: bool) -> Coding:
    """Tables and sub-sampling of the first two components; both turn with the picture."""
    tables, layers = image.quantization, image.layer
    used = [tuple(max(1, min(255, v)) for v in tables[layer[3]]) for layer in layers[:2]]
    if turned:
        used = [tuple(np.reshape(table, (8, 8)).T.ravel().tolist()) for table in used]
    across, down = layers[0][1], layers[0][2]
    if len(layers) > 1:
        across, down = across // max(layers[1][1], 1), down // max(layers[1][2], 1)
    if turned:
        across, down = down, across
    adobe = image.info.get("adobe_transform")
    return Coding(
        "JPEG",
        qtables=tuple(used),
        subsampling=0 if across < 2 else 1 if down < 2 else 2,
        progressive=bool(image.info.get("progressive")),
        plain_rgb=len(layers) == 3 and adobe == 0,
    )


def _chunk_names(data: bytes) -> Iterator[bytes]:
    """Names of the chunks of a RIFF file."""
    at = 12
    while at + 8 <= len(data):
        yield data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
