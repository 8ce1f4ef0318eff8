"""How networks run quickest on the machine at hand."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["channels_last", "fast_bf16"]

_Net = TypeVar("_Net", bound=nn.Module)


def channels_last(model: _Net) -> _Net:
    """Filters laid out for channels last; other parameters (StyleGAN2 has five dimensions) not."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def fast_bf16(device: str) -> bool:
    """Whether bfloat16 pays: on GPUs from compute capability 8.0, and on CPUs with instructions for
    it (elsewhere it is emulated, many times slower than float32).
    """
    if device.startswith("cuda"):
        return not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] >= 8
    if not device.startswith("cpu"):
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper().startswith(("SSE", "AVX2")):
        return False  # oneDNN was told to leave those instructions alone
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
