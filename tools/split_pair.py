"""Splits what the recipe `autoencoder` exports into the two files that ship.

    python tools/split_pair.py AUTOENCODER.safetensors [FOLDER]

`facedeid-generator.safetensors` gets the generator and the mean latent, and
`facedeid-encoder.safetensors` the encoder. Then run tools/manifest.py.
"""

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

DATA = Path(__file__).parents[1] / "src" / "facedeid" / "data"
PREFIX = "pair."


def main() -> None:
    """Read, split, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("export", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA)
    given = parser.parse_args()
    with safe_open(given.export, "pt") as file:
        state = {k.removeprefix(PREFIX): file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    encoder = {k: v for k, v in state.items() if k.startswith("encoder.")}
    generator = {k: v for k, v in state.items() if k not in encoder}
    save_file(encoder, given.folder / "facedeid-encoder.safetensors", facts)
    save_file(generator, given.folder / "facedeid-generator.safetensors", facts)


if __name__ == "__main__":
    main()
