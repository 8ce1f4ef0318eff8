"""What the generator and its encoder can do: reconstructions, samples, edits.

    python tools/pair_study.py --data celeba_256.tar --data aaf_256.tar \\
        --lpips lpips_alex_features.safetensors --lpips lpips_alex_heads.safetensors \\
        --recognizer dlib --recognizer facedeid-mobile -o results/pair

Photos are aligned ones (see docs/training_recipes.md); those of people held out are used. In the
folder: `figures.json`; of generated faces only `samples.png`, `interpolation.png`, `mixing.png`
(which may be shown anywhere); and `reconstructions.png`, which shows photos.

Fréchet distances are over facedeid-mobile's embeddings, aligned by the mean face's landmarks as
samples have none, of as many samples as asked for against all photos held out; photos blurred by
several σ (in pixels at the generator's 128) say what a value means.

`--export STEP.safetensors` (repeatable): only the distance of 2,000 samples, for what the recipe
`autoencoder` wrote at other steps; each has its prior learned from photos of the people trained on.
`--refined N`: only what latent optimisation and pivotal tuning of 100 steps each do to N photos,
and their cost.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facedeid.evaluation.intervals import clopper_pearson
from facedeid.evaluation.metrics import ssim, ssim_face
from facedeid.evaluation.realism import frechet
from facedeid.faces import detect
from facedeid.inversion import Inverted, invert, refined, tuned
from facedeid.losses import mse
from facedeid.models import Models, Recognizer
from facedeid.nets.lpips import lpips, lpips_state
from facedeid.nets.style_pair import StylePair
from facedeid.nets.stylegan2 import mix
from facedeid.random import stream
from facedeid.training.data import load_faces
from facedeid.training.degrade import blurred
from facedeid.training.prepared import sheet
from facedeid.weights.loading import load_state

CHUNK = 32
BLURS = (0.5, 1.0, 1.5, 2.0, 3.0)


def levels(face: Tensor) -> np.ndarray:
    """3×S×S in [-1, 1] -> S×S×3 uint8."""
    return ((face.clamp(-1, 1).permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def found_by_hog(faces: Tensor) -> list[bool]:
    """At twice the generator's side, as faces under 60 px are at the edge of what HOG finds."""
    large = torch.nn.functional.interpolate(faces, scale_factor=2, mode="bicubic").clamp(-1, 1)
    return [bool(detect(levels(face))) for face in large]


def within_face(cover: Tensor, made: Tensor, points: Tensor) -> float:
    """SSIM in the box of the landmarks, grown by 1.2."""
    box = (*points.amin(0).tolist(), *points.amax(0).tolist())
    return ssim_face(levels(cover), levels(made), box)


def share(hits: list[bool]) -> dict:
    """Share, its 95 % interval, and n."""
    found = clopper_pearson(sum(hits), len(hits))
    return {"share": found.value, "low": found.low, "high": found.high, "n": len(hits)}


@torch.no_grad()
def inverted(pair: StylePair, photos: Tensor, landmarks: Tensor) -> Inverted:
    """All photos (uint8 N×3×256×256), a batch at a time."""
    parts = [
        invert(pair, images.float() / 127.5 - 1, points)
        for images, points in zip(photos.split(CHUNK), landmarks.split(CHUNK), strict=True)
    ]
    names = ("cover", "landmarks", "mask", "codes", "base")
    return Inverted(*(torch.cat([getattr(p, n) for p in parts]) for n in names))


