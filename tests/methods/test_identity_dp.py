"""IdentityDP with the network that ships, on real faces, before a judge that it never saw."""

import math

import numpy as np
import pytest
import torch

from facedeid.errors import OptionError
from facedeid.evaluation.attackers.attributes import HasAttributes
from facedeid.faces import Pasted, align, detect, frame, paste
from facedeid.losses import ssim
from facedeid.methods import create, parse
from facedeid.methods.identity import SPAN
from facedeid.models import Models
from facedeid.pipeline import Settings
from facedeid.privacy import Laplace
from facedeid.random import stream
from facedeid.verification import find_again

MODELS = Models()


def canonical(rgb):
    """A photo's face, where it is, its crop 1×3×256×256, its landmarks."""
    face = detect(rgb)[0]
    place = frame(face, 256)
    points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
    return face, place, align(rgb, place)[None], points


@pytest.fixture(scope="module")
def portraits(astronaut, hopper):
    return {"astronaut": canonical(astronaut), "hopper": canonical(hopper)}


def released(portrait, **options):
    _, _, crop, points = portrait
    method = create("identity-dp", **{"seeded": True, **options})
    return method(crop, MODELS, random=[stream(0, "portrait", 0)], landmarks=points)


def judged(one, two, points):
    judge = MODELS.recognizer("facedeid-mobile")
    return float(judge.distance(judge.embed(one, points), judge.embed(two, points)))


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_with_a_small_budget_it_is_somebody_else(portraits, name, request):
    face, place, crop, points = portraits[name]
    made = released(portraits[name], epsilon=6).faces
    assert judged(crop, made, points) > MODELS.recognizer("facedeid-mobile").threshold("best")
    assert float(ssim(crop, made)) > 0.8
    photo = request.getfixturevalue(name)
    pasted, _ = paste(photo, [Pasted(face, place, crop[0], made[0], "change")])
    again = find_again(pasted, face, "hog")
    assert again is not None
    moved = np.linalg.norm(again.landmarks - face.landmarks, axis=1).mean()
    assert moved < 0.05 * (face.box[2] - face.box[0])


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_without_noise_the_face_comes_back(portraits, name):
    _, _, crop, points = portraits[name]
    made = released(portraits[name], epsilon=math.inf).faces
    noisy = released(portraits[name], epsilon=6).faces
    assert judged(crop, made, points) < MODELS.recognizer("facedeid-mobile").threshold("best")
    assert judged(crop, made, points) < judged(crop, noisy, points) - 0.1
    assert float(ssim(crop, made)) > float(ssim(crop, noisy))


def test_a_swapped_identity_leads_from_oneself_to_the_other(portraits):
    """The two are alike (0.67 apart for dlib), so what has to be nearer is so over both swaps.

    The judge that the network never saw is led away by the vector as swaps take it, turned away
    from one's own; as it is, it leads the astronaut's portrait less far than its own vector does.
    """
    net, dlib = MODELS.identity, MODELS.recognizer("dlib")
    to_other, from_oneself, before_a_judge = [], [], []
    for a, b in (("astronaut", "hopper"), ("hopper", "astronaut")):
        (_, _, crop, points), (_, _, other, other_points) = portraits[a], portraits[b]
        own, theirs = dlib.embed(crop, points), dlib.embed(other, other_points)
        with torch.no_grad():
            swapped, kept = (net(crop, net.unit(vector)) for vector in (theirs, own))
            turned = net(crop, net.away(net.unit(theirs), net.unit(own)))
        found = dlib.embed(swapped, points)
        assert dlib.distance(found, theirs) < dlib.distance(own, theirs) - 0.05
        to_other.append(float(dlib.distance(found, theirs)))
        from_oneself.append(float(dlib.distance(found, own)))
        before_a_judge.append(judged(crop, turned, points) - judged(crop, kept, points))
        judge = MODELS.recognizer("facedeid-mobile")
        assert judged(crop, kept, points) < judge.threshold("best") < judged(crop, turned, points)
    assert sum(to_other) < sum(from_oneself)
    assert min(before_a_judge) > 0.2
    assert sum(before_a_judge) > 0.6


