import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facedeid.errors import OptionError
from facedeid.evaluation import intervals
from facedeid.evaluation import judges as judging
from facedeid.evaluation.datasets import Pair
from facedeid.evaluation.identification import cmc_of_probes, rank, ranked_people
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import Judge, judge, library_threshold
from facedeid.evaluation.metrics import cmc
from facedeid.evaluation.protocols import Comparison, Score, compare, headline, score
from facedeid.evaluation.statistics import best_threshold
from facedeid.evaluation.tables import Estimate

PEOPLE = ("a", "b", "c", "d", "e", "f")


def eye(name="eye", metric="euclidean", thresholds=None):
    """A recogniser without a network."""

    def threshold(point):
        if point not in (thresholds or {}):
            raise OptionError(point)
        return thresholds[point]

    return SimpleNamespace(
        name=name,
        spec=SimpleNamespace(metric=metric, dim=2),
        threshold=threshold,
        distance=lambda a, b: (a - b).square().sum(-1).sqrt(),
    )


class Seen:
    """Embeddings and detections that a test decides."""

    def __init__(self, vectors, lost=(), known=(), label="method"):
        self.vectors, self.lost, self.known, self.label = vectors, set(lost), known, label

    def embeddings(self, recognizer, keys, aligned="original", draw=0):
        found = torch.tensor([self.vectors[key] for key in keys], dtype=torch.float32)
        valid = torch.tensor([aligned == "original" or key not in self.lost for key in keys])
        found[~valid] = torch.nan
        return found, valid

    def look(self, keys):
        return np.array([key not in self.lost for key in keys])

    def white_box(self, recognizer):
        return recognizer.name in self.known


class Clean(Seen):
    def embeddings(self, recognizer, keys):
        return super().embeddings(recognizer, keys)[0]


def comparison(partner, itself, detected, thresholds, known=()):
    """Of three releases; the fresh distances are those given where detected."""
    seen = np.array(detected)
    by = [np.where(seen, x, np.inf) for x in (partner, itself)]
    return Comparison(
        views=Seen({}, known=known),
        judge=Judge(recognizer=eye(), thresholds=thresholds),
        probes=("p", "q", "r"),
        partners=("x", "y", "z"),
        detected=seen,
        partner={"fresh": by[0], "original": np.array(partner)},
        itself={"fresh": by[1], "original": np.array(itself)},
        strangers={"fresh": np.array([0.2, 0.9]), "original": np.array([0.2, 0.3, 0.9, 0.9])},
    )


def test_a_face_that_is_not_found_is_no_match_and_no_secret():
    found = comparison([0.3, 0.4, 0.9], [0.1, 0.6, 0.2], [True, False, False], {"best": 0.5})
    fresh, original = score(found, "partner", Bootstrap("abc"))
    assert (fresh.aligned, original.aligned) == ("fresh", "original")
    assert fresh.rejected.value == pytest.approx(2 / 3)
    assert original.rejected.value == pytest.approx(1 / 3)
    counts = [
        (o.not_detected, o.not_matched, o.matched) for o in (fresh.outcomes, original.outcomes)
    ]
    assert counts == [(2, 0, 1), (1, 0, 2)]
    assert fresh.distance == pytest.approx(0.3)
    assert original.distance == pytest.approx(np.mean([0.3, 0.4, 0.9]))
    assert fresh.strangers == pytest.approx(0.5)
    assert original.strangers == pytest.approx(0.5)
    fresh, original = score(found, "itself", Bootstrap("abc"))
    assert original.rejected.value == pytest.approx(1 / 3)
    assert fresh.rejected.value == pytest.approx(2 / 3)


def test_the_threshold_itself_is_no_match_and_each_point_has_its_rows():
    found = comparison([0.5, 0.4, 0.9], [0, 0, 0], [True] * 3, {"best": 0.5, "library": 0.95})
    rows = score(found, "partner", Bootstrap("abc"))
    assert [(row.point, row.rejected.value) for row in rows] == [
        ("best", pytest.approx(2 / 3)),
        ("best", pytest.approx(2 / 3)),
        ("library", 0),
        ("library", 0),
    ]


