"""Intervals of means over photos of people, of whom each may be there more than once.

Two photos of one person are not two independent observations: people are drawn with replacement
(a cluster bootstrap), and all their photos go with them. The draws are made once and serve all
figures on the same photos, so differences between methods are not differences between draws.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.statistics import clopper_pearson
from facedeid.evaluation.tables import Estimate

__all__ = ["Bootstrap"]

AT_ONCE = 2_000_000
"""People drawn at a time, over all draws."""


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
        self._times = np.zeros((draws, count), np.uint16)
        random = np.random.default_rng(seed)
        for times in self._blocks():
            drawn = random.integers(count, size=times.shape)
            drawn += np.arange(len(times))[:, None] * count
            times[:] = np.bincount(drawn.ravel(), minlength=times.size).reshape(times.shape)

    def share(self, values: ArrayLike, where: ArrayLike | None = None) -> Estimate:
        """Share of N truths (or mean of N probabilities) with its interval.

        Where all are 0 or all are 1, the draws would be certain: the interval is then the exact
        one of as many people (Clopper and Pearson 1934). Of one person it is otherwise 0 to 1.

        Args:
            values: N.
            where: N truths: which of them count; None: all.

        Raises:
            OptionError: none counts, or one is not from 0 to 1.
        """
        found, codes = self._counted(values, where)
        if found.min() < -1e-9 or found.max() > 1 + 1e-9:
            raise OptionError("a share is of truth values, or of probabilities")
        people = len(np.unique(codes))
        low, high = 0.0, 1.0
        if found.min() == found.max() and found[0] in (0, 1):
            exact = clopper_pearson(int(found[0]) * people, people)
            low, high = exact.low, exact.high
        elif people > 1:
            low, high = self._quantiles(found, codes)
        return Estimate(float(found.mean()), low, high, len(found))

    def mean(self, values: ArrayLike, where: ArrayLike | None = None) -> Estimate | float:
        """Mean of N numbers with its interval; of one person, who says nothing about others, alone.

        Args:
            values: N.
            where: N truths: which of them count; None: all.

        Raises:
            OptionError: none counts, or one is not finite.
        """
        found, codes = self._counted(values, where)
        if len(np.unique(codes)) < 2:
            return float(found.mean())
        low, high = self._quantiles(found, codes)
        return Estimate(float(found.mean()), low, high, len(found))

    def _counted(
        self, values: ArrayLike, where: ArrayLike | None
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """The values that count, and the people whose they are."""
        found = np.asarray(values, np.float64)
        counted = np.ones(len(found), np.bool_) if where is None else np.asarray(where, np.bool_)
        found, codes = found[counted], self.codes[counted]
        if not len(found) or not np.isfinite(found).all():
            raise OptionError("one or more finite numbers are wanted for a mean")
        return found, codes

    def _quantiles(self, found: NDArray[np.float64], codes: NDArray[Any]) -> tuple[float, float]:
        people = self._times.shape[1]
        sum_of = np.bincount(codes, found, minlength=people).astype(np.float32)
        count_of = np.bincount(codes, minlength=people).astype(np.float32)
        sums, counts = (
            np.concatenate([times.astype(np.float32) @ each for times in self._blocks()])
            for each in (sum_of, count_of)
        )
        means = sums[counts > 0] / counts[counts > 0]
        low, high = np.quantile(means, (0.025, 0.975)).tolist()
        mean = float(found.mean())
        return min(low, mean), max(high, mean)

    def _blocks(self) -> Iterator[NDArray[np.uint16]]:
        """How often each draw (row) holds each person, few draws at a time to save memory."""
        step = max(1, AT_ONCE // self._times.shape[1])
        return (self._times[i : i + step] for i in range(0, len(self._times), step))
