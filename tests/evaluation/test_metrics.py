import math

import numpy as np
import pytest
import skimage.metrics
import torch
import torchmetrics.functional as tm
import torchmetrics.functional.image as tm_image
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from facedeid.errors import OptionError
from facedeid.evaluation import metrics
from facedeid.faces import detect

BOX = (176.0, 70.0, 266.0, 160.0)


@pytest.fixture(scope="module", params=[np.uint8, np.uint16])
def pictures(request, astronaut):
    factor = 257 if request.param is np.uint16 else 1
    face = astronaut[40:200, 150:290]
    noisy = (face + np.random.default_rng(0).normal(0, 14, face.shape)).clip(0, 255)
    return face.astype(request.param) * factor, (noisy * factor).astype(request.param)


def batches(*pictures):
    scale = np.iinfo(pictures[0].dtype).max
    return [torch.from_numpy(x / scale).permute(2, 0, 1)[None] for x in pictures]


def test_mse_and_psnr_are_those_of_scikit_image_and_torchmetrics(pictures):
    a, b = pictures
    top = np.iinfo(a.dtype).max
    expected = skimage.metrics.mean_squared_error(a / top, b / top)
    assert metrics.mse01(a, b) == pytest.approx(expected, rel=1e-12)
    assert metrics.psnr(a, b) == pytest.approx(
        skimage.metrics.peak_signal_noise_ratio(a, b, data_range=top), rel=1e-12
    )
    assert metrics.psnr(a, b) == pytest.approx(
        float(tm_image.peak_signal_noise_ratio(*batches(b, a), data_range=1.0)), rel=1e-6
    )
    assert 15 < metrics.psnr(a, b) < 30


def test_equal_pictures_have_no_error(astronaut):
    assert metrics.mse01(astronaut, astronaut) == 0
    assert metrics.psnr(astronaut, astronaut) == math.inf
    assert metrics.ssim(astronaut, astronaut) == pytest.approx(1, abs=1e-12)


def test_mse_does_not_wrap_around():
    dark, light = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert metrics.mse01(dark, light) == metrics.mse01(light, dark) == 1


def test_ssim_is_that_of_scikit_image(pictures):
    a, b = pictures
    _, full = skimage.metrics.structural_similarity(
        a,
        b,
        channel_axis=2,
        data_range=np.iinfo(a.dtype).max,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(a, b) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-7)
    assert metrics.ssim(a, b) < 0.9


def test_ssim_is_that_of_torchmetrics(pictures):
    _, full = tm_image.structural_similarity_index_measure(
        *batches(*pictures), data_range=1.0, sigma=1.5, return_full_image=True
    )
    inner = full[..., 5:-5, 5:-5]  # torchmetrics counts the borders, with the picture mirrored
    assert metrics.ssim(*pictures) == pytest.approx(float(inner.mean()), abs=1e-6)


def test_ssim_of_the_face_sees_the_face_only(astronaut):
    elsewhere, inside = astronaut.copy(), astronaut.copy()
    elsewhere[300:400, 300:400] = 0
    inside[90:140, 195:245] = 0
    assert metrics.ssim_face(astronaut, elsewhere, BOX) == pytest.approx(1, abs=1e-12)
    assert metrics.ssim_face(astronaut, inside, BOX) < metrics.ssim(astronaut, inside) < 0.99
    # grown by 1.2 about its centre: 108 px from 167, 61
    region = np.s_[61:169, 167:275]
    assert metrics.face_region(astronaut, BOX).shape == (108, 108, 3)
    expected = metrics.ssim(astronaut[region], inside[region])
    assert metrics.ssim_face(astronaut, inside, BOX) == expected


def test_a_face_at_the_edge_is_cut_off(astronaut):
    assert metrics.face_region(astronaut, (-40, -40, 60, 60)).shape == (70, 70, 3)
    assert np.shares_memory(metrics.face_region(astronaut, BOX), astronaut)
    with pytest.raises(OptionError, match="holds nothing"):
        metrics.face_region(astronaut, (-90, -90, -60, -60))
    with pytest.raises(OptionError, match="holds nothing"):
        metrics.face_region(astronaut, (600, 0, 700, 100))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 21, 3), np.uint8)),
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint16)),
        (np.zeros((20, 20, 3)), np.zeros((20, 20, 3))),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)),
        (np.zeros((0, 20, 3), np.uint8), np.zeros((0, 20, 3), np.uint8)),
    ],
)
def test_what_is_not_two_pictures_is_refused(a, b):
    for metric in (metrics.mse01, metrics.psnr, metrics.ssim):
        with pytest.raises(OptionError):
            metric(a, b)


