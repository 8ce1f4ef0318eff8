"""`facedeid-embedding`: one network that embeds a synthetic person's features into a face.

After Hanawa, Ito and Aoki 2024, and beyond it: an ensemble of unlike recognisers, each with a
margin instead of a plain cosine; input diversity before every one of them; a strength that the
user can turn; an adversary against visible artefacts; colours held closer than brightness; and
what is common to all changes penalised, so that the network cannot learn one mask for everybody.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from facedeid.errors import FacedeidError, TrainingError
from facedeid.faces import face_mask, from_landmarks
from facedeid.landmarks import MIRRORED
from facedeid.losses import away_from, ssim, towards
from facedeid.models import CODED, Models, Recognizer, identity_codes, lookalikes
from facedeid.nets.hiding import EmbeddingNet
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.nets.patch_discriminator import (
    MultiscaleDiscriminator,
    hinge_fake,
    hinge_generator,
    hinge_real,
)
from facedeid.random import stream
from facedeid.training.data import Faces
from facedeid.training.degrade import blurred, coloured, shrunk
from facedeid.training.diversity import diverse, jittered_landmarks

__all__ = ["EmbeddingRecipe", "EmbeddingTask"]

MARGINS: Mapping[str, tuple[float, float]] = {"euclidean": (0.95, 0.60), "cosine": (1.0, 0.55)}
"""Distance to keep from oneself, and to come within of the synthetic person, by metric (for the
Euclidean one: dlib's scale)."""
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class EmbeddingRecipe:
    """Hyper-parameters of `facedeid-embedding`."""

    name: ClassVar[str] = "feature-embedding"
    summary: ClassVar[str] = "embeds a synthetic person's features (facedeid-embedding)"
    side: ClassVar[int] = 128
    """Side of the photos in memory; the network works at this size within the 256 frame."""
    bf16: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}

    steps: int = 5000
    batch: int = 12
    lr: float = 1.2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay_from: float = 0.3
    ema: float = 0.998
    width: float = 0.5
    levels: int = 4
    limit: float = 0.4
    identity: float = 6.0
    """Weight of both identity terms, mean over the recognisers."""
    perceptual: float = 3.0
    structure: float = 2.0
    pixels: float = 4.0
    """Weight of the squared change, five times that at the eyes (gaze)."""
    colour: float = 30.0
    """Weight of the squared change of colour beside brightness."""
    common: float = 100.0
    """Weight of the mean product of the changes of different faces."""
    adversarial: float = 0.3
    adversary_from: int = 200
    """Step at which the adversary begins to weigh; after twice that it does in full."""
    lookalikes: int = 128
    """Synthetic identities to choose from: those most like the face, by dlib."""
    guides: tuple[str, ...] = CODED
    """Recognisers in the loss, dlib among them."""
    together: int = 2
    """Guides in one step, in turn; all of them cost much and gain little."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "EmbeddingTask":
        """Everything the loop needs; teachers are the files of LPIPS-AlexNet (or none)."""
        models = Models(str(device))
        try:
            guides = [models.recognizer(name) for name in self.guides]
            parts = [load_file(path) for path in teachers]
            distance = lpips(lpips_state(*parts)) if parts else models.perceptual
        except (FacedeidError, OSError, ValueError) as error:
            raise TrainingError(f"feature-embedding cannot read its networks: {error}") from error
        if "dlib" not in self.guides:
            raise TrainingError("guides must include dlib, which finds the similar identities")
        return EmbeddingTask(self, data, models, guides, distance, out, device, seed)


class _Trainee(nn.Module):
    """The network and its adversary; only the network is exported."""

    def __init__(self, net: EmbeddingNet) -> None:
        super().__init__()
        self.net = net
        self.critic = MultiscaleDiscriminator(layers=2, scales=1, width=24)

    def forward(self, *inputs: Tensor) -> Tensor:
        faces: Tensor = self.net(*inputs)
        return faces


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
        self.guides, self.models = guides, models
        self.distance = distance.requires_grad_(False).to(
            device=device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.training = _Prepared.of(data.part(held_out=False), guides, recipe, models, out / "own")
        try:
            held = data.part(held_out=True)
            self._held_out: _Prepared | None = _Prepared.of(
                held, guides, recipe, models, out / "held-out"
            )
        except TrainingError:
            self._held_out = None
        self.codes = identity_codes(models)
        net = EmbeddingNet(width=recipe.width, levels=recipe.levels, limit=recipe.limit)
        self.model: nn.Module = _Trainee(net)

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, "feature-embedding", step)
        batch = self.training.draw(r.batch, random, self.device)
        strength = torch.rand(r.batch, generator=random)
        strength = torch.where(torch.rand(r.batch, generator=random) < 0.5, 1.0, strength)
        strength = strength.to(self.device)
        cover = batch.cover
        made = model(cover, self.codes[batch.target], strength).float()
        made = cover + batch.mask * (made - cover)
        change = made - cover

        parts = {
            "identity": r.identity
            * self._identity(self._asked(step), made, batch, strength, random),
            "perceptual": r.perceptual * self.distance(cover, made).mean(),
            "structure": r.structure * (1 - ssim(cover, made)).mean(),
            "pixels": r.pixels * (batch.weight * change.square()).mean(),
            "colour": r.colour * _colour(change).square().mean(),
            "common": r.common * _alike(change),
        }
        weight = r.adversarial * min(1.0, max(0.0, (step - r.adversary_from) / r.adversary_from))
        critic = self._critic()
        frozen = {k: v.detach() for k, v in critic.named_parameters()}
        parts["fooling"] = weight * hinge_generator(functional_call(critic, frozen, (made,)))
        loss = torch.stack(list(parts.values())).sum()
        scores = critic(torch.cat([cover, made.detach()]))
        real = [s[: r.batch] for s in scores]
        fake = [s[r.batch :] for s in scores]
        parts["critic"] = hinge_real(real) + hinge_fake(fake)
        loss = loss + parts["critic"]
        return loss, {name: value.item() for name, value in parts.items()}

    def _critic(self) -> nn.Module:
        return self.model.get_submodule("critic")

    def _asked(self, step: int) -> list[Recognizer]:
        """The guides of a step, in turn."""
        count = min(self.recipe.together, len(self.guides))
        return [self.guides[(step * count + i) % len(self.guides)] for i in range(count)]

    def _identity(
        self,
        guides: Sequence[Recognizer],
        made: Tensor,
        batch: "_Batch",
        strength: Tensor,
        random: torch.Generator,
    ) -> Tensor:
        """Away from oneself, towards the synthetic person; mean over recognisers and faces."""
        terms = []
        for recognizer in guides:
            away, near = MARGINS[recognizer.spec.metric]
            own, bank = batch.own[recognizer.name], self.models.identities(recognizer.name)
            target = bank[batch.target]
            seen = diverse(made, random)
            points = jittered_landmarks(batch.landmarks, random)
            vectors = recognizer.embed(seen, points)
            still = recognizer.distance(own, target)
            goal = near + (1 - strength) * (still - near).clamp_min(0)
            terms.append(away_from(recognizer.distance(vectors, own), away * strength).mean())
            terms.append(towards(recognizer.distance(vectors, target), goal).mean())
        return torch.stack(terms).mean()

    def finish(self, model: nn.Module) -> None:
        """The adversary is not exported."""
        del model.critic

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of people held out, at full strength: rejected by each guide, and what it cost."""
        if self._held_out is None:
            return {}
        random, n = stream(self.seed, "feature-embedding", "test"), min(96, len(self._held_out))
        rejected: dict[str, list[Tensor]] = {r.name: [] for r in self.guides}
        costs: dict[str, list[Tensor]] = {"ssim": [], "perceptual": []}
        for _ in range(0, n, 12):
            batch = self._held_out.draw(12, random, self.device, plain=True)
            made = self._applied(model, batch)
            for recognizer in self.guides:
                vectors = recognizer.embed(made, batch.landmarks)
                far = recognizer.distance(vectors, batch.own[recognizer.name])
                rejected[recognizer.name].append(far >= recognizer.threshold("best"))
            costs["ssim"].append(ssim(batch.cover, made))
            costs["perceptual"].append(self.distance(batch.cover, made))
        figures = {f"rejected {k}": torch.cat(v).float().mean().item() for k, v in rejected.items()}
        return figures | {k: torch.cat(v).mean().item() for k, v in costs.items()}

    def _applied(self, model: nn.Module, batch: "_Batch", strength: float = 1.0) -> Tensor:
        full = torch.full((len(batch.cover),), strength, device=self.device)
        made: Tensor = model(batch.cover, self.codes[batch.target], full)
        return batch.cover + batch.mask * (made - batch.cover)

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Covers, at half and at full strength, change ×4: 3×H×W uint8."""
        source = self._held_out or self.training
        batch = source.draw(12, stream(0, "grid"), self.device, plain=True)
        net = copy.deepcopy(self.model).eval()
        made = [self._applied(net, batch, s) for s in (0.5, 1.0)]
        rows = [batch.cover, *made, (4 * (made[1] - batch.cover)).clamp(-1, 1)]
        pictures = [torch.cat(list((row + 1) * 127.5), 2) for row in rows]
        return torch.cat(pictures, 1).round().byte().cpu()

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "guides": [r.name for r in self.guides],
            "photos": len(self.training),
            "parameters": sum(p.numel() for p in self.model.get_submodule("net").parameters()),
        }


@dataclass(frozen=True, eq=False)
class _Batch:
    cover: Tensor
    landmarks: Tensor
    mask: Tensor
    weight: Tensor
    own: Mapping[str, Tensor]
    target: Tensor


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Photos with what does not change: own embeddings, masks, similar synthetic identities."""

    faces: Faces
    masks: Tensor
    own: Mapping[str, Tensor]
    similar: Tensor

    @classmethod
    def of(
        cls,
        faces: Faces,
        guides: Sequence[Recognizer],
        recipe: EmbeddingRecipe,
        models: Models,
        cache: Path,
    ) -> "_Prepared":
        """Work out, or read from `cache`, what the photos need."""
        own = {
            r.name: _embedded(r, faces, cache.with_name(f"{cache.name}-{r.name}.pt"))
            for r in guides
        }
        masks = torch.stack([_mask(points, faces.images.shape[-1]) for points in faces.landmarks])
        return cls(faces, masks, own, lookalikes(own["dlib"], models, recipe.lookalikes))

    def __len__(self) -> int:
        return len(self.faces)

    def draw(
        self, count: int, random: torch.Generator, device: torch.device, *, plain: bool = False
    ) -> _Batch:
        """Some photos, mirrored, relit and blurred now and then unless `plain`."""
        rows = torch.randint(len(self.faces), (count,), generator=random)
        images = self.faces.images[rows].float()
        points, masks = self.faces.landmarks[rows].clone(), self.masks[rows].float() / 255
        if not plain:
            flip = torch.rand(count, generator=random) < 0.5
            images[flip], masks[flip] = images[flip].flip(-1), masks[flip].flip(-1)
            turned = points[flip][:, list(MIRRORED)]
            turned[..., 0] = images.shape[-1] - 1 - turned[..., 0]
            points[flip] = turned
            images = coloured(images, random, share=0.3)
            images = shrunk(images, random, share=0.15, sides=(48, 100))
            images = blurred(images, random, share=0.1, sigma=(0.5, 1.2))
        choice = torch.randint(self.similar.shape[1], (count,), generator=random)
        cover = (images / 127.5 - 1).to(device)
        return _Batch(
            cover.contiguous(memory_format=torch.channels_last),
            points,
            masks[:, None].to(device),
            _eyes(points, images.shape[-1]).to(device),
            {name: vectors[rows].to(device) for name, vectors in self.own.items()},
            self.similar[rows, choice].to(device),
        )


