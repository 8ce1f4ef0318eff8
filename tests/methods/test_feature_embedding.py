"""The embedding network that ships, on real faces, before a judge that it never saw."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.faces import Pasted, align, detect, frame, paste
from facedeid.methods import create
from facedeid.methods.embedding import CHANGE, FAR
from facedeid.models import Models
from facedeid.nets.speed import fast_bf16
from facedeid.random import stream
from facedeid.verification import find_again

MODELS = Models()


@pytest.fixture(scope="module", params=["astronaut", "hopper"])
def portrait(request):
    return request.getfixturevalue(request.param)


def released(rgb: NDArray[np.uint8], **options: object):
    """The face, the photo with it de-identified, and the method's facts."""
    face = detect(rgb)[0]
    place = frame(face, 256)
    before = align(rgb, place)
    points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
    result = create("feature-embedding", **options)(
        before[None], MODELS, random=[stream(0, "portrait", 0)], landmarks=points
    )
    pasted = Pasted(face, place, before, result.faces[0], "change")
    return face, paste(rgb, [pasted])[0], result.facts[0]


def distance(rgb: NDArray[np.uint8], face, other: NDArray[np.uint8]) -> float:
    judge = MODELS.recognizer("facedeid-mobile")
    one, two = (judge.embed_photo(photo, [face.landmarks]) for photo in (rgb, other))
    return float(judge.distance(one, two)[0])


def test_the_dial_turns_from_nothing_to_another_person(portrait):
    distances = []
    for strength in (0.0, 0.5, 1.0):
        face, photo, _ = released(portrait, strength=strength)
        distances.append(distance(portrait, face, photo))
    assert distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[0] < distances[1] < distances[2]
    assert distances[2] > 0.4


def test_the_face_stays_a_face_and_in_place(portrait):
    face, photo, _ = released(portrait)
    again = find_again(photo, face, "hog")
    assert again is not None
    moved = np.linalg.norm(again.landmarks - face.landmarks, axis=1).mean()
    assert moved < 0.05 * (face.box[2] - face.box[0])


def test_the_identity_is_drawn_or_given(portrait):
    assert released(portrait, identity=7)[2] == {"identity": 7}
    drawn = released(portrait)[2]
    assert drawn == released(portrait)[2]
    _, one, _ = released(portrait, identity=7)
    _, two, _ = released(portrait, identity=8)
    assert not np.array_equal(one, two)


def test_of_several_tries_one_is_kept_that_is_far_and_changes_little(portrait):
    face = detect(portrait)[0]
    place = frame(face, 256)
    crops = align(portrait, place)[None].expand(6, -1, -1, -1).contiguous()
    points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None].expand(6, -1, -1)
    dlib, distances, worth = MODELS.recognizer("dlib"), [], []
    for tries in (1, create("feature-embedding").tries):
        random = [stream(i, "tries") for i in range(6)]
        method = create("feature-embedding", tries=tries)
        made = method(crops, MODELS, random=random, landmarks=points).faces
        distances.append(dlib.distance(dlib.embed(crops, points), dlib.embed(made, points)))
        change = MODELS.perceptual(crops, made)
        worth.append((distances[-1].clamp_max(FAR) - CHANGE * change).mean())
    assert (distances[1] > dlib.threshold("library") + 0.05).all()
    assert distances[1].mean() > distances[0].mean() + 0.01
    assert worth[1] > worth[0] + 0.01


def test_tries_are_weighed_alike_side_by_side_and_one_by_one(astronaut, hopper, monkeypatch):
    method, crops, points = create("feature-embedding", tries=5), [], []
    for rgb in (astronaut, hopper):
        face = detect(rgb)[0]
        place = frame(face, 256)
        crops.append(align(rgb, place))
        points.append(torch.from_numpy(place.to_frame(face.landmarks)).float())
    drawn = torch.tensor([[3, 60, 90, 120, 7], [200, 11, 3, 45, 9]])
    batch, scores = (torch.stack(crops), drawn, MODELS, torch.stack(points)), []
    for together in (1, 4, 100):
        monkeypatch.setattr("facedeid.methods.embedding.TOGETHER", together)
        scores.append(method._scores(*batch))
    assert scores[0].shape == drawn.shape
    assert scores[0].std(1).min() > 0.01
    tolerance = 0.02 if fast_bf16("cpu") else 1e-4
    torch.testing.assert_close(scores[0], scores[1], atol=tolerance, rtol=0)
    torch.testing.assert_close(scores[0], scores[2], atol=tolerance, rtol=0)


def test_an_album_shows_a_person_as_the_same_synthetic_one(hopper, astronaut):
    models = Models()
    method = create("feature-embedding", album=True)
    found = []
    for number, photo in enumerate((hopper, astronaut, hopper[:, ::-1] // 2 + 60)):
        rgb = np.ascontiguousarray(photo)
        face = detect(rgb)[0]
        place = frame(face, 256)
        points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
        random = [stream(number, "album", 0)]
        faces = align(rgb, place)[None]
        result = method(faces, models, random=random, landmarks=points)
        found.append(result.facts[0]["identity"])
    assert found[0] == found[2] != found[1]
    assert not method.again


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"strength": 1.5}, "between 0 and 1"),
        ({"tries": 0}, "tries must lie between 1 and 128"),
        ({"album": True, "identity": 3}, "exclude each other"),
        ({"identity": -1}, "number of a synthetic person"),
    ],
)
def test_options_that_make_no_sense(options, complaint):
    with pytest.raises(OptionError, match=complaint):
        create("feature-embedding", **options)


def test_an_identity_beyond_the_bank_is_refused(hopper):
    with pytest.raises(OptionError, match="between 0 and 231"):
        released(hopper, identity=232)


def test_a_light_strength_is_warned_about():
    assert create("feature-embedding", strength=0.5).warnings
    assert not create("feature-embedding").warnings
