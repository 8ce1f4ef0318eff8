"""One random stream per face, so that batch size, order and number of workers change no draw.

Results are the same to within rounding, which the number of threads decides; `fsap` and the pixel
attacks, which follow signs of gradients, turn that into visible differences.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded", "stream"]


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's default generator begins at the seed (initial weights draw from it), and goes on
    afterwards as if nothing had happened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
