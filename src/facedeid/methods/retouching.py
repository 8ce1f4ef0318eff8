"""How well generated faces hide people without showing it; codes moved a little to do better."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from facedeid.inversion import Inverted
from facedeid.losses import lost_edges, new_edges, new_stains
from facedeid.models import Recognizer
from facedeid.nets.pullback import pullback
from facedeid.nets.style_pair import StylePair, shortened
from facedeid.optimize import Momentum, Problem, descend, rms_unit

__all__ = ["Verdict", "marks", "retouched"]

EDGES = 1.0
STAINS = 1.2
LOST = 1.6
"""What new edges, dark and bright spots and lost edges (`facedeid.losses`) weigh beside a
recogniser's distance."""
RATE = 0.12
"""Root mean square of a step along the prior's axes, in standard deviations."""
DECAY = 0.8
"""Of the momentum."""


def marks(before: Tensor, after: Tensor, where: Tensor | None = None) -> Tensor:
    """How much faces N×3×s×s show that they were made: N. `where`: as for `lost_edges`."""
    spots = sum(new_stains(sign * before, sign * after, sigma=1.0) for sign in (1, -1))
    lost = lost_edges(before, after, where)
    return EDGES * new_edges(before, after) + STAINS * spots + LOST * lost


@dataclass(frozen=True)
class Verdict:
    """What speaks for generated faces: a recogniser's distance, less the `marks` that they show."""

    found: Inverted
    judge: Recognizer
    own: Tensor
    """What the judge makes of the faces as they were, N×D."""
    residue: float
    """Share kept of what the generator could not draw."""
    bf16: bool = False
    """Ask the networks in bfloat16, which is fast on some machines (`nets.speed`)."""

    def score(self, made: Tensor, rows: Tensor) -> Tensor:
        """Of generated faces, N×3×s×s, of these rows: N; differentiable."""
        part = self.found.rows(rows)
        with torch.autocast(made.device.type, torch.bfloat16, enabled=self.bf16):
            shown = part.shown(part.registered(made, "kept", self.residue), "kept", self.residue)
            vectors = self.judge.embed(shown, part.landmarks)
        distance = self.judge.distance(self.own[rows], vectors.float())
        return distance - marks(part.cover, shown.float())


@dataclass
class _Retouch(Problem):
    """Coordinates by which codes move along the prior's axes, for a better verdict."""

    verdict: Verdict
    pair: StylePair
    begin: Tensor
    """Codes that are moved, N×L×D."""
    steady: Tensor
    """Directions along which they are not (`StylePair.posing`)."""
    best: Tensor = field(init=False)
    """The coordinates with the highest score so far."""
    highest: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.generator = pullback(self.pair, bf16=self.verdict.bf16)
        self.place = self.pair.coordinates(self.begin)
        self.best = torch.zeros_like(self.place)
        self.highest = torch.full_like(self.place[:, 0], -torch.inf)

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        """1×N×AXES."""
        with torch.enable_grad():
            by = x.detach().requires_grad_()
            codes = self.pair.moved(self.begin[rows], by, self.steady)
            made, known = self.generator.decode(codes.detach())
            score = self.verdict.score(made.requires_grad_(), rows)
            (pixels,) = torch.autograd.grad(-score.sum(), made)
            (slope,) = torch.autograd.grad(codes, by, self.generator.pull(known, pixels[None])[0])
        better = score.detach() > self.highest[rows]
        self.best[rows[better]] = x[better]
        self.highest[rows[better]] = score.detach()[better]
        return slope[None]

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        """To where the prior finds faces (`shortened`)."""
        place = self.place[rows]
        return torch.stack([shortened(place + by, place) - place for by in x])


def retouched(
    verdict: Verdict, pair: StylePair, codes: Tensor, steady: Tensor, steps: int
) -> Tensor:
    """Codes N×L×D after each face's best of so many steps up the gradient of its score.

    They stay along `steady`, and about where the pair's prior finds faces: each step is shortened
    to there, but not along `steady`.
    """
    problem = _Retouch(verdict, pair, codes, steady)
    descend(problem, Momentum(RATE, DECAY, rms_unit), torch.zeros_like(problem.best), steps + 1)
    return pair.moved(codes, problem.best, steady)
