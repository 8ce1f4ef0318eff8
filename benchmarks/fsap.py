"""Seconds a face: FSAP beside a plain transcription of its Algorithm 1, on the same networks.

    python benchmarks/fsap.py [--batch 1 --batch 8] [--iterations 30] [--tau 0.8] [--threads 2]
        [--identity-step 0.02] [--attribute-step 0.008]

The transcription is written from the paper: frozen float32 weights, one forward pass a step, the
three attribute gradients one after the other from a retained graph, the whole batch until its last
face has passed tau. Both run `iterations` outer steps of 1 + `inner` at most, in turn; the median
counts. With a tau out of reach (2) nobody stops early. The outcome is compared: who passed tau,
the identity loss that both reach, and the pictures.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from facedeid.inversion import invert
from facedeid.losses import mse, perceptual, ssim
from facedeid.methods.fsap import Likeness, Perturbation, Steps, perturb
from facedeid.models import Models
from facedeid.nets.speed import fast_bf16
from facedeid.random import stream


def portraits(count: int) -> Tensor:
    """Faces of the generator: N×3×256×256."""
    pair = Models().pair()
    with torch.no_grad():
        faces = pair.decode(pair.sample(count, stream(0, "benchmark"))).clamp(-1, 1)
    return torch.nn.functional.interpolate(faces, scale_factor=2, mode="bilinear")


def transcription(
    pair, found, judge, own, distance, given: argparse.Namespace
) -> tuple[Tensor, list[int]]:
    """Algorithm 1, line by line: each face as it was when it first passed tau, or at the end; and
    after how many outer steps that was.
    """
    codes, done = found.codes.clone(), torch.zeros(len(own), dtype=torch.bool)
    result, steps = codes.clone(), [given.iterations] * len(own)
    for n in range(given.iterations + 1):
        leaf = codes.detach().requires_grad_()
        shown = found.shown(pair.decode(leaf), "kept")
        apart = 1 - (judge.unit(shown, found.landmarks) * own).sum(1)
        result[~done] = codes[~done]
        for row in torch.nonzero((apart.detach() > given.tau) & ~done).flatten().tolist():
            done[row], steps[row] = True, n
        if done.all() or n == given.iterations:
            break
        (slope,) = torch.autograd.grad(apart.sum(), leaf)
        codes = codes + given.identity_step * slope.sign()
        for _ in range(given.inner):
            leaf = codes.detach().requires_grad_()
            shown = found.shown(pair.decode(leaf), "kept")
            losses = (
                mse(shown, found.cover).sum(),
                perceptual(distance, shown, found.cover).sum(),
                (1 - ssim(shown, found.cover)).sum(),
            )
            step = torch.zeros_like(codes)
            for each in losses:
                (slope,) = torch.autograd.grad(each, leaf, retain_graph=True)
                step = step + slope.sign()
            codes = codes - given.attribute_step * step
    return result, steps


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--tau", type=float, default=0.8)
    parser.add_argument("--inner", type=int, default=6)
    parser.add_argument("--identity-step", type=float, default=0.02)
    parser.add_argument("--attribute-step", type=float, default=0.008)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = Models()
    pair, distance = models.pair(), models.perceptual
    judge = Likeness.of(models.recognizer("dlib"), models)
    for batch in given.batch or (1, 8):
        found = invert(pair, portraits(batch), None)
        with torch.no_grad():
            own = judge.unit(found.cover, found.landmarks)
        took: dict[str, list[float]] = {"transcription": [], "fsap": []}
        for repeat in range(given.repeats + 1):
            started = time.perf_counter()
            plain, steps = transcription(pair, found, judge, own, distance, given)
            middle = time.perf_counter()
            problem = Perturbation(
                pair,
                found,
                [own],
                [judge],
                distance,
                given.tau,
                given.inner,
                "kept",
                bf16=fast_bf16("cpu"),
            )
            rule = Steps(given.identity_step, given.attribute_step, given.inner)
            codes, _ = perturb(problem, rule, given.iterations)
            ended = time.perf_counter()
            if repeat:
                took["transcription"].append((middle - started) / batch)
                took["fsap"].append((ended - middle) / batch)
        with torch.no_grad():
            shown = [found.shown(pair.decode(c), "kept") for c in (plain, codes)]
            apart = [1 - (judge.unit(s, found.landmarks) * own).sum(1) for s in shown]
        passed = [int((far > given.tau).sum()) for far in apart]
        one, two = (statistics.median(took[name]) for name in ("transcription", "fsap"))
        print(
            f"batch {batch}: transcription {one:.3f} s a face, fsap {two:.3f} ({one / two:.2f}×); "
            f"beyond tau {passed[0]} and {passed[1]} of {batch}, outer steps "
            f"{statistics.mean(steps):.1f} and "
            f"{statistics.mean(len(h) - 1 for h in problem.history):.1f}; "
            f"identity loss {np.round(apart[0].tolist(), 3)} and {np.round(apart[1].tolist(), 3)}; "
            f"pictures differ by {(shown[0] - shown[1]).abs().mean() * 127.5:.2f} levels"
        )


if __name__ == "__main__":
    main()
