"""What a result may say: nothing that shows or names the person, unless asked for."""

import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

import imaging_files as files
from facedeid import imaging
from facedeid.errors import OptionError
from facedeid.imaging import icc
from facedeid.imaging.metadata import checked_iptc, checked_xmp

PICTURES = [b"MAKERNOTE", b"IRBTHUMB", b"IPTC-PREVIEW", b"XMPPICTURE", b"QUJDREVG", b"EXTENDED-XMP"]
PRIVATE = [
    *(b"ARTIST-NAME", b"OWNER", b"DESCRIPTION", b"SERIAL", b"USER-COMMENT"),
    *(b"XMP-TITLE", b"FACE-REGION", b"IPTC-CAPTION", b"JPEG-COMMENT", b"PNG-TEXT"),
]


def sources() -> dict[str, bytes]:
    block, profile = files.exif_with_everything(6), files.srgb()
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"EXTENDED-XMP" * 9
    jpeg = files.saved(files.image(), "JPEG", icc_profile=profile, dpi=(300, 300))
    text = files.chunk(b"tEXt", b"Comment\0PNG-TEXT")
    packed = files.chunk(b"zTXt", b"Author\0\0" + zlib.compress(b"PNG-TEXT"))
    xmp = files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + files.XMP)
    png = files.saved(files.image(), "PNG", icc_profile=profile, exif=block, dpi=(300, 300))
    tags = Image.Exif()
    tags.load(block)
    tags[0x02BC], tags[0x8649] = files.XMP, b"8BIM IRBTHUMB"
    options = {"exif": block, "icc_profile": profile, "xmp": files.XMP}
    heif = files.io.BytesIO()
    pillow_heif.from_pillow(files.image()).save(heif, **options)
    return {
        "JPEG": files.jpeg_with(
            files.segment(0xE1, block),
            files.XMP_SEGMENT,
            files.segment(0xE1, extended),
            files.photoshop(),
            files.segment(0xFE, b"JPEG-COMMENT"),
            base=jpeg,
        ),
        "PNG": files.png_with(text, packed, xmp, base=png),
        "WEBP": files.saved(files.image(), "WEBP", lossless=True, **options),
        "TIFF": files.saved(files.image(), "TIFF", exif=tags, icc_profile=profile, dpi=(300, 300)),
        "AVIF": files.saved(files.image(), "AVIF", **options),
        "HEIF": heif.getvalue(),
    }


SOURCES = sources()
THUMBNAIL = files.saved(files.image(side=32), "JPEG", quality=50)


def written(format: str, mode: str) -> bytes:
    return imaging.encode(imaging.parsed(SOURCES[format]), metadata=mode)


def unpacked(data: bytes) -> bytes:
    """The file and whatever deflate streams of text are in it."""
    texts = [
        zlib.decompress(body[body.index(b"\0") + 2 :])
        for name, body in _chunks(data)
        if name in (b"zTXt", b"iCCP")
    ]
    return data + b"".join(texts)


def _chunks(data):
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at + 8 : at + 8 + size]
        at += 12 + size


def test_the_sources_hold_what_the_results_must_not():
    everything = b"".join(unpacked(data) for data in SOURCES.values())
    assert all(word in everything for word in PICTURES + PRIVATE)
    for format in ("JPEG", "PNG", "WEBP", "HEIF"):
        assert THUMBNAIL in SOURCES[format], format
        assert opened(SOURCES[format]).getexif().get_ifd(ExifTags.IFD.IFD1), format


@pytest.mark.parametrize("mode", ["strip", "keep-safe", "keep"])
@pytest.mark.parametrize("format", SOURCES)
def test_no_mode_keeps_another_picture(format, mode):
    data = written(format, mode)
    assert not [word for word in PICTURES if word in unpacked(data)]
    assert THUMBNAIL not in data
    assert THUMBNAIL[20:200] not in data
    assert not opened(data).getexif().get_ifd(ExifTags.IFD.IFD1)
    assert opened(data).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("mode", ["strip", "keep-safe"])
@pytest.mark.parametrize("format", SOURCES)
def test_names_numbers_and_places_go(format, mode):
    data = written(format, mode)
    assert not [word for word in PRIVATE if word in unpacked(data)]
    assert not opened(data).getexif().get_ifd(0x8825)


