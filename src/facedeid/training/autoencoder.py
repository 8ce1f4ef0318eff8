"""`facedeid-generator` and `facedeid-encoder` trained together: an adversarial auto-encoder.

Where no GPU is at hand, a StyleGAN2 of this size cannot be trained as a GAN in any bearable time;
as the decoder of an encoder into W+ it can. The losses on reconstructions are pSp's (Richardson et
al. 2021) with a structural term; the prior on W+ is StyleGAN2's mapping network, which learns,
against a small critic, to give the codes that the encoder gives (as in adversarial auto-encoders,
Makhzani et al. 2016); and StyleGAN2's discriminator judges faces of both. Offsets from one face's
mean style are kept small (as in e4e, Tov et al. 2021), so that codes stay where they can be edited.
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
from facedeid.losses import ssim, towards
from facedeid.models import CODED, Models, Recognizer
from facedeid.nets import load_official
from facedeid.nets.lpips import Lpips
from facedeid.nets.style_pair import CHANNELS, STYLE, StylePair, compact_discriminator
from facedeid.random import stream
from facedeid.training.data import Faces
from facedeid.training.prepared import (
    MARGINS,
    Batch,
    Prepared,
    judged,
    networks,
    r1,
    ramp,
    sheet,
)
from facedeid.weights.loading import load_state

__all__ = ["AutoencoderRecipe", "AutoencoderTask", "EncoderRecipe"]

PENALTY_EVERY = 16
"""Steps from one R1 penalty to the next."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Hyper-parameters of the pair."""

    name: ClassVar[str] = "autoencoder"
    summary: ClassVar[str] = "a compact StyleGAN2 with its W+ encoder, on a CPU"
    side: ClassVar[int] = max(CHANNELS)
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.5, 0.99)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}
    joint: ClassVar[bool] = True
    """Whether the generator learns too."""

    steps: int = 20_000
    batch: int = 8
    lr: float = 1.5e-3
    weight_decay: float = 0.0
    warmup: int = 100
    decay_from: float = 0.5
    ema: float = 0.998
    pixels: float = 2.0
    """Weight of the mean absolute difference."""
    perceptual: float = 2.0
    structure: float = 0.5
    """Weight of 1 - SSIM."""
    identity: float = 0.5
    """Weight of the distance to one's own embedding beyond the margin; one guide a step."""
    offsets: float = 0.05
    """Weight of the mean squared offset of the styles of one face from their mean."""
    prior: float = 0.1
    """Weight of the mapping network's loss before the critic of codes."""
    adversarial: float = 0.1
    adversary_from: int = 1500
    """Step at which discriminator and samples come in; before, they would cost and say little."""
    r1: float = 1.0
    """γ of the penalty on the discriminator's gradient, every 16 steps."""
    guides: tuple[str, ...] = CODED

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "AutoencoderTask":
        """Everything the loop needs; teachers are the files of LPIPS-AlexNet (or none)."""
        models, guides, distance = networks(self.name, self.guides, teachers, device)
        return AutoencoderTask(self, data, models, guides, distance, out, device, seed)


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(AutoencoderRecipe):
    """The encoder alone, into a generator that is there already, as pSp trains it."""

    name: ClassVar[str] = "encoder"
    summary: ClassVar[str] = "a W+ encoder for a generator that is there"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    joint: ClassVar[bool] = False

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "AutoencoderTask":
        """As of the auto-encoder; one teacher is `generator=FILE`, from the recipe `generator`.

        Raises:
            TrainingError: there is no such file, or it is of another network.
        """
        files = [t.removeprefix("generator=") for t in teachers if t.startswith("generator=")]
        others = [t for t in teachers if not t.startswith("generator=")]
        if len(files) != 1:
            raise TrainingError(
                "an encoder needs its generator: name it with --teacher generator=FILE"
            )
        job = super().task(data, others, out, device, seed)
        pair = job.model.get_submodule("pair")
        assert isinstance(pair, StylePair)
        try:
            state = load_state(files[0])
            centre = state.pop("centre").float()
            load_official(
                pair.generator, {k.removeprefix("generator."): v for k, v in state.items()}
            )
            pair.centre = centre
        except (FacedeidError, OSError, KeyError) as error:
            raise TrainingError(f"--teacher generator={files[0]}: {error}") from error
        pair.generator.requires_grad_(False)
        return job


