"""Damaged and hostile files: each gives a PhotoError or a correct photo, and nothing else."""

import functools
import resource
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image

import imaging_files as files
from facedeid import imaging
from facedeid.errors import PhotoError

MEMORY = 1 << 30
SECONDS = 5


@functools.cache
def sound() -> dict[str, bytes]:
    """One sound file of every kind, with metadata."""
    block, profile = files.exif_with_everything(6), files.srgb()
    heif = files.io.BytesIO()
    pillow_heif.from_pillow(files.image()).save(heif, exif=block)
    image, saved = files.image, files.saved
    return {
        "jpeg": files.jpeg_with(
            files.segment(0xE1, block),
            files.XMP_SEGMENT,
            files.photoshop(),
            base=saved(image(), "JPEG", icc_profile=profile),
        ),
        "jpeg-progressive": saved(image(), "JPEG", progressive=True),
        "jpeg-cmyk": saved(image("CMYK"), "JPEG"),
        "png": saved(image("RGBA"), "PNG", exif=block, icc_profile=profile),
        "png-palette": saved(image("P"), "PNG", transparency=3),
        "png-deep": files.deep_png(files.deep()),
        "webp": saved(image(), "WEBP", exif=block, icc_profile=profile),
        "webp-lossless": saved(image("RGBA"), "WEBP", lossless=True),
        "tiff": saved(image(), "TIFF", exif=block, compression="raw"),
        "tiff-lzw": saved(image("P"), "TIFF", compression="tiff_lzw"),
        "tiff-deep": files.tiff(files.deep(), compression="zlib"),
        "tiff-float": files.tiff(files.face().astype(np.float32) / 255),
        "bmp": saved(image(), "BMP"),
        "bmp-palette": saved(image("P"), "BMP"),
        "gif": saved(image("P"), "GIF"),
        "avif": saved(image(), "AVIF", exif=block),
        "heic": heif.getvalue(),
    }


KINDS = [
    *("jpeg", "jpeg-progressive", "jpeg-cmyk", "png", "png-palette", "png-deep"),
    *("webp", "webp-lossless", "tiff", "tiff-lzw", "tiff-deep", "tiff-float"),
    *("bmp", "bmp-palette", "gif", "avif", "heic"),
]


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def survives(data: bytes, **options) -> imaging.Photo | None:
    """The photo or None for a PhotoError, in bounded time and memory; it can be written again."""
    before, start = peak(), time.monotonic()
    try:
        photo = imaging.parsed(data, **options)
    except PhotoError:
        photo = None
    if photo is not None:
        assert photo.rgb.shape == (photo.height, photo.width, 3)
        assert photo.rgb.dtype in (np.uint8, np.uint16)
        for mode in ("strip", "keep"):
            back = imaging.parsed(imaging.encode(photo, metadata=mode))
            assert back.rgb.shape == photo.rgb.shape
    assert time.monotonic() - start < SECONDS
    assert peak() - before < MEMORY
    return photo


