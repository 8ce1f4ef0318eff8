"""Do results look like photos of faces? Fréchet and kernel distances over named features.

A set of face crops is compared with photos of other people. The value depends on the features and,
for the Fréchet distance, strongly on the number of faces: it means something only beside rows over
the same reference, with the same features and as many faces (`reference_rows`). Only with the
Inception network of Heusel et al. and its 2048 pooled features would it be the "FID".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facedeid.errors import OptionError, WeightsError
from facedeid.evaluation.robustness import encoded
from facedeid.faces import Face, align, frame
from facedeid.faces.resampling import reflected, warp
from facedeid.models import Models, Recognizer, recognizer_name
from facedeid.nets.lpips import Lpips, lpips_state
from facedeid.weights import locate
from facedeid.weights.loading import load_state

__all__ = [
    "REFERENCES",
    "Features",
    "Kid",
    "Realism",
    "Sample",
    "face_crop",
    "features_of",
    "frechet",
    "kid",
    "realism",
    "reference_rows",
    "sample",
    "squeezenet",
]

GROWN = 1.6
"""Side of a face crop in sides of the detector's box. Nearly all that a method may change lies
within: the canonical frame has 1.66 sides of the box."""
SIDE = 224
BATCH = 16


def face_crop(rgb: NDArray[Any], face: Face, side: int = SIDE, *, grow: float = GROWN) -> Tensor:
    """A square about the centre of the face's box, not turned.

    Cut results by the face as found in the original, so that none is missing from the set; boxes of
    the reference must come from the same detector, since those of others have another extent.

    Args:
        rgb: H×W×3 uint8 or uint16; beyond its border the photo is mirrored.
        face: where.
        side: of the result, pixels.
        grow: side of the square in (mean) sides of the box.

    Returns:
        3×side×side float32 in [-1, 1]: averaged where the photo shrinks, cubic where it grows.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise OptionError(f"photo must be H×W×3 uint8 or uint16, got {rgb.shape} {rgb.dtype}")
    corners = np.array(face.box, np.float64).reshape(2, 2)
    centre, width = corners.mean(0) - 0.5, (corners[1] - corners[0]).mean() * grow
    low = np.floor(centre - width / 2).astype(int) - 3
    high = np.ceil(centre + width / 2).astype(int) + 4
    around = reflected(rgb, int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    scale = side / width
    shift = (side - 1) / 2 - scale * (centre - low)
    chip = warp(around, np.column_stack([np.eye(2) * scale, shift]), (side, side))
    level = np.float32(2 / np.iinfo(rgb.dtype).max)
    return torch.from_numpy(np.ascontiguousarray(chip.transpose(2, 0, 1)) * level - 1)


@dataclass(frozen=True, eq=False)
class Features:
    """A network whose features are compared, under a name of its own."""

    name: str
    """Results of different names are never compared."""
    extract: Callable[[Tensor], Tensor]
    """N×3×S×S in [-1, 1] -> N×D."""
    cut: Literal["box", "frame"] = "box"
    """What it is shown: `face_crop`, or the canonical frame at 256 px (recognisers)."""
    recognizer: Recognizer | None = None
    """Whose network it is: methods that were optimised against it are told from others."""

    def picture(self, rgb: NDArray[Any], face: Face) -> Tensor:
        """What the network is shown of a face in a photo: 3×S×S in [-1, 1]."""
        return face_crop(rgb, face) if self.cut == "box" else align(rgb, frame(face, 256))


def squeezenet(path: Path | str | None = None, device: torch.device | str = "cpu") -> Features:
    """512 features of SqueezeNet 1.1 (Iandola et al. 2016): its last map, averaged over positions.

    Pictures are normalised as for ImageNet, (x - mean)/std; on [-1, 1] that is exactly the shift
    and scale of LPIPS.

    Args:
        path: torchvision's SqueezeNet 1.1, a state dict or safetensors with keys `features.*`
            (without the classifier is enough); None: `lpips_squeeze_backbone` of the store.
        device: where it runs.

    Raises:
        WeightsError: the file is missing, altered, or not of this network.
    """
    path = locate("lpips_squeeze_backbone") if path is None else Path(path)
    state = lpips_state(load_state(path))
    net = Lpips("squeeze")
    trunk = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    try:
        net.features.load_state_dict(trunk)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} is not SqueezeNet 1.1 as torchvision has it (keys features.0.weight to "
            "features.12.expand3x3.bias)"
        ) from error
    net = net.to(device).eval().requires_grad_(False)
    return Features("squeezenet", lambda x: net.maps(x.to(device))[-1].mean((2, 3)))


