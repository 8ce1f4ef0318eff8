"""Alignment and paste-back: the two directions between photo and canonical frame."""

import cv2
import numpy as np
import pytest
import torch

from facedeid.errors import OptionError
from facedeid.faces import (
    Face,
    Pasted,
    align,
    detect,
    face_mask,
    frame,
    from_landmarks,
    native_size,
    paste,
)


@pytest.fixture(scope="module")
def face(astronaut):
    return detect(astronaut)[0]


@pytest.fixture(scope="module")
def hopper_face(hopper):
    return detect(hopper)[0]


def shape68(scale=1.0, shift=(0.0, 0.0), degrees=0.0):
    """A made-up face: only the points that alignment reads are in their places."""
    points = np.zeros((68, 2))
    points[:17] = np.stack([np.linspace(-60, 60, 17), 90 - np.linspace(-9, 9, 17) ** 2], 1)
    points[17:27] = np.stack([np.linspace(-45, 45, 10), np.full(10, -25)], 1)
    points[27:36] = (0, 20)
    points[33] = (0, 35)
    points[36:42], points[42:48] = (-30, 0), (30, 0)
    points[48:68] = (0, 60)
    points[48], points[54] = (-20, 60), (20, 60)
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ rotation.T * scale + shift


def item(photo, face, change, size=256, carry="change"):
    place = frame(face, size)
    before = align(photo, place)
    return Pasted(face, place, before, change(before), carry)


def blurred(crop):
    pixels = crop.permute(1, 2, 0).numpy()
    return torch.from_numpy(cv2.GaussianBlur(pixels, (0, 0), 14)).permute(2, 0, 1)


def black(crop):
    return torch.full_like(crop, -1)


def same(crop):
    return crop.clone()


class TestFrame:
    def test_is_the_ffhq_square(self):
        # Worked out by hand: eyes 60 apart, 60 down to the mouth, so the half side is 2·60, and
        # the centre 6 below the eyes. FFHQ counts from pixel corners: 256 of them span 240 px.
        place = frame(from_landmarks(shape68(shift=(300, 200))), 256)
        corners = place.to_photo([(-0.5, -0.5), (255.5, -0.5), (255.5, 255.5)])
        np.testing.assert_allclose(corners, [(180, 86), (420, 86), (420, 326)], atol=1e-9)
        assert place.scale == pytest.approx(256 / 240)

    def test_long_face_takes_the_height(self):
        points = shape68()
        points[48, 1] = points[54, 1] = 100
        side = 1 / frame(from_landmarks(points), 1).scale
        assert side == pytest.approx(2 * 1.8 * 100)

    def test_golden_matrix_of_a_rolled_face(self):
        place = frame(from_landmarks(shape68(0.5, (100, 80), 20)), 128)
        turn, scale = np.deg2rad(20), 128 / 120
        axes = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        centre = np.array([100, 80]) + 3 * np.array([-np.sin(turn), np.cos(turn)])
        np.testing.assert_allclose(place.matrix[:, :2], axes, atol=1e-9)
        np.testing.assert_allclose(place.to_frame(centre), (63.5, 63.5), atol=1e-9)

    def test_there_and_back(self):
        place = frame(from_landmarks(shape68(1.7, (50, 60), -35)), 256)
        points = np.random.default_rng(0).uniform(-50, 400, (20, 2))
        np.testing.assert_allclose(place.to_photo(place.to_frame(points)), points, atol=1e-9)

    @pytest.mark.parametrize(
        ("scale", "size"), [(0.1, 128), (0.5, 128), (0.6, 256), (2, 512), (9, 1024)]
    )
    def test_native_size_loses_nothing_up_to_its_cap(self, scale, size):
        assert native_size(from_landmarks(shape68(scale))) == size