def test_the_sound_files_are_sound():
    assert list(sound()) == KINDS
    for kind, data in sound().items():
        photo = imaging.parsed(data)
        assert (photo.width, photo.height) == (64, 64), kind


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.7, 0.93])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_short(kind, share):
    data = sound()[kind]
    assert survives(data[: int(len(data) * share)]) is None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits(kind, seed):
    data, random = bytearray(sound()[kind]), np.random.default_rng(seed)
    for _ in range(1 + 2 * seed):
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    survives(bytes(data), max_pixels=1_000_000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_in_the_header(kind, seed):
    data, random = bytearray(sound()[kind]), np.random.default_rng(seed)
    for _ in range(3):
        data[random.integers(min(len(data), 400))] = random.choice([0, 0x7F, 0x80, 0xFF])
    survives(bytes(data), max_pixels=1_000_000)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_after_the_magic(kind):
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    assert survives(sound()[kind][:16] + noise) is None
    assert survives(sound()[kind][:4] + bytes(4000)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_suffix_does_not_matter(kind, tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_bytes(sound()[kind])
    assert imaging.read(path).width == 64


def png(width: int, height: int, *, depth: int = 8, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(files.chunk(*chunk) for chunk in chunks)


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(sound()["jpeg-progressive"])
    at = data.index(b"\xff\xc2")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def tiff(width: int, height: int, **tags: int) -> bytes:
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: 100} | {int(key[1:]): value for key, value in tags.items()}
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + ifd + bytes(4)


def bmp(width: int, height: int, compression: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + info + bytes(60)


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body + bytes(20)


def webp_lossless(width: int, height: int) -> bytes:
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    body = b"WEBPVP8L\x10\0\0\0\x2f" + bits + bytes(11)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6)
    return screen + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0;"


def boxed(kind: str, width: int, height: int) -> bytes:
    """AVIF or HEIC that declares another size than it has."""
    data = bytearray(sound()[kind])
    at = data.index(b"ispe")
    struct.pack_into(">II", data, at + 8, width, height)
    return bytes(data)


HUGE = {
    "png": png(2**31 - 1, 2**31 - 1),
    "png-900mp": png(30_000, 30_000),
    "png-196mp": png(14_000, 14_000),
    "png-wide": png(2**31 - 1, 1),
    "png-deep": png(14_000, 14_000, depth=16),
    "png-empty": png(0, 5),
    "jpeg": jpeg(65_535, 65_535),
    "jpeg-196mp": jpeg(14_000, 14_000),
    "jpeg-empty": jpeg(64, 0),
    "tiff": tiff(2**32 - 1, 2**32 - 1),
    "tiff-196mp": tiff(14_000, 14_000),
    "tiff-bytes": tiff(14_000, 14_000, t279=2**32 - 1),
    "tiff-lzw": tiff(14_000, 14_000, t259=5),
    "tiff-deflate": tiff(14_000, 14_000, t259=8),
    "tiff-jpeg": tiff(14_000, 14_000, t259=7),
    "tiff-fax": tiff(14_000, 14_000, t259=4, t258=1),
    "tiff-far": tiff(64, 64, t273=2**31),
    "tiff-samples": tiff(64, 64, t277=2**31),
    "tiff-bits": tiff(64, 64, t258=2**31),
    "tiff-empty": tiff(0, 0),
    "tiff-tiles": tiff(64, 64, t322=2**31, t323=2**31, t324=8, t325=100),
    "bmp": bmp(2**31 - 1, 2**31 - 1),
    "bmp-196mp": bmp(14_000, 14_000),
    "bmp-down": bmp(14_000, -14_000),
    "bmp-rle": bmp(14_000, 14_000, 1),
    "bmp-least": bmp(-(2**31), -(2**31)),
    "webp": webp(1 << 24, 1 << 24),
    "webp-196mp": webp(14_000, 14_000),
    "webp-lossless": webp_lossless(16_384, 16_384),
    "webp-lossless-196mp": webp_lossless(14_000, 14_000),
    "gif": gif(65_535, 65_535),
    "gif-196mp": gif(14_000, 14_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_declared_sizes(name):
    assert survives(HUGE[name]) is None


@pytest.mark.parametrize(
    "size", [(2**32 - 1, 2**32 - 1), (30_000, 30_000), (14_000, 14_000), (0, 0)]
)
@pytest.mark.parametrize("kind", ["avif", "heic"])
def test_huge_declared_sizes_in_boxes(kind, size):
    photo = survives(boxed(kind, *size), max_pixels=20_000_000)  # AVIF scales to what is declared
    assert photo is None or (photo.width, photo.height) == (64, 64)


@functools.cache
def bomb(size: int = 20_000_000) -> bytes:
    return zlib.compress(bytes(size), 9)


PNG_CHUNKS = {
    "text-bomb": files.chunk(b"zTXt", b"k\0\0" + bomb()),
    "international-bomb": files.chunk(b"iTXt", b"k\0\1\0\0\0" + bomb()),
    "profile-bomb": files.chunk(b"iCCP", b"p\0\0" + bomb()),
    "profile-nonsense": files.chunk(b"iCCP", b"p\0\0" + zlib.compress(b"nonsense" * 99)),
    "profile-cut": files.chunk(b"iCCP", b"p\0\0" + zlib.compress(files.srgb())[:90]),
    "profile-empty": files.chunk(b"iCCP", b""),
    "exif-empty": files.chunk(b"eXIf", b""),
    "exif-loop": files.chunk(b"eXIf", b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 8)),
    "exif-far": files.chunk(b"eXIf", b"MM\0*\x7f\xff\xff\xff"),
    "exif-many": files.chunk(b"eXIf", b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\1" * 500),
    "exif-self": files.chunk(
        b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4)
    ),
    "exif-zero": files.chunk(
        b"eXIf",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x011A, 5, 1, 26) + bytes(12),
    ),
    "xmp-entities": files.chunk(
        b"iTXt",
        b"XML:com.adobe.xmp\0\0\0\0\0<!DOCTYPE a [<!ENTITY b '"
        + b"b" * 9999
        + b"'>]><a>"
        + b"&b;" * 9999
        + b"</a>",
    ),
    "xmp-deep": files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 30_000),
    "resolution": files.chunk(b"pHYs", struct.pack(">IIB", 0, 2**32 - 1, 1)),
    "gamma": files.chunk(b"gAMA", b"\0\0\0\0"),
    "gamma-short": files.chunk(b"gAMA", b"\0"),
    "primaries": files.chunk(b"cHRM", b"\xff" * 32),
    "transparency": files.chunk(b"tRNS", b"\xff" * 3),
    "frames": files.chunk(b"acTL", struct.pack(">II", 2**31, 0)),
    "unknown": files.chunk(b"abCD", b"?" * 100),
    "wrong-sum": files.chunk(b"gAMA", b"\0\1\2\3")[:-4] + b"oops",
    "endless": struct.pack(">I", 2**31 - 1) + b"tEXtk\0v",
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_broken_png_chunks(name):
    photo = survives(files.png_with(PNG_CHUNKS[name]))
    if photo is not None:
        assert np.array_equal(photo.rgb, files.face())


def test_a_bomb_of_pixels():
    data = png(3_000, 3_000, data=b"")
    packed = files.chunk(b"IDAT", zlib.compress(bytes((1 + 3_000 * 3) * 3_000)))
    at = data.index(b"IDAT") - 4
    whole = data[:at] + packed + files.chunk(b"IEND", b"")
    assert len(whole) < 50_000
    with pytest.raises(PhotoError, match="limit"):
        imaging.parsed(whole, max_pixels=5_000_000)


JPEG_SEGMENTS = {
    "exif-empty": files.segment(0xE1, b"Exif\0\0"),
    "exif-cut": files.segment(0xE1, files.exif_with_everything()[:60]),
    "exif-nonsense": files.segment(0xE1, b"Exif\0\0" + b"nonsense" * 30),
    "exif-twice": files.segment(0xE1, files.exif_with_everything(3)) * 2,
    "profile-parts": files.segment(0xE2, b"ICC_PROFILE\0\5\2" + b"x" * 50),
    "profile-part-0": files.segment(0xE2, b"ICC_PROFILE\0\0\0" + b"x" * 50),
    "profile-cut": files.segment(0xE2, b"ICC_PROFILE\0"),
    "mpf": files.segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + b"\xff" * 40),
    "photoshop": files.segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\xff\xff\xff\xff"),
    "photoshop-cut": files.segment(0xED, b"Photoshop 3.0\08BIM"),
    "adobe": files.segment(0xEE, b"Adobe\0"),
    "jfif": files.segment(0xE0, b"JFIF\0\xff\xff\xff\xff\xff\0\0"),
    "comment": files.segment(0xFE, bytes(range(256)) * 20),
    "restart": files.segment(0xDD, b"\xff\xff"),
    "tables": files.segment(0xDB, b"\0" + b"\0" * 64),
    "huffman": files.segment(0xC4, b"\xff" * 40),
    "length-0": b"\xff\xe5\0\0",
    "length-1": b"\xff\xe5\0\1",
    "length-far": b"\xff\xe5\xff\xff",
    "fill": b"\xff" * 2000,
    "many": files.segment(0xE5, b"") * 5000,
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_broken_jpeg_segments(name):
    survives(files.jpeg_with(JPEG_SEGMENTS[name]))


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xda\0\2", b"BM", b"II*\0"]
)
def test_little_more_than_a_magic(data):
    assert survives(data) is None


def test_tiff_directories_in_a_circle():
    data = bytearray(sound()["tiff"])
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    survives(bytes(data))


def test_a_tiff_of_very_many_pages():
    page = struct.pack("<HHII", 256, 4, 1, 1)
    data = b"II*\0\x08\0\0\0"
    for i in range(3000):
        data += b"\1\0" + page + struct.pack("<I", 8 + 18 * (i + 1) if i < 2999 else 0)
    assert survives(data) is None


def test_nothing_hostile_leaks_a_warning(recwarn):
    for data in (*HUGE.values(), files.png_with(PNG_CHUNKS["frames"])):
        survives(data)
    assert not recwarn.list


def test_truncated_files_are_refused_whatever_pillow_was_told(monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    data = sound()["jpeg"]
    with pytest.raises(PhotoError, match="damaged or cut short"):
        imaging.parsed(data[: len(data) * 2 // 3])
    assert Image.MAX_IMAGE_PIXELS is not None