def opened(data: bytes) -> Image.Image:
    if data[4:8] == b"ftyp" and b"heic" in data[:40]:
        return pillow_heif.open_heif(data).to_pillow()
    return Image.open(files.io.BytesIO(data))


@pytest.mark.parametrize("format", SOURCES)
def test_strip_leaves_the_profile_alone(format):
    image = opened(written(format, "strip"))
    assert icc.space(image.info["icc_profile"]) == "rgb"
    left = {tag for tag in image.getexif() if tag in (0x010F, 0x0110, 0x0132, 0x013B, 0x8769)}
    assert not left
    assert "xmp" not in image.info or not image.info["xmp"]
    assert image.info.get("dpi", (96, 96))[0] != 300


@pytest.mark.parametrize("format", SOURCES)
def test_keep_safe_keeps_the_camera(format):
    block = opened(written(format, "keep-safe")).getexif()
    assert (block[0x010F], block[0x0110]) == ("Maker", "Model 7")
    exposure = block.get_ifd(0x8769)
    assert (exposure[0x8827], exposure[0xA434]) == (400, "Lens 50mm")
    assert float(exposure[0x829D]) == pytest.approx(2.8)
    assert not {0xA431, 0xA430, 0xA435, 0x927C, 0x9286} & set(exposure)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["keep-safe", "keep"])
def test_resolution_is_kept(format, mode):
    assert opened(written(format, mode)).info["dpi"][0] == pytest.approx(300, abs=0.1)


@pytest.mark.parametrize("format", SOURCES)
def test_keep_keeps_texts_and_position(format):
    data = written(format, "keep")
    block = opened(data).getexif()
    assert block[0x013B] == "ARTIST-NAME"
    assert block.get_ifd(0x8769)[0xA431] == "SERIAL-1234"
    assert [float(v) for v in block.get_ifd(0x8825)[2]] == [48, 8, 6.5]
    assert b"XMP-TITLE" in data
    assert b"FACE-REGION" in data


def test_keep_carries_what_only_one_format_has():
    jpeg, png = written("JPEG", "keep"), written("PNG", "keep")
    assert b"IPTC-CAPTION" in jpeg
    assert b"JPEG-COMMENT" in jpeg
    assert opened(png).text["Comment"] == "PNG-TEXT"


def test_exif_that_does_not_fit_into_jpeg_is_left_out():
    block = Image.Exif()
    block[0x010E] = "a long story " * 6000
    photo = imaging.parsed(files.saved(files.image(), "PNG", exif=block))
    assert len(imaging.encode(photo, metadata="keep")) > 70_000
    assert not opened(imaging.encode(photo, "JPEG", metadata="keep")).getexif()


def test_what_is_dropped_is_named():
    dropped = imaging.parsed(SOURCES["JPEG"]).dropped
    assert {"the EXIF thumbnail", "maker notes", "Photoshop resources"} <= set(dropped)
    assert imaging.parsed(files.saved(files.image(), "JPEG")).dropped == ()


def test_an_unknown_mode_is_refused():
    with pytest.raises(OptionError, match="keep-safe"):
        imaging.encode(imaging.from_array(files.face()), metadata="all")


@pytest.mark.parametrize("blob", [b"\xff\xd8" * 400, b"QUJD" * 200])
def test_private_tags_with_packed_data_are_not_kept(blob):
    block = Image.Exif()
    block[0xFDE8], block[0x010F] = blob, "Maker"
    photo = imaging.parsed(files.saved(files.image(), "JPEG", exif=block))
    kept = opened(imaging.encode(photo, metadata="keep")).getexif()
    assert kept[0x010F] == "Maker"
    assert 0xFDE8 not in kept


def test_xmp_is_upright_and_free_of_pictures():
    packet = checked_xmp(files.XMP)
    assert b'Orientation="1"' in packet
    assert b"XMP-TITLE" in packet
    assert b"XMPPICTURE" not in packet


