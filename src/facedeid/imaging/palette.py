"""New colours in a picture with a palette."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facedeid.imaging.pixels import Samples

__all__ = ["repainted"]

Array = NDArray[Any]


def repainted(samples: Samples, rgb: Array, touched: Array, *, must_fit: bool) -> Samples:
    """Palette samples with new colours where `touched`; all others decode to the same colours.

    New colours go into palette entries that no other pixel uses. Where they do not all fit, the
    picture becomes RGB or RGBA, or, with `must_fit` (GIF has nothing else), the nearest of the
    colours that fit is taken and transparent pixels are left alone.

    Args:
        samples: of the model "palette".
        rgb: H×W×3 uint8.
        touched: H×W bool.
        must_fit: stay with a palette of 256 colours.
    """
    assert samples.palette is not None
    if must_fit:
        touched = touched & (samples.palette[samples.values, 3] > 0)
    wanted = np.concatenate([rgb[touched], samples.palette[samples.values[touched], 3:]], axis=1)
    colours, which = np.unique(wanted, axis=0, return_inverse=True)
    used = np.unique(samples.values[~touched])
    free = np.setdiff1d(np.arange(256), used)
    new = colours[~_among(colours, samples.palette[used])]
    if len(new) > len(free):
        if not must_fit:
            return _expanded(samples, rgb, touched)
        new = _fewer(new, len(free))
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = 255
    palette[: len(samples.palette)] = samples.palette
    palette[free[: len(new)]] = new
    entries = np.concatenate([used, free[: len(new)]]).astype(np.int64)
    values = samples.values.copy()
    values[touched] = entries[_nearest(colours, palette[entries])][which.reshape(-1)]
    return replace(samples, values=values, palette=palette[: int(values.max()) + 1])


def _packed(colours: Array) -> Array:
    packed: Array = np.ascontiguousarray(colours).view(np.uint32).reshape(-1)
    return packed


def _among(colours: Array, palette: Array) -> Array:
    among: Array = np.isin(_packed(colours), _packed(palette))
    return among


def _expanded(samples: Samples, rgb: Array, touched: Array) -> Samples:
    assert samples.palette is not None
    full = samples.palette[samples.values]
    full[touched, :3] = rgb[touched]
    if (full[..., 3] == 255).all():
        return Samples(full[..., :3], "rgb")
    return Samples(full, "rgba")


def _fewer(colours: Array, count: int) -> Array:
    """At most `count` opaque colours that stand for all of them."""
    if count == 0:
        return colours[:0]
    strip = Image.fromarray(np.ascontiguousarray(colours[None, :, :3]))
    reduced = strip.quantize(min(count, 256)).convert("RGB")
    chosen: Array = np.unique(np.asarray(reduced)[0], axis=0)
    opaque = np.full((len(chosen), 1), 255, np.uint8)
    return np.concatenate([chosen, opaque], axis=1)


def _nearest(colours: Array, palette: Array) -> Array:
    """Index of the nearest entry per colour; transparency weighs more than any colour."""
    weights = np.array([1, 1, 1, 4], np.float32)
    entries = palette * weights
    sizes = np.square(entries).sum(1)
    found = np.zeros(len(colours), np.int64)
    for i in range(0, len(colours), 4096):
        part = colours[i : i + 4096] * weights
        found[i : i + 4096] = np.argmin(sizes - 2 * part @ entries.T, axis=1)
    return found
