"""Recognisers as judges: the distances below which they call two faces one person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.evaluation.datasets import Pair
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.statistics import (
    FoldAccuracy,
    best_threshold,
    far_threshold,
    ten_fold_accuracy,
)
from facedeid.models import Recognizer

__all__ = ["LEAST", "Judge", "distances", "judge", "library_threshold", "must_have_threshold"]

CUSTOMARY = ("library", "mean-impostor")
"""Operating points that stand for the library's own, in this order; the second is CurricularFace's
similarity of 0.19 (Zhao et al. 2022)."""
LEAST = 10
"""Untouched pairs of each kind that a threshold is measured on at least."""
FAR = 1e-3
"""False acceptance rate of `Judge.tar`; measured where it stands for an impostor pair or more."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
    """A recogniser with the thresholds of this evaluation."""

    recognizer: Recognizer
    thresholds: Mapping[str, float]
    """`best`, the most accurate one on the untouched pairs, and `library`, its own; the first is
    the one of the headline."""
    accuracy: float | None = None
    """Share of the untouched pairs that `best` gets right."""
    folds: FoldAccuracy | None = None
    """The same by cross-validation, where the data set has folds and all pairs were used."""
    tar: float | None = None
    """Share of genuine pairs that are accepted where one impostor pair in a thousand is; None: too
    few of these to tell."""
    genuine: int = 0
    """Untouched genuine pairs that this was measured on."""
    impostor: int = 0
    """Untouched impostor pairs."""

    @property
    def name(self) -> str:
        """Of the recogniser."""
        return self.recognizer.name

    @property
    def headline(self) -> str:
        """The operating point of the headline."""
        return next(iter(self.thresholds))


def library_threshold(recognizer: Recognizer) -> float | None:
    """The recogniser's own threshold, if it has one."""
    for point in CUSTOMARY:
        try:
            return recognizer.threshold(point)
        except OptionError:
            continue
    return None


def must_have_threshold(recognizer: Recognizer) -> None:
    """Check that a recogniser can judge where none can be measured.

    Raises:
        OptionError: it has no threshold of its own.
    """
    if library_threshold(recognizer) is None:
        raise OptionError(
            f"{recognizer.name} has no known threshold, and there are no {LEAST} genuine and "
            f"{LEAST} impostor pairs to measure one on; give it with the name, as a distance: "
            f"'{recognizer.name}?threshold=0.7'"
        )


def distances(
    recognizer: Recognizer, originals: Originals, pairs: Sequence[Pair]
) -> NDArray[np.float64]:
    """Of N untouched pairs."""
    first, second = ([getattr(pair, side) for pair in pairs] for side in ("first", "second"))
    a, b = (originals.embeddings(recognizer, keys) for keys in (first, second))
    return np.asarray(recognizer.distance(a, b).double().numpy())


def judge(
    recognizer: Recognizer, originals: Originals, pairs: Sequence[Pair], folds: int = 0
) -> Judge:
    """Measure a recogniser on untouched pairs, in whose photos all faces are known.

    Args:
        recognizer: who.
        originals: of the photos.
        pairs: genuine and impostor ones, in the order of the data set.
        folds: how many of one size these pairs make; 0: none.

    Raises:
        OptionError: there are not pairs enough, and the recogniser has no threshold of its own.
    """
    own = library_threshold(recognizer)
    library = {} if own is None else {"library": own}
    same = np.array([pair.same for pair in pairs], np.bool_)
    if min(int(same.sum()), int((~same).sum())) < LEAST:
        must_have_threshold(recognizer)
        return Judge(recognizer=recognizer, thresholds=library)
    found = np.maximum(distances(recognizer, originals, pairs), 0)
    best = best_threshold(found, same)
    strict = far_threshold(found[~same], FAR)
    return Judge(
        recognizer=recognizer,
        thresholds={"best": best, **library},
        accuracy=float(((found < best) == same).mean()),
        folds=ten_fold_accuracy(found, same, folds=folds) if folds else None,
        tar=float((found[same] < strict).mean()) if FAR * (~same).sum() >= 1 else None,
        genuine=int(same.sum()),
        impostor=int((~same).sum()),
    )
