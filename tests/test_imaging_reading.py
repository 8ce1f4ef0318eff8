import io
import os
import struct
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

import imaging_files as files
from facedeid import imaging
from facedeid.errors import OptionError, PhotoError

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(format, orientation):
    photo = imaging.parsed(files.oriented(orientation, format))
    tolerance = {"JPEG": 24, "AVIF": 60}.get(format, 0)
    assert np.abs(photo.rgb.astype(int) - files.face()).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_pillow_on_a_picture_that_is_not_square(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    data = files.saved(files.image().crop((0, 0, 40, 64)), "PNG", exif=block)
    expected = ImageOps.exif_transpose(Image.open(files.io.BytesIO(data)))
    assert np.array_equal(imaging.parsed(data).rgb, np.asarray(expected))


@pytest.mark.parametrize("orientation", [1, 6])
def test_deep_tiff_comes_out_upright_once(orientation):
    stored = np.rot90(files.deep(), 1) if orientation == 6 else files.deep()
    data = files.tiff(np.ascontiguousarray(stored), extratags=[(274, 3, 1, orientation, True)])
    assert np.array_equal(imaging.parsed(data).rgb, files.deep())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_negatives_are_shown_as_positives(dtype):
    """TIFF may say that white is 0; scanners and X-ray stations do."""
    samples = files.deep()[..., 0] / 65535
    stored = ((1 - samples) * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    file = files.io.BytesIO()
    tifffile.imwrite(file, stored, photometric="miniswhite")
    photo = imaging.parsed(file.getvalue())
    assert np.abs(photo.rgb8[..., 0] / 255 - samples).max() < 0.006
    assert np.array_equal(imaging.parsed(imaging.encode(photo)).rgb, photo.rgb)
    opened = imaging.from_array(Image.open(files.io.BytesIO(file.getvalue())))
    assert np.array_equal(opened.rgb, photo.rgb)


def test_twelve_bits_of_grey_are_not_shown_as_black():
    samples = (files.deep()[..., 0] >> 4).astype(int)
    left, right = samples[:, 0::2], samples[:, 1::2]
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=2)
    body = packed.astype(np.uint8).tobytes()
    tags = {256: 64, 257: 64, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 64, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    photo = imaging.parsed(b"II*\0\x08\0\0\0\x09\0" + entries + bytes(4) + body)
    assert np.abs(photo.rgb8[..., 0].astype(int) - files.face()[..., 0]).max() <= 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (files.deep().transpose(2, 0, 1), "interleaved"),
        (files.deep().astype(np.float32).transpose(2, 0, 1), "not handled"),
        (files.deep().astype(np.uint64), "not handled"),
    ],
)
def test_arrangements_of_tiff_that_no_decoder_here_shows_rightly_are_refused(samples, message):
    """OpenCV gives 16 bits in separate planes as noise, without a word."""
    planes = "separate" if samples.shape[0] == 3 else "contig"
    file = files.io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(samples), photometric="rgb", planarconfig=planes)
    with pytest.raises(PhotoError, match=message) as caught:
        imaging.parsed(file.getvalue())
    assert "damaged" not in str(caught.value)


def test_depth_that_is_lost_is_named():
    file = files.io.BytesIO()
    tifffile.imwrite(file, files.deep(channels=4), photometric="separated")
    assert imaging.parsed(file.getvalue()).dropped == ("depth beyond 8 of 16 bits",)
    assert imaging.parsed(files.saved(files.image("CMYK"), "TIFF")).dropped == ()


def test_heic_is_read_without_registering_anything():
    file = files.io.BytesIO()
    pillow_heif.from_pillow(files.image()).save(file, quality=95)
    before = set(Image.OPEN)
    photo = imaging.parsed(file.getvalue())
    assert photo.format == "HEIF"
    assert set(Image.OPEN) == before
    assert np.abs(photo.rgb.astype(int) - files.face()).mean() < 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_impossible_orientation_is_ignored(value):
    block = Image.Exif()
    block[0x0112] = value
    data = files.saved(files.image(), "PNG", exif=block)
    assert np.array_equal(imaging.parsed(data).rgb, files.face())


