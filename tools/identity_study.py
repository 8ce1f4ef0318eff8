"""IdentityDP over its budget, as in figures 4 and 5 of the paper, and what a swap does.

    python tools/identity_study.py --data lfw:PATH --cache results/cache --limit 60 \\
        --recognizer facedeid-mobile --recognizer dlib -o results/identity

The second photo of each genuine pair is de-identified. Everything is measured on the network's
output in the aligned 256 px frame, before it is pasted back, aligned by the original's landmarks.
Noise is seeded here, so that figures can be repeated; that is the one difference to a release.

`sweep.csv`, `sweep.png`: per sensitivity and ε, the mean identity distance to the photo itself, the
share of pairs still accepted (TAR, at the best-accuracy threshold), PSNR, SSIM, the share that HOG
finds of those in which it finds the original; with 95 % intervals. `swap.md`: with the identity of
another person, how often the result is nearer to that person than to the one in the photo, and is
accepted as either; and with one's own identity (ε = ∞) what the network gives back.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facedeid.evaluation import datasets
from facedeid.evaluation.intervals import clopper_pearson
from facedeid.evaluation.metrics import psnr, ssim
from facedeid.evaluation.originals import Originals
from facedeid.faces import align, detect, frame
from facedeid.methods import create
from facedeid.models import Models, Recognizer
from facedeid.privacy import empirical
from facedeid.random import stream

BUDGETS = (0.01, 0.57, 6, 25, 50, 100, 200, 400, 800, 1600, 3200, 10_000, math.inf)


@dataclass(frozen=True)
class Subject:
    """One genuine pair: embeddings of the first photo by judge, the second photo's face."""

    key: str
    first: dict[str, Tensor]
    crop: Tensor
    points: Tensor
    found: bool


def subjects(data: str, cache: Path, limit: int, judges: list[Recognizer], models: Models):
    """The first genuine pairs."""
    dataset = datasets.load(data)
    originals = Originals(dataset, models, cache)
    for pair in dataset.genuine(limit):
        one, two = originals.face(pair.first), originals.face(pair.second)
        if one is None or two is None:
            continue
        place = frame(two, 256)
        crop = align(dataset.read(pair.second), place)[None]
        points = torch.from_numpy(place.to_frame(two.landmarks)).float()[None]
        first = {
            j.name: j.embed_photo(dataset.read(pair.first), [one.landmarks])[0] for j in judges
        }
        yield Subject(pair.second, first, crop, points, bool(detect(levels(crop))))


