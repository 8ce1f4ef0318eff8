"""Methods at many settings on aligned faces: the ablations, sweeps and equal-likeness tables.

    python tools/latent_study.py --data lfw:PATH --cache results/cache --limit 1000 \\
        --recognizer facedeid-mobile --recognizer dlib -o results/levels \\
        --setting private-encoder:beta=0 --setting private-encoder:beta=0.5 \\
        --setting blur:sigma=0.05 --setting pixelate:cluster=16 --at 0.1 --at 0.2 --ssim 0.65

Second photos of genuine pairs, each once. Every method gets the canonical 256 px crop; its result
is pasted back there with one and the same mask of the face (with `--inner` the smaller one within
which latent methods change a face) and rounded to 8 bits, and that is what is measured:
recognisers by the original's landmarks, HOG, MSE in [0, 1], SSIM. `--released NAME=FOLDER` adds
what another tool (DeepPrivacy, CIAGAN) made of the same whole photos, under the same names there:
cropped where the originals are, not pasted; missing ones are left out, `n` says how many are in.

`table.csv` and `table.md`: a row a setting; mean and standard deviation of the cosine similarity to
the original (embeddings of Euclidean recognisers are centred on the synthetic identities), share
rejected at the recogniser's `--require` threshold, and the rest with 95 % intervals, the seconds a
face. `levels.md`, with `--at` or `--ssim`: what each method has at equal similarity, or similarity
at equal SSIM, interpolated between its settings, under the first recogniser. With `--realism
squeezenet:FILE` also the Fréchet distance of the crops to those of the other people among the
second photos, and of untouched, compressed and blurred crops (`realism.md`). `sweep.png`: SSIM, MSE
and HOG over similarity; `sweep-METHOD-OPTION.png`: all over one option, or over several whose
numbers change together (`fsap:identity_step=0.01,attribute_step=0.01`, then 0.04 and 0.04, and so
on), where the settings share all other options.
`histograms.png`: distances to the original, and to the next person.
"""

import argparse
import csv
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.evaluation import datasets
from facedeid.evaluation.fingerprints import slug
from facedeid.evaluation.intervals import clopper_pearson
from facedeid.evaluation.metrics import mse01, ssim
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.realism import (
    Features,
    Sample,
    features_of,
    realism,
    reference_rows,
    sample,
)
from facedeid.faces import Frame, align, detect, frame, frame_masks
from facedeid.imaging import read
from facedeid.inversion import inner
from facedeid.methods import Method, parse
from facedeid.models import Models, Recognizer
from facedeid.random import stream

CHUNK = 8


@dataclass(frozen=True)
class Subjects:
    """Aligned crops N×3×256×256 in [-1, 1], landmarks, masks, names, and whom HOG finds."""

    crops: Tensor
    points: Tensor
    masks: Tensor
    keys: list[str]
    found: list[bool]
    places: list[Frame]
    sizes: list[tuple[int, ...]]
    """Of the whole photos."""
    others: Tensor
    """Crops of other people's photos, M×3×256×256."""

    def rows(self, rows: list[int]) -> "Subjects":
        """Some of them."""
        lists = {
            name: [getattr(self, name)[i] for i in rows]
            for name in ("keys", "found", "places", "sizes")
        }
        tensors = {name: getattr(self, name)[rows] for name in ("crops", "points", "masks")}
        return replace(self, **lists, **tensors)


