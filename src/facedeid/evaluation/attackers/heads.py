"""Linear heads over frozen embeddings: from what is left in a release back to a person.

Candidates are ridge regressions of the person's untouched embedding on the released one, and the
same refined by a softmax over the training photos with a margin on the cosine (Wang et al. 2018).
Which one is used is decided on people that none of them has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.evaluation.attackers.scoring import Scores, auc

C = TypeVar("C")

__all__ = ["Head", "chosen", "heads"]

PENALTIES = (0.1, 1.0, 10.0)
"""Of the ridge, as multiples of the mean variance of a coordinate."""
STEPS, RATE, SCALE, MARGIN, PULL = 150, 2e-3, 16.0, 0.1, 1e-3
"""Of the refinement; `PULL` weighs the squared distance to where it started."""


@dataclass(frozen=True, eq=False)
class Head:
    """Two affine maps into one space, in which cosines are compared."""

    name: str
    probe: Tensor
    """P×D."""
    gallery: Tensor
    """G×D."""
    probe_mean: Tensor
    gallery_mean: Tensor

    def probes(self, x: Tensor) -> Tensor:
        """Features of releases, N×P -> N×D unit vectors."""
        return F.normalize((x - self.probe_mean) @ self.probe)

    def galleries(self, y: Tensor) -> Tensor:
        """Embeddings of untouched photos, N×G -> N×D unit vectors."""
        return F.normalize((y - self.gallery_mean) @ self.gallery)


def heads(x: Tensor, y: Tensor, people: Sequence[str], *, alike: bool) -> list[Head]:
    """Candidates.

    Args:
        x: N×P features of releases.
        y: N×G features of the same photos untouched.
        people: who is in them.
        alike: both are embeddings by one recogniser, so that the identity map is a fair guess.
    """
    labels = torch.from_numpy(np.unique(np.array(people), return_inverse=True)[1])
    ridges = [_ridge(x, y, labels, penalty, alike) for penalty in PENALTIES]
    return [*ridges, *(_refined(head, x, y, labels) for head in ridges)]


def _ridge(x: Tensor, y: Tensor, labels: Tensor, penalty: float, alike: bool) -> Head:
    """Least squares to the person's mean, shrunk to the identity, or to zero."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    a, b = (x - x_mean).double(), (y - y_mean).double()
    same = F.one_hot(labels).double()
    target = same @ ((same.T @ b) / same.sum(0)[:, None])
    eye = torch.eye(a.shape[1], dtype=a.dtype)
    weight = (penalty * a.square().sum() / a.shape[1]).clamp_min(1e-9)
    prior = eye * weight if alike else torch.zeros(a.shape[1], b.shape[1], dtype=a.dtype)
    found = torch.linalg.solve(a.T @ a + weight * eye, a.T @ target + prior)
    return Head(f"ridge {penalty:g}", found.float(), torch.eye(y.shape[1]), x_mean, y_mean)


def _refined(start: Head, x: Tensor, y: Tensor, labels: Tensor) -> Head:
    """Every release against every untouched photo: those of its person are to be the nearest."""
    probe, gallery = start.probe.clone(), start.gallery.clone()
    unit = (probe.norm() / len(gallery) ** 0.5).clamp_min(1e-9)
    parameters = [probe.requires_grad_(), gallery.requires_grad_()]
    optimiser = torch.optim.Adam(
        [{"params": [probe], "lr": RATE * float(unit)}, {"params": [gallery], "lr": RATE}]
    )
    same = labels[:, None] == labels[None]
    head = Head(f"{start.name}, softmax", probe, gallery, start.probe_mean, start.gallery_mean)
    for _ in range(STEPS):
        cosine = head.probes(x) @ head.galleries(y).T
        chance = F.log_softmax(SCALE * (cosine - MARGIN * same), 1)
        loss = -((chance * same).sum(1) / same.sum(1)).mean()
        moved = (probe / unit - start.probe / unit).square().sum()
        moved = moved + (gallery - start.gallery).square().sum()
        optimiser.zero_grad(set_to_none=True)
        (loss + PULL * moved).backward()
        optimiser.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    return head


def chosen(candidates: Sequence[C], scores: Callable[[C], Scores]) -> C:
    """The candidate with the highest AUC; the first of equals."""
    return max(candidates, key=lambda candidate: auc(scores(candidate)))