def test_landmarks_found_again_move_with_the_photo(astronaut):
    (before,) = detect(astronaut[:256], min_face=80)
    (after,) = detect(np.roll(astronaut, 6, 1)[:256], min_face=80)
    found = metrics.landmark_displacement(before.landmarks, after.landmarks)
    for part in (found.chin, found.nose, found.eyes, found.mouth):
        assert part == pytest.approx(6, abs=1.5)


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("chin", (0, 17)),
        ("nose", (27, 36)),
        ("eyes", (36, 48)),
        ("mouth", (48, 68)),
        ("", (17, 27)),
    ],
)
def test_displacement_is_by_part_of_the_face(part, rows):
    before = np.random.default_rng(0).normal(100, 30, (68, 2))
    after = before.copy()
    after[slice(*rows)] += (3, -4)
    found = vars(metrics.landmark_displacement(before, after))
    assert found == pytest.approx({k: 5.0 * (k == part) for k in ("chin", "nose", "eyes", "mouth")})


def test_landmarks_must_be_68_finite_points():
    good = np.zeros((68, 2))
    for bad in (np.zeros((67, 2)), np.full((68, 2), np.nan), np.zeros(68)):
        with pytest.raises(OptionError, match="68×2"):
            metrics.landmark_displacement(good, bad)


@pytest.fixture(scope="module")
def embeddings():
    random = torch.Generator().manual_seed(1)
    return torch.randn(2, 40, 16, generator=random)


def test_identity_is_compared_row_by_row(embeddings):
    a, b = embeddings
    similar = metrics.identity_similarity(a, b)
    expected = tm.cosine_similarity(a.double(), b.double(), reduction="none").numpy()
    assert (similar.mean, similar.sd) == pytest.approx((expected.mean(), expected.std()))
    distant = metrics.identity_distance(a, b)
    expected = np.diag(cdist(a.numpy(), b.numpy()))
    assert (distant.mean, distant.sd, distant.n) == pytest.approx(
        (expected.mean(), expected.std(), 40)
    )
    assert metrics.identity_similarity(a, a).mean == pytest.approx(1)
    assert metrics.identity_distance(a, a).mean == 0
    assert str(metrics.mean_sd([1.0, 2.0])) == "1.500 ± 0.500"


def test_every_distance_is_under_or_over_the_threshold():
    distances = [0.2, 0.6, 0.6, 0.9]
    assert metrics.asr(distances, 0.6) == 0.75  # at the threshold two faces are two people
    assert metrics.tar(distances, 0.6) == 0.25
    assert metrics.tar(distances, 0.61) == 0.75


def test_tar_is_the_recall_of_torchmetrics():
    random = np.random.default_rng(3)
    distances = random.uniform(0.001, 1, 200)
    expected = tm.classification.binary_recall(
        torch.from_numpy(1 - distances), torch.ones(200, dtype=torch.int), threshold=1 - 0.37
    )
    assert metrics.tar(distances, 0.37) == pytest.approx(float(expected))


@given(st.lists(st.floats(0, 2), min_size=1), st.floats(0, 2))
def test_asr_and_tar_add_up(distances, threshold):
    total = metrics.asr(distances, threshold) + metrics.tar(distances, threshold)
    assert total == pytest.approx(1)


@pytest.mark.parametrize("values", [[], [0.3, float("nan")], [float("inf")], [[0.1]]])
def test_shares_of_what_is_no_distance_are_refused(values):
    for share in (metrics.asr, metrics.tar):
        with pytest.raises(OptionError):
            share(values, 0.5)
    with pytest.raises(OptionError):
        metrics.mean_sd(values)


def test_a_match_decides_then_detection():
    detected = [True, True, False, False, False]
    found = metrics.three_way(detected, [True, False, True, False, False])
    assert found == metrics.Outcomes(not_detected=2, not_matched=1, matched=2)
    assert found.n == 5
    assert metrics.detection_rate(detected) == 0.4
    with pytest.raises(OptionError, match="as many"):
        metrics.three_way(detected, [True])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_pairwise_distances_are_those_of_scipy(embeddings, metric):
    a, b = (x.numpy() for x in embeddings)
    np.testing.assert_allclose(metrics.pairwise(a, b[:7], metric), cdist(a, b[:7], metric))


