"""Colour with 16 bits or floats, which Pillow would cut to 8 bits: read and written by others."""

import io
import logging
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from facedeid.errors import PhotoError
from facedeid.imaging.metadata import Metadata
from facedeid.imaging.pixels import Model, Samples

__all__ = ["UNKNOWN", "float_tiff_size", "is_deep", "png", "profile", "ranged", "samples", "tiff"]

Array = NDArray[Any]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else damage goes to stderr

UNKNOWN = "TIFF with this arrangement of samples is not handled"
HIGHLIGHTS = 16
"""What a float sample may be where white is 1, and so many times white otherwise."""
_RESOLUTION_TAGS = frozenset([282, 283, 296, 305])
_TELLING_TAGS = (270, 271, 272, 306, 315, 700, 33432, 33723, 34665, 34853)
"""Description, camera, date, author, XMP, rights, IPTC, EXIF, position."""


def is_deep(image: Image.Image, data: bytes, format: str) -> bool:
    """Whether Pillow shows this picture with fewer bits than it has."""
    if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        return False
    if format == "PNG":
        return data[24] == 16 and not (data[25] == 0 and image.mode == "L")
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    return format == "TIFF" and max(bits) == 16


def float_tiff_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a TIFF with colour in floats or 32-bit integers; None for any other.

    Raises:
        PhotoError: it has several pages.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            pages = len(file.pages)
            wide = page.bitspersample == 32 and page.samplesperpixel in (3, 4)
            size = page.imagewidth, page.imagelength
    except Exception:  # damaged, in whatever way
        return None
    if wide and pages > 1:
        raise PhotoError(f"it has {pages} pages; split it, only single pictures are handled")
    return size if wide and page.planarconfig == 1 else None


def profile(data: bytes) -> tuple[bytes | None, bool]:
    """The colour profile of a TIFF that only tifffile reads, and whether it says more of itself."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        icc = page.iccprofile
        return bytes(icc) if icc else None, any(tag in page.tags for tag in _TELLING_TAGS)


def samples(data: bytes) -> Samples:
    """Decode PNG or TIFF with all its bits, upright.

    Raises:
        PhotoError: damaged, or not finite.
    """
    values: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise PhotoError("the photo is damaged or cut short")
    if values.ndim == 3 and values.shape[2] not in (3, 4):
        raise PhotoError(f"pictures with {values.shape[2]} channels are not handled")
    model: Model = "grey"
    if values.ndim == 3:
        model = "rgb" if values.shape[2] == 3 else "rgba"
        values = cv2.cvtColor(values, cv2.COLOR_BGR2RGB if model == "rgb" else cv2.COLOR_BGRA2RGBA)
    if model == "rgba" and _is_premultiplied(data):
        values = _divided(values)
    if values.dtype in (np.uint8, np.uint16):
        return Samples(values, model, high=np.iinfo(values.dtype).max)
    return ranged(values, model)


def _is_premultiplied(data: bytes) -> bool:
    """Whether a TIFF holds colours times opacity, which it calls associated alpha."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            return tuple(page.extrasamples)[:1] == (tifffile.EXTRASAMPLE.ASSOCALPHA,)
    except Exception:  # PNG, or damaged in whatever way
        return False


def _divided(values: Array) -> Array:
    """Colours by themselves, as all else here expects them; under no opacity they stay."""
    white = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    wide = np.result_type(values.dtype, np.float32)
    opacity = values[..., 3:] / wide.type(white)
    colours = values[..., :3].astype(wide)
    np.divide(colours, opacity, out=colours, where=opacity > 0)
    if values.dtype.kind != "f":
        colours = np.clip(np.rint(colours), 0, white)
    return np.concatenate([colours.astype(values.dtype), values[..., 3:]], axis=2)


def ranged(values: Array, model: Model) -> Samples:
    """Float or 32-bit samples with the range that they are shown in.

    Of floats, few beyond white are highlights: a range that reached up to the brightest of them
    would turn the picture, and the faces in it, black.

    Raises:
        PhotoError: some are not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PhotoError("the photo holds values that are not numbers (NaN or infinite)")
    floats = values.dtype.kind == "f"
    least, most = np.percentile(values, (1, 99)) if floats else (low, high)
    if floats and 1 < most <= high <= HIGHLIGHTS and least >= 0 and low >= -1:
        opaque = model in ("grey", "rgb")  # full opacity is 1, however bright the colours are
        return Samples(values, model, low=0, high=float(most) if opaque else 1)
    for white in (1, 255, 65535):
        extreme = white * HIGHLIGHTS if floats else white
        if least >= 0 and most <= white and -white <= low and high <= extreme:
            return Samples(values, model, low=0, high=white)
    return Samples(values, model, low=low, high=high if high > low else low + 1)


def png(samples: Samples) -> bytes:
    """16-bit RGB or RGBA as PNG without any metadata."""
    order = cv2.COLOR_RGB2BGR if samples.model == "rgb" else cv2.COLOR_RGBA2BGRA
    _, data = cv2.imencode(".png", cv2.cvtColor(samples.values, order))
    return data.tobytes()


def tiff(samples: Samples, metadata: Metadata, *, compressed: bool) -> bytes:
    """16-bit or float colour as TIFF; of EXIF only the texts of the first directory."""
    texts = [
        (tag, "s", 0, value, True)
        for tag, value in metadata.main.items()
        if isinstance(value, str) and value.isascii() and tag not in _RESOLUTION_TAGS
    ]
    if metadata.xmp:
        texts.append((700, "B", len(metadata.xmp), metadata.xmp, True))  # type: ignore[arg-type]
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        samples.values,
        photometric="rgb" if samples.model.startswith("rgb") else "minisblack",
        extrasamples=["unassalpha"] if samples.model in ("rgba", "greya") else None,
        compression="zlib" if compressed else None,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        extratags=texts,
        metadata=None,
        software=False,
    )
    return file.getvalue()
