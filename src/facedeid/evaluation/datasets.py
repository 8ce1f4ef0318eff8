"""Photos to evaluate on: LFW with its pairs, a folder per person, or a plain folder.

A photo has a key, its path below the data set with forward slashes, that is the same on every
machine; for LFW `Person/Person_0001.jpg`, however the folders lie.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from facedeid import imaging
from facedeid.errors import OptionError, PhotoError
from facedeid.evaluation.sources import content_of, lfw_photos, listed, photos_below
from facedeid.models.naming import expanded
from facedeid.report import counted

__all__ = ["KINDS", "Dataset", "Pair", "load", "load_lfw", "load_people", "load_photos"]


@dataclass(frozen=True)
class Pair:
    """Two photos that are compared."""

    first: str
    """Key of the photo that stays as it is."""
    second: str
    """Key of the photo that is de-identified."""
    same: bool
    """Whether the two show one person."""
    fold: int
    """Of cross-validation; 0 where the data set has none."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photos by key, and what is known of who is in them."""

    name: str
    """`lfw`, `people` or `photos`."""
    keys: tuple[str, ...]
    """Sorted."""
    identities: Mapping[str, str] | None
    """Key -> person; None: not known."""
    pairs: tuple[Pair, ...]
    content: Callable[[str], bytes] = field(repr=False)
    """Key -> the file as it is."""
    place: Path = field(default_factory=Path)
    """Where it was found."""
    loose: int = 0
    """Photos that lie beside the folders of people: whose they are is not known."""

    def read(self, key: str) -> NDArray[np.uint8]:
        """H×W×3 uint8 RGB, upright.

        Raises:
            PhotoError: the photo is damaged or not a photo.
        """
        try:
            return imaging.parsed(self.content(key), first_frame=True).rgb8
        except PhotoError as error:
            raise PhotoError(f"{self.place}: {key}: {error}") from error

    def stamp(self, key: str) -> str:
        """16 hexadecimal digits that change with the content of the photo."""
        stamps: dict[str, str] = self.__dict__.setdefault("_stamps", {})
        if key not in stamps:
            stamps[key] = hashlib.sha256(self.content(key)).hexdigest()[:16]
        return stamps[key]

    @property
    def aligned(self) -> bool:
        """Whether all photos show one face at the same place (LFW, deep-funneled)."""
        return self.name == "lfw"

    @property
    def folds(self) -> int:
        """Folds of one size with as many genuine as impostor pairs each; 0: there are none."""
        count = 1 + max((pair.fold for pair in self.pairs), default=0)
        sizes = {
            sum(pair.fold == fold and pair.same is same for pair in self.pairs)
            for fold in range(count)
            for same in (True, False)
        }
        return count if count > 1 and len(sizes) == 1 else 0

    def genuine(self, limit: int | None = None) -> tuple[Pair, ...]:
        """The first pairs of one person each, in the order of the data set; None: all."""
        return tuple(pair for pair in self.pairs if pair.same)[:limit]

    def impostor(self, limit: int | None = None) -> tuple[Pair, ...]:
        """The first pairs of two people each; None: all."""
        return tuple(pair for pair in self.pairs if not pair.same)[:limit]

    def people(self, least: int = 1) -> dict[str, tuple[str, ...]]:
        """Photos of every person with at least so many, people and photos in order."""
        grouped: dict[str, list[str]] = {}
        for key in self.keys:
            grouped.setdefault((self.identities or {}).get(key, ""), []).append(key)
        return {who: tuple(keys) for who, keys in grouped.items() if who and len(keys) >= least}

    @property
    def summary(self) -> str:
        """What was taken, in one line."""
        text = f"{self.name}: {len(self.keys):,} photos"
        if self.identities is None:
            return f"{text}, of nobody knows whom: every photo is compared with itself"
        people = len(set(self.identities.values()))
        pairs = f"{len(self.genuine()):,} genuine and {len(self.impostor()):,} impostor pairs"
        loose = f"; {counted(self.loose, 'photo')} in no person's folder left out"
        return f"{text} of {people:,} people, {pairs}{loose if self.loose else ''}"


