"""Weights and inputs that follow from names alone, so that a golden stores outputs only.

Every value is a draw from `RandomState((crc32(name) + 7919·seed) mod 2³²)`, scaled by a rule that
depends on the key's name and shape. Any implementation with the official state-dict keys can be
filled in the same way and then has to give the stored outputs.
"""

import zlib
from collections.abc import Callable, Collection
from math import prod, sqrt
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["GOLDENS", "fill", "tensor", "value"]

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"

Style = str | Callable[[str], str]
"""`plain`, `stylegan2` (equalised learning rate), or which of the two by the key's name."""

M = TypeVar("M", bound=nn.Module)


def fill(
    module: M,
    style: Style = "plain",
    *,
    seed: int = 0,
    keep: Collection[str] = (),
    prefix: str = "",
    gain: float = 1.0,
) -> M:
    """Fill every weight and buffer of `module`; filter kernels and the keys in `keep` stay.

    `prefix` goes before each key when it is hashed: a part filled as if it were in the whole.
    """
    state = module.state_dict()
    keys = {prefix + key for key in state}
    filled = {
        key: old
        if key.endswith((".kernel", "resample_filter")) or key in keep
        else _new(prefix + key, old, keys, style(key) if callable(style) else style, seed, gain)
        for key, old in state.items()
    }
    _fill_spectral_norms(filled, prefix, seed)
    module.load_state_dict(filled)
    return module


def tensor(
    name: str,
    shape: tuple[int, ...],
    seed: int = 0,
    lo: float | None = None,
    hi: float = 1.0,
) -> Tensor:
    """A fixed input: normal, or with `lo` uniform in [lo, hi)."""
    random = _random(name, seed)
    draw = random.standard_normal(shape) if lo is None else random.uniform(lo, hi, shape)
    return torch.from_numpy(draw.astype(np.float32))


def value(
    key: str, shape: tuple[int, ...], keys: Collection[str], style: str, seed: int, gain: float
) -> NDArray[np.float64]:
    """The float64 values of one key; `keys` are all keys of the state dict."""
    draw = _random(key, seed).standard_normal(shape)
    stem, _, leaf = key.rpartition(".")
    if leaf == "running_mean":
        return 0.1 * draw
    if leaf == "running_var":
        return 0.5 + np.abs(draw)
    if f"{stem}.running_mean" in keys:  # the affine part of a BatchNorm
        return 1 + 0.1 * draw if leaf == "weight" else 0.1 * draw
    return _equalised(key, draw) if style == "stylegan2" else _plain(key, draw, gain)


def _equalised(key: str, draw: NDArray[np.float64]) -> NDArray[np.float64]:
    if key.endswith(("modulation.bias", "affine.bias")):
        return 1 + 0.1 * draw
    if key.startswith("style.") or ".style." in key or "mapping.fc" in key:
        return (draw if key.endswith(".weight") else 0.1 * draw) / 0.01  # its learning rate
    if draw.ndim >= 2 and not key.endswith(("noise.weight", "noise_strength", "w_avg")):
        return draw
    return 0.1 * draw


def _plain(key: str, draw: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    if draw.ndim >= 2:
        return gain * draw / sqrt(prod(draw.shape[1:]) or 1)
    if key.rpartition(".")[2] == "weight":  # PReLU
        return 0.25 + 0.05 * draw
    return 0.1 * draw


def _new(
    key: str, old: Tensor, keys: Collection[str], style: str, seed: int, gain: float
) -> Tensor:
    if not old.is_floating_point():
        return torch.zeros_like(old)
    values = value(key, tuple(old.shape), keys, style, seed, gain)
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(old.shape)


def _fill_spectral_norms(filled: dict[str, Tensor], prefix: str, seed: int) -> None:
    """Old-style spectral norm: u is the normalised draw of its key, v = Wᵀu normalised."""
    for key in [key for key in filled if key.endswith(".weight_orig")]:
        base = key.removesuffix("_orig")
        matrix = filled[key].flatten(1).double()
        draw = _random(f"{prefix}{base}_u", seed).standard_normal(len(matrix))
        u = torch.from_numpy(draw / np.linalg.norm(draw))
        v = matrix.t() @ u
        filled[f"{base}_u"], filled[f"{base}_v"] = u.float(), (v / v.norm()).float()


def _random(name: str, seed: int) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