@torch.no_grad()
def _embedded(recognizer: Recognizer, faces: Faces, cache: Path) -> Tensor:
    if cache.exists():
        held: Tensor = torch.load(cache, weights_only=True)
        if len(held) == len(faces):
            return held
    rows = torch.split(torch.arange(len(faces)), CHUNK)
    found = torch.cat(
        [
            recognizer.embed(faces.images[r].float() / 127.5 - 1, faces.landmarks[r]).cpu()
            for r in rows
        ]
    )
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, cache)
    return found


def _mask(points: Tensor, side: int) -> Tensor:
    face = from_landmarks(points.double().numpy())
    return torch.from_numpy(face_mask(face, (side, side)) * 255).round().byte()


def _eyes(points: Tensor, side: int) -> Tensor:
    """Weight of pixels N×1×side×side: 1, rising to 5 at the eyes."""
    grid = torch.stack(torch.meshgrid(2 * [torch.arange(side)], indexing="xy"), -1).float()
    weight = torch.ones(len(points), 1, side, side)
    for eye in (slice(36, 42), slice(42, 48)):
        centre = points[:, eye].mean(1)[:, None, None]
        squared = (grid - centre).square().sum(-1)
        weight += 4 * torch.exp(-squared / (2 * (side / 36) ** 2))[:, None]
    return weight


def _alike(change: Tensor) -> Tensor:
    """Mean product of the changes of different faces, if positive: 0 where they are unlike."""
    count = len(change)
    alike = (change.sum(0).square() - change.square().sum(0)).mean() / (count * (count - 1))
    return alike.relu()


def _colour(change: Tensor) -> Tensor:
    """What of a change N×3×H×W is not brightness."""
    return change - change.mean(1, keepdim=True)
