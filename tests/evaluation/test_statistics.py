import numpy as np
import pytest
import scipy.stats
import torch
import torchmetrics.functional as tm
from hypothesis import given
from hypothesis import strategies as st

from facedeid.errors import OptionError
from facedeid.evaluation import statistics

DISTANCES = st.lists(
    st.tuples(st.one_of(st.floats(0, 100), st.integers(0, 4).map(float)), st.booleans()),
    min_size=1,
    max_size=40,
)


def test_bootstrap_agrees_with_scipy_on_skewed_values():
    values = np.random.default_rng(0).exponential(2, 150)
    found = statistics.bootstrap_mean(values, seed=1)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = expected.high - expected.low
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)
    assert found.n == 150


def test_bootstrap_repeats_with_its_seed_however_it_is_cut(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    first = statistics.bootstrap_mean(values, seed=3, resamples=1001)
    assert first == statistics.bootstrap_mean(values, seed=3, resamples=1001)
    assert first != statistics.bootstrap_mean(values, seed=4, resamples=1001)
    monkeypatch.setattr(statistics, "_AT_ONCE", 700)
    assert first == statistics.bootstrap_mean(values, seed=3, resamples=1001)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        found = statistics.bootstrap_mean(
            random.normal(1, 1, 60), seed=trial, resamples=500, level=0.8
        )
        hits += found.low <= 1 <= found.high
    assert 0.72 < hits / 300 < 0.86


def test_pairs_are_resampled_together():
    random = np.random.default_rng(0)
    faces = random.normal(0, 5, 100)  # faces differ far more than the methods do
    a, b = faces + random.normal(0.3, 0.2, 100), faces
    found = statistics.bootstrap_difference(a, b)
    expected = scipy.stats.bootstrap(
        (a, b),
        lambda x, y: np.mean(x) - np.mean(y),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.value == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.low > 0
    alone = statistics.bootstrap_mean(a)
    assert alone.high - alone.low > 10 * (found.high - found.low)
    with pytest.raises(OptionError, match="pairs"):
        statistics.bootstrap_difference(a, b[:-1])


@pytest.mark.parametrize("level", [0.95, 0.9])
@pytest.mark.parametrize(
    ("k", "n"), [(0, 150), (1, 150), (3, 5), (75, 150), (150, 150), (0, 1), (1, 1), (17, 6000)]
)
def test_the_exact_interval_is_that_of_scipy(k, n, level):
    found = statistics.clopper_pearson(k, n, level=level)
    expected = scipy.stats.binomtest(k, n).proportion_ci(level, method="exact")
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 300), st.data())
def test_the_exact_interval_encloses_the_share(n, data):
    k = data.draw(st.integers(0, n))
    found = statistics.clopper_pearson(k, n)
    mirrored = statistics.clopper_pearson(n - k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


def test_a_share_of_truth_values():
    assert statistics.share([True, False, True]) == statistics.clopper_pearson(2, 3)
    assert statistics.share(np.zeros(150, bool)).high == pytest.approx(0.0243, abs=1e-4)
    with pytest.raises(OptionError, match="truth values"):
        statistics.share([0.5, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.bootstrap_mean([]),
        lambda: statistics.bootstrap_mean([np.nan]),
        lambda: statistics.bootstrap_mean([1.0], level=1),
        lambda: statistics.bootstrap_mean([1.0], resamples=0),
        lambda: statistics.clopper_pearson(3, 2),
        lambda: statistics.clopper_pearson(0, 0),
        lambda: statistics.clopper_pearson(1, 2, level=0),
        lambda: statistics.best_threshold([0.1, 0.2], [True]),
        lambda: statistics.best_threshold([-0.1, 0.2], [True, False]),
        lambda: statistics.ten_fold_accuracy([0.1] * 15, [True] * 15),
        lambda: statistics.far_threshold([0.3], 1.0),
        lambda: statistics.far_threshold([]),
        lambda: statistics.spearman([1, 2], [1, 2, 3]),
        lambda: statistics.spearman([1], [1]),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(OptionError):
        call()


@given(DISTANCES)
def test_no_threshold_is_better_than_the_best(pairs):
    distances, same = (np.array(x) for x in zip(*pairs, strict=True))
    best = statistics.best_threshold(distances, same)
    candidates = np.concatenate([distances, np.nextafter(distances, np.inf), [0, np.inf]])
    accuracies = [((distances < t) == same).mean() for t in candidates]
    assert ((distances < best) == same).mean() == max(accuracies)


@pytest.mark.parametrize("distance", [0.3, 0.7, 1.0, 5e-324])
def test_neighbouring_numbers_are_told_apart(distance):
    pair = np.array([distance, np.nextafter(distance, 9)])
    best = statistics.best_threshold(pair, [True, False])
    assert (pair < best).tolist() == [True, False]


def test_the_best_threshold_lies_in_the_middle():
    same = [True, True, False, False]
    assert statistics.best_threshold([0.1, 0.2, 0.4, 0.5], same) == pytest.approx(0.3)
    assert statistics.best_threshold([0.4, 0.4, 0.4], [True, False, True]) == pytest.approx(
        1.4 / 2 + 0.2
    )


@pytest.mark.parametrize("apart", [0.3, 0.0])
def test_ten_folds_are_judged_by_the_other_nine(apart):
    random = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 6), 10)
    distances = np.abs(random.normal(0.5, 0.1, 120) + np.where(same, 0, apart))
    expected = []
    for k in range(10):
        test = slice(12 * k, 12 * (k + 1))
        rest, truth = np.delete(distances, test), np.delete(same, test)
        order = np.sort(rest)
        middles = np.concatenate([[0], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
        threshold = middles[np.argmax([((rest < t) == truth).mean() for t in middles])]
        decided = torch.from_numpy(distances[test] < threshold).int()
        expected.append(
            float(tm.classification.binary_accuracy(decided, torch.from_numpy(same[test]).int()))
        )
    found = statistics.ten_fold_accuracy(distances, same)
    assert found.folds == pytest.approx(expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.standard_error == pytest.approx(scipy.stats.sem(expected))
    assert found.mean > 0.85 if apart else found.mean < 0.6


def test_one_impostor_in_a_thousand_is_accepted():
    impostors = np.random.default_rng(0).permutation(np.arange(3000) / 3000)
    threshold = statistics.far_threshold(impostors)
    assert (impostors < threshold).sum() == 3
    assert (impostors < statistics.far_threshold(impostors, 0.01)).sum() == 30


@given(st.lists(st.integers(0, 6).map(float), min_size=1), st.floats(0, 0.999))
def test_the_false_acceptance_rate_is_kept_and_not_wasted(impostors, far):
    found = np.array(impostors)
    threshold = statistics.far_threshold(found, far)
    assert (found < threshold).mean() <= far + 1e-9
    assert (found <= threshold).mean() > far - 1e-9  # any larger threshold accepts too many


def test_far_threshold_is_that_of_the_curve_of_torchmetrics():
    random = np.random.default_rng(4)
    genuine, impostors = random.normal(0.4, 0.1, 500), random.normal(0.8, 0.1, 2000)
    scores = torch.from_numpy(-np.concatenate([genuine, impostors]))
    truth = torch.cat([torch.ones(500), torch.zeros(2000)]).int()
    fpr, tpr, _ = tm.classification.binary_roc(scores, truth)
    threshold = statistics.far_threshold(impostors, 1e-3)
    assert (genuine < threshold).mean() == pytest.approx(float(tpr[fpr <= 1e-3].max()))


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.floats(-9, 9)), min_size=2, max_size=50).filter(
        lambda pairs: all(len(set(x)) > 1 for x in zip(*pairs, strict=True))
    )
)
def test_rank_correlation_is_that_of_scipy(pairs):
    a, b = zip(*pairs, strict=True)
    expected = scipy.stats.spearmanr(a, b).statistic
    assert statistics.spearman(a, b) == pytest.approx(expected, abs=1e-9)


def test_rank_correlation_knows_order_only():
    values = np.random.default_rng(0).normal(size=30)
    assert statistics.spearman(values, np.exp(values)) == 1
    assert statistics.spearman(values, -(values**3)) == -1
    with pytest.raises(OptionError, match="equal"):
        statistics.spearman(values, np.ones(30))
