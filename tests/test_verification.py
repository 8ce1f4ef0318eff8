"""The judge: real matches, blinded detectors, and controls."""

import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facedeid.faces import Face, detect, face_mask, faces_from_boxes
from facedeid.models import Models, Recognizer
from facedeid.verification import Match, Verdict, compare, find_again, verify_face

Array = NDArray[np.uint8]


@pytest.fixture(scope="module")
def dlib_net() -> Recognizer:
    return Models().recognizer("dlib")


@pytest.fixture(scope="module")
def grace(hopper: Array) -> Face:
    return max(detect(hopper), key=lambda f: f.score)


def judge(before: Array, after: Array, face: Face, net: Recognizer) -> Verdict:
    own = net.embed_photo(before, [face.landmarks])[0]
    return verify_face(face, [own], after, [net])


def covered(photo: Array, face: Face, color: int) -> Array:
    mask = face_mask(face, photo.shape)[..., None]
    return (photo * (1 - mask) + color * mask).astype(np.uint8)


def test_the_same_photo_is_a_match(hopper: Array, grace: Face, dlib_net: Recognizer) -> None:
    verdict = judge(hopper, hopper, grace, dlib_net)
    assert verdict.detected
    assert verdict.outcome == "matched"
    assert {m.aligned for m in verdict.matches} == {"fresh", "original"}
    assert max(m.distance for m in verdict.matches) < 0.2


def test_a_covered_face_is_not_found(hopper: Array, grace: Face, dlib_net: Recognizer) -> None:
    verdict = judge(hopper, covered(hopper, grace, 90), grace, dlib_net)
    assert verdict.outcome == "not-detected"
    assert verdict.protected


def test_another_person_in_the_same_place_is_no_match(
    hopper: Array, astronaut: Array, grace: Face, dlib_net: Recognizer
) -> None:
    other = max(detect(astronaut), key=lambda f: f.score)
    photo = hopper.copy()
    left, top, right, bottom = (round(v) for v in grace.box)
    x, y, r, b = (round(v) for v in other.box)
    photo[top:bottom, left:right] = cv2.resize(
        astronaut[y:b, x:r], (right - left, bottom - top), interpolation=cv2.INTER_CUBIC
    )
    verdict = judge(hopper, photo, grace, dlib_net)
    assert verdict.outcome == "not-matched"


def test_a_blinded_detector_is_no_protection(
    hopper: Array, grace: Face, dlib_net: Recognizer
) -> None:
    """Cut off from its surroundings the face is not found again, but whoever knows where it was
    still recognises it."""
    photo = np.full_like(hopper, 128)
    mask = face_mask(grace, hopper.shape) > 0.99
    noise = np.random.default_rng(0).normal(0, 60, hopper.shape)
    photo[mask] = np.clip(hopper + noise, 0, 255).astype(np.uint8)[mask]
    verdict = judge(hopper, photo, grace, dlib_net)
    original = [m for m in verdict.matches if m.aligned == "original"]
    assert original[0].matched
    assert verdict.outcome == "matched"


def test_surroundings_alone_are_no_match(astronaut: Array, dlib_net: Recognizer) -> None:
    """An upside-down face is no face to the recogniser: painted over it still 'matches'."""
    turned = np.ascontiguousarray(np.rot90(astronaut[:300, 60:380], 2))
    (face,) = faces_from_boxes(turned, [(113, 133, 204, 224)])
    painted = covered(turned, face, 0)
    wiped = judge(turned, painted, face, dlib_net)
    (match,) = wiped.matches
    assert match.distance < match.threshold  # without the control, this would be a match
    assert match.control is not None
    assert wiped.protected
    untouched = judge(turned, turned, face, dlib_net)
    assert untouched.outcome == "matched"


def test_what_is_not_a_number_counts_as_a_match(
    hopper: Array, grace: Face, dlib_net: Recognizer
) -> None:
    own = torch.full((128,), math.nan)
    verdict = verify_face(grace, [own], hopper, [dlib_net])
    assert verdict.outcome == "matched"


def test_who_counts_as_evidence() -> None:
    def match(name: str, matched: bool, white_box: bool = False) -> Match:
        return Match(
            recognizer=name,
            aligned="fresh",
            distance=0.5,
            threshold=0.6,
            matched=matched,
            white_box=white_box,
        )

    insider = Verdict(detected=True, matches=(match("a", False, True),))
    assert insider.outcome == "unverified"
    assert not insider.protected
    mixed = Verdict(detected=True, matches=(match("a", False, True), match("b", False)))
    assert mixed.outcome == "not-matched"
    split = Verdict(detected=True, matches=(match("a", True), match("b", False)))
    assert split.disagreement
    assert split.outcome == "matched"
    assert not mixed.disagreement


def test_faces_are_found_again_at_any_size(hopper: Array) -> None:
    for scale in (0.25, 1.0, 2.0):
        size = (round(512 * scale), round(600 * scale))
        photo = np.asarray(cv2.resize(hopper, size, interpolation=cv2.INTER_AREA), np.uint8)
        face = max(detect(photo), key=lambda f: f.score)
        again = find_again(photo, face, "hog")
        assert again is not None
        side = face.box[2] - face.box[0]
        assert np.abs(again.landmarks - face.landmarks).mean() < 0.04 * side
    assert find_again(np.zeros_like(photo), face, "hog") is None


def test_compare_reports_every_face(hopper: Array, grace: Face) -> None:
    models = Models()
    (pair,) = compare(hopper, hopper, models)
    assert pair.verdict.outcome == "matched"
    assert {m.recognizer for m in pair.verdict.matches} == {"dlib", "facedeid-mobile"}
    assert pair.perceptual == 0
    (changed,) = compare(hopper, covered(hopper, grace, 90), models, ["dlib"])
    assert {m.recognizer for m in changed.verdict.matches} == {"dlib"}
    assert changed.perceptual > 0.2
    assert compare(np.zeros_like(hopper), hopper, models) == []