def test_a_photo_in_two_pairs_is_compared_with_itself_once():
    found = comparison([0.1, 0.1, 0.1], [0.9, 0.9, 0.1], [True] * 3, {"best": 0.5})
    object.__setattr__(found, "probes", ("p", "p", "r"))
    rows = score(found, "itself", Bootstrap("aab"))
    assert [row.rejected.value for row in rows] == [0.5, 0.5]
    assert rows[0].outcomes.n == rows[0].rejected.n == 2


def row(recognizer, aligned, value, white_box=False, point="best"):
    return Score(
        method="m",
        recognizer=recognizer,
        white_box=white_box,
        against="partner",
        point=point,
        threshold=1.0,
        aligned=aligned,
        rejected=Estimate(value, value, value, 9),
        outcomes=None,
        strangers=None,
        distance=None,
        sd=None,
    )


def test_the_headline_is_the_worst_held_out_recogniser():
    rows = [
        row("one", "fresh", 0.9),
        row("one", "original", 0.7),
        row("one", "original", 0.2, point="library"),
        row("two", "fresh", 0.6),
        row("two", "original", 0.8),
        row("known", "original", 0.1, white_box=True),
    ]
    points = dict.fromkeys(("one", "two", "known"), "best")
    worst = headline(rows, points)
    assert (worst.recognizer, worst.aligned, worst.rejected.value) == ("two", "fresh", 0.6)
    assert headline(rows, {**points, "one": "library"}).recognizer == "one"
    assert headline([each for each in rows if each.white_box], points) is None


def test_strangers_are_other_people():
    vectors = {f"{who}{i}": (10.0 * n + i, 0.0) for n, who in enumerate(PEOPLE) for i in (1, 2)}
    people = [who for who in PEOPLE for _ in range(2)]
    probes, partners = [f"{who}1" for who in people], [f"{who}2" for who in people]
    views = Seen(vectors, lost=["a1"])
    found = compare(
        views,
        Clean(vectors),
        Judge(recognizer=eye(), thresholds={"best": 5}),
        probes,
        partners,
        people,
    )
    assert found.strangers["original"].min() == pytest.approx(9)  # b1 to a2: never 1, the partner's
    assert len(found.strangers["original"]) == len(people) * (len(PEOPLE) - 1)
    assert len(found.strangers["fresh"]) == (len(people) - 2) * (len(PEOPLE) - 1)
    np.testing.assert_allclose(found.partner["original"], 1)
    np.testing.assert_allclose(found.itself["original"], 0)
    assert np.isinf(found.itself["fresh"][:2]).all()
    assert not found.detected[:2].any()


def test_nobody_known_means_only_itself():
    vectors = {"x": (0.0, 0.0), "y": (1.0, 0.0)}
    found = compare(
        Seen({"x": (3.0, 4.0), "y": (1.0, 0.0)}),
        Clean(vectors),
        Judge(recognizer=eye(), thresholds={"library": 1}),
        ["x", "y"],
        None,
        ["x", "y"],
    )
    np.testing.assert_allclose(found.itself["fresh"], [5, 0])
    assert found.partner is found.strangers is found.partners is None
    assert score(found, "partner", Bootstrap("xy")) == []


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_of_probes_average_to_the_curve(ties):
    random = np.random.default_rng(1)
    distances = random.random((9, 9))
    if ties:
        distances = np.round(distances * 3)
    each = cmc_of_probes(distances, np.ones(9, np.bool_))
    np.testing.assert_allclose(each.mean(0), cmc(distances, range(9), range(9)))
    valid = np.arange(9) > 2
    lost = cmc_of_probes(distances, valid)
    assert not lost[:3].any()
    np.testing.assert_allclose(lost[3:], each[3:])


PHOTOS = tuple((f"{who}1", f"{who}2", f"{who}3") for who in PEOPLE)


