"""`facedeid-private-encoder`: an encoder into a frozen generator that lowers the likeness to β.

Zhao et al. 2022 train one network for each privacy level; the recipe `private-encoder` draws the
level anew for each face and gives it to the network. Against their loss (squared error, perceptual
distance, and the difference of β and the similarity) it has an ensemble of recognisers after input
diversity, what is pasted back as the picture that the losses see (`facedeid.inversion`, detail
"kept"), codes that the pair's prior finds likely, an adversary, and a term against colour.
`private-encoder-paper` is theirs, for the published networks.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import pi, sqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import FacedeidError, TrainingError
from facedeid.inversion import SPARED, Detail, Spared, blended, within
from facedeid.losses import mse, new_edges, ssim
from facedeid.models import CODED, Models, Recognizer
from facedeid.nets.lpips import Lpips
from facedeid.nets.private_encoder import STEADY, PrivateEncoder, residue
from facedeid.nets.psp import GradualStyleEncoder, PSp
from facedeid.nets.residual import tint
from facedeid.nets.style_pair import LatentPair, StylePair
from facedeid.random import seeded, stream
from facedeid.registration import Registration
from facedeid.training.data import Faces
from facedeid.training.diversity import diverse, jittered_landmarks
from facedeid.training.prepared import (
    CAREFUL,
    Batch,
    Critic,
    Prepared,
    Rivals,
    adversarial,
    around,
    comparable,
    displaced,
    in_turn,
    networks,
    numbers,
    ramp,
    rejected,
    shade,
    sheet,
    word,
)

__all__ = ["PaperEncoderRecipe", "PrivateEncoderRecipe", "PrivateTask"]

LEVELS = (0.0, 0.2, 0.4, 0.7, 1.0)
"""β of the figures on people held out and of the grid."""
NATURAL = 0.05
"""New edges (`losses.new_edges`) that any other face has."""
LEAST_LIKE = 0.5
"""The adversary sees the faces of lower levels only (of a batch without any, of its lowest): of the
others it learns nothing."""


@dataclass(frozen=True, kw_only=True)
class PrivateEncoderRecipe:
    """Hyper-parameters of `facedeid-private-encoder`."""

    name: ClassVar[str] = "private-encoder"
    summary: ClassVar[str] = "lowers the likeness to a level given at run time"
    side: ClassVar[int] = PrivateEncoder.SIDE
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4}
    pair: ClassVar[str] = "facedeid"
    detail: ClassVar[Detail] = "kept"
    idle: ClassVar[frozenset[str]] = frozenset()
    """Inherited settings without effect."""

    steps: int = 4400
    batch: int = 8
    lr: float = 7e-4
    weight_decay: float = 0.0
    warmup: int = 100
    decay_from: float = 0.5
    ema: float = 0.998
    beta: float = -1.0
    """The one level to train for; below 0: all of them, drawn anew for each face."""
    floor: float = -0.4
    """Similarity that β = 0 asks of the guides: recognisers that are none see more of it."""
    pixels: float = 8.0
    """λ1, of the squared error."""
    perceptual: float = 6.0
    """λ2."""
    identity: float = 7.0
    """λ3, of |similarity wanted - measured|, mean over the guides of a step."""
    private: float = 4.0
    """Times that identity counts more where β is 0."""
    structure: float = 3.0
    careful: float = 4.0
    """Times that the squared error counts more at the eyes and the upper lip."""
    colour: float = 10.0
    shade: float = 40.0
    """Of the squared change of 8×8 px means: faces must not turn pale, nor eyes into pits."""
    likely: float = 4.0
    """Of codes that the pair's prior would not draw: they make no faces, or one and the same."""
    steady: int = STEADY
    """Directions of the pair's prior along which codes stay the photo's, those that move landmarks
    most: heads turn along them (with `continued` those that the network that ships has)."""
    edges: float = 20.0
    """Of new edges above `NATURAL`: strokes beside noses, second brows."""
    landmarks: float = 0.25
    """Weight of a pixel (of the 256 frame) by which chin, nose, eyes and mouth move."""
    adversarial: float = 1.5
    adversary_from: int = 100
    critic: Critic = "patches"
    """Which one of `Rivals`."""
    tone: bool = True
    """Whether the photo's light and skin tone stay, whatever is generated (`inversion.blended`)."""
    spared: Spared = "forehead-eyes-mouth"
    """Features that stay the photo's, a key of `inversion.SPARED`."""
    continued: bool = False
    """Whether to begin with the network that ships instead of the pair's encoder."""
    guides: tuple[str, ...] = CODED
    together: int = 2

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "PrivateTask":
        """Everything the loop needs; teachers are the files of LPIPS-AlexNet (or none)."""
        comparable(self.batch)
        word("spared", self.spared, tuple(SPARED))
        models, guides, distance = networks(self.name, self.guides, teachers, device)
        pair = _pair(self.name, self.pair, models)
        assert isinstance(pair, StylePair)
        with seeded(seed):
            net = PrivateEncoder()
        if self.continued:
            net.load_state_dict(models.private_encoder.state_dict())
        else:
            net.encoder.load_state_dict(pair.encoder.state_dict())
            net.centre = pair.centre.clone()
            if self.steady:
                net.steady = pair.posing(models.landmarks, STEADY)
        net.steady[:, self.steady :] = 0
        return PrivateTask(self, net, pair, data, models, guides, distance, out, device, seed)


