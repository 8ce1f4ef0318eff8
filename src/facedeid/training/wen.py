"""IdentityDP's network as its paper trains it (stage I).

Wen et al., "IdentityDP: Differential Private Identification Protection for Face Images",
Neurocomputing 2022, section IV-D (eq. 14-18) and V-C: an AEI-Net fuses the identity of one face
with the attributes of another. `docs/training_recipes.md` has the command and what the paper
leaves open.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import FacedeidError, TrainingError
from facedeid.losses import cosine, mse, ssim
from facedeid.models import Models, Recognizer
from facedeid.nets.aei import AEIConfig, AEINet
from facedeid.nets.patch_discriminator import (
    MultiscaleDiscriminator,
    hinge_fake,
    hinge_generator,
    hinge_real,
)
from facedeid.random import seeded, stream
from facedeid.training.data import Faces
from facedeid.training.prepared import Prepared, judged, numbers, sheet, word

__all__ = ["WenRecipe", "WenTask"]


@dataclass(frozen=True, kw_only=True)
class WenRecipe:
    """Hyper-parameters of the paper, and our choices where it gives none."""

    name: ClassVar[str] = "identity-dp-paper"
    summary: ClassVar[str] = "gives a face another's identity, as Wen et al. 2022 train it"
    side: ClassVar[int] = 256
    """Side of the photos in memory and of the network's; so n = 8 attribute maps."""
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    small: ClassVar[Mapping[str, Any]] = {"batch": 2, "width": 0.125}
    """Settings of a dry run."""

    steps: int = 300_000
    """Ours: about 90 turns of the paper's 27,000 photos."""
    batch: int = 8
    """Ours."""
    lr: float = 4e-4
    weight_decay: float = 0.0
    """0: AdamW is Adam."""
    warmup: int = 0
    decay_from: float = 1.0
    ema: float = 0.999
    """Ours."""
    width: float = 1.0
    """Of the network's channels; 1 is the paper's, smaller is for trials."""
    same: float = 0.2
    """Share of faces that get their own identity, with a reconstruction loss; ours."""
    adversary: str = "log"
    """`log` is eq. 14 (the generator's side as -log D, which does not saturate), `hinge` what
    public code of FaceShifter does."""
    layers: int = 6
    scales: int = 3
    """Of the multi-scale discriminator; ours, as public code has them."""
    attributes: float = 10.0
    identity: float = 5.0
    reconstruction: float = 10.0
    """λ of eq. 18."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "WenTask":
        """Everything the loop needs; the one teacher is `recognizer=NAME`, the identity encoder.

        Raises:
            TrainingError: settings that make no sense; the teacher is missing or unusable.
        """
        word("adversary", self.adversary, ("log", "hinge"))
        if not 0 <= self.same <= 1:
            raise TrainingError(f"--set same={self.same}: a share, from 0 to 1")
        names = [t.removeprefix("recognizer=") for t in teachers if t.startswith("recognizer=")]
        if len(names) != 1 or len(teachers) != 1:
            given = f"--teacher {' '.join(teachers)}: " if teachers else ""
            raise TrainingError(
                f"{given}one network tells identities apart: name it with --teacher "
                "recognizer=NAME (the paper's is an ArcFace network, such as iresnet-50)"
            )
        try:
            encoder = Models(str(device)).recognizer(names[0])
            if not encoder.differentiable:
                raise TrainingError(f"{encoder.name} has no gradients")
        except (FacedeidError, OSError) as error:
            raise TrainingError(f"--teacher {teachers[0]}: {error}") from error
        return WenTask(self, data, encoder, out, device, seed)


class _Pair(nn.Module):
    """The generator and its discriminator."""

    def __init__(self, recipe: WenRecipe, side: int, identity: int) -> None:
        super().__init__()
        config = AEIConfig(size=side, identity=identity, width=recipe.width)
        self.net = AEINet(config)
        self.critic = MultiscaleDiscriminator(layers=recipe.layers, scales=recipe.scales)

    def forward(self, faces: Tensor, identity: Tensor) -> tuple[Tensor, list[Tensor]]:
        made: tuple[Tensor, list[Tensor]] = self.net(faces, identity)
        return made


class WenTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: WenRecipe,
        data: Faces,
        encoder: Recognizer,
        out: Path,
        device: torch.device,
        seed: int,
    ) -> None:
        self.recipe, self.encoder, self.device, self.seed = recipe, encoder, device, seed
        self.training, self._held_out = Prepared.parts(data, [encoder], out)
        with seeded(seed):
            self.model: nn.Module = _Pair(recipe, data.images.shape[-1], encoder.spec.dim)

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Equation 18 and the discriminator's loss; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, self.recipe.name, step)
        batch = self.training.draw(r.batch, random, self.device, plain=True)
        own = F.normalize(batch.own[self.encoder.name])
        others = torch.randint(len(self.training), (r.batch,), generator=random)
        other = F.normalize(self.training.own[self.encoder.name][others].to(self.device))
        same = (torch.rand(r.batch, generator=random) < r.same).to(self.device)
        wanted = torch.where(same[:, None], own, other)
        made, attributes = model(batch.cover, wanted)
        made = made.float()
        kept = self.model.get_submodule("net").get_submodule("encoder")(made)
        found = F.normalize(self.encoder.embed(made, batch.landmarks))
        fooling, critic = self._adversarial(batch.cover, made)
        terms = {
            "adversarial": fooling,
            "attributes": r.attributes * _apart(attributes, kept),
            "identity": r.identity * cosine(found, wanted).mean(),
            "reconstruction": r.reconstruction * 0.5 * (same * mse(made, batch.cover)).mean(),
            "critic": critic,
        }
        total = torch.stack(list(terms.values())).sum()
        return total, numbers(terms)

    def _adversarial(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of generator and discriminator; the former leaves the discriminator alone."""
        critic = self.model.get_submodule("critic")
        fooled = judged(critic, made)
        for_real, for_made = critic(real), critic(made.detach())
        if self.recipe.adversary == "hinge":
            return hinge_generator(fooled), hinge_real(for_real) + hinge_fake(for_made)
        return _log(fooled, 1), _log(for_real, 1) + _log(for_made, -1)

    def finish(self, model: nn.Module) -> None:
        """The discriminator is not exported."""
        del model.critic

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On up to 32 faces held out: reconstruction, and how often a swap is nearer its source."""
        if self._held_out is None:
            return {}
        random = stream(self.seed, self.recipe.name, "test")
        kept, swapped = [], []
        for batch in self._held_out.samples(32, random, self.device, size=8):
            own = F.normalize(batch.own[self.encoder.name])
            kept.append(ssim(batch.cover, model(batch.cover, own)[0]))
            made = model(batch.cover, own.roll(1, 0))[0]
            found = F.normalize(self.encoder.embed(made, batch.landmarks))
            if len(own) > 1:
                swapped.append((cosine(found, own.roll(1, 0)) < cosine(found, own)).float())
        figures = {"own ssim": kept, "swapped": swapped}
        return {name: torch.cat(values).mean().item() for name, values in figures.items() if values}

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Faces, reconstructed, and with the identity of the next: 3×H×W uint8."""
        net = copy.deepcopy(self.model).eval()
        source = self._held_out or self.training
        batch = next(source.samples(8, stream(0, "grid"), self.device))
        own = F.normalize(batch.own[self.encoder.name])
        rows = [batch.cover, net(batch.cover, own)[0], net(batch.cover, own.roll(1, 0))[0]]
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the log and the file of weights."""
        net = self.model.get_submodule("net")
        return {
            "encoder": self.encoder.name,
            "identity_length": self.encoder.spec.dim,
            "photos": len(self.training),
            "parameters": sum(p.numel() for p in net.parameters()),
        }


def _apart(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Eq. 16: half the squared distance of the maps; each map's as a mean over its elements, so
    that the large ones do not drown the others.
    """
    apart = [(a - b).square().mean() for a, b in zip(before, after, strict=True)]
    return 0.5 * torch.stack(apart).sum()


def _log(maps: Sequence[Tensor], sign: int) -> Tensor:
    """-log of the probability that these are real (sign 1) or not (-1), mean over the scales."""
    return torch.stack([F.softplus(-sign * scores).mean() for scores in maps]).mean()
