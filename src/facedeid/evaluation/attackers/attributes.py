"""Attributes only: who is it, by what a method with an identity/attribute split leaves un-noised?

Such methods change or noise the identity vector and hand on the attributes (pose, expression,
light, and whatever else their encoder kept). The attacker takes the attributes as released and
learns, on people he knows, a linear map from them to a recogniser's embedding.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from facedeid.evaluation.attackers.bench import Bench
from facedeid.evaluation.attackers.heads import Head, chosen, heads
from facedeid.evaluation.attackers.results import AttackResult, refused, rows
from facedeid.evaluation.attackers.scoring import Scores, cosine_distance, scored
from facedeid.faces import align, frame
from facedeid.models import Models, Recognizer

__all__ = ["HasAttributes", "attributes"]

LEAST_PHOTOS, CHUNK, MOST, SIDE = 20, 16, 256, 256
"""Photos to learn from, faces encoded at once, principal components that are kept, and the side
of the crops of a method that takes any."""

WHOLE = "not applicable: the method has no identity/attribute split, it releases the whole face"


@runtime_checkable
class HasAttributes(Protocol):
    """A method that can show what it releases besides the identity."""

    def attributes(self, faces: Tensor, models: Models, *, landmarks: Tensor) -> Tensor:
        """What is released un-noised of each face, pooled to a vector.

        Args:
            faces: N×3×S×S in [-1, 1], canonical crops of the originals, S as the method's `frame`.
            models: where networks come from.
            landmarks: N×68×2 in pixels of the crops.

        Returns:
            N×K: the attribute maps of every level, averaged over a coarse grid (2×2 or finer, so
            that the layout of the face is not lost) and put side by side.
        """
        ...


def attributes(bench: Bench) -> tuple[AttackResult, ...]:
    """Attributes of the probe through a learned head, against the untouched gallery.

    The gallery is embedded by the recogniser, or by the method's own attribute encoder, which is
    no secret; whichever tells other people apart better.
    """
    method = bench.releases.method
    if not isinstance(method, HasAttributes):
        return _all_refused(bench, WHOLE)
    trials, short = bench.trials()
    keys, people = bench.training()
    if short or len(keys) < LEAST_PHOTOS:
        return _all_refused(bench, short or f"only {len(keys)} photos to learn from")
    views = [keys, *(trial.probes for trial in trials), *(trial.gallery for trial in trials)]
    pooled = [_pooled(bench, method, view) for view in views]
    reduce = _components(pooled[0])
    learned, *sides = (reduce(each) for each in pooled)
    candidates = [(head, True) for head in heads(learned, learned, people, alike=True)]
    facts = {"trained_on_photos": len(keys), "attributes": pooled[0].shape[1]}
    found: list[AttackResult] = []
    for judge in bench.judges():
        bench.progress(f"attributes: {judge.name}")
        known = bench.untouched(judge, keys)
        mapped = [(head, False) for head in heads(learned, known, people, alike=False)]

        def scores(candidate: tuple[Head, bool], which: int, judge: Recognizer = judge) -> Scores:
            head, own = candidate
            gallery = sides[2 + which] if own else bench.untouched(judge, trials[which].gallery)
            probes = head.probes(sides[which])
            return scored(cosine_distance, head.galleries(gallery), probes, trials[which].people)

        best = chosen([*candidates, *mapped], lambda candidate: scores(candidate, 1))
        chose = f"{best[0].name}; gallery by {'attributes' if best[1] else judge.name}"
        attacked = (scores(best, 0), scores(best, 1))
        found += rows(
            bench, "attributes", judge, trials, attacked, facts={**facts, "chosen": chose}
        )
    return tuple(found)


def _all_refused(bench: Bench, reason: str) -> tuple[AttackResult, ...]:
    found = (refused(bench, "attributes", name, reason) for name in bench.recognizers)
    return tuple(row for group in found for row in group)


@torch.no_grad()
def _pooled(bench: Bench, method: HasAttributes, keys: Sequence[str]) -> Tensor:
    """What the method releases of each original, N×K on the CPU."""
    found: list[Tensor] = []
    for first in range(0, len(keys), CHUNK):
        crops, points = [], []
        for key in keys[first : first + CHUNK]:
            face = bench.originals.face(key)
            assert face is not None  # trials hold no others
            place = frame(face, bench.releases.method.frame or SIDE)
            crops.append(align(bench.dataset.read(key), place))
            points.append(torch.from_numpy(place.to_frame(face.landmarks)).float())
        faces = torch.stack(crops).to(bench.models.device)
        vectors = method.attributes(faces, bench.models, landmarks=torch.stack(points))
        found.append(vectors.flatten(1).float().cpu())
    return torch.cat(found)


def _components(x: Tensor) -> Callable[[Tensor], Tensor]:
    """Standardise, and turn into at most `MOST` principal components of N×K."""
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    basis = torch.linalg.svd((x - mean) / std, full_matrices=False)[2][:MOST].T
    scale = (((x - mean) / std) @ basis).std(0).mean().clamp_min(1e-6)
    return lambda values: ((values - mean) / std) @ basis / scale