@dataclass(frozen=True, kw_only=True)
class PaperEncoderRecipe(PrivateEncoderRecipe):
    """Zhao et al. 2022: one level, one recogniser, the published generator, no detail path."""

    name: ClassVar[str] = "private-encoder-paper"
    summary: ClassVar[str] = "lowers the likeness to one level, as Zhao et al. 2022 train it"
    side: ClassVar[int] = 256
    betas: ClassVar[tuple[float, float]] = (0.95, 0.999)
    small: ClassVar[Mapping[str, Any]] = {"batch": 2}
    pair: ClassVar[str] = "psp"
    detail: ClassVar[Detail] = "none"
    idle: ClassVar[frozenset[str]] = frozenset({"continued", "likely", "spared", "steady", "tone"})

    steps: int = 300_000
    lr: float = 1e-4
    beta: float = 0.2
    floor: float = 0.0
    pixels: float = 1.0
    perceptual: float = 0.8
    identity: float = 0.1
    private: float = 1.0
    structure: float = 0.0
    careful: float = 0.0
    colour: float = 0.0
    shade: float = 0.0
    likely: float = 0.0
    edges: float = 0.0
    landmarks: float = 0.0
    adversarial: float = 0.0
    guides: tuple[str, ...] = field(default=("dlib",))
    """The paper's is ArcFace's IR-SE50 (`ir-se50`); dlib comes along, and is not used then."""
    together: int = 1

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "PrivateTask":
        """Everything the loop needs; `recognizer=NAME` among the teachers is the one in the loss.

        Raises:
            TrainingError: a network is not here, or β lies outside of 0..1.
        """
        if not 0 <= self.beta <= 1:
            raise TrainingError(f"beta must lie between 0 and 1, got {self.beta:g}")
        names = [t.removeprefix("recognizer=") for t in teachers if t.startswith("recognizer=")]
        others = [t for t in teachers if not t.startswith("recognizer=")]
        models, guides, distance = networks(self.name, self.guides, others, device)
        try:
            guides = [models.recognizer(name) for name in names] or guides
        except FacedeidError as error:
            raise TrainingError(f"--teacher recognizer: {error}") from error
        pair = _pair(self.name, self.pair, models)
        assert isinstance(pair, PSp)
        assert isinstance(pair.encoder, GradualStyleEncoder)
        encoder = copy.deepcopy(pair.encoder).requires_grad_(True).train()
        net = _OneLevel(encoder, pair.latent_avg)
        return PrivateTask(self, net, pair, data, models, guides, distance, out, device, seed)


