"""`facedeid-mobile`: a compact recogniser, distilled from others into one embedding.

The target of a face is its teachers' embeddings, centred, normalised, put side by side and turned
by principal components; so a cosine between targets is about the mean of the teachers' cosines.
The student sees the same face moved, degraded or covered, and is to give the clean target
(embedding distillation) and the clean similarities within the batch (relational distillation:
Park et al. 2019). Faces come from a pool of synthesised ones that grows during training (see
`synthesis`); the pool is a function of the seed, and lies as files in the output folder.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from facedeid.errors import FacedeidError, TrainingError
from facedeid.models import ARCFACE_CROP, DLIB_CROP, Crop
from facedeid.nets import load_official
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.nets.dlib_resnet import DlibFaceNet, state_from_dat
from facedeid.nets.onnx_graph import OnnxGraph
from facedeid.nets.speed import fast_bf16
from facedeid.random import seeded, stream
from facedeid.training import degrade
from facedeid.training.data import Faces
from facedeid.training.loop import write
from facedeid.training.prepared import digest
from facedeid.training.synthesis import Chips, novel_faces, real_faces
from facedeid.weights import dlib_model_path
from facedeid.weights.loading import load_state

__all__ = ["RecognizerRecipe", "RecognizerTask", "Teacher", "load_teacher"]

STORED = 128
"""Side of the chips in the pool: the ArcFace chip with 8 pixels around it."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen recogniser: what it is called, its crop, and chips in 0..255 -> embeddings."""

    name: str
    crop: Crop
    net: Callable[[Tensor], Tensor]


def load_teacher(spec: str, device: torch.device) -> Teacher:
    """`dlib`, an .onnx file, or a safetensors file of either: tensors of `DlibFaceNet`, or what
    `OnnxGraph.save` wrote. ONNX networks see ArcFace's chips in 0..255 and normalise them.

    Raises:
        TrainingError: no such teacher, or the file holds none.
    """
    try:
        if spec == "dlib":
            return _dlib_teacher(device)
        path = Path(spec)
        if not path.is_file():
            raise TrainingError(f"--teacher {spec}: name dlib, or an .onnx or .safetensors file")
        if path.suffix == ".onnx":
            return _arcface_teacher(path.stem, OnnxGraph.from_onnx(path), device)
        state = load_state(path)
        if "stem.weight" in state:
            return _dlib_teacher(device, state)
        return _arcface_teacher(path.stem, OnnxGraph.load(path), device)
    except FacedeidError as error:
        raise TrainingError(f"--teacher {spec}: {error}") from error


def _dlib_teacher(device: torch.device, state: dict[str, Tensor] | None = None) -> Teacher:
    if state is None:
        file = dlib_model_path("dlib_face_recognition_resnet_model_v1.dat")
        state = state_from_dat(file.read_bytes())
    return Teacher("dlib", DLIB_CROP, _frozen(load_official(DlibFaceNet(), state), device))


def _arcface_teacher(name: str, net: nn.Module, device: torch.device) -> Teacher:
    return Teacher(name, ARCFACE_CROP, _frozen(net, device))


def _frozen(net: nn.Module, device: torch.device) -> nn.Module:
    net = net.eval().requires_grad_(False)
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True, kw_only=True)
class RecognizerRecipe:
    """Hyper-parameters of `facedeid-mobile`."""

    name: ClassVar[str] = "recognizer"
    summary: ClassVar[str] = "compact recogniser, distilled from others (facedeid-mobile)"
    side: ClassVar[int] = 160
    """Side of the photos in memory."""
    bf16: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    small: ClassVar[Mapping[str, Any]] = {"shard": 64, "shards_first": 5, "shards_last": 5}
    """Settings of a dry run."""

    steps: int = 6000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 200
    decay_from: float = 0.5
    """Share of the steps after which the learning rate falls, linearly to zero."""
    ema: float = 0.998
    dim: int = 256
    stem: int = 32
    widths: tuple[int, ...] = (32, 64, 128, 128)
    depths: tuple[int, ...] = (1, 2, 3, 2)
    relational: float = 4.0
    """Weight of the relational loss."""
    shard: int = 1024
    """Faces in one file of the pool."""
    shards_first: int = 8
    """Files of the pool at the start; centre and principal components come from these."""
    shards_last: int = 64
    grow_every: int = 50
    """Steps after which the pool grows by one file, until `shards_last`."""
    shrink: float = 2.0
    """Of the whitening; chosen on held-out people."""
    whiten_over: int = 7000
    """At most about so many photos."""
    real: float = 0.2
    """Share of photos as they are in the pool."""

    def task(
        self, data: Faces, teachers: Sequence[str], out: Path, device: torch.device, seed: int
    ) -> "RecognizerTask":
        """Everything the loop needs."""
        if not teachers:
            raise TrainingError(
                "a recogniser is distilled: name one or more with --teacher"
                " (dlib, or an .onnx or .safetensors file)"
            )
        if not self.widths or len(self.widths) != len(self.depths):
            raise TrainingError("widths and depths need a number for each level, as many of both")
        if min(*self.widths, *self.depths) < 1:
            raise TrainingError("widths and depths are whole numbers from 1 up")
        loaded = [load_teacher(spec, device) for spec in teachers]
        return RecognizerTask(self, data, loaded, out, device, seed)