def test_the_facts_state_the_mechanism(portraits):
    method = create("identity-dp", epsilon=0.57)
    _, _, crop, points = portraits["hopper"]
    facts = method(crop, MODELS, random=[stream(0)], landmarks=points).facts[0]
    assert facts["epsilon"] == 0.57
    assert facts["private"] is True
    assert facts["noise_scale"] == pytest.approx(2 * math.sqrt(128) / 0.57)
    assert facts["epsilon_of_one_coordinate"] == pytest.approx(0.57 / math.sqrt(128))
    assert "bounded" in facts["sensitivity"]
    assert released(portraits["hopper"]).facts[0]["private"] is False


def test_the_noise_takes_no_seed_and_a_repeatable_one_is_not_private(portraits):
    _, _, crop, points = portraits["hopper"]
    method = create("identity-dp")
    one, two = (
        method(crop, MODELS, random=[stream(0, "same")], landmarks=points) for _ in range(2)
    )
    assert not torch.equal(one.faces, two.faces)
    assert torch.equal(released(portraits["hopper"]).faces, released(portraits["hopper"]).faces)
    with pytest.raises(OptionError, match="takes no seed"):
        Settings(method=method, seed=0)
    seeded = create("identity-dp", seeded=True)
    assert Settings(method=seeded, seed=0).method.cost == math.inf
    assert any("NOT PRIVATE" in warning for warning in seeded.warnings)


def test_every_report_says_what_the_budget_covers():
    assert "Pose, expression, hair" in " ".join(create("identity-dp").warnings)
    assert any(
        "no guarantee" in w
        for w in parse("identity-dp:sensitivity=empirical,measured=13.5").warnings
    )


@pytest.mark.parametrize("projection", ["sphere", "span", "nearest"])
def test_projections_are_post_processing_of_the_noisy_vector(projection, portraits):
    method, net = create("identity-dp", projection=projection), MODELS.identity
    vectors = torch.nn.functional.normalize(torch.randn(6, 128, generator=stream(1)))
    projected = method._projected(vectors, net, MODELS)
    assert torch.allclose(projected.norm(dim=1), torch.ones(6), atol=1e-5)
    people = net.unit(MODELS.identities("dlib"))
    if projection == "nearest":
        assert ((projected @ people.T).amax(1) > 0.999).all()
        assert torch.equal((vectors @ people.T).argmax(1), (projected @ people.T).argmax(1))
    if projection == "span":
        assert torch.linalg.matrix_rank(projected) <= SPAN
        assert torch.allclose(method._projected(projected, net, MODELS), projected, atol=1e-5)
    made = released(portraits["hopper"], projection=projection)
    assert made.facts[0]["projection"] == projection


def test_a_larger_empirical_sensitivity_means_more_noise(portraits):
    """At a budget where identity begins to return; the same draws of noise, scaled."""
    _, _, crop, points = portraits["hopper"]
    near, far = (
        released(portraits["hopper"], epsilon=800, sensitivity="empirical", measured=measured).faces
        for measured in (1.0, 20.0)
    )
    assert judged(crop, near, points) < judged(crop, far, points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0}, "positive"),
        ({"epsilon": -3.0}, "positive"),
        ({"sensitivity": "empirical"}, "go together"),
        ({"measured": 3.0}, "go together"),
        ({"sensitivity": "empirical", "measured": -1.0}, "positive number"),
        ({"sensitivity": "empirical", "measured": 1e300}, "positive number up to 22.6"),
        ({"projection": "cube"}, "projection must be"),
        ({"ball": "l3"}, "ball must be"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        create("identity-dp", **options)


def test_the_mechanism_gets_the_vectors_in_the_unit_ball(portraits, monkeypatch):
    seen = []
    release = Laplace.release

    def spy(self, vectors):
        seen.append(self._checked(vectors))
        return release(self, vectors)

    monkeypatch.setattr(Laplace, "release", spy)
    _, _, crop, points = portraits["hopper"]
    for ball, order in (("l2", 2), ("l1", 1)):
        create("identity-dp", ball=ball)(crop, MODELS, random=[stream(0)], landmarks=points)
        assert torch.linalg.vector_norm(seen[-1], ord=order) == pytest.approx(1, abs=1e-6)


def test_what_is_released_un_noised_can_be_seen_by_attackers(portraits):
    method = create("identity-dp")
    assert isinstance(method, HasAttributes)
    _, _, crop, points = portraits["hopper"]
    vectors = method.attributes(crop, MODELS, landmarks=points)
    other = method.attributes(portraits["astronaut"][2], MODELS, landmarks=points)
    assert vectors.shape[0] == 1
    assert vectors.shape == other.shape
    assert not torch.allclose(vectors, other)
