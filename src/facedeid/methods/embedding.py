"""Feature embedding: a network that embeds a synthetic person's features into the face."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.inversion import scaled
from facedeid.losses import displacement
from facedeid.methods.base import Deidentified, Method
from facedeid.models import CODED, identity_codes, lookalikes
from facedeid.nets.hiding import EmbeddingNet
from facedeid.nets.residual import repeated, retoned, small
from facedeid.nets.speed import fast_bf16

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["FeatureEmbedding"]

CANDIDATES = 128
"""A face gets one of so many synthetic identities, those most like it: as in training."""

TOGETHER = 16
"""Tries in one forward pass, of all faces."""
RETRIES = 4
"""Further attempts before a face is given up."""
COLOUR = 0.3
"""Share of what the network changes beside brightness that is kept: more hides more, and shows as
cyan, green and pink tints (docs/results.md)."""
FAR = 0.9
"""Farther from oneself (dlib's scale; 0.6 is another person) is not worth a visible change."""
CHANGE = 3.0
UNLIKE = 0.2
MOVED = 0.08
BEARD = 3.0
"""What a visible change, a synthetic person unlike the face, a pixel (of 256) by which landmarks
move, and a darker upper lip (a moustache where there was none) weigh beside distance."""


@dataclass(frozen=True, kw_only=True)
class FeatureEmbedding(Method):
    """Hanawa, Ito and Aoki 2024, section 3, with the network that ships (its card says more).

    `strength` from 0 (nothing) to 1; `identity` is the number of a synthetic identity of the bank,
    the same for every face, or None: each face draws `tries` of the 128 most like it, and gets the
    one that suits it best and shows least (landmarks stay, no moustache where there was none) among
    those that take it far enough from itself under dlib's recogniser (which the network was trained
    against; no other recogniser is asked). In an `album`, a person whom dlib recognises from an
    earlier photo gets the same synthetic identity again (`Models.album` remembers, in memory only).
    """

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features; looks natural"
    source: ClassVar[str] = "Hanawa et al. 2024"
    strength: float = 1.0
    identity: int | None = None
    tries: int = 12
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
    def varies(self) -> bool:
        """Unless the identity is settled."""
        return not self.album and self.identity is None

    @property
    def again(self) -> tuple[Method, ...]:
        """Other identities may do where these did not."""
        return (self,) * RETRIES if self.varies else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Light changes are for looks, not for protection."""
        if self.strength < 0.8:
            return (f"strength {self.strength:g} is light: recognisers see through it",)
        return ()

    def ready(self, models: "Models") -> None:
        """The bank has the identity that is asked for."""
        known = len(models.identities("dlib"))
        if self.identity is not None and self.identity >= known:
            raise OptionError(f"identity must lie between 0 and {known - 1}, got {self.identity}")

    @torch.no_grad()
    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """The tries at half the frame's side, then what is kept; facts name the identities."""
        batch = faces.to(models.device, memory_format=torch.channels_last)
        self.ready(models)
        chosen = (
            self._chosen(batch, models, random, landmarks)
            if self.identity is None
            else torch.full((len(faces),), self.identity)
        )
        made = self._embedded(batch, chosen, models)
        return Deidentified(
            made.to(faces.device).contiguous(), tuple({"identity": int(i)} for i in chosen)
        )

    def _embedded(self, faces: Tensor, identities: Tensor, models: "Models") -> Tensor:
        """Faces N×3×S×S with one identity each, or with T each: those of the first try first."""
        strength = torch.full((len(identities),), float(self.strength), device=models.device)
        codes = identity_codes(models)[identities.to(models.device)]
        made: Tensor = models.embedding(faces, codes, strength)
        return retoned(repeated(faces, len(made)), made, brightness=1.0, colour=COLOUR)

    def _chosen(
        self,
        faces: Tensor,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Tensor:
        """For each face the number of the identity, of those tried, that does best: N."""
        dlib = models.recognizer("dlib")
        own = dlib.embed(faces, landmarks)
        near = lookalikes(own, models, CANDIDATES)
        order = torch.stack([torch.randperm(near.shape[1], generator=g) for g in random])
        drawn = near.gather(1, order[:, : self.tries])
        if self.album:
            for i, vector in enumerate(own):
                known = models.album.find(vector, dlib)
                if known is not None:
                    drawn[i] = known
        if self.tries > 1:
            best = self._scores(faces, drawn, models, landmarks).argmax(1, keepdim=True)
            drawn = drawn.gather(1, best)
        chosen = drawn[:, 0]
        if self.album:
            for i, vector in enumerate(own):
                known = models.album.find(vector, dlib)  # earlier in this batch, perhaps
                chosen[i] = chosen[i] if known is None else known
                models.album.add(vector, int(chosen[i]))
        return chosen

    def _scores(
        self, faces: Tensor, drawn: Tensor, models: "Models", landmarks: Tensor | None
    ) -> Tensor:
        """How well each identity of N×T suits its face: N×T, the more the better.

        They are tried at half the frame's side and, where that is fast, in bfloat16.
        """
        dlib, kind, side = models.recognizer("dlib"), models.device.type, EmbeddingNet.SIDE
        cover = small(faces, side)
        points = None if landmarks is None else scaled(landmarks, faces.shape[-1], side)
        scores = []
        with torch.autocast(kind, torch.bfloat16, enabled=fast_bf16(kind)):
            own, before = dlib.embed(cover, points), models.landmarks(cover)
            looks = models.perceptual.maps(cover)
            for some in torch.split(drawn.T, max(1, TOGETHER // len(faces))):
                identities = some.flatten()
                each = partial(repeated, count=len(identities))
                made = self._embedded(cover, identities, models)
                places = None if points is None else each(points)
                distance = dlib.distance(each(own), dlib.embed(made, places))
                unlike = dlib.distance(each(own), models.identities("dlib")[identities])
                moved = displacement(each(before), models.landmarks(made), side).mean(1)
                seen = models.perceptual.between(
                    [each(maps) for maps in looks], models.perceptual.maps(made)
                )
                shown = CHANGE * seen + UNLIKE * unlike + MOVED * moved
                shown = shown + BEARD * _upper_lip(each(cover) - made, places).relu()
                scores.append((distance.clamp_max(FAR) - shown).float().cpu().view_as(some))
        return torch.cat(scores).T


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
