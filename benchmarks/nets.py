"""Time the networks against a textbook formulation and against the machine's own peak.

    python benchmarks/nets.py [--cases stylegan2-256 ...] [--batch 1 8] [--repeats 5] [--bf16]

Times are CPU times of this process, medians of interleaved runs, so that neighbours on the machine
disturb all columns alike. "peak" is the share of the matrix multiplication rate measured here in
the same type; operations are those of the network as timed, by PyTorch's own counter.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facedeid.nets.aei import AEIConfig, AEINet
from facedeid.nets.irse import IrSe
from facedeid.nets.psp import GradualStyleEncoder
from facedeid.nets.stylegan2 import Generator
from textbook import textbook


@dataclass(frozen=True)
class Case:
    """A network, its input for a batch, and (where one is written) the textbook alternative."""

    network: Callable[[], nn.Module]
    input: Callable[[int], Tensor]
    alternative: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None
    backward: bool = True


def images(side: int) -> Callable[[int], Tensor]:
    return lambda n: torch.rand(n, 3, side, side) * 2 - 1


def styles(count: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, count, 512)


def frozen(network: nn.Module) -> nn.Module:
    """As networks are used: no gradient to weights, 4-D weights in channels-last order."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


class Swapped(nn.Module):
    """AEI-Net with identities that do not depend on the faces."""

    def __init__(self) -> None:
        super().__init__()
        self.net = AEINet(AEIConfig())
        self.register_buffer("identity", F.normalize(torch.randn(1, 512)))

    def forward(self, faces: Tensor) -> Tensor:
        return self.net(faces, self.identity.expand(len(faces), -1))[0]


CASES: dict[str, Case] = {
    "stylegan2-256": Case(lambda: Generator(256, n_mlp=0), styles(14), textbook),
    "stylegan2-1024": Case(lambda: Generator(1024, n_mlp=0), styles(18), textbook),
    "psp-encoder-256": Case(lambda: GradualStyleEncoder(18), images(256), backward=False),
    "ir-se50-112": Case(IrSe, images(112)),
    "aei-net-256": Case(Swapped, images(256), backward=False),
}


def forward(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        network(x)


def backward(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    network(x.detach().requires_grad_()).float().mean().backward()


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def peak(dtype: torch.dtype, side: int = 1536) -> float:
    """Operations per second of a square matrix product."""
    a = torch.randn(side, side).to(dtype)
    seconds = [cpu_seconds(lambda: torch.mm(a, a)) for _ in range(7)]
    return 2 * side**3 / min(seconds[1:])


def operations(run: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def timed(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, after one run to warm up."""
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(cpu_seconds(run))
    return {name: median(times) for name, times in seconds.items()}


def lowered(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(x)

    return run


def measure(name: str, case: Case, batch: int, options: argparse.Namespace) -> None:
    network = frozen(case.network())
    x = case.input(batch)
    variants: dict[str, Callable[[Tensor], Tensor]] = {"ours": network}
    if options.bf16:
        variants["ours bf16"] = lowered(network)
    if case.alternative and not options.no_textbook:
        variants["textbook"] = case.alternative(network)
    for label, step in {"forward": forward, "fwd+bwd": backward}.items():
        if step is backward and not case.backward:
            continue
        runs = {v: (lambda f=f, step=step: step(f, x)) for v, f in variants.items()}
        count = operations(runs["ours"])
        seconds = timed(runs, options.repeats)
        for variant, each in seconds.items():
            rate = count / each / options.peak["bf16" if "bf16" in variant else "fp32"]
            share = f"{rate:6.0%}" if variant != "textbook" else "      "
            times = f"{seconds['ours'] / each:6.2f}×"
            row = f"{name:16} {batch:2} {label:8} {variant:10} {each * 1e3:9.0f} ms {times}"
            print(f"{row} {count / 1e9:8.0f} GFLOP {share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="also time under bfloat16 autocast")
    parser.add_argument("--no-textbook", action="store_true")
    options = parser.parse_args()
    options.peak = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in options.peak.items())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; matrix product: {rates}")
    print("network       batch what     variant     CPU time   speed      operations  of peak")
    for name in options.cases:
        for batch in options.batch:
            measure(name, CASES[name], batch, options)


if __name__ == "__main__":
    main()
