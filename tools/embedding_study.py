"""Feature embedding by groups of people, and whether the result is taken for the synthetic person.

    python tools/embedding_study.py --data celeba_256.tar --data aaf_256.tar --data synth_256.tar \\
        --recognizer facedeid-mobile --recognizer dlib --limit 100

Photos are aligned (256 px), as for training. A group is a data set (only people held out of
training, up to the limit) or, where file names begin with `label__`, all its photos of that label.
Prints a Markdown table: share of faces no longer matched with the very photo at the library's
threshold (SPR), of faces that HOG finds again, and mean SSIM of the landmarks' box; and, where the
bank has a recogniser's features, how often the result is accepted as the synthetic person
(Hanawa et al. 2024, section 4.6). Intervals are Clopper-Pearson, 95 %.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from facedeid.errors import OptionError
from facedeid.evaluation.intervals import clopper_pearson
from facedeid.faces import from_landmarks
from facedeid.losses import ssim
from facedeid.methods import parse
from facedeid.models import Models, Recognizer
from facedeid.random import stream
from facedeid.training.data import Faces, load_faces
from facedeid.verification import find_again


def groups(source: Path, limit: int) -> dict[str, Faces]:
    """The groups of one data set."""
    faces = load_faces([source], size=256)
    labels = [key.partition("__")[0] if "__" in key else "" for key in faces.keys]
    if not all(labels) or len(set(labels)) == 1:
        return {f"{source.stem}, held out": first(faces.part(held_out=True), limit)}
    found = {}
    for label in sorted(set(labels)):
        rows = [i for i, name in enumerate(labels) if name == label]
        found[f"{source.stem}, {label}"] = first(some(faces, rows), limit)
    return found


def first(faces: Faces, limit: int) -> Faces:
    """At most so many photos, evenly spread."""
    rows = np.linspace(0, len(faces) - 1, min(limit, len(faces))).round().astype(int)
    return some(faces, rows.tolist())


def some(faces: Faces, rows: list[int]) -> Faces:
    """Those photos."""
    keys = tuple(faces.keys[i] for i in rows)
    return Faces(faces.images[rows], faces.landmarks[rows], keys)


def share(hits: list[bool]) -> str:
    """A share with its interval."""
    found = clopper_pearson(sum(hits), len(hits))
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def study(name: str, faces: Faces, method: str, judges: list[Recognizer], models: Models) -> str:
    """One row of the table."""
    chosen = parse(method)
    rejected: dict[str, list[bool]] = {judge.name: [] for judge in judges}
    accepted: dict[str, list[bool]] = {judge.name: [] for judge in judges}
    found, similar = [], []
    for i, key in enumerate(faces.keys):
        before = faces.images[i : i + 1].float() / 127.5 - 1
        points = faces.landmarks[i : i + 1].float()
        made = chosen(before, models, random=[stream(0, key, i)], landmarks=points)
        written = ((made.faces + 1) * 127.5).round().byte()
        after = written.float() / 127.5 - 1
        for judge in judges:
            one, two = judge.embed(before, points), judge.embed(after, points)
            limit = judge.threshold("library")
            rejected[judge.name].append(bool(judge.distance(one, two)[0] >= limit))
            try:
                bank = models.identities(judge.name)
            except OptionError:
                continue
            target = bank[made.facts[0]["identity"]][None]
            accepted[judge.name].append(bool(judge.distance(two, target)[0] < limit))
        face, rgb = from_landmarks(points[0].double().numpy()), faces.images[i].permute(1, 2, 0)
        if find_again(rgb.numpy(), face, "hog") is not None:
            changed = written[0].permute(1, 2, 0).contiguous().numpy()
            found.append(find_again(changed, face, "hog") is not None)
        (left, top), (right, bottom) = points[0].amin(0).int(), points[0].amax(0).int()
        box = (..., slice(max(0, top), bottom), slice(max(0, left), right))
        similar.append(float(ssim(before[box], after[box])))
    cells = [name, str(len(faces)), *(share(hits) for hits in rejected.values())]
    cells += [share(found), f"{np.mean(similar):.3f} ± {np.std(similar) / len(similar) ** 0.5:.3f}"]
    cells += [share(hits) if hits else "" for hits in accepted.values()]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--method", default="feature-embedding")
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    models = Models()
    judges = [models.recognizer(name) for name in options.recognizer]
    known = parse(options.method).surrogates
    names = [f"{j.name}{' (wb)' if j.name in known else ''}" for j in judges]
    heads = ["group", "n", *(f"SPR, {n}" for n in names), "found", "SSIM"]
    heads += [f"taken for E, {n}" for n in names]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    with torch.inference_mode():
        for source in options.data:
            for name, faces in groups(source, options.limit).items():
                print(study(name, faces, options.method, judges, models), flush=True)


if __name__ == "__main__":
    main()
