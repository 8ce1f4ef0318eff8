"""The bank of synthetic identities as the embedding network and its recipe use it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.models.holder import Models

__all__ = ["CODED", "identity_codes", "lookalikes"]

CODED = ("dlib", "mobilefacenet-casia", "mobileface-v2")
"""Recognisers whose features, 512 numbers together, describe a synthetic identity."""


def identity_codes(models: Models) -> Tensor:
    """What the network is told of each synthetic identity: N×512.

    The features of each recogniser are centred over the bank, normalised, and scaled to unit
    variance.
    """
    parts = []
    for name in CODED:
        features = models.identities(name)
        parts.append(F.normalize(features - features.mean(0)) * features.shape[1] ** 0.5)
    return torch.cat(parts, 1)


def lookalikes(own: Tensor, models: Models, count: int) -> Tensor:
    """Per face (dlib's vectors N×128) the synthetic identities most like it: N×count indices."""
    bank = models.identities("dlib").cpu()
    return torch.cdist(own.cpu(), bank).topk(min(count, len(bank)), largest=False).indices
