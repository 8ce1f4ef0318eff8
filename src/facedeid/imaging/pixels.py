"""Samples as a file holds them, and the way between them and the RGB that everything else sees.

Colours are converted without colour management: the ICC profile travels with the file, and a
method that leaves a pixel alone must leave its samples alone too.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Samples", "eight_bit", "fitted", "frozen", "over", "to_pil"]

Array = NDArray[Any]
Model = Literal["grey", "greya", "rgb", "rgba", "cmyk", "palette"]

LUMA = np.array([0.299, 0.587, 0.114])
"""Rec. 601, as in JPEG and in Pillow."""


def frozen(array: Array) -> Array:
    """The same array, contiguous and read-only."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def eight_bit(array: Array) -> Array:
    """uint16 in 0..65535 to uint8, rounded; uint8 is returned as it is."""
    if array.dtype == np.uint8:
        return array
    return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Samples:
    """Native samples of one picture, upright.

    `values` is H×W (grey, palette indices) or H×W×C; bool (black and white), uint8, uint16, int32,
    or float. `low` and `high` are the sample values of black and white.
    """

    values: Array
    model: Model
    palette: Array | None = None
    """N×4 uint8, RGB and alpha."""
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values))

    @property
    def deep(self) -> bool:
        """Whether there are more than 8 bits in a sample."""
        return self.values.dtype not in (np.dtype(bool), np.dtype(np.uint8))

    @property
    def scaled(self) -> bool:
        """Whether samples are not simply 0..255 or 0..65535."""
        return self.values.dtype not in (np.dtype(bool), np.dtype(np.uint8), np.dtype(np.uint16))

    @property
    def kind(self) -> str:
        """Pillow's name of the mode, with "16" for 16 bits and "F" for other wide samples."""
        names = {"grey": "L", "greya": "LA", "rgb": "RGB", "rgba": "RGBA", "cmyk": "CMYK"}
        if self.model == "palette":
            return "P"
        if self.values.dtype == bool:
            return "1"
        return names[self.model] + ("F" if self.scaled else "16" if self.deep else "")

    @property
    def alpha(self) -> Array | None:
        """H×W uint8 or uint16, or None where the picture is opaque."""
        if self.model == "palette":
            assert self.palette is not None
            alpha = self.palette[:, 3][self.values]
            return None if (alpha == 255).all() else alpha
        return self._wide(self.values[..., -1]) if self.model in ("greya", "rgba") else None

    def rgb(self, values: Array | None = None) -> Array:
        """…×3 uint8, or uint16 for deep samples, of all samples or of those given."""
        values = self.values if values is None else values
        match self.model:
            case "grey":
                return np.repeat(self._wide(values)[..., None], 3, axis=-1)
            case "greya":
                return np.repeat(self._wide(values[..., :1]), 3, axis=-1)
            case "rgb" | "rgba":
                return self._wide(values[..., :3])
            case "cmyk":
                paper = (255 - values).astype(np.uint32)
                return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)
            case "palette":
                assert self.palette is not None
                return self.palette[:, :3][values]

    def with_rgb(self, rgb: Array, touched: Array) -> "Samples":
        """The same samples with new colours where `touched`; not for palettes.

        Args:
            rgb: H×W×3, in the type that `rgb` returns.
            touched: H×W bool.
        """
        values = self.values.copy()
        values[touched] = self._from_rgb(rgb[touched], values[touched])
        return replace(self, values=values)

    def _from_rgb(self, rgb: Array, old: Array) -> Array:
        """n×3 colours to n or n×C samples; alpha stays."""
        if self.model == "cmyk":  # no black: its plate alone would go on showing the old face
            return np.concatenate([255 - rgb, np.zeros_like(old[:, 3:])], axis=1)
        if self.model in ("grey", "greya"):
            rgb = np.rint(rgb @ LUMA)[:, None]
        colour = self._narrow(rgb)
        if self.model in ("greya", "rgba"):
            return np.concatenate([colour, old[:, -1:]], axis=1)
        return colour[:, 0] if self.model == "grey" else colour

    def _wide(self, values: Array) -> Array:
        """Samples as uint8 or uint16 levels."""
        if values.dtype == bool:
            return np.where(values, np.uint8(255), np.uint8(0))
        if not self.scaled:
            return values
        share: Array = (values - self._type(self.low)) * self._type(65535 / (self.high - self.low))
        levels: Array = np.rint(np.clip(share, 0, 65535)).astype(np.uint16)
        return levels

    def _narrow(self, levels: Array) -> Array:
        """Levels as samples."""
        if self.values.dtype == bool:
            return np.asarray(levels >= 128)
        if self.scaled:
            levels = self.low + levels.astype(np.float64) * ((self.high - self.low) / 65535)
            if self.values.dtype.kind == "i":
                levels = np.rint(levels)
        samples: Array = levels.astype(self.values.dtype)
        return samples

    def _type(self, value: float) -> Any:
        return np.float32(value) if self.values.dtype == np.float32 else np.float64(value)


def fitted(samples: Samples, kinds: frozenset[str]) -> Samples:
    """The same picture in one of the kinds that a format has.

    Whatever the format cannot hold is given up in this order: palette or ink, transparency (over
    white), depth.
    """
    if samples.kind in kinds:
        return samples
    rgb, alpha = samples.rgb(), samples.alpha
    deep = rgb.dtype == np.uint16 and "RGB16" in kinds
    if not deep:
        rgb, alpha = eight_bit(rgb), None if alpha is None else eight_bit(alpha)
    suffix, high = ("16", 65535) if deep else ("", 255)
    if alpha is not None and "RGBA" not in kinds:
        rgb, alpha = over(rgb, alpha, 255), None
    grey = samples.model in ("grey", "greya")
    if alpha is None:
        if grey and "L" + suffix in kinds:
            return Samples(rgb[..., 0], "grey", high=high)
        return Samples(rgb, "rgb", high=high)
    if grey and "LA" + suffix in kinds:
        return Samples(np.dstack([rgb[..., 0], alpha]), "greya", high=high)
    return Samples(np.dstack([rgb, alpha]), "rgba", high=high)


def over(rgb: Array, alpha: Array, level: int) -> Array:
    """H×W×3 and H×W uint8 on a page of one grey level."""
    opacity = alpha[..., None] / np.float32(255)
    return np.rint(rgb * opacity + level * (1 - opacity)).astype(np.uint8)


def to_pil(samples: Samples) -> Image.Image:
    """A Pillow image with the same samples; 16-bit colour, which Pillow lacks, in 8 bits."""
    values = samples.values
    if samples.kind in ("LA16", "RGB16", "RGBA16", "RGBF", "RGBAF", "LAF", "LF"):
        if samples.kind == "LF" and values.dtype in (np.dtype(np.int32), np.dtype(np.float32)):
            return Image.fromarray(values)
        samples = fitted(samples, frozenset({"L", "LA", "RGB", "RGBA"}))
        return to_pil(samples)
    if samples.model == "cmyk":
        return Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())
    if samples.palette is None:
        return Image.fromarray(values)
    image = Image.frombytes("P", values.shape[1::-1], values.tobytes())
    image.putpalette(samples.palette[:, :3].tobytes())
    if (samples.palette[:, 3] < 255).any():
        image.info["transparency"] = samples.palette[:, 3].tobytes()
    return image
