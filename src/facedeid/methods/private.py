"""Private-Encoder: one forward pass to the likeness that is asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.inversion import Detail, Spared, invert
from facedeid.methods.base import Deidentified, Method, number, word
from facedeid.models import CODED
from facedeid.nets.private_encoder import residue
from facedeid.weights import shipped

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["FILE", "JUDGE", "PrivateEncoding"]

FILE = "facedeid-private-encoder.safetensors"
NO_LIKENESS = 0.2
"""The highest level that asks for somebody else."""
JUDGE = "facedeid-mobile"
"""Measures similarities, asked-for and in the report; it was not used in training."""


def _curve() -> tuple[list[float], list[float]]:
    """β from 0 to 1 and the mean similarity that the judge measured (held-out photos).

    Raises:
        OptionError: the network's file says nothing of it.
    """
    with safe_open(str(shipped(FILE)), "pt") as file:
        points = json.loads((file.metadata() or {}).get("facedeid", "{}")).get("similarity")
    if not points:
        raise OptionError("target_similarity: the network that ships was not calibrated; use beta")
    levels, found = zip(*sorted(points), strict=True)
    return list(levels), np.maximum.accumulate(found).tolist()


@dataclass(frozen=True, kw_only=True)
class PrivateEncoding(Method):
    """Zhao et al. 2022, with a network that takes the level as an input (its card says more).

    `beta` from 0 (private) to 1 (the same person). `target_similarity` in its place: the mean
    cosine similarity to the original that facedeid-mobile is to measure, by the curve that comes
    with the network. `detail`: see `facedeid.inversion`; "none" is the paper's. With "kept", `tone`
    keeps the photo's light and skin tone, and `spared` are the features that stay the photo's; the
    network was trained with the defaults.
    """

    name: ClassVar[str] = "private-encoder"
    summary: ClassVar[str] = "one forward pass to a level of likeness, from 0 to 1"
    source: ClassVar[str] = "Zhao et al. 2022"
    beta: float | None = None
    target_similarity: float | None = None
    detail: Detail = "kept"
    tone: bool = True
    spared: Spared = "forehead-eyes-mouth"

    def __post_init__(self) -> None:
        if self.beta is not None and self.target_similarity is not None:
            raise OptionError("beta and target_similarity exclude each other: give one of them")
        if self.beta is not None:
            number("beta", self.beta, 0, 1)
        if self.target_similarity is not None:
            number("target_similarity", self.target_similarity, -1, 1)
        word("detail", self.detail, Detail)
        word("spared", self.spared, Spared)

    @property
    def varies(self) -> bool:
        """It draws nothing."""
        return False

    @property
    def again(self) -> tuple["PrivateEncoding", ...]:
        """Where no likeness is asked for: level 0, then nothing spared, then not even the light."""
        if self.level > NO_LIKENESS or self.detail == "none":
            return ()
        now = replace(self, beta=self.level, target_similarity=None)
        private = replace(now, beta=0.0)
        free = replace(private, spared="none")
        return tuple(m for m in (private, free, replace(free, tone=False)) if m != now)

    @property
    def carry(self) -> Literal["replace", "change"]:
        """What the generator cannot draw stays, unless the paper's way is asked for."""
        return "replace" if self.detail == "none" else "change"

    @property
    def level(self) -> float:
        """β of the forward pass."""
        if self.target_similarity is None:
            return 0.0 if self.beta is None else self.beta
        levels, found = _curve()
        return float(np.interp(self.target_similarity, found, levels))

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The network was trained against these."""
        return CODED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Levels at which people stay recognisable."""
        if self.level > NO_LIKENESS:
            return (f"beta {self.level:.2g} keeps likeness: recognisers still match many faces",)
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
        """One forward pass; the facts say which similarity was asked for and which is measured."""
        batch, beta = faces.to(models.device), self.level
        pair = models.pair()
        network = models.landmarks if self.detail == "kept" else None
        found = invert(pair, batch, landmarks, network, tone=self.tone, spared=self.spared)
        levels = torch.full((len(batch),), beta, device=models.device)
        codes = pair.likely(models.private_encoder(batch, levels), found.codes)
        kept = float(residue(levels[0]))
        made = found.registered(pair.decode(codes), self.detail, kept)
        result = found.full(batch, made, self.detail, kept)
        judge = models.recognizer(JUDGE)
        own, after = (
            judge.embed(x, found.landmarks)
            for x in (found.cover, found.shown(made, self.detail, kept))
        )
        measured = F.cosine_similarity(own, after).tolist()
        wanted = self.target_similarity
        asked = {} if wanted is None else {"asked_similarity": wanted}
        facts = [{"beta": round(beta, 4), **asked, "similarity": round(m, 4)} for m in measured]
        return Deidentified(result.to(faces.device).contiguous(), tuple(facts))
