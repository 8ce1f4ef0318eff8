"""NVIDIA's StyleGAN2-ADA generator weights, renamed to the layout of `stylegan2.Generator`.

The two hold the same numbers; what differs are names, singleton axes, and that the filters here
carry the gain of up-sampling. Layout: NVlabs/stylegan2-ada-pytorch, `training/networks.py`.
"""

from collections.abc import Mapping
from re import fullmatch

from torch import Tensor

from facedeid.errors import WeightsError

__all__ = ["from_nvidia"]

_UP_GAIN = 4.0
_STYLED = {
    "weight": ("conv.weight", (1,)),
    "bias": ("activate.bias", ()),
    "affine.weight": ("conv.modulation.weight", ()),
    "affine.bias": ("conv.modulation.bias", ()),
    "noise_strength": ("noise.weight", (1,)),
}
_RGB = {
    "weight": ("conv.weight", (1,)),
    "bias": ("bias", (1, -1, 1, 1)),
    "affine.weight": ("conv.modulation.weight", ()),
    "affine.bias": ("conv.modulation.bias", ()),
}


def from_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of an unconditional `G_ema` with skip connections.

    What the renamed dict has no place for: the mean latent, which is `state["mapping.w_avg"]`, and
    the activation clamp, an option of the generator (256 in NVIDIA's own mixed-precision files).

    Raises:
        WeightsError: a key is not one of such a network.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "mapping.w_avg" or fullmatch(r"synthesis\.b(4|\d+\.conv1)\.resample_filter", key):
            continue
        new, shaped = _renamed(key, value)
        renamed[new] = shaped
    return renamed


def _renamed(key: str, value: Tensor) -> tuple[str, Tensor]:
    if match := fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
        return f"style.{int(match[1]) + 1}.{match[2]}", value
    if key == "synthesis.b4.const":
        return "input.input", value[None]
    block = fullmatch(r"synthesis\.b(\d+)\.(?:(conv0|conv1|torgb)\.)?(.+)", key)
    if block and (found := _in_block(int(block[1]), block[2], block[3], value)):
        return found
    raise WeightsError(
        f"{key} has no place in an unconditional StyleGAN2 generator with skip connections; "
        "class-conditional networks and other variants are not supported"
    )


def _in_block(side: int, part: str | None, leaf: str, value: Tensor) -> tuple[str, Tensor] | None:
    """Block b4 is conv1 and to_rgb1; block i, of side 8·2^i, convs.2i, convs.2i+1 and to_rgbs.i."""
    i = side.bit_length() - 4
    if leaf == "resample_filter" and part != "torgb":
        stem = f"convs.{2 * i}.conv.blur" if part else f"to_rgbs.{i}.upsample"
        return f"{stem}.kernel", value * _UP_GAIN
    if part == "torgb" and leaf in _RGB:
        stem = "to_rgb1" if i < 0 else f"to_rgbs.{i}"
        return _shaped(stem, _RGB[leaf], value)
    layer = 2 * i + (part == "conv1")
    if part in ("conv0", "conv1") and leaf == "noise_const":
        return f"noises.noise_{layer + 1}", value[None, None]
    if part in ("conv0", "conv1") and leaf in _STYLED:
        return _shaped("conv1" if i < 0 else f"convs.{layer}", _STYLED[leaf], value)
    return None


def _shaped(stem: str, rule: tuple[str, tuple[int, ...]], value: Tensor) -> tuple[str, Tensor]:
    """A rule is the new name and the axes to put in front, or the shape with -1 in it."""
    name, shape = rule
    return f"{stem}.{name}", value.reshape(shape if -1 in shape else (*shape, *value.shape))
