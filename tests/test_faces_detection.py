"""Finding faces, and their landmarks."""

import os
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from facedeid.errors import OptionError, WeightsError
from facedeid.faces import align, detect, faces_from_boxes, frame
from facedeid.faces.detection import Finder, dlib_model, finder, scan, suppress

ASTRONAUT = (173, 80, 266, 173)
HOPPER = (167, 145, 360, 338)


def near(face, box, share=0.6):
    low, high = np.maximum(face.box[:2], box[:2]), np.minimum(face.box[2:], box[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (face.box, box)]
    return shared > share * (sum(areas) - shared)


def near_box(row, box, share):
    return near(SimpleNamespace(box=row[:4]), box, share)


def shrunk(photo, ratio):
    return cv2.resize(photo, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)


class TestDetect:
    def test_portraits(self, astronaut, hopper):
        for photo, box in ((astronaut, ASTRONAUT), (hopper, HOPPER)):
            (face,) = detect(photo)
            assert near(face, box)
            assert face.detector == "hog"
            assert face.landmarks_from == "dlib"
            assert face.landmarks.shape == (68, 2)

    @pytest.mark.parametrize("size", [26, 30, 45])
    def test_small_faces(self, astronaut, hopper, size):
        for photo, box in ((astronaut, ASTRONAUT), (hopper, HOPPER)):
            ratio = size / (box[2] - box[0])
            faces = detect(shrunk(photo, ratio))
            assert any(near(face, np.multiply(box, ratio), 0.5) for face in faces)

    def test_min_face_leaves_smaller_ones_out(self, astronaut):
        assert not detect(astronaut, min_face=150)
        assert detect(astronaut, min_face=80)

    def test_grey(self, astronaut):
        grey = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        assert any(near(face, ASTRONAUT) for face in detect(grey))

    @pytest.mark.parametrize("degrees", [-20, 20])
    def test_rolled_face_is_aligned_upright(self, astronaut, degrees):
        turn = cv2.getRotationMatrix2D((220, 127), degrees, 1)
        rolled = cv2.warpAffine(astronaut, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
        (face,) = [f for f in detect(rolled) if near(f, ASTRONAUT, 0.4)]
        (straight,) = detect(astronaut)
        there = straight.landmarks @ turn[:, :2].T + turn[:, 2]
        assert np.abs(face.landmarks - there)[17:].mean() < 0.04 * 93
        crops = [
            align(photo, frame(f)).numpy() for photo, f in ((rolled, face), (astronaut, straight))
        ]
        inner = np.s_[:, 80:210, 70:190]
        assert np.corrcoef(crops[0][inner].ravel(), crops[1][inner].ravel())[0, 1] > 0.9

    @pytest.mark.parametrize("cut", [180, 190])
    def test_face_cut_by_the_border(self, astronaut, cut):
        faces = detect(np.ascontiguousarray(astronaut[:, cut:]))
        assert any(near(face, np.subtract(ASTRONAUT, (cut, 0, cut, 0)), 0.5) for face in faces)

    def test_order_is_from_the_top(self, astronaut, hopper):
        photo = np.full((1000, 1100, 3), 128, np.uint8)
        photo[:300, 700:1000] = astronaut[:300, 60:360]
        photo[400:1000, 20:532] = hopper[:600]
        boxes = [face.box for face in detect(photo, min_face=60)]
        assert len(boxes) == 2
        assert boxes[0][1] < boxes[1][1]

    def test_nothing_and_tiny_photos(self):
        assert detect(np.full((300, 200, 3), 90, np.uint8)) == []
        assert detect(np.zeros((1, 1, 3), np.uint8)) == []
        assert detect(np.zeros((1, 3000, 3), np.uint8)) == []

    def test_cnn(self, astronaut):
        small = np.ascontiguousarray(shrunk(astronaut, 0.8)[:220, 60:300])
        (face,) = detect(small, detector="cnn", min_face=70)
        assert near(face, np.multiply(ASTRONAUT, 0.8) - (60, 0, 60, 0))
        assert face.detector == "cnn"

    @pytest.mark.slow
    def test_twelve_megapixels(self, astronaut, hopper):
        photo = cv2.resize(np.full((30, 40, 3), (90, 120, 150), np.uint8), (4000, 3000))
        wanted = []
        places = [(26, 50, 60), (30, 900, 80), (45, 3700, 2700), (80, 3000, 1900), (120, 1800, 60)]
        places += [(250, 2500, 200), (300, 60, 900), (520, 900, 1200)]
        for i, (size, left, top) in enumerate(places):
            source, box = ((astronaut, ASTRONAUT), (hopper, HOPPER))[i % 2]
            ratio = size / (box[2] - box[0])
            portrait = cv2.resize(source, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            photo[top : top + portrait.shape[0], left : left + portrait.shape[1]] = portrait[
                : 3000 - top, : 4000 - left
            ]
            wanted.append(np.multiply(box, ratio) + np.array([left, top, left, top]))
        faces = detect(photo)
        for box in wanted:
            assert sum(near(face, box, 0.45) for face in faces) == 1, box
        assert len(faces) <= len(wanted) + 2
        faces = detect(photo, min_face=80)
        assert sum(any(near(face, box, 0.45) for face in faces) for box in wanted) >= 5

    @pytest.mark.parametrize(
        "photo", [np.zeros((9, 9)), np.zeros((9, 9, 3)), np.zeros((0, 5, 3), np.uint8)]
    )
    def test_refuses_what_is_no_photo(self, photo):
        with pytest.raises(OptionError, match="uint8"):
            detect(photo)

    def test_refuses_senseless_options(self, astronaut):
        with pytest.raises(OptionError, match="hog or cnn"):
            detect(astronaut, detector="haar")
        with pytest.raises(OptionError, match="10"):
            detect(astronaut, min_face=2)

    def test_yunet_files(self, astronaut, tmp_path):
        with pytest.raises(OptionError, match=r"there is no file .*nowhere\.onnx"):
            detect(astronaut, detector=str(tmp_path / "nowhere.onnx"))
        (tmp_path / "bad.onnx").write_bytes(b"not a model")
        with pytest.raises(OptionError, match="is not a YuNet model"):
            detect(astronaut, detector=str(tmp_path / "bad.onnx"))

    @pytest.mark.skipif("YUNET" not in os.environ, reason="YUNET does not name a YuNet .onnx")
    def test_yunet(self, astronaut, hopper):
        for photo, box in ((astronaut, ASTRONAUT), (hopper, HOPPER)):
            (face,) = detect(photo, detector=os.environ["YUNET"])
            assert near(face, box)
            assert face.detector == "yunet"

    def test_missing_models_are_named(self, monkeypatch):
        monkeypatch.setattr("facedeid.weights.local.find_spec", lambda name: None)
        with pytest.raises(WeightsError, match="pip install face_recognition_models"):
            dlib_model(lambda path: path, "another.dat")


class TestTilted:
    @staticmethod
    def turned(photo, box, degrees):
        """The photo, the box of its face around the same centre, and the landmarks, all turned."""
        (straight,) = detect(photo, min_face=60)
        turn = cv2.getRotationMatrix2D(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), degrees, 1)
        size = photo.shape[1::-1]
        rolled = cv2.warpAffine(photo, turn, size, borderMode=cv2.BORDER_REPLICATE)
        return rolled, straight.landmarks @ turn[:, :2].T + turn[:, 2]

    @pytest.mark.parametrize("degrees", [-45, -35, 35, 45])
    @pytest.mark.parametrize("who", ["astronaut", "hopper"])
    def test_found_with_landmarks(self, request, who, degrees):
        photo, box = request.getfixturevalue(who), ASTRONAUT if who == "astronaut" else HOPPER
        if who == "hopper":
            photo, box = shrunk(photo, 0.5), np.multiply(box, 0.5)
        rolled, there = self.turned(photo, box, degrees)
        (face,) = [f for f in detect(rolled) if near(f, box, 0.4)]
        side = box[2] - box[0]
        assert face.landmarks_from == "dlib"
        assert np.abs(face.landmarks - there)[36:48].mean() < 0.03 * side
        assert np.abs(face.landmarks - there)[17:].mean() < 0.04 * side

    @pytest.mark.parametrize("degrees", [-40, 40])
    def test_in_a_given_box(self, astronaut, degrees):
        rolled, there = self.turned(astronaut, ASTRONAUT, degrees)
        (face,) = faces_from_boxes(rolled, [ASTRONAUT])
        assert face.landmarks_from == "dlib"
        assert np.abs(face.landmarks - there)[17:].mean() < 0.02 * 93

    def test_needs_the_turned_passes(self, astronaut):
        rolled, _ = self.turned(astronaut, ASTRONAUT, 55)
        upright = replace(finder("hog"), tilted=None)
        assert not any(near_box(b, ASTRONAUT, 0.4) for b in scan(rolled, upright, 24))
        assert any(near_box(b, ASTRONAUT, 0.4) for b in scan(rolled, finder("hog"), 24))

    @pytest.mark.parametrize("width", [1400, 300])
    def test_boxes_are_mapped_back(self, width):
        """A detector that sees the one bright disc, wherever the photo is turned to."""
        photo, seen = np.zeros((500, width, 3), np.uint8), []
        cv2.circle(photo, (210, 90), 80, (255, 255, 255), -1)

        def disc(grey):
            seen.append(grey.size)
            _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(grey > 100))
            left, top, width, height, area = stats[1:].T.astype(float)
            whole = (width > 38) & (abs(width - height) <= 3) & (area > 0.7 * width * height)
            return np.stack([left, top, left + width, top + height, area], 1)[whole]

        blind = Finder("disc", lambda rgb: np.zeros((0, 5)), 40, 60_000, tilted=disc)
        (box,) = scan(photo, blind, 32)
        np.testing.assert_allclose(box[:4], (130, 10, 291, 171), atol=4)
        assert max(seen) <= 60_000 * 1.05
        assert len(scan(photo, blind, 80)) == 0  # 2.5 times that is more than the disc

    @pytest.mark.parametrize("upended", [False, True])
    def test_strips_are_turned_in_pieces(self, upended):
        """A stitched panorama or a long screenshot: its canvas would be 20 times it."""
        seen, places = [], [60, 1000, 1530, 2220, 3940]
        photo = np.zeros((100, 4000), np.uint8)
        for place in places:
            cv2.circle(photo, (place, 50), 45, 255, -1)
        photo = photo.T if upended else photo

        def disc(grey):
            seen.append(grey.size)
            _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(grey > 100))
            left, top, width, height, area = stats[1:].T.astype(float)
            whole = (abs(width - height) <= 3) & (area > 0.7 * width * height)
            return np.stack([left, top, left + width, top + height, area], 1)[whole]

        blind = Finder("disc", lambda rgb: np.zeros((0, 5)), 60, 10**9, tilted=disc)
        boxes = scan(np.repeat(photo[..., None], 3, 2), blind, 24)
        centres = (boxes[:, :2] + boxes[:, 2:4])[:, :: -1 if upended else 1] / 2
        np.testing.assert_allclose(sorted(centres[:, 0]), places, atol=2)
        np.testing.assert_allclose(centres[:, 1], 50, atol=2)
        assert sum(seen) < 2 * 4.5 * photo.size


