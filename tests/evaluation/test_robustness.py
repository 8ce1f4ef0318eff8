import io

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from facedeid.errors import OptionError
from facedeid.evaluation import robustness
from facedeid.evaluation.robustness import ROBUSTNESS, apply, encoded, moved, moved_face
from facedeid.faces import detect


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_a_photo_changes_but_keeps_its_form(name, hopper):
    before = hopper.copy()
    after, matrix = apply(name, hopper)
    assert (hopper == before).all()
    assert (after.shape, after.dtype) == (hopper.shape, np.uint8)
    assert not np.shares_memory(after, hopper)
    assert (after != hopper).any()
    assert (apply(name, hopper)[0] == after).all()
    # where pixels went, by that matrix, is where the photo still looks like itself
    expected = cv2.warpAffine(hopper, matrix, hopper.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    assert skimage.metrics.peak_signal_noise_ratio(expected, after) > 24


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_the_face_is_found_where_the_matrix_says(name, hopper):
    (face,) = detect(hopper, min_face=100)
    after, matrix = apply(name, hopper)
    (again,) = detect(after, min_face=100)
    expected = moved_face(face, matrix)
    side = face.box[2] - face.box[0]
    off = np.linalg.norm(again.landmarks - expected.landmarks, axis=1).mean()
    assert off < 0.03 * side
    overlap = np.abs(np.subtract(again.box, expected.box)).max()
    assert overlap < 0.2 * side
    if name != "crop-0.9":
        assert (matrix == np.eye(2, 3)).all()
        assert expected.box == pytest.approx(face.box)


@given(
    st.sampled_from(sorted(ROBUSTNESS)),
    st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
        lambda size: arrays(np.uint8, (*size, 3))
    ),
)
def test_photos_of_any_size_are_taken(name, rgb):
    after, matrix = apply(name, rgb)
    assert (after.shape, after.dtype, matrix.shape) == (rgb.shape, np.uint8, (2, 3))


@pytest.mark.parametrize(("name", "shape"), [("webp-30", (20, 16_400)), ("jpeg-10", (65_600, 16))])
def test_photos_may_be_larger_than_a_file_of_the_kind(name, shape):
    rgb = np.linspace(40, 200, 3 * np.prod(shape)).astype(np.uint8).reshape(*shape, 3)
    after, _ = apply(name, rgb)
    assert after.shape == rgb.shape
    assert np.abs(after.astype(int) - rgb).mean() < 4


@pytest.mark.parametrize("name", ["webp-30", "jpeg-10"])
def test_large_photos_go_in_parts(name, hopper, monkeypatch):
    whole = apply(name, hopper)[0]
    monkeypatch.setattr(robustness, "_LARGEST", 100_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # beyond it Pillow warns
    assert skimage.metrics.peak_signal_noise_ratio(whole, apply(name, hopper)[0]) > 30
    monkeypatch.undo()
    assert robustness._LARGEST < Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_a_grey_photo_stays_as_it_is(name):
    level = 146 if name == "depth-3" else 145  # 4/7 of 255
    grey = np.full((40, 30, 3), level, np.uint8)
    after, _ = apply(name, grey)
    most = 5 if name == "jpeg-10" else 1  # half a step of that quality
    assert np.abs(after.astype(int) - level).max() <= most


def test_filters_are_those_of_scipy(astronaut):
    photo = astronaut[:128, 128:300]
    inner = np.s_[2:-2, 2:-2]
    expected = scipy.ndimage.median_filter(photo, (5, 5, 1))
    assert (apply("median-5", photo)[0][inner] == expected[inner]).all()
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 2**2))
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    expected = scipy.ndimage.convolve(photo.astype(float), kernel[:, :, None], mode="mirror")
    assert np.abs(apply("gaussian-5", photo)[0] - expected).max() < 1.1


def test_three_bits_are_eight_levels(astronaut):
    after, _ = apply("depth-3", astronaut)
    levels = np.unique(after)
    assert levels.tolist() == [round(i * 255 / 7) for i in range(8)]
    assert np.abs(after.astype(int) - astronaut).max() <= 19  # half a level


def test_half_size_averages_and_grows_back(astronaut):
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    rgb = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    after, _ = apply("resize-0.5", rgb)
    assert np.abs(after.astype(int) - 127).max() <= 1
    columns = np.broadcast_to(np.arange(100, 164, dtype=np.uint8)[None, :, None], (64, 64, 3))
    after, _ = apply("resize-0.5", columns)  # no shift by half a pixel
    assert np.abs(after.astype(int) - columns)[:, 2:-2].max() <= 1


def test_lower_quality_is_worse(astronaut):
    for kind in ("JPEG", "WEBP"):
        fine, coarse = (encoded(astronaut, kind, q) for q in (90, 10))
        errors = [((x.astype(float) - astronaut) ** 2).mean() for x in (fine, coarse)]
        assert 0 < 3 * errors[0] < errors[1]
    assert (apply("jpeg-10", astronaut)[0] == encoded(astronaut, "JPEG", 10)).all()
    file = io.BytesIO()
    Image.fromarray(astronaut).save(file, "WEBP", quality=30)
    assert (apply("webp-30", astronaut)[0] == np.asarray(Image.open(file).convert("RGB"))).all()


def test_cropping_keeps_the_middle():
    rgb = np.zeros((200, 100, 3), np.uint8)
    rgb[10:190, 5:95] = 255  # what 0.9 of both sides keeps
    after, matrix = apply("crop-0.9", rgb)
    assert after.min() == 255
    # edges of pixels go to edges, their centres follow
    corners = moved([(4.5, 9.5), (94.5, 189.5)], matrix)
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (99.5, 199.5)])


def test_a_box_moves_by_its_edges(astronaut):
    face = detect(astronaut[:256], min_face=80)[0]
    _, matrix = apply("crop-0.9", np.zeros((200, 100, 3), np.uint8))
    box = moved_face(type(face)((5, 10, 95, 190), face.landmarks, 1, "hog", "dlib"), matrix).box
    assert box == pytest.approx((0, 0, 100, 200))


def test_what_is_no_photo_or_operation_is_refused(astronaut):
    with pytest.raises(OptionError, match="median-5"):
        apply("sharpen", astronaut)
    with pytest.raises(OptionError, match="H×W×3"):
        apply("jpeg-10", astronaut[..., 0])