def levels(crop: Tensor) -> np.ndarray:
    """1×3×H×W in [-1, 1] -> H×W×3 uint8."""
    return ((crop[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def mean(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by the normal approximation."""
    x = np.asarray(values)
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def share(hits: list[bool]) -> tuple[float, float, float]:
    """Share and its Clopper-Pearson interval."""
    found = clopper_pearson(sum(hits), len(hits))
    return found.value, found.low, found.high


def sweep(
    people: list[Subject], judges: list[Recognizer], measured: float, models: Models
) -> Iterator[dict[str, object]]:
    """Rows of the table."""
    for kind in ("bounded", "empirical"):
        more = {} if kind == "bounded" else {"sensitivity": kind, "measured": measured}
        for epsilon in BUDGETS:
            method = create("identity-dp", epsilon=epsilon, seeded=True, **more)
            apart: dict[str, list[float]] = {j.name: [] for j in judges}
            kept: dict[str, list[bool]] = {j.name: [] for j in judges}
            noise, same, found = [], [], []
            for person in people:
                made = method(
                    person.crop,
                    models,
                    random=[stream(0, person.key)],
                    landmarks=person.points,
                ).faces
                before, after = levels(person.crop), levels(made)
                noise.append(psnr(before, after))
                same.append(ssim(before, after))
                if person.found:
                    found.append(bool(detect(after)))
                for judge in judges:
                    vector = judge.embed(made, person.points)
                    own = judge.embed(person.crop, person.points)
                    apart[judge.name].append(float(judge.distance(vector, own)[0]))
                    away = judge.distance(vector, person.first[judge.name][None])[0]
                    kept[judge.name].append(bool(away < judge.threshold("best")))
            row: dict[str, object] = {"sensitivity": kind, "epsilon": epsilon, "n": len(people)}
            for judge in judges:
                row[f"distance {judge.name}"] = mean(apart[judge.name])
                row[f"TAR {judge.name}"] = share(kept[judge.name])
            row |= {"PSNR": mean(noise), "SSIM": mean(same), "HOG": share(found)}
            print({k: tuple(round(x, 3) for x in v) if isinstance(v, tuple) else v
                   for k, v in row.items()}, flush=True)  # fmt: skip
            yield row


def write_csv(rows: list[dict[str, object]], target: Path) -> None:
    """Three columns for each figure: value, low, high."""
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"{k}{e}" for k, v in rows[0].items()
                 for e in (("", " low", " high") if isinstance(v, tuple) else ("",))]  # fmt: skip
        writer.writerow(names)
        for row in rows:
            flat = [x for v in row.values() for x in (v if isinstance(v, tuple) else (v,))]
            writer.writerow([f"{x:.5g}" if isinstance(x, float) else x for x in flat])


def draw(rows: list[dict[str, object]], judges: list[Recognizer], target: Path) -> None:
    """As the paper's figures 4 (identity) and 5 (utility)."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = [f"distance {j.name}" for j in judges], [f"TAR {j.name}" for j in judges]
    panels = (*panels, ["PSNR"], ["SSIM", "HOG"])
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4))
    for axis, names in zip(axes, panels, strict=True):
        for kind, line in (("bounded", "-"), ("empirical", "--")):
            chosen = [r for r in rows if r["sensitivity"] == kind and math.isfinite(r["epsilon"])]
            for number, name in enumerate(names):
                values = np.array([r[name] for r in chosen])
                x = [r["epsilon"] for r in chosen]
                axis.plot(x, values[:, 0], line, color=f"C{number}", label=f"{name}, {kind}")
                axis.fill_between(x, values[:, 1], values[:, 2], color=f"C{number}", alpha=0.15)
        axis.set_xscale("log")
        axis.set_xlabel("ε")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


@torch.no_grad()
def swap(people: list[Subject], judges: list[Recognizer], models: Models) -> str:
    """A Markdown table: the identity is that of the person half a list away, because LFW lists a
    person several times in a row; their vector as it is, and turned away from one's own.
    """
    net, dlib = models.identity, models.recognizer("dlib")
    half = len(people) // 2
    units = [net.unit(dlib.embed(p.crop, p.points)) for p in people]
    lines = [
        "| recogniser | vector | nearer to the identity's person | accepted as them | accepted as "
        "the one in the photo | own identity: accepted | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    own = [net(p.crop, u) for p, u in zip(people, units, strict=True)]
    straight = [net(p.crop, units[i - half]) for i, p in enumerate(people)]
    turned = [net(p.crop, net.away(units[i - half], units[i])) for i, p in enumerate(people)]
    kinds = {"theirs": straight, "turned away": turned}
    for judge, (name, made) in product(judges, kinds.items()):
        limit, untouched = judge.threshold("best"), []
        nearer, theirs, still, back = [], [], [], []
        untouched = [judge.embed(p.crop, p.points) for p in people]
        for i, person in enumerate(people):
            vector = judge.embed(made[i], person.points)
            to_them = float(judge.distance(vector, untouched[i - half])[0])
            to_own = float(judge.distance(vector, untouched[i])[0])
            nearer.append(to_them < to_own)
            theirs.append(to_them < limit)
            still.append(to_own < limit)
            back.append(
                float(judge.distance(judge.embed(own[i], person.points), untouched[i])[0]) < limit
            )
        cells = [
            f"{v:.3f} ({a:.3f}-{b:.3f})" for v, a, b in map(share, (nearer, theirs, still, back))
        ]
        lines.append(f"| {judge.name} | {name} | {' | '.join(cells)} | {len(people)} |")
    pairs = [(levels(p.crop), levels(o)) for p, o in zip(people, own, strict=True)]
    lines.append("")
    lines.append(
        "own identity (ε = ∞): SSIM {:.3f} ({:.3f}-{:.3f}), PSNR {:.2f} ({:.2f}-{:.2f})".format(
            *mean([ssim(a, b) for a, b in pairs]), *mean([psnr(a, b) for a, b in pairs])
        )
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", type=Path, default=Path("results/cache"))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/identity"))
    parser.add_argument("--only", choices=("sweep", "swap"))
    options = parser.parse_args()
    models = Models()
    judges = [models.recognizer(name) for name in options.recognizer]
    people = list(subjects(options.data, options.cache, options.limit, judges, models))
    options.output.mkdir(parents=True, exist_ok=True)
    if options.only != "sweep":
        text = swap(people, judges, models)
        print(text, flush=True)
        (options.output / "swap.md").write_text(text + "\n")
    if options.only != "swap":
        net, dlib = models.identity, models.recognizer("dlib")
        with torch.no_grad():
            units = torch.cat([net.unit(dlib.embed(p.crop, p.points)) for p in people])
        measured = empirical(units).value
        print(f"empirical sensitivity over these photos: {measured:.5g}", flush=True)
        with torch.no_grad():
            rows = list(sweep(people, judges, measured, models))
        write_csv(rows, options.output / "sweep.csv")
        draw(rows, judges, options.output / "sweep.png")


if __name__ == "__main__":
    main()
