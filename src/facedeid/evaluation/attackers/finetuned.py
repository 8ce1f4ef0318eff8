"""A recogniser that is taught what the method does: `facedeid-mobile`, every layer of it.

The copy learns on de-identified chips to give the embedding that the original gives of the
untouched chip (distillation), and to be nearer to the person's photos than to those of others.
Normalisation keeps its statistics; the gallery is embedded by the network as it ships. Of the
copies on the way (the first is the network as it ships) the one is kept that tells people apart
best who are neither learned from nor tested.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.evaluation.attackers.bench import Bench, Trial
from facedeid.evaluation.attackers.results import AttackResult, refused, rows
from facedeid.evaluation.attackers.retrained import LEAST_PHOTOS
from facedeid.evaluation.attackers.scoring import Scores, auc, scored
from facedeid.models import Recognizer
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.random import stream

__all__ = ["finetuned"]

BATCH, RATE, SCALE = 32, 1e-3, 16.0
CHUNK, LOOK = 64, 50
"""Chips embedded at once; steps after which the copy is compared with the best so far."""


def finetuned(bench: Bench) -> tuple[AttackResult, ...]:
    """De-identified probe through a fine-tuned network, against the untouched gallery."""
    trials, short = bench.trials()
    found: list[AttackResult] = []
    for judge in bench.judges():
        if not isinstance(judge.net, CompactFaceNet):
            reason = "only facedeid-mobile is fine-tuned; other recognisers get a learned head"
            found += refused(bench, "finetuned", judge.name, reason)
        elif short:
            found += refused(bench, "finetuned", judge.name, short)
        else:
            found += _one(bench, judge, trials)
    return tuple(found)


def _one(bench: Bench, judge: Recognizer, trials: tuple[Trial, Trial]) -> tuple[AttackResult, ...]:
    keys, people = bench.training()
    chips, valid = _chips(bench, judge, keys)
    if int(valid.sum()) < LEAST_PHOTOS:
        reason = f"only {int(valid.sum())} photos to learn from, {LEAST_PHOTOS} are needed"
        return refused(bench, "finetuned", judge.name, reason)
    seen = [person for person, ok in zip(people, valid.tolist(), strict=True) if ok]
    targets = bench.untouched(judge, keys)[valid]
    cut = [_chips(bench, judge, trial.probes) for trial in trials]

    def scores(net: nn.Module, which: int) -> Scores:
        return _scores(bench, judge, trials[which], *cut[which], net)

    net, facts = _trained(bench, judge, chips, targets, seen, lambda net: auc(scores(net, 1)))
    tested, fitting = scores(net, 0), scores(net, 1)
    facts |= {"trained_on_photos": len(seen), "trained_on_people": len(set(seen))}
    return rows(bench, "finetuned", judge, trials, (tested, fitting), facts=facts)


def _chips(bench: Bench, judge: Recognizer, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Chips of releases in which a face is found, M×3×H×W uint8, and which those are, N."""
    bench.prepare(keys)
    faces = [bench.face(key) for key in keys]
    cut = [
        judge.spec.crop.chips_from_photo(bench.releases.photo(key), [face.landmarks]).byte()
        for key, face in zip(keys, faces, strict=True)
        if face is not None
    ]
    valid = torch.tensor([face is not None for face in faces])
    return torch.cat(cut) if cut else torch.zeros(0, 3, 1, 1, dtype=torch.uint8), valid


def _trained(
    bench: Bench,
    judge: Recognizer,
    chips: Tensor,
    targets: Tensor,
    people: Sequence[str],
    worth: Callable[[nn.Module], float],
) -> tuple[nn.Module, dict[str, Any]]:
    """The best copy of the network within the budget by `worth`, and how it came about."""
    net = copy.deepcopy(judge.net)
    best, kept = worth(net), (0, copy.deepcopy(net.state_dict()))
    weights = [p.requires_grad_() for p in net.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
    labels = torch.from_numpy(np.unique(np.array(people), return_inverse=True)[1])
    random = stream(bench.seed, "finetuned")
    done = 0

    def look() -> None:
        nonlocal best, kept
        now = worth(net)
        if now > best:
            best, kept = now, (done, copy.deepcopy(net.state_dict()))

    for step in bench.budget(f"finetuned: {judge.name}"):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20, (bench.steps - step) / bench.steps * 2)
        batch = torch.randint(len(chips), (BATCH,), generator=random)
        x = judge.spec.scale(_moved(chips[batch].float(), random).to(bench.models.device))
        loss = _loss(net(x), targets, labels, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()
        done = step + 1
        if done % LOOK == 0:
            look()
    if done % LOOK:
        look()
    net.load_state_dict(kept[1])
    return net.requires_grad_(False), {"steps": done, "chosen_step": kept[0]}


def _loss(embedded: Tensor, targets: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
    """Distance to the clean embedding, and a softmax over all clean embeddings by person."""
    targets = targets.to(embedded)
    cosine = embedded @ targets.T
    same = (labels[batch][:, None] == labels[None]).to(embedded)
    chance = F.log_softmax(SCALE * cosine, 1)
    person = -((chance * same).sum(1) / same.sum(1)).mean()
    distilled = (1 - (embedded * targets[batch.to(targets.device)]).sum(1)).mean()
    return 4 * distilled + person


def _moved(chips: Tensor, random: torch.Generator) -> Tensor:
    """Shifted by up to three pixels: the landmarks are never quite the same."""
    dx, dy = torch.randint(-3, 4, (2,), generator=random).tolist()
    padded = F.pad(chips, (3, 3, 3, 3), "replicate")
    height, width = chips.shape[2:]
    return padded[:, :, 3 + dy : 3 + dy + height, 3 + dx : 3 + dx + width].contiguous(
        memory_format=torch.channels_last
    )


@torch.no_grad()
def _scores(
    bench: Bench, judge: Recognizer, trial: Trial, chips: Tensor, valid: Tensor, net: nn.Module
) -> Scores:
    probes = torch.zeros(len(trial), judge.spec.dim)
    if len(chips):
        device = bench.models.device
        parts = (judge.spec.scale(part.float().to(device)) for part in torch.split(chips, CHUNK))
        probes[valid] = torch.cat([net(part).cpu() for part in parts])
    gallery = bench.untouched(judge, trial.gallery)
    return scored(judge.distance, gallery, probes, trial.people, valid)
