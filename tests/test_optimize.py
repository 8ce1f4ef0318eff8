"""The loop and its rules, on problems whose answers are known."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from facedeid.optimize import Adadelta, Momentum, Problem, descend, rms_unit


@dataclass
class Bowl(Problem):
    """Each face has its own lowest place, and is finished within `near` of it."""

    centre: Tensor
    near: float = 0.0
    seen: list[int] = field(default_factory=list)

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        self.seen.append(len(rows))
        return (x - self.centre[rows])[None]

    def finished(self, x: Tensor, rows: Tensor, i: int) -> Tensor | None:
        return (x - self.centre[rows]).flatten(1).abs().amax(1) < self.near if self.near else None


def test_the_loop_descends_and_leaves_its_start_alone() -> None:
    start = torch.zeros(2, 3, 4)
    centre = torch.tensor([1.0, -2.0])[:, None, None].expand(2, 3, 4)
    found = descend(Bowl(centre), Momentum(0.05, decay=0), start, 60)
    assert (found - centre).abs().max() < 0.051
    assert not start.any()


def test_finished_faces_leave_the_batch_and_stay_as_they_were() -> None:
    centre = torch.tensor([1.0, 3.0, 0.0])[:, None, None].expand(3, 2, 2)
    bowl = Bowl(centre, near=0.15)
    rule = Momentum(0.1, decay=0.3)
    found = descend(bowl, rule, torch.zeros(3, 2, 2), 40)
    assert bowl.seen[0] == 3
    assert bowl.seen[1] == 2
    assert 1 in bowl.seen
    assert len(bowl.seen) < 40
    assert not found[2].any()
    for i in range(3):
        alone = descend(Bowl(centre[i : i + 1], near=0.15), rule, torch.zeros(1, 2, 2), 40)
        assert torch.equal(alone[0], found[i])


def test_projection_and_choice_are_obeyed_and_memory_follows_the_choice() -> None:
    class Two(Problem):
        def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
            return torch.stack([-torch.ones_like(x), torch.ones_like(x)])

        def project(self, x: Tensor, rows: Tensor) -> Tensor:
            return x.clamp(-0.25, 0.35)

        def choose(self, candidates: Tensor, rows: Tensor) -> Tensor:
            return torch.where(rows == 0, 0, 1)

    found = descend(Two(), Momentum(0.1), torch.zeros(2, 3), 10)
    torch.testing.assert_close(found, torch.tensor([[0.35] * 3, [-0.25] * 3]))

    class Once(Two):
        turn = 0

        def choose(self, candidates: Tensor, rows: Tensor) -> Tensor:
            self.turn += 1  # first up, then down: the momentum up cancels the step down
            return torch.full((len(rows),), int(self.turn > 1))

    torch.testing.assert_close(
        descend(Once(), Momentum(0.1), torch.zeros(1, 3), 2), torch.full((1, 3), 0.1)
    )


@pytest.mark.parametrize("unit", [torch.sign, rms_unit])
def test_no_gradient_is_no_step_and_no_nan(unit: object) -> None:
    rule = Momentum(1.0, unit=unit)  # type: ignore[arg-type]
    x = torch.zeros(2, 3, 4)
    steps, _ = rule.step(torch.zeros(1, 2, 3, 4), rule.start(x), 0)
    assert torch.equal(steps, torch.zeros(1, 2, 3, 4))


def test_steps_have_the_promised_size() -> None:
    gradient = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    for unit in (torch.sign, rms_unit):
        rule = Momentum(0.7, unit=unit)
        steps, (momentum,) = rule.step(gradient, rule.start(gradient[0]), 0)
        size = steps.square().mean((2, 3)).sqrt()
        torch.testing.assert_close(size, torch.full((3, 2), 0.7))
        torch.testing.assert_close(momentum.abs().mean((2, 3)), torch.ones(3, 2))


def test_adadelta_is_pytorchs() -> None:
    gradients = torch.randn(6, 1, 2, 5, generator=torch.Generator().manual_seed(1))
    weight = torch.zeros(2, 5, requires_grad=True)
    theirs = torch.optim.Adadelta([weight], lr=3.0, rho=0.95, eps=1e-7)
    rule = Adadelta(3.0)
    ours, state = torch.zeros(2, 5), rule.start(torch.zeros(2, 5))
    for i, gradient in enumerate(gradients):
        weight.grad = gradient[0].clone()
        theirs.step()
        steps, states = rule.step(gradient[None], state, i)
        ours, state = ours + steps[0, 0], tuple(part[0] for part in states)
        state = tuple(part[0] if part.ndim > 2 else part for part in state)
        torch.testing.assert_close(ours, weight.detach())
