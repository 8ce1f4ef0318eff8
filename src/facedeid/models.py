"""Name -> frozen network on one device, with its own crop, normalisation and thresholds.

The only stateful object of the library: networks are read once and kept.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facedeid.errors import OptionError, WeightsError
from facedeid.landmarks import FIVE_POINTS, MEAN_FACE, similarity
from facedeid.nets.dlib_resnet import DlibFaceNet, state_from_dat

__all__ = ["ARCFACE_CROP", "DLIB_CROP", "RECOGNIZERS", "Crop", "Models", "Recognizer"]

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class Crop:
    """How a recogniser cuts its input out: a similarity that takes landmarks to a template."""

    size: int
    """Side of the square chip in pixels."""
    groups: tuple[tuple[int, ...], ...]
    """Per point of the template, the landmarks of the 68 whose mean it is."""
    template: tuple[tuple[float, float], ...]
    """(x, y) in pixels of the chip."""
    columns: tuple[int, int] | None = None
    """Columns of the chip that the network takes; None: all."""

    def matrices(self, landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Similarities from photo (or frame) to chip: N×68×2 -> N×2×3."""
        points = np.stack([landmarks[:, list(g)].mean(1) for g in self.groups], 1)
        return similarity(points, np.array(self.template))

    def chips(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Differentiable warp: N×3×S×S canonical faces -> N×3×size×(columns) of the same range.

        Without landmarks (N×68×2, pixels of the frame) the frame's mean face is taken.
        """
        side = faces.shape[-1]
        if landmarks is None:
            points = np.repeat(MEAN_FACE[None] * side, len(faces), 0)
        else:
            points = landmarks.detach().cpu().numpy().astype(np.float64)
        matrices = self.matrices(points)
        shrink = max(1, int(1 / np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])).max())))
        if shrink > 1:  # bilinear sampling alone would alias
            faces = F.avg_pool2d(faces, shrink)
            matrices[:, :, 2] += matrices[:, :, :2].sum(2) * (shrink - 1) / 2
            matrices[:, :, :2] *= shrink
        return self._columns(_warp(faces, matrices, self.size))

    def chips_from_photo(
        self, rgb: NDArray[np.uint8], landmarks: Sequence[NDArray[np.float64]]
    ) -> Tensor:
        """Chips straight from an H×W×3 photo: N×3×size×(columns) float32, RGB in 0..255."""
        chips = [_chip(rgb, m, self.size) for m in self.matrices(np.stack(landmarks))]
        return self._columns(torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float())

    def _columns(self, chips: Tensor) -> Tensor:
        return chips if self.columns is None else chips[..., slice(*self.columns)]


def _warp(images: Tensor, matrices: NDArray[np.float64], size: int) -> Tensor:
    """Bilinear; outside the image is black (0 in 8 bits, so -1)."""
    height, width = images.shape[-2:]
    full = np.tile(np.eye(3), (len(matrices), 1, 1))
    full[:, :2] = matrices
    to_image = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    to_chip = np.array(
        [[(size - 1) / 2, 0, (size - 1) / 2], [0, (size - 1) / 2, (size - 1) / 2], [0, 0, 1]]
    )
    theta = (to_image @ np.linalg.inv(full) @ to_chip)[:, :2]
    grid = F.affine_grid(
        torch.from_numpy(theta).to(images), [len(images), 3, size, size], align_corners=True
    )
    return F.grid_sample(images + 1, grid, align_corners=True) - 1


def _chip(rgb: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """One size×size×3 chip; the photo's face is averaged down first when it is much larger."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    low = np.clip(np.floor(corners.min(1)) - 2, 0, None).astype(int)
    high = np.clip(np.ceil(corners.max(1)) + 3, 0, rgb.shape[1::-1]).astype(int)
    region: NDArray[Any] = rgb[low[1] : high[1], low[0] : high[0]]
    if not region.size:
        return np.zeros((size, size, 3), np.uint8)
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ low
    shrink = 1 / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink > 1.5:
        width, height = (max(1, round(n / shrink)) for n in region.shape[1::-1])
        scale = np.array([region.shape[1] / width, region.shape[0] / height])
        local[:, 2] += local[:, :2] @ ((scale - 1) / 2)
        local[:, :2] = local[:, :2] * scale
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.warpAffine(region, local, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


DLIB_CROP = Crop(
    size=150,
    groups=((45,), (42,), (36,), (39,), (33,)),
    template=tuple(
        ((0.25 + x) / 1.5 * 150, (0.25 + y) / 1.5 * 150)
        for x, y in (
            (0.8595674595992, 0.2134981538014),
            (0.6460604764104, 0.2289674387677),
            (0.1205750620789, 0.2137274526848),
            (0.3340850613712, 0.2290642403242),
            (0.4901123135679, 0.6277975316475),
        )
    ),
)
"""dlib's face chip, 150 px with padding 0.25: corners of the eyes and base of the nose."""

ARCFACE_CROP = Crop(
    size=112,
    groups=FIVE_POINTS,
    template=(
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
)
"""The template of ArcFace (Deng et al. 2019) and most open recognisers, 112 px."""


@dataclass(frozen=True)
class RecognizerSpec:
    """What is known of a recogniser before its weights are read."""

    name: str
    summary: str
    source: str
    licence: str
    dim: int
    metric: Metric
    crop: Crop
    thresholds: Mapping[str, float]
    """Distances below which two faces count as one person: `library`, `best`, `far=1e-3`."""
    protocol: str
    """Where the thresholds come from."""
    scale: Callable[[Tensor], Tensor]
    """Chips in 0..255 -> the network's input."""
    build: Callable[[], nn.Module]
    """Network with its weights; raises WeightsError."""
    available: Callable[[], bool]


class Recognizer:
    """A frozen recogniser on one device."""

    def __init__(self, spec: RecognizerSpec, device: torch.device) -> None:
        self.spec = spec
        self.name = spec.name
        self.device = device

    @cached_property
    def net(self) -> nn.Module:
        """The network, in evaluation mode, without gradients to its weights."""
        return self.spec.build().to(self.device).eval().requires_grad_(False)

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Differentiable: N×3×S×S canonical faces in [-1, 1] -> N×D embeddings.

        Embeddings are unit vectors where the metric is cosine, raw otherwise.
        """
        chips = self.spec.crop.chips(faces.to(self.device), landmarks)
        return self._finish((chips + 1) * 127.5)

    @torch.no_grad()
    def embed_photo(
        self, rgb: NDArray[np.uint8], landmarks: Sequence[NDArray[np.float64]]
    ) -> Tensor:
        """Embeddings of faces in an H×W×3 photo, cut out at the photo's own resolution: N×D.

        Args:
            rgb: the photo.
            landmarks: per face 68×2, in pixels of the photo.
        """
        if not len(landmarks):
            return torch.zeros(0, self.spec.dim)
        return self._finish(self.spec.crop.chips_from_photo(rgb, landmarks).to(self.device)).cpu()

    def _finish(self, chips: Tensor) -> Tensor:
        raw: Tensor = self.net(self.spec.scale(chips))
        return F.normalize(raw) if self.spec.metric == "cosine" else raw

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Row by row, N: Euclidean, or 1 - cosine. Larger is less alike."""
        if self.spec.metric == "euclidean":
            return (a - b).square().sum(-1).clamp_min(0).sqrt()
        return 1 - (a * b).sum(-1)

    def threshold(self, require: str = "library") -> float:
        """The distance below which `require` (library, best, far=...) calls two faces one person.

        Raises:
            OptionError: there is no such operating point for this recogniser.
        """
        try:
            return self.spec.thresholds[require]
        except KeyError:
            known = ", ".join(self.spec.thresholds)
            raise OptionError(
                f"--require {require}: {self.name} has no such operating point; it has {known}"
            ) from None


def dlib_model_path(name: str) -> Path:
    """A file of the package face_recognition_models, found without importing it.

    Raises:
        WeightsError: the package or the file is missing.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise WeightsError(f"{name} is missing; run: pip install face_recognition_models")


_DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"


def _build_dlib() -> nn.Module:
    net = DlibFaceNet()
    net.load_state_dict(state_from_dat(dlib_model_path(_DLIB_FILE).read_bytes()))
    return net


def _has_dlib() -> bool:
    try:
        dlib_model_path(_DLIB_FILE)
    except WeightsError:
        return False
    return True


RECOGNIZERS: dict[str, RecognizerSpec] = {
    "dlib": RecognizerSpec(
        name="dlib",
        summary="dlib's face recognition network, as in the face_recognition library",
        source="King 2017",
        licence="CC0 (the landmark predictor that feeds it: no commercial use)",
        dim=128,
        metric="euclidean",
        crop=DLIB_CROP,
        thresholds={"library": 0.6, "best": 0.6144, "far=1e-3": 0.564},
        protocol="library: dlib's documentation; others: LFW View 2, 6,000 pairs",
        scale=lambda chips: chips,
        build=_build_dlib,
        available=_has_dlib,
    ),
}


class Models:
    """Networks by name on one device.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        OptionError: there is no such device.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            self.device = torch.device(device)
        except RuntimeError:
            raise OptionError(f"--device {device}: use cpu or cuda") from None
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise OptionError("--device cuda: this machine or this PyTorch has no CUDA; use cpu")
        self._recognizers: dict[str, Recognizer] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Workers get the device, and read their own networks."""
        return {"device": self.device, "_recognizers": {}}

    def recognizer(self, name: str) -> Recognizer:
        """The recogniser of that name.

        Raises:
            OptionError: unknown name.
        """
        if name not in self._recognizers:
            if name not in RECOGNIZERS:
                known = ", ".join(RECOGNIZERS)
                raise OptionError(f"no recogniser is called {name!r}; there are: {known}")
            self._recognizers[name] = Recognizer(RECOGNIZERS[name], self.device)
        return self._recognizers[name]

    def recognizers(self, names: Sequence[str] | None = None) -> list[Recognizer]:
        """Those recognisers; without names, all whose weights are here."""
        if names is None:
            names = [name for name, spec in RECOGNIZERS.items() if spec.available()]
        return [self.recognizer(name) for name in names]