def load(text: str, away: Collection[Path] = ()) -> Dataset:
    """A data set by kind and path: `lfw:PATH`, `people:PATH`, `photos:PATH`, or a bare path.

    A bare path is taken as LFW if there is a pairs.txt, as a folder per person if there are photos
    in two or more folders and none beside them, and as plain photos otherwise; `Dataset.summary`
    says which.

    Args:
        text: kind and path.
        away: folders whose pictures are no data, wherever they lie.

    Raises:
        OptionError: no such folder or archive, no pairs.txt, no photos, photos that the pairs name
            are missing, or the path is one of those to leave out.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind in KINDS:
        path = expanded(rest)
        _check(path, text)
        return KINDS[kind](path, away)
    path = expanded(text)
    if colon and not path.exists() and re.fullmatch(r"[a-z0-9_-]{2,}", kind):
        raise OptionError(f"--data {text}: there is no such kind; use {', '.join(KINDS)}")
    _check(path, text)
    return KINDS[_guess(path, away)](path, away)


def _check(path: Path, text: str) -> None:
    if not path.exists():
        raise OptionError(f"--data {text}: {path} does not exist")


def _guess(path: Path, away: Collection[Path]) -> str:
    if path.is_file() or _pairs_file(path) is not None:
        return "lfw"
    names = [name.split("/") for name in photos_below(path, away)]
    folders = {parts[0] for parts in names if len(parts) > 1}
    return "people" if len(folders) > 1 and all(len(parts) > 1 for parts in names) else "photos"


# LFW ----------------------------------------------------------------------------------------


def load_lfw(path: Path, away: Collection[Path] = ()) -> Dataset:
    """LFW (Huang et al. 2007) with the pairs of pairs.txt (View 2, or those of View 1).

    Args:
        path: a folder with `Person/Person_0001.jpg` somewhere below, or with an `lfw.tar`, or such
            an archive; pairs.txt lies in the folder, or beside the folder or archive. Photos that
            no pair names are left out, so that everybody evaluates on the same ones; one that
            lies there in two versions is refused.
        away: makes no difference: nothing that an evaluation makes has such a name.

    Raises:
        OptionError: see `load`.
    """
    listing = _pairs_file(path)
    if listing is None:
        where = "in it or beside" if path.is_dir() else "beside"
        raise OptionError(
            f"--data lfw:{path}: there is no pairs.txt {where} it; get it where the photos "
            "came from, or use people: or photos: for other folders"
        )
    pairs = _read_pairs(listing)
    keys = sorted({key for pair in pairs for key in (pair.first, pair.second)})
    content, found = lfw_photos(path, frozenset(keys))
    missing = [key for key in keys if key not in found]
    if missing:
        raise OptionError(
            f"--data lfw:{path}: {len(missing):,} of {len(keys):,} photos that {listing} names are "
            f"missing, for instance {missing[0]}"
        )
    who = {key: key.split("/")[0] for key in keys}
    return Dataset("lfw", tuple(keys), MappingProxyType(who), pairs, content, path)


def _pairs_file(path: Path) -> Path | None:
    inside = [path / "pairs.txt"] if path.is_dir() else []
    places = [*inside, *(place.parent / "pairs.txt" for place in (path.absolute(), path.resolve()))]
    if path.is_dir():
        places += sorted(path.glob("*/pairs.txt"))
    return next((place for place in places if place.is_file()), None)


def _read_pairs(path: Path) -> tuple[Pair, ...]:
    """Pairs of a file whose first line is `folds size`, `size`, or missing."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from error
    head = lines[0].split() if lines else []
    numbers = [int(word) for word in head] if head and all(map(_is_number, head)) else []
    rest = [(i, line) for i, line in enumerate(lines, 1) if line.strip()][bool(numbers) :]
    folds, size = (1, *numbers)[-2:] if numbers else (1, len(rest))
    if numbers and len(rest) != 2 * folds * size:
        raise OptionError(
            f"{path}: {len(rest):,} pairs; its first line announces {2 * folds * size:,}"
        )
    if not rest:
        raise OptionError(f"{path} names no pairs")
    pairs = tuple(
        _pair(path, number, line.split(), i // (2 * size)) for i, (number, line) in enumerate(rest)
    )
    if not any(pair.same for pair in pairs):
        raise OptionError(f"{path} names no pair of one person (NAME N N): nothing to evaluate")
    return pairs


def _is_number(word: str) -> bool:
    """Whether `int` takes it, and means what is written there."""
    return word.isascii() and word.isdecimal() and len(word) < 10


def _pair(path: Path, number: int, words: Sequence[str], fold: int) -> Pair:
    same = len(words) == 3
    people = (words[0], words[0]) if same else words[::2]
    numbers = (words[1], words[2]) if same else words[1::2]
    if len(words) not in (3, 4) or not all(map(_is_number, numbers)):
        raise OptionError(f"{path}, line {number}: not a pair: {' '.join(words)}")
    first, second = (
        f"{who}/{who}_{int(n):04d}.jpg" for who, n in zip(people, numbers, strict=True)
    )
    if first == second:
        raise OptionError(f"{path}, line {number}: a photo with itself: {' '.join(words)}")
    if not same and people[0] == people[1]:
        raise OptionError(
            f"{path}, line {number}: one person as two: {' '.join(words)}; a genuine pair is "
            "written NAME N N"
        )
    return Pair(first, second, same, fold)


# folders ------------------------------------------------------------------------------------


def load_people(path: Path, away: Collection[Path] = ()) -> Dataset:
    """A folder per person: genuine pairs are neighbours in the order of names, impostors are drawn.

    As many impostor pairs as genuine ones, or all there are, the same in every run; folders in
    `away` are left out, and so are copies of a person's photo.

    Raises:
        OptionError: not a folder, no photos, or no person with two photos.
    """
    found = listed(path, away)
    placed = [name for name in found if "/" in name]
    names = _once(path, placed)
    who = {name: name.split("/")[0] for name in names}
    people: dict[str, list[str]] = {}
    for name in names:
        people.setdefault(who[name], []).append(name)
    genuine = [Pair(a, b, True, 0) for keys in people.values() for a, b in pairwise(keys)]
    if not genuine:
        raise OptionError(
            f"--data people:{path}: no person has two photos; photos are wanted as PERSON/PHOTO"
        )
    pairs = (*genuine, *_strangers(people, len(genuine)))
    return Dataset(
        "people",
        tuple(names),
        MappingProxyType(who),
        pairs,
        lambda key: content_of(path / key),
        path,
        len(found) - len(placed),
    )


def _once(path: Path, names: Sequence[str]) -> list[str]:
    """Photos without those that repeat an earlier one of the person byte for byte."""
    alike = [(name.split("/")[0], _size(path / name)) for name in names]
    counts, seen, kept = Counter(alike), set[tuple[str, bytes]](), []
    for name, (who, size) in zip(names, alike, strict=True):
        if size and counts[who, size] > 1:  # only these can be copies
            with contextlib.suppress(PhotoError):
                content = (who, hashlib.sha256(content_of(path / name)).digest())
                if content in seen:
                    continue
                seen.add(content)
        kept.append(name)
    return kept


def _size(path: Path) -> int:
    """Of a file in bytes; 0: it cannot be told."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _strangers(people: Mapping[str, Sequence[str]], count: int) -> Iterator[Pair]:
    """So many different pairs of two people, or as many as are found in ten times the tries."""
    names, seen = list(people), set[frozenset[str]]()
    if len(names) < 2:
        return
    random = Random(0)
    for _ in range(10 * count):
        one, two = random.sample(names, 2)
        drawn = (random.choice(people[one]), random.choice(people[two]))
        if frozenset(drawn) not in seen and len(seen) < count:
            seen.add(frozenset(drawn))
            yield Pair(*drawn, False, 0)


def load_photos(path: Path, away: Collection[Path] = ()) -> Dataset:
    """A plain folder with everything below it but `away`; nobody says who is who.

    Raises:
        OptionError: not a folder, or no photos.
    """
    names = tuple(listed(path, away))
    return Dataset("photos", names, None, (), lambda key: content_of(path / key), path)


KINDS: Mapping[str, Callable[[Path, Collection[Path]], Dataset]] = MappingProxyType(
    {"lfw": load_lfw, "people": load_people, "photos": load_photos}
)
"""Kind -> how it is read."""