def features_of(text: str, models: Models) -> Features:
    """Features by name.

    - `squeezenet`, or `squeezenet:PATH`: see there;
    - `embedding:RECOGNISER`: its embedding of the aligned face, for instance
      `embedding:facedeid-mobile`, which ships. It looks at identity and is nearly blind to
      texture (JPEG and blur of `REFERENCES` score as untouched photos do): an addition to other
      features, not a replacement;
    - `onnx:PATH?size=299&mean=128&std=128`: what an ONNX network gives for `face_crop`s, N×D,
      options as for recognisers. This is the way to the Inception network of the FID: export its
      2048 pooled features.

    Raises:
        OptionError: unknown name or option.
        WeightsError: weights are missing or do not fit.
    """
    kind, _, rest = text.partition(":")
    if kind == "squeezenet":
        return squeezenet(rest or None, models.device)
    if kind == "embedding" and rest:
        known = models.recognizer(rest)
        return Features(f"embedding:{_label(rest)}", known.embed, "frame", known)
    if kind == "onnx" and rest:
        return _onnx(text, models)
    raise OptionError(
        f"no features are called {text!r}; there are: squeezenet, squeezenet:PATH, "
        "embedding:RECOGNISER, onnx:PATH"
    )


def _label(text: str) -> str:
    """Without the folder; with the options, which change the values."""
    return recognizer_name(text) + "".join(text.partition("?")[1:])


def _onnx(text: str, models: Models) -> Features:
    known = models.recognizer(text)
    crop = known.spec.crop
    size = (crop.size, crop.size)

    def extract(x: Tensor) -> Tensor:
        x = F.interpolate(x.to(models.device), size, mode="bilinear", antialias=True)
        x = x if crop.columns is None else x[..., slice(*crop.columns)]
        raw: Tensor = known.net(known.spec.scale((x.clamp(-1, 1) + 1) * 127.5))
        return raw

    return Features(_label(text), extract, recognizer=known)


@dataclass(frozen=True, eq=False)
class Sample:
    """Features of a set of faces, with the name of what gave them."""

    features: str
    values: NDArray[np.float64]
    """N×D, finite."""


def _batches(pictures: Iterable[Tensor]) -> Iterator[Tensor]:
    source = iter(pictures)
    while batch := list(islice(source, BATCH)):
        yield torch.stack(batch)


@torch.no_grad()
def _values(features: Features, batch: Tensor) -> NDArray[np.float64]:
    return features.extract(batch).double().cpu().numpy()


def sample(features: Features, pictures: Iterable[Tensor]) -> Sample:
    """Features of pictures (3×S×S in [-1, 1], see `Features.picture`), read one batch at a time."""
    found = [_values(features, batch) for batch in _batches(pictures)]
    if not found:
        raise OptionError("there is no picture to take features of")
    return Sample(features.name, np.concatenate(found))


def _sets(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, two = (np.asarray(x, np.float64) for x in (a, b))
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1]:
        raise OptionError(f"two sets of rows N×D are wanted, got {one.shape} and {two.shape}")
    if min(len(one), len(two)) < 2:
        raise OptionError(f"two or more of each are wanted, got {len(one)} and {len(two)}")
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise OptionError("a feature is not finite")
    return one, two


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Fréchet distance of two normal distributions (Dowson and Landau 1982; Heusel 2017).

    |μa - μb|² + tr(Sa + Sb - 2·(Sa·Sb)^½), where the trace of the root is the sum of the singular
    values of Sa^½·Sb^½: no root of an unsymmetric matrix, nothing complex, singular covariances
    (fewer faces than features) included.

    Args:
        a: N×D features.
        b: M×D. Covariances are divided by N - 1 and M - 1.

    Raises:
        OptionError: shapes do not fit, fewer than two rows, or a value is not finite.
    """
    one, two = _sets(a, b)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, two)]
    roots = [_root(x) for x in covariances]
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    apart = np.square(one.mean(0) - two.mean(0)).sum()
    return max(0.0, float(apart + sum(np.trace(x) for x in covariances) - 2 * shared))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric root; what rounding has left of zero eigenvalues is zero."""
    values, vectors = np.linalg.eigh(covariance)
    least = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    roots = np.sqrt(np.where(values > least, values, 0))
    return np.asarray((vectors * roots) @ vectors.T)