@pytest.mark.parametrize("block", [b"", b"II*\0", b"garbage" * 9, b"MM\0*\xff\xff\xff\xff"])
def test_malformed_exif_is_ignored(block):
    data = files.png_with(files.chunk(b"eXIf", block))
    assert np.array_equal(imaging.parsed(data).rgb, files.face())


def test_content_decides_and_not_the_suffix(tmp_path):
    path = tmp_path / "actually-png.jpg"
    path.write_bytes(files.saved(files.image(), "PNG"))
    photo = imaging.read(path)
    assert photo.format == "PNG"
    imaging.write(photo, tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes().startswith(b"\x89PNG")


def frames(format: str, count: int = 3) -> bytes:
    further = [ImageOps.mirror(files.image())] * (count - 1)
    return files.saved(files.image(), format, save_all=True, append_images=further)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_are_refused_unless_the_first_is_asked_for(format):
    data = frames(format, 2)
    with pytest.raises(PhotoError, match=r"it has 2 (frames|pages)"):
        imaging.parsed(data)
    photo = imaging.parsed(data, first_frame=True)
    assert any("further pictures" in note for note in photo.dropped)
    assert getattr(Image.open(files.io.BytesIO(imaging.encode(photo))), "n_frames", 1) == 1


def test_further_pictures_of_mpo_are_dropped_and_named():
    data = frames("MPO", 2)
    photo = imaging.parsed(data)
    assert photo.format == "JPEG"
    assert "further pictures (MPO)" in photo.dropped
    written = imaging.encode(photo, metadata="keep")
    assert b"MPF\0" not in written
    assert written.count(b"\xff\xd8\xff") == 1


def test_data_after_a_jpeg_is_dropped_and_named():
    motion = b"\0\0\0\x18ftypmp42" + b"MOTION" * 50
    photo = imaging.parsed(files.jpeg_with() + motion)
    assert any("after the picture" in note for note in photo.dropped)
    assert b"MOTION" not in imaging.encode(photo, metadata="keep")


def test_further_pictures_and_thumbnails_of_heic_are_dropped_and_named():
    heif = pillow_heif.from_pillow(files.image())
    heif.add_from_pillow(files.image("L").convert("RGB"))
    file = files.io.BytesIO()
    heif.save(file, quality=90, save_all=True, primary_index=0)
    photo = imaging.parsed(file.getvalue())
    assert "1 further pictures" in photo.dropped
    assert np.abs(photo.rgb.astype(int) - files.face()).mean() < 8
    assert len(pillow_heif.open_heif(imaging.encode(photo))) == 1


def test_reduced_pages_of_tiff_are_dropped_and_named():
    small = files.saved(files.image(side=16), "TIFF", tiffinfo={254: 1})
    file = files.io.BytesIO()
    pages = [Image.open(files.io.BytesIO(small))]
    pages[0].encoderinfo = {"tiffinfo": {254: 1}}
    files.image().save(file, "TIFF", save_all=True, append_images=pages)
    photo = imaging.parsed(file.getvalue())
    assert photo.dropped == ("1 reduced pictures",)
    assert np.array_equal(photo.rgb, files.face())


def test_a_reduced_first_page_is_a_camera_raw_file():
    file = files.io.BytesIO()
    files.image(side=16).save(
        file, "TIFF", save_all=True, append_images=[files.image()], tiffinfo={254: 1}
    )
    with pytest.raises(PhotoError, match="camera raw"):
        imaging.parsed(file.getvalue())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\x1a\x45\xdf\xa3matroska", "video"),
        (b"\0\0\1\xba mpeg", "video"),
        (b"FLV\1abcdefgh", "video"),
        ((b"\x47" + bytes(187)) * 2, "video"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"\xff\x0a....", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS....", "Photoshop"),
        (b"hello, I am a text", "not a photo"),
        (b"", "empty"),
        (b"\0" * 300, "not a photo"),
    ],
)
def test_other_files_are_refused_by_name(head, message, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(head)
    with pytest.raises(PhotoError, match=message) as caught:
        imaging.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("colour", [False, True])
def test_floats_that_are_not_numbers_are_refused(value, colour):
    samples = files.face().astype(np.float32) / 255
    samples[3, 4] = value
    with pytest.raises(PhotoError, match="not numbers"):
        imaging.parsed(files.tiff(samples if colour else samples[..., 0]))


@pytest.mark.parametrize(
    ("low", "high", "black", "white"),
    [(0, 1, 0, 1), (0, 200, 0, 255), (0, 60000, 0, 65535), (-2, 3, -2, 3), (0, 1e6, 0, 1e6)],
)
def test_floats_are_shown_in_the_documented_range(low, high, black, white):
    samples = np.linspace(low, high, 64 * 64, dtype=np.float32).reshape(64, 64)
    photo = imaging.parsed(files.tiff(samples))
    expected = (samples.astype(float) - black) / (white - black) * 65535
    assert np.abs(photo.rgb[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("white", [1, 255])
def test_few_floats_beyond_white_do_not_turn_a_picture_black(white):
    plain = files.face().astype(np.float32) * (white / 255)
    samples = plain.copy()
    samples[:2, :2], samples[5, 5] = 1.03 * white, -0.01 * white
    photo = imaging.parsed(files.tiff(samples))
    usual = imaging.parsed(files.tiff(plain))
    kept = samples == plain
    assert np.array_equal(photo.rgb[kept], usual.rgb[kept])
    assert np.array_equal(imaging.parsed(imaging.encode(photo)).samples.values, samples)


def test_floats_with_many_highlights_are_not_black():
    samples = files.face().astype(np.float32) * (1.5 / 255)
    assert imaging.parsed(files.tiff(samples)).rgb8.mean() > 0.9 * files.face().mean()
    clear = np.dstack([samples, np.ones(samples.shape[:2], np.float32)])
    photo = imaging.parsed(files.tiff(clear))
    assert photo.rgb8.mean() > 0.9 * files.face().mean()
    assert photo.samples.alpha.min() == 65535


def test_the_colour_profile_of_float_colour_stays():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    samples = files.face().astype(np.float32) / 255
    tifffile.imwrite(file, samples, photometric="rgb", iccprofile=icc, description="by Ada")
    photo = imaging.parsed(file.getvalue())
    assert photo.dropped == ("metadata other than the colour profile",)
    back = imaging.parsed(imaging.encode(photo)).metadata.icc
    assert back is not None
    assert ImageCms.ImageCmsProfile(io.BytesIO(back)).profile.xcolor_space == "RGB "


def test_transparency_that_cannot_be_kept_is_told():
    file = io.BytesIO()
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(file, "PNG", transparency=7)
    assert imaging.parsed(file.getvalue()).dropped == ("transparency of one grey",)


def test_constant_floats_are_read():
    assert imaging.parsed(files.tiff(np.full((5, 5), -7, np.float32))).rgb.max() == 0


def test_special_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "pool.jpg")
    (tmp_path / "pool.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "loop.jpg", "dangling.jpg", "folder.jpg", "missing.jpg", "nul\0.jpg"):
        with pytest.raises(PhotoError, match=r"regular|folder|cannot be read"):
            imaging.read(tmp_path / name)
    with pytest.raises(PhotoError, match="regular"):
        imaging.read("/dev/zero")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "secret.jpg"
    path.write_bytes(files.jpeg_with())

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)  # file modes do not bind the superuser
    with pytest.raises(PhotoError, match="Permission denied"):
        imaging.read(path)


def test_a_link_to_a_photo_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(files.saved(files.image(), "PNG"))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert imaging.read(tmp_path / "b.png").source.path == (tmp_path / "a.png").resolve()


def test_too_many_pixels_are_refused_before_decoding():
    data = files.saved(files.image(), "PNG")
    assert imaging.parsed(data, max_pixels=64 * 64).width == 64
    with pytest.raises(PhotoError, match="64×64 pixels, more than the limit of 4095"):
        imaging.parsed(data, max_pixels=64 * 64 - 1)


def test_very_wide_and_tiny_photos():
    wide = imaging.parsed(files.saved(Image.new("RGB", (20_000, 300), (9, 8, 7)), "JPEG"))
    assert (wide.width, wide.height) == (20_000, 300)
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"):
        photo = imaging.parsed(files.saved(Image.new("RGB", (1, 1), (9, 8, 7)), format))
        assert photo.rgb.shape == (1, 1, 3)
        assert imaging.parsed(imaging.encode(photo)).rgb.shape == (1, 1, 3)


def test_photos_beyond_pillows_own_limit_are_read(monkeypatch):
    photos = [files.saved(files.image(), format) for format in ("JPEG", "PNG", "BMP")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # warns from 1000 and fails from 2000
    for data in photos:
        assert imaging.parsed(data).width == 64


def test_truncated_photos_are_refused_even_if_pillow_is_told_otherwise_elsewhere():
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"):
        data = files.saved(files.image(), format)
        with pytest.raises(PhotoError):
            imaging.parsed(data[: len(data) // 2])


def test_threads_and_processes_read_alike_and_leave_the_warning_filters(tmp_path):
    paths = []
    for i, format in enumerate(["JPEG", "PNG", "TIFF", "WEBP"] * 4):
        paths.append(tmp_path / f"{i}.{format.lower()}")
        paths[-1].write_bytes(files.saved(files.image(), format))
    before = list(warnings.filters)
    alone = [imaging.read(path).rgb for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(imaging.read, paths))
    assert all(np.array_equal(a, b.rgb) for a, b in zip(alone, together, strict=True))
    assert warnings.filters == before
    assert threading.active_count() < 20
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(imaging.read, paths[0]).result()
    assert np.array_equal(elsewhere.rgb, alone[0])
    assert not elsewhere.rgb.flags.writeable


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pillow_images_are_taken(mode):
    image = files.image(mode)
    photo = imaging.from_array(image)
    assert photo.to_pil().mode == mode
    assert photo.to_pil().tobytes() == image.tobytes()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_upright_once(format, orientation):
    image = Image.open(files.io.BytesIO(files.oriented(orientation, format)))
    assert np.array_equal(imaging.from_array(image).rgb, files.face())


def test_a_pillow_image_that_cannot_be_decoded():
    data = files.saved(files.image(), "JPEG")
    with pytest.raises(PhotoError, match="cannot be decoded"):
        imaging.from_array(Image.open(files.io.BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize(
    "array",
    [
        files.face(),
        files.face()[..., 0],
        files.deep(channels=4),
        files.deep(),
        files.face().astype(np.float32) / 255,
        files.face().astype(np.float64) / 255,
        (files.face()[..., 0] / 255).astype(np.float16),
        files.face()[:, ::-2],
    ],
)
def test_arrays_come_back_as_they_went(array):
    photo = imaging.from_array(array)
    back = photo.to_array()
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert photo.rgb.dtype == (np.uint8 if array.dtype == np.uint8 else np.uint16)
    assert not photo.rgb.flags.writeable
    assert np.abs(photo.rgb8[..., 0].astype(float) / 255 - _grey_or_red(array)).max() < 0.003


def _grey_or_red(array):
    red = array if array.ndim == 2 else array[..., 0]
    return red / {"u1": 255, "u2": 65535}.get(array.dtype.str[1:], 1.0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "H×W"),
        (np.zeros(4, np.uint8), "H×W"),
        (np.zeros((0, 4, 3), np.uint8), "pixels"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.full((4, 4, 3), 2.0), r"\[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"\[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"\[0, 1\]"),
        ([[1, 2]], "list"),
        (Path("a.jpg"), "expected an array"),
    ],
)
def test_wrong_arrays_are_refused(array, message):
    with pytest.raises(OptionError, match=message):
        imaging.from_array(array)


def test_an_array_that_changes_later_does_not_change_the_photo():
    array = files.face()
    photo = imaging.from_array(array)
    array[:] = 0
    assert photo.rgb.any()


def test_suffixes():
    assert {".jpg", ".png", ".webp", ".tiff", ".heic", ".avif"} <= imaging.SUFFIXES
    assert not imaging.SUFFIXES & imaging.VIDEO_SUFFIXES