@pytest.mark.parametrize("place", ["beside", "attribute", "after", "in"])
def test_pictures_are_taken_out_of_xmp_wherever_they_are(place):
    blob = b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0"
    packet = {
        "beside": files.XMP.replace(b"<rdf:RDF", b"<blob>" + blob + b"</blob><rdf:RDF"),
        "attribute": files.XMP.replace(b"<x:xmpmeta", b'<x:xmpmeta blob="' + blob + b'"'),
        "after": files.XMP.replace(b"</dc:title>", b"</dc:title>" + blob),
        "in": files.XMP,
    }[place]
    assert b"QUJDREVG" in packet
    assert b"QUJDREVG" not in checked_xmp(packet)
    assert b"XMP-TITLE" in checked_xmp(packet)


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        b"<x",
        b"<a/>",
        b"\xff\xfe\0",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b'<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>',
        b"<a>" * 3000 + b"</a>" * 3000,
    ],
)
def test_xmp_that_cannot_be_understood_is_dropped(packet):
    assert checked_xmp(packet) is None


def test_iptc_keeps_texts_only():
    assert checked_iptc(files.IPTC + files.PREVIEW) == files.IPTC
    assert checked_iptc(files.IPTC + files.IPTC[:9]) == files.IPTC
    assert checked_iptc(b"nonsense") is None


def display_profile(name: bytes) -> bytes:
    """sRGB as an operating system embeds it in screenshots, with the monitor's data."""
    profile = files.srgb()
    tags = icc._tags(profile)
    tags[b"mmod"] = b"mmod\0\0\0\0SERIAL-OF-MONITOR"
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(79)
    header = bytearray(profile[:128])
    header[48:52], header[80:84] = b"APPL", b"appl"
    data = icc._built(bytes(header), tags)
    return data[:48] + b"APPLMODL" + data[56:]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"sRGB IEC61966-2.1", True),
        (b"Display P3", True),
        (b"Adobe RGB (1998)", True),
        (b"Anna's MacBook", False),
        (b"sRGB of Anna", False),
    ],
)
def test_profiles_keep_colour_and_nothing_else(name, kept):
    source = display_profile(name)
    assert b"SERIAL-OF-MONITOR" in source
    result = icc.cleaned(source)
    assert b"SERIAL-OF-MONITOR" not in result
    assert b"MODL" not in result
    plain = result.replace(b"\0", b"")
    assert (name in plain) == kept
    before, after = icc._tags(source), icc._tags(result)
    for tag in (b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"rTRC"):
        assert before[tag] == after[tag]


def test_a_cleaned_profile_gives_the_same_colours():
    from PIL import ImageCms

    def to_lab(profile: bytes) -> np.ndarray:
        handle = ImageCms.ImageCmsProfile(files.io.BytesIO(profile))
        lab = ImageCms.createProfile("LAB")
        return np.asarray(ImageCms.profileToProfile(files.image(), handle, lab, outputMode="LAB"))

    source = files.srgb()
    assert np.array_equal(to_lab(source), to_lab(icc.cleaned(source)))


@pytest.mark.parametrize("profile", [b"x" * 10, b"x" * 400, files.srgb()[:300], bytes(128)])
def test_damaged_profiles_are_dropped(profile):
    photo = imaging.parsed(files.saved(files.image(), "JPEG", icc_profile=profile))
    assert "icc_profile" not in opened(imaging.encode(photo)).info


def test_a_profile_for_other_samples_does_not_go_along():
    grey = imaging.parsed(files.saved(files.image("L"), "JPEG", icc_profile=files.srgb()))
    assert grey.metadata.icc is None
    assert "icc_profile" not in opened(imaging.encode(grey, metadata="keep")).info


def test_png_gamma_and_primaries_stay():
    gamma = files.chunk(b"gAMA", struct.pack(">I", 100000))
    photo = imaging.parsed(files.png_with(gamma))
    assert opened(imaging.encode(photo)).info["gamma"] == 1.0


def test_deep_files_carry_the_profile_too():
    profile = files.srgb()
    photo = imaging.parsed(files.tiff(files.deep(), iccprofile=profile))
    assert icc.space(imaging.parsed(imaging.encode(photo)).metadata.icc) == "rgb"
    body = b"p\0\0" + zlib.compress(profile)
    photo = imaging.parsed(
        files.png_with(files.chunk(b"iCCP", body), base=files.deep_png(files.deep()))
    )
    back = imaging.parsed(imaging.encode(photo, metadata="keep"))
    assert back.metadata.icc == profile
    assert np.array_equal(back.rgb, files.deep())
