"""`facedeid-landmarks`: dlib's 68 points of an aligned face, by a network that is differentiable.

Losses need to know where features went when a face was changed, and dlib's predictor has no
gradient. So the student learns dlib's answers not only on photos but also on what the networks
that ship made of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facedeid.errors import TrainingError
from facedeid.faces import faces_from_boxes, frame_masks
from facedeid.inversion import scaled
from facedeid.landmarks import FACE_BOX, MEAN_FACE, PARTS
from facedeid.losses import displacement
from facedeid.methods.embedding import FeatureEmbedding
from facedeid.methods.identity import IdentityDp
from facedeid.methods.private import PrivateEncoding
from facedeid.models import Models
from facedeid.nets.landmark_net import LandmarkNet
from facedeid.nets.residual import small
from facedeid.random import seeded, stream
from facedeid.training.data import Faces, mirrored
from facedeid.training.degrade import blurred, coloured, compressed, shrunk
from facedeid.training.prepared import CHUNK, cached, digest

__all__ = ["LandmarksRecipe", "LandmarksTask"]

SIDE = LandmarkNet.SIDE
TOGETHER = 16
"""Faces changed by the same method and strength."""


@dataclass(frozen=True, kw_only=True)
class LandmarksRecipe:
    """Hyper-parameters of `facedeid-landmarks`."""

    name: ClassVar[str] = "landmarks"
    summary: ClassVar[str] = "dlib's 68 landmarks as a network, for losses (facedeid-landmarks)"
    side: ClassVar[int] = 256
    """Side of the photos in memory: dlib looks at these, the network at half."""
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"batch": 4, "changed": 8}

    steps: int = 4000
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay_from: float = 0.3
    ema: float = 0.998
    changed: int = 6000
    """Photos changed by the networks that ship, at most; dlib places their points anew."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "LandmarksTask":
        """Everything the loop needs; the teacher is dlib's predictor.

        Raises:
            TrainingError: another teacher is named.
        """
        if teachers:
            raise TrainingError(
                f"--teacher {' '.join(teachers)}: leave it out; landmarks are learned from dlib's"
            )
        return LandmarksTask(self, data, out, device, seed)


class LandmarksTask:
    """One training job of the recipe."""

    def __init__(
        self, recipe: LandmarksRecipe, data: Faces, out: Path, device: torch.device, seed: int
    ) -> None:
        self.recipe, self.device, self.seed = recipe, device, seed
        with seeded(seed):
            self.model: nn.Module = LandmarkNet()
        data = _located(data)
        training = data.part(held_out=False)
        self._photos = len(training)
        models = Models(str(device))
        changed = _changed(training, recipe.changed, models, out / "changed.pt", seed)
        self.training = _joined(_reduced(training), changed)
        try:
            held = data.part(held_out=True)
        except TrainingError:
            self._held_out: tuple[Faces, Faces] | None = None
        else:
            few = _some(held, 192)
            after = _changed(few, len(few), models, out / "changed-held-out.pt", seed)
            self._held_out = _reduced(few), after

    def loss(self, model: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean distance of the points in pixels of the 256 frame, the four parts alike."""
        random = stream(self.seed, "landmarks", step)
        rows = torch.randint(len(self.training), (self.recipe.batch,), generator=random)
        images, points = self.training.images[rows].float(), self.training.landmarks[rows]
        images, points = _jittered(images, points, random)
        images = coloured(images, random, share=0.4)
        images = shrunk(images, random, share=0.15, sides=(48, 100))
        images = blurred(images, random, share=0.1, sigma=(0.5, 1.5))
        images = compressed(images, random, share=0.1, quality=(15, 60))
        parts = displacement(points.to(self.device), model(self._input(images)), SIDE).mean(0)
        return parts.mean(), dict(zip(PARTS, parts.tolist(), strict=True))

    def finish(self, model: nn.Module) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Of people held out, in pixels of the 256 frame: distances to dlib's points on photos and
        on changed ones, and how well the displacement between them is told (correlation over x and
        y of every point).
        """
        if self._held_out is None:
            return {}
        figures: dict[str, float] = {}
        found = []
        for name, faces in zip(("", "changed "), self._held_out, strict=True):
            chunks = torch.split(faces.images, CHUNK)
            found.append(torch.cat([model(self._input(c.float())).cpu() for c in chunks]))
            parts = displacement(faces.landmarks, found[-1], SIDE).mean(0)
            figures |= {name + k: v for k, v in zip(PARTS, parts.tolist(), strict=True)}
        before, after = self._held_out
        told, truth = found[1] - found[0], after.landmarks - before.landmarks
        for part, rows in PARTS.items():
            pair = [d[:, list(rows)].flatten() for d in (told, truth)]
            figures[f"displacement {part}"] = torch.corrcoef(torch.stack(pair))[0, 1].item()
        return figures

    @torch.no_grad()
    def grid(self) -> Tensor:
        """Training photos with their points: 3×H×W uint8."""
        images = self.training.images[-12:].clone()
        for image, points in zip(images, self.training.landmarks[-12:], strict=True):
            x, y = points.round().long().clamp(0, image.shape[-1] - 1).T
            image[:, y, x] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None]
        return torch.cat(list(images), 2)

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        return {
            "teachers": ["dlib shape_predictor_68_face_landmarks"],
            "photos": self._photos,
            "photos_changed": len(self.training) - self._photos,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _input(self, images: Tensor) -> Tensor:
        x = (images / 127.5 - 1).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)


