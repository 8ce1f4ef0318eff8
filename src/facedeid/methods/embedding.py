"""Feature embedding: a network that embeds a synthetic person's features into the face."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.methods.base import Deidentified, Method
from facedeid.models import CODED, identity_codes, lookalikes

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["FeatureEmbedding"]

CANDIDATES = 64
"""A face gets one of so many synthetic identities, those most like it: as in training."""


@dataclass(frozen=True, kw_only=True)
class FeatureEmbedding(Method):
    """Hanawa, Ito and Aoki 2024, section 3, with the network that ships (its card says more).

    `strength` from 0 (nothing) to 1; `identity` is the number of a synthetic identity of the bank,
    the same for every face, or None: each face draws one of the 64 most like it.
    """

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features; looks natural"
    source: ClassVar[str] = "Hanawa et al. 2024"
    strength: float = 1.0
    identity: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise OptionError(f"strength must lie between 0 and 1, got {self.strength:g}")
        if self.identity is not None and self.identity < 0:
            raise OptionError(f"identity is the number of a synthetic person, got {self.identity}")

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The network was trained against these."""
        return CODED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Light changes are for looks, not for protection."""
        if self.strength < 0.8:
            return (f"strength {self.strength:g} is light: recognisers see through it",)
        return ()

    @torch.no_grad()
    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """One forward pass; the facts name the synthetic identity of each face."""
        codes = identity_codes(models)
        chosen = self._chosen(faces, models, random, landmarks)
        strength = torch.full((len(faces),), float(self.strength), device=models.device)
        batch = faces.to(models.device, memory_format=torch.channels_last)
        made = models.embedding(batch, codes[chosen.to(models.device)], strength)
        facts = tuple({"identity": int(i)} for i in chosen)
        return Deidentified(made.to(faces.device).contiguous(), facts)

    def _chosen(
        self,
        faces: Tensor,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Tensor:
        """Per face the number of its synthetic identity."""
        if self.identity is not None:
            count = len(models.identities("dlib"))
            if self.identity >= count:
                raise OptionError(f"identity must lie between 0 and {count - 1}")
            return torch.full((len(faces),), self.identity)
        own = models.recognizer("dlib").embed(faces, landmarks)
        near = lookalikes(own, models, CANDIDATES)
        draws = [int(torch.randint(near.shape[1], (1,), generator=g)) for g in random]
        return near[torch.arange(len(faces)), torch.tensor(draws)]
