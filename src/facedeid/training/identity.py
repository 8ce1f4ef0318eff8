"""`facedeid-identity`: one network that gives a face any identity vector, after IdentityDP.

Wen et al. 2022 (stage I), made compact: the identity is dlib's vector, centred and normalised. A
step mixes faces with their own vector (to be left as they are), with other people's, with those of
synthetic people, with noisy ones and with directions that nobody has: Laplace noise with a small
budget gives such directions, and the network must make a plausible stranger of each.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import TrainingError
from facedeid.losses import ssim
from facedeid.methods.identity import COLOUR
from facedeid.models import CODED, Models, Recognizer
from facedeid.nets.aei import IdentityNet
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
)

__all__ = ["IdentityRecipe", "IdentityTask"]


@dataclass(frozen=True, kw_only=True)
class IdentityRecipe:
    """Hyper-parameters of `facedeid-identity`."""

    name: ClassVar[str] = "identity-dp"
    summary: ClassVar[str] = "gives a face any identity vector (facedeid-identity)"
    side: ClassVar[int] = IdentityNet.SIDE
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}

    steps: int = 2800
    batch: int = 12
    lr: float = 1.2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay_from: float = 0.2
    ema: float = 0.998
    width: float = 1.0
    doublings: int = 2
    limit: float = 0.5
    shares: tuple[float, ...] = (0.12, 0.22, 0.24, 0.24, 0.18)
    """Of faces with their own vector, another person's, a synthetic person's, a random direction,
    and their own with noise."""
    identity: float = 12.0
    """Weight of both identity terms, mean over the recognisers."""
    margin: float = 1.15
    """Of `MARGINS`: how many times as far a stranger is to be from oneself."""
    stranger: float = 0.5
    """Cosine to one's own vector up to which an identity counts as another one in full."""
    reconstruction: float = 5.0
    """Weight of the squared change of faces that get their own vector (half of 10)."""
    perceptual: float = 4.0
    structure: float = 2.2
    pixels: float = 2.0
    """Weight of the squared change, five times that at the eyes and the upper lip."""
    outside: float = 10.0
    """Weight of the squared change outside the face."""
    colour: float = 400.0
    """Weight of the squared change of colour beside brightness."""
    kept: float = COLOUR
    """Share of that change which the losses see, as the method keeps it."""
    common: float = 100.0
    """Weight of the mean product of the changes of different faces."""
    drift: float = 60.0
    """Weight of what is common to the changes of the photos' features (`prepared.drift`)."""
    shade: float = 30.0
    """Weight of the squared change of 8×8 px means: pale faces, dark pits."""
    landmarks: float = 0.3
    """Weight of a pixel (of the 256 frame) by which chin, nose, eyes and mouth move."""
    adversarial: float = 1.0
    adversary_from: int = 200
    """Step at which the adversary begins to weigh; after twice that it does in full."""
    critic: Critic = "patches"
    """Which one of `Rivals`."""
    continued: bool = False
    """Whether to begin with the network that ships instead of a new one."""
    guides: tuple[str, ...] = CODED
    """Recognisers in the loss, dlib among them."""
    together: int = 2
    """Guides in one step, in turn."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "IdentityTask":
        """Everything the loop needs; teachers are the files of LPIPS-AlexNet (or none)."""
        if len(self.shares) != 5 or min(self.shares) < 0 or not sum(self.shares):
            raise TrainingError("shares must be five numbers from 0 up, not all 0")
        if not -1 <= self.stranger < 1:
            raise TrainingError(f"stranger is a cosine below 1, got {self.stranger:g}")
        comparable(self.batch)
        models, guides, distance = networks(self.name, self.guides, teachers, device)
        return IdentityTask(self, data, models, guides, distance, out, device, seed)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What faces are to become: unit vectors, embeddings per guide, and how far from themselves."""

    unit: Tensor
    target: Mapping[str, Tensor]
    change: Tensor
    """0: the vector is the face's own; 1: it is a stranger's."""


class IdentityTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: IdentityRecipe,
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
        self.training, self._held_out = Prepared.parts(data, guides, out)
        with seeded(seed):
            net = IdentityNet(width=recipe.width, doublings=recipe.doublings, limit=recipe.limit)
            self.model: nn.Module = Rivals(net, recipe.critic, distance)
        net.centre = self.training.own["dlib"].mean(0)
        if recipe.continued:
            go_on(net, models.identity)
        self.net = net

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, "identity-dp", step)
        batch = self.training.draw(r.batch, random, self.device)
        wanted = self._wanted(self.training, batch, random)
        cover = batch.cover
        whole = model(cover, wanted.unit).float()
        made = self._within(batch, whole)
        change = made - cover
        careful = 1 + 4 * around(batch.landmarks, cover.shape[-1], CAREFUL).to(self.device)
        kept = 1 - wanted.change
        parts = {
            "identity": r.identity
            * lead(
                in_turn(self.guides, r.together, step),
                made,
                batch,
                wanted.target,
                wanted.change,
                random,
                margin=r.margin,
            ),
            "reconstruction": r.reconstruction * (kept * change.square().flatten(1).mean(1)).mean(),
            "perceptual": r.perceptual * ((1 + 3 * kept) * self.distance(cover, made)).mean(),
            "structure": r.structure * ((1 + 3 * kept) * (1 - ssim(cover, made))).mean(),
            "pixels": r.pixels * (careful * change.square()).mean(),
            "outside": r.outside * ((1 - batch.mask) * (whole - cover).square()).mean(),
            "colour": r.colour * tint(change).square().mean(),
            "common": r.common * alike(change),
            "drift": r.drift * drift(self.distance, cover, made),
            "shade": r.shade * shade(change),
            "landmarks": r.landmarks * displaced(self.models, cover, made).mean(),
        }
        fooling, critic = adversarial(self.model.get_submodule("critic"), cover, made)
        parts["fooling"] = r.adversarial * ramp(step, r.adversary_from) * fooling
        parts["critic"] = critic
        loss = torch.stack(list(parts.values())).sum()
        return loss, numbers(parts)

    def _wanted(self, source: Prepared, batch: Batch, random: torch.Generator) -> _Wanted:
        """Draw a kind of identity for each face of a batch."""
        count = len(batch.rows)
        shares = torch.tensor(self.recipe.shares, dtype=torch.float32)
        kinds = torch.multinomial(shares, count, replacement=True, generator=random)
        own = self.net.unit(batch.own["dlib"])
        people = self.net.unit(self.models.identities("dlib"))
        direction = F.normalize(torch.randn(own.shape, generator=random)).to(self.device)
        amount = 0.15 * 20 ** torch.rand(count, 1, generator=random).to(self.device)
        others = torch.randint(len(source), (count,), generator=random)
        chosen = torch.randint(len(people), (count,), generator=random).to(self.device)
        other = {name: vectors[others].to(self.device) for name, vectors in source.own.items()}
        choices = (
            own,
            self.net.unit(other["dlib"]),
            people[chosen],
            direction,
            F.normalize(own + amount * direction),
        )
        rows = torch.arange(count, device=self.device)
        unit = torch.stack(choices)[kinds.to(self.device), rows]
        nearest = (unit @ people.T).argmax(1)
        real, itself = (kinds == 1)[:, None].to(self.device), (kinds == 0)[:, None].to(self.device)
        target = {}
        for name, vectors in batch.own.items():
            synthetic = self.models.identities(name)[nearest]
            found = torch.where(real, other[name], synthetic)
            target[name] = torch.where(itself, vectors, found)
        likeness = (unit * own).sum(1)
        return _Wanted(unit, target, ((1 - likeness) / (1 - self.recipe.stranger)).clamp(0, 1))

    def _within(self, batch: Batch, made: Tensor) -> Tensor:
        """A share of the colours, inside the face."""
        return batch.within(retoned(batch.cover, made, brightness=1.0, colour=self.recipe.kept))

    def finish(self, model: nn.Module) -> None:
        """The adversary is not exported."""
        del model.critic

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of up to 96 photos of people held out, with random directions: rejected by each guide,
        and what it cost; with other people's vectors: how often the result is nearer to those by
        dlib; and the structural similarity that remains with one's own.
        """
        source = self._held_out
        if source is None:
            return {}
        random = stream(self.seed, "identity-dp", "test")
        found: dict[str, list[Tensor]] = {}

        def note(name: str, values: Tensor) -> None:
            found.setdefault(name, []).append(values.float())

        for batch in source.samples(96, random, self.device):
            own = self.net.unit(batch.own["dlib"])
            direction = F.normalize(torch.randn(own.shape, generator=random)).to(self.device)
            made = self._within(batch, model(batch.cover, direction))
            for recognizer in self.guides:
                vectors = recognizer.embed(made, batch.landmarks)
                far = rejected(recognizer, vectors, batch.own[recognizer.name])
                if far is not None:
                    note(f"rejected {recognizer.name}", far)
            note("ssim", ssim(batch.cover, made))
            note("perceptual", self.distance(batch.cover, made))
            dlib = next(r for r in self.guides if r.name == "dlib")
            swapped = self._within(batch, model(batch.cover, own.roll(1, 0)))
            vectors, mine = dlib.embed(swapped, batch.landmarks), batch.own["dlib"]
            theirs = mine.roll(1, 0)
            if len(mine) > 1:
                note("swapped", dlib.distance(vectors, theirs) < dlib.distance(vectors, mine))
            note("own ssim", ssim(batch.cover, self._within(batch, model(batch.cover, own))))
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Faces; with their own, the next one's, and a random identity: 3×H×W uint8."""
        source, random = self._held_out or self.training, stream(0, "grid")
        batch = next(source.samples(12, random, self.device))
        own = self.net.unit(batch.own["dlib"])
        direction = F.normalize(torch.randn(own.shape, generator=random)).to(self.device)
        net = copy.deepcopy(self.model).eval()
        rows = [batch.cover]
        rows += [self._within(batch, net(batch.cover, u)) for u in (own, own.roll(1, 0), direction)]
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "guides": [r.name for r in self.guides],
            "lpips_on": self.distance.kind,
            "photos": len(self.training),
            "parameters": sum(p.numel() for p in self.net.parameters()),
        }