def test_ranking_goes_through_six_sets():
    clean = {
        key: (10.0 * n, float(i)) for n, keys in enumerate(PHOTOS) for i, key in enumerate(keys)
    }
    released = dict(clean)
    released["a2"] = clean["b1"]  # among the other sets, b comes first
    views = Seen(released, lost=["c1", "c2"])
    found = rank(
        views,
        Clean(clean),
        Judge(recognizer=eye(), thresholds={"best": 1}),
        PHOTOS,
        Bootstrap(PEOPLE),
    )
    by = {each.aligned: each for each in found}
    assert by["original"].rank1.value == pytest.approx((36 - 2) / 36)
    assert by["original"].rank5.value == 1
    assert by["original"].rank5.low == pytest.approx(0.025 ** (1 / 6))
    assert by["fresh"].rank1.value == pytest.approx((36 - 2 - 4) / 36)
    assert by["fresh"].curve[-1] == pytest.approx(32 / 36)  # without a face, never found
    assert by["fresh"].detected == pytest.approx(16 / 18)
    assert by["original"].rank1.low < by["original"].rank1.value < 1


def test_people_for_ranks_are_the_first_with_three_faces():
    keys = {
        "a": ("a1", "a2"),
        "b": ("b1", "b2", "b3"),
        "c": ("c1", "c2", "c3", "c4", "c5"),
        "d": PHOTOS[3],
    }
    dataset = SimpleNamespace(
        people=lambda least: {k: v for k, v in keys.items() if len(v) >= least}
    )
    searched = []

    def face(key):
        searched.append(key)
        return None if key in ("b2", "c1") else "face"

    originals = SimpleNamespace(face=face)
    assert ranked_people(dataset, originals, 9) == (("c2", "c3", "c4"), PHOTOS[3])
    assert ranked_people(dataset, originals, 1) == (("c2", "c3", "c4"),)
    assert "c5" not in searched  # of many photos no more than are wanted


# intervals ----------------------------------------------------------------------------------