def test_cmc_of_a_gallery_with_one_photo_each_is_retrieval(embeddings):
    a, b = (x.numpy() for x in embeddings)
    distances = metrics.pairwise(a + b, b, "cosine")  # noisy probes: some are found first
    curve = metrics.cmc(distances, range(40), range(40))
    for rank in (1, 2, 5, 40):
        hits = [
            float(
                tm.retrieval.retrieval_hit_rate(
                    torch.from_numpy(-row), torch.arange(40) == i, top_k=rank
                )
            )
            for i, row in enumerate(distances)
        ]
        assert metrics.rank_n(curve, rank) == pytest.approx(np.mean(hits))
    assert 0.3 < curve[0] < 1


def test_people_are_ranked_by_their_nearest_photo():
    distances = [[0.5, 0.4, 0.3], [0.9, 0.2, 0.1]]
    curve = metrics.cmc(distances, ["ann", "bob"], ["ann", "bob", "ann"])
    np.testing.assert_allclose(curve, [0.5, 1])  # ann by her second photo; bob after ann
    curve = metrics.cmc([[0.1, 0.4, 0.5]], ["ann"], ["ann", "bob", "ann"])
    np.testing.assert_allclose(curve, [1, 1])  # by her first, the second is no nearer than bob


def test_ties_are_drawn_by_lot():
    same = np.full((10, 10), 0.3)
    np.testing.assert_allclose(metrics.cmc(same, range(10), range(10)), np.arange(1, 11) / 10)
    tied = [[0.1, 0.2, 0.2, 0.9]]
    np.testing.assert_allclose(metrics.cmc(tied, [1], range(4)), [0, 0.5, 1, 1])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_curve_never_falls_and_ends_at_one(people, photos, seed):
    random = np.random.default_rng(seed)
    gallery = [i % people for i in range(people * photos)]
    probes = random.integers(people, size=8).tolist()
    distances = random.integers(0, 5, (8, len(gallery)))
    curve = metrics.cmc(distances, probes, gallery)
    assert len(curve) == people
    assert (np.diff(curve) >= -1e-12).all()
    assert 0 <= curve[0] <= curve[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("distances", "probes", "gallery"),
    [
        (np.zeros((2, 3)), [1, 2], [1, 2]),
        (np.zeros((1, 2)), [3], [1, 2]),
        (np.full((1, 2), np.nan), [1], [1, 2]),
        (np.zeros((0, 2)), [], [1, 2]),
    ],
)
def test_identification_that_makes_no_sense_is_refused(distances, probes, gallery):
    with pytest.raises(OptionError):
        metrics.cmc(distances, probes, gallery)


def test_ranks_lie_within_the_gallery():
    curve = np.array([0.5, 1.0])
    for rank in (0, 3):
        with pytest.raises(OptionError, match="holds 2"):
            metrics.rank_n(curve, rank)


def test_six_sets_are_the_ordered_pairs_averaged():
    random = np.random.default_rng(0)
    people = random.normal(size=(30, 1, 8))
    clean = people + 0.1 * random.normal(size=(30, 3, 8))
    changed = people + random.normal(size=(30, 3, 8))
    untouched = metrics.six_sets(clean, clean, "euclidean")
    assert metrics.rank_n(untouched.curve, 1) == 1
    found = metrics.six_sets(clean, changed, "euclidean")
    assert set(found.curves) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}
    distances = cdist(changed[:, 2], clean[:, 0])
    own = np.diag(distances)[:, None]
    expected = [((distances < own).sum(1) < r).mean() for r in range(1, 31)]
    np.testing.assert_allclose(found.curves[0, 2], expected)
    np.testing.assert_allclose(found.curve, sum(found.curves.values()) / 6)
    assert 1 / 30 < found.curve[0] < 1


def test_six_sets_compare_different_photos_only():
    """A method that only changes what a photo shares with itself protects nobody."""
    random = np.random.default_rng(0)
    photos = random.normal(size=(50, 3, 16))  # photos of one person have nothing in common
    curve = metrics.six_sets(photos, photos, "cosine").curve
    assert curve[0] < 0.15
    with pytest.raises(OptionError):
        metrics.six_sets(photos[:, :1], photos[:, :1], "cosine")
