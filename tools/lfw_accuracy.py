"""Accuracy of recognisers on LFW View 2: ten folds of 300 genuine and 300 impostor pairs.

    python tools/lfw_accuracy.py --data lfw.tar --pairs pairs.txt --landmarks points.npz \
        --recognizer dlib --recognizer 'onnx:net.onnx?mean=0&std=1'

Prints, per recogniser: accuracy (threshold chosen on nine folds, judged on the tenth; mean and
standard error), best threshold on all pairs, accuracy at it, distances of genuine and impostor
pairs, and the share of genuine pairs accepted where one impostor pair in a thousand is.
Distances are those of facedeid: Euclidean, or 1 - cosine.

The landmarks (names: N, points: N×68×2) are found and kept in that file if it does not exist;
where HOG finds no face, the place where aligned photos have it is taken.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facedeid.evaluation.statistics import best_threshold, far_threshold, ten_fold_accuracy
from facedeid.faces import detect
from facedeid.landmarks import MEAN_FACE
from facedeid.models import Models, Recognizer

BATCH = 32


def read_pairs(path: Path) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Names of photos, and whether the two show one person."""
    pairs, same = [], []
    for line in path.read_text("utf-8").splitlines()[1:]:
        parts = line.split()
        if len(parts) == 3:
            parts = [parts[0], parts[1], parts[0], parts[2]]
            same.append(True)
        elif len(parts) == 4:
            same.append(False)
        else:
            raise SystemExit(f"{path}: not a pair: {line}")
        first, second = (f"{n}/{n}_{int(i):04d}.jpg" for n, i in (parts[:2], parts[2:]))
        pairs.append((first, second))
    return pairs, np.array(same)


def photos(path: Path, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Name (`Person/Person_0001.jpg`) and pixels of the wanted photos of a tar file."""
    with tarfile.open(path) as archive:
        for member in archive:
            name = "/".join(member.name.split("/")[-2:])
            if member.isfile() and name in wanted:
                data = archive.extractfile(member).read()
                yield name, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def found_landmarks(rgb: np.ndarray) -> np.ndarray:
    """Of the face nearest to the middle of the photo."""
    middle = np.array(rgb.shape[1::-1]) / 2
    faces = detect(rgb)
    if not faces:
        return (MEAN_FACE - 0.5) * 0.68 * rgb.shape[0] + middle
    return min(
        (face.landmarks for face in faces), key=lambda p: float(np.hypot(*(p.mean(0) - middle)))
    )


def landmarks(path: Path, data: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """From the file, or found and written there."""
    if not path.exists():
        found = {name: found_landmarks(rgb) for name, rgb in photos(data, wanted)}
        np.savez(path, names=list(found), points=np.stack(list(found.values())))
    with np.load(path) as held:
        return dict(zip(held["names"].tolist(), held["points"].astype(float), strict=True))


def embeddings(
    recognizers: list[Recognizer], data: Path, points: dict[str, np.ndarray], wanted: set[str]
) -> list[dict[str, torch.Tensor]]:
    """Of every wanted photo, per recogniser."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in recognizers]
    names: list[str] = []
    chips: list[list[torch.Tensor]] = [[] for _ in recognizers]

    def flush() -> None:
        for recognizer, mine, cut in zip(recognizers, found, chips, strict=True):
            mine.update(zip(names, recognizer.embed_chips(torch.cat(cut)), strict=True))
            cut.clear()
        names.clear()

    for name, rgb in photos(data, wanted):
        names.append(name)
        for recognizer, cut in zip(recognizers, chips, strict=True):
            cut.append(recognizer.spec.crop.chips_from_photo(rgb, [points[name]]))
        if len(names) == BATCH:
            flush()
    if names:
        flush()
    return found


def figures(distances: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """What is printed, by name."""
    folds = ten_fold_accuracy(distances, same)
    best = best_threshold(distances, same)
    impostors, genuine = distances[~same], distances[same]
    strict = far_threshold(impostors, 1e-3)  # below it: one in a thousand
    return {
        "accuracy": 100 * folds.mean,
        "error": 100 * folds.standard_error,
        "single": 100 * float(((distances < best) == same).mean()),
        "best": best,
        "genuine": float(genuine.mean()),
        "genuine_sd": float(genuine.std()),
        "impostor": float(impostors.mean()),
        "impostor_sd": float(impostors.std()),
        "tar": 100 * float((genuine < strict).mean()),
        "strict": strict,
    }


HEAD = (
    "| recogniser | accuracy % | single % | best threshold | genuine | impostor "
    "| TAR % at FAR 1e-3 |\n|---|---|---|---|---|---|---|"
)
ROW = (
    "| {name} | {accuracy:.2f} ± {error:.2f} | {single:.2f} | {best:.4f} "
    "| {genuine:.3f} ± {genuine_sd:.3f} | {impostor:.3f} ± {impostor_sd:.3f} "
    "| {tar:.2f} at {strict:.3f} |"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--landmarks", type=Path, required=True)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    pairs, same = read_pairs(options.pairs)
    wanted = {name for pair in pairs for name in pair}
    points = landmarks(options.landmarks, options.data, wanted)
    models = Models(options.device)
    recognizers = [models.recognizer(text) for text in options.recognizer]
    print(HEAD)
    found = embeddings(recognizers, options.data, points, wanted)
    for recognizer, mine in zip(recognizers, found, strict=True):
        missing = sorted(wanted - set(mine))
        if missing:
            raise SystemExit(f"{len(missing)} photos are missing, for instance {missing[0]}")
        a, b = (torch.stack([mine[pair[i]] for pair in pairs]) for i in (0, 1))
        distances = recognizer.distance(a, b).numpy().astype(float)
        print(ROW.format(name=recognizer.name, **figures(distances, same)))


if __name__ == "__main__":
    main()
