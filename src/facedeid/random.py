"""One random stream per face, so that batch size, order and number of workers change no result."""

import hashlib
import secrets

import torch

__all__ = ["stream"]


def stream(seed: int | None, *key: str | int) -> torch.Generator:
    """A CPU generator for one face.

    With a seed, the stream depends only on the seed and the key (say, the photo's relative path
    and the number of the face in it). Without one, it starts from the operating system's entropy.
    """
    generator = torch.Generator("cpu")
    if seed is None:
        generator.manual_seed(secrets.randbits(63))
    else:
        digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator
