"""What recipes that change faces share: photos with own embeddings and masks, and losses."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from facedeid.errors import FacedeidError, OptionError, TrainingError
from facedeid.faces import frame_masks
from facedeid.losses import away_from, displacement, towards
from facedeid.models import Models, Recognizer
from facedeid.nets.feature_critic import FeatureCritic
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.nets.patch_discriminator import (
    MultiscaleDiscriminator,
    hinge_fake,
    hinge_generator,
    hinge_real,
)
from facedeid.training.data import Faces, mirrored
from facedeid.training.degrade import blurred, coloured, shrunk
from facedeid.training.diversity import diverse, jittered_landmarks
from facedeid.training.loop import keep
from facedeid.weights.loading import load_state

__all__ = [
    "CAREFUL",
    "MARGINS",
    "Batch",
    "Critic",
    "Prepared",
    "Rivals",
    "adversarial",
    "alike",
    "around",
    "cached",
    "comparable",
    "digest",
    "displaced",
    "drift",
    "go_on",
    "in_turn",
    "judged",
    "lead",
    "networks",
    "numbers",
    "r1",
    "ramp",
    "rejected",
    "shade",
    "sheet",
    "word",
]

MARGINS: Mapping[str, tuple[float, float]] = {"euclidean": (0.95, 0.60), "cosine": (1.0, 0.55)}
"""Distance to keep from oneself, and to come within of another person, by metric (for the
Euclidean one: dlib's scale)."""
CAREFUL = (slice(36, 42), slice(42, 48), slice(33, 52, 18))
"""Landmarks of the eyes (gaze) and, from nose to lip, of the place of moustaches."""
CHUNK = 64


Critic = Literal["patches", "thorough", "features"]


class Rivals(nn.Module):
    """A network that changes faces and its adversary; only the network is exported.

    Args:
        net: the network.
        critic: `patches` sees pixels; `thorough` does, too, wider and deeper, at two scales and
            nine times as large; `features` sees those of `distance`, and tells faces apart after
            a tenth of the steps.
        distance: the perceptual distance of the recipe.

    Raises:
        TrainingError: there is no such critic.
    """

    def __init__(self, net: nn.Module, critic: Critic, distance: Lpips) -> None:
        super().__init__()
        word("critic", critic, get_args(Critic))
        self.net = net
        self.critic: nn.Module
        if critic == "features":
            self.critic = FeatureCritic(distance)
        elif critic == "thorough":
            self.critic = MultiscaleDiscriminator(layers=3, scales=2, width=48)
        else:
            self.critic = MultiscaleDiscriminator(layers=2, scales=1, width=24)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network makes of a batch."""
        faces: Tensor = self.net(*inputs)
        return faces


def word(setting: str, value: str, known: Sequence[str]) -> None:
    """Check a setting that takes one of a few words.

    Raises:
        TrainingError: it is none of them.
    """
    if value not in known:
        raise TrainingError(f"--set {setting}={value}: use {', '.join(known)}")


def networks(
    name: str, guides: Sequence[str], teachers: Sequence[str], device: torch.device
) -> tuple[Models, list[Recognizer], Lpips]:
    """The frozen networks of a loss; teachers are the files of LPIPS-AlexNet, or none.

    Raises:
        TrainingError: weights are missing, or dlib, which says who is like whom, is no guide.
    """
    models = Models(str(device))
    try:
        found = [models.recognizer(guide) for guide in guides]
        parts = [load_state(path) for path in teachers]
        distance = lpips(lpips_state(*parts)) if parts else models.perceptual
    except (FacedeidError, OSError, ValueError) as error:
        raise TrainingError(f"{name} cannot read its networks: {error}") from error
    if "dlib" not in guides:
        raise TrainingError("guides must include dlib, which finds the similar identities")
    distance = distance.requires_grad_(False).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return models, found, distance


def go_on(net: nn.Module, shipped: nn.Module) -> None:
    """Let a network begin with the weights of the one that ships (`continued`).

    Raises:
        TrainingError: it has another shape.
    """
    try:
        net.load_state_dict(shipped.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            "continued=true: the network that ships has another shape; leave the settings of the "
            "network (width and the like) at their defaults"
        ) from error


def numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of a loss's terms, read from the device at once."""
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))


def judged(critic: nn.Module, x: Tensor) -> Any:
    """What a critic makes of x without learning from it; gradients reach x."""
    frozen = {k: v.detach() for k, v in critic.named_parameters()}
    return functional_call(critic, frozen, (x,))


def r1(scores: Tensor, real: Tensor) -> Tensor:
    """Mean squared gradient of a critic's scores at real photos (Mescheder et al. 2018)."""
    (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def adversarial(critic: nn.Module, cover: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge losses of the network (its gradient leaves the critic alone) and of the critic."""
    fooling = hinge_generator(judged(critic, made))
    scores = critic(torch.cat([cover, made.detach()]))
    real, fake = [s[: len(cover)] for s in scores], [s[len(cover) :] for s in scores]
    return fooling, hinge_real(real) + hinge_fake(fake)


def ramp(step: int, start: int) -> float:
    """0 up to a step, 1 from twice that on."""
    return min(1.0, max(0.0, (step - start) / max(1, start)))


def in_turn(guides: Sequence[Recognizer], together: int, step: int) -> list[Recognizer]:
    """The guides of a step, so many at once."""
    count = min(together, len(guides))
    return [guides[(step * count + i) % len(guides)] for i in range(count)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some photos: N×3×S×S in [-1, 1], their rows, landmarks, face masks N×1×S×S, embeddings."""

    rows: Tensor
    cover: Tensor
    landmarks: Tensor
    mask: Tensor
    own: Mapping[str, Tensor]

    def within(self, made: Tensor) -> Tensor:
        """What was made inside the face, the cover elsewhere: as it is pasted back."""
        return self.cover + self.mask * (made - self.cover)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Photos with what does not change: own embeddings and masks."""

    faces: Faces
    masks: Tensor
    own: Mapping[str, Tensor]

    @classmethod
    def of(cls, faces: Faces, guides: Sequence[Recognizer], cache: Path) -> "Prepared":
        """Work out, or read from files whose names begin with `cache`, what the photos need."""
        photos, own = digest(faces), {}
        for r in guides:
            key = f"{photos} {_fingerprint(r, faces)}"
            path = cache.with_name(f"{cache.name}-{r.name}.pt")
            own[r.name] = cached(path, key, partial(_embedded, r, faces))["own"]
        masks = torch.stack([_mask(points, faces.images.shape[-1]) for points in faces.landmarks])
        return cls(faces, masks, own)

    @classmethod
    def parts(
        cls, data: Faces, guides: Sequence[Recognizer], out: Path
    ) -> "tuple[Prepared, Prepared | None]":
        """The photos to train on, and those held out, if there are any; with files in `out`.

        Raises:
            TrainingError: there are none to train on.
        """
        training = cls.of(data.part(held_out=False), guides, out / "own")
        try:
            held = data.part(held_out=True)
        except TrainingError:
            return training, None
        return training, cls.of(held, guides, out / "held-out")

    def __len__(self) -> int:
        return len(self.faces)

    def draw(
        self, count: int, random: torch.Generator, device: torch.device, *, plain: bool = False
    ) -> Batch:
        """Some photos, mirrored, relit and blurred now and then unless `plain`."""
        rows = torch.randint(len(self.faces), (count,), generator=random)
        images, points, masks = self._of(rows, device)
        if not plain:
            flip = torch.rand(count, generator=random) < 0.5
            turned = flip.to(device)
            images[turned], masks[turned] = images[turned].flip(-1), masks[turned].flip(-1)
            points = mirrored(points, flip, images.shape[-1])
            images = coloured(images, random, share=0.3)
            images = shrunk(images, random, share=0.15, sides=(48, 100))
            images = blurred(images, random, share=0.1, sigma=(0.5, 1.2))
        return self._batch(rows, images, points, masks)

    def samples(
        self, most: int, random: torch.Generator, device: torch.device, *, size: int = 12
    ) -> Iterator[Batch]:
        """Different photos as they are, `most` at most, in batches of about the same size."""
        rows = torch.randperm(len(self.faces), generator=random)[:most]
        for part in torch.tensor_split(rows, math.ceil(len(rows) / size)):
            yield self._batch(part, *self._of(part, device))

    def _of(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        images, masks = self.faces.images[rows].to(device).float(), self.masks[rows].to(device)
        return images, self.faces.landmarks[rows], masks.float() / 255

    def _batch(self, rows: Tensor, images: Tensor, points: Tensor, masks: Tensor) -> Batch:
        return Batch(
            rows,
            (images / 127.5 - 1).contiguous(memory_format=torch.channels_last),
            points,
            masks[:, None],
            {name: vectors[rows].to(images.device) for name, vectors in self.own.items()},
        )


def digest(faces: Faces) -> str:
    """Of photos and their landmarks: what was worked out from others is of no use for these."""
    found = hashlib.sha256()
    for part in (faces.images, faces.landmarks):
        found.update(repr((part.dtype, tuple(part.shape))).encode())
        found.update(part.contiguous().numpy().data)
    return found.hexdigest()


def cached(path: Path, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a file holds, if it was written for the same key and is whole; else what `make` gives,
    which is written there.
    """
    with contextlib.suppress(Exception):  # damaged files raise what they like
        held = torch.load(path, weights_only=True)
        if held["key"] == key:
            values: dict[str, Tensor] = held["values"]
            return values
    made = make()
    keep(path, {"key": key, "values": made})
    return made


def _fingerprint(recognizer: Recognizer, faces: Faces) -> str:
    """By which networks of one name are told apart: what it makes of the first photo, roughly."""
    first = Faces(faces.images[:1], faces.landmarks[:1], faces.keys[:1])
    rough = (100 * _embedded(recognizer, first)["own"]).round().to(torch.int32)
    return hashlib.sha256(rough.numpy().tobytes()).hexdigest()


@torch.no_grad()
def _embedded(recognizer: Recognizer, faces: Faces) -> dict[str, Tensor]:
    rows = torch.split(torch.arange(len(faces)), CHUNK)
    found = [
        recognizer.embed(faces.images[r].float() / 127.5 - 1, faces.landmarks[r]).cpu()
        for r in rows
    ]
    return {"own": torch.cat(found)}


def _mask(points: Tensor, side: int) -> Tensor:
    return (frame_masks(points[None], side)[0, 0] * 255).round().byte()


def lead(
    guides: Sequence[Recognizer],
    made: Tensor,
    batch: Batch,
    target: Mapping[str, Tensor],
    change: Tensor,
    random: torch.Generator,
    *,
    margin: float = 1.0,
) -> Tensor:
    """Away from oneself and towards somebody else: mean over recognisers and faces.

    Args:
        guides: who looks, each after input diversity.
        made: the changed faces, N×3×S×S.
        batch: what they were.
        target: the others' embeddings, by recogniser.
        change: how far each face is to go, N: 0 not at all, 1 to the margins.
        random: of the diversity.
        margin: multiplies the distance to keep from oneself.
    """
    terms = []
    for recognizer in guides:
        away, near = MARGINS[recognizer.spec.metric]
        own, other = batch.own[recognizer.name], target[recognizer.name]
        seen, points = diverse(made, random), jittered_landmarks(batch.landmarks, random)
        vectors = recognizer.embed(seen, points)
        still = recognizer.distance(own, other)
        goal = near + (1 - change) * (still - near).clamp_min(0)
        terms.append(away_from(recognizer.distance(vectors, own), margin * away * change).mean())
        terms.append(towards(recognizer.distance(vectors, other), goal).mean())
    return torch.stack(terms).mean()


def rejected(recognizer: Recognizer, vectors: Tensor, own: Tensor) -> Tensor | None:
    """Which faces its best threshold takes for somebody else, N booleans; None: none is known."""
    try:
        threshold = recognizer.threshold("best")
    except OptionError:
        return None
    return recognizer.distance(vectors, own) >= threshold


def sheet(rows: Sequence[Tensor]) -> Tensor:
    """Rows of as many faces each, N×3×S×S in [-1, 1], as one picture: 3×H×W uint8."""
    pictures = [torch.cat(list((row.clamp(-1, 1) + 1) * 127.5), 2) for row in rows]
    return torch.cat(pictures, 1).round().byte().cpu()


def around(points: Tensor, side: int, places: Sequence[slice]) -> Tensor:
    """N×1×side×side: 1 at the middle of each of these groups of landmarks, falling off around."""
    grid = torch.stack(torch.meshgrid(2 * [torch.arange(side)], indexing="xy"), -1).float()
    total = torch.zeros(len(points), 1, side, side)
    for place in places:
        centre = points[:, place].mean(1)[:, None, None]
        squared = (grid - centre).square().sum(-1)
        total += torch.exp(-squared / (2 * (side / 36) ** 2))[:, None]
    return total


def alike(change: Tensor) -> Tensor:
    """Mean product of the changes of different faces, if positive: 0 where they are unlike."""
    return _product(change).mean().relu()


def drift(distance: Lpips, cover: Tensor, made: Tensor) -> Tensor:
    """How far faces move together in a network's features, as if all went to look like one.

    Per depth, features averaged over positions: the mean product of the changes of different
    faces, in shares of the faces' own variance; mean over depths. As in `alike`, 0 where they go
    different ways: a network with batch normalisation sees the others of a batch, and would learn
    to move against them. 0, too, where all faces are one and the same photo.
    """
    with torch.no_grad():
        before = [x.mean((2, 3)) for x in distance.maps(cover)]
    shares = []
    for own, maps in zip(before, distance.maps(made), strict=True):
        change = maps.mean((2, 3)) - own
        variance, least = own.var(0).sum(), 1e-4 * own.square().mean(0).sum()
        share = _product(change).sum() / torch.maximum(variance, least)
        shares.append(share * (variance > least))
    return torch.stack(shares).mean().relu()


def _product(change: Tensor) -> Tensor:
    """Mean over pairs of different faces of the products of their changes, N×... -> ..."""
    count = len(change)
    return (change.sum(0).square() - change.square().sum(0)) / (count * (count - 1))


def comparable(batch: int) -> None:
    """Check that a batch has faces whose changes `alike` and `drift` can compare.

    Raises:
        TrainingError: it has one.
    """
    if batch < 2:
        raise TrainingError("a batch needs two faces at least: changes are compared")


def shade(change: Tensor) -> Tensor:
    """Mean square of a change's 8×8 px means, N×3×H×W: light and shade, pale faces, dark pits."""
    return F.avg_pool2d(change, 8).square().mean()


def displaced(models: Models, cover: Tensor, made: Tensor) -> Tensor:
    """By how much chin, nose, eyes and mouth have moved, in pixels of the 256 frame: N×4."""
    with torch.no_grad():
        before = models.landmarks(cover)
    return displacement(before, models.landmarks(made), cover.shape[-1])
