"""Milliseconds per face of identity-dp, next to the same network in the plain formulation.

    python benchmarks/identity.py --threads 2
    python benchmarks/identity.py --device cuda --batch 1 64

Plain: float32, AAD layers written as FaceShifter's equations 3 to 6 state them
(four full-size products, two sums, a mask and its complement), gradients left on. Both give the
same pictures, which is checked first. Then what a release costs in all: dlib's vector, OpenDP's
noise, the network. The share of the peak is that of the network's arithmetic in what the device
does in the same time in a large float32 matrix product, which is measured first.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from facedeid.methods import create
from facedeid.models import Models
from facedeid.nets.aei import AdaptiveAttention, IdentityNet
from facedeid.random import stream


class Plain(AdaptiveAttention):
    """The layer as it is written down."""

    def forward(self, h: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        h = self.norm(h)
        by_attributes = self.gamma(attributes) * h + self.beta(attributes)
        gamma = self.gamma_id(identity).view(len(h), -1, 1, 1).expand_as(h)
        beta = self.beta_id(identity).view(len(h), -1, 1, 1).expand_as(h)
        by_identity = gamma * h + beta
        mask = torch.sigmoid(self.mask(h))
        return (1 - mask) * by_attributes + mask * by_identity


def plain(net: IdentityNet) -> IdentityNet:
    """A copy with plain layers, whose parameters keep gradients."""
    copied = copy.deepcopy(net).requires_grad_()
    for block in copied.aei.generator.blocks:
        for norm in block.norms:
            norm.__class__ = Plain
    return copied


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """The quickest of several runs, after one to warm up."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    run()
    best = float("inf")
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def peak(device: str, repeats: int) -> float:
    """Operations a second in a float32 matrix product."""
    side = 8192 if device == "cuda" else 2048
    a = torch.rand(side, side, device=device)
    return 2 * side**3 / seconds(lambda: a @ a, repeats, device)


def operations(run: Callable[[], object]) -> int:
    """Multiplications and additions of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # the peak is that of float32
    device = options.device
    models = Models(device)
    ours = models.identity
    reference = plain(ours)
    method = create("identity-dp")
    machine = platform.processor() or platform.machine()
    most = peak(device, options.repeats)
    on = (
        f"{machine}, {options.threads} threads" if device == "cpu" else torch.cuda.get_device_name()
    )
    print(f"{on}; {most / 1e9:.0f} GFLOP/s in a matrix product\n")
    print("| batch | network, ours | of the peak | plain | ratio | a release in all |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in options.batch:
        random = stream(0, batch)
        faces = (torch.rand(batch, 3, 256, 256, generator=random) * 2 - 1).to(device)
        identity = F.normalize(torch.randn(batch, 128, generator=random)).to(device)

        def fast(x: Tensor = faces, u: Tensor = identity) -> Tensor:
            with torch.no_grad():
                return ours(x, u)

        def slow(x: Tensor = faces, u: Tensor = identity) -> Tensor:
            return reference(x, u)

        def whole(x: Tensor = faces, n: int = batch) -> object:
            return method(x, models, random=[stream(0, i) for i in range(n)])

        assert torch.allclose(fast(), slow(), atol=1e-4)
        share = operations(fast) / seconds(fast, options.repeats, device) / most
        a, b, c = (seconds(run, options.repeats, device) / batch for run in (fast, slow, whole))
        print(
            f"| {batch} | {a * 1000:.2f} ms | {share:.0%} | {b * 1000:.2f} ms | {b / a:.2f} | "
            f"{c * 1000:.1f} ms |"
        )


if __name__ == "__main__":
    main()
