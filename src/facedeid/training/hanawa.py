"""The feature-embedding network as its paper trains it, with the paper's ablations.

Hanawa, Ito and Aoki, "Face image de-identification based on feature embedding", EURASIP Journal on
Image and Video Processing 2024: C is the cover, E the picture whose features are embedded, D the
result; EN is a frozen recogniser, HN the network that is trained. Sections 3.2 (losses), 4.2
(schedule), 4.4, 4.5 and 4.7 (ablations). `docs/training_recipes.md` has the commands and says what
the paper leaves open.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from facedeid import imaging
from facedeid.errors import FacedeidError, PhotoError, TrainingError
from facedeid.losses import cosine, mse, ssim
from facedeid.models import Models, Recognizer
from facedeid.nets.hiding import HidingConfig, HidingNet
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.nets.vgg import Vgg19, vgg19
from facedeid.random import seeded, stream
from facedeid.training.data import Faces, is_held_out, load_faces, mirrored
from facedeid.training.prepared import numbers, word
from facedeid.weights import locate
from facedeid.weights.loading import load_state

__all__ = ["HanawaRecipe", "HanawaTask", "Pictures", "Plateau"]

EMBEDDED = ("face", "generated", "noise", "object")
"""What E can be: another photo of the training data, a generated face, noise, a picture of
anything else."""
TEACHERS = ("recognizer", "vgg19", "lpips", "generated", "object")
TERMS = ("rec", "perc", "lpips", "near", "far")
STORE = {"vgg19": ("vgg19",), "lpips": ("lpips_vgg_backbone", "lpips_vgg_heads")}
"""Checkpoints of the store that are taken where no file is named."""
_SYNTAX = (
    "recognizer=NAME, vgg19=FILE, lpips=FILE (two of them: features and heads), "
    "generated=FOLDER, object=FOLDER"
)


@dataclass(frozen=True, kw_only=True)
class HanawaRecipe:
    """Hyper-parameters of the paper; the defaults are those of Table 2 (c), real faces as E."""

    name: ClassVar[str] = "feature-embedding-paper"
    summary: ClassVar[str] = "embeds another face's features, as Hanawa et al. 2024 train it"
    side: ClassVar[int] = 256
    """Side of the photos in memory and of the network's."""
    bf16: ClassVar[bool] = False
    """The network gives the pixels themselves, which eight bits of mantissa would band."""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"batch": 2, "validation": 2}
    """Settings of a dry run."""
    idle: ClassVar[frozenset[str]] = frozenset({"ema"})
    """Settings without effect: the best epoch's weights are exported."""

    epochs: int = 150
    photos: int = 199_599
    """Covers in an epoch; the paper's CelebA has so many for training."""
    batch: int = 16
    lr: float = 1e-5
    weight_decay: float = 0.0
    """0: AdamW is Adam."""
    warmup: int = 0
    decay_from: float = 1.0
    """1: no fall of the rate but that of the plateaus."""
    ema: float = 0.0
    """No averaging."""
    patience: int = 5
    """Epochs in a row without a lower validation loss after which the rate falls."""
    decay: float = 0.2
    """Factor of each fall."""
    validation: int = 3000
    """At most so many photos, of people held out, to validate on after each epoch."""
    width: float = 1.0
    """Of the network's channels; 1 is the paper's reading, smaller is for trials."""
    embedded: str = "face"
    """What E is: face, generated, noise or object."""
    rec: float = 1.0
    perc: float = 1.0
    lpips: float = 1.0
    near: float = 0.14
    far: float = 0.14
    """Weights of the five losses (eq. 6); a loss of weight 0 is left out, and its networks too."""

    @property
    def epoch(self) -> int:
        """Steps in an epoch."""
        return -(-self.photos // self.batch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.epoch

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "HanawaTask":
        """Everything the loop needs; teachers are `kind=value`, see `docs/training_recipes.md`.

        Raises:
            TrainingError: settings that make no sense; a teacher is missing, unknown or unusable.
        """
        self._check()
        given = _given(teachers)
        self._check_teachers(given)
        try:
            extractor = Models(str(device)).recognizer(given["recognizer"][0])
            if not extractor.differentiable:
                raise TrainingError(f"{extractor.name} has no gradients")
            trunk = vgg19(_weights("vgg19", given)) if self.perc else None
            distance = lpips(_weights("lpips", given)) if self.lpips else None
        except (FacedeidError, OSError) as error:
            raise TrainingError(f"--teacher {' '.join(teachers)}: {error}") from error
        return HanawaTask(
            self,
            data,
            extractor=extractor,
            trunk=trunk,
            distance=distance,
            sources=given.get(self.embedded, ()),
            device=device,
            seed=seed,
        )

    def _check(self) -> None:
        word("embedded", self.embedded, EMBEDDED)
        counts = ("epochs", "photos", "batch", "patience", "validation")
        if wrong := [name for name in counts if getattr(self, name) < 1]:
            raise TrainingError(f"--set {wrong[0]}={getattr(self, wrong[0])}: 1 at least")
        if wrong := [name for name in TERMS if getattr(self, name) < 0]:
            raise TrainingError(f"--set {wrong[0]}={getattr(self, wrong[0])}: a weight, 0 at least")
        if self.width < 0.1:
            raise TrainingError(f"--set width={self.width}: 0.1 at least")
        if not self.near and not self.far:
            raise TrainingError("near and far are both 0: nothing would hide the person")

    def _check_teachers(self, given: Mapping[str, Sequence[str]]) -> None:
        if len(given.get("recognizer", ())) != 1:
            raise TrainingError(
                "one network extracts the features that are embedded: name it with "
                "--teacher recognizer=NAME (the paper's is iresnet-50)"
            )
        for kind in ("generated", "object"):
            if self.embedded == kind and kind not in given:
                raise TrainingError(f"--set embedded={kind} also needs --teacher {kind}=FOLDER")
            if self.embedded != kind and kind in given:
                raise TrainingError(
                    f"--teacher {kind}={given[kind][0]} is of no use without --set embedded={kind}"
                )


def _given(teachers: Sequence[str]) -> dict[str, list[str]]:
    """`kind=value` texts, by kind."""
    given: dict[str, list[str]] = {}
    for text in teachers:
        kind, _, value = text.partition("=")
        if kind not in TEACHERS or not value:
            raise TrainingError(f"--teacher {text}: write {_SYNTAX}")
        given.setdefault(kind, []).append(value)
    return given


def _weights(kind: str, given: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    paths: Sequence[Path | str] = given.get(kind) or [locate(name) for name in STORE[kind]]
    return lpips_state(*[load_state(path) for path in paths])


@dataclass(eq=False)
class Plateau:
    """Multiplies the rate by `decay` when the loss has not improved for `patience` epochs."""

    patience: int
    decay: float
    epochs: int = 0
    best: float = math.inf
    stale: int = 0
    factor: float = 1.0

    def saw(self, loss: float) -> bool:
        """Take note of an epoch's validation loss; whether it is the lowest so far."""
        self.epochs += 1
        if loss < self.best:
            self.best, self.stale = loss, 0
            return True
        self.stale += 1
        if self.stale >= self.patience:
            self.factor *= self.decay
            self.stale = 0
        return False


@dataclass(frozen=True, eq=False)
class Pictures:
    """Photos to draw E from.

    `images` N×3×S×S uint8; `landmarks` N×68×2, or None for those of the mean face; `rows` the M
    photos that may be drawn, and `people` their M numbers.
    """

    images: Tensor
    landmarks: Tensor | None
    rows: Tensor
    people: Tensor

    @classmethod
    def strangers(cls, images: Tensor, landmarks: Tensor | None = None) -> "Pictures":
        """All of these photos, of nobody among the covers."""
        return cls(images, landmarks, torch.arange(len(images)), torch.full((len(images),), -1))

    def draw(self, people: Tensor, random: torch.Generator) -> Tensor:
        """For covers of these people (N numbers), rows of somebody else each: N."""
        count = len(self.rows)
        chosen = torch.randint(count, (len(people),), generator=random)
        for _ in range(count):
            own = self.people[chosen] == people
            if not own.any():
                break
            chosen = torch.where(own, (chosen + 1) % count, chosen)
        return self.rows[chosen]


@dataclass(frozen=True, eq=False)
class _Batch:
    """C and E in [-1, 1], N×3×S×S, with landmarks N×68×2 in pixels where there are any."""

    cover: Tensor
    points: Tensor
    other: Tensor
    other_points: Tensor | None


class HanawaTask:
    """One training job of the recipe.

    Args:
        recipe: hyper-parameters.
        data: covers, and with embedded="face" also E; one tenth is held out.
        extractor: EN, differentiable.
        trunk: VGG-19 on ImageNet, where the recipe has perc.
        distance: LPIPS, where the recipe has lpips.
        sources: folders or archives of E, for generated and object.
        device: where to train.
        seed: of the first weights and of everything drawn.

    Raises:
        TrainingError: nothing to train on or to validate on, or nobody else to embed.
    """

    def __init__(
        self,
        recipe: HanawaRecipe,
        data: Faces,
        *,
        extractor: Recognizer,
        trunk: Vgg19 | None,
        distance: Lpips | None,
        sources: Sequence[str],
        device: torch.device,
        seed: int,
    ) -> None:
        self.recipe, self.device, self.seed = recipe, device, seed
        self.extractor = extractor
        self.trunk = None if trunk is None else _frozen(trunk, device)
        self.distance = None if distance is None else _frozen(distance, device)
        self.lpips_kind = None if distance is None else distance.kind
        self.faces, numbers = data, {key: i for i, key in enumerate(dict.fromkeys(data.keys))}
        self.people = torch.tensor([numbers[key] for key in data.keys])
        held = torch.tensor([is_held_out(key) for key in data.keys])
        self.training, self.validation = _rows(~held, "for training"), _rows(held, "held out")
        count = min(recipe.validation, len(self.validation))
        self.validation = self.validation[torch.arange(count) * len(self.validation) // count]
        self.embedded = self._pictures(sources)
        self.plateau = Plateau(recipe.patience, recipe.decay)
        self._best: dict[str, Tensor] = {}
        self._order: tuple[int, Tensor] = (-1, self.training)
        with seeded(seed):
            self.model: nn.Module = HidingNet(
                HidingConfig(width=recipe.width, identity=extractor.spec.dim)
            )

    def _pictures(self, sources: Sequence[str]) -> Pictures | None:
        """What E is drawn from; None for noise."""
        side, kind = self.faces.images.shape[-1], self.recipe.embedded
        if kind == "noise":
            return None
        if kind == "object":
            return Pictures.strangers(torch.cat([_objects(Path(s), side) for s in sources]))
        if kind == "generated":
            faces = load_faces([Path(source) for source in sources], size=side)
            return Pictures.strangers(faces.images, faces.landmarks)
        people = self.people[self.training]
        if (people == people[0]).all():
            raise TrainingError("photos of two people are needed: one's features hide another")
        return Pictures(self.faces.images, self.faces.landmarks, self.training, people)

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Equation 6, and its terms before they are weighed."""
        random = stream(self.seed, self.recipe.name, step)
        batch = self._batch(self._covers(step), random)
        terms = self.terms(batch.cover, *self._hidden(model, batch), batch.points)
        return self._total(terms), numbers(terms)

    def terms(
        self, cover: Tensor, wanted: Tensor, made: Tensor, points: Tensor
    ) -> dict[str, Tensor]:
        """The losses of a weight above 0, means over the batch.

        Args:
            cover: C, N×3×S×S in [-1, 1].
            wanted: EN's features of E, N×D.
            made: D, N×3×S×S in [-1, 1].
            points: landmarks of C, N×68×2 in pixels.
        """
        r, terms = self.recipe, {}
        if r.rec:  # eq. 1
            terms["rec"] = mse(cover, made).mean()
        if r.perc:  # eq. 2
            assert self.trunk is not None
            terms["perc"] = (self.trunk(cover) - self.trunk(made)).abs().mean()
        if r.lpips:  # eq. 3
            assert self.distance is not None
            terms["lpips"] = self.distance(cover, made).mean()
        found = self.extractor.embed(made, points)
        if r.near:  # eq. 4
            terms["near"] = cosine(wanted, found).mean()
        if r.far:  # eq. 5
            terms["far"] = 1 - cosine(self._features(cover, points), found).mean()
        return terms

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighed = [getattr(self.recipe, name) * term for name, term in terms.items()]
        return torch.stack(weighed).sum()

    @torch.no_grad()
    def _features(self, faces: Tensor, points: Tensor | None) -> Tensor:
        return self.extractor.embed(faces, points)

    def _hidden(self, model: Any, batch: _Batch) -> tuple[Tensor, Tensor]:
        """f(E), and D: the network gets f(E) at unit variance, whatever the scale of EN."""
        wanted = self._features(batch.other, batch.other_points)
        return wanted, model(batch.cover, F.normalize(wanted) * wanted.shape[1] ** 0.5).float()

    def _covers(self, step: int) -> Tensor:
        """Rows of a step: all training photos in random order, again and again."""
        count, batch = len(self.training), self.recipe.batch
        at = torch.arange(step * batch, (step + 1) * batch)
        rows = []
        for turn in sorted(set((at // count).tolist())):
            if self._order[0] != turn:
                random = stream(self.seed, self.recipe.name, "order", turn)
                self._order = (turn, self.training[torch.randperm(count, generator=random)])
            rows.append(self._order[1][at[at // count == turn] % count])
        return torch.cat(rows)

    def _batch(self, rows: Tensor, random: torch.Generator, *, plain: bool = False) -> _Batch:
        """Covers with somebody to embed, each mirrored half of the time unless `plain`."""
        flip = torch.rand(2, len(rows), generator=random) < (0.0 if plain else 0.5)
        side, source, other_points = self.faces.images.shape[-1], self.embedded, None
        if source is None:
            noise = torch.randn(len(rows), 3, side, side, generator=random)
            other = noise.to(self.device)
        else:
            chosen = source.draw(self.people[rows], random)
            other = self._seen(source.images[chosen], flip[1])
            if source.landmarks is not None:
                other_points = mirrored(source.landmarks[chosen], flip[1], side)
        cover = self._seen(self.faces.images[rows], flip[0])
        points = mirrored(self.faces.landmarks[rows], flip[0], side)
        return _Batch(cover, points, other, other_points)

    def _seen(self, images: Tensor, flip: Tensor) -> Tensor:
        x = images.to(self.device).float() / 127.5 - 1
        x = torch.where(flip.to(self.device)[:, None, None, None], x.flip(-1), x)
        return x.contiguous(memory_format=torch.channels_last)

    @property
    def rate_factor(self) -> float:
        """Of the plateaus so far."""
        return self.plateau.factor

    def after(self, step: int) -> dict[str, float]:
        """Validate at the end of an epoch; keep the weights if they are the best so far."""
        if step % self.recipe.epoch:
            return {}
        figures = self._validated(self.model, self.validation)
        if self.plateau.saw(figures["loss"]):
            state = self.model.state_dict()
            self._best = {k: v.detach().cpu().clone() for k, v in state.items()}
        named = {f"validation {k}": v for k, v in figures.items()}
        return {"epoch": self.plateau.epochs, **named, "rate factor": self.plateau.factor}

    def state(self) -> dict[str, Any]:
        """The plateaus and the best epoch's weights."""
        return {"plateau": asdict(self.plateau), "best": self._best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.plateau = Plateau(**state["plateau"])
        self._best = {k: v.cpu() for k, v in state["best"].items()}

    def finish(self, model: nn.Module) -> None:
        """The weights of the epoch with the lowest validation loss (4.2), once there is one."""
        if self._best:
            model.load_state_dict(self._best)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The losses and SSIM on up to 64 photos held out; the lowest validation loss."""
        figures = self._validated(model, self.validation[:64], structure=True)
        return figures | ({"best validation loss": self.plateau.best} if self._best else {})

    @torch.no_grad()
    def _validated(
        self, model: nn.Module, rows: Tensor, *, structure: bool = False
    ) -> dict[str, float]:
        """Means over these covers, each with the same E every time."""
        learning, sums = model.training, dict[str, float]()
        model.eval()
        for number, part in enumerate(torch.split(rows, self.recipe.batch)):
            random = stream(self.seed, self.recipe.name, "validation", number)
            batch = self._batch(part, random, plain=True)
            wanted, made = self._hidden(model, batch)
            terms = self.terms(batch.cover, wanted, made, batch.points)
            terms = {"loss": self._total(terms), **terms}
            if structure:
                terms["ssim"] = ssim(batch.cover, made).mean()
            for name, value in numbers(terms).items():
                sums[name] = sums.get(name, 0.0) + value * len(part) / len(rows)
        model.train(learning)
        return sums

    @torch.no_grad()
    def grid(self) -> Tensor:
        """C, E, D and the change ×4 of up to 8 photos held out: 3×H×W uint8."""
        net = copy.deepcopy(self.model).eval()
        self.finish(net)
        batch = self._batch(self.validation[:8], stream(0, "grid"), plain=True)
        made = self._hidden(net, batch)[1]
        rows = [
            batch.cover,
            batch.other.clamp(-1, 1),
            made,
            (4 * (made - batch.cover)).clamp(-1, 1),
        ]
        pictures = [torch.cat(list((row + 1) * 127.5), 2) for row in rows]
        return torch.cat(pictures, 1).round().byte().cpu()

    def metadata(self) -> dict[str, Any]:
        """For the log and the file of weights."""
        return {
            "extractor": self.extractor.name,
            "identity": self.extractor.spec.dim,
            "lpips_on": self.lpips_kind,
            "photos_for_training": len(self.training),
            "photos_for_validation": len(self.validation),
            "people": len(set(self.people[self.training].tolist())),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }


def _frozen(net: nn.Module, device: torch.device) -> nn.Module:
    net = net.eval().requires_grad_(False)
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _rows(chosen: Tensor, what: str) -> Tensor:
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        raise TrainingError(f"none of the {len(chosen)} photos is {what} after the split; add some")
    return rows


def _objects(folder: Path, side: int) -> Tensor:
    """The pictures of a folder, of any shape: their middle square, N×3×side×side uint8."""
    if not folder.is_dir():
        raise TrainingError(f"--teacher object={folder}: there is no such folder")
    found = []
    for path in sorted(p for p in folder.rglob("*") if imaging.named_as_photo(p)):
        try:
            whole = imaging.read(path, first_frame=True).rgb8
        except PhotoError as error:
            raise TrainingError(f"--teacher object={folder}: {error}") from error
        picture = ImageOps.fit(Image.fromarray(whole), (side, side))
        found.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    if not found:
        raise TrainingError(f"--teacher object={folder} holds no picture")
    return torch.stack(found)
