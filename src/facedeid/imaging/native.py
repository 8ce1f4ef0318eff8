"""Decoded Pillow images to native samples, upright."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facedeid.errors import PhotoError
from facedeid.imaging.deep import ranged
from facedeid.imaging.pixels import Samples

__all__ = ["from_pillow", "upright"]

Array = NDArray[Any]


def from_pillow(image: Image.Image) -> Samples:
    """The samples of an image, decoded if it was not yet.

    Raises:
        PhotoError: a mode that is not handled, or values that are not finite.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        values: Array = np.asarray(image).astype(np.uint16)
        if getattr(image, "tag_v2", {}).get(258) == (12,):
            values = values << 4 | values >> 8
        return _positive(image, Samples(values, "grey", high=65535))
    if mode in ("I", "F"):
        return _positive(image, ranged(np.asarray(image), "grey"))
    if mode == "P":
        return _from_palette(image)
    clear = image.info.get("transparency")
    if image.format == "GIF" and mode == "L" and isinstance(clear, int):
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
        palette[:, 3] = np.where(palette[:, 0] == clear, 0, 255)
        return Samples(np.array(image), "palette", palette)
    if mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif mode in ("RGBX", "YCbCr", "HSV"):
        image = image.convert("RGB")
    elif "transparency" in image.info and mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    models = {"1": "grey", "L": "grey", "LA": "greya", "RGB": "rgb", "RGBA": "rgba", "CMYK": "cmyk"}
    if image.mode not in models:
        raise PhotoError(f"pictures of the kind {mode} are not handled; convert it to RGB first")
    model: Any = models[image.mode]
    return Samples(np.array(image), model)


def _positive(image: Image.Image, samples: Samples) -> Samples:
    """Grey samples with black as the least; Pillow leaves TIFF's negatives beyond 8 bits alone."""
    if getattr(image, "tag_v2", {}).get(262) != 0:
        return samples
    values = samples.low + samples.high - samples.values
    return replace(samples, values=values.astype(samples.values.dtype))


def _from_palette(image: Image.Image) -> Samples:
    colours = np.frombuffer(image.im.getpalette("RGB", "RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = 255
    palette[: len(colours), :3] = colours[:256]
    if image.palette is not None and image.palette.mode == "RGBA":
        full = np.frombuffer(image.im.getpalette("RGBA", "RGBA"), np.uint8).reshape(-1, 4)
        palette[: len(full)] = full[:256]
    hidden = image.info.get("transparency")
    if isinstance(hidden, bytes):
        palette[: len(hidden), 3] = np.frombuffer(hidden[:256], np.uint8)
    elif isinstance(hidden, int) and 0 <= hidden < 256:
        palette[hidden, 3] = 0
    return Samples(np.array(image), "palette", palette)


def upright(values: Array, orientation: int) -> Array:
    """Samples turned as EXIF's orientation (1 to 8) says."""
    if orientation in (2, 7):
        values = values[:, ::-1]
    if orientation in (4, 5):
        values = values[::-1]
    turns = {3: 2, 5: 3, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(values, turns)
