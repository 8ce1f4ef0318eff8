"""The one adversarial loop: gradients, a rule that makes steps of them, a projection.

Adversarial methods say what they want with a `Problem`, how they move with a `Rule`, and run
`descend`. Faces that are finished leave the batch, so that the rest costs no more than itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Adadelta", "Momentum", "Problem", "Rule", "State", "descend", "rms_unit"]

State = tuple[Tensor, ...]
"""What a rule remembers, one row per face."""


class Rule(Protocol):
    """How gradients become steps."""

    def start(self, x: Tensor) -> State:
        """What is remembered before the first step, of the shape of x: N×…."""

    def step(self, gradient: Tensor, state: State, i: int) -> tuple[Tensor, State]:
        """Gradients K×N×… of K candidates and N×… of memory -> steps and memories, K×N×…."""


class Problem:
    """What is looked for. `rows` are the faces still at work: N numbers into the first batch."""

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        """Gradients K×N×… of what is to become small, at x (N×…): one per candidate."""
        raise NotImplementedError

    def finished(self, x: Tensor, rows: Tensor, i: int) -> Tensor | None:
        """Which faces are to stay as they are, N booleans; asked right after `gradients`."""
        return None

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        """Candidates K×N×… moved to the nearest allowed place."""
        return x

    def choose(self, candidates: Tensor, rows: Tensor) -> Tensor:
        """Which of K candidates each face goes on with: N numbers."""
        return torch.zeros(len(rows), dtype=torch.long, device=candidates.device)


@torch.no_grad()
def descend(problem: Problem, rule: Rule, start: Tensor, iterations: int) -> Tensor:
    """Run the loop: N×… -> N×….

    Args:
        problem: gradients, projection, choice, end.
        rule: how gradients become steps.
        start: where each face starts; never written to.
        iterations: steps of a face that is not finished earlier.
    """
    result, x, state = start.clone(), start, rule.start(start)
    rows = torch.arange(len(start), device=start.device)
    for i in range(iterations):
        gradients = problem.gradients(x, rows, i)
        done = problem.finished(x, rows, i)
        if done is not None and done.any():
            result[rows[done]] = x[done]
            rows, x, gradients = rows[~done], x[~done], gradients[:, ~done]
            state = tuple(part[~done] for part in state)
        if not len(rows):
            break
        steps, states = rule.step(gradients, state, i)
        candidates = problem.project(x + steps, rows)
        best = problem.choose(candidates, rows), torch.arange(len(rows), device=rows.device)
        x, state = candidates[best], tuple(part[best] for part in states)
    result[rows] = x
    return result


def rms_unit(gradient: Tensor) -> Tensor:
    """K×N×… with root mean square 1 per face (all zero stays zero): the L2 analogue of the sign."""
    return gradient / _mean(gradient.square()).sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)


def _mean(x: Tensor) -> Tensor:
    """Mean per candidate and face, K×N×1…."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@dataclass(frozen=True)
class Momentum:
    """Dong et al. 2018, eq. 6-7: m ← μ·m + g/mean|g|, then a step of `rate` along `unit`(m).

    `unit` is `torch.sign` for the L∞ norm, `rms_unit` for L2; both make a step whose root mean
    square is at most `rate`, in the units of x.
    """

    rate: float
    decay: float = 1.0
    unit: Callable[[Tensor], Tensor] = torch.sign

    def start(self, x: Tensor) -> State:
        """No momentum."""
        return (torch.zeros_like(x),)

    def step(self, gradient: Tensor, state: State, i: int) -> tuple[Tensor, State]:
        """See the class."""
        size = _mean(gradient.abs()).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = self.decay * state[0] + gradient / size
        return -self.rate * self.unit(momentum), (momentum,)


@dataclass(frozen=True)
class Adadelta:
    """Zeiler 2012, algorithm 1, its steps multiplied by `rate`."""

    rate: float
    decay: float = 0.95
    eps: float = 1e-7

    def start(self, x: Tensor) -> State:
        """Nothing seen, nothing moved."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, gradient: Tensor, state: State, i: int) -> tuple[Tensor, State]:
        """See the class."""
        seen = self.decay * state[0] + (1 - self.decay) * gradient.square()
        change = ((state[1] + self.eps) / (seen + self.eps)).sqrt() * gradient
        moved = self.decay * state[1] + (1 - self.decay) * change.square()
        return -self.rate * change, (seen, moved)
