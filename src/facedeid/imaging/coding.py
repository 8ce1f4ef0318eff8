"""How a photo's file was compressed, to write the result the same way."""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from facedeid.imaging.photo import Coding

__all__ = ["avif_colour", "coding"]


def coding(image: Any, data: bytes, format: str, orientation: int) -> Coding:
    """The coding of an opened image; `orientation` as in EXIF, since tables turn too."""
    if format == "JPEG":
        return _jpeg_coding(image, turned=orientation > 4)
    return Coding(
        format,
        lossless=format == "WEBP" and b"VP8L" in _chunk_names(data),
        compression=image.info.get("compression") if format == "TIFF" else None,
        colour=_colour(image, data, format),
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


def _colour(image: Any, data: bytes, format: str) -> tuple[int, int] | None:
    found = (0, 0)
    if format == "AVIF":
        at = avif_colour(data)
        found = struct.unpack_from(">HH", data, at) if at else found
    elif profile := image.info.get("nclx_profile"):
        found = int(profile["color_primaries"]), int(profile["transfer_characteristics"])
    return found if 1 <= found[0] <= 12 and 1 <= found[1] <= 18 else None  # all that x265 knows


def avif_colour(data: bytes) -> int | None:
    """Where the numbers of primaries and transfer lie in an AVIF file; None if it has none."""
    box = data.find(b"colrnclx", 0, 1 << 16)
    return box + 8 if 0 <= box <= len(data) - 12 else None


def _chunk_names(data: bytes) -> Iterator[bytes]:
    """Names of the chunks of a RIFF file."""
    at = 12
    while at + 8 <= len(data):
        yield data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