class TestScan:
    """The search itself, with a detector that sees bright squares, however large."""

    @staticmethod
    def squares(seen):
        def find(rgb):
            seen.append(rgb.shape[:2])
            _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(rgb[..., 0] > 100))
            left, top, width, height = stats[1:, :4].T.astype(float)
            boxes = np.stack([left, top, left + width, top + height, width * height], 1)
            whole = (width > 20 * 0.85) & (abs(width - height) < 0.1 * width)
            return boxes[whole]

        return Finder("squares", find, window=20, area=40_000)

    def test_all_sizes_in_bounded_tiles(self):
        photo, seen = np.zeros((900, 1400, 3), np.uint8), []
        squares = [(30, 40, 22), (300, 30, 45), (790, 20, 100), (50, 300, 230), (600, 350, 500)]
        squares += [(1370, 870, 25), (500, 200, 60)]
        for left, top, side in squares:
            photo[top : top + side, left : left + side] = 255
        boxes = scan(photo, self.squares(seen), 20)
        assert max(h * w for h, w in seen) <= 40_000 * 1.05
        assert len(seen) > 20
        wanted = sorted(squares)
        found = sorted((round(b[0]), round(b[1]), round(b[2] - b[0])) for b in boxes)
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found, wanted, atol=6)

    def test_a_photo_that_fits_is_searched_once(self):
        seen = []
        scan(np.zeros((100, 400, 3), np.uint8), self.squares(seen), 20)
        scan(np.zeros((200, 800, 3), np.uint8), self.squares(seen), 40)
        assert seen == [(100, 400), (100, 400)]

    def test_suppress(self):
        boxes = np.array(
            [
                [0, 0, 10, 10, 0.5],
                [1, 0, 11, 10, 0.9],  # the same, better
                [3, 3, 6, 6, 0.2],  # inside
                [8, 8, 18, 18, 0.1],  # a neighbour
            ]
        )
        np.testing.assert_array_equal(suppress(boxes)[:, 4], [0.9, 0.1])

    @pytest.mark.parametrize("side", [30, 49])
    def test_an_eye_does_not_replace_the_face_around_it(self, side):
        boxes = np.array([[0, 0, 100, 100, 0.1], [20, 20, 20 + side, 20 + side, 0.9]])
        np.testing.assert_array_equal(suppress(boxes)[:, 4], [0.9, 0.1])

    def test_nested_boxes_of_like_size_are_one_face(self):
        boxes = np.array([[0, 0, 100, 100, 0.1], [20, 20, 75, 75, 0.9]])
        np.testing.assert_array_equal(suppress(boxes)[:, 4], [0.9])

    def test_a_worse_box_within_a_face_is_dropped(self):
        boxes = np.array([[0, 0, 100, 100, 0.9], [20, 20, 50, 50, 0.1], [90, 90, 120, 120, 0.2]])
        np.testing.assert_array_equal(suppress(boxes)[:, 4], [0.9, 0.2])

    def test_hog_searches_a_twelve_megapixel_photo_at_once_for_large_faces(self):
        assert finder("hog").area >= 12_000_000
        assert finder("hog").window == 80