@dataclass(frozen=True)
class Kid:
    """Kernel distance: mean and standard deviation over subsets (not of the mean)."""

    mean: float
    sd: float


def kid(
    a: ArrayLike, b: ArrayLike, *, subsets: int = 100, size: int | None = None, seed: int = 0
) -> Kid:
    """Kernel distance (Bińkowski et al. 2018): unbiased MMD², kernel (x·y/D + 1)³, over subsets.

    Unlike the Fréchet distance it does not depend on the number of faces, and may be below 0.

    Args:
        a: N×D features.
        b: M×D.
        subsets: how many.
        size: rows drawn of each set, without replacement; None: half of the smaller set, at most
            1000.
        seed: of the draws.

    Raises:
        OptionError: as `frechet`, or the subsets do not fit.
    """
    one, two = _sets(a, b)
    least = min(len(one), len(two))
    size = min(1000, max(2, least // 2)) if size is None else size
    if not 2 <= size <= least or subsets < 1:
        raise OptionError(f"{subsets} subsets of {size} cannot be drawn from {least} rows")
    random = np.random.default_rng(seed)
    found = [
        _mmd(*(x[random.choice(len(x), size, replace=False)] for x in (one, two)))
        for _ in range(subsets)
    ]
    return Kid(float(np.mean(found)), float(np.std(found)))


def _mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Unbiased estimate of MMD² from as many rows of each."""
    n, d = a.shape
    within = [(x @ x.T / d + 1) ** 3 for x in (a, b)]
    same = sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in within)
    return float(same - 2 * ((a @ b.T / d + 1) ** 3).mean())


@dataclass(frozen=True, kw_only=True)
class Realism:
    """Distances of a set of faces to a reference; both counts belong to the values."""

    features: str
    frechet: float
    kid: Kid
    n: int
    reference_n: int
    white_box: bool = False
    """Whether the faces were made against the network of the features."""


def realism(faces: Sample, reference: Sample, *, seed: int = 0) -> Realism:
    """Distances of a set to the reference, which should show other people.

    Raises:
        OptionError: features of different names, or fewer than two faces.
    """
    if faces.features != reference.features:
        raise OptionError(
            f"features of {faces.features} and {reference.features} cannot be compared"
        )
    return Realism(
        features=faces.features,
        frechet=frechet(faces.values, reference.values),
        kid=kid(faces.values, reference.values, seed=seed),
        n=len(faces.values),
        reference_n=len(reference.values),
    )


def _jpeg(batch: Tensor) -> Tensor:
    levels = ((batch + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    files = np.stack([encoded(x, "JPEG", 20) for x in levels.numpy()])
    return torch.from_numpy(files).permute(0, 3, 1, 2) / 127.5 - 1


def _blur(batch: Tensor) -> Tensor:
    blurred = [cv2.GaussianBlur(x, (0, 0), 2) for x in batch.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(blurred)).permute(0, 3, 1, 2)


REFERENCES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"untouched": lambda batch: batch, "jpeg-20": _jpeg, "blur-2": _blur}
)
"""What everybody knows the look of: nothing, JPEG of quality 20, Gaussian blur of σ 2 px, the
last two of the crop and not of the photo. Batches N×3×S×S in [-1, 1] -> the same."""


def reference_rows(
    features: Features, pictures: Iterable[Tensor], reference: Sample, *, seed: int = 0
) -> dict[str, Realism]:
    """What untouched, compressed and blurred photos reach, for the same reference.

    Args:
        features: the network.
        pictures: the untouched crops (3×S×S in [-1, 1]) of the faces that the methods were given;
            their people must not be in the reference.
        reference: of the other people's photos.
        seed: of the kernel distance.

    Returns:
        A row for each of `REFERENCES`; "untouched" is the least that a perfect method can reach.
    """
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in REFERENCES}
    for batch in _batches(pictures):
        for name, degrade in REFERENCES.items():
            found[name].append(_values(features, degrade(batch)))
    if not found["untouched"]:
        raise OptionError("there is no picture to take features of")
    return {
        name: realism(Sample(features.name, np.concatenate(values)), reference, seed=seed)
        for name, values in found.items()
    }
