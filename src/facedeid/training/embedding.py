"""`facedeid-embedding`: one network that embeds a synthetic person's features into a face.

After Hanawa, Ito and Aoki 2024, and beyond it: an ensemble of unlike recognisers, each with a
margin instead of a plain cosine; input diversity before every one of them; a strength that the
user can turn; an adversary against visible artefacts; colours held closer than brightness; and
what is common to all changes penalised, so that the network cannot learn one mask for everybody.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from facedeid.losses import ssim
from facedeid.models import CODED, Models, Recognizer, identity_codes, lookalikes
from facedeid.nets.hiding import Conditioning, EmbeddingNet
from facedeid.nets.lpips import Lpips
from facedeid.nets.residual import retoned, tint
from facedeid.random import seeded, stream
from facedeid.training.data import Faces
from facedeid.training.prepared import (
    CAREFUL,
    Batch,
    Critic,
    Prepared,
    Rivals,
    adversarial,
    alike,
    around,
    comparable,
    displaced,
    drift,
    go_on,
    in_turn,
    lead,
    networks,
    numbers,
    ramp,
    rejected,
    shade,
    sheet,
    word,
)

__all__ = ["EmbeddingRecipe", "EmbeddingTask"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingRecipe:
    """Hyper-parameters of `facedeid-embedding`."""

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features (facedeid-embedding)"
    side: ClassVar[int] = 128
    """Side of the photos in memory; the network works at this size within the 256 frame."""
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}

    steps: int = 5000
    batch: int = 12
    lr: float = 8e-4
    weight_decay: float = 0.01
    warmup: int = 100
    decay_from: float = 0.2
    ema: float = 0.998
    width: float = 0.5
    levels: int = 4
    limit: float = 0.4
    conditioning: str = "film"
    """How the synthetic identity comes in: film (modulation, which ships), tile (the paper's
    tiled image) or both."""
    identity: float = 16.0
    """Weight of both identity terms, mean over the recognisers."""
    perceptual: float = 5.0
    structure: float = 4.8
    pixels: float = 4.0
    """Weight of the squared change, five times that at the eyes (gaze) and the upper lip
    (beards)."""
    colour: float = 60.0
    """Weight of the squared change of colour beside brightness."""
    kept: float = 0.6
    """Share of that change which the losses see; the method keeps half of that."""
    common: float = 100.0
    """Weight of the mean product of the changes of different faces."""
    drift: float = 20.0
    """Weight of what is common to the changes of the photos' features (`prepared.drift`)."""
    landmarks: float = 0.4
    """Weight of a pixel (of the 256 frame) by which chin, nose, eyes and mouth move, by
    `facedeid-landmarks`: expression, gaze and pose."""
    eyes: float = 3.3
    """How much more a pixel of the eyes weighs than one of chin and nose."""
    mouth: float = 1.5
    """The same of the mouth."""
    shade: float = 10.0
    """Weight of the squared change of 8×8 px means: blotches, dark and pale."""
    adversarial: float = 0.4
    adversary_from: int = 200
    """Step at which the adversary begins to weigh; after twice that it does in full."""
    critic: Critic = "patches"
    """Which one of `Rivals`."""
    continued: bool = False
    """Whether to begin with the network that ships instead of a new one."""
    margin: float = 1.15
    """Multiplies the distance to keep from oneself (`prepared.MARGINS`)."""
    lookalikes: int = 128
    """Synthetic identities to choose from: those most like the face, by dlib."""
    guides: tuple[str, ...] = CODED
    """Recognisers in the loss, dlib among them."""
    together: int = 2
    """Guides in one step, in turn; all of them cost much and gain little."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "EmbeddingTask":
        """Everything the loop needs; teachers are the files of LPIPS-AlexNet (or none).

        Raises:
            TrainingError: there is no such conditioning, or a batch of one face.
        """
        word("conditioning", self.conditioning, get_args(Conditioning))
        comparable(self.batch)
        models, guides, distance = networks(self.name, self.guides, teachers, device)
        return EmbeddingTask(self, data, models, guides, distance, out, device, seed)


class EmbeddingTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: EmbeddingRecipe,
        data: Faces,
        models: Models,
        guides: Sequence[Recognizer],
        distance: Lpips,
        out: Path,
        device: torch.device,
        seed: int,
    ) -> None:
        self.recipe, self.device, self.seed = recipe, device, seed
        self.guides, self.models, self.distance = guides, models, distance
        training, held = Prepared.parts(data, guides, out)
        self.training = _Photos.of(training, recipe, models)
        self._held_out = None if held is None else _Photos.of(held, recipe, models)
        self.codes = identity_codes(models)
        with seeded(seed):
            net = EmbeddingNet(
                width=recipe.width,
                levels=recipe.levels,
                limit=recipe.limit,
                conditioning=cast(Conditioning, recipe.conditioning),
            )
            self.model: nn.Module = Rivals(net, recipe.critic, distance)
        if recipe.continued:
            go_on(net, models.embedding)

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, "feature-embedding", step)
        batch, target = self.training.draw(r.batch, random, self.device)
        strength = torch.rand(r.batch, generator=random)
        strength = torch.where(torch.rand(r.batch, generator=random) < 0.5, 1.0, strength)
        strength = strength.to(self.device)
        cover = batch.cover
        made = self._within(batch, model(cover, self.codes[target], strength).float())
        change = made - cover
        places = cover.new_tensor([1, 1, r.eyes, r.mouth])
        careful = 1 + 4 * around(batch.landmarks, cover.shape[-1], CAREFUL).to(self.device)

        parts = {
            "identity": r.identity
            * lead(
                in_turn(self.guides, r.together, step),
                made,
                batch,
                {name: self.models.identities(name)[target] for name in batch.own},
                strength,
                random,
                margin=r.margin,
            ),
            "perceptual": r.perceptual * self.distance(cover, made).mean(),
            "structure": r.structure * (1 - ssim(cover, made)).mean(),
            "pixels": r.pixels * (careful * change.square()).mean(),
            "colour": r.colour * tint(change).square().mean(),
            "shade": r.shade * shade(change),
            "common": r.common * alike(change),
            "drift": r.drift * drift(self.distance, cover, made),
            "landmarks": r.landmarks * (places * displaced(self.models, cover, made)).mean(),
        }
        fooling, critic = adversarial(self.model.get_submodule("critic"), cover, made)
        parts["fooling"] = r.adversarial * ramp(step, r.adversary_from) * fooling
        parts["critic"] = critic
        loss = torch.stack(list(parts.values())).sum()
        return loss, numbers(parts)

    def finish(self, model: nn.Module) -> None:
        """The adversary is not exported."""
        del model.critic

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of up to 96 photos of people held out, at full strength: rejected by each guide, and
        what it cost.
        """
        if self._held_out is None:
            return {}
        random = stream(self.seed, "feature-embedding", "test")
        strangers: dict[str, list[Tensor]] = {}
        costs: dict[str, list[Tensor]] = {"ssim": [], "perceptual": [], "moved": []}
        for batch, target in self._held_out.samples(96, random, self.device):
            made = self._applied(model, batch, target)
            for recognizer in self.guides:
                vectors = recognizer.embed(made, batch.landmarks)
                far = rejected(recognizer, vectors, batch.own[recognizer.name])
                if far is not None:
                    strangers.setdefault(f"rejected {recognizer.name}", []).append(far.float())
            costs["ssim"].append(ssim(batch.cover, made))
            costs["perceptual"].append(self.distance(batch.cover, made))
            costs["moved"].append(displaced(self.models, batch.cover, made))
        return {k: torch.cat(v).mean().item() for k, v in (strangers | costs).items()}

    def _applied(
        self, model: nn.Module, batch: Batch, target: Tensor, strength: float = 1.0
    ) -> Tensor:
        full = torch.full((len(batch.cover),), strength, device=self.device)
        return self._within(batch, model(batch.cover, self.codes[target], full))

    def _within(self, batch: Batch, made: Tensor) -> Tensor:
        """As the method releases it: a share of the colours, inside the face."""
        kept = retoned(batch.cover, made, brightness=1.0, colour=self.recipe.kept)
        return batch.within(kept)

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Covers, at half and at full strength, change ×4: 3×H×W uint8."""
        source = self._held_out or self.training
        batch, target = next(source.samples(12, stream(0, "grid"), self.device))
        net = copy.deepcopy(self.model).eval()
        made = [self._applied(net, batch, target, s) for s in (0.5, 1.0)]
        rows = [batch.cover, *made, (4 * (made[1] - batch.cover)).clamp(-1, 1)]
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "guides": [r.name for r in self.guides],
            "lpips_on": self.distance.kind,
            "photos": len(self.training),
            "parameters": sum(p.numel() for p in self.model.get_submodule("net").parameters()),
        }


@dataclass(frozen=True, eq=False)
class _Photos:
    """Photos, and for each the synthetic identities most like it."""

    prepared: Prepared
    similar: Tensor

    @classmethod
    def of(cls, prepared: Prepared, recipe: EmbeddingRecipe, models: Models) -> "_Photos":
        return cls(prepared, lookalikes(prepared.own["dlib"], models, recipe.lookalikes))

    def __len__(self) -> int:
        return len(self.prepared)

    def draw(
        self, count: int, random: torch.Generator, device: torch.device
    ) -> tuple[Batch, Tensor]:
        """Some photos, and for each the number of a synthetic identity."""
        batch = self.prepared.draw(count, random, device)
        return batch, self._identities(batch, random)

    def samples(
        self, most: int, random: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Batch, Tensor]]:
        """The same of different photos as they are, `most` at most, in batches."""
        for batch in self.prepared.samples(most, random, device):
            yield batch, self._identities(batch, random)

    def _identities(self, batch: Batch, random: torch.Generator) -> Tensor:
        choice = torch.randint(self.similar.shape[1], batch.rows.shape, generator=random)
        return self.similar[batch.rows, choice].to(batch.cover.device)
