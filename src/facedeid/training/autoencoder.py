"""`facedeid-generator` and `facedeid-encoder` trained together: an adversarial auto-encoder.

Where no GPU is at hand, a StyleGAN2 of this size cannot be trained as a GAN in any bearable time;
as the decoder of an encoder into W+ it can. The losses on reconstructions are pSp's (Richardson et
al. 2021) with a structural term; a discriminator of patches judges reconstructions, and faces of
single styles between those of two photos; StyleGAN2's mapping network is fitted to the distribution
of styles in the end. Offsets from one face's mean style are kept small (as in e4e, Tov et al.
2021), so that codes stay where they can be edited.
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
from facedeid.nets.patch_discriminator import MultiscaleDiscriminator
from facedeid.nets.style_pair import CHANNELS, STYLE, StylePair, compact_discriminator
from facedeid.nets.stylegan2 import Generator
from facedeid.random import seeded, stream
from facedeid.training.augment import Chance
from facedeid.training.data import Faces
from facedeid.training.generator import Draw, Sampling, contest, drawn, lazily
from facedeid.training.prepared import (
    MARGINS,
    Batch,
    Prepared,
    adversarial,
    networks,
    numbers,
    ramp,
    rejected,
    sheet,
)
from facedeid.weights import sha256_of
from facedeid.weights.loading import load_state

__all__ = [
    "AutoencoderRecipe",
    "AutoencoderTask",
    "EncoderRecipe",
    "JointRecipe",
    "fit_mapping",
]

NARROW = 0.05
"""Standard deviation of styles below which directions are not told apart."""


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
    idle: ClassVar[frozenset[str]] = frozenset()
    """Inherited settings without effect."""

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
    face: float = 2.0
    """Times that both count once more with everything but the face taken from the photo, which is
    how faces are pasted back."""
    identity: float = 0.5
    """Weight of the distance to one's own embedding beyond the margin; one guide a step."""
    offsets: float = 0.1
    """Weight of the mean squared offset of the styles of one face from their mean."""
    flat: float = 0.25
    """Share of faces that are to be drawn from one style, the mean of theirs, so that single
    styles (those of the mapping network) make faces too."""
    adversarial: float = 0.2
    adversary_from: int = 1500
    """Step at which the adversary and faces of single styles come in; before, they would cost and
    say little."""
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
    idle: ClassVar[frozenset[str]] = frozenset({"flat", "adversarial", "adversary_from"})

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
            job.facts["generator"] = sha256_of(Path(files[0]))
        except (FacedeidError, OSError, KeyError) as error:
            raise TrainingError(f"--teacher generator={files[0]}: {error}") from error
        pair.generator.requires_grad_(False)
        return job


@dataclass(frozen=True, kw_only=True)
class JointRecipe(AutoencoderRecipe, Sampling):
    """The auto-encoder, and at the same time StyleGAN2 (as in AE-StyleGAN, Han et al. 2022): faces
    of the mapping network's styles are judged by StyleGAN2's discriminator with adaptive
    augmentation, and the encoder learns to find the styles of such faces.
    """

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "a compact StyleGAN2 and its W+ encoder at once (GPU)"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)
    idle: ClassVar[frozenset[str]] = frozenset({"flat"})

    steps: int = 10_000
    batch: int = 48
    lr: float = 2e-3
    adversary_from: int = 400
    flat: float = 0.0
    identity: float = 1.0
    samples: float = 0.5
    """Weight of StyleGAN2's loss."""
    inverse: float = 0.5
    """Weight of the squared distance of a sample's codes to its styles."""


