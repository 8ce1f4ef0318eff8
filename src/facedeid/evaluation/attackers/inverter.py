"""The inverter: a small U-Net that learns to undo a method from pairs made with it.

It sees (de-identified, original) canonical crops of people it knows, and is trained on the
absolute difference and on the embedding of a recogniser of its own, which is then no judge of it.
Its reconstructions of other people are compared with untouched photos by the judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from facedeid.evaluation.attackers.bench import Bench, Trial
from facedeid.evaluation.attackers.results import AttackResult, figure, refused, rows
from facedeid.evaluation.attackers.scoring import Scores, scored
from facedeid.faces import align, frame
from facedeid.losses import cosine, mse
from facedeid.models import Recognizer
from facedeid.nets.hiding import HidingConfig, HidingNet
from facedeid.random import seeded, stream

__all__ = ["TEACHER", "Crops", "Inverter", "inverter", "psnr", "trained"]

TEACHER = "facedeid-mobile"
"""The recogniser in the inverter's loss."""
BATCH, RATE, IDENTITY = 8, 3e-3, 0.5
LEAST_PHOTOS = 20
SHOWN = 12


class Inverter(nn.Module):
    """N×3×S×S de-identified crops in [-1, 1] -> what they may have been; starts as the identity.

    The hiding network without anything to hide (`facedeid.nets.hiding`), a quarter as wide as in
    its paper; S is a multiple of 16.
    """

    def __init__(self, width: float = 0.25) -> None:
        super().__init__()
        config = HidingConfig(
            width=width, identity=1, conditioning="film", norm="group", output="residual", limit=2
        )
        self.net = HidingNet(config)

    def forward(self, faces: Tensor) -> Tensor:
        """Reconstruct."""
        restored: Tensor = self.net(faces, faces.new_zeros(len(faces), 1))
        return restored


@dataclass(frozen=True, eq=False)
class Crops:
    """Canonical crops of releases in which a face is found, and of the originals at that place."""

    released: Tensor
    """M×3×S×S in [-1, 1]."""
    originals: Tensor
    landmarks: Tensor
    """M×68×2 in pixels of the crop."""
    valid: Tensor
    """N truths: of which photos these are the crops."""

    @classmethod
    def of(cls, bench: Bench, keys: Sequence[str]) -> "Crops":
        """Cut them out."""
        side = bench.side
        bench.prepare(keys)
        faces = [bench.face(key) for key in keys]
        held = [(k, f, frame(f, side)) for k, f in zip(keys, faces, strict=True) if f is not None]
        none = torch.zeros(0, 3, side, side)
        return cls(
            torch.stack([align(bench.releases.photo(k), p) for k, _, p in held]) if held else none,
            torch.stack([align(bench.dataset.read(k), p) for k, _, p in held]) if held else none,
            torch.from_numpy(
                np.array([p.to_frame(f.landmarks) for _, f, p in held]).reshape(-1, 68, 2)
            ).float(),
            torch.tensor([face is not None for face in faces]),
        )


def inverter(bench: Bench) -> tuple[AttackResult, ...]:
    """Reconstructions against the untouched gallery, and how near they are to the original."""
    trials, short = bench.trials()
    judges = [judge for judge in bench.judges() if judge.name != TEACHER]
    found: list[AttackResult] = []
    if len(judges) < len(bench.recognizers):
        reason = "the inverter is trained with it: no independent judge"
        found += refused(bench, "inverter", TEACHER, reason)
    if not judges:
        return tuple(found)
    learned = Crops.of(bench, bench.training()[0]) if not short else None
    if learned is None or len(learned.released) < LEAST_PHOTOS:
        reason = short or f"only {len(learned.released) if learned else 0} pairs to learn from"
        return (
            *found,
            *(row for j in judges for row in refused(bench, "inverter", j.name, reason)),
        )
    net, facts = trained(bench, learned, bench.models.recognizer(TEACHER))
    crops = [Crops.of(bench, trial.probes) for trial in trials]
    restored = [_restored(net, each.released) for each in crops]
    for judge in judges:
        tested, fitting = (
            _scores(bench, judge, *each) for each in zip(trials, crops, restored, strict=True)
        )
        found += rows(bench, "inverter", judge, trials, (tested, fitting), facts=facts)
    found += _fidelity(bench, trials[0], crops[0], restored[0], facts)
    if bench.pictures is not None:
        _save(bench.pictures / "inverter.png", crops[0], restored[0])
    return tuple(found)


