"""A frozen recogniser: crop, normalisation, network, similarity, thresholds and their origin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facedeid.errors import OptionError
from facedeid.models.crops import Crop
from facedeid.models.onnx import OnnxRuntime

__all__ = ["GIVEN", "Metric", "Recognizer", "RecognizerSpec"]

Metric = Literal["euclidean", "cosine"]

GIVEN = "given"
"""Operating point of a threshold that the user gave: it stands for all the others."""


@dataclass(frozen=True)
class RecognizerSpec:
    """What is known of a recogniser before its weights are read."""

    name: str
    summary: str
    source: str
    licence: str
    dim: int
    metric: Metric
    crop: Crop
    thresholds: Mapping[str, float]
    """Distances below which two faces count as one person: `library` (its customary one, or the
    best where there is no custom), `best` (highest accuracy), `far=1e-3` (one false match in a
    thousand), `mean-impostor` (mean distance of different people, no operating point). Empty:
    none is known."""
    protocol: str
    """Where the thresholds come from."""
    scale: Callable[[Tensor], Tensor]
    """Chips in 0..255 -> the network's input."""
    build: Callable[[], nn.Module]
    """Network with its weights; raises WeightsError."""
    available: Callable[[], bool]
    """Whether `build` will find weights; cheap, nothing is read or hashed."""


class Recognizer:
    """A frozen recogniser on one device."""

    def __init__(self, spec: RecognizerSpec, device: torch.device) -> None:
        self.spec = spec
        self.name = spec.name
        self.device = device

    @cached_property
    def net(self) -> nn.Module:
        """The network, in evaluation mode, without gradients to its weights."""
        net = self.spec.build().to(self.device).eval().requires_grad_(False)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @property
    def differentiable(self) -> bool:
        """Whether `embed` passes gradients on; only ONNX networks may not (see `models.onnx`)."""
        return not isinstance(self.net, OnnxRuntime)

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Differentiable: N×3×S×S canonical faces in [-1, 1] -> N×D embeddings.

        Embeddings are unit vectors where the metric is cosine, raw otherwise.

        Raises:
            OptionError: gradients are wanted of a network that has none.
        """
        chips = self.spec.crop.chips(faces.to(self.device), landmarks)
        return self._finish((chips + 1) * 127.5)

    @torch.no_grad()
    def embed_photo(
        self, rgb: NDArray[np.uint8], landmarks: Sequence[NDArray[np.float64]]
    ) -> Tensor:
        """Embeddings of faces in an H×W×3 photo, cut out at the photo's own resolution: N×D.

        Args:
            rgb: the photo.
            landmarks: per face 68×2, in pixels of the photo.
        """
        if not len(landmarks):
            return torch.zeros(0, self.spec.dim)
        return self.embed_chips(self.spec.crop.chips_from_photo(rgb, landmarks))

    @torch.no_grad()
    def embed_chips(self, chips: Tensor) -> Tensor:
        """Embeddings of what `spec.crop` cut out, N×3×H×W in 0..255: N×D on the CPU."""
        return self._finish(chips.to(self.device)).cpu()

    def _finish(self, chips: Tensor) -> Tensor:
        raw: Tensor = self.net(self.spec.scale(chips))
        return F.normalize(raw) if self.spec.metric == "cosine" else raw

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Row by row, N: Euclidean, or 1 - cosine. Larger is less alike."""
        if self.spec.metric == "euclidean":
            return (a - b).square().sum(-1).clamp_min(0).sqrt()
        return 1 - (a * b).sum(-1)

    def threshold(self, require: str = "library") -> float:
        """The distance below which `require` (library, best, far=...) calls two faces one person.

        Raises:
            OptionError: there is no such operating point for this recogniser.
        """
        known = self.spec.thresholds
        if GIVEN in known:
            return known[GIVEN]
        if require in known:
            return known[require]
        has = f"it has {', '.join(known)}" if known else "none is known"
        unit = "1 - cosine" if self.spec.metric == "cosine" else "Euclidean"
        raise OptionError(
            f"--require {require}: {self.name} has no such operating point; {has}. Measure one on "
            f"photos of known people (tools/lfw_accuracy.py) and give it with the name, as a "
            f"distance ({unit}): '{self.name}?threshold=0.7'"
        )