class _Contest(nn.Module):
    """The pair and its adversaries, which are not exported."""

    def __init__(self, *, sampled: bool) -> None:
        super().__init__()
        self.pair = StylePair()
        self.critic = MultiscaleDiscriminator(layers=3, scales=1, width=32)
        if sampled:
            self.connoisseur = compact_discriminator()

    def forward(
        self, faces: Tensor, flat: int, share: Tensor | None, draw: Draw | None
    ) -> tuple[Tensor, ...]:
        """Reconstructions and codes; with a share N×1 also the faces of single styles between
        those of neighbours, with a draw samples, their styles and their codes. The first `flat`
        faces are decoded from the mean of their styles.
        """
        if draw is not None:
            samples, styles = draw.made(self.pair.generator)
            codes = self.pair.encode(torch.cat([faces, samples.detach().to(faces)]))
            codes, found = codes[: len(faces)], codes[len(faces) :]
            return self.pair.decode(codes), codes, samples, styles, found
        codes = self.pair.encode(faces)
        mean = codes.mean(1)
        single = self.pair.generator.widen(mean[:flat])
        made = self.pair.decode(torch.cat([single, codes[flat:]]))
        if share is None:
            return made, codes
        one, two = mean.detach(), mean.detach().roll(1, 0)
        return made, codes, self.pair.decode((one + share * (two - one))[: len(share) // 4])


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
        with seeded(seed):
            self.model: nn.Module = _Contest(sampled=isinstance(recipe, JointRecipe))
        self.facts: dict[str, str] = {}
        """For the metadata, besides."""
        self.chance: Chance | None = None
        """Of augmentation, where samples of the mapping network are judged too."""
        if isinstance(recipe, JointRecipe):
            self.chance = Chance(recipe.target, recipe.horizon)
        self.finished: StylePair | None = None
        """The averaged pair, as it was exported last."""

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, self.recipe.name, step)
        batch = self.training.draw(r.batch, random, self.device)
        contested = r.joint and step >= r.adversary_from
        share, draw, pair = None, None, self.model.get_submodule("pair")
        if isinstance(r, JointRecipe):
            generator = pair.get_submodule("generator")
            assert isinstance(generator, Generator)
            draw = Draw.of(generator, r.batch, r.mixing, random, self.device)
        elif contested:
            share = (1.4 * torch.rand(r.batch, 1, generator=random) - 0.2).to(self.device)
        flat = round(r.flat * r.batch) if r.joint else 0
        found = model(batch.cover, flat, share, draw)
        made, codes, *more = (x.float() for x in found)
        face = batch.within(made)
        parts = {
            "likeness": self._likeness(made, batch),
            "face": r.face * self._likeness(face, batch),
            "perceptual": r.perceptual * self.distance(batch.cover, made.clamp(-1, 1)).mean(),
            "identity": r.identity * self._identity(step, made, batch),
            "offsets": r.offsets * (codes - codes.mean(1, keepdim=True)).square().mean(),
        }
        if draw is not None:
            samples, styles, theirs = more
            parts |= self._sampled(step, samples, styles, theirs, random)
            more = []
        if contested:
            critic = self.model.get_submodule("critic")
            fooling, parts["critic"] = adversarial(critic, batch.cover, torch.cat([made, *more]))
            parts["fooling"] = r.adversarial * ramp(step, r.adversary_from) * fooling
        loss = torch.stack(list(parts.values())).sum()
        p = {} if self.chance is None else {"p": self.chance.p}
        return loss, {**numbers(parts), **p}

    def _sampled(
        self, step: int, samples: Tensor, styles: Tensor, codes: Tensor, random: torch.Generator
    ) -> dict[str, Tensor]:
        """StyleGAN2's losses of samples and their critic, and of the codes found for them."""
        r, chance = self.recipe, self.chance
        assert isinstance(r, JointRecipe)
        assert chance is not None
        real = drawn(self.training.faces, r.batch, random, self.device)
        critic = self.model.get_submodule("connoisseur")
        terms = contest(critic, real, samples, chance, random, penalty=lazily(r.r1, step))
        parts = {f"sample {name}": value for name, value in terms.items()}
        parts["sample fooling"] = r.samples * terms["fooling"]
        parts["inverse"] = r.inverse * (codes - styles.detach()).square().mean()
        return parts

    @property
    def rate_factor(self) -> float:
        """The rate follows the recipe alone."""
        return 1.0

    def after(self, step: int) -> Mapping[str, float]:
        """Augmentation is turned up or down, where there is any."""
        if self.chance is not None:
            self.chance.adapt(step, self.recipe.batch)
        return {}

    def state(self) -> dict[str, Any]:
        """The probability of augmentation."""
        return {} if self.chance is None else self.chance.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        if self.chance is not None:
            self.chance.restore(state)

    def _likeness(self, made: Tensor, batch: Batch) -> Tensor:
        r, cover = self.recipe, batch.cover
        apart = r.structure * (1 - ssim(cover, made)).mean()
        return apart + r.pixels * (made - cover).abs().mean()

    def _identity(self, step: int, made: Tensor, batch: Batch) -> Tensor:
        guide = self.guides[step % len(self.guides)]
        vectors = guide.embed(made.clamp(-1, 1), batch.landmarks)
        near = MARGINS[guide.spec.metric][1] / 2
        return towards(guide.distance(vectors, batch.own[guide.name]), near).mean()

    def finish(self, model: nn.Module) -> None:
        """The critics are not exported. Codes become offsets from the mapping network's mean
        latent, and the prior is that of the codes. Unless the mapping network has learned from a
        critic, what the codes of a layer have in common moves into the generator before that, and
        it learns where styles are.
        """
        del model.critic
        if self.chance is not None:
            del model.connoisseur
        pair = model.get_submodule("pair")
        assert isinstance(pair, StylePair)
        random = stream(self.seed, self.recipe.name, "prior")
        with torch.no_grad():
            batches = self.training.samples(1024, random, self.device, size=64)
            codes = torch.cat([pair.encode(batch.cover) for batch in batches])
        if self.recipe.joint:
            offsets = torch.zeros_like(codes[0])
            if self.chance is None:
                offsets = codes.mean(0) - codes.mean((0, 1))
                pair.generator.absorb(offsets)
                codes = codes - offsets
                fit_mapping(pair.generator.style, codes.mean(1), random)
            centre = pair.generator.mean_latent(random=stream(0, "mean latent"))[0]
            for head, offset in zip(pair.encoder.styles, offsets, strict=True):
                head.get_parameter("linear.bias").data.add_(pair.centre - centre - offset)
            pair.centre = centre
        pair.learn_prior(codes)
        self.finished = pair

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of up to 96 photos of people held out: distances to the reconstruction."""
        if self._held_out is None:
            return {}
        random, pair = stream(self.seed, self.recipe.name, "test"), model.get_submodule("pair")
        found: dict[str, list[Tensor]] = {}
        for batch in self._held_out.samples(96, random, self.device):
            made = pair(batch.cover)[0].clamp(-1, 1)
            found.setdefault("perceptual", []).append(self.distance(batch.cover, made))
            found.setdefault("ssim", []).append(ssim(batch.cover, made))
            face = batch.within(made)
            found.setdefault("ssim pasted", []).append(ssim(batch.cover, face))
            for guide in self.guides:
                vectors = guide.embed(made, batch.landmarks)
                far = rejected(guide, vectors, batch.own[guide.name])
                if far is not None:
                    found.setdefault(f"kept {guide.name}", []).append((~far).float())
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Faces, reconstructions, halfway between neighbours, samples: 3×H×W uint8."""
        pair = self.finished or copy.deepcopy(self.model.get_submodule("pair")).eval()
        assert isinstance(pair, StylePair)
        source = self._held_out or self.training
        batch = next(source.samples(12, stream(0, "grid"), self.device))
        made, codes = pair(batch.cover)
        samples = pair.decode(pair.sample(len(made), stream(1, "grid")))
        rows = [batch.cover, made, pair.decode((codes + codes.roll(1, 0)) / 2), samples]
        if self.chance is not None:
            z = torch.randn(len(made), STYLE, generator=stream(2, "grid")).to(self.device)
            rows.append(pair.decode(pair.generator.latent(z)))
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        pair = self.model.get_submodule("pair")
        return {
            **self.facts,
            "guides": [g.name for g in self.guides],
            "lpips_on": self.distance.kind,
            "photos": len(self.training),
            "parameters": {
                part: sum(p.numel() for p in pair.get_submodule(part).parameters())
                for part in ("generator", "encoder")
            },
        }


@torch.enable_grad()
def fit_mapping(
    mapping: nn.Module, styles: Tensor, random: torch.Generator, steps: int = 600
) -> None:
    """Train a mapping network z -> w until its styles are distributed as given ones, N×D.

    Sliced Wasserstein distance (Bonneel et al. 2015): sorted along directions, both sets are to
    agree. Directions are the principal axes of the styles and random ones, after each axis is
    scaled to unit variance: the generator is as sensitive to the narrow axes as to the wide ones.
    """
    count, middle = len(styles), styles.mean(0)
    _, spread, axes = torch.linalg.svd(styles - middle, full_matrices=False)
    white = axes.T / (spread / count**0.5).clamp_min(NARROW)
    rate = 0.5  # of which the layers' own is a hundredth
    mapping.requires_grad_(True)
    optimiser = torch.optim.Adam(mapping.parameters(), lr=rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        z = torch.randn(count, styles.shape[1], generator=random).to(styles)
        turned = F.normalize(torch.randn(white.shape[1], 64, generator=random).to(styles), dim=0)
        lines = torch.cat([white[:, :64], white @ turned], 1)
        wanted, found = (((x - middle) @ lines).sort(0).values for x in (styles, mapping(z)))
        optimiser.zero_grad()
        (wanted - found).square().mean().backward()
        optimiser.step()
    mapping.requires_grad_(False)
