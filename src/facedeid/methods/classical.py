"""Blur, pixelation, noise and masking: what people use today, and what the papers compare with.

Strengths follow the face, not the pixels of the photo: every length is a share of the aligned
crop's side or a number of cells across the face, so a face of 40 px and one of 900 px are treated
alike. The face (chin to brows, ear to ear) spans about 0.55 of the crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.methods.base import Deidentified, Method, Region, word

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["Blur", "DownUp", "Mask", "Noise", "Pixelate"]

FACE_SHARE = 0.55
"""Width of a face as a share of the canonical frame's side (landmarks 0 to 16)."""


def _number(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name} must lie between {low:g} and {high:g}, got {value:g}")


def _either(method: str, **given: int | None) -> None:
    """At most one of two numbers of pixels or cells in a crop."""
    if None not in given.values():
        raise OptionError(f"{method} takes {' or '.join(given)}, not both")
    for name, value in given.items():
        if value is not None:
            _number(name, value, 1, 256)


@dataclass(frozen=True, kw_only=True)
class _Classical(Method):
    """Methods without networks or randomness, face by face the same."""

    source: ClassVar[str] = "classical"
    frame: ClassVar[int | None] = None

    @property
    def varies(self) -> bool:
        """It draws nothing."""
        return False

    @property
    def carry(self) -> Literal["replace", "change"]:
        """Nothing of the face may stay."""
        return "replace"

    def transform(self, faces: Tensor) -> Tensor:
        """N×3×S×S -> the same."""
        raise NotImplementedError

    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """Transform the batch; there is nothing to report."""
        empty: Mapping[str, Any] = {}
        return Deidentified(self.transform(faces), (empty,) * len(faces))