def test_many_photos_of_few_people_say_less():
    random = np.random.default_rng(0)
    truths = np.repeat(random.random(20) < 0.4, 30)  # all photos of a person alike
    photos = Bootstrap([str(i) for i in range(600)]).share(truths)
    people = Bootstrap([str(i // 30) for i in range(600)]).share(truths)
    assert people.value == photos.value == pytest.approx(truths.mean())
    assert people.high - people.low > 4 * (photos.high - photos.low)
    share = truths.mean()
    wide = 1.96 * np.sqrt(share * (1 - share) / 20)
    assert people.high - people.low == pytest.approx(2 * wide, rel=0.25)


def test_certainty_is_never_claimed_of_shares():
    none = Bootstrap([str(i) for i in range(10)]).share(np.zeros(10, np.bool_))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))
    few = Bootstrap([str(i // 5) for i in range(10)]).share(np.ones(10, np.bool_))
    assert few.low == pytest.approx(0.025 ** (1 / 2))
    probabilities = Bootstrap([str(i) for i in range(10)]).share(np.zeros(10))
    assert probabilities == none
    assert Bootstrap([str(i) for i in range(10)]).mean(np.ones(10)) == Estimate(1, 1, 1, 10)
    with pytest.raises(OptionError, match="a share is of"):
        Bootstrap("ab").share([0.5, 2])


def test_one_person_says_nothing_about_others():
    alone = Bootstrap("aaab")
    only = [True, True, True, False]
    assert alone.share([True, False, False, True], only) == Estimate(1 / 3, 0, 1, 3)
    assert alone.share([0, 0, 0, 1], only) == Estimate(0, 0, 0.975, 3)
    assert alone.mean([1.0, 2, 6, 9], only) == 3


def test_draws_in_blocks_are_the_same_draws(monkeypatch):
    people, values = [str(i % 50) for i in range(70)], np.random.default_rng(0).random(70)
    whole = Bootstrap(people, 3).mean(values)
    monkeypatch.setattr(intervals, "AT_ONCE", 1100)
    assert Bootstrap(people, 3).mean(values) == whole
    drawn = np.random.default_rng(3).integers(50, size=(2000, 50))
    times = np.stack([np.bincount(draw, minlength=50) for draw in drawn])
    np.testing.assert_array_equal(Bootstrap(people, 3)._times, times)


def test_many_people_take_little_memory(monkeypatch):
    monkeypatch.setattr(intervals, "AT_ONCE", 100_000)
    tracemalloc.start()
    Bootstrap([str(i) for i in range(4000)], draws=500).mean(np.arange(4000))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5 * 4000 * 500  # bytes; the draws by themselves have eight each


def test_only_what_counts_is_averaged():
    bootstrap = Bootstrap("aabbcc")
    found = bootstrap.mean([1, 2, np.nan, 4, np.inf, 6], [True, True, False, True, False, True])
    assert (found.value, found.n) == (3.25, 4)
    assert bootstrap.mean([1.0, 2, 3, 4, 5, 6]) == Bootstrap("aabbcc").mean([1.0, 2, 3, 4, 5, 6])
    for values in ([np.nan] * 6, [1.0] * 5 + [np.inf]):
        with pytest.raises(OptionError):
            bootstrap.mean(values)
    with pytest.raises(OptionError):
        bootstrap.mean([1.0] * 6, [False] * 6)


# thresholds ---------------------------------------------------------------------------------


def untouched_pairs(monkeypatch, genuine, impostor):
    found = np.array([*genuine, *impostor])
    pairs = [Pair("x", "y", i < len(genuine), 0) for i in range(len(found))]
    monkeypatch.setattr(judging, "distances", lambda *_: found)
    return pairs, found


def test_thresholds_are_measured_on_untouched_pairs(monkeypatch):
    random = np.random.default_rng(2)
    pairs, found = untouched_pairs(
        monkeypatch, random.normal(0.4, 0.1, 50).clip(0), random.normal(0.9, 0.1, 50).clip(0)
    )
    same = np.arange(100) < 50
    got = judge(eye(thresholds={"library": 0.6}), None, pairs)
    assert got.thresholds == {"best": best_threshold(found, same), "library": 0.6}
    assert got.headline == "best"
    assert got.accuracy == pytest.approx(((found < got.thresholds["best"]) == same).mean())
    assert got.folds is None
    assert (got.genuine, got.impostor) == (50, 50)
    assert got.tar is None  # of 50 pairs none may be accepted, which says nothing of one in 1,000
    order = np.arange(100).reshape(2, 5, 10).transpose(1, 0, 2).ravel()  # five folds of both kinds
    monkeypatch.setattr(judging, "distances", lambda *_: found[order])
    folded = judge(eye(), None, [pairs[i] for i in order], folds=5)
    assert len(folded.folds.folds) == 5
    assert list(folded.thresholds) == ["best"]


def test_tar_is_measured_where_a_thousand_impostor_pairs_are(monkeypatch):
    genuine, impostor = np.linspace(0.1, 0.6, 20), np.linspace(0.5, 0.9, 1000)
    for count, wanted in ((1000, (genuine < impostor[1]).mean()), (999, None)):
        pairs, _ = untouched_pairs(monkeypatch, genuine, impostor[:count])
        assert judge(eye(), None, pairs).tar == wanted


def test_where_none_can_be_measured_the_library_s_counts(monkeypatch):
    pairs, _ = untouched_pairs(monkeypatch, [0.4] * 9, [0.9] * 50)
    got = judge(eye(thresholds={"library": 0.6}), None, pairs)
    assert got.thresholds == {"library": 0.6}
    assert got.headline == "library"
    assert got.accuracy is None
    with pytest.raises(OptionError, match=r"'eye\?threshold=0\.7'"):
        judge(eye(), None, pairs)


def test_the_libraries_own_thresholds(models):
    assert library_threshold(models.recognizer("dlib")) == 0.6
    assert library_threshold(models.recognizer("dlib?threshold=0.5")) == 0.5
    assert library_threshold(eye(thresholds={"mean-impostor": 0.81})) == 0.81
    assert library_threshold(eye(thresholds={"best": 0.7})) is None