def trained(
    bench: Bench, crops: Crops, teacher: Recognizer | None
) -> tuple[Inverter, dict[str, Any]]:
    """The network after the bench's budget, and how far it got.

    Args:
        bench: budget, seed and device.
        crops: what it learns from.
        teacher: whose embedding is to be restored; None: pixels only.
    """
    device = bench.models.device
    with seeded(stream(bench.seed, "inverter").initial_seed() % 2**31):
        net = Inverter()
    net = net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    random = stream(bench.seed, "inverter", "batches")
    targets = _targets(teacher, crops)
    losses: list[float] = []
    for step in bench.budget("inverter"):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20, (bench.steps - step) / bench.steps * 2)
        batch = torch.randint(len(crops.released), (BATCH,), generator=random)
        restored = net(crops.released[batch].to(device, memory_format=torch.channels_last))
        loss = F.l1_loss(restored, crops.originals[batch].to(device))
        if teacher is not None:
            vectors = teacher.embed(restored, crops.landmarks[batch])
            loss = loss + IDENTITY * cosine(vectors, targets[batch].to(device)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    facts = {
        "trained_on_photos": len(crops.released),
        "steps": len(losses),
        "loss_first": losses[0],
        "loss_last": float(np.mean(losses[-20:])),
        "teacher": teacher.name if teacher is not None else None,
    }
    return net.eval().requires_grad_(False), facts


@torch.no_grad()
def _targets(teacher: Recognizer | None, crops: Crops) -> Tensor:
    """Embeddings of the originals' crops by the teacher."""
    if teacher is None:
        return torch.zeros(len(crops.originals), 0)
    parts = zip(torch.split(crops.originals, 32), torch.split(crops.landmarks, 32), strict=True)
    return torch.cat([teacher.embed(*part).cpu() for part in parts])


@torch.no_grad()
def _restored(net: Inverter, released: Tensor) -> Tensor:
    device = next(net.parameters()).device
    parts = [net(part.to(device)).cpu() for part in torch.split(released, 16)]
    return torch.cat(parts) if parts else released


@torch.no_grad()
def _scores(
    bench: Bench, judge: Recognizer, trial: Trial, crops: Crops, restored: Tensor
) -> Scores:
    probes = torch.zeros(len(trial), judge.spec.dim)
    if len(restored):
        parts = zip(torch.split(restored, 32), torch.split(crops.landmarks, 32), strict=True)
        probes[crops.valid] = torch.cat([judge.embed(*part).cpu() for part in parts])
    gallery = bench.untouched(judge, trial.gallery)
    return scored(judge.distance, gallery, probes, trial.people, crops.valid)


def _fidelity(
    bench: Bench, trial: Trial, crops: Crops, restored: Tensor, facts: dict[str, Any]
) -> tuple[AttackResult, ...]:
    """PSNR of the reconstructions; beside it, that of what was released."""
    if not len(restored):
        return ()
    people = [p for p, ok in zip(trial.people, crops.valid.tolist(), strict=True) if ok]
    after, before = (psnr(images, crops.originals) for images in (restored, crops.released))
    return (
        figure(
            bench,
            "inverter",
            None,
            "PSNR (dB)",
            (after, before, "an untouched photo is equal to itself"),
            people,
            facts=facts,
        ),
    )


def psnr(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of N pictures in [-1, 1], in decibels (100 for equal ones)."""
    error = (mse(a, b) / 4).clamp_min(1e-10)
    return np.asarray(-10 * error.double().log10().numpy(), np.float64)


def _save(path: Path, crops: Crops, restored: Tensor) -> None:
    """A column per face: original, released, restored."""
    stacked = [images[:SHOWN] for images in (crops.originals, crops.released, restored)]
    if not len(stacked[0]):
        return
    grid = torch.cat([torch.cat(list(images), 2) for images in stacked], 1)
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
