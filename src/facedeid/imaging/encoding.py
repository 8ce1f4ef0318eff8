"""Photos to the bytes of a file, in the way the source was compressed."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facedeid.errors import FacedeidError, OutputError
from facedeid.imaging import deep
from facedeid.imaging.carried import matching
from facedeid.imaging.coding import avif_colour
from facedeid.imaging.metadata import Metadata, Mode, exif, selected
from facedeid.imaging.photo import Coding, Photo
from facedeid.imaging.pixels import Samples, fitted, to_pil
from facedeid.imaging.sniff import SUFFIX_FORMATS

__all__ = ["encode", "format_for"]

_KINDS = {
    "JPEG": "L RGB CMYK",
    "PNG": "1 L LA P RGB RGBA L16 RGB16 RGBA16",
    "WEBP": "RGB RGBA",
    "TIFF": "1 L LA P RGB RGBA CMYK L16 LA16 RGB16 RGBA16 LF RGBF RGBAF",
    "BMP": "1 L P RGB RGBA",
    "GIF": "1 L P",
    "AVIF": "RGB RGBA",
    "HEIF": "RGB RGBA",
}
_QUALITY = 90
"""For formats that do not say with what quality they were compressed."""
_LONGEST_SEGMENT = 65_000


def format_for(photo: Photo, path: Path) -> str:
    """The format to write: that of the source, unless the new name has another known suffix.

    A PNG that is called .jpg therefore stays a PNG under the same suffix.

    Raises:
        OutputError: the photo came from an array, and the suffix says nothing.
    """
    suffix = path.suffix.lower()
    asked = SUFFIX_FORMATS.get(suffix)
    same = photo.source is not None and photo.source.path.suffix.lower() == suffix
    if photo.format and (same or asked is None):
        return photo.format
    if asked is None:
        known = " ".join(sorted(SUFFIX_FORMATS))
        raise OutputError(f"{path}: cannot tell the format from the suffix; use one of {known}")
    return asked


def encode(photo: Photo, format: str | None = None, *, metadata: Mode = "strip") -> bytes:
    """The content of a file with the photo.

    JPEG takes quantisation tables, sub-sampling and progression of the source, WebP stays
    lossless if it was, TIFF keeps its compression, and depth and palette stay where the format
    has them. Lossy WebP, AVIF and HEIC do not say how strongly they were compressed and get
    quality 90.

    Args:
        photo: what to write.
        format: Pillow's name; None: as the source, or PNG.
        metadata: see `facedeid.imaging.metadata.selected`.

    Raises:
        OptionError: no such metadata mode.
        OutputError: the format cannot hold the photo.
    """
    format = format or photo.format or "PNG"
    samples = fitted(photo.samples, frozenset(_KINDS[format].split()))
    kept = matching(selected(photo.metadata, metadata), samples.model)
    coding = photo.coding if photo.format == format else Coding(format)
    try:
        return _ENCODERS[format](samples, kept, coding)
    except FacedeidError:
        raise
    except Exception as error:  # encoders raise nearly anything
        size = f"{photo.width}×{photo.height}"
        raise OutputError(f"the photo ({size}) cannot be written as {format}: {error}") from error


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    given = {key: value for key, value in options.items() if value is not None}
    file = io.BytesIO()
    image.save(file, format, **given)
    return file.getvalue()


def _exif_bytes(metadata: Metadata) -> bytes | None:
    block = exif(metadata)
    return block.tobytes() if block else None


def _jpeg(samples: Samples, metadata: Metadata, coding: Coding) -> bytes:
    image = to_pil(samples)
    xmp = metadata.xmp if len(metadata.xmp or b"") < _LONGEST_SEGMENT else None
    block = _exif_bytes(metadata)
    tables: dict[str, Any] = {"quality": 95, "subsampling": 0}
    if coding.qtables:
        qtables = [list(table) for table in coding.qtables]
        tables = {"qtables": qtables, "subsampling": coding.subsampling}
    if image.mode == "CMYK":
        tables["subsampling"] = 0
    options = {
        **tables,
        "progressive": coding.progressive or None,
        "keep_rgb": (coding.plain_rgb and image.mode == "RGB") or None,
        "icc_profile": metadata.icc,
        "exif": block if len(block or b"") < _LONGEST_SEGMENT else None,
        "xmp": xmp,
        "comment": metadata.comment,
        "dpi": metadata.dpi and tuple(round(v) for v in metadata.dpi),
        "extra": _photoshop(metadata.iptc),
    }
    try:
        return _saved(image, "JPEG", **options)
    except OSError:
        # A progressive picture must fit Pillow's buffer, which noise at the best quality does not.
        return _saved(image, "JPEG", **{**options, "progressive": None})


def _photoshop(iptc: bytes | None) -> bytes | None:
    """A JPEG segment with the one Photoshop resource that holds IPTC texts."""
    if not iptc or len(iptc) > _LONGEST_SEGMENT:
        return None
    padded = iptc + bytes(len(iptc) % 2)
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + padded
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _png(samples: Samples, metadata: Metadata, _: Coding) -> bytes:
    wide = samples.kind in ("RGB16", "RGBA16")
    data = deep.png(samples) if wide else _saved(to_pil(samples), "PNG")
    header = 8 + 25
    return data[:header] + b"".join(_png_extras(metadata)) + data[header:]


def _png_extras(metadata: Metadata) -> list[bytes]:
    chunks = [_chunk(name, body) for name, body in metadata.colour]
    if metadata.icc:
        chunks = [c for c in chunks if c[4:8] != b"sRGB"]
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        across, down = (round(v / 0.0254) for v in metadata.dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if block := _exif_bytes(metadata):
        chunks.append(_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")))
    texts = [(key, text.encode()) for key, text in metadata.text]
    if metadata.xmp:
        texts.append(("XML:com.adobe.xmp", metadata.xmp))
    for key, text in texts:
        name = key.encode("latin-1", "replace")[:79]
        chunks.append(_chunk(b"iTXt", name + b"\0\0\0\0\0" + text))
    return chunks


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _webp(samples: Samples, metadata: Metadata, coding: Coding) -> bytes:
    options: dict[str, Any] = {"quality": _QUALITY}
    if coding.lossless:
        options = {"lossless": True, "exact": True, "quality": 70}
    return _saved(
        to_pil(samples),
        "WEBP",
        icc_profile=metadata.icc,
        exif=_exif_bytes(metadata),
        xmp=metadata.xmp,
        **options,
    )


def _tiff(samples: Samples, metadata: Metadata, coding: Coding) -> bytes:
    compression = coding.compression if coding.compression != "raw" else None
    if samples.values.dtype.kind == "f":  # halves and doubles are what few programs read
        samples = replace(samples, values=samples.values.astype(np.float32))
    if samples.kind in ("LA16", "RGB16", "RGBA16", "RGBF", "RGBAF"):
        return deep.tiff(samples, metadata, compressed=compression is not None)
    block = exif(metadata) or Image.Exif()
    if metadata.xmp:
        block[700] = metadata.xmp
    options = {"exif": block, "icc_profile": metadata.icc, "dpi": metadata.dpi}
    image = to_pil(samples)
    lossy = compression in ("jpeg", "tiff_jpeg", "webp")
    if lossy and samples.kind not in ("L", "RGB"):
        compression = "tiff_adobe_deflate"
    quality = _QUALITY if lossy else None
    try:
        return _saved(image, "TIFF", compression=compression, quality=quality, **options)
    except (OSError, ValueError, RuntimeError):
        if compression is None:
            raise
        # Fax and other codecs take only some kinds of samples.
        return _saved(image, "TIFF", compression="tiff_adobe_deflate", **options)


def _bmp(samples: Samples, metadata: Metadata, _: Coding) -> bytes:
    return _saved(to_pil(samples), "BMP", dpi=metadata.dpi)


def _gif(samples: Samples, metadata: Metadata, _: Coding) -> bytes:
    image = to_pil(samples)
    options: dict[str, Any] = {"optimize": False, "comment": metadata.comment or b""}
    if samples.model == "palette" and samples.palette is not None:
        hidden = (samples.palette[:, 3] == 0).nonzero()[0]
        image.info.pop("transparency", None)
        options["transparency"] = int(hidden[0]) if len(hidden) else None
    return _saved(image, "GIF", **options)


def _avif(samples: Samples, metadata: Metadata, coding: Coding) -> bytes:
    data = _saved(
        to_pil(samples),
        "AVIF",
        quality=_QUALITY,
        subsampling="4:4:4",
        icc_profile=metadata.icc,
        exif=_exif_bytes(metadata),
        xmp=metadata.xmp,
    )
    at = avif_colour(data)
    if coding.colour and at and not metadata.icc:  # Pillow always says sRGB
        data = data[:at] + struct.pack(">HH", *coding.colour) + data[at + 4 :]
    return data


def _heif(samples: Samples, metadata: Metadata, coding: Coding) -> bytes:
    try:
        import pillow_heif
    except ImportError as error:
        raise OutputError(
            "HEIC needs the package pillow-heif: pip install 'facedeid[heic]'"
        ) from error
    image = to_pil(samples)
    options: dict[str, Any] = {"quality": _QUALITY, "exif": _exif_bytes(metadata)}
    if metadata.icc:
        options |= {"icc_profile": metadata.icc, "icc_profile_type": "prof"}
    elif coding.colour:
        primaries, transfer = coding.colour
        options |= {"color_primaries": primaries, "transfer_characteristics": transfer}
        options |= {"matrix_coefficients": 6, "full_range_flag": 1}
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    file = io.BytesIO()
    pillow_heif.encode(image.mode, image.size, image.tobytes(), file, **options)
    return file.getvalue()


_ENCODERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "GIF": _gif,
    "AVIF": _avif,
    "HEIF": _heif,
}
