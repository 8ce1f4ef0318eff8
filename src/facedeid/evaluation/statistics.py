"""Intervals, thresholds, folds and rank correlation; pure functions of arrays, seeded throughout.

Intervals are of 95 % unless a level is given. Faces are taken as drawn independently: many photos
of few people are less certain than these intervals say.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.tables import Estimate

__all__ = [
    "FoldAccuracy",
    "best_threshold",
    "bootstrap_difference",
    "bootstrap_mean",
    "clopper_pearson",
    "far_threshold",
    "share",
    "spearman",
    "ten_fold_accuracy",
]

RESAMPLES = 10_000
_AT_ONCE = 2_000_000
"""Draws held in memory at a time."""


def _numbers(values: ArrayLike, least: int = 1) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < least or not np.isfinite(found).all():
        raise OptionError(f"{least} or more finite numbers are wanted in a row, got {found.shape}")
    return found


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise OptionError(f"an interval holds a share between 0 and 1, got {level:g}")


def bootstrap_mean(
    values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> Estimate:
    """Mean of N values with its percentile bootstrap interval (Efron 1979).

    For shares near 0 or 1 take `share`: where all N values are equal, this interval has no width.

    Args:
        values: N finite numbers (or truth values).
        seed: of the resampling; the same seed gives the same interval.
        resamples: how often N values are drawn from the N with replacement.
        level: probability that the interval holds.

    Raises:
        OptionError: no values, one is not finite, or a senseless level or number.
    """
    found = _numbers(values)
    _check_level(level)
    if resamples < 1:
        raise OptionError(f"resamples must be 1 or more, got {resamples}")
    random, step = np.random.default_rng(seed), max(1, _AT_ONCE // len(found))
    means = np.concatenate(
        [
            found[random.integers(len(found), size=(min(step, resamples - done), len(found)))].mean(
                1
            )
            for done in range(0, resamples, step)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(found.mean()), float(low), float(high), len(found))


def bootstrap_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:
    """Mean of a - b over the same N faces with its interval: pairs are resampled together.

    An interval that leaves out 0 says that the two differ on these faces.

    Raises:
        OptionError: as `bootstrap_mean`, or the two are not of one length.
    """
    one, two = _numbers(a), _numbers(b)
    if one.shape != two.shape:
        raise OptionError(f"pairs are wanted, got {len(one)} and {len(two)} values")
    return bootstrap_mean(one - two, seed=seed, resamples=resamples, level=level)


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share with its exact binomial interval (Clopper and Pearson 1934).

    Raises:
        OptionError: not 0 <= successes <= n, n below 1, or a senseless level.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise OptionError(f"{successes} of {n} is no share")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _limit(successes, n, tail)
    high = 1.0 if successes == n else 1 - _limit(n - successes, n, tail)
    return Estimate(successes / n, low, high, n)


def _limit(k: int, n: int, tail: float) -> float:
    """The p at which k or more of n (k > 0) have probability `tail`, by bisection."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    counts = np.arange(k, n + 1)
    ways = logs[n] - logs[counts] - logs[n - counts]
    low, high = 0.0, 1.0
    while True:
        p = (low + high) / 2
        if not low < p < high:
            return p
        terms = ways + counts * math.log(p) + (n - counts) * math.log1p(-p)
        if np.exp(terms).sum() < tail:
            low = p
        else:
            high = p


def share(truths: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Share of N truth values that are true, with its `clopper_pearson` interval."""
    found = _numbers(truths)
    if not np.isin(found, (0, 1)).all():
        raise OptionError("a share is of truth values")
    return clopper_pearson(int(found.sum()), len(found), level=level)


def _pairs(distances: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    found, truth = _numbers(distances), np.asarray(same, np.bool_)
    if found.shape != truth.shape:
        raise OptionError(f"{found.shape} distances do not fit {truth.shape} truth values")
    if found.min() < 0:
        raise OptionError("a distance is below 0: similarities must be turned into distances")
    return found, truth


def best_threshold(distances: ArrayLike, same: ArrayLike) -> float:
    """The distance below which calling two photos one person is right most often.

    Args:
        distances: N of pairs, 0 or more.
        same: N truth values: the two show one person.

    Returns:
        The middle between two neighbouring distances; of equally good places the lowest.

    Raises:
        OptionError: lengths differ, none is given, or one is negative or not finite.
    """
    found, truth = _pairs(distances, same)
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    right = np.concatenate([[0], np.cumsum(np.where(truth[order], 1, -1))])
    right[1:-1][ordered[1:] == ordered[:-1]] = -len(found) - 1  # equals cannot be told apart
    cut = int(np.argmax(right))
    padded = np.concatenate([[0.0], ordered, [ordered[-1] + 1]])
    middle = float((padded[cut] + padded[cut + 1]) / 2)
    return middle if cut == 0 or middle > padded[cut] else float(padded[cut + 1])


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds, as shares."""

    mean: float
    standard_error: float
    """Of the mean, over the folds."""
    folds: tuple[float, ...]


def ten_fold_accuracy(distances: ArrayLike, same: ArrayLike, *, folds: int = 10) -> FoldAccuracy:
    """Accuracy by LFW's protocol: the threshold comes from nine folds, the tenth is judged.

    Args:
        distances: N of pairs in the order of the folds, which are N/10 pairs each
            (LFW View 2: ten times 300 genuine and 300 impostor pairs).
        same: N truth values.
        folds: how many; two or more.

    Raises:
        OptionError: as `best_threshold`, or N is no multiple of the folds.
    """
    found, truth = _pairs(distances, same)
    if folds < 2 or len(found) % folds:
        raise OptionError(f"{len(found)} pairs do not make {folds} folds of one size")
    fold = np.arange(len(found)) // (len(found) // folds)
    shares = []
    for k in range(folds):
        threshold = best_threshold(found[fold != k], truth[fold != k])
        shares.append(float(((found < threshold) == truth)[fold == k].mean()))
    error = float(np.std(shares, ddof=1) / folds**0.5)
    return FoldAccuracy(float(np.mean(shares)), error, tuple(shares))


def far_threshold(impostors: ArrayLike, far: float = 1e-3) -> float:
    """The largest of the distances of different people below which at most `far` of them lie.

    With fewer than 1/far distances it is the smallest one: nobody is accepted.

    Args:
        impostors: N distances.
        far: false acceptance rate, 0 to below 1.

    Raises:
        OptionError: no distances, one is not finite, or a senseless rate.
    """
    found = np.sort(_numbers(impostors))
    if not 0 <= far < 1:
        raise OptionError(f"a false acceptance rate is 0 or more and below 1, got {far:g}")
    return float(found[min(int(far * len(found) + 1e-9), len(found) - 1)])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1; equals share their mean rank."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[where], np.float64)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of N pairs of values (Spearman 1904), -1..1; equals share their mean rank.

    Raises:
        OptionError: fewer than two, different lengths, or all values of one side are equal.
    """
    one, two = _numbers(a, 2), _numbers(b, 2)
    if one.shape != two.shape:
        raise OptionError(f"pairs are wanted, got {len(one)} and {len(two)} values")
    ranks = [_ranks(x) - (len(x) + 1) / 2 for x in (one, two)]
    size = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if size == 0:
        raise OptionError("all values of one side are equal: they have no ranks to compare")
    return float(np.clip((ranks[0] * ranks[1]).sum() / size, -1, 1))