class TestAlign:
    def test_range_shape_and_contents(self, astronaut, face):
        crop = align(astronaut, frame(face, 256))
        assert crop.shape == (3, 256, 256)
        assert crop.dtype == torch.float32
        assert -1 <= crop.min() < -0.9
        assert 0.9 < crop.max() <= 1
        found = detect(np.uint8(np.rint((crop.permute(1, 2, 0).numpy() + 1) * 127.5)))
        assert len(found) == 1
        eyes = found[0].landmarks[36:48].reshape(2, 6, 2).mean(1)
        np.testing.assert_allclose(eyes, [(94, 122), (162, 122)], atol=6)

    def test_unit_scale_copies_pixels(self, astronaut):
        points = shape68(shift=(300.0, 200.0))  # a square of 240 px, corners between pixels
        crop = align(astronaut, frame(from_landmarks(points), 240))
        wanted = astronaut[86:326, 180:420].transpose(2, 0, 1) / 127.5 - 1
        # Half a pixel off in x and y: the mean of four neighbours, as the square starts at 180.
        corner = astronaut[86:327, 180:421].astype(float)
        mean = (corner[:-1, :-1] + corner[1:, :-1] + corner[:-1, 1:] + corner[1:, 1:]) / 4
        smooth = mean.transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(crop.numpy() - smooth).mean() < 0.02
        assert np.abs(crop.numpy() - smooth).mean() < np.abs(crop.numpy() - wanted).mean() / 3

    @pytest.mark.parametrize("zoom", [3, 7.3])
    def test_shrinking_averages(self, zoom):
        checks = np.indices((1200, 1200)).sum(0) % 2 * 255
        photo = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
        crop = align(photo, frame(from_landmarks(shape68(2, (600.3, 580.7), 12)), int(480 / zoom)))
        assert crop.abs().max() < 0.25  # grey; picking single pixels would give -1 and 1

    def test_beyond_the_border_lies_the_mirror(self, astronaut):
        crop = align(astronaut, frame(from_landmarks(shape68(shift=(60, 200))), 240))
        row = crop[:, 100].numpy()
        # x = -0.5 lies between columns 59 and 60 - mirrored about pixel 0, at 59.5
        left, right = row[:, 20:59], row[:, 61:100][:, ::-1]
        assert np.abs(left - right).mean() < 0.03

    def test_sixteen_bits_are_kept(self, astronaut, face):
        deep = astronaut.astype(np.uint16) * 257
        place = frame(face, 128)
        assert (align(deep, place) - align(astronaut, place)).abs().max() < 0.01

    def test_far_outside_and_tiny_photos(self):
        photo = np.full((1, 1, 3), 255, np.uint8)
        assert align(photo, frame(from_landmarks(shape68(shift=(500, 0))), 128)).min() == 1

    def test_refuses_what_is_no_photo(self, face):
        with pytest.raises(OptionError, match="uint8"):
            align(np.zeros((8, 8, 3)), frame(face))


class TestMask:
    def test_covers_the_whole_face_and_not_the_frame(self, astronaut, face):
        mask = face_mask(face, astronaut.shape)
        spots = np.rint(face.landmarks).astype(int)
        assert (mask[spots[:, 1], spots[:, 0]] == 1).all()
        brows, chin = face.landmarks[17:27].mean(0), face.landmarks[8]
        forehead = brows + 0.4 * (brows - chin) * 0.5
        assert mask[round(forehead[1]), round(forehead[0])] == 1
        left, top, right, bottom = frame(face).bounds()
        around = np.ones_like(mask, bool)
        around[top:bottom, left:right] = False
        assert mask[around].max() == 0
        assert ((mask > 0) & (mask < 1)).any()

    def test_estimated_landmarks_get_a_wider_one(self, astronaut, face):
        unsure = Face(face.box, face.landmarks, 1.0, "given", "box")
        sure = face_mask(face, astronaut.shape)
        wide = face_mask(unsure, astronaut.shape)
        assert (wide >= sure).all()
        assert (wide == 1).sum() > 1.2 * (sure == 1).sum()