def _located(faces: Faces) -> Faces:
    """Photos that came without landmarks have the mean face's: they get dlib's."""
    mean = torch.from_numpy((MEAN_FACE * faces.images.shape[-1]).astype(np.float32))
    points = faces.landmarks.clone()
    for row in (points == mean).flatten(1).all(1).nonzero()[:, 0].tolist():
        picture = faces.images[row].permute(1, 2, 0).contiguous().numpy()
        points[row] = torch.from_numpy(_placed(picture))
    return replace(faces, landmarks=points)


def _reduced(faces: Faces) -> Faces:
    """Photos and points at the network's side."""
    chunks = torch.split(faces.images, CHUNK)
    images = torch.cat([small(c.float(), SIDE).round().byte() for c in chunks])
    return Faces(images, scaled(faces.landmarks, faces.images.shape[-1], SIDE), faces.keys)


def _joined(one: Faces, other: Faces) -> Faces:
    images, points = (
        torch.cat(pair) for pair in ((one.images, other.images), (one.landmarks, other.landmarks))
    )
    return Faces(images, points, one.keys + other.keys)


def _some(faces: Faces, count: int) -> Faces:
    """So many photos, evenly spread."""
    rows = [i * len(faces) // count for i in range(min(count, len(faces)))]
    return Faces(faces.images[rows], faces.landmarks[rows], tuple(faces.keys[i] for i in rows))


def _changed(faces: Faces, count: int, models: Models, cache: Path, seed: int) -> Faces:
    """Photos as the networks that ship change them, with dlib's points: reduced."""
    faces, random = _some(faces, count), stream(seed, "landmarks", cache.stem)
    found = cached(cache, f"{digest(faces)} {seed}", lambda: _remade(faces, models, random))
    return Faces(found["images"], found["points"], faces.keys)


def _remade(faces: Faces, models: Models, random: torch.Generator) -> dict[str, Tensor]:
    images, points = [], []
    for rows in torch.split(torch.arange(len(faces)), TOGETHER):
        cover = (faces.images[rows].float() / 127.5 - 1).to(models.device)
        masks = frame_masks(faces.landmarks[rows], cover.shape[-1]).to(cover)
        made = cover + masks * (_made(cover, faces.landmarks[rows], models, random) - cover)
        bytes_ = ((made.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
        images.append(bytes_)
        points += [_placed(one.permute(1, 2, 0).contiguous().numpy()) for one in bytes_]
    found = _reduced(Faces(torch.cat(images), torch.from_numpy(np.stack(points)), faces.keys))
    return {"images": found.images, "points": found.landmarks}


def _made(cover: Tensor, landmarks: Tensor, models: Models, random: torch.Generator) -> Tensor:
    """A batch through one of the methods whose networks ship, at any strength or level."""
    kind = int(torch.randint(3, (1,), generator=random))
    amount = float(torch.rand(1, generator=random))
    method = (
        FeatureEmbedding(tries=1, strength=0.3 + 0.7 * amount),
        IdentityDp(seeded=True),
        PrivateEncoding(beta=amount, tries=1, retouch=0),
    )[kind]
    seeds = torch.randint(2**31, (len(cover),), generator=random).tolist()
    streams = [stream(seed, "landmarks") for seed in seeds]
    return method(cover, models, random=streams, landmarks=landmarks).faces


def _placed(rgb8: NDArray[np.uint8]) -> NDArray[np.float32]:
    """dlib's points of an aligned face."""
    face = faces_from_boxes(rgb8, [np.array(FACE_BOX) * rgb8.shape[0]])[0]
    return np.asarray(face.landmarks, np.float32)


def _jittered(images: Tensor, points: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures and their points, mirrored now and then, a little turned, scaled and shifted."""
    count, side = len(images), images.shape[-1]
    flip = torch.rand(count, generator=random) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    points = mirrored(points, flip, side)
    angle = torch.randn(count, generator=random) * 0.05
    zoom = 1 + torch.randn(count, generator=random) * 0.04
    shift = torch.randn(count, 2, generator=random) * 0.03
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    grid = F.affine_grid(
        torch.cat([turn, shift[:, :, None]], 2), list(images.shape), align_corners=False
    )
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    unit = (points + 0.5) * (2 / side) - 1
    unit = (unit - shift[:, None]) @ turn.inverse().mT
    return images, (unit + 1) * (side / 2) - 0.5
