"""What is not touched stays: in memory, and in files of every kind that can promise it."""

from dataclasses import replace

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, JpegImagePlugin

import imaging_files as files
from facedeid import imaging
from facedeid.errors import OptionError, OutputError

TOUCHED = np.zeros((64, 64), bool)
TOUCHED[20:40, 10:50] = True

LOSSLESS = {
    **{f"png-{m}": ("PNG", m, {}) for m in ("1", "L", "LA", "P200", "RGB", "RGBA", "I;16")},
    **{f"webp-{m}": ("WEBP", m, {"lossless": True, "exact": True}) for m in ("RGB", "RGBA")},
    **{
        f"tiff-{m}-{c}": ("TIFF", m, {"compression": c})
        for m in ("1", "L", "LA", "P200", "RGB", "RGBA", "CMYK", "I;16", "F", "I")
        for c in ("raw", "tiff_lzw", "tiff_adobe_deflate")
    },
    "tiff-fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff-packbits": ("TIFF", "RGB", {"compression": "packbits"}),
    **{f"bmp-{m}": ("BMP", m, {}) for m in ("1", "L", "P200", "RGB")},
    "gif-P": ("GIF", "P200", {}),
}


def painted(photo, colour=(200, 30, 90)):
    """New colours for the touched part, and nonsense elsewhere, which must not matter."""
    scale = 257 if photo.rgb.dtype == np.uint16 else 1
    rgb = photo.rgb[::-1, ::-1].copy()
    rgb[TOUCHED] = np.array(colour) * scale
    return photo.replaced(rgb, TOUCHED)


def check_written(photo, changed):
    """The file gives back what is in memory, sample by sample."""
    assert np.array_equal(changed.samples.values[~TOUCHED], photo.samples.values[~TOUCHED])
    back = imaging.parsed(imaging.encode(changed))
    assert back.format == photo.format
    assert back.samples.kind == changed.samples.kind
    assert np.array_equal(back.rgb, changed.rgb)
    assert back.coding == photo.coding
    if changed.samples.palette is None:
        assert np.array_equal(back.samples.values, changed.samples.values)


@pytest.mark.parametrize("case", LOSSLESS)
def test_untouched_samples_are_identical_in_the_file(case):
    format, mode, options = LOSSLESS[case]
    photo = imaging.parsed(files.saved(files.image(mode), format, **options))
    changed = painted(photo)
    assert not np.array_equal(changed.rgb[TOUCHED], photo.rgb[TOUCHED])
    check_written(photo, changed)


@pytest.mark.parametrize(
    "data",
    [
        files.deep_png(files.deep()),
        files.deep_png(files.deep(channels=4)),
        files.tiff(files.deep()),
        files.tiff(files.deep(), compression="zlib"),
        files.tiff(files.deep(channels=4)),
        files.tiff(files.face().astype(np.float32) / 255),
        files.tiff(files.face().astype(np.float32) * 100),
    ],
)
def test_sixteen_bits_and_floats_keep_their_depth(data):
    photo = imaging.parsed(data)
    assert photo.rgb.dtype == np.uint16
    changed = painted(photo)
    back = imaging.parsed(imaging.encode(changed))
    assert back.samples.values.dtype == photo.samples.values.dtype
    assert np.array_equal(back.samples.values, changed.samples.values)
    assert np.array_equal(back.samples.values[~TOUCHED], photo.samples.values[~TOUCHED])


def test_sixteen_bits_are_not_eight():
    assert np.array_equal(imaging.parsed(files.deep_png(files.deep())).rgb, files.deep())
    photo = imaging.parsed(files.tiff(files.deep(channels=4)))
    assert np.array_equal(photo.rgb, files.deep(channels=3))
    assert np.array_equal(photo.samples.alpha, files.deep(channels=4)[..., 3])
    assert np.array_equal(photo.rgb8, np.rint(files.deep() / 257).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colours_stored_times_opacity_are_shown_and_written_by_themselves(dtype):
    plain = files.deep(channels=4) / 65535
    plain[..., 3] = np.linspace(0.25, 1, 64)
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    stored = np.dstack([plain[..., :3] * plain[..., 3:], plain[..., 3]]) * white
    stored = np.rint(stored) if white > 1 else stored
    file = files.io.BytesIO()
    tifffile.imwrite(file, stored.astype(dtype), photometric="rgb", extrasamples=["assocalpha"])
    photo = imaging.parsed(file.getvalue())
    assert np.abs(photo.rgb8 / 255 - plain[..., :3]).max() < 0.02
    back = imaging.parsed(imaging.encode(photo))
    assert np.array_equal(back.rgb, photo.rgb)
    assert np.array_equal(back.samples.alpha, photo.samples.alpha)


def test_colours_change_only_where_touched_and_transparency_nowhere():
    photo = imaging.from_array(files.image("RGBA"))
    changed = painted(photo)
    assert (changed.rgb[TOUCHED] == (200, 30, 90)).all()
    assert np.array_equal(changed.rgb[~TOUCHED], photo.rgb[~TOUCHED])
    assert np.array_equal(changed.samples.alpha, photo.samples.alpha)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "F"])
