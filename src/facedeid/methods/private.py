"""Private-Encoder: one forward pass to the likeness that is asked for, or on to somebody else."""

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
from facedeid.inversion import Detail, Inverted, Spared, invert
from facedeid.methods.adversarial import together
from facedeid.methods.base import Deidentified, Method, number, word
from facedeid.methods.retouching import Verdict, retouched
from facedeid.models import CODED
from facedeid.nets.private_encoder import residue
from facedeid.nets.residual import repeated
from facedeid.nets.speed import fast_bf16
from facedeid.nets.style_pair import AXES, StylePair
from facedeid.weights import shipped

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["FILE", "JUDGE", "PrivateEncoding"]

FILE = "facedeid-private-encoder.safetensors"
NO_LIKENESS = 0.2
"""The highest level that asks for somebody else."""
MOST = 64
"""Tries at most."""
TOGETHER = 16
"""Tries in one forward pass, of all faces."""
DRAWN = 0.75
"""Share of the variance of codes that is drawn at level 0."""
RETRIES = 2
"""Further attempts with other people before more is changed."""
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
    with the network. Up to level 0.2, where no likeness is asked for, it goes on from there: of
    what a code has of the photo off the prior's axes only the share of that level stays; `tries`
    people are made for each face, the network's and others drawn around it, in the photo's pose; it
    gets the one that is far from itself under dlib's recogniser and shows few marks
    (`facedeid.methods.retouching`), after `retouch` steps along the gradient of both. With tries 1
    and retouch 0 it does not. `detail`: see `facedeid.inversion`; "none" is the paper's, which has
    none of this. With "kept", `tone` keeps the photo's light and skin tone, and `spared` are the
    features that stay the photo's; the network was trained with the defaults.
    """

    name: ClassVar[str] = "private-encoder"
    summary: ClassVar[str] = "to a level of likeness from 0 to 1, up to 0.2 to somebody else"
    source: ClassVar[str] = "Zhao et al. 2022"
    beta: float | None = None
    target_similarity: float | None = None
    tries: int = 12
    retouch: int = 16
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
        if not 1 <= self.tries <= MOST:
            raise OptionError(f"tries must lie between 1 and {MOST}, got {self.tries}")
        number("retouch", self.retouch, 0, 1000)
        word("detail", self.detail, Detail)
        word("spared", self.spared, Spared)

    @property
    def varies(self) -> bool:
        """Where it draws other people."""
        return self._free and self.tries > 1

    @property
    def _free(self) -> bool:
        """Whether it goes on from the forward pass: not in the paper's way, nor where a likeness is
        asked for.
        """
        asked = self.target_similarity is not None or self.level > NO_LIKENESS
        return not asked and self.detail == "kept" and (self.tries > 1 or self.retouch > 0)

    @property
    def again(self) -> tuple["PrivateEncoding", ...]:
        """Up to level 0.2: other people, level 0, nothing spared, not the light."""
        if self.level > NO_LIKENESS or self.detail == "none":
            return ()
        others = (self,) * RETRIES if self.varies else ()
        now = replace(self, beta=self.level, target_similarity=None)
        private = replace(now, beta=0.0)
        free = replace(private, spared="none")
        more = (private, free, replace(free, tone=False))
        return others + tuple(m for m in more if m != now or now._free != self._free)

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
        """One forward pass, the tries and steps, `together`; the facts say which similarity was
        asked for and which is measured.
        """
        made: list[Tensor] = []
        measured: list[float] = []
        for part in together(len(faces), models) if self._free else [slice(None)]:
            points = None if landmarks is None else landmarks[part]
            done, likeness = self._released(
                faces[part].to(models.device), points, models, random[part]
            )
            made.append(done.to(faces.device))
            measured += likeness
        wanted = self.target_similarity
        asked = {} if wanted is None else {"asked_similarity": wanted}
        level = round(self.level, 4)
        facts = [{"beta": level, **asked, "similarity": round(m, 4)} for m in measured]
        return Deidentified(torch.cat(made), tuple(facts))

    def _released(
        self,
        faces: Tensor,
        landmarks: Tensor | None,
        models: "Models",
        random: Sequence[torch.Generator],
    ) -> tuple[Tensor, list[float]]:
        """Faces N×3×S×S as they are released, and their measured similarities."""
        pair, encoder = models.pair(), models.private_encoder
        assert isinstance(pair, StylePair)
        network = models.landmarks if self.detail == "kept" else None
        found = invert(pair, faces, landmarks, network, tone=self.tone, spared=self.spared)
        levels = torch.full((len(faces),), self.level, device=models.device)
        kept = float(residue(levels[0]))
        start = pair.onto(found.codes, self.level) if self._free else found.codes
        codes = pair.likely(encoder(faces, levels), start, encoder.steady)
        if self._free:
            codes = self._best(found, codes, kept, pair, models, random)
        made = found.registered(pair.decode(codes), self.detail, kept)
        judge = models.recognizer(JUDGE)
        own, after = (
            judge.embed(x, found.landmarks)
            for x in (found.cover, found.shown(made, self.detail, kept))
        )
        result = found.full(faces, made, self.detail, kept)
        return result.contiguous(), F.cosine_similarity(own, after).tolist()

    def _best(
        self,
        found: Inverted,
        codes: Tensor,
        kept: float,
        pair: StylePair,
        models: "Models",
        random: Sequence[torch.Generator],
    ) -> Tensor:
        """For each face the code, of those tried, that does best, retouched: N×L×D. `kept`: the
        residue.

        They are tried at the generator's resolution and, where that is fast, in bfloat16.
        """
        dlib, steady = models.recognizer("dlib"), models.private_encoder.steady
        own, bf16 = dlib.embed(found.cover, found.landmarks), fast_bf16(models.device.type)
        verdict = Verdict(found, dlib, own, kept, bf16)
        if self.tries > 1:
            drawn = torch.stack([torch.randn(self.tries - 1, AXES, generator=g) for g in random], 1)
            drawn, share = drawn.flatten(0, 1).to(codes), DRAWN * (1 - self.level) ** 2
            others = pair.around(repeated(codes, len(drawn)), drawn, share, steady)
            codes = _chosen(verdict, pair, torch.cat([codes, others]), len(codes))
        return retouched(verdict, pair, codes, steady, self.retouch) if self.retouch else codes


def _chosen(verdict: Verdict, pair: StylePair, tried: Tensor, count: int) -> Tensor:
    """Of several codes for each of `count` faces, all of the first try first, the best: N×L×D."""
    scores: list[Tensor] = []
    rows, kind = torch.arange(len(tried)) % count, tried.device.type
    step = max(1, TOGETHER // count) * count
    for some, codes in zip(torch.split(rows, step), torch.split(tried, step), strict=True):
        with torch.autocast(kind, torch.bfloat16, enabled=verdict.bf16):
            made = pair.decode(codes)
        scores.append(verdict.score(made, some))
    best = torch.cat(scores).view(-1, count).argmax(0).cpu()
    return tried.view(-1, count, *tried.shape[1:])[best, torch.arange(count)]