@dataclass(frozen=True, kw_only=True)
class Blur(_Classical):
    """Gaussian blur; `sigma` is a share of the face's width (0.2: 20 px on a face 100 px wide)."""

    name: ClassVar[str] = "blur"
    summary: ClassVar[str] = "Gaussian blur, strength relative to the face"
    sigma: float = 0.2

    def __post_init__(self) -> None:
        _number("sigma", self.sigma, 0, 1)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Recognisers trained on blurred faces see through light blur."""
        if self.sigma < 0.15:
            return (f"blur with sigma {self.sigma:g} is light: recognisers see through it",)
        return ()

    def transform(self, faces: Tensor) -> Tensor:
        """Separable convolution with a kernel of 3σ, borders reflected."""
        sigma = self.sigma * FACE_SHARE * faces.shape[-1]
        return gaussian_blur(faces, sigma)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """N×C×H×W blurred with σ in pixels; large σ on a reduced copy, where nothing is lost by it."""
    if sigma < 0.05:  # neighbours weigh nothing in float32; and σ² may not be one of its numbers
        return images.clone()
    if sigma > 8:
        size = images.shape[-2:]
        factor = int(sigma // 4)
        small = F.interpolate(images, [max(2, n // factor) for n in size], mode="area")
        blurred = gaussian_blur(small, sigma * small.shape[-1] / size[-1])
        return F.interpolate(blurred, size, mode="bicubic", align_corners=False)
    radius = min(max(1, round(3 * sigma)), min(images.shape[-2:]) - 1)
    x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    for shape, pad in ((kernel, (radius, radius, 0, 0)), (kernel.mT, (0, 0, radius, radius))):
        images = F.conv2d(F.pad(images, pad, "reflect"), shape, groups=images.shape[1])
    return images


@dataclass(frozen=True, kw_only=True)
class DownUp(_Classical):
    """The papers' blur: the crop is resampled to size×size pixels and back (7×7, 19×19).

    IdentityDP's text calls the number a target size, its Table I fits only a kernel or cell size;
    so `size` is the target (over the whole crop) and `cell`, in pixels of a 256 px crop, the other
    reading. Give one of the two.
    """

    name: ClassVar[str] = "down-up"
    summary: ClassVar[str] = "the papers' blur: resample to 7×7 pixels (or size=, cell=) and back"
    source: ClassVar[str] = "Wen et al. 2022, Table I"
    size: int | None = None
    cell: int | None = None

    def __post_init__(self) -> None:
        _either(self.name, size=self.size, cell=self.cell)

    @property
    def target(self) -> int:
        """Pixels across the crop at the bottom."""
        if self.cell is not None:
            return max(1, round(256 / self.cell))
        return 7 if self.size is None else self.size

    @property
    def warnings(self) -> tuple[str, ...]:
        """A face of more than some ten pixels is still recognised."""
        if self.target > 12:
            return (f"down-up to {self.target} px is light: recognisers see through it",)
        return ()

    def transform(self, faces: Tensor) -> Tensor:
        """Area down, bilinear up."""
        small = F.interpolate(faces, (self.target, self.target), mode="area")
        return F.interpolate(small, faces.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class Pixelate(_Classical):
    """Mosaic: `cells` across the face's width, or clusters of `cluster` px in a 256 px crop.

    The papers' 8×8 and 16×16 clusters are `cluster=8` and `cluster=16`.
    """

    name: ClassVar[str] = "pixelate"
    summary: ClassVar[str] = "mosaic, 6 cells across the face unless told otherwise"
    cells: int | None = None
    cluster: int | None = None

    def __post_init__(self) -> None:
        _either(self.name, cells=self.cells, cluster=self.cluster)

    @property
    def across(self) -> int:
        """Cells across the whole crop."""
        if self.cluster is not None:
            return max(1, round(256 / self.cluster))
        return max(1, round((6 if self.cells is None else self.cells) / FACE_SHARE))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Fine mosaics are read by recognisers, and averaging over frames undoes them."""
        if self.across > 12:
            cells = round(self.across * FACE_SHARE)
            return (f"a mosaic of {cells} cells across the face is fine: recognisers read it",)
        return ()

    def transform(self, faces: Tensor) -> Tensor:
        """Mean per cell."""
        small = F.interpolate(faces, (self.across, self.across), mode="area")
        return F.interpolate(small, faces.shape[-2:], mode="nearest-exact")


@dataclass(frozen=True, kw_only=True)
class Noise(_Classical):
    """Gaussian noise; `sigma` in 8-bit levels (the papers: 9 and 49)."""

    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "Gaussian noise in 8-bit levels"
    sigma: float = 49

    def __post_init__(self) -> None:
        _number("sigma", self.sigma, 0, 255)

    @property
    def varies(self) -> bool:
        """It draws the noise."""
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        """Noise blinds nobody: HOG found 0.98 of faces at σ 49, recognisers matched nine in ten."""
        return ("noise hides little: with the face's place known, recognisers still match it",)

    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """Independent noise per face from its own generator."""
        noise = torch.stack([torch.randn(faces.shape[1:], generator=g) for g in random])
        noisy = faces + noise.to(faces) * (self.sigma / 127.5)
        empty: Mapping[str, Any] = {}
        return Deidentified(noisy.clamp(-1, 1), (empty,) * len(faces))


@dataclass(frozen=True, kw_only=True)
class Mask(_Classical):
    """A solid colour over the face: its outline with the forehead, a box or an ellipse."""

    name: ClassVar[str] = "mask"
    summary: ClassVar[str] = "solid colour over the face, a box or an ellipse"
    shape: Region = "face"
    color: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", tuple(self.color))
        word("mask shape", self.shape, Region)
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise OptionError("mask color must be three numbers from 0 to 255")

    @property
    def region(self) -> Region:
        """The shape that is asked for."""
        return self.shape

    def transform(self, faces: Tensor) -> Tensor:
        """Paint."""
        color = faces.new_tensor(self.color)[:, None, None] / 127.5 - 1
        return color.expand_as(faces).contiguous()
