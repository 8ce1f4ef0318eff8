"""A 12-megapixel photo with ten portraits: faces found, time per stage, peak memory; and the same
blur job for the PyPI tool deface 1.5.0 on the same photos, in turn with ours.

    python benchmarks/pipeline.py [--deface PATH/TO/deface] [--photos 4]

deface lives in an environment of its own (pip install deface==1.5.0 onnxruntime). A face counts as
found when the picture inside its eyes and mouth has changed, for both tools alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import skimage.data
from PIL import Image

WIDTH, HEIGHT = 4000, 3000
SIDES = (700, 420, 300, 220, 160, 120, 88, 60, 40, 28)
"""Sides of the ten faces in pixels, brows to chin."""


def portraits() -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    """Two portraits and the centre and side of the face in each."""
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    whole = [
        (skimage.data.astronaut(), (220, 121, 90)),
        (np.asarray(Image.open(hopper).convert("RGB")), (262, 242, 193)),
    ]
    cut = []
    for picture, (x, y, side) in whole:
        left, top = x - round(0.9 * side), max(0, y - round(1.2 * side))
        tight = picture[top : y + round(1.2 * side), left : x + round(0.9 * side)]
        cut.append((tight, (float(x - left), float(y - top), float(side))))
    return cut


def scene(seed: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """A photo, and per face its centre and side."""
    random = np.random.default_rng(seed)
    coffee = cv2.resize(skimage.data.coffee(), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    canvas = cv2.GaussianBlur(coffee, (0, 0), 5)
    canvas = np.clip(canvas + random.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)
    places, truth, sources = [], [], portraits()
    for number, side in enumerate(SIDES):
        picture, (x, y, own) = sources[(number + seed) % 2]
        if random.random() < 0.5:
            picture, x = picture[:, ::-1], picture.shape[1] - 1 - x
        scale = side / own
        size = tuple(max(1, round(n * scale)) for n in picture.shape[1::-1])
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(picture, size, interpolation=kind)
        for _ in range(10_000):
            left = int(random.integers(0, WIDTH - size[0]))
            top = int(random.integers(0, HEIGHT - size[1]))
            box = (left, top, left + size[0], top + size[1])
            if all(
                box[0] > p[2] or p[0] > box[2] or box[1] > p[3] or p[1] > box[3] for p in places
            ):
                break
        else:
            raise RuntimeError("no room left; choose another seed")
        places.append(box)
        canvas[box[1] : box[3], box[0] : box[2]] = small
        truth.append((round(left + x * scale), round(top + y * scale), side))
    return canvas, truth


def found(before: np.ndarray, after: np.ndarray, truth: list[tuple[int, int, int]]) -> int:
    """Faces whose inner half has changed visibly."""
    count = 0
    for x, y, side in truth:
        half = max(4, side // 4)
        inner = (slice(y - half, y + half), slice(x - half, x + half))
        change = np.abs(before[inner].astype(int) - after[inner])
        count += bool(change.mean() > 4)
    return count


@dataclass
class Timing:
    seconds: float
    peak_mb: float


def timed(command: list[str]) -> Timing:
    """Wall time of a whole process and the peak of its largest process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode not in (0, 3, 4):
        sys.exit(f"{command[0]} failed:\n{errors.decode()[-2000:]}")
    return Timing(seconds, 0.0)


def measured(command: list[str]) -> Timing:
    """Like `timed`, with the peak memory, through /usr/bin/time where there is one."""
    gnu = shutil.which("time", path="/usr/bin:/bin")
    if gnu is None:
        return timed(command)
    with tempfile.NamedTemporaryFile("r") as note:
        timing = timed([gnu, "-f", "%M", "-o", note.name, *command])
        return Timing(timing.seconds, float(Path(note.name).read_text().split()[-1]) / 1024)


def ours(folder: Path, out: Path, min_face: int) -> list[str]:
    return [
        sys.executable, "-m", "facedeid", "protect", str(folder), "-o", str(out), "-m", "blur",
        "--min-face", str(min_face), "--jobs", "2", "--on-unprotected", "release", "--overwrite",
    ]  # fmt: skip


def theirs(tool: str, folder: Path) -> list[str]:
    """It writes NAME_anonymized.jpg beside the photos."""
    files = sorted(p for p in folder.glob("*.jpg") if "_anonymized" not in p.name)
    return [tool, "--replacewith", "blur", *map(str, files)]


def stages(report: Path) -> dict[str, float]:
    """Median seconds per stage over the photos of a report."""
    records = [json.loads(line) for line in report.read_text().splitlines()]
    seconds = [r["seconds"] for r in records if r.get("type") == "photo"]
    return {s: round(statistics.median(x.get(s, 0) for x in seconds), 3) for s in seconds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deface", default=shutil.which("deface"))
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-face", type=int, nargs="+", default=[24, 80])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        root = Path(base)
        folder = root / "photos"
        folder.mkdir()
        truths = {}
        for seed in range(options.photos):
            picture, truths[f"{seed}.jpg"] = scene(seed)
            Image.fromarray(picture).save(folder / f"{seed}.jpg", quality=92)
        jobs = {f"facedeid --min-face {side}": side for side in options.min_face}
        print(
            f"{options.photos} photos of {WIDTH}×{HEIGHT}, ten faces each, {os.cpu_count()} cores"
        )
        rows: dict[str, list[Timing]] = {}
        for _ in range(options.rounds):
            for name, min_face in jobs.items():
                out = root / f"out{min_face}"
                rows.setdefault(name, []).append(measured(ours(folder, out, min_face)))
            if options.deface:
                shutil.copytree(folder, root / "deface", dirs_exist_ok=True)
                command = theirs(options.deface, root / "deface")
                rows.setdefault("deface 1.5.0", []).append(measured(command))
        large = {k: [t for t in v if t[2] >= 80] for k, v in truths.items()}
        for name, timings in rows.items():
            seconds = statistics.median(t.seconds for t in timings)
            peak = max(t.peak_mb for t in timings)
            counts = []
            for truth in (truths, large):
                hits = 0
                for file, faces in truth.items():
                    before = np.asarray(Image.open(folder / file))
                    if name.startswith("deface"):
                        after = root / "deface" / f"{Path(file).stem}_anonymized.jpg"
                    else:
                        after = root / f"out{jobs[name]}" / file
                    hits += found(before, np.asarray(Image.open(after).convert("RGB")), faces)
                counts.append(f"{hits}/{sum(map(len, truth.values()))}")
            print(
                f"{name:24} {options.photos / seconds:6.3f} photos/s  faces {counts[0]}, "
                f"of 80 px and more {counts[1]}  peak {peak:.0f} MB  "
                f"(seconds: {', '.join(f'{t.seconds:.1f}' for t in timings)})"
            )
        for name, min_face in jobs.items():
            report = root / f"out{min_face}" / "facedeid-report.jsonl"
            print(f"{name}: seconds per photo {stages(report)}")


if __name__ == "__main__":
    main()