class RecognizerTask:
    """One training job of the recipe."""

    def __init__(
        self,
        recipe: RecognizerRecipe,
        data: Faces,
        teachers: Sequence[Teacher],
        out: Path,
        device: torch.device,
        seed: int,
    ) -> None:
        self.recipe, self.teachers, self.device, self.seed = recipe, teachers, device, seed
        self.training = data.part(held_out=False)
        if len(self.training) < 2:
            raise TrainingError("one photo is left for training, two are needed; add photos")
        self.pool = out / "pool"
        names = [teacher.name for teacher in teachers]
        self._key = repr((digest(self.training), seed, names, recipe.shard, recipe.real))
        self.images: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.basis: tuple[list[Tensor], Tensor] | None = None
        with seeded(seed):
            self.model: nn.Module = CompactFaceNet(
                recipe.dim, stem=recipe.stem, widths=recipe.widths, depths=recipe.depths
            )
        one = real_faces(self.training, torch.zeros(1, dtype=torch.long))
        found = [self._embedded(teacher, one) for teacher in self.teachers]
        for teacher, vectors in zip(self.teachers, found, strict=True):
            if vectors.ndim != 2:
                shape = tuple(vectors.shape)
                raise TrainingError(f"--teacher {teacher.name} gives {shape}, not N×D embeddings")
        self._sizes = [vectors.shape[1] for vectors in found]
        self._held_out = self._tested(data)

    def loss(self, model: Callable[..., Any], step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step; the same for the same seed and step."""
        r = self.recipe
        self._grow(min(r.shards_last, r.shards_first + step // r.grow_every))
        random = stream(self.seed, "recognizer", step)
        chosen = torch.randint(len(self.images) * r.shard, (r.batch,), generator=random)
        images = torch.stack([self.images[i // r.shard][i % r.shard] for i in chosen.tolist()])
        raw = torch.stack([self.targets[i // r.shard][i % r.shard] for i in chosen.tolist()])
        targets = self._target(raw.float())
        student = model(_view(images.float(), random))
        embedding = (1 - (student * targets).sum(1)).mean()
        relational = (student @ student.T - targets @ targets.T).square().mean()
        total = embedding + r.relational * relational
        return total, {"embedding": embedding.item(), "relational": relational.item()}

    def finish(self, model: nn.Module) -> None:
        """Whiten, over photos for training as they are."""
        assert isinstance(model, CompactFaceNet)
        every = max(1, len(self.training) // self.recipe.whiten_over)
        chosen = torch.arange(len(self.training))[::every]
        parts = (_stored(real_faces(self.training, part)) for part in torch.split(chosen, 64))
        model.whiten(
            (_centre(part.float()).to(self.device) for part in parts), shrink=self.recipe.shrink
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On people held out: cosine to the target; of three faces or more, how their similarities
        correlate with its.
        """
        if self._held_out is None:
            return {}
        images, raw = self._held_out
        targets = self._target(raw.float())
        found = torch.cat(
            [model(_centre(part.float()).to(self.device)) for part in torch.split(images, 64)]
        )
        figures = {"cosine": (found * targets).sum(1).mean().item()}
        if len(found) > 2:
            upper = torch.triu_indices(len(found), len(found), 1)
            pairs = torch.stack([(e @ e.T)[upper[0], upper[1]] for e in (found, targets)])
            figures["correlation"] = torch.corrcoef(pairs)[0, 1].item()
        return figures

    def grid(self) -> Tensor:
        """What the student sees: 3×H×W uint8, clean faces above degraded ones."""
        images = self.images[0][:8].float()
        views = (_view(images, stream(self.seed, "grid")) + 1) * 127.5
        rows = [(_centre(images) + 1) * 127.5, views]
        return torch.cat([torch.cat(list(row), 2) for row in rows], 1).round().byte().cpu()

    def metadata(self) -> dict[str, Any]:
        """For the model card and the file of weights."""
        people = len(set(self.training.keys))
        return {
            "teachers": [t.name for t in self.teachers],
            "photos": len(self.training),
            "people": people,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def make_shard(self, index: int) -> Path:
        """Synthesise and embed one file of the pool, unless it is there."""
        path = self.pool / f"{index:05d}.safetensors"
        if path.exists():
            return path
        images, targets = [], []
        for part in range(0, self.recipe.shard, 64):
            random = stream(self.seed, "pool", index, part)
            count = min(64, self.recipe.shard - part)
            chips = novel_faces(self.training, count, random, real=self.recipe.real)
            images.append(_stored(chips))
            targets.append(self._taught(chips).half())
        tensors = {"images": torch.cat(images), "targets": torch.cat(targets).cpu()}
        write(path, save(tensors, {"key": self._key}))
        return path

    def _grow(self, wanted: int) -> None:
        while len(self.images) < wanted:
            tensors = self._read(self.make_shard(len(self.images)))
            self.images.append(tensors["images"].to(self.device))
            self.targets.append(tensors["targets"].to(self.device))
        if self.basis is None:
            first = torch.cat(self.targets[: self.recipe.shards_first]).float()
            self.basis = _principal(self._split(first), self.recipe.dim)

    def _read(self, path: Path) -> dict[str, Tensor]:
        """A file of the pool, if these photos, teachers and settings made it."""
        with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == self._key:
                return {name: file.get_tensor(name) for name in ("images", "targets")}
        raise TrainingError(
            f"{path} is damaged, or of another recipe, seed or teacher, or of other photos; remove "
            f"{self.pool} and start again"
        )

    def _split(self, raw: Tensor) -> list[Tensor]:
        return list(torch.split(raw, self._sizes, 1))

    def _target(self, raw: Tensor) -> Tensor:
        self._grow(self.recipe.shards_first)
        assert self.basis is not None
        centres, rotation = self.basis
        return F.normalize(_joined(self._split(raw), centres) @ rotation)

    def _embedded(self, teacher: Teacher, chips: Chips) -> Tensor:
        points = chips.landmarks.cpu().numpy().astype(np.float64)
        matrices = teacher.crop.matrices(points)
        cut = _cut(chips.images, matrices, teacher.crop.size)
        kind = self.device.type
        bf16 = torch.autocast(kind, torch.bfloat16, enabled=fast_bf16(kind))
        with torch.no_grad(), bf16:
            found = teacher.net(cut.to(self.device, memory_format=torch.channels_last))
        return found.float()

    def _taught(self, chips: Chips) -> Tensor:
        return torch.cat([self._embedded(t, chips) for t in self.teachers], 1)

    def _tested(self, data: Faces) -> tuple[Tensor, Tensor] | None:
        try:
            held_out = data.part(held_out=True)
        except TrainingError:
            return None
        chosen = torch.arange(len(held_out))[:: max(1, len(held_out) // 384)]
        parts = [real_faces(held_out, part) for part in torch.split(chosen, 64)]
        images = torch.cat([_stored(chips) for chips in parts])
        return images, torch.cat([self._taught(chips) for chips in parts])


def _stored(chips: Chips) -> Tensor:
    small = F.interpolate(
        chips.images, size=(STORED, STORED), mode="bilinear", antialias=True, align_corners=False
    )
    return small.round().clamp(0, 255).byte()


def _centre(images: Tensor) -> Tensor:
    edge = (STORED - ARCFACE_CROP.size) // 2
    return images[:, :, edge:-edge, edge:-edge] / 127.5 - 1


def _view(images: Tensor, random: torch.Generator) -> Tensor:
    """What the student is shown of stored chips (0..255): N×3×112×112 in [-1, 1]."""
    x = degrade.jittered(images, ARCFACE_CROP.size, random)
    x = degrade.coloured(x, random)
    x = degrade.blurred(x, random, share=0.1, sigma=(0.4, 2.5))
    x = degrade.shrunk(x, random, share=0.25, sides=(16, 80))
    x = degrade.noisy(x, random, share=0.2, most=20)
    x = degrade.compressed(x, random, share=0.15, quality=(25, 90))
    x = degrade.occluded(x, random, share=0.12)
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _cut(images: Tensor, matrices: np.ndarray[Any, Any], size: int) -> Tensor:
    """Similarities from image to chip -> chips; bilinear, black outside."""
    n, side = len(images), images.shape[-1]
    full = np.tile(np.eye(3), (n, 1, 1))
    full[:, :2] = matrices
    to_image = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    half = (size - 1) / 2
    to_chip = np.array([[size / 2, 0, half], [0, size / 2, half], [0, 0, 1]])
    theta = torch.from_numpy((to_image @ np.linalg.inv(full) @ to_chip)[:, :2]).to(images)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _joined(parts: list[Tensor], centres: list[Tensor]) -> Tensor:
    """Each teacher's embeddings centred, normalised, side by side: unit vectors."""
    units = [F.normalize(p - c) for p, c in zip(parts, centres, strict=True)]
    return torch.cat(units, 1) / math.sqrt(len(units))


def _principal(parts: list[Tensor], dim: int) -> tuple[list[Tensor], Tensor]:
    """Centres, and the rotation to the `dim` main directions (which keep cosines)."""
    centres = [part.mean(0) for part in parts]
    joined = _joined(parts, centres).double()
    if dim > joined.shape[1]:
        raise TrainingError(f"dim {dim} is more than the teachers' {joined.shape[1]} together")
    _, vectors = torch.linalg.eigh(joined.T @ joined)
    return centres, vectors.flip(1)[:, :dim].float()
