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

CANDIDATES = 128
"""A face gets one of so many synthetic identities, those most like it: as in training."""

RETRIES = 4
FAR = 0.8
"""Farther from oneself (dlib's scale; 0.6 is another person) is not worth a visible change."""
WEIGHT = 3.0
"""Of the perceptual distance, beside dlib's."""


@dataclass(frozen=True, kw_only=True)
class FeatureEmbedding(Method):
    """Hanawa, Ito and Aoki 2024, section 3, with the network that ships (its card says more).

    `strength` from 0 (nothing) to 1; `identity` is the number of a synthetic identity of the bank,
    the same for every face, or None: each face draws `tries` of the 128 most like it, and gets the
    one that changes least to the eye among those that take it far enough from itself under dlib's
    recogniser (which the network was trained against; no other recogniser is asked). In an
    `album`, a person whom dlib recognises from an earlier photo gets the same synthetic identity
    again (`Models.album` remembers, in memory only).
    """

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features; looks natural"
    source: ClassVar[str] = "Hanawa et al. 2024"
    strength: float = 1.0
    identity: int | None = None
    tries: int = 6
    album: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise OptionError(f"strength must lie between 0 and 1, got {self.strength:g}")
        if self.identity is not None and self.identity < 0:
            raise OptionError(f"identity is the number of a synthetic person, got {self.identity}")
        if self.album and self.identity is not None:
            raise OptionError("album and identity exclude each other: give one of them")
        if not 1 <= self.tries <= CANDIDATES:
            raise OptionError(f"tries must lie between 1 and {CANDIDATES}, got {self.tries}")

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The network was trained against these."""
        return CODED

    @property
    def retries(self) -> int:
        """Other identities may do where these did not."""
        return 0 if self.album or self.identity is not None else RETRIES

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
        """One forward pass a try; the facts name the synthetic identity of each face."""
        codes, dlib = identity_codes(models), models.recognizer("dlib")
        strength = torch.full((len(faces),), float(self.strength), device=models.device)
        batch = faces.to(models.device, memory_format=torch.channels_last)

        def embedded(identities: Tensor) -> Tensor:
            made: Tensor = models.embedding(batch, codes[identities.to(models.device)], strength)
            return made.to(faces.device).contiguous()

        if self.identity is not None:
            chosen = self._fixed(len(faces), models)
            return Deidentified(embedded(chosen), _facts(chosen))
        own = dlib.embed(faces, landmarks)
        near = lookalikes(own, models, CANDIDATES)
        order = torch.stack([torch.randperm(near.shape[1], generator=g) for g in random])
        drawn = near.gather(1, order[:, : self.tries])
        if self.album:
            for i, vector in enumerate(own):
                known = models.album.find(vector, dlib)
                if known is not None:
                    drawn[i] = known
        best, chosen, highest = faces, drawn[:, 0], torch.full((len(faces),), -torch.inf)
        for identities in drawn.T:
            made = embedded(identities)
            distance = dlib.distance(own, dlib.embed(made, landmarks)).cpu()
            score = distance.clamp_max(FAR) - WEIGHT * models.perceptual(faces, made).cpu()
            better = score > highest
            best = torch.where(better.to(faces.device)[:, None, None, None], made, best)
            chosen = torch.where(better, identities, chosen)
            highest = torch.where(better, score, highest)
        if self.album:
            for vector, identity in zip(own, chosen.tolist(), strict=True):
                models.album.add(vector, identity)
        return Deidentified(best, _facts(chosen))

    def _fixed(self, count: int, models: "Models") -> Tensor:
        known = len(models.identities("dlib"))
        assert self.identity is not None
        if self.identity >= known:
            raise OptionError(f"identity must lie between 0 and {known - 1}")
        return torch.full((count,), self.identity)


def _facts(chosen: Tensor) -> tuple[dict[str, int], ...]:
    return tuple({"identity": int(i)} for i in chosen)