def test_grey_photos_take_the_luma(mode):
    photo = imaging.from_array(files.image(mode))
    changed = painted(photo, (200, 30, 90))
    luma = 0.299 * 200 + 0.587 * 30 + 0.114 * 90
    expected = 0 if mode == "1" else luma
    assert np.abs(changed.rgb8[TOUCHED] - expected).max() <= 0.51
    assert np.array_equal(changed.rgb[..., 0], changed.rgb[..., 2])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "P", "1", "I;16", "F", "I"])
def test_replacing_by_the_same_colours_changes_nothing(mode):
    photo = imaging.from_array(files.image(mode))
    same = photo.replaced(photo.rgb, np.ones((64, 64), bool))
    assert np.array_equal(same.rgb, photo.rgb)
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "1", "I;16"):
        assert np.array_equal(same.samples.values, photo.samples.values)


def test_cmyk_takes_any_colour_over_any_black_ink():
    random = np.random.default_rng(0)
    ink = random.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    photo = imaging.from_array(Image.frombytes("CMYK", (64, 64), ink.tobytes()))
    wanted = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    wanted[0], wanted[1] = 0, 255
    changed = photo.replaced(wanted, np.ones((64, 64), bool))
    assert np.abs(changed.rgb.astype(int) - wanted).max() <= 1
    assert (changed.samples.values[..., 3] <= ink[..., 3]).all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (60, 60, 60), (128, 100, 90)])
def test_the_black_plate_does_not_go_on_showing_the_face(colour):
    rgb = files.face().astype(int)
    rgb[25:30, 20:30] = 0
    black = 255 - rgb.max(axis=2)
    cmy = 255 - np.rint(rgb * 255 / np.maximum(255 - black, 1)[..., None])
    inks = np.dstack([cmy, black]).astype(np.uint8)
    photo = imaging.from_array(Image.frombytes("CMYK", (64, 64), inks.tobytes()))
    changed = painted(photo, colour)
    assert (changed.rgb[TOUCHED] == colour).all()
    assert np.ptp(changed.samples.values[TOUCHED], axis=0).max() == 0
    assert np.array_equal(changed.samples.values[~TOUCHED], inks[~TOUCHED])


def test_cmyk_jpeg_is_read_the_right_way_round():
    photo = imaging.parsed(files.saved(files.image("CMYK"), "JPEG", quality=95))
    assert np.abs(photo.rgb.astype(int) - files.face()).mean() < 4
    changed = imaging.parsed(imaging.encode(painted(photo)))
    assert changed.samples.kind == "CMYK"
    assert np.abs(changed.rgb[25:35, 20:40].astype(int) - (200, 30, 90)).max() < 6


