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
"""Further attempts before a face is given up."""
FAR = 0.8
"""Farther from oneself (dlib's scale; 0.6 is another person) is not worth a visible change."""
CHANGE = 3.0
UNLIKE = 0.5
BEARD = 3.0
"""What a visible change, a synthetic person unlike the face, and a darker upper lip (a moustache
where there was none) weigh beside distance."""


@dataclass(frozen=True, kw_only=True)
class FeatureEmbedding(Method):
    """Hanawa, Ito and Aoki 2024, section 3, with the network that ships (its card says more).

    `strength` from 0 (nothing) to 1; `identity` is the number of a synthetic identity of the bank,
    the same for every face, or None: each face draws `tries` of the 128 most like it, and gets the
    one that suits it best and shows least (no moustache where there was none) among those that
    take it far enough from itself under dlib's recogniser (which the network was trained against;
    no other recogniser is asked). In an `album`, a person whom dlib recognises from an earlier
    photo gets the same synthetic identity again (`Models.album` remembers, in memory only).
    """

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features; looks natural"
    source: ClassVar[str] = "Hanawa et al. 2024"
    strength: float = 1.0
    identity: int | None = None
    tries: int = 8
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
            unlike = dlib.distance(own, models.identities("dlib")[identities]).cpu()
            change = models.perceptual(batch, made.to(models.device)).cpu()
            shown = CHANGE * change + UNLIKE * unlike
            shown = shown + BEARD * _upper_lip(faces - made, landmarks).relu().cpu()
            score = distance.clamp_max(FAR) - shown
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


def _upper_lip(change: Tensor, landmarks: Tensor | None) -> Tensor:
    """Mean of a change N×3×S×S between nose and mouth, by landmarks N×68×2: N; 0 without them."""
    if landmarks is None:
        return change.new_zeros(len(change))
    means = []
    for one, points in zip(change, landmarks.tolist(), strict=True):
        (left, _), (right, _) = points[49], points[53]
        nose, lip = points[33][1], points[51][1]
        columns = slice(max(0, round(left)), max(0, round(right)) + 1)
        rows = slice(max(0, round((3 * nose + lip) / 4)), max(0, round(lip)) + 1)
        area = one[:, rows, columns]
        means.append(area.mean() if area.numel() else one.new_zeros(()))
    return torch.stack(means)


def _facts(chosen: Tensor) -> tuple[dict[str, int], ...]:
    return tuple({"identity": int(i)} for i in chosen)
