"""What a file is, from its first bytes: the content decides, not the suffix."""

import struct
from pathlib import Path

from facedeid.errors import PhotoError

__all__ = [
    "SUFFIXES",
    "SUFFIX_FORMATS",
    "VIDEO_SUFFIXES",
    "format_of",
    "may_be_photo",
    "named_as_photo",
    "webp_size",
]

SUFFIX_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".avif": "AVIF",
}

SUFFIXES = frozenset(SUFFIX_FORMATS)
"""Suffixes of photos that can be read, in lower case."""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts"}
    | {".3gp", ".3g2", ".wmv", ".asf", ".flv", ".ogv"}
)
"""Suffixes of video files, which are refused, in lower case."""

_IMAGES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_VIDEOS = (
    b"\x1a\x45\xdf\xa3",
    b"\0\0\1\xba",
    b"\0\0\1\xb3",
    b"FLV\1",
    b"OggS",
    b"\x30\x26\xb2\x75",
)
_OTHERS = (
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"),
    (b"FUJIFILMCCD-RAW", "a camera raw file"),
    (b"IIRO", "a camera raw file"),
    (b"IIU\0", "a camera raw file"),
    (b"\0\0\1\0", "an icon"),
    (b"<svg", "an SVG drawing"),
    (b"PK\3\4", "an archive"),
)
_HEIF = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"])
_AVIF = frozenset([b"avif", b"avis"])
_ATOMS = frozenset([b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"])

_ADVICE = "convert it to JPEG, PNG or TIFF first"


def format_of(head: bytes) -> str:
    """Pillow's name of the format of a file that starts with these bytes (64 are enough).

    Raises:
        PhotoError: not a photo, or of a kind that is not handled.
    """
    if not head:
        raise PhotoError("the file is empty")
    if head[8:10] == b"CR" and head[:2] == b"II":
        raise PhotoError(f"this is a camera raw file, which is not handled; {_ADVICE}")
    for magic, name in _IMAGES:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _brand(head)
    if _is_video(head):
        raise PhotoError("this is a video; video is not handled yet")
    for magic, name in _OTHERS:
        if head.startswith(magic):
            raise PhotoError(f"this is {name}, which is not handled; {_ADVICE}")
    raise PhotoError("this is not a photo in any known format")


def named_as_photo(path: Path) -> bool:
    """By its suffix; `._photo.jpg`, which macOS puts beside `photo.jpg`, is none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def may_be_photo(path: Path) -> bool:
    """Whether a file found in a folder should be treated as a photo (or film): by its suffix, or
    else by its first bytes. What only looks like one gets its error when it is read."""
    if path.name.startswith("._"):
        return False
    if named_as_photo(path) or path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return bool(format_of(file.read(256)))
    except (OSError, PhotoError):
        return False


def _brand(head: bytes) -> str:
    brands = [head[i : i + 4] for i in (8, *range(16, min(len(head), head[3]) - 3, 4))]
    for brand in brands:
        if brand in _AVIF or (brand in _HEIF and any(b in _AVIF for b in brands)):
            return "AVIF"
        if brand in _HEIF:
            return "HEIF"
    if brands[0] == b"crx ":
        raise PhotoError(f"this is a camera raw file, which is not handled; {_ADVICE}")
    raise PhotoError("this is a video; video is not handled yet")


def _is_video(head: bytes) -> bool:
    riff = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    stream = len(head) > 188 and head[0] == head[188] == 0x47
    return riff or stream or head.startswith(_VIDEOS) or head[4:8] in _ATOMS


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP file declares, before anything is allocated for them.

    Raises:
        PhotoError: the header is not one of the three kinds, or cut short.
    """
    try:
        if data[12:16] == b"VP8X":
            return (
                int.from_bytes(data[24:27], "little") + 1,
                int.from_bytes(data[27:30], "little") + 1,
            )
        if data[12:16] == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if data[12:16] == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error:
        pass
    raise PhotoError("the WebP header is damaged")