class _Contest(nn.Module):
    """The pair, and the two critics that are not exported."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = StylePair()
        self.critic = compact_discriminator()
        self.judge = nn.Sequential(
            nn.Linear(STYLE, STYLE), nn.LeakyReLU(0.2), nn.Linear(STYLE, STYLE), nn.LeakyReLU(0.2),
            nn.Linear(STYLE, 1),
        )  # fmt: skip

    def forward(self, faces: Tensor, z: Tensor | None) -> tuple[Tensor, ...]:
        """Reconstructions and their codes; with z also its styles and the samples they give."""
        made, codes = self.pair(faces)
        if z is None:
            return made, codes
        styles = self.pair.generator.latent(z)
        return made, codes, styles, self.pair.decode(styles)


class AutoencoderTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: AutoencoderRecipe,
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: nn.Module = _Contest()

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, self.recipe.name, step)
        batch = self.training.draw(r.batch, random, self.device)
        contested = r.joint and step >= r.adversary_from
        z = torch.randn(r.batch // 2, STYLE, generator=random).to(self.device)
        made, codes, *drawn = (x.float() for x in model(batch.cover, z if contested else None))
        mean = codes.mean(1)
        parts = {
            "pixels": r.pixels * (made - batch.cover).abs().mean(),
            "perceptual": r.perceptual * self.distance(batch.cover, made.clamp(-1, 1)).mean(),
            "structure": r.structure * (1 - ssim(batch.cover, made)).mean(),
            "identity": r.identity * self._identity(step, made, batch),
            "offsets": r.offsets * (codes - mean[:, None]).square().mean(),
        }
        if drawn:
            styles, samples = drawn
            critic, judge = (self.model.get_submodule(name) for name in ("critic", "judge"))
            faces = torch.cat([made, samples])
            parts["fooling"] = (
                r.adversarial * ramp(step, r.adversary_from) * _softplus(-judged(critic, faces))
            )
            parts["critic"] = self._critic(critic, batch.cover, faces.detach(), step)
            parts["prior"] = r.prior * _softplus(-judged(judge, styles))
            parts["judge"] = _softplus(-judge(mean.detach())) + _softplus(judge(styles.detach()))
        loss = torch.stack(list(parts.values())).sum()
        return loss, {name: value.item() for name, value in parts.items()}

    def _identity(self, step: int, made: Tensor, batch: Batch) -> Tensor:
        guide = self.guides[step % len(self.guides)]
        vectors = guide.embed(made.clamp(-1, 1), batch.landmarks)
        near = MARGINS[guide.spec.metric][1] / 2
        return towards(guide.distance(vectors, batch.own[guide.name]), near).mean()

    def _critic(self, critic: nn.Module, real: Tensor, made: Tensor, step: int) -> Tensor:
        """The discriminator's loss, and now and then the penalty on its gradient (R1)."""
        loss = _softplus(critic(made))
        if step % PENALTY_EVERY:
            return loss + _softplus(-critic(real))
        real = real.detach().requires_grad_()
        scores = critic(real)
        return loss + _softplus(-scores) + PENALTY_EVERY * self.recipe.r1 / 2 * r1(scores, real)

    def finish(self, model: nn.Module) -> None:
        """The critics are not exported; codes become offsets from the mean latent."""
        del model.critic, model.judge
        pair = model.get_submodule("pair")
        assert isinstance(pair, StylePair)
        if not self.recipe.joint:
            return
        centre = pair.generator.mean_latent(random=stream(0, "mean latent"))[0]
        for head in pair.encoder.styles:
            head.get_parameter("linear.bias").data.add_(pair.centre - centre)
        pair.centre = centre

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of up to 96 photos of people held out: distances to the reconstruction."""
        if self._held_out is None:
            return {}
        random, pair = stream(self.seed, self.recipe.name, "test"), model.get_submodule("pair")
        found: dict[str, list[Tensor]] = {}
        for _ in range(8):
            batch = self._held_out.draw(12, random, self.device, plain=True)
            made = pair(batch.cover)[0].clamp(-1, 1)
            found.setdefault("perceptual", []).append(self.distance(batch.cover, made))
            found.setdefault("ssim", []).append(ssim(batch.cover, made))
            for guide in self.guides:
                vectors = guide.embed(made, batch.landmarks)
                kept = guide.distance(vectors, batch.own[guide.name]) < guide.threshold("best")
                found.setdefault(f"kept {guide.name}", []).append(kept.float())
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Faces, reconstructions, halfway between neighbours, samples: 3×H×W uint8."""
        pair = copy.deepcopy(self.model.get_submodule("pair")).eval()
        assert isinstance(pair, StylePair)
        batch = (self._held_out or self.training).draw(
            12, stream(0, "grid"), self.device, plain=True
        )
        made, codes = pair(batch.cover)
        z = torch.randn(12, STYLE, generator=stream(1, "grid")).to(self.device)
        samples = pair.decode(pair.generator.latent(z))
        rows = [batch.cover, made, pair.decode((codes + codes.roll(1, 0)) / 2), samples]
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        pair = self.model.get_submodule("pair")
        return {
            "guides": [g.name for g in self.guides],
            "photos": len(self.training),
            "parameters": {
                part: sum(p.numel() for p in pair.get_submodule(part).parameters())
                for part in ("generator", "encoder")
            },
        }


def _softplus(x: Tensor) -> Tensor:
    """Mean of log(1 + e^x): the loss that grows with x and does not saturate above."""
    return F.softplus(x).mean()
