"""Photos made for the tests of imaging, with everything that can be wrong with them."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps
from skimage import data

SIDE = 64


PORTRAIT = data.astronaut()[20:212, 130:322]


def face(side: int = SIDE) -> np.ndarray:
    """A real face, side×side×3 uint8."""
    return cv2.resize(PORTRAIT, (side, side), interpolation=cv2.INTER_AREA)


def image(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    rgb = Image.fromarray(face(side))
    grey = np.asarray(rgb.convert("L"))
    ramp = np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1))
    match mode:
        case "RGBA":
            return Image.fromarray(np.dstack([np.asarray(rgb), ramp]))
        case "LA":
            return Image.fromarray(np.dstack([grey, ramp]))
        case "P":
            return rgb.quantize(256)
        case "P200":
            return rgb.quantize(200)
        case "I;16":
            return Image.fromarray(deep(side)[..., 0].copy())
        case "I":
            return Image.fromarray(grey.astype(np.int32) * 1000)
        case "F":
            return Image.fromarray(grey.astype(np.float32) / 255)
    return rgb.convert(mode)


def deep(side: int = SIDE, channels: int = 3) -> np.ndarray:
    """16-bit samples whose low bytes matter."""
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 4), dtype=np.uint16)
    return (
        np.dstack([face(side), face(side)[..., :1]]).astype(np.uint16)[..., :channels] * 256
        + (noise[..., :channels])
    )


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def deep_png(samples: np.ndarray) -> bytes:
    order = cv2.COLOR_RGB2BGR if samples.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.imencode(".png", cv2.cvtColor(samples, order))[1].tobytes()


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    photometric = "rgb" if samples.ndim == 3 else "minisblack"
    extra = ["unassalpha"] if samples.ndim == 3 and samples.shape[2] == 4 else None
    tifffile.imwrite(file, samples, photometric=photometric, extrasamples=extra, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(*chunks: bytes, base: bytes | None = None) -> bytes:
    base = base or saved(image(), "PNG")
    return base[:33] + b"".join(chunks) + base[33:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(*segments: bytes, base: bytes | None = None) -> bytes:
    """A JPEG with segments right after its start."""
    base = base or saved(image(), "JPEG", quality=90)
    return base[:2] + b"".join(segments) + base[2:]


def exif_with_everything(orientation: int = 1) -> bytes:
    """An EXIF block with camera facts, position, names, maker notes and a real thumbnail."""
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x0112] = "Maker", "Model 7", orientation
    block[0x0132], block[0x013B], block[0x8298] = "2024:05:06 07:08:09", "ARTIST-NAME", "OWNER"
    block[0x010E] = "DESCRIPTION"
    block.get_ifd(0x8769).update(
        {0x829A: 0.01, 0x829D: 2.8, 0x8827: 400, 0x920A: 50.0, 0x9003: "2024:05:06 07:08:09"}
        | {0xA434: "Lens 50mm", 0xA431: "SERIAL-1234", 0xA430: "OWNER", 0xA435: "SERIAL-LENS"}
        | {0x927C: b"MAKERNOTE" * 40, 0x9286: b"ASCII\0\0\0USER-COMMENT"}
    )
    block.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 6.5), 3: "E", 4: (11.0, 34.0, 0.0)})
    thumbnail = saved(image(side=32), "JPEG", quality=50)
    return _with_thumbnail(block.tobytes(), thumbnail)


def _with_thumbnail(block: bytes, thumbnail: bytes) -> bytes:
    """Append a directory with a JPEG thumbnail to an EXIF block of Pillow's."""
    tiff_part = bytearray(block.removeprefix(b"Exif\0\0"))
    order = "<" if tiff_part[:2] == b"II" else ">"
    first = struct.unpack_from(order + "I", tiff_part, 4)[0]
    count = struct.unpack_from(order + "H", tiff_part, first)[0]
    struct.pack_into(order + "I", tiff_part, first + 2 + 12 * count, len(tiff_part))
    at = len(tiff_part) + 2 + 3 * 12 + 4
    tiff_part += struct.pack(order + "H", 3)
    tiff_part += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
    tiff_part += struct.pack(order + "HHII", 0x0201, 4, 1, at)
    tiff_part += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail))
    return b"Exif\0\0" + bytes(tiff_part) + bytes(4) + thumbnail


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:g="http://ns.adobe.com/xap/1.0/g/img/"
 xmlns:mwg="http://www.metadataworkinggroup.com/schemas/regions/" tiff:Orientation="6">
 <dc:title>XMP-TITLE</dc:title><mwg:Name>FACE-REGION</mwg:Name>
 <xmp:Thumbnails><rdf:Alt><rdf:li><g:image>XMPPICTURE</g:image></rdf:li></rdf:Alt></xmp:Thumbnails>
 <dc:blob>QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0</dc:blob>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""

XMP_SEGMENT = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
IPTC = b"\x1c\x02\x78" + struct.pack(">H", 12) + b"IPTC-CAPTION"
PREVIEW = b"\x1c\x02\xca" + struct.pack(">H", 12) + b"IPTC-PREVIEW"


def photoshop(iptc: bytes = IPTC + PREVIEW) -> bytes:
    """A Photoshop segment with IPTC texts and a thumbnail resource."""

    def resource(code: int, body: bytes) -> bytes:
        body += bytes(len(body) % 2)
        return b"8BIM" + struct.pack(">HHI", code, 0, len(body)) + body

    return segment(
        0xED, b"Photoshop 3.0\0" + resource(0x0404, iptc) + resource(0x040C, b"IRBTHUMB")
    )


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def oriented(orientation: int, format: str) -> bytes:
    """A file that shows `face()` once it is turned as its orientation says."""
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = image()
    marker = Image.Exif()
    marker[0x0112] = undo
    stored.info["exif"] = marker.tobytes()
    stored = ImageOps.exif_transpose(stored) if undo != 1 else stored
    block = Image.Exif()
    block[0x0112] = orientation
    stored.info.pop("exif", None)
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
    return saved(stored, format, exif=block, **options.get(format, {}))