def levels(crop: Tensor) -> np.ndarray:
    """3×H×W in [-1, 1] -> H×W×3 uint8."""
    return ((crop.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def subjects(data: str, cache: Path, limit: int, models: Models, *, others: bool) -> Subjects:
    """The first `limit` different second photos in which there is a face, and the other people."""
    dataset = datasets.load(data)
    originals = Originals(dataset, models, cache)

    def placed(keys: Iterable[str]) -> Iterator[tuple[str, Tensor, Tensor, Frame, tuple[int, ...]]]:
        """Name, crop, landmarks, place and size of every photo with a face."""
        for key in keys:
            face = originals.face(key)
            if face is not None:
                place = frame(face, 256)
                points = torch.from_numpy(place.to_frame(face.landmarks)).float()
                photo = dataset.read(key)
                yield key, align(photo, place), points, place, photo.shape

    seconds = list(dict.fromkeys(pair.second for pair in dataset.genuine()))
    names, crops, points, places, sizes = zip(*islice(placed(seconds), limit), strict=True)
    keys, stacked = list(names), torch.stack(points)
    found = [bool(detect(levels(crop))) for crop in crops]
    away = torch.empty(0)
    if others:
        person = dataset.identities or {}
        taken = {person.get(key) for key in keys}
        rest = [key for key in seconds if person.get(key) not in taken]
        away = torch.stack([crop for _, crop, *_ in placed(rest)])
    masks = frame_masks(stacked, 256)
    return Subjects(
        torch.stack(crops), stacked, masks, keys, found, list(places), list(sizes), away
    )


def released(folder: Path, people: Subjects) -> tuple[list[int], Tensor]:
    """Whom another tool released, and its crops."""
    rows, crops = [], []
    for i, key in enumerate(people.keys):
        path = next((p for p in sorted((folder / key).parent.glob(f"{Path(key).stem}.*"))), None)
        if path is None:
            continue
        photo = read(path).rgb
        if photo.shape != people.sizes[i]:
            raise SystemExit(f"{path}: {photo.shape}, but the original is {people.sizes[i]}")
        rows.append(i)
        crops.append(align(photo, people.places[i]))
    if not rows:
        raise SystemExit(f"{folder}: no photo of the name of an original, such as {people.keys[0]}")
    return rows, torch.stack(crops)


def pasted(method: Method, people: Subjects, models: Models) -> tuple[Tensor, float]:
    """What the method makes of everybody, as written in 8 bits; and seconds a face."""
    made, started = [], time.perf_counter()
    for first in range(0, len(people.keys), CHUNK):
        part = slice(first, first + CHUNK)
        result = method(
            people.crops[part],
            models,
            random=[stream(0, key) for key in people.keys[part]],
            landmarks=people.points[part],
        )
        made.append(result.faces)
    spent = (time.perf_counter() - started) / len(people.keys)
    whole = people.crops + people.masks * (torch.cat(made) - people.crops)
    return ((whole.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1, spent


def vectors(judge: Recognizer, faces: Tensor, points: Tensor) -> Tensor:
    """Embeddings, a few at a time."""
    parts = zip(faces.split(CHUNK), points.split(CHUNK), strict=True)
    with torch.no_grad():
        return torch.cat([judge.embed(face, point) for face, point in parts])


def cosine(judge: Recognizer, a: Tensor, b: Tensor, models: Models) -> Tensor:
    """Of centred vectors where the recogniser's are not of unit length."""
    if judge.spec.metric == "euclidean":
        centre = models.identities(judge.name).mean(0)
        a, b = a - centre, b - centre
    return F.cosine_similarity(a, b)


@dataclass(frozen=True)
class Study:
    """Who judges, and what is kept for the plots."""

    judges: list[Recognizer]
    require: str
    models: Models
    looks: tuple[Features, Sample] | None
    distances: dict[str, dict[str, np.ndarray]]
    """To the original, by judge and setting."""

    def row(
        self, text: str, faces: Tensor, people: Subjects, own: dict[str, Tensor],
        spent: float | None = None, surrogates: tuple[str, ...] = (),
    ) -> dict[str, object]:  # fmt: skip
        """One line of the table; `own`: the judges' embeddings of the originals."""
        row: dict[str, object] = {"setting": text, "n": len(faces)}
        row["seconds"] = "" if spent is None else round(spent, 4)
        for judge in self.judges:
            after = vectors(judge, faces, people.points)
            alike = cosine(judge, own[judge.name], after, self.models)
            apart = judge.distance(own[judge.name], after)
            self.distances[judge.name][text] = apart.numpy()
            row[f"similarity {judge.name}"] = round(alike.mean().item(), 4)
            row[f"sd {judge.name}"] = round(alike.std().item(), 4)
            far = clopper_pearson(int((apart >= judge.threshold(self.require)).sum()), len(apart))
            mark = " wb" if judge.name in surrogates else ""
            row[f"rejected{mark} {judge.name}"] = f"{far.value:.3f} ({far.low:.3f}-{far.high:.3f})"
        before = [levels(crop) for crop in people.crops]
        after8 = [levels(face) for face in faces]
        errors = [mse01(a, b) for a, b in zip(before, after8, strict=True)]
        same = [ssim(a, b) for a, b in zip(before, after8, strict=True)]
        hits = [bool(detect(a)) for a, f in zip(after8, people.found, strict=True) if f]
        seen = clopper_pearson(sum(hits), len(hits))
        row |= {
            "MSE": round(float(np.mean(errors)), 5),
            "SSIM": round(float(np.mean(same)), 4),
            "HOG": f"{seen.value:.4f} ({seen.low:.4f}-{seen.high:.4f})",
            "HOG misses": len(hits) - sum(hits),
        }
        if self.looks is not None:
            features, reference = self.looks
            row[f"Fréchet {features.name}"] = round(
                realism(sample(features, faces), reference).frechet, 3
            )
        print(row, flush=True)
        return row


def equal(rows: list[dict], judge: str, at: list[float], sames: list[float]) -> str:
    """Each method's figures where it reaches a similarity, and its similarity at an SSIM."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[str(row["setting"]).split(":")[0]].append(row)
    name = f"similarity {judge}"
    lines = [f"| method | at | MSE | SSIM | {name} |", "| --- | --- | --- | --- | --- |"]

    def line(method: str, label: str, by: str, value: float) -> None:
        group = sorted(groups[method], key=lambda r: float(r[by]))
        x = [float(r[by]) for r in group]
        inside = x[0] <= value <= x[-1]
        cells = [
            f"{np.interp(value, x, [float(r[k]) for r in group]):.4f}" if inside else "out of reach"
            for k in ("MSE", "SSIM", name)
        ]
        lines.append(f"| {method} | {label} | {' | '.join(cells)} |")

    for value in at:
        for method in groups:
            line(method, f"similarity {value:g}", name, value)
    for value in sames:
        for method in groups:
            line(method, f"SSIM {value:g}", "SSIM", value)
    return "\n".join(lines) + "\n"


def share(text: object) -> float:
    """A table's cell "0.98 (0.97-0.99)", without the interval."""
    return float(str(text).split()[0])


def number(text: str) -> float | None:
    """The finite number that an option is, if it is one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Sweep:
    """Settings of one method that differ in one option's number, or in several that go together."""

    method: str
    """With the options that stay."""
    options: tuple[str, ...]
    """That change."""
    points: tuple[tuple[float, int], ...]
    """The first one's number, and which of the settings has it; ascending."""


def sweeps(settings: list[str]) -> list[Sweep]:
    """The sweeps that there are; options of which each combination was tried are none."""
    groups: dict[tuple, list[tuple[int, dict[str, float]]]] = defaultdict(list)
    for row, text in enumerate(settings):
        method, _, rest = text.partition(":")
        options = dict(part.partition("=")[::2] for part in rest.split(",") if part)
        numbers = {k: value for k, v in options.items() if (value := number(v)) is not None}
        words = tuple(sorted((k, v) for k, v in options.items() if k not in numbers))
        groups[method, words, tuple(sorted(numbers))].append((row, numbers))
    found = []
    for (method, words, _), rows in groups.items():
        values = {name: [numbers[name] for _, numbers in rows] for name in rows[0][1]}
        changing = tuple(name for name, column in values.items() if len(set(column)) > 1)
        places = {tuple(numbers[name] for name in changing) for _, numbers in rows}
        if not changing or any(len(set(values[name])) < len(places) for name in changing):
            continue
        fixed = {**dict(words), **{k: f"{v[0]:g}" for k, v in values.items() if k not in changing}}
        label = ",".join(f"{k}={v}" for k, v in fixed.items())
        points = sorted((numbers[changing[0]], row) for row, numbers in rows)
        found.append(Sweep(f"{method}:{label}" if label else method, changing, tuple(points)))
    return found


def draw(rows: list[dict], judge: str, out: Path) -> None:
    """`sweep.png`: SSIM, MSE and HOG's finds over similarity, a line a method.

    And for each of the `sweeps` among the settings `sweep-METHOD-OPTION.png`: quality, similarity
    and rejections, and HOG's finds over it (figures 3 to 5 of Zhao et al. 2022, 4 of Xue et al.
    2022).
    """
    from matplotlib import pyplot as plt

    name = f"similarity {judge}"
    methods: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        methods[str(row["setting"]).partition(":")[0]].append(row)
    figure, axes = plt.subplots(1, 3, figsize=(14, 4))
    for axis, key in zip(axes, ("SSIM", "MSE", "HOG"), strict=True):
        for method, group in methods.items():
            points = sorted((float(r[name]), share(r[key])) for r in group)
            axis.plot(*zip(*points, strict=True), "o-", label=method)
        axis.set(xlabel=f"similarity by {judge}", ylabel=key)
        axis.legend()
    figure.tight_layout()
    figure.savefig(out / "sweep.png", dpi=110)
    for sweep in sweeps([str(row["setting"]) for row in rows]):
        option, *along = sweep.options
        group = [(value, rows[row]) for value, row in sweep.points]
        known = f"rejected wb {judge}"  # by the method
        rejected = known if known in group[0][1] else f"rejected {judge}"
        panels = ("SSIM", "MSE"), (name, rejected), ("HOG",)
        figure, axes = plt.subplots(1, 3, figsize=(14, 4))
        for axis, keys in zip(axes, panels, strict=True):
            for key in keys:
                side = axis.twinx() if key == "MSE" else axis
                line = [share(row[key]) for _, row in group]
                style = "o--" if key == "MSE" else "o-"
                side.plot([value for value, _ in group], line, style, label=key)
                side.set_ylabel(key)
            bounds = None if "SSIM" in keys else (0, 1.03)
            across = f"{option} (and with it {', '.join(along)})" if along else option
            axis.set(xlabel=across, title=", ".join(keys), ylim=bounds)
        figure.suptitle(f"{sweep.method} by {option}", fontsize=10)
        figure.tight_layout()
        figure.savefig(out / f"sweep-{slug(sweep.method)}-{option}.png", dpi=110)


def histograms(distances: dict, strangers: dict, limits: dict, out: Path) -> None:
    """As figure 5 of Xue et al. 2022: distances after each setting, and of different people."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(distances), figsize=(6 * len(distances), 4), squeeze=False)
    for axis, (judge, found) in zip(axes[0], distances.items(), strict=True):
        for text, values in {**found, "different people": strangers[judge]}.items():
            axis.hist(values, bins=40, histtype="step", density=True, label=text)
        axis.axvline(limits[judge], color="k", linestyle=":")
        axis.set_xlabel(f"distance by {judge}")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(out / "histograms.png", dpi=110)


def main() -> None:
    """Measure, draw, write."""
    import matplotlib as mpl

    mpl.use("agg")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", type=Path, default=Path("results/cache"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--require", default="best")
    parser.add_argument("--setting", action="append", required=True)
    parser.add_argument("--released", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--at", type=float, action="append", default=[])
    parser.add_argument("--ssim", type=float, action="append", default=[])
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--realism")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    models = Models()
    judges = [models.recognizer(name) for name in given.recognizer]
    given.output.mkdir(parents=True, exist_ok=True)
    people = subjects(
        given.data, given.cache, given.limit, models, others=given.realism is not None
    )
    if given.inner:
        people = replace(people, masks=inner(people.masks))
    looks = None
    if given.realism is not None:
        features = features_of(given.realism, models)
        looks = features, sample(features, people.others)
        known = reference_rows(features, people.crops, looks[1])
        text = "".join(f"| {name} | {row.frechet:.3f} |\n" for name, row in known.items())
        head = f"| {features.name}, {len(people.keys)} against {len(people.others)} | Fréchet |\n"
        (given.output / "realism.md").write_text(f"{head}| --- | --- |\n{text}", "utf-8")
        print(text, flush=True)
    own = {judge.name: vectors(judge, people.crops, people.points) for judge in judges}
    distances: dict[str, dict[str, np.ndarray]] = {judge.name: {} for judge in judges}
    study = Study(judges, given.require, models, looks, distances)
    rows = []
    for text in given.setting:
        method = parse(text)
        faces, spent = pasted(method, people, models)
        rows.append(study.row(text, faces, people, own, spent, method.surrogates))
    for text in given.released:
        name, _, folder = text.partition("=")
        there, faces = released(Path(folder), people)
        part = {judge: known[there] for judge, known in own.items()}
        rows.append(study.row(name, faces, people.rows(there), part))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (given.output / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    (given.output / "table.md").write_text(text, "utf-8")
    if given.at or given.ssim:
        text = equal(rows, judges[0].name, given.at, given.ssim)
        (given.output / "levels.md").write_text(text, "utf-8")
        print(text)
    draw(rows, judges[0].name, given.output)
    strangers = {
        judge.name: judge.distance(own[judge.name], own[judge.name].roll(len(people.keys) // 2, 0))
        for judge in judges
    }
    limits = {judge.name: judge.threshold(given.require) for judge in judges}
    histograms(distances, strangers, limits, given.output)


if __name__ == "__main__":
    main()
