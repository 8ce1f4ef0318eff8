"""`facedeid-lpips`: a compact perceptual distance, distilled from LPIPS on faces.

The student has LPIPS-AlexNet's form, narrower. It starts from AlexNet's channels with the largest
weights in the heads, and learns, in all its layers, the logarithms of the teacher's distances, as
a whole and depth by depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import FacedeidError, TrainingError
from facedeid.models import Models
from facedeid.nets.lpips import CHANNELS, Lpips, lpips, lpips_state
from facedeid.random import stream
from facedeid.training.data import Faces
from facedeid.training.distortions import FAMILIES, Distortions
from facedeid.weights.loading import load_state

__all__ = ["PerceptualRecipe", "PerceptualTask", "inherited"]

EPSILON = 3e-4
"""Added to distances before their logarithm."""


@dataclass(frozen=True, kw_only=True)
class PerceptualRecipe:
    """Hyper-parameters of `facedeid-lpips`."""

    name: ClassVar[str] = "perceptual"
    summary: ClassVar[str] = "compact perceptual distance, distilled from LPIPS (facedeid-lpips)"
    side: ClassVar[int] = 256
    """Side of the photos in memory."""
    bf16: ClassVar[bool] = False
    """Small distances are differences of large numbers."""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"bank": 16}
    """Settings of a dry run."""

    steps: int = 1500
    batch: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 100
    decay_from: float = 0.4
    ema: float = 0.995
    crop: int = 128
    """Side of the windows compared: whole frames and details of them, at several scales."""
    depths: float = 0.5
    """Weight of the loss on each depth's share."""
    bank: int = 192
    """Photos with adversarial residues."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "PerceptualTask":
        """Everything the loop needs; teachers are the files of the LPIPS features and heads."""
        if not teachers:
            raise TrainingError(
                "the perceptual distance is distilled: name LPIPS-AlexNet's safetensors files,"
                " features and heads, with --teacher"
            )
        try:
            teacher = lpips(lpips_state(*[load_state(path) for path in teachers]))
        except (FacedeidError, OSError, ValueError) as error:
            raise TrainingError(f"--teacher {' '.join(teachers)}: {error}") from error
        if teacher.kind != "alex":
            raise TrainingError(f"the teacher must be LPIPS on AlexNet, not on {teacher.kind}")
        return PerceptualTask(self, data, teacher, device, seed)


class PerceptualTask:
    """One training job of the recipe."""

    def __init__(
        self, recipe: PerceptualRecipe, data: Faces, teacher: Lpips, device: torch.device, seed: int
    ) -> None:
        self.recipe, self.device, self.seed = recipe, device, seed
        self.training = data.part(held_out=False)
        self.teacher = teacher.requires_grad_(False).to(
            device=device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.model: nn.Module = inherited(teacher)
        recognizer = Models(str(device)).recognizer("dlib")
        self.distortions = Distortions(self.training, recognizer.embed, seed=seed, bank=recipe.bank)
        try:
            self._held_out: Faces | None = data.part(held_out=True)
        except TrainingError:
            self._held_out = None

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        random = stream(self.seed, "perceptual", step)
        one, two = self._pairs(random)
        with torch.no_grad():
            truth = self.teacher(one, two, by_depth=True)
        found = model(one, two, by_depth=True)
        whole = (_log(found.sum(0)) - _log(truth.sum(0))).abs().mean()
        parts = (_log(found) - _log(truth)).abs().mean()
        return whole + self.recipe.depths * parts, {"whole": whole.item(), "depths": parts.item()}

    def finish(self, model: nn.Module) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Rank correlations with the teacher on photos held out, 48 pairs of each family."""
        if self._held_out is None:
            return {}
        figures, everything = {}, []
        for family in FAMILIES:
            random, count = stream(self.seed, "test", family), 48
            chosen = torch.randint(len(self._held_out), (count,), generator=random)
            clean = self._held_out.images[chosen].float()
            changed = self.distortions.apply(
                family, clean, self._held_out.landmarks[chosen], random
            )
            pair = self._input(clean), self._input(changed)
            both = torch.stack([model(*pair).cpu(), self.teacher(*pair).cpu()])
            figures[family] = _rank_correlation(both)
            everything.append(both)
        return {"mixed": _rank_correlation(torch.cat(everything, 1)), **figures}

    def grid(self) -> Tensor:
        """Photos above what became of them: 3×H×W uint8."""
        one, two = self._pairs(stream(self.seed, "grid"))
        rows = [torch.cat(list((x[:10] + 1) * 127.5), 2) for x in (one, two)]
        return torch.cat(rows, 1).round().byte().cpu()

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "teachers": ["lpips-alex"],
            "photos": len(self.training),
            "people": len(set(self.training.keys)),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _pairs(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two batches N×3×crop×crop in [-1, 1]: windows of photos, and distorted."""
        n, side = self.recipe.batch, self.recipe.crop
        whole = self.training.images.shape[-1]
        chosen = torch.randint(len(self.training), (n,), generator=random)
        share = float(torch.rand(1, generator=random))
        size = round(side + (whole - side) * (0.0 if share < 0.4 else (share - 0.4) / 0.6))
        images = self.training.images[chosen].float()
        points = self.training.landmarks[chosen] * (size / whole)
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        top, left = torch.randint(size - side + 1, (2,), generator=random).tolist()
        images = images[..., top : top + side, left : left + side].round().clamp(0, 255)
        points = points - torch.tensor([left, top])
        parts, share = [], len(FAMILIES)
        for i, family in enumerate(FAMILIES):
            rows = slice(n * i // share, n * (i + 1) // share)
            if rows.stop == rows.start:
                continue
            changed = self.distortions.apply(family, images[rows], points[rows], random)
            if torch.rand(1, generator=random) < 0.25:
                second = FAMILIES[int(torch.randint(share, (1,), generator=random))]
                changed = self.distortions.apply(second, changed, points[rows], random)
            parts.append(changed)
        changed = torch.cat(parts)
        return self._input(images), self._input(changed)

    def _input(self, images: Tensor) -> Tensor:
        x = (images / 127.5 - 1).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)


def inherited(teacher: Lpips) -> Lpips:
    """A compact student that starts from the teacher's most weighted channels."""
    student = Lpips("compact")
    kept = torch.arange(3)
    with torch.no_grad():
        for depth, (tap, width) in enumerate(
            zip((0, 3, 6, 8, 10), CHANNELS["compact"], strict=True)
        ):
            head = teacher.get_submodule(f"lin{depth}").get_parameter("model.1.weight")
            before, kept = kept, head.flatten().topk(width).indices.sort().values
            source, target = teacher.features[tap], student.features[tap]
            assert isinstance(source, nn.Conv2d)
            assert isinstance(target, nn.Conv2d)
            assert source.bias is not None
            assert target.bias is not None
            target.weight.copy_(source.weight[kept][:, before])
            target.bias.copy_(source.bias[kept])
            new = student.get_submodule(f"lin{depth}").get_parameter("model.1.weight")
            new.copy_(head[:, kept])
    return student


def _log(distance: Tensor) -> Tensor:
    return (distance + EPSILON).log()


def _rank_correlation(both: Tensor) -> float:
    """Spearman's, of 2×N without ties to speak of."""
    return torch.corrcoef(both.argsort(1).argsort(1).double())[0, 1].item()
