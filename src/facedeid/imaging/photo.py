"""A photo in memory: the RGB that everything works on, and what is needed to write it back."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facedeid.errors import OptionError
from facedeid.imaging import palette, pixels
from facedeid.imaging.metadata import Metadata
from facedeid.imaging.pixels import Samples

__all__ = ["Coding", "Photo", "Source"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Coding:
    """How the source was compressed, to write the result the same way."""

    format: str | None = None
    """Pillow's name of the format; None for arrays."""
    qtables: tuple[tuple[int, ...], ...] | None = None
    """JPEG quantisation tables of luma and chroma, in natural order."""
    subsampling: Literal[0, 1, 2] = 2
    """JPEG chroma sub-sampling 4:4:4, 4:2:2 or 4:2:0."""
    progressive: bool = False
    plain_rgb: bool = False
    """A JPEG that holds RGB and not YCbCr."""
    lossless: bool = False
    compression: str | None = None
    """TIFF compression, in Pillow's words."""
    colour: tuple[int, int] | None = None
    """HEIC and AVIF without an ICC profile: primaries and transfer, numbered as in ITU-T H.273."""


@dataclass(frozen=True)
class Source:
    """The file that a photo was read from, so that it is never written over."""

    path: Path
    device: int
    inode: int


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture, upright. Made by `read` and `from_array`; every array in it is read-only.

    `rgb` is H×W×3, uint8, or uint16 when samples have more than 8 bits. Colours under transparent
    pixels are there too: they are in the file, so a face in them counts.
    """

    rgb: Array
    samples: Samples = field(repr=False)
    coding: Coding = Coding()
    metadata: Metadata = field(default=Metadata(), repr=False)
    source: Source | None = None
    dropped: tuple[str, ...] = ()
    """What the file held besides this picture and will not be in the result, in words."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rgb", pixels.frozen(self.rgb))

    def __reduce__(self) -> Any:
        # Arrays lose their read-only flag on the way to another process.
        fields = (self.rgb, self.samples, self.coding, self.metadata, self.source, self.dropped)
        return Photo, fields

    @classmethod
    def of(cls, samples: Samples, **facts: Any) -> "Photo":
        """A photo of these samples; `facts` are the other fields."""
        return cls(samples.rgb(), samples, **facts)

    @property
    def height(self) -> int:
        """In pixels, upright."""
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        """In pixels, upright."""
        return int(self.rgb.shape[1])

    @property
    def format(self) -> str | None:
        """ "JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", or None for arrays."""
        return self.coding.format

    @cached_property
    def rgb8(self) -> Array:
        """H×W×3 uint8, read-only: what detectors see."""
        return self.rgb if self.rgb.dtype == np.uint8 else pixels.frozen(pixels.eight_bit(self.rgb))

    @cached_property
    def translucent(self) -> bool:
        """Whether some of it lets what lies below shine through: its opacity is a picture, too."""
        alpha = self.samples.alpha
        return alpha is not None and bool(((alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)).any())

    def over(self, level: int) -> Array:
        """H×W×3 uint8: how it looks on a page of that grey level, 0..255."""
        alpha = self.samples.alpha
        if alpha is None:
            return self.rgb8
        return pixels.over(self.rgb8, pixels.eight_bit(alpha), level)

    def replaced(self, rgb: Array, touched: Array) -> "Photo":
        """The photo with new colours where `touched`; all other native samples stay identical.

        A grey photo takes the luma of the new colours, a black-and-white one its threshold at
        half, CMYK the colours without black ink, transparency stays. A palette keeps its size if it
        can; otherwise the photo becomes RGB(A), and GIF the nearest colours.

        Args:
            rgb: H×W×3 in the type of `self.rgb`; values where not `touched` are ignored.
            touched: H×W bool.

        Raises:
            OptionError: shape or type do not fit.
        """
        self._check(rgb, touched)
        if not touched.any():
            return self
        if self.samples.model != "palette":
            samples = self.samples.with_rgb(rgb, touched)
            shown = self.rgb.copy()
            shown[touched] = samples.rgb(samples.values[touched])
            return replace(self, rgb=shown, samples=samples)
        gif = self.format == "GIF"
        samples = palette.repainted(self.samples, rgb, touched, must_fit=gif)
        return replace(self, rgb=samples.rgb(), samples=samples)

    def _check(self, rgb: Array, touched: Array) -> None:
        if rgb.shape != self.rgb.shape or rgb.dtype != self.rgb.dtype:
            raise OptionError(
                f"the new picture must be {self.rgb.shape} {self.rgb.dtype} like the photo, "
                f"got {rgb.shape} {rgb.dtype}"
            )
        if touched.shape != self.rgb.shape[:2] or touched.dtype != bool:
            raise OptionError(
                f"touched must be {self.rgb.shape[:2]} bool, got {touched.shape} {touched.dtype}"
            )

    def to_array(self) -> Array:
        """A fresh array as `from_array` takes it: H×W, H×W×3 or H×W×4, in the type of the samples.

        Palette, CMYK, black-and-white and grey with transparency come as RGB(A) or grey.
        """
        kinds = frozenset({"L", "RGB", "RGBA", "L16", "RGB16", "RGBA16", "LF", "RGBF", "RGBAF"})
        return pixels.fitted(self.samples, kinds).values.copy()

    def to_pil(self) -> Image.Image:
        """A Pillow image in the mode of the samples; 16-bit and float colour come in 8 bits."""
        return pixels.to_pil(self.samples)
