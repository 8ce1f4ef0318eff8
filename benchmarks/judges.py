"""Faces per second of the package's judges next to what they stand in for, in one run.

    python benchmarks/judges.py --threads 2 --alex features.safetensors heads.safetensors

Recognisers embed ready-cut chips: dlib's own C++ descriptor (one chip after another, and as a
list), dlib's network in PyTorch, `facedeid-mobile`. Distances compare pairs of 256 px faces:
LPIPS-AlexNet (random weights unless its files are named: the speed is the same) and
`facedeid-lpips`. Best of several interleaved repeats, after one that is not counted; PyTorch
with the number of threads asked for, dlib's C++ as it is built (its BLAS or lack of one decides).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from facedeid.models import RECOGNIZERS
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.weights import dlib_model_path

SHIPPED = Path(__file__).parents[1] / "src/facedeid/data/facedeid-lpips.safetensors"


def per_second(runs: dict[str, Callable[[], Any]], count: int, repeats: int) -> dict[str, float]:
    """The best of several interleaved runs, so that neighbours on the machine matter little."""
    best = dict.fromkeys(runs, float("inf"))
    for i in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if i:  # the first warms up
                best[name] = min(best[name], time.perf_counter() - started)
    return {name: count / seconds for name, seconds in best.items()}


def recognisers(batch: int) -> dict[str, Callable[[], Any]]:
    random = np.random.default_rng(0)
    chips = [random.integers(0, 256, (150, 150, 3), np.uint8) for _ in range(batch)]
    native = dlib.face_recognition_model_v1(
        str(dlib_model_path("dlib_face_recognition_resnet_model_v1.dat"))
    )
    runs = {"dlib, C++": lambda: native.compute_face_descriptor(chips)}
    for name in ("dlib", "facedeid-mobile"):
        spec = RECOGNIZERS[name]
        net = prepared(spec.build())
        x = spec.scale(torch.rand(batch, 3, spec.crop.size, spec.crop.size) * 255)
        label = "dlib, PyTorch" if name == "dlib" else name
        runs[label] = quiet(net, x.contiguous(memory_format=torch.channels_last))
    return runs


def distances(batch: int, alex: list[Path]) -> dict[str, Callable[[], Any]]:
    teacher = lpips(lpips_state(*map(load_file, alex))) if alex else Lpips("alex").eval()
    shipped = {k: v.float() for k, v in load_file(SHIPPED).items()}
    a, b = torch.rand(2, batch, 3, 256, 256) * 2 - 1
    pair = [x.contiguous(memory_format=torch.channels_last) for x in (a, b)]
    return {
        "LPIPS-AlexNet": quiet(prepared(teacher), *pair),
        "facedeid-lpips": quiet(prepared(lpips(shipped)), *pair),
    }


def prepared(net: nn.Module) -> nn.Module:
    net = net.eval().requires_grad_(False)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def quiet(net: nn.Module, *inputs: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return net(*inputs)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--alex", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'':18}" + "".join(f"{f'batch {b}':>12}" for b in options.batches) + "   per second")
    for make in (recognisers, lambda batch: distances(batch, options.alex)):
        found = {b: per_second(make(b), b, options.repeats) for b in options.batches}
        for name in found[options.batches[0]]:
            print(f"{name:18}" + "".join(f"{found[b][name]:12.1f}" for b in options.batches))


if __name__ == "__main__":
    main()
