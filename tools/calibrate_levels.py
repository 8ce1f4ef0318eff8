"""Measures what each β of the private encoder that ships gives, and writes it into its file.

    python tools/calibrate_levels.py --data celeba_256.tar --data aaf_256.tar [--limit 300]

The mean similarity by facedeid-mobile on photos of people held out from training, for β = 0, 0.1,
... 1, goes into the file's metadata (`similarity`): `target_similarity` of the method
`private-encoder` is looked up there. Then run tools/manifest.py.
"""

import argparse
import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from facedeid.methods.private import FILE, PrivateEncoding
from facedeid.models import Models
from facedeid.random import stream
from facedeid.training.data import load_faces

DATA = Path(__file__).parents[1] / "src" / "facedeid" / "data"
CHUNK = 16


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int, default=300, help="photos in all")
    given = parser.parse_args()
    held = load_faces(given.data, size=256).part(held_out=True)
    chosen = range(0, len(held), max(1, len(held) // given.limit))
    photos, landmarks = held.images[list(chosen)], held.landmarks[list(chosen)]
    models, curve = Models(), []
    for tenth in range(11):
        method = PrivateEncoding(beta=tenth / 10, tries=1, retouch=0)  # as for a likeness
        found = []
        for images, points in zip(photos.split(CHUNK), landmarks.split(CHUNK), strict=True):
            random = [stream(0)] * len(images)
            result = method(images.float() / 127.5 - 1, models, random=random, landmarks=points)
            found += [fact["similarity"] for fact in result.facts]
        curve.append([method.beta, round(sum(found) / len(found), 4)])
        print(*curve[-1], f"n = {len(found)}", flush=True)
    with safe_open(DATA / FILE, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads((file.metadata() or {}).get("facedeid", "{}"))
    facts["similarity"] = curve
    save_file(state, DATA / FILE, {"facedeid": json.dumps(facts)})


if __name__ == "__main__":
    main()