@torch.no_grad()
def reconstruction(found: Inverted, distance, judges) -> dict:
    """Figures of what the encoder and the generator give back."""
    made = found.base.clamp(-1, 1)
    far = torch.cat(
        [distance(a, b) for a, b in zip(found.cover.split(CHUNK), made.split(CHUNK), strict=True)]
    )
    inner, whole = [], []
    for cover, face, points in zip(found.cover, made, found.landmarks, strict=True):
        inner.append(within_face(cover, face, points))
        whole.append(ssim(levels(cover), levels(face)))
    before, after = found_by_hog(found.cover), found_by_hog(made)
    kept = {}
    for judge in judges:
        one, two = (
            torch.cat([judge.embed(x, p) for x, p in zip(y.split(CHUNK), points, strict=True)])
            for points in [found.landmarks.split(CHUNK)]
            for y in (found.cover, made)
        )
        apart = judge.distance(one, two)
        kept[judge.name] = {
            "mean distance": apart.mean().item(),
            "threshold": judge.threshold("best"),
            "accepted": share((apart < judge.threshold("best")).tolist()),
        }
    return {
        "n": len(made),
        "LPIPS-AlexNet": far.mean().item(),
        "SSIM of the face": float(np.mean(inner)),
        "SSIM": float(np.mean(whole)),
        "MSE in [0, 1]": mse(found.cover, made).mean().item() / 4,
        "HOG, of those found before": share([b for a, b in zip(before, after, strict=True) if a]),
        "identity": kept,
    }


def seen(judge: Recognizer, faces: Tensor) -> Tensor:
    """Embeddings by the mean face's landmarks, a batch at a time."""
    return torch.cat([judge.embed(part) for part in faces.split(CHUNK)])


def drawn(pair: StylePair, count: int) -> Tensor:
    """Faces of the prior, always the same ones."""
    codes = pair.sample(count, stream(0, "samples"))
    return torch.cat([pair.decode(part).clamp(-1, 1) for part in codes.split(CHUNK)])


@torch.no_grad()
def samples(pair: StylePair, photos: Tensor, count: int, models: Models) -> dict:
    """Fréchet distances, HOG, and how alike samples are to each other and to photos."""
    judge = models.recognizer("facedeid-mobile")
    made = drawn(pair, count)
    half = len(photos) // 2
    real, fake = seen(judge, photos), seen(judge, made)
    blur = {
        f"photos, blur {s:g}": frechet(
            seen(judge, blurred(photos, stream(0), share=1.0, sigma=(s, s))), real
        )
        for s in BLURS
    }
    near = fake @ real.T
    among, apart = fake[:1000] @ fake[:1000].T, real @ real.T
    lower = torch.tril_indices(len(among), len(among), -1)
    others = torch.tril_indices(len(apart), len(apart), -1)
    return {
        "n": count,
        "photos": len(photos),
        "Fréchet over facedeid-mobile": {
            "samples": frechet(fake, real),
            "one half of the photos against the other": frechet(real[:half], real[half:]),
            **blur,
        },
        "HOG": share(found_by_hog(made[: min(count, 1000)])),
        "mean cosine of two samples": among[lower[0], lower[1]].mean().item(),
        "mean cosine of two photos": apart[others[0], others[1]].mean().item(),
        "cosine of a sample to its nearest photo": near.amax(1).mean().item(),
        "distinct nearest photos": len(near.argmax(1).unique()),
    }