class TestBoxes:
    def test_landmarks_in_a_given_box(self, astronaut):
        (found,) = detect(astronaut)
        (face,) = faces_from_boxes(astronaut, [(168, 70, 272, 185)])
        assert face.box == (168, 70, 272, 185)
        assert (face.detector, face.landmarks_from) == ("given", "dlib")
        assert np.abs(face.landmarks - found.landmarks)[17:].mean() < 2.5

    def test_landmarks_grow_with_the_photo(self, astronaut):
        box = np.array([168, 70, 272, 185])
        (face,) = faces_from_boxes(astronaut, [box])
        crop = np.ascontiguousarray(astronaut[:300, 100:400])
        large = cv2.resize(crop, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
        (grown,) = faces_from_boxes(large, [(box - (100, 0, 100, 0)) * 8])
        back = (grown.landmarks + 0.5) / 8 - 0.5 + (100, 0)
        assert np.abs(back - face.landmarks).mean() < 1

    def test_a_face_that_fills_the_photo_needs_little_memory(self, astronaut):
        box = (np.array([168, 70, 272, 185]) - (130, 40, 130, 40)) * 10
        crop = np.ascontiguousarray(astronaut[40:240, 130:310])
        large = cv2.resize(crop, None, fx=10, fy=10, interpolation=cv2.INTER_CUBIC)
        faces_from_boxes(astronaut, [(168, 70, 272, 185)])  # loads the predictor
        tracemalloc.start()
        try:
            (face,) = faces_from_boxes(large, [box])
            assert tracemalloc.get_traced_memory()[1] < 2 * large.nbytes
        finally:
            tracemalloc.stop()
        assert face.landmarks_from == "dlib"
        (small,) = faces_from_boxes(crop, [box / 10])
        back = (face.landmarks + 0.5) / 10 - 0.5
        assert np.abs(back - small.landmarks)[17:].mean() < 1

    def test_where_no_face_is_landmarks_come_from_the_box(self, astronaut):
        faces = faces_from_boxes(astronaut, [(380, 300, 500, 420), (20, 380, 120, 480)])
        assert [face.landmarks_from for face in faces] == ["box", "box"]
        points = faces[0].landmarks
        eyes, mouth, chin = points[36:48].mean(0), points[48:68].mean(0), points[8]
        np.testing.assert_allclose([eyes[0], mouth[0], chin[0]], 440, atol=1)
        assert 320 < eyes[1] < 350 < 375 < mouth[1] < 400 < chin[1] < 430
        assert points[36, 0] < points[45, 0]

    def test_box_beyond_the_border(self, astronaut):
        photo = np.ascontiguousarray(astronaut[:, 200:])
        (face,) = faces_from_boxes(photo, [(-27, 80, 66, 173)])
        assert face.box[0] == -27
        assert np.isfinite(face.landmarks).all()

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ((10, 10, 5, 20), "empty"),
            ((1, 2, 3), "left, top, right, bottom"),
            ("a box", "left, top, right, bottom"),
            ((1, 2, (3, 4), 5), "left, top, right, bottom"),
            ((0, 0, float("nan"), 9), "left, top, right, bottom"),
            ((600, 0, 700, 50), "outside"),
            ((-2_000, -2_000, 2_000, 2_000), "far larger"),
        ],
    )
    def test_refuses_senseless_boxes(self, astronaut, box, message):
        with pytest.raises(OptionError, match=message):
            faces_from_boxes(astronaut, [box])
