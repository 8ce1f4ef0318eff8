"""What a photo file says besides its picture, and how much of that may go on into the result.

Nothing that could show the face again is ever kept, in any mode: thumbnails, previews, maker
notes (they hold previews and face positions), Photoshop resources, extended XMP, and any value
that looks like packed binary data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from PIL import Image

from facedeid.errors import OptionError
from facedeid.imaging import icc

__all__ = [
    "EXIF",
    "GPS",
    "Metadata",
    "Mode",
    "checked_exif",
    "checked_iptc",
    "checked_xmp",
    "exif",
    "harmless_text",
    "selected",
]

Mode = Literal["strip", "keep-safe", "keep"]
Tags = Mapping[int, Any]

EXIF, GPS = 0x8769, 0x8825

# fmt: off
_CAMERA = frozenset([0x010F, 0x0110, 0x0132])  # Make, Model, DateTime
_EXPOSURE = frozenset(
    [
        # ExposureTime, FNumber, ExposureProgram, ISO, SensitivityType, dates and their offsets
        0x829A, 0x829D, 0x8822, 0x8827, 0x8830, 0x8832, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012,
        # ShutterSpeed, Aperture, Brightness, ExposureBias, MaxAperture, SubjectDistance
        0x9201, 0x9202, 0x9203, 0x9204, 0x9205, 0x9206,
        # MeteringMode, LightSource, Flash, FocalLength, fractions of seconds, ColorSpace
        0x9207, 0x9208, 0x9209, 0x920A, 0x9290, 0x9291, 0x9292, 0xA001,
        # ExposureMode, WhiteBalance, DigitalZoom, FocalLength35, SceneCaptureType, Gain, Contrast,
        # Saturation, Sharpness
        0xA402, 0xA403, 0xA404, 0xA405, 0xA406, 0xA407, 0xA408, 0xA409, 0xA40A,
        # LensSpecification, LensMake, LensModel
        0xA432, 0xA433, 0xA434,
    ]
)
_STRUCTURE = frozenset(
    [
        # Tags that describe how the old file held its samples; the orientation is baked in.
        *range(0x00FE, 0x0104), 0x0106, 0x010A, *range(0x0111, 0x011E), 0x0120, 0x0121,
        0x0112, 0x011A, 0x011B, 0x0128, 0x013D, *range(0x0140, 0x0146), *range(0x014A, 0x0154),
        0x015B, *range(0x0200, 0x020A), *range(0x0211, 0x0215), 0xA002, 0xA003, 0xA005,
        # What has a place of its own (XMP, IPTC, ICC), sub-directories, and what can hold pictures:
        # Photoshop resources, PrintIM, maker notes, padding, previews.
        0x02BC, 0x83BB, 0x8773, EXIF, GPS, 0x8649, 0x935C, 0xC4A5, 0x927C, 0xEA1C, 0xEA1D, 0xC634,
    ]
)
# fmt: on
_LONGEST = 256
_PACKED = re.compile(r"[A-Za-z0-9+/]{60}")
_PICTURE_SPACES = (
    "http://ns.adobe.com/xap/1.0/g/img/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/dd/1.0/",
    "http://ns.adobe.com/xmp/note/",
)
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}RDF"
_ORIENTATION = "{http://ns.adobe.com/tiff/1.0/}Orientation"


@dataclass(frozen=True)
class Metadata:
    """Already freed of pictures; see `selected` for what each mode keeps."""

    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    main: Tags = field(default_factory=dict)
    """EXIF tags of the first directory; then those of its two sub-directories."""
    exposure: Tags = field(default_factory=dict)
    gps: Tags = field(default_factory=dict)
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    """PNG keywords and texts."""
    colour: tuple[tuple[bytes, bytes], ...] = ()
    """PNG chunks that say what the samples mean: gamma, primaries."""


def selected(metadata: Metadata, mode: Mode) -> Metadata:
    """What goes into the result.

    - strip: what is needed for right colours (ICC profile without device data, gamma), no more.
    - keep-safe: also camera facts (maker, model, lens, exposure, dates) and resolution. No
      position, names, serial numbers, comments, regions, or software's private data.
    - keep: everything that is not a picture, as it was; that includes position and names.

    Raises:
        OptionError: no such mode.
    """
    if mode not in get_args(Mode):
        raise OptionError(f"metadata must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if mode == "keep":
        return metadata
    profile = icc.cleaned(metadata.icc) if metadata.icc else None
    bare = Metadata(icc=profile, colour=metadata.colour)
    if mode == "strip":
        return bare
    return replace(
        bare,
        dpi=metadata.dpi,
        main=_facts(metadata.main, _CAMERA),
        exposure=_facts(metadata.exposure, _EXPOSURE),
    )


def _facts(tags: Tags, allowed: frozenset[int]) -> dict[int, Any]:
    return {
        tag: value
        for tag, value in tags.items()
        if tag in allowed and not (isinstance(value, bytes | str) and len(value) > 64)
    }


def checked_exif(tags: Mapping[Any, Any], directory: int | None = None) -> dict[int, Any]:
    """The tags that can be written again, in this sub-directory, and cannot hold a picture."""
    return {
        tag: value
        for tag, value in tags.items()
        if isinstance(tag, int)
        and tag not in _STRUCTURE
        and _harmless(value)
        and _fits({tag: value}, directory)
    }


def harmless_text(text: str) -> bool:
    """Whether a text cannot be packed binary data."""
    return not _PACKED.search(text)


def _harmless(value: Any) -> bool:
    if isinstance(value, str):
        return harmless_text(value)
    if isinstance(value, bytes):
        text = value.replace(b"\0", b"")
        return len(value) <= _LONGEST or (text.isascii() and harmless_text(text.decode("ascii")))
    if isinstance(value, tuple | list):
        return len(value) <= _LONGEST // 4 and all(_harmless(v) for v in value)
    return not isinstance(value, Mapping)


def _fits(tags: Tags, directory: int | None) -> bool:
    """Whether Pillow can write the tags; malformed values show only then."""
    try:
        _block({directory: tags}).tobytes()
    except Exception:  # whatever a malformed value leads to inside the encoder
        return False
    return True


def _block(directories: Mapping[int | None, Tags]) -> Image.Exif:
    """An EXIF block with a first directory (None) and sub-directories."""
    block = Image.Exif()
    block.update(directories.get(None, {}))
    for number, tags in directories.items():
        if number is not None and tags:
            block.get_ifd(number).update(tags)
            block[number] = dict(tags)  # Pillow's TIFF encoder looks for the key here
    return block


def exif(metadata: Metadata) -> Image.Exif | None:
    """The EXIF block of the result, or None if there is nothing to say."""
    if not (metadata.main or metadata.exposure or metadata.gps):
        return None
    return _block({None: metadata.main, EXIF: metadata.exposure, GPS: metadata.gps})


def checked_xmp(packet: bytes | None) -> bytes | None:
    """The XMP packet without pictures, and upright; None if it cannot be understood."""
    if not packet or b"<!" in packet:  # entities can be made to explode
        return None
    try:
        root = ElementTree.fromstring(packet.rstrip(b"\0 \r\n"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    rdf = root if root.tag == _RDF else root.find(_RDF)
    if rdf is None or not _prune(root, 0):
        return None
    packed: bytes = ElementTree.tostring(root, "utf-8")
    return packed


def _prune(element: ElementTree.Element, depth: int) -> bool:
    """Take pictures out of an element; False if nothing of it may stay."""
    if depth > 50 or _shows(element.tag, element.text):
        return False
    for name, value in list(element.attrib.items()):
        if name == _ORIENTATION:
            element.set(name, "1")
        elif _shows(name, value):
            del element.attrib[name]
    if element.tag == _ORIENTATION:
        element.text = "1"
    for child in list(element):
        if _shows("", child.tail):
            child.tail = None
        if not _prune(child, depth + 1):
            element.remove(child)
    return True


def _shows(name: str, value: str | None) -> bool:
    space = name[1:].partition("}")[0]
    return space.startswith(_PICTURE_SPACES) or bool(value and _PACKED.search(value))


def checked_iptc(block: bytes | None) -> bytes | None:
    """The texts of an IPTC block (records 1 and 2) without object data and previews."""
    kept, at = b"", 0
    while block and at + 5 <= len(block) and block[at] == 0x1C:
        record, number = block[at + 1], block[at + 2]
        size = int.from_bytes(block[at + 3 : at + 5], "big")
        end = at + 5 + size
        if size > 0x7FFF or end > len(block):
            break
        if record in (1, 2) and number < 200 and size <= 2048:
            kept += block[at:end]
        at = end
    return kept or None