@torch.no_grad()
def over_training(export: Path, given: argparse.Namespace, models: Models) -> dict:
    """The Fréchet distance of an earlier pair's samples to the photos held out."""
    prefix = "pair."
    state = {
        k.removeprefix(prefix): v.float()
        for k, v in load_state(export).items()
        if k.startswith(prefix)
    }
    pair = StylePair()
    pair.load_state_dict(state, strict=False)  # priors are learned below
    pair.eval()
    faces = load_faces(given.data, size=256, limit=given.limit)
    known = faces.part(held_out=False)
    rows = torch.arange(0, len(known), max(1, len(known) // 2000))
    pair.learn_prior(inverted(pair, known.images[rows], known.landmarks[rows]).codes)
    held = faces.part(held_out=True)
    judge = models.recognizer("facedeid-mobile")
    photos = inverted(pair, held.images, held.landmarks).cover
    fake, real = seen(judge, drawn(pair, 2000)), seen(judge, photos)
    return {"samples": 2000, "Fréchet": frechet(fake, real)}


def refinement(found: Inverted, pair: StylePair, distance, models: Models) -> dict:
    """Reconstructions as the encoder gives them, refined, and tuned besides, photo by photo."""
    stages = {
        "encoder": lambda one: one,
        "refined": lambda one: refined(pair, one, models.perceptual),
        "tuned": lambda one: tuned(pair, one, models.perceptual)[1],
    }
    rows: dict[str, list[tuple[float, ...]]] = {}
    for n in range(len(found.codes)):
        one, spent = found.rows(torch.tensor([n])), 0.0
        for name, stage in stages.items():
            began = time.perf_counter()
            one = stage(one)
            spent += time.perf_counter() - began
            made = one.base.clamp(-1, 1)
            figures = (distance(one.cover, made), mse(one.cover, made) / 4)
            same = within_face(one.cover[0], made[0], one.landmarks[0])
            rows.setdefault(name, []).append((*(f.item() for f in figures), same, spent))
    names = ("LPIPS-AlexNet", "MSE in [0, 1]", "SSIM of the face", "seconds")
    return {
        name: {"n": len(found.codes), **dict(zip(names, np.mean(values, 0).tolist(), strict=True))}
        for name, values in rows.items()
    }


@torch.no_grad()
def pictures(pair: StylePair, found: Inverted, out: Path) -> None:
    """The four sheets."""

    def save(name: str, rows: list[Tensor]) -> None:
        Image.fromarray(sheet(rows).permute(1, 2, 0).numpy()).save(out / f"{name}.png")

    w = pair.sample(200, stream(0, "samples"))
    save("samples", [pair.decode(part) for part in w[:60].split(12)])
    save("all-samples", [pair.decode(part) for part in w.split(20)])
    steps = torch.linspace(0, 1, 9)[:, None, None]
    save(
        "interpolation",
        [pair.decode(a + steps * (b - a)) for a, b in zip(w[:5], w[5:10], strict=True)],
    )
    coarse, fine = w[10:15], w[15:23]
    blank = torch.ones(1, 3, pair.side, pair.side)
    rows = [torch.cat([blank, pair.decode(fine)])]
    for one in coarse:
        mixed = mix(one.expand(len(fine), -1, -1), fine, 4)
        rows.append(torch.cat([pair.decode(one[None]), pair.decode(mixed)]))
    save("mixing", rows)
    some = torch.arange(24)
    parts = found.rows(some)
    rows = []
    for i in range(2):
        part = slice(12 * i, 12 * i + 12)
        made = parts.base[part]
        cover = parts.cover[part]
        rows += [cover, made, cover + parts.mask[part] * (made - cover)]
    save("reconstructions", rows)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--lpips", type=Path, action="append", required=True)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--limit", type=int, default=1000, help="photos of each source")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--export", type=Path, action="append", default=[])
    parser.add_argument("--refined", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/pair"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    models = Models()
    pair = models.pair()
    assert isinstance(pair, StylePair)
    if given.export:
        for export in given.export:
            print(export.name, over_training(export, given, models), flush=True)
        return
    distance = lpips(lpips_state(*(load_state(path) for path in given.lpips)))
    held = load_faces(given.data, size=256, limit=given.limit).part(held_out=True)
    if given.refined:
        rows = torch.arange(0, len(held), len(held) // given.refined)[: given.refined]
        found = inverted(pair, held.images[rows], held.landmarks[rows])
        print(json.dumps(refinement(found, pair, distance, models), indent=2))
        return
    found = inverted(pair, held.images, held.landmarks)
    pictures(pair, found, given.output)
    figures = {
        "reconstruction": reconstruction(
            found, distance, [models.recognizer(name) for name in given.recognizer]
        ),
        "samples": samples(pair, found.cover, given.samples, models),
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    (given.output / "figures.json").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
