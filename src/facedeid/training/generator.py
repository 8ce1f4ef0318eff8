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
from facedeid.nets.stylegan2 import mix
from facedeid.random import stream
from facedeid.training.augment import augmented
from facedeid.training.data import Faces
from facedeid.training.prepared import judged, r1, sheet

__all__ = ["GeneratorRecipe", "GeneratorTask"]

PENALTY_EVERY = 16
ADAPT_EVERY = 4
SAMPLES = 500
"""Of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe:
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
    r1: float = 1.0
    """γ, of the penalty that is paid every 16 steps."""
    mixing: float = 0.9
    """Share of faces with two styles."""
    target: float = 0.6
    """Share of real photos that the discriminator should be sure of, less that of the others."""
    horizon: int = 100_000
    """Photos after which the probability of augmentation may have gone from 0 to 1."""

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

    def forward(self, z: Tensor, other: Tensor, cut: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Faces of z N×256, from style `cut` (N) on of the other z."""
        w = self.generator.widen(self.generator.latent(z))
        other = self.generator.widen(self.generator.latent(other))
        late = torch.arange(w.shape[1], device=w.device) >= cut[:, None]
        faces: Tensor = self.generator(torch.where(late[..., None], other, w), noise=noise)
        return faces


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
        self.p = 0.0
        """Probability of each augmentation."""
        self._sure: list[float] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gan = _Gan()
        self.model: nn.Module = self.gan

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step of both networks."""
        r, random = self.recipe, stream(self.seed, self.recipe.name, step)
        rows = torch.randint(len(self.photos), (r.batch,), generator=random)
        real = self.photos.images[rows].to(self.device).float() / 127.5 - 1
        flip = torch.rand(r.batch, generator=random) < 0.5
        real = torch.where(flip.to(self.device)[:, None, None, None], real.flip(-1), real)
        made = model(*self._drawn(r.batch, random)).float()
        critic = self.gan.critic
        fooled = judged(critic, augmented(made, self.p, random))
        seen = augmented(real, self.p, random)
        penalised = step % PENALTY_EVERY == 0
        if penalised:
            seen = seen.detach().requires_grad_()
        scores = critic(seen)
        parts = {
            "fooling": F.softplus(-fooled).mean(),
            "real": F.softplus(-scores).mean(),
            "made": F.softplus(critic(augmented(made.detach(), self.p, random))).mean(),
        }
        if penalised:
            parts["r1"] = PENALTY_EVERY * r.r1 / 2 * r1(scores, seen)
        self._sure.append(scores.detach().sign().mean().item())
        loss = torch.stack(list(parts.values())).sum()
        return loss, {**{k: v.item() for k, v in parts.items()}, "p": self.p}

    def _drawn(self, count: int, random: torch.Generator) -> tuple[Any, ...]:
        """z, other z, where styles change, noise."""
        generator, styles = self.gan.generator, self.gan.generator.n_latent
        z, other = torch.randn(2, count, STYLE, generator=random).to(self.device)
        cut = torch.randint(1, styles, (count,), generator=random)
        mixed = torch.rand(count, generator=random) < self.recipe.mixing
        noise = generator.draw_noise(count, random)
        return z, other, torch.where(mixed, cut, styles).to(self.device), noise

    @property
    def rate_factor(self) -> float:
        """The rate follows the recipe alone."""
        return 1.0

    def after(self, step: int) -> Mapping[str, float]:
        """Turn augmentation up where the discriminator is too sure of real photos, else down."""
        if step % ADAPT_EVERY == 0 and self._sure:
            sure = sum(self._sure) / len(self._sure)
            change = ADAPT_EVERY * self.recipe.batch / self.recipe.horizon
            change = change if sure > self.recipe.target else -change
            self.p = min(max(self.p + change, 0.0), 0.8)
            self._sure.clear()
        return {}

    def state(self) -> dict[str, Any]:
        """The probability of augmentation."""
        return {"p": self.p, "sure": list(self._sure)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.p, self._sure = float(state["p"]), list(state["sure"])

    def finish(self, model: nn.Module) -> None:
        """The discriminator is not exported; the mean latent is."""
        assert isinstance(model, _Gan)
        del model.critic
        model.centre = model.generator.mean_latent(random=stream(0, "mean latent"))[0]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Fréchet distance of samples to photos held out, over facedeid-mobile's embeddings;
        aligned by the mean face's landmarks, as samples have none.
        """
        if self._held_out is None or len(self._held_out) < 2:
            return {}
        photos = [
            self.judge.embed(images.float() / 127.5 - 1).cpu()
            for images in torch.split(self._held_out.images[:SAMPLES], 50)
        ]
        made = [self.judge.embed(part).cpu() for part in self._samples(model, SAMPLES)]
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
