"""What the pixel-adversarial methods share: recognisers to move away from, the ball, the facts.

All of them change a picture by a few 8-bit levels so that recognisers they know see someone else.
They run on any recogniser that passes gradients on, or on several at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.methods.base import Deidentified, Method, number, toned, word
from facedeid.models import Recognizer, recognizer_name
from facedeid.nets.speed import fast_bf16

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = [
    "Adversarial",
    "Embed",
    "Norm",
    "Surrogates",
    "check_attack",
    "check_gradients",
    "in_cube",
    "together",
]

Norm = Literal["linf", "l2"]

Embed = Callable[[Tensor, Tensor], Tensor]
"""Pictures N×3×S×S in 0..255 and the numbers of their faces in the batch, N -> features N×D."""

UNKNOWN_COSINE = 0.5
"""Threshold (1 - cosine) of recognisers for which none is known; it only weighs an ensemble."""


def check_attack(radius: float, iterations: int, norm: str) -> None:
    """Check what attacks within a radius have in common.

    Raises:
        OptionError: a number lies outside its range, or the norm is unknown.
    """
    number("radius", radius, 0.5, 64)
    number("iterations", iterations, 1, 10_000)
    word("norm", norm, Norm)


def in_cube(candidates: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Clipped to centre ± radius and to 0..255."""
    low, high = (centre - radius).clamp_min(0), (centre + radius).clamp_max(255)
    return torch.maximum(torch.minimum(candidates, high), low)


class Surrogates:
    """Recognisers as one: their embeddings side by side, so that one distance stands for all.

    Each part is divided by the Euclidean distance at which its recogniser draws the line between
    people, and by √(their number): the squared distance of two features is the mean over the
    recognisers of (distance/threshold)², 1 at the threshold. Unit vectors for cosine recognisers;
    dlib's vectors, which have no unit length and share a large common part (1.4 of 1.5), are
    taken as they are: only differences of features count here, and there it cancels.

    Raises:
        OptionError: a recogniser without gradients, or Euclidean without a known threshold.
    """

    def __init__(self, recognizers: Sequence[Recognizer]) -> None:
        self.recognizers = recognizers
        self.weights = [len(recognizers) ** -0.5 / _unit(r) for r in recognizers]

    def features(self, faces: Tensor, landmarks: Tensor | None) -> Tensor:
        """N×3×S×S in [-1, 1], differentiable -> N×D, D the sum of the recognisers' lengths."""
        return self._side_by_side([r.embed(faces, landmarks) for r in self.recognizers])

    def embed(self, landmarks: Tensor | None) -> Embed:
        """`features` of pictures in 0..255, for the loops; in bfloat16 where that is fast."""

        def features(x: Tensor, rows: Tensor) -> Tensor:
            points = None if landmarks is None else landmarks[rows.to(landmarks.device)]
            kind = x.device.type
            with torch.autocast(kind, torch.bfloat16, enabled=fast_bf16(kind)):
                return self.features(x / 127.5 - 1, points).float()

        return features

    def identities(self, models: "Models") -> Tensor:
        """Features of the synthetic identities that ship: M×D.

        Raises:
            OptionError: there are none for one of the recognisers.
        """
        return self._side_by_side([models.identities(r.name) for r in self.recognizers])

    def _side_by_side(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part * w for part, w in zip(parts, self.weights, strict=True)], 1)

    @torch.no_grad()
    def distances(self, a: Tensor, b: Tensor, landmarks: Tensor | None) -> list[dict[str, float]]:
        """Per face and recogniser, the distance of two pictures of it in the frame."""
        found: list[dict[str, float]] = [{} for _ in a]
        for r in self.recognizers:
            apart = r.distance(r.embed(a, landmarks), r.embed(b, landmarks))
            for facts, distance in zip(found, apart.tolist(), strict=True):
                facts[r.name] = round(distance, 5)
        return found


def check_gradients(recognizer: Recognizer) -> None:
    """Check that a recogniser can be moved away from.

    Raises:
        OptionError: it passes no gradients on.
    """
    if not recognizer.differentiable:
        raise OptionError(
            f"{recognizer.name} runs in onnxruntime, which passes no gradients on; adversarial "
            f"methods need them: take another recogniser, or a network that backend=torch can run"
        )


def together(count: int, models: "Models") -> Iterator[slice]:
    """The faces that go through a method at once: on a CPU one, on a GPU all.

    Networks give results that depend, in the last bits, on how many faces they see at once, and
    hundreds of signs of gradients make pictures of that. On a GPU, where single faces would waste
    it, the batch goes together, and its size changes pictures a little.
    """
    size = 1 if models.device.type == "cpu" else count
    return (slice(i, i + size) for i in range(0, count, size))


def _unit(recognizer: Recognizer) -> float:
    """The Euclidean distance of embeddings at the recogniser's threshold."""
    name = recognizer.name
    check_gradients(recognizer)
    cosine = recognizer.spec.metric == "cosine"
    try:
        threshold = recognizer.threshold()
    except OptionError:
        if not cosine:
            raise OptionError(
                f"{name} is Euclidean and no threshold is known: give one with the name, "
                f"'{name}?threshold=1.1'"
            ) from None
        threshold = UNKNOWN_COSINE
    return float((2 * threshold) ** 0.5) if cosine else threshold


@dataclass(frozen=True, kw_only=True)
class Adversarial(Method):
    """Base: `recognizers` are those that the method moves away from, by name."""

    recognizers: tuple[str, ...] = ("dlib",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recognizers", tuple(self.recognizers))
        if not self.recognizers or not all(isinstance(n, str) for n in self.recognizers):
            raise OptionError(f"{self.name}: recognizers must be names, one or more")

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The recognisers, without their options."""
        return tuple(recognizer_name(name) for name in self.recognizers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What such changes are worth."""
        known = ", ".join(self.surrogates)
        return (
            f"{self.name} misleads {known}; recognisers unlike those often still match the face, "
            "and blur, scaling or JPEG wear the change off",
        )

    def ready(self, models: "Models") -> None:
        """The recognisers are here and can be attacked."""
        Surrogates(models.recognizers(self.recognizers))

    def attack(
        self,
        x: Tensor,
        surrogates: Surrogates,
        models: "Models",
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """N×3×S×S in 0..255 on the models' device -> the same, and facts per face."""
        raise NotImplementedError

    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """Attack, `together`; the facts are of the faces as they are released, grey ones grey."""
        surrogates = Surrogates(models.recognizers(self.recognizers))
        made: list[Tensor] = []
        facts: list[Mapping[str, Any]] = []
        for part in together(len(faces), models):
            points = None if landmarks is None else landmarks[part]
            before = faces[part].to(models.device)
            x = (before + 1) * 127.5
            adversarial, said = self.attack(x, surrogates, models, random[part], points)
            after = toned((adversarial / 127.5 - 1).clamp(-1, 1), before)
            reached = (after - before).abs().flatten(1).amax(1).mul(127.5).tolist()
            apart = surrogates.distances(before, after, points)
            for own, levels, distances in zip(said, reached, apart, strict=True):
                facts.append({**own, "levels": round(levels, 3), "distances": distances})
            made.append(after.to(faces.device))
        return Deidentified(torch.cat(made), tuple(facts))