class _OneLevel(nn.Module):
    """The paper's network as if it took a level."""

    def __init__(self, encoder: GradualStyleEncoder, centre: Tensor | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("centre", torch.zeros(1) if centre is None else centre.clone())

    def forward(self, faces: Tensor, beta: Tensor) -> Tensor:
        codes: Tensor = self.encoder(faces) + self.get_buffer("centre")
        return codes


class _Through(Rivals):
    """Faces as they come out of the frozen pair, whose weights are neither learned nor kept."""

    def __init__(self, net: nn.Module, pair: LatentPair, critic: Critic, distance: Lpips) -> None:
        super().__init__(net, critic, distance)
        self._pair = (pair,)

    def forward(self, faces: Tensor, beta: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """What the network makes and the plain reconstruction, N×3×s×s each, and its codes."""
        (pair,) = self._pair
        with torch.no_grad():
            plain = pair.encode(faces)
            base = pair.decode(plain)
        codes = pair.likely(self.net(faces, beta), plain, getattr(self.net, "steady", None))
        return pair.decode(codes), base, codes


def _strangeness(codes: Tensor, random: torch.Generator) -> Tensor:
    """Squared energy distance (Székely and Rizzo) of N×K numbers to a standard normal
    distribution, the mean along K random directions: 0 where they could be drawn from it, more
    where they lie far out, or all together.
    """
    count = codes.shape[1]
    seen = codes @ F.normalize(torch.randn(count, count, generator=random), dim=0).to(codes)
    from_normal = seen * torch.erf(seen / sqrt(2)) + sqrt(2 / pi) * torch.exp(-seen.square() / 2)
    apart = (seen[:, None] - seen).abs().sum((0, 1)) / (len(codes) * (len(codes) - 1))
    distance: Tensor = (from_normal.mean(0) - apart / 2).mean() - 1 / sqrt(pi)
    return distance


def _pair(name: str, which: str, models: Models) -> LatentPair:
    try:
        return models.pair(which)
    except FacedeidError as error:
        raise TrainingError(f"{name} needs a generator: {error}") from error


class PrivateTask:
    """One training job of either recipe."""

    def __init__(
        self,
        recipe: PrivateEncoderRecipe,
        net: nn.Module,
        pair: LatentPair,
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
        self._centres = {
            guide.name: self.training.own[guide.name].mean(0).to(device)
            if guide.spec.metric == "euclidean"
            else torch.zeros(guide.spec.dim, device=device)
            for guide in guides
        }
        self.pair = pair
        with seeded(seed):
            self.model: nn.Module = _Through(net, pair, recipe.critic, distance)

    def similarity(self, guide: Recognizer, vectors: Tensor, own: Tensor) -> Tensor:
        """Cosine, N; of centred vectors where the recogniser's are not of unit length."""
        centre = self._centres[guide.name]
        return F.cosine_similarity(vectors - centre, own - centre)

    def _levels(self, count: int, random: torch.Generator) -> Tensor:
        """Of the faces of a batch: a quarter 0, the rest anywhere; or the one that is wanted."""
        if self.recipe.beta >= 0:
            return torch.full((count,), self.recipe.beta)
        drawn = torch.rand(count, generator=random)
        return drawn * (torch.rand(count, generator=random) > 0.25)

    def _shown(self, made: Tensor, base: Tensor, batch: Batch, beta: Tensor) -> Tensor:
        if self.recipe.detail == "none":
            return made
        kept, cover = residue(beta)[:, None, None, None], batch.cover
        mask = within(batch.mask, batch.landmarks, self.recipe.spared)
        place = Registration.of(self.models.landmarks, cover)

        def shown(made: Tensor) -> Tensor:
            return blended(cover, made, base, mask, kept, tone=self.recipe.tone)

        return shown(place(made, shown(made).clamp(-1, 1)))

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r, random = self.recipe, stream(self.seed, "private-encoder", step)
        batch = self.training.draw(r.batch, random, self.device)
        beta = self._levels(r.batch, random).to(self.device)
        made, base, codes = (x.float() for x in model(batch.cover, beta))
        cover, shown = batch.cover, self._shown(made, base, batch, beta)
        moved = shown - cover
        careful = 1 + r.careful * around(batch.landmarks, cover.shape[-1], CAREFUL).to(self.device)
        parts = {
            "pixels": r.pixels * (careful * moved.square()).mean(),
            "perceptual": r.perceptual * self.distance(cover, shown.clamp(-1, 1)).mean(),
            "identity": r.identity * self._identity(step, shown, batch, beta, random),
        }
        if isinstance(self.pair, StylePair):
            parts["likely"] = r.likely * _strangeness(self.pair.coordinates(codes), random)
        if r.structure:
            parts["structure"] = r.structure * (1 - ssim(cover, shown)).mean()
        if r.colour:
            parts["colour"] = r.colour * tint(moved).square().mean()
        if r.shade:
            parts["shade"] = r.shade * shade(moved)
        if r.edges:
            parts["edges"] = r.edges * F.relu(new_edges(cover, shown) - NATURAL).mean()
        if r.landmarks:
            moves = displaced(self.models, cover, shown.clamp(-1, 1))
            parts["landmarks"] = r.landmarks * moves.mean()
        if r.adversarial:
            far = beta < max(LEAST_LIKE, float(beta.min()) + 1e-6)
            critic_net = self.model.get_submodule("critic")
            fooling, critic = adversarial(critic_net, cover[far], shown[far])
            parts["fooling"] = r.adversarial * ramp(step, r.adversary_from) * fooling
            parts["critic"] = critic
        loss = torch.stack(list(parts.values())).sum()
        return loss, numbers(parts)

    def _identity(
        self, step: int, shown: Tensor, batch: Batch, beta: Tensor, random: torch.Generator
    ) -> Tensor:
        """|wanted - measured|, mean over faces and the guides of the step."""
        wanted = self.recipe.floor + (1 - self.recipe.floor) * beta
        weight = 1 + (self.recipe.private - 1) * (beta == 0)
        terms = []
        for guide in in_turn(self.guides, self.recipe.together, step):
            seen, points = shown, batch.landmarks
            if self.recipe.detail == "kept":
                seen, points = diverse(shown, random), jittered_landmarks(points, random)
            vectors = guide.embed(seen, points)
            found = self.similarity(guide, vectors, batch.own[guide.name])
            terms.append((weight * (wanted - found).abs()).mean())
        return torch.stack(terms).mean()

    def finish(self, model: nn.Module) -> None:
        """The adversary is not exported."""
        del model.critic

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of up to 48 photos of people held out, by level: similarity, and what it cost."""
        if self._held_out is None:
            return {}
        levels = LEVELS if self.recipe.beta < 0 else (self.recipe.beta,)
        found: dict[str, list[Tensor]] = {}
        random = stream(self.seed, "private-encoder", "test")
        for batch in self._held_out.samples(48, random, self.device):
            for level in levels:
                beta = torch.full((len(batch.cover),), level, device=self.device)
                made, base, _ = model(batch.cover, beta)
                shown = self._shown(made, base, batch, beta).clamp(-1, 1)
                for guide in self.guides:
                    vectors, own = guide.embed(shown, batch.landmarks), batch.own[guide.name]
                    name = f"{guide.name} {level:g}"
                    found.setdefault(name, []).append(self.similarity(guide, vectors, own))
                    far = rejected(guide, vectors, own)
                    if far is not None:
                        found.setdefault(f"rejected {name}", []).append(far.float())
                found.setdefault(f"ssim {level:g}", []).append(ssim(batch.cover, shown))
                found.setdefault(f"mse {level:g}", []).append(mse(batch.cover, shown) / 4)
                found.setdefault(f"edges {level:g}", []).append(new_edges(batch.cover, shown))
                moves = displaced(self.models, batch.cover, shown)
                found.setdefault(f"moved {level:g}", []).append(moves.mean(1))
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Faces, and what they become at each level from 1 down: 3×H×W uint8."""
        net = copy.deepcopy(self.model).eval()
        source = self._held_out or self.training
        batch = next(source.samples(12, stream(0, "grid"), self.device))
        rows = [batch.cover]
        for level in reversed(LEVELS):
            beta = torch.full((len(batch.cover),), level, device=self.device)
            made, base, _ = net(batch.cover, beta)
            rows.append(self._shown(made, base, batch, beta))
        return sheet(rows)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        net = self.model.get_submodule("net")
        return {
            "guides": [g.name for g in self.guides],
            "lpips_on": self.distance.kind,
            "photos": len(self.training),
            "parameters": sum(p.numel() for p in net.parameters()),
        }
