"""Seconds per face of methods with networks, on the portraits of the packages.

    python benchmarks/attacks.py [--methods private-encoder fsap] [--batch 1 8] [--threads 2]

A batch repeats the two portraits. Wall-clock and CPU time of this process. On a busy machine take
one thread and look at the CPU time: threads that wait for each other there spend most of it.
"""

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facedeid.faces import align, detect, frame
from facedeid.methods import parse
from facedeid.models import Models
from facedeid.random import stream

METHODS = ("feature-embedding", "feature-embedding:tries=1", "lgc", "fawkes", "tip-im")


def portraits() -> list[NDArray[np.uint8]]:
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return [skimage.data.astronaut(), np.asarray(Image.open(hopper).convert("RGB"))]


def aligned() -> tuple[Tensor, Tensor]:
    crops, points = [], []
    for photo in portraits():
        face = max(detect(photo), key=lambda f: f.score)
        canonical = frame(face, 256)
        crops.append(align(photo, canonical))
        points.append(torch.from_numpy(canonical.to_frame(face.landmarks)).float())
    return torch.stack(crops), torch.stack(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    crops, points = aligned()
    models = Models()
    for text in ("lgc:iterations=1", "feature-embedding", "private-encoder"):  # reads the networks
        parse(text)(crops, models, random=[stream(0), stream(1)], landmarks=points)
    print("| method | batch | wall s/face | CPU s/face | distances of the first two |")
    print("| --- | ---: | ---: | ---: | --- |")
    for text in options.methods:
        method = parse(text)
        for count in options.batch:
            rows = torch.arange(count) % len(crops)
            random = [stream(0, i) for i in range(count)]
            wall, cpu = time.perf_counter(), time.process_time()
            result = method(crops[rows], models, random=random, landmarks=points[rows])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seen = "; ".join(
                ", ".join(f"{k} {v:.2f}" for k, v in f.get("distances", {}).items())
                for f in result.facts[:2]
            )
            print(
                f"| {text} | {count} | {wall / count:.3f} | {cpu / count:.3f} | {seen} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
