"""Intervals of means over photos of people, of whom each may be there more than once.

Two photos of one person are not two independent observations: people are drawn with replacement
(a cluster bootstrap), and all their photos go with them. The draws are made once and serve all
figures on the same photos, so differences between methods are not differences between draws.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.statistics import clopper_pearson
from facedeid.evaluation.tables import Estimate

__all__ = ["Bootstrap"]


class Bootstrap:
    """95 % intervals of means of N values, one per photo.

    Args:
        people: who is in each photo.
        seed: of the draws.
        draws: how often as many people as there are are drawn.

    Raises:
        OptionError: there is nobody.
    """

    def __init__(self, people: Sequence[str], seed: int = 0, draws: int = 2000) -> None:
        if not len(people):
            raise OptionError("there is no photo to measure anything on")
        self.codes = np.unique(np.array(list(people)), return_inverse=True)[1]
        count = int(self.codes.max()) + 1
        drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
        drawn += np.arange(draws)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=draws * count)
        self._times = times.reshape(draws, count).astype(np.float32)

    def mean(self, values: ArrayLike, where: ArrayLike | None = None) -> Estimate:
        """Mean of N values (numbers or truths) with its interval.

        Where all are false or all true, the draws would be certain: the interval is then the exact
        one of as many people (Clopper and Pearson 1934).

        Args:
            values: N.
            where: N truths: which of them count; None: all.

        Raises:
            OptionError: none counts, or one is not finite.
        """
        found = np.asarray(values, np.float64)
        counted = np.ones(len(found), np.bool_) if where is None else np.asarray(where, np.bool_)
        found, codes = found[counted], self.codes[counted]
        if not len(found) or not np.isfinite(found).all():
            raise OptionError("one or more finite numbers are wanted for a mean")
        if np.asarray(values).dtype == np.bool_ and found.min() == found.max():
            people = len(np.unique(codes))
            exact = clopper_pearson(int(found[0]) * people, people)
            return Estimate(float(found[0]), exact.low, exact.high, len(found))
        low, high = self._quantiles(found, codes)
        return Estimate(float(found.mean()), low, high, len(found))

    def _quantiles(self, found: NDArray[np.float64], codes: NDArray[Any]) -> tuple[float, float]:
        people = self._times.shape[1]
        sums = self._times @ np.bincount(codes, found, minlength=people).astype(np.float32)
        counts = self._times @ np.bincount(codes, minlength=people).astype(np.float32)
        means = sums[counts > 0] / counts[counts > 0]
        low, high = np.quantile(means, (0.025, 0.975)).tolist()
        mean = float(found.mean())
        return min(low, mean), max(high, mean)
