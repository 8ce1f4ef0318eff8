"""What a decoded file says besides its picture: orientation, metadata, and what is left out."""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from PIL import ExifTags, Image

from facedeid.imaging import icc
from facedeid.imaging.metadata import (
    EXIF,
    GPS,
    Metadata,
    checked_exif,
    checked_iptc,
    checked_xmp,
    harmless_text,
)

__all__ = ["Metadata", "matching", "metadata", "png_chunks"]

_COLOUR_CHUNKS = frozenset([b"gAMA", b"cHRM", b"sRGB", b"cICP"])
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)


def metadata(image: Any, data: bytes, format: str) -> tuple[int, Metadata, tuple[str, ...]]:
    """Orientation (1 to 8), what may be carried over, and notes on what is dropped in any mode.

    Malformed parts are taken as absent: they say nothing about the picture.
    """
    block = _exif_of(image)
    details = _directory(block, EXIF)
    orientation = block.get(0x0112, 1) if block else 1
    info = image.info
    found = Metadata(
        icc=_bytes(info.get("icc_profile")),
        dpi=_dpi(info.get("dpi")),
        main=checked_exif(block),
        exposure=checked_exif(details, EXIF),
        gps=checked_exif(_directory(block, GPS), GPS),
        xmp=checked_xmp(_xmp(image)),
        iptc=checked_iptc(_iptc(info.get("photoshop"))),
        comment=_comment(info.get("comment")),
        text=_texts(getattr(image, "text", None)) if format == "PNG" else (),
        colour=_colour_chunks(data) if format == "PNG" else (),
    )
    upright = orientation if orientation in range(1, 9) else 1
    return int(upright), found, tuple(_left_out(image, data, format, details))


def matching(metadata: Metadata, model: str) -> Metadata:
    """Without a profile that is damaged or for samples of another kind."""
    wanted = {"grey": "grey", "greya": "grey", "cmyk": "cmyk"}.get(model, "rgb")
    if metadata.icc and icc.space(metadata.icc) != wanted:
        return replace(metadata, icc=None)
    return metadata


def _exif_of(image: Image.Image) -> Mapping[Any, Any]:
    try:
        block: Mapping[Any, Any] = image.getexif()
        dict(block)
    except Exception:  # malformed in any way
        return {}
    return block


def _directory(block: Any, number: int) -> Mapping[Any, Any]:
    try:
        return dict(block.get_ifd(number)) if block else {}
    except Exception:  # malformed in any way
        return {}


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _dpi(value: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    fine = all(math.isfinite(v) and 1 <= v <= 60000 for v in (across, down))
    return (across, down) if fine else None


def _xmp(image: Any) -> bytes | None:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if packet is None and hasattr(image, "tag_v2"):
        packet = image.tag_v2.get(700)
    return packet.encode("utf-8", "replace") if isinstance(packet, str) else _bytes(packet)


def _iptc(resources: Any) -> bytes | None:
    return _bytes(resources.get(0x0404)) if isinstance(resources, dict) else None


def _comment(value: object) -> bytes | None:
    if not isinstance(value, bytes) or len(value) > 2048:
        return None
    return value if value and harmless_text(value.decode("latin-1")) else None


def _texts(texts: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (str(key), str(value))
        for key, value in dict(texts or {}).items()
        if not key.startswith(("Raw profile", "XML:")) and harmless_text(value)
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a PNG file."""
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at + 8 : at + 8 + size]
        at += 12 + size


def _colour_chunks(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    chunks = png_chunks(data)
    return tuple((name, body) for name, body in chunks if name in _COLOUR_CHUNKS and len(body) < 40)


def _left_out(image: Any, data: bytes, format: str, exposure: Any) -> Iterator[str]:
    """Notes on pictures and the like in the file that never reach a result."""
    info = image.info
    if format != "TIFF" and _has_thumbnail(image):  # there it is the next page
        yield "the EXIF thumbnail"
    if 0x927C in exposure:
        yield "maker notes"
    if info.get("photoshop"):
        yield "Photoshop resources"
    if format == "JPEG":
        if "mp" in info or "mpoffset" in info or b"MPF\0" in data[:65536]:
            yield "further pictures (MPO)"
        elif _after_jpeg(data) > 64:
            yield "data after the picture (gain map, motion or the like)"
    for key, what in (
        ("thumbnails", "thumbnails"),
        ("depth_images", "depth maps"),
        ("aux", "auxiliary pictures"),
    ):
        if info.get(key):
            yield what
    depth = info.get("bit_depth", 8)
    if format == "TIFF" and image.mode == "CMYK":
        depth = max(image.tag_v2.get(258, (8,)))
    if depth > 8:
        yield f"depth beyond 8 of {depth} bits"


def _has_thumbnail(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(ExifTags.IFD.IFD1))
    except Exception:  # malformed in any way
        return False


def _after_jpeg(data: bytes) -> int:
    """Bytes after the end of a JPEG picture."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return len(data) - at - 2
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _MARKER.search(data, at)
            if not found:
                return 0
            at = found.start()
    return 0
