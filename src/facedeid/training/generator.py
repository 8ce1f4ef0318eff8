"""`facedeid-generator` as a GAN: StyleGAN2 with adaptive augmentation. A job for a GPU.

Karras et al. 2020 (StyleGAN2: non-saturating loss, R1, style mixing, averaged weights) and 2020
(ADA: the strength of augmentation follows how sure the discriminator is of real photos). Without
path length regularisation: it pays for projection into large generators, and costs a quarter.
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
from facedeid.evaluation.realism import frechet
from facedeid.models import Models, Recognizer
from facedeid.nets.style_pair import (
    CHANNELS,
    STYLE,
    compact_discriminator,
    compact_generator,
)
from facedeid.nets.stylegan2 import Generator, mix
from facedeid.random import seeded, stream
from facedeid.training.augment import Chance, augmented
from facedeid.training.data import Faces
from facedeid.training.prepared import judged, numbers, r1, sheet

__all__ = ["Draw", "GeneratorRecipe", "GeneratorTask", "Sampling", "contest", "drawn", "lazily"]

PENALTY_EVERY = 16
SAMPLES = 500
"""Of an evaluation."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What samples are made of: z and another z, N×D each, the layer from which on the style is the
    other's, N, and noise.
    """

    z: Tensor
    other: Tensor
    cut: Tensor
    noise: Sequence[Tensor]

    @classmethod
    def of(
        cls,
        generator: Generator,
        count: int,
        mixing: float,
        random: torch.Generator,
        device: torch.device,
    ) -> "Draw":
        """So many samples, of which the share `mixing` has two styles."""
        z, other = torch.randn(2, count, STYLE, generator=random).to(device)
        cut = torch.randint(1, generator.n_latent, (count,), generator=random)
        mixed = torch.rand(count, generator=random) < mixing
        noise = generator.draw_noise(count, random)
        return cls(z, other, torch.where(mixed, cut, generator.n_latent).to(device), noise)

    def made(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """The samples, N×3×S×S, and their styles N×L×D."""
        w = generator.widen(generator.latent(self.z))
        other = generator.widen(generator.latent(self.other))
        late = torch.arange(w.shape[1], device=w.device) >= self.cut[:, None]
        styles = torch.where(late[..., None], other, w)
        faces: Tensor = generator(styles, noise=self.noise)
        return faces, styles


def drawn(photos: Faces, count: int, random: torch.Generator, device: torch.device) -> Tensor:
    """Some photos, half of them mirrored: N×3×S×S in [-1, 1]."""
    rows = torch.randint(len(photos), (count,), generator=random)
    real = photos.images[rows].to(device).float() / 127.5 - 1
    flip = torch.rand(count, generator=random) < 0.5
    return torch.where(flip.to(device)[:, None, None, None], real.flip(-1), real)


def contest(
    critic: nn.Module,
    real: Tensor,
    made: Tensor,
    chance: Chance,
    random: torch.Generator,
    *,
    penalty: float,
) -> dict[str, Tensor]:
    """The non-saturating losses of generator (`fooling`) and critic (`real`, `made`, `r1`), after
    adaptive augmentation.

    Args:
        critic: N×3×S×S -> N×1 logits.
        real: photos, N×3×S×S in [-1, 1].
        made: samples, as many or not.
        chance: the probability of augmentation; is told what the critic thinks of photos.
        random: of the augmentation.
        penalty: weight of R1; 0 in steps without it.
    """
    fooled = judged(critic, augmented(made, chance.p, random))
    seen = augmented(real, chance.p, random)
    if penalty:
        seen = seen.detach().requires_grad_()
    scores = critic(seen)
    chance.saw(scores)
    parts = {
        "fooling": F.softplus(-fooled).mean(),
        "real": F.softplus(-scores).mean(),
        "made": F.softplus(critic(augmented(made.detach(), chance.p, random))).mean(),
    }
    if penalty:
        parts["r1"] = penalty * r1(scores, seen)
    return parts


def lazily(gamma: float, step: int) -> float:
    """Weight of R1 in a step: it is paid every 16 steps, for all of them."""
    return 0.0 if step % PENALTY_EVERY else PENALTY_EVERY * gamma / 2


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What recipes with StyleGAN2's discriminator have in common."""

    r1: float = 1.0
    """γ, of the penalty that is paid every 16 steps."""
    mixing: float = 0.9
    """Share of faces with two styles."""
    target: float = 0.6
    """Share of real photos that the discriminator should be sure of, less that of the others."""
    horizon: int = 100_000
    """Photos after which the probability of augmentation may have gone from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(Sampling):
    """Hyper-parameters of the GAN."""

    name: ClassVar[str] = "generator"
    summary: ClassVar[str] = "a compact StyleGAN2, with adaptive augmentation (GPU)"
    side: ClassVar[int] = max(CHANNELS)
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}

    steps: int = 150_000
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.0
    warmup: int = 0
    decay_from: float = 0.9
    ema: float = 0.999

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "GeneratorTask":
        """Everything the loop needs; there are no teachers."""
        if teachers:
            raise TrainingError(f"--teacher {' '.join(teachers)}: a generator has no teacher")
        try:
            judge = Models(str(device)).recognizer("facedeid-mobile")
            _ = judge.net
        except (FacedeidError, OSError) as error:
            raise TrainingError(f"generator cannot read its judge: {error}") from error
        return GeneratorTask(self, data, judge, device, seed)


class _Gan(nn.Module):
    """Generator and discriminator."""

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.generator = compact_generator()
        self.critic = compact_discriminator()
        self.register_buffer("centre", torch.zeros(STYLE))

    def forward(self, draw: Draw) -> Tensor:
        """Faces of random styles."""
        return draw.made(self.generator)[0]


class GeneratorTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: GeneratorRecipe,
        data: Faces,
        judge: Recognizer,
        device: torch.device,
        seed: int,
    ) -> None:
        self.recipe, self.judge, self.device, self.seed = recipe, judge, device, seed
        self.photos = data.part(held_out=False)
        try:
            self._held_out: Faces | None = data.part(held_out=True)
        except TrainingError:
            self._held_out = None
        self.chance = Chance(recipe.target, recipe.horizon)
        with seeded(seed):
            self.gan = _Gan()
        self.model: nn.Module = self.gan

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step of both networks."""
        r, random = self.recipe, stream(self.seed, self.recipe.name, step)
        real = drawn(self.photos, r.batch, random, self.device)
        draw = Draw.of(self.gan.generator, r.batch, r.mixing, random, self.device)
        parts = contest(
            self.gan.critic,
            real,
            model(draw).float(),
            self.chance,
            random,
            penalty=lazily(r.r1, step),
        )
        loss = torch.stack(list(parts.values())).sum()
        return loss, {**numbers(parts), "p": self.chance.p}

    @property
    def rate_factor(self) -> float:
        """The rate follows the recipe alone."""
        return 1.0

    def after(self, step: int) -> Mapping[str, float]:
        """Augmentation is turned up or down."""
        self.chance.adapt(step, self.recipe.batch)
        return {}

    def state(self) -> dict[str, Any]:
        """The probability of augmentation."""
        return self.chance.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.chance.restore(state)

    def finish(self, model: nn.Module) -> None:
        """The discriminator is not exported; the mean latent is."""
        assert isinstance(model, _Gan)
        del model.critic
        model.centre = model.generator.mean_latent(random=stream(0, "mean latent"))[0]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Fréchet distance of up to 500 photos held out to as many samples, over facedeid-mobile's
        embeddings; aligned by the mean face's landmarks, as samples have none.
        """
        if self._held_out is None or len(self._held_out) < 2:
            return {}
        photos = [
            self.judge.embed(images.float() / 127.5 - 1).cpu()
            for images in torch.split(self._held_out.images[:SAMPLES], 50)
        ]
        count = min(SAMPLES, len(self._held_out))
        made = [self.judge.embed(part).cpu() for part in self._samples(model, count)]
        return {"frechet over facedeid-mobile": frechet(torch.cat(made), torch.cat(photos))}

    def _samples(self, model: nn.Module, count: int) -> list[Tensor]:
        assert isinstance(model, _Gan)
        generator, random = model.generator, stream(self.seed, "samples")
        z = torch.randn(count, STYLE, generator=random).to(self.device)
        return [generator(generator.latent(part)).clamp(-1, 1) for part in torch.split(z, 25)]

    @torch.no_grad()
    def grid(self) -> Tensor:
        """24 samples, and 12 whose coarse styles are of one face, fine ones of another."""
        generator = copy.deepcopy(self.gan.generator).eval()
        z = torch.randn(24, STYLE, generator=stream(0, "grid")).to(self.device)
        w = generator.widen(generator.latent(z))
        rows = [w[:12], w[12:], mix(w[:12], w[12:], 4)]
        return sheet([generator(row) for row in rows])

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "photos": len(self.photos),
            "parameters": sum(p.numel() for p in self.gan.generator.parameters()),
        }