def test_a_full_palette_gives_way_to_rgb_and_other_pixels_keep_their_colours():
    photo = imaging.parsed(files.saved(files.image("P"), "PNG", transparency=5))
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    changed = photo.replaced(random, TOUCHED)
    assert changed.samples.kind == "RGBA"
    assert np.array_equal(changed.rgb[TOUCHED], random[TOUCHED])
    assert np.array_equal(changed.rgb[~TOUCHED], photo.rgb[~TOUCHED])
    before, after = photo.to_pil().convert("RGBA"), changed.to_pil().convert("RGBA")
    assert np.array_equal(np.asarray(before)[~TOUCHED], np.asarray(after)[~TOUCHED])
    back = imaging.parsed(imaging.encode(changed))
    assert np.array_equal(back.samples.values, changed.samples.values)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_gif_keeps_its_palette_and_takes_the_nearest_colours(mode):
    photo = imaging.parsed(files.saved(files.image(mode), "GIF", transparency=9))
    assert photo.samples.alpha.min() == 0
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    smooth = (photo.rgb // 2 + noise // 2).astype(np.uint8)
    changed = photo.replaced(smooth, TOUCHED)
    back = imaging.parsed(imaging.encode(changed))
    assert back.format == "GIF"
    assert np.array_equal(back.rgb[~TOUCHED], photo.rgb[~TOUCHED])
    error = np.abs(back.rgb[TOUCHED].astype(int) - smooth[TOUCHED])
    assert error[photo.samples.alpha[TOUCHED] > 0].mean() < 25
    assert np.array_equal(back.samples.alpha, photo.samples.alpha)


@pytest.mark.parametrize("transparency", [7, bytes(range(0, 250, 5))])
def test_palette_transparency_stays(transparency):
    photo = imaging.parsed(files.saved(files.image("P200"), "PNG", transparency=transparency))
    back = imaging.parsed(imaging.encode(painted(photo)))
    assert back.samples.kind == "P"
    assert np.array_equal(back.samples.alpha, photo.samples.alpha)


def test_a_transparent_colour_becomes_plain_transparency():
    image = files.image()
    key = image.getpixel((5, 5))
    photo = imaging.parsed(files.saved(image, "PNG", transparency=key))
    assert photo.samples.kind == "RGBA"
    assert photo.samples.alpha[5, 5] == 0
    assert np.array_equal(photo.rgb, files.face())


def test_nothing_touched_is_the_same_photo():
    photo = imaging.from_array(files.face())
    assert photo.replaced(photo.rgb, np.zeros((64, 64), bool)) is photo


def test_what_does_not_fit_is_refused():
    photo = imaging.from_array(files.face())
    for rgb, touched in (
        (photo.rgb[1:], TOUCHED),
        (photo.rgb.astype(np.uint16), TOUCHED),
        (photo.rgb, TOUCHED[1:]),
        (photo.rgb, TOUCHED.astype(np.uint8)),
    ):
        with pytest.raises(OptionError):
            photo.replaced(rgb, touched)


def test_arrays_are_read_only():
    photo = imaging.parsed(files.deep_png(files.deep()))
    for array in (photo.rgb, photo.rgb8, photo.samples.values):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


SAMPLINGS = [0, 1, 2]


@pytest.mark.parametrize("quality", [35, 75, 92, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_follows_its_source(quality, sampling, progressive):
    options = {"quality": quality, "subsampling": sampling, "progressive": progressive}
    source = files.saved(files.image(), "JPEG", **options)
    written = imaging.encode(painted(imaging.parsed(source)))
    a, b = (JpegImagePlugin.JpegImageFile(files.io.BytesIO(d)) for d in (source, written))
    assert a.quantization == b.quantization
    assert JpegImagePlugin.get_sampling(a) == JpegImagePlugin.get_sampling(b) == sampling
    assert bool(b.info.get("progressive")) == progressive


def test_coefficients_of_far_away_blocks_stay_nearly_the_same():
    photo = imaging.parsed(files.saved(files.image(side=64), "JPEG", quality=85))
    back = imaging.parsed(imaging.encode(painted(photo)))
    assert np.abs(back.rgb[48:].astype(int) - photo.rgb[48:]).max() <= 4


def test_turned_jpeg_turns_its_sub_sampling_and_tables():
    block = Image.Exif()
    block[0x0112] = 6
    steep = [list(range(1, 65)), list(range(2, 66))]
    source = files.saved(files.image(), "JPEG", qtables=steep, subsampling=1, exif=block)
    written = Image.open(files.io.BytesIO(imaging.encode(imaging.parsed(source))))
    assert JpegImagePlugin.get_sampling(written) == 0  # 4:4:0 does not exist in Pillow
    expected = np.reshape(steep[0], (8, 8)).T.ravel()
    assert np.array_equal(written.quantization[0], expected)


def test_rgb_jpeg_stays_rgb():
    source = files.saved(files.image(), "JPEG", quality=90, keep_rgb=True)
    written = Image.open(files.io.BytesIO(imaging.encode(imaging.parsed(source))))
    assert written.info["adobe_transform"] == 0


def test_noise_at_the_highest_quality_fits_the_encoder():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    ones = [[1] * 64] * 2
    photo = imaging.parsed(files.saved(Image.fromarray(noise), "JPEG", qtables=ones, subsampling=0))
    for progressive in (False, True):
        coding = replace(photo.coding, progressive=progressive)
        back = imaging.parsed(imaging.encode(replace(photo, coding=coding)))
        assert np.abs(back.rgb.astype(int) - photo.rgb).max() <= 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_of_floats_become_tiff_that_can_be_read(dtype, channels):
    array = (files.deep(channels=4) / 65535).astype(dtype)
    array = array[..., 0] if channels == 1 else array[..., :channels]
    back = imaging.parsed(imaging.encode(imaging.from_array(array), "TIFF"))
    assert back.samples.kind in ("LF", "RGBF", "RGBAF")
    assert np.abs(back.samples.values - array).max() < 1e-7


@pytest.mark.parametrize("colour", [(12, 13), (9, 18)])
def test_heic_without_a_profile_keeps_the_meaning_of_its_colours(colour):
    """Display P3, and what cameras write with much range (BT.2100 HLG)."""
    names = ("color_primaries", "transfer_characteristics")
    file = files.io.BytesIO()
    options = dict(zip(names, colour, strict=True))
    pillow_heif.from_pillow(files.image()).save(file, matrix_coefficients=9, **options)
    photo = imaging.parsed(file.getvalue())
    back = pillow_heif.open_heif(imaging.encode(photo)).info["nclx_profile"]
    assert tuple(back[name] for name in names) == colour
    assert np.abs(imaging.parsed(imaging.encode(photo)).rgb.astype(int) - photo.rgb).mean() < 4


def test_avif_without_a_profile_keeps_the_meaning_of_its_colours():
    source = files.saved(files.image(), "AVIF", quality=95)
    assert b"colrnclx\0\1\0\x0d" in source
    photo = imaging.parsed(source.replace(b"colrnclx\0\1\0\x0d", b"colrnclx\0\x0c\0\x10"))
    written = imaging.encode(photo)
    assert b"colrnclx\0\x0c\0\x10" in written
    assert np.abs(imaging.parsed(written).rgb.astype(int) - photo.rgb).mean() < 4
    assert b"colrnclx\0\1\0\x0d" in imaging.encode(imaging.from_array(photo.rgb), "AVIF")


def test_lossy_webp_stays_lossy():
    source = files.saved(files.image(), "WEBP", quality=70)
    assert b"VP8L" not in imaging.encode(imaging.parsed(source))


CONVERSIONS = [
    ("PNG", "RGBA", "JPEG", "RGB"),
    ("PNG", "P", "JPEG", "RGB"),
    ("PNG", "LA", "JPEG", "L"),
    ("PNG", "1", "JPEG", "L"),
    ("PNG", "I;16", "JPEG", "L"),
    ("TIFF", "CMYK", "PNG", "RGB"),
    ("TIFF", "CMYK", "JPEG", "CMYK"),
    ("TIFF", "F", "PNG", "L16"),
    ("PNG", "L", "WEBP", "RGB"),
    ("JPEG", "RGB", "GIF", "P"),
    ("PNG", "RGBA", "AVIF", "RGBA"),
    ("PNG", "RGBA", "HEIF", "RGBA"),
    ("JPEG", "L", "BMP", "L"),
]


@pytest.mark.parametrize(("format", "mode", "other", "kind"), CONVERSIONS)
def test_another_format_gets_the_nearest_kind(format, mode, other, kind):
    photo = imaging.parsed(files.saved(files.image(mode), format))
    back = imaging.parsed(imaging.encode(photo, other))
    assert (back.format, back.samples.kind) == (other, kind)


def test_transparency_becomes_white_where_there_is_none():
    image = Image.new("RGBA", (16, 16), (10, 20, 30, 0))
    assert (imaging.parsed(imaging.encode(imaging.from_array(image), "JPEG")).rgb == 255).all()


def test_a_photo_that_a_format_cannot_hold():
    wide = imaging.from_array(np.zeros((1, 70_000, 3), np.uint8))
    for format in ("JPEG", "WEBP"):
        with pytest.raises(OutputError, match=f"70000×1.*cannot be written as {format}"):
            imaging.encode(wide, format)