class TestPaste:
    @pytest.mark.parametrize("size", [128, 256, 512])
    def test_no_change_changes_nothing(self, astronaut, face, size):
        result, touched = paste(astronaut, [item(astronaut, face, same, size)])
        np.testing.assert_array_equal(result, astronaut)
        assert touched.any()

    def test_replacing_by_itself_is_nearly_nothing(self, hopper, hopper_face):
        size = native_size(hopper_face)
        result, touched = paste(hopper, [item(hopper, hopper_face, same, size, "replace")])
        assert np.abs(result.astype(int) - hopper)[touched].mean() < 1.5

    @pytest.mark.parametrize("carry", ["change", "replace"])
    def test_outside_is_bit_identical_and_input_untouched(self, astronaut, face, carry):
        photo = astronaut.copy()
        photo.setflags(write=False)
        result, touched = paste(photo, [item(photo, face, black, carry=carry)])
        np.testing.assert_array_equal(result[~touched], astronaut[~touched])
        assert 0.01 < touched.mean() < 0.2
        assert (touched == (face_mask(face, photo.shape) > 0)).all()

    @pytest.mark.parametrize("carry", ["change", "replace"])
    def test_inside_is_fully_the_methods(self, astronaut, face, carry):
        result, _ = paste(astronaut, [item(astronaut, face, black, carry=carry)])
        core = face_mask(face, astronaut.shape) == 1
        assert core.sum() > 10_000
        # A change was measured on the frame; what the frame does not resolve may stay.
        assert np.percentile(result[core], 99.5) <= (0 if carry == "replace" else 25)

    def test_blur_leaves_no_detail_anywhere_in_the_face(self, hopper, hopper_face):
        result, _ = paste(hopper, [item(hopper, hopper_face, blurred, carry="replace")])
        core = cv2.erode(np.uint8(face_mask(hopper_face, hopper.shape) == 1), np.ones((5, 5)))
        edges = [
            np.abs(cv2.Laplacian(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
            for p in (hopper, result)
        ]
        assert edges[1][core == 1].mean() < 0.2 * edges[0][core == 1].mean()
        assert np.percentile(edges[1][core == 1], 99.9) < 8

    def test_seam_takes_the_colours_of_the_photo(self, hopper, hopper_face):
        def cast(crop):
            return (crop + torch.tensor([0.2, -0.1, -0.15])[:, None, None]).clamp(-1, 1)

        size = native_size(hopper_face)
        result, touched = paste(hopper, [item(hopper, hopper_face, cast, size, "replace")])
        mask = face_mask(hopper_face, hopper.shape)
        seam = (mask > 0.3) & (mask < 1)
        shift = np.abs((result.astype(float) - hopper)[seam].mean(0))
        assert shift.max() < 4  # of the 26, 13 and 19 levels that the cast amounts to
        assert (result[~touched] == hopper[~touched]).all()

    def test_seam_shift_brings_nothing_of_the_face_back(self, hopper, hopper_face):
        def grey(crop):
            return torch.full_like(crop, 0.1)

        other = hopper.copy()  # another face in the same surroundings
        inside = face_mask(hopper_face, hopper.shape) == 1
        inside = cv2.erode(np.uint8(inside), np.ones((25, 25))) == 1
        other[inside] = 255 - other[inside]
        results = [
            paste(photo, [item(photo, hopper_face, grey, carry="replace")])[0].astype(int)
            for photo in (hopper, other)
        ]
        assert np.abs(hopper[inside].astype(int) - other[inside]).mean() > 50
        assert np.abs(results[0] - results[1])[inside].max() <= 1

    def test_detail_finer_than_the_frame_stays(self, hopper, hopper_face):
        def warmer(crop):
            return (crop * 0.8 + 0.1).clamp(-1, 1)

        result, _ = paste(hopper, [item(hopper, hopper_face, warmer, 128)])
        core = face_mask(hopper_face, hopper.shape) == 1
        sharp = [
            cv2.Laplacian(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[core].std()
            for p in (hopper, result)
        ]
        assert sharp[1] > 0.85 * sharp[0]

    def test_sixteen_bits(self, astronaut, face):
        deep = astronaut.astype(np.uint16) * 257 + 3
        result, touched = paste(deep, [item(deep, face, same, carry="change")])
        assert result.dtype == np.uint16
        np.testing.assert_array_equal(result, deep)
        result, touched = paste(deep, [item(deep, face, blurred, carry="replace")])
        np.testing.assert_array_equal(result[~touched], deep[~touched])
        assert len(np.unique(result[touched] % 257)) > 200  # not 8 bits spread over 16

    @pytest.mark.parametrize("cut", [130, 190, 220])
    def test_border_cuts_the_face(self, astronaut, face, cut):
        photo = np.ascontiguousarray(astronaut[:, cut:])
        moved = Face(face.box, face.landmarks - (cut, 0), 1.0, "given", "given")
        result, touched = paste(photo, [item(photo, moved, black, carry="replace")])
        whole, _ = paste(astronaut, [item(astronaut, face, black, carry="replace")])
        far = np.abs(result.astype(int) - whole[:, cut:])
        assert far.max() < 16  # the soft border is drawn on another grid
        assert far[touched].mean() < 1
        assert touched[:, 0].any() or cut == 130

    def test_face_outside_the_photo_is_no_matter(self, astronaut):
        gone = from_landmarks(shape68(shift=(-900, 50)))
        result, touched = paste(astronaut, [item(astronaut, gone, black)])
        assert not touched.any()
        np.testing.assert_array_equal(result, astronaut)

    @pytest.mark.parametrize("carry", ["change", "replace"])
    def test_overlapping_faces_protect_each_other(self, astronaut, face, carry):
        # Each method blackens its own face and leaves the rest of its crop, the other face too.
        def own(face, place):
            inside = torch.from_numpy(
                face_mask(from_landmarks(place.to_frame(face.landmarks)), (256, 256)) > 0
            )
            return lambda crop: torch.where(inside, torch.tensor(-1.0), crop)

        photo = np.full_like(astronaut, 200)
        faces = [face, from_landmarks(face.landmarks + np.array([60, 25]))]
        items = [item(photo, f, own(f, frame(f)), carry=carry) for f in faces]
        result, touched = paste(photo, items)
        for f in faces:
            assert result[face_mask(f, photo.shape) == 1].max() <= 40
            assert result[face_mask(f, photo.shape) == 1].mean() < 1
        assert (result[~touched] == 200).all()
        np.testing.assert_array_equal(paste(photo, items[::-1])[0], result)

    def test_refuses_crops_that_do_not_fit(self, astronaut, face):
        place = frame(face, 256)
        crop = align(astronaut, place)
        with pytest.raises(OptionError, match="256"):
            paste(astronaut, [Pasted(face, place, crop, crop[:, :128, :128], "change")])
        with pytest.raises(OptionError, match="carry"):
            paste(astronaut, [Pasted(face, place, crop, crop, "both")])
