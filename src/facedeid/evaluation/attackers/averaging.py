"""Averaging: what is random, or differs from photo to photo, cancels out.

Two ways in: several releases of one photo (where the method draws random numbers), and several
published photos of one person; each averaged as embeddings and as pixels of the canonical crop,
and compared with an untouched photo. The second is open to whoever finds a folder of photos.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.evaluation.attackers.bench import Bench, Part, Trial
from facedeid.evaluation.attackers.results import AttackResult, refused, rows
from facedeid.evaluation.attackers.scoring import Scores, scored
from facedeid.faces import align, frame
from facedeid.models import Recognizer

__all__ = ["averaging"]

SIDE, CHUNK = 256, 32
"""Of the canonical crops in which pixels are averaged; crops that are embedded at once."""

View = tuple[str, int]
"""A release: photo and draw."""
Groups = tuple[tuple[View, ...], ...]
"""Per probe, what is averaged."""


def averaging(bench: Bench) -> tuple[AttackResult, ...]:
    """Averaged probes against the untouched gallery; the ordinary attacker sees one of them."""
    trials, short = bench.trials()
    drawn = [tuple(_draws(bench, key) for key in trial.probes) for trial in trials]
    reason = short or _repeats(bench, trials[0])
    found = _attack(bench, f"{bench.draws} releases of a photo", trials, drawn, reason)
    several = [_albums(bench, part) for part in ("tested", "fitting")]
    trials = (several[0][0], several[1][0])
    few = min(map(len, trials)) < 2
    reason = "fewer than two people with three photos" if few else None
    groups = [each[1] for each in several]
    found += _attack(bench, f"up to {bench.draws} photos of a person", trials, groups, reason)
    return found


def _draws(bench: Bench, key: str) -> tuple[View, ...]:
    return tuple((key, draw) for draw in range(bench.draws))


def _repeats(bench: Bench, trial: Trial) -> str | None:
    """Why there is nothing to average: every draw is the same picture."""
    if bench.draws < 2:
        return "one release only was asked for"
    pairs = ([bench.releases.photo(key, draw) for draw in (0, 1)] for key in trial.probes[:3])
    if all(np.array_equal(one, two) for one, two in pairs):
        return "not applicable: the method is deterministic, all releases of a photo are the same"
    return None


def _albums(bench: Bench, part: Part) -> tuple[Trial, Groups]:
    """A gallery photo and up to `draws` others, of people with three photos or more."""
    pairs: list[tuple[str, str]] = []
    groups: list[tuple[View, ...]] = []
    for keys in bench.people(part, 3):
        if len(pairs) == bench.most(part):
            break
        pairs.append((keys[0], keys[1]))
        groups.append(tuple((key, 0) for key in keys[1 : 1 + bench.draws]))
    return bench.trial_of(pairs), tuple(groups)


def _attack(
    bench: Bench,
    variant: str,
    trials: tuple[Trial, Trial],
    groups: Sequence[Groups],
    reason: str | None,
) -> tuple[AttackResult, ...]:
    """Rows of both ways of averaging."""
    found: list[AttackResult] = []
    for how, average in (("embeddings", _vectors), ("pixels", _pixels)):
        name = f"{variant}, {how}"
        bench.progress(f"averaging: {name}")
        for judge in bench.judges():
            if reason:
                found += refused(bench, "averaging", judge.name, reason, variant=name)
                continue
            tested, fitting = (
                _scores(bench, judge, trial, average(bench, judge, each))
                for trial, each in zip(trials, groups, strict=True)
            )
            facts = {"averaged": sum(map(len, groups[0])) / len(groups[0])}
            found += rows(
                bench, "averaging", judge, trials, (tested, fitting), variant=name, facts=facts
            )
    return tuple(found)


def _scores(
    bench: Bench, judge: Recognizer, trial: Trial, averages: Sequence[Tensor | None]
) -> Scores:
    probes = torch.zeros(len(trial), judge.spec.dim)
    valid = torch.tensor([average is not None for average in averages])
    for i, average in enumerate(averages):
        if average is not None:
            probes[i] = average
    gallery = bench.untouched(judge, trial.gallery)
    return scored(judge.distance, gallery, probes, trial.people, valid)


def _vectors(bench: Bench, judge: Recognizer, groups: Groups) -> list[Tensor | None]:
    """Mean embeddings, on the sphere where the recogniser's are; None: no face in any view."""
    known: dict[View, Tensor] = {}
    for draw, keys in _by_draw(groups).items():
        vectors, valid = bench.released(judge, keys, draw=draw)
        found = zip(keys, vectors, valid.tolist(), strict=True)
        known |= {(key, draw): vector for key, vector, ok in found if ok}
    means: list[Tensor | None] = []
    for group in groups:
        held = [known[view] for view in group if view in known]
        mean = torch.stack(held).mean(0) if held else None
        if mean is not None and judge.spec.metric == "cosine":
            mean = F.normalize(mean, dim=0)
        means.append(mean)
    return means


def _by_draw(groups: Groups) -> Mapping[int, list[str]]:
    sorted_out: dict[int, list[str]] = {}
    for key, draw in dict.fromkeys(view for group in groups for view in group):
        sorted_out.setdefault(draw, []).append(key)
    return sorted_out


def _pixels(bench: Bench, judge: Recognizer, groups: Groups) -> list[Tensor | None]:
    """Embeddings of mean crops, at the mean of the landmarks; None: no face in any view."""
    for draw, keys in _by_draw(groups).items():
        bench.prepare(keys, draw)
    means = [_mean_crop(bench, group) for group in groups]
    held = [mean for mean in means if mean is not None]
    vectors: list[Tensor] = []
    for first in range(0, len(held), CHUNK):
        crops, points = zip(*held[first : first + CHUNK], strict=True)
        with torch.no_grad():
            vectors += judge.embed(torch.stack(crops), torch.stack(points)).cpu()
    waiting = iter(vectors)
    return [None if mean is None else next(waiting) for mean in means]


def _mean_crop(bench: Bench, group: Sequence[View]) -> tuple[Tensor, Tensor] | None:
    """Mean crop 3×S×S and mean landmarks 68×2 of the views in which a face is found."""
    crops, points = [], []
    for key, draw in group:
        face = bench.face(key, draw)
        if face is not None:
            place = frame(face, SIDE)
            crops.append(align(bench.releases.photo(key, draw), place))
            points.append(torch.from_numpy(place.to_frame(face.landmarks)).float())
    return (torch.stack(crops).mean(0), torch.stack(points).mean(0)) if crops else None
