"""What all attackers share: the data, the budget, and people that they may learn from."""

import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Literal

from torch import Tensor

from facedeid.errors import OptionError
from facedeid.evaluation.attackers.scoring import Scores, scored
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.fingerprints import is_white_box
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.releases import Aligned, Releases
from facedeid.faces import Face
from facedeid.models import Models, Recognizer

__all__ = ["Bench", "Part", "Trial", "must_know", "part_of"]

Part = Literal["tested", "training", "fitting"]

TOO_FEW = "fewer than two people with a genuine pair among the tested or those for thresholds"
LEAST_FITTING = 100
"""Genuine pairs on which a threshold is fitted, if there are so many."""


def part_of(person: str) -> Part:
    """What a person's photos are for, by the CRC-32 of the name: half of all people are tested,
    35 % teach the attacker, and on 15 % it chooses its threshold and among its variants."""
    bucket = _checksum(person) % 20
    return "tested" if bucket < 10 else "training" if bucket < 17 else "fitting"


def _checksum(person: str) -> int:
    return zlib.crc32(os.fsencode(person))


def _apart(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Those pairs whose gallery photo is no probe of the ones before, and the other way round."""
    gallery, probes = set[str](), set[str]()
    for first, second in pairs:
        if first != second and first not in probes and second not in gallery:
            gallery.add(first)
            probes.add(second)
            yield first, second


def must_know(dataset: Dataset) -> None:
    """Check that attackers can work with a data set.

    Raises:
        OptionError: it does not say who is who.
    """
    if dataset.identities is None:
        raise OptionError(
            f"{dataset.name} does not say who is who: attackers need photos of known"
            " people (LFW, or a folder per person)"
        )


@dataclass(frozen=True)
class Trial:
    """Genuine pairs: an untouched gallery photo and a probe of the same person each."""

    gallery: tuple[str, ...]
    probes: tuple[str, ...]
    people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.people)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """Everything an attacker works with; nothing in it is changed by an attack.

    Raises:
        OptionError: a number that makes no sense, or a data set that does not say who is who.
    """

    dataset: Dataset
    originals: Originals
    releases: Releases
    """Of the method under attack; draw 0 is what was published."""
    models: Models
    recognizers: tuple[str, ...]
    limit: int = 300
    """Most genuine pairs that are tested; half as many (100 at least) fit thresholds."""
    photos: int = 600
    """Most photos that an attacker learns from."""
    draws: int = 4
    """Releases that are averaged."""
    aligned: Aligned = "original"
    """Whether the attacker finds the face afresh or knows where it was."""
    steps: int = 400
    """Steps of an attacker that trains a network."""
    seconds: float | None = None
    """After which it stops training all the same; the result then depends on the machine."""
    side: int = 128
    """Of the crops that the inverter restores, in pixels; a multiple of 16."""
    seed: int = 0
    pictures: Path | None = None
    """Folder for what the inverter saw; None: not kept."""
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if min(self.limit, self.photos, self.draws, self.steps) < 1:
            raise OptionError("limit, photos, draws and steps of an attacker must be positive")
        if self.side < 32 or self.side % 16:
            raise OptionError(f"the inverter's side must be a multiple of 16, got {self.side}")
        must_know(self.dataset)

    @property
    def method(self) -> str:
        """The method with its options, as it prints."""
        return repr(self.releases.method)

    def person(self, key: str) -> str:
        """Who is in a photo."""
        identities = self.dataset.identities
        assert identities is not None
        return identities[key]

    def judges(self) -> list[Recognizer]:
        """The recognisers that are asked."""
        return self.models.recognizers(self.recognizers)

    def most(self, part: Part) -> int:
        """Most genuine pairs of that part of the people."""
        return self.limit if part == "tested" else max(LEAST_FITTING, self.limit // 2)

    def white_box(self, recognizer: str) -> bool:
        """Whether the method was trained or optimised against the judge of that name."""
        judge = next(each for each in self.judges() if each.name == recognizer)
        return is_white_box(self.releases.method, judge, self.models)

    def trial(self, part: Part) -> Trial:
        """Genuine pairs of that part of the people, as far as both faces are found.

        One of everybody, in the order of the data set, then second ones, and so on: many people
        say more than many pairs. No photo is both a probe and in the gallery, where it would be
        compared with itself.
        """
        waiting: dict[str, list[tuple[str, str]]] = {}
        for pair in self.dataset.pairs:
            if pair.same and part_of(self.person(pair.first)) == part:
                waiting.setdefault(self.person(pair.first), []).append((pair.first, pair.second))
        turns = zip_longest(*waiting.values())
        pairs = (pair for turn in turns for pair in turn if pair is not None)
        found = _apart(pair for pair in pairs if self._found(*pair))
        return self.trial_of(list(islice(found, self.most(part))))

    def trials(self) -> tuple[tuple[Trial, Trial], str | None]:
        """The pairs that are tested and those for thresholds, and why these do not suffice."""
        tested, fitting = self.trial("tested"), self.trial("fitting")
        few = min(len(set(trial.people)) for trial in (tested, fitting)) < 2
        return (tested, fitting), TOO_FEW if few else None

    def trial_of(self, pairs: Sequence[tuple[str, str]]) -> Trial:
        """A trial of gallery photos and probes."""
        gallery, probes = (tuple(pair[i] for pair in pairs) for i in (0, 1))
        return Trial(gallery, probes, tuple(self.person(key) for key in gallery))

    def _found(self, *keys: str) -> bool:
        return all(self.originals.face(key) is not None for key in keys)

    def people(self, part: Part, least: int) -> Iterator[tuple[str, ...]]:
        """Photos, with a face each, of every person of that part who has at least so many."""
        grouped = self.dataset.people(least)
        for person in sorted(grouped, key=lambda name: (_checksum(name), name)):
            if part_of(person) == part:
                keys = tuple(key for key in grouped[person] if self._found(key))
                if len(keys) >= least:
                    yield keys

    def training(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Photos to learn from and who is in them: at most six each of people with two or more."""
        keys: list[str] = []
        for photos in self.people("training", 2):
            if len(keys) + 2 > self.photos:
                break
            keys += photos[: min(6, self.photos - len(keys))]
        return tuple(keys), tuple(self.person(key) for key in keys)

    def face(self, key: str, draw: int = 0) -> Face | None:
        """Where the attacker takes the face of a release to be; None: it finds none."""
        if self.aligned == "original":
            return self.releases.place(key)
        return self.releases.again(key, draw)

    def prepare(self, keys: Sequence[str], draw: int = 0) -> None:
        """Have the releases made, if they are not there."""

        def tell(done: int, count: int) -> None:
            if done == count or done % 40 == 0:
                self.progress(f"releases: {done} of {count}")

        self.releases.prepare(keys, draw, tell)

    def released(
        self, recognizer: Recognizer, keys: Sequence[str], draw: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of releases, N×D, and where a face was found, N."""
        self.prepare(keys, draw)
        return self.releases.embeddings(recognizer, keys, self.aligned, draw)

    def untouched(self, recognizer: Recognizer, keys: Sequence[str]) -> Tensor:
        """Embeddings of the originals, N×D."""
        return self.originals.embeddings(recognizer, keys)

    def ordinary(self, recognizer: Recognizer, trial: Trial, *, touched: bool = True) -> Scores:
        """Scores of the attacker who does not adapt, or of untouched photos."""
        gallery = self.untouched(recognizer, trial.gallery)
        if touched:
            probes, valid = self.released(recognizer, trial.probes)
            return scored(recognizer.distance, gallery, probes, trial.people, valid)
        probes = self.untouched(recognizer, trial.probes)
        return scored(recognizer.distance, gallery, probes, trial.people)

    def budget(self, label: str) -> Iterator[int]:
        """Numbers of steps, one at least, until they or the seconds are used up."""
        started = time.monotonic()
        for step in range(self.steps):
            if step and self.seconds is not None and time.monotonic() - started > self.seconds:
                return
            if step % 50 == 0:
                self.progress(f"{label}: step {step} of {self.steps}")
            yield step
