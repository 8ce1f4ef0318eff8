"""The bank of synthetic identities: features of generated people, no pictures.

    python tools/identity_bank.py --data synth_256.tar --recognizer dlib --recognizer ...

The archive holds aligned portraits of people who do not exist, named GROUP_...; the training part
of the split is used, at most `--most` of each group. Writes `identities.safetensors` in the data
folder of the package:
per recogniser N×D float16, and in the metadata the groups and each recogniser's name.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from facedeid.models import Models
from facedeid.training.data import load_faces

TARGET = Path(__file__).parents[1] / "src" / "facedeid" / "data" / "identities.safetensors"
BATCH = 32


def main() -> None:
    """Write the bank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--most", type=int, default=100)
    options = parser.parse_args()
    faces = load_faces([options.data], size=256).part(held_out=False)
    taken: Counter[str] = Counter()
    chosen, groups = [], []
    for i, key in enumerate(faces.keys):
        group = key.split("_")[0]
        if taken[group] < options.most:
            taken[group] += 1
            chosen.append(i)
            groups.append(group)
    features = {}
    for name in options.recognizer:
        net = Models().recognizer(name)
        parts = [
            net.embed(faces.images[rows].float() / 127.5 - 1, faces.landmarks[rows])
            for rows in torch.tensor(chosen).split(BATCH)
        ]
        features[name] = torch.cat(parts).half().contiguous()
    facts = {"groups": groups, "people": len(groups), "generated": True}
    save_file(features, TARGET, {"facedeid": json.dumps(facts)})
    print(f"{TARGET}: {len(groups)} identities, {dict(taken)}, {', '.join(features)}")


if __name__ == "__main__":
    main()
