"""Who was seen before, and as whom they were released: in memory, never on disk."""

import torch
from torch import Tensor

from facedeid.models.recognizers import Recognizer

__all__ = ["Album"]


class Album:
    """People by one recogniser's vectors, each with the number of a synthetic identity."""

    def __init__(self) -> None:
        self._vectors: list[Tensor] = []
        self._identities: list[int] = []

    def find(self, vector: Tensor, recognizer: Recognizer) -> int | None:
        """The identity of the nearest person within the recogniser's own threshold, if any."""
        if not self._vectors:
            return None
        known = torch.stack(self._vectors)
        distances = recognizer.distance(known, vector.cpu().expand_as(known))
        nearest = int(distances.argmin())
        if distances[nearest] >= recognizer.threshold("library"):
            return None
        return self._identities[nearest]

    def add(self, vector: Tensor, identity: int) -> None:
        """Remember a face D as released with that identity."""
        self._vectors.append(vector.detach().cpu())
        self._identities.append(identity)
