"""Arrays and Pillow images to photos."""

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from facedeid.errors import FacedeidError, OptionError, PhotoError
from facedeid.imaging import carried, native
from facedeid.imaging.metadata import Metadata
from facedeid.imaging.photo import Photo
from facedeid.imaging.pixels import Samples
from facedeid.imaging.quiet import quiet

__all__ = ["from_array"]


def from_array(array: Any) -> Photo:
    """A photo from the Python side.

    Args:
        array: H×W (grey), H×W×3 (RGB) or H×W×4 (RGBA), uint8, uint16, or float in [0, 1]; or a
            Pillow image, whose orientation is baked in and of whose metadata the ICC profile
            stays.

    Raises:
        OptionError: another shape, type or range.
        PhotoError: the Pillow image cannot be decoded.
    """
    if isinstance(array, Image.Image):
        return _from_image(array)
    if not isinstance(array, np.ndarray):
        raise OptionError(f"expected an array or a Pillow image, got {type(array).__name__}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise OptionError(f"a photo must be H×W, H×W×3 or H×W×4, got {array.shape}")
    if not array.size:
        raise OptionError(f"a photo must have pixels, got {array.shape}")
    model: Any = "grey" if array.ndim == 2 else "rgb" if array.shape[2] == 3 else "rgba"
    if array.dtype == np.uint8 or array.dtype == np.uint16:
        return Photo.of(Samples(array.copy(), model, high=np.iinfo(array.dtype).max))
    if array.dtype.kind != "f":
        raise OptionError(f"a photo must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # also NaN
        raise OptionError("a float photo must lie in [0, 1]; divide by 255 first?")
    return Photo.of(Samples(array.copy(), model, high=1.0))


def _from_image(image: Image.Image) -> Photo:
    with quiet:
        try:
            image.load()  # which turns a TIFF, and says so in its metadata
            orientation, metadata, _ = carried.metadata(image, b"", "")
            samples = native.from_pillow(image)
        except FacedeidError:
            raise
        except Exception as error:  # opened lazily, so damage shows only now
            raise PhotoError(f"the image cannot be decoded: {error}") from error
    upright = replace(samples, values=native.upright(samples.values, orientation))
    kept = carried.matching(Metadata(icc=metadata.icc), samples.model)
    return Photo.of(upright, metadata=kept)
