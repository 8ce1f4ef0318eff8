"""Key layouts of public AEI-Net checkpoints.

Three public implementations of FaceShifter released (or can train) checkpoints: taotaonice and
sber-swap share tensors and differ in names; mindslab differs in architecture too.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from facedeid.nets import load_official
from facedeid.nets.aei import AEIConfig, AEINet

__all__ = ["CONFIGS", "Layout", "load_aei", "official_keys", "part"]

Layout = Literal["taotaonice", "sber", "mindslab"]

CONFIGS: dict[Layout, AEIConfig] = {
    "taotaonice": AEIConfig(),
    "sber": AEIConfig(),
    "mindslab": AEIConfig(
        identity=256, norm="batch", kernel=3, mask="per-channel", output="sigmoid", bias=True
    ),
}
"""The networks of the public files. Identity: taotaonice and sber-swap take 512 values of unit
length (ArcFace, from the middle of the face resized to 112), mindslab 256. sber-swap also trains
with 1 or 3 convolutions per block (`convolutions`) and with LinkNet skips (`skip="add"`)."""

_LAYER = {"gamma": "conv1", "beta": "conv2", "gamma_id": "fc1", "beta_id": "fc2", "mask": "conv_h"}
_MINDSLAB_LAYER = {
    "norm": "BNorm",
    "gamma": "conv1",
    "beta": "conv2",
    "gamma_id": "fc_1",
    "beta_id": "fc_2",
    "mask": "conv_f",
}


def official_keys(net: AEINet, layout: Layout) -> dict[str, str]:
    """For each key of `net.state_dict()`, the key of the same tensor in an official file."""
    rename = _RENAME[layout]
    return {key: rename(key, net.config.convolutions) for key in net.state_dict()}


def load_aei(net: AEINet, state: Mapping[str, Tensor], layout: Layout) -> AEINet:
    """Copy a public checkpoint's state dict into a network of its configuration, strictly.

    mindslab's identity network (`Z.`) and discriminator (`D.`, see `part`) are passed over.

    Raises:
        WeightsError: keys are missing, unknown or of another shape; the network is unchanged.
    """
    own = {official: key for key, official in official_keys(net, layout).items()}
    others = ("D.", "Z.") if layout == "mindslab" else ()
    renamed = {own.get(k, k): tensor for k, tensor in state.items() if not k.startswith(others)}
    return load_official(net, renamed)


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state dict below `prefix` (such as "D."), without it."""
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _taotaonice(key: str, convolutions: int) -> str:
    return _faceshifter(key, lambda j: f"AAD{j + 1}", lambda j: f"conv{j + 1}")


def _sber(key: str, convolutions: int) -> str:
    def inside(j: int, offset: int) -> str:
        if j == convolutions:
            return f"last_add_block.{offset}"
        return f"add_blocks.{3 * j + offset}"

    return _faceshifter(key, lambda j: inside(j, 0), lambda j: inside(j, 2))


def _faceshifter(key: str, layer: Callable[[int], str], conv: Callable[[int], str]) -> str:
    where, rest = _split(key)
    match where:
        case ["encoder", "down", i]:
            return f"encoder.conv{int(i) + 1}.{rest}"
        case ["encoder", "up", i]:
            sub, leaf = rest.split(".")
            return f"encoder.deconv{int(i) + 1}.{('deconv', 'bn')[int(sub)]}.{leaf}"
        case ["generator", "start"]:
            return f"generator.up1.{rest}"
        case ["generator", "blocks", k, "norms", j]:
            sub, leaf = rest.split(".")
            return f"generator.AADBlk{int(k) + 1}.{layer(int(j))}.{_LAYER.get(sub, sub)}.{leaf}"
        case ["generator", "blocks", k, "convs", j]:
            return f"generator.AADBlk{int(k) + 1}.{conv(int(j))}.{rest}"
    raise AssertionError(key)


def _mindslab(key: str, convolutions: int) -> str:
    where, rest = _split(key)
    match where:
        case ["encoder", way, i]:
            return f"E.{'Encoder' if way == 'down' else 'Decoder'}.layer_{i}.{rest}"
        case ["generator", "start"]:
            return f"G.convt.{rest}"
        case ["generator", "blocks", k, "norms", j]:
            sub, leaf = rest.split(".")
            return f"G.model.layer_{k}.add{int(j) + 1}.{_MINDSLAB_LAYER[sub]}.{leaf}"
        case ["generator", "blocks", k, "convs", j]:
            return f"G.model.layer_{k}.conv{int(j) + 1}.{rest}"
    raise AssertionError(key)


def _split(key: str) -> tuple[list[str], str]:
    """`generator.blocks.3.norms.1.mask.weight` -> its place in the network, and the rest."""
    found = re.match(
        r"encoder\.(?:down|up)\.\d+|generator\.start|generator\.blocks\.\d+\.(?:norms|convs)\.\d+",
        key,
    )
    assert found, key
    return found[0].split("."), key[found.end() + 1 :]


_RENAME: dict[Layout, Callable[[str, int], str]] = {
    "taotaonice": _taotaonice,
    "sber": _sber,
    "mindslab": _mindslab,
}
