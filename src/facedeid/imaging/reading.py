"""Files, arrays and Pillow images to photos. Nothing that comes from a file is trusted."""

import io
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from facedeid.errors import FacedeidError, PhotoError
from facedeid.imaging import carried, deep, native, sniff
from facedeid.imaging.coding import coding
from facedeid.imaging.metadata import Metadata
from facedeid.imaging.photo import Coding, Photo, Source
from facedeid.imaging.pixels import Samples
from facedeid.imaging.quiet import quiet

__all__ = ["MAX_BYTES", "MAX_PIXELS", "parsed", "read"]

Array = NDArray[Any]

MAX_PIXELS = 200_000_000
"""Photos that declare more pixels are refused before anything is decoded."""
MAX_BYTES = 1 << 30
"""Larger files are refused before they are read."""

_OPENERS: dict[str, Any] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_DENSEST = {"JPEG": 512, "PNG": 8 * 1032}
"""Pixels that a byte can hold at most: a block of 64 takes a bit, deflate packs 1032 to 1."""


def read(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, first_frame: bool = False
) -> Photo:
    """Read a photo; its content decides what it is, not its suffix.

    The EXIF orientation is baked in. Grey, RGB(A), palette, CMYK, black-and-white, 16 bits and
    floats keep their samples. Floats and 32-bit integers are shown as 0..1, 0..255 or 0..65535,
    the first of these ranges that holds them all, or else from their least to their greatest value.
    Auxiliary pictures (thumbnails, previews, depth and gain maps, motion, the further pictures of
    MPO and HEIC) are left out and named in `Photo.dropped`.

    Args:
        path: a file; links are followed.
        max_pixels: refuse larger pictures, going by the header, before decoding.
        first_frame: take the first frame of an animation or a document of several pages, which
            is refused otherwise, since its other frames would be lost.

    Raises:
        PhotoError: not a regular file, not readable, not a photo, damaged, or too large.
    """
    path = Path(path)
    try:
        data, status = _bytes(path)
        photo = parsed(data, max_pixels=max_pixels, first_frame=first_frame)
        source = Source(path.resolve(), status.st_dev, status.st_ino)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise PhotoError(f"{path}: cannot be read: {reason}") from error
    return replace(photo, source=source)


def _bytes(path: Path) -> tuple[bytes, os.stat_result]:
    """The content, if it is a regular file that starts like a photo; never waits for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_dir():
        raise PhotoError("this is a folder, not a photo")
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError("this is not a regular file")
        if status.st_size > MAX_BYTES:
            raise PhotoError(f"the file has {status.st_size} bytes; {MAX_BYTES} is the limit")
        head = file.read(256)
        sniff.format_of(head)
        return head + file.read(), status


def parsed(data: bytes, *, max_pixels: int = MAX_PIXELS, first_frame: bool = False) -> Photo:
    """Decode the content of a photo file; see `read`.

    Raises:
        PhotoError: not a photo, damaged, or too large.
    """
    with quiet:
        try:
            return _decoded(data, sniff.format_of(data[:256]), max_pixels, first_frame)
        except FacedeidError:
            raise
        except MemoryError as error:
            raise PhotoError("the photo does not fit into memory") from error
        except Image.DecompressionBombError as error:
            raise PhotoError(f"too large to be decoded safely: {error}") from error
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise PhotoError(f"the photo is damaged or cut short: {error}") from error


def _decoded(data: bytes, format: str, max_pixels: int, first_frame: bool) -> Photo:
    if format == "WEBP":
        _check_size(sniff.webp_size(data), data, format, max_pixels)
    try:
        image = _opened(data, format)
    except SyntaxError as error:
        size = deep.float_tiff_size(data) if format == "TIFF" else None
        if size is None:
            if "unknown pixel mode" in str(error):
                raise PhotoError(f"{deep.UNKNOWN}; save it with 8 bits a channel first") from error
            raise
        _check_size(size, data, format, max_pixels)
        found = deep.samples(data)
        icc, more = deep.profile(data)
        return Photo.of(
            found,
            coding=Coding("TIFF"),
            metadata=carried.matching(Metadata(icc=icc), found.model),
            dropped=("metadata other than the colour profile",) if more else (),
        )
    _check_size(image.size, data, format, max_pixels)
    dropped = _frames(image, format, first_frame)
    orientation, metadata, extras = carried.metadata(image, data, format)
    if image.mode.startswith("I;16") and "transparency" in image.info:
        extras += ("transparency of one grey",)
    if format == "TIFF":
        orientation = 1  # both decoders turn it themselves
    samples = _samples(image, data, format)
    how = coding(image, data, format, orientation)
    return Photo.of(
        replace(samples, values=native.upright(samples.values, orientation)),
        coding=how,
        metadata=carried.matching(metadata, samples.model),
        dropped=dropped + extras,
    )


def _opened(data: bytes, format: str) -> Image.Image:
    """Header only. Goes past `Image.open`, whose size limit is global and of another kind."""
    opener = _OPENERS.get(format)
    if format == "HEIF":
        try:
            from pillow_heif.as_plugin import HeifImageFile as opener
        except ImportError as error:
            raise PhotoError(
                "HEIC needs the package pillow-heif: pip install 'facedeid[heic]'"
            ) from error
    assert opener is not None
    image: Image.Image = opener(io.BytesIO(data), "")
    return image


def _check_size(size: tuple[int, int], data: bytes, format: str, max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels < 1:
        raise PhotoError("the picture has no pixels")
    if pixels > max_pixels:
        raise PhotoError(
            f"the picture has {size[0]}×{size[1]} pixels, more than the limit of {max_pixels}"
        )
    if pixels > len(data) * _DENSEST.get(format, pixels):
        raise PhotoError(f"{len(data)} bytes cannot hold {size[0]}×{size[1]} pixels")


def _frames(image: Image.Image, format: str, first_frame: bool) -> tuple[str, ...]:
    """Notes on frames that are left out; refuses those whose loss would be a surprise."""
    count = getattr(image, "n_frames", 1)
    if format == "TIFF":
        count, previews = _pages(image, count)
    else:
        previews = 0
    notes = (f"{previews} reduced pictures",) if previews else ()
    if count < 2:
        return notes
    if format != "HEIF" and not first_frame:
        what = "pages" if format == "TIFF" else "frames"
        raise PhotoError(
            f"it has {count} {what}, and only single pictures are handled; take the first "
            f"with --first-frame (first_frame=True), or split it"
        )
    return (*notes, f"{count - 1} further pictures")


def _pages(image: Any, count: int) -> tuple[int, int]:
    """Full pages and reduced ones of a TIFF; leaves it at the first."""
    if 50706 in image.tag_v2 or (image.tag_v2.get(254, 0) & 1 and count > 1):
        raise PhotoError("this is a camera raw file, which is not handled; convert it first")
    reduced = 0
    if count > 1:
        for page in range(count):
            image.seek(page)
            reduced += bool(int(image.tag_v2.get(254, 0)) & 1)
        image.seek(0)
    return count - reduced, reduced


def _samples(image: Any, data: bytes, format: str) -> Samples:
    image.load()
    if deep.is_deep(image, data, format):
        if format == "TIFF" and image.tag_v2.get(284) == 2:  # OpenCV shows noise
            raise PhotoError(f"{deep.UNKNOWN}; save it with its channels interleaved first")
        return deep.samples(data)
    return native.from_pillow(image)
