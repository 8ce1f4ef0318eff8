"""IdentityDP: Laplace noise on the identity vector, and a network that decodes it to a face."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.methods.base import Deidentified, Method
from facedeid.models import CODED
from facedeid.nets.aei import IdentityNet
from facedeid.nets.residual import retoned
from facedeid.privacy import Laplace, SeededLaplace, Sensitivity, bounded

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["IdentityDp"]

SPAN = 32
"""Principal directions of the synthetic identities that `span` keeps."""
BRIGHTNESS, COLOUR = 1.1, 0.1
"""Times that the network's change of brightness is taken, and its change of what is not brightness:
that shows as green and pink tints, and hides little; without any, eyes turn bluish."""
LEAST = 1e-6
"""Smallest ε: with noise of a larger scale, vectors could not be told from zero any more."""
WIDEST = bounded(IdentityNet.IDENTITY).value
"""Largest sensitivity that vectors can have; noise of far larger ones could not be told from zero
either.
"""
GRID = 4
"""Side of the grid over which attribute maps are averaged for attackers."""
SCOPE = (
    "identity-dp: ε covers the identity vector (dlib's, 128 numbers) and nothing else. Pose, "
    "expression, hair, skin, background and body are released as they are and can identify a "
    "person: from them alone, an attacker ranked the right one of 100 people first in 18 % of "
    "cases, and one who had learned to undo the network in 30 % (without any method 82 to 98 %). "
    "Whether a photo passed verification is not covered either (docs/limits.md)"
)


@dataclass(frozen=True, kw_only=True)
class IdentityDp(Method):
    """Wen et al. 2022, with the network that ships (its card says more).

    The face's identity vector (dlib's, centred, of unit length) gets Laplace noise from OpenDP, is
    projected, and is decoded with the face's own attributes. `epsilon` is the budget of one
    release of the whole vector. `sensitivity`: "bounded" holds for every face (vectors are clipped
    to the unit `ball`, "l2" or "l1"); "empirical" is the paper's, the largest distance within a
    reference set, given as `measured` (`facedeid sensitivity` finds it), and is no guarantee for
    others. `projection`, which costs nothing: to the "sphere", to the "span" of the 32 principal
    directions of the synthetic identities that ship, or to the "nearest" of them. `seeded`: noise
    that can be repeated, for tests; NOT PRIVATE.
    """

    name: ClassVar[str] = "identity-dp"
    summary: ClassVar[str] = "Laplace noise on the identity vector, with a stated privacy budget"
    source: ClassVar[str] = "Wen et al. 2022"
    epsilon: float = 6.0
    sensitivity: Literal["bounded", "empirical"] = "bounded"
    ball: Literal["l2", "l1"] = "l2"
    measured: float | None = None
    projection: Literal["sphere", "span", "nearest"] = "sphere"
    seeded: bool = False

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise OptionError(f"epsilon must be positive, got {self.epsilon:g}")
        if self.epsilon < LEAST:
            raise OptionError(f"epsilon must be {LEAST:g} or more, got {self.epsilon:g}")
        if (self.sensitivity == "empirical") != (self.measured is not None):
            raise OptionError(
                "sensitivity=empirical and measured=NUMBER go together; `facedeid sensitivity "
                "PHOTOS` finds the number"
            )
        if self.measured is not None and not 0 < self.measured <= WIDEST:
            raise OptionError(
                f"measured must be a positive number up to {WIDEST:g}, the largest distance of "
                f"unit vectors, got {self.measured:g}"
            )

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The network was trained against these."""
        return CODED

    @property
    def cost(self) -> float:
        """ε of one release; infinite for noise that can be repeated."""
        return math.inf if self.seeded else self.epsilon

    @property
    def seedable(self) -> bool:
        """Only where no guarantee is at stake."""
        return self.seeded

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the budget covers; in every report."""
        found = [SCOPE]
        if self.seeded or not math.isfinite(self.epsilon):
            found.append("NOT PRIVATE: " + ("seeded noise" if self.seeded else "no noise"))
        if self.sensitivity == "empirical":
            found.append(
                f"empirical sensitivity {self.measured:g}: no guarantee for a face outside of the "
                "reference set"
            )
        return tuple(found)

    def ready(self, models: "Models") -> None:
        """The noise can be drawn: OpenDP is installed, and agrees with the budget."""
        if not self.seeded:
            self._mechanism(models.identity.IDENTITY, ()).ready()

    @torch.no_grad()
    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """One release of each identity vector, decoded; the facts state the mechanism."""
        net = models.identity
        own = net.unit(models.recognizer("dlib").embed(faces, landmarks))
        mechanism = self._mechanism(own.shape[1], random)
        noisy = F.normalize(mechanism.release(own)).float()
        released = self._projected(noisy, net, models).to(models.device)
        cover = faces.to(models.device)
        made = net(cover, released)
        made = retoned(cover, made, brightness=BRIGHTNESS, colour=COLOUR)
        facts = {
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else "infinite",
            "private": mechanism.private,
            "sensitivity": str(mechanism.sensitivity),
            "noise_scale": mechanism.scale,
            "epsilon_of_one_coordinate": mechanism.per_coordinate
            if math.isfinite(self.epsilon)
            else "infinite",
            "projection": self.projection,
        }
        return Deidentified(made.to(faces.device).contiguous(), (facts,) * len(faces))

    def _mechanism(self, dim: int, random: Sequence[torch.Generator]) -> Laplace:
        if self.measured is None:
            sensitivity = bounded(dim, self.ball)
        else:
            sensitivity = Sensitivity(self.measured, "empirical", min(2.0, self.measured))
        if self.seeded:
            return SeededLaplace(self.epsilon, sensitivity, dim, tuple(random))
        return Laplace(self.epsilon, sensitivity, dim)

    def _projected(self, vectors: Tensor, net: IdentityNet, models: "Models") -> Tensor:
        """Post-processing by what is public: the guarantee holds."""
        if self.projection == "sphere":
            return vectors
        people = net.unit(models.identities("dlib")).cpu()
        if self.projection == "nearest":
            return people[(vectors @ people.T).argmax(1)]
        basis = torch.linalg.svd(people, full_matrices=False)[2][:SPAN]
        return F.normalize(vectors @ basis.T @ basis)

    @torch.no_grad()
    def attributes(self, faces: Tensor, models: "Models", *, landmarks: Tensor) -> Tensor:
        """What is released un-noised: every attribute map, averaged over a 4×4 grid: N×K."""
        maps = models.identity.attributes(faces.to(models.device))
        pooled = [F.adaptive_avg_pool2d(m, min(GRID, m.shape[-1])).flatten(1) for m in maps]
        return torch.cat(pooled, 1)
