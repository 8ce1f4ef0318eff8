"""Compares recognisers with golden embeddings of the astronaut (skimage.data.astronaut()).

    python tools/check_recognizers.py FOLDER [golden.json]

FOLDER holds mobilefacenet_casia.safetensors, mobileface_v2.onnx and mobilefacenet_mxnet.onnx; the
first two are imported into a temporary store, the last is only run here. golden.json (by default
in FOLDER) holds five landmarks, the sum over their chip, and whole embeddings. Exit status 1 if a
chip's sum is off by more than 10 or a value of an embedding of the chip by more than 1e-3. dlib's
chip is the one that dlib cuts out; "photo" and "frame" say how far the library's own crops lead.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import dlib
import numpy as np
import skimage.data
import torch

from facedeid import checkpoints
from facedeid.landmarks import FIVE_POINTS
from facedeid.models import ARCFACE_CROP, DLIB_CROP, Models, Recognizer

NAMES = {
    "mfn_casia": "mobilefacenet-casia",
    "mfn_mxnet": "onnx:{folder}/mobilefacenet_mxnet.onnx?mean=0&std=1&backend=onnxruntime",
    "mobileface_v2": "mobileface-v2",
    "dlib": "dlib",
}
FILES = {
    "mobilefacenet_casia": "mobilefacenet_casia.safetensors",
    "mobileface_v2": "mobileface_v2.onnx",
}


def spread(points: np.ndarray, groups: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """68 landmarks of which only these groups are set, each wholly to its point."""
    landmarks = np.zeros((68, 2))
    for group, point in zip(groups, points, strict=True):
        landmarks[list(group)] = point
    return landmarks


def canonical(rgb: np.ndarray, landmarks: np.ndarray, recognizer: Recognizer) -> np.ndarray:
    """The embedding by the differentiable path, from a frame that is the photo around the face."""
    crop = rgb[0:256, 96:352]
    face = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    points = torch.from_numpy(landmarks - [96, 0])[None]
    with torch.no_grad():
        return recognizer.embed(face, points)[0].numpy()


def dlib_chip(rgb: np.ndarray, points: np.ndarray) -> torch.Tensor:
    """What dlib itself cuts out, 1×3×150×150."""
    box = dlib.rectangle(0, 0, 1, 1)
    shape = dlib.full_object_detection(box, [dlib.point(int(x), int(y)) for x, y in points])
    chip = dlib.get_face_chip(rgb, shape, DLIB_CROP.size, 0.25)
    return torch.from_numpy(chip.copy()).permute(2, 0, 1)[None].float()


def check(golden: dict, name: str, recognizer: Recognizer) -> bool:
    """Print a line; False if it is wrong."""
    rgb = skimage.data.astronaut()
    crop = recognizer.spec.crop
    own = crop is DLIB_CROP
    five = np.array(golden["l5_dlib" if own else "p5"])
    points = spread(five, crop.groups)
    chips = dlib_chip(rgb, five) if own else crop.chips_from_photo(rgb, [points])
    want = np.array(golden["embeddings"][name]["values"])
    found = (
        recognizer.embed_chips(chips)[0].numpy(),
        recognizer.embed_photo(rgb, [points])[0].numpy(),
        canonical(rgb, points, recognizer),
    )
    off = [float(np.abs(embedding - want).max()) for embedding in found]
    good = off[0] <= 1e-3
    kind = "differentiable" if recognizer.differentiable else "onnxruntime"
    text = "  ".join(f"{value:.1e}" for value in off)
    print(f"{'ok' if good else 'FAILED':6} {name:14} {text}  {kind}")
    return good


def main() -> int:
    """Check all four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path, nargs="?")
    options = parser.parse_args()
    golden = json.loads((options.golden or options.folder / "golden.json").read_text("utf-8"))
    points = spread(np.array(golden["p5"]), FIVE_POINTS)
    total = float(ARCFACE_CROP.chips_from_photo(skimage.data.astronaut(), [points]).double().sum())
    results = [abs(total - golden["chip_sum"]) <= 10]
    print(f"{'ok' if results[0] else 'FAILED':6} chip           {total - golden['chip_sum']:+.0f}")
    print("       recogniser     chip     photo    frame    (largest difference of a value)")
    with tempfile.TemporaryDirectory() as store:
        os.environ["FACEDEID_MODELS"] = store
        for name, file in FILES.items():
            checkpoints.import_checkpoint(name, options.folder / file)
        models = Models()
        for name, text in NAMES.items():
            recognizer = models.recognizer(text.format(folder=options.folder))
            results.append(check(golden, name, recognizer))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
