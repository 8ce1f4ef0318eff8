"""Fawkes: as far away as a budget of structural change allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from facedeid.losses import ssim
from facedeid.methods.adversarial import Adversarial, Embed, Surrogates
from facedeid.methods.base import number, word
from facedeid.optimize import Adadelta, Problem, State, descend

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["LEVELS", "Cloak", "Fawkes", "Strength", "cloak", "dssim"]


class Strength(NamedTuple):
    """Budget of DSSIM, steps, and Adadelta's rate."""

    budget: float
    steps: int
    rate: float


Level = Literal["low", "mid", "high"]
LEVELS: Mapping[Level, Strength] = MappingProxyType(
    {
        "low": Strength(0.004, 40, 25),
        "mid": Strength(0.012, 75, 20),
        "high": Strength(0.017, 150, 15),
    }
)
CLIP = 15.0
"""Greatest change of a value in 8-bit levels."""
PENALTY = 1e6
MOST = 129.0
"""The weight c is not moved beyond this, nor below its reciprocal."""
INSIDE = 2 - 1e-6
"""Keeps 0 and 255 inside the range of tanh."""


def dssim(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM)/2 of pictures N×3×H×W in 0..255: N."""
    return (1 - ssim(a / 127.5 - 1, b / 127.5 - 1)) / 2


@dataclass(frozen=True)
class _Kicked(Adadelta):
    """Adadelta that after its first step moves by 0.01 against the sign, and forgets."""

    kick: float = 0.01

    def step(self, gradient: Tensor, state: State, i: int) -> tuple[Tensor, State]:
        change, states = super().step(gradient, state, i)
        if i:
            return change, states
        return change - self.kick * gradient.sign(), tuple(map(torch.zeros_like, states))


class _Cloaking(Problem):
    """A modifier in tanh space; the best picture within the budget is kept."""

    def __init__(self, x: Tensor, own: Tensor, embed: Embed, budget: float) -> None:
        self.x, self.own, self.embed, self.budget = x, own, embed, budget
        self.bent = _bend(x)
        self.weight = x.new_ones(len(x))
        self.side = x.new_zeros(len(x))
        self.best, self.farthest, self.used = x.clone(), x.new_zeros(len(x)), x.new_zeros(len(x))

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            made = self.changed(leaf, rows)
            far = (self.embed(made, rows) - self.own[rows]).square().sum(1)
            change = dssim(made, self.x[rows])
            over = (change - self.budget).clamp_min(0)
            loss = PENALTY * over.square() - self.weight[rows] * far
            gradient = torch.autograd.grad(loss.sum(), leaf)[0]
        self._keep(made.detach(), far.detach(), change.detach(), rows)
        self._weigh(change.detach(), rows)
        return gradient[None]

    def changed(self, modifier: Tensor, rows: Tensor) -> Tensor:
        """The pictures with a modifier on them."""
        bent = self.bent[rows]
        return self.x[rows] + (_unbend(bent + modifier) - _unbend(bent)).clamp(-CLIP, CLIP)

    def _keep(self, made: Tensor, far: Tensor, change: Tensor, rows: Tensor) -> None:
        better = (change <= 1.1 * self.budget) & (far > self.farthest[rows])
        kept = rows[better]
        self.best[kept], self.farthest[kept] = made[better], far[better]
        self.used[kept] = change[better]

    def _weigh(self, change: Tensor, rows: Tensor) -> None:
        """c doubles while there is budget left, halves beyond it; turning round, it starts at 1."""
        c, before = self.weight[rows], self.side[rows]
        inside = (change <= 0.9 * self.budget) & (c <= MOST)
        beyond = ~inside & (change >= 1.1 * self.budget) & (c >= 1 / MOST)
        side = inside.to(c) - beyond.to(c)
        c = torch.where(side * before < 0, 1.0, c * 2**side)
        self.weight[rows] = torch.where(side == 0, 1.0, c)
        self.side[rows] = side


def _bend(x: Tensor) -> Tensor:
    """0..255 -> tanh space."""
    return torch.atanh((x / 255 - 0.5) * INSIDE)


def _unbend(x: Tensor) -> Tensor:
    return (torch.tanh(x) / INSIDE + 0.5) * 255


class Cloak(NamedTuple):
    """Pictures N×3×S×S in 0..255, the squared distance reached, and the DSSIM used: N."""

    pictures: Tensor
    distance: Tensor
    dssim: Tensor


def cloak(x: Tensor, own: Tensor, embed: Embed, start: Tensor, strength: Strength) -> Cloak:
    """The farthest picture within a budget of DSSIM, on any network.

    Args:
        x: N×3×S×S in 0..255.
        own: N×D features to move away from.
        embed: the network.
        start: N×3×S×S, the first modifier, in tanh space.
        strength: budget, steps, rate.
    """
    problem = _Cloaking(x, own, embed, strength.budget)
    descend(problem, _Kicked(strength.rate), start, strength.steps)
    return Cloak(problem.best, problem.farthest, problem.used)


@dataclass(frozen=True, kw_only=True)
class Fawkes(Adversarial):
    """Shan et al. 2020, section 5, untargeted as in the release of 2021.

    Minimises 10⁶·max(DSSIM - budget, 0)² - c·‖f(x') - f(x)‖² over a modifier in tanh space, with
    Adadelta; no value changes by more than 15 levels; c balances the two terms as it goes; the
    farthest picture with a DSSIM up to 1.1·budget is kept. `level` sets budget, steps and rate;
    `steps` overrides its own.

    The public code resizes the face's box to 112 pixels, changes it there and resizes the change
    back; here the modifier has the pixels of the aligned frame, and DSSIM is taken at that size.
    Its features are unit vectors, ours are as in `Surrogates`, and of several recognisers the
    mean, not the sum, is taken: c makes up for the scale.
    """

    name: ClassVar[str] = "fawkes"
    summary: ClassVar[str] = "pixel attack within a budget of structural change (DSSIM)"
    source: ClassVar[str] = "Shan et al. 2020"
    level: Level = "high"
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        word("level", self.level, Level)
        if self.steps is not None:
            number("steps", self.steps, 1, 10_000)

    @property
    def strength(self) -> Strength:
        """What the options come to."""
        level = LEVELS[self.level]
        return level if self.steps is None else level._replace(steps=self.steps)

    def attack(
        self,
        x: Tensor,
        surrogates: Surrogates,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """Cloak; the facts tell the DSSIM that was used."""
        noise = torch.stack([torch.rand(x.shape[1:], generator=g) for g in random]).to(x)
        embed = surrogates.embed(landmarks)
        with torch.no_grad():
            own = embed(x, torch.arange(len(x), device=x.device))
        strength = self.strength
        made = cloak(x, own, embed, (2 * noise - 1) * 1e-4, strength)
        facts = [{"iterations": strength.steps, "dssim": round(d, 5)} for d in made.dssim.tolist()]
        return made.pictures, facts
