"""Compares `OnnxGraph` with onnxruntime and its gradient with finite differences.

    python tools/check_onnx.py NET.onnx [NET.onnx ...]

Inputs are random, 0..255, batches of 1 and 3. Exit status 1 if a network fails.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from facedeid.nets.onnx_graph import OnnxGraph


def differences(net: OnnxGraph, session: onnxruntime.InferenceSession, batch: int) -> float:
    """Largest difference from onnxruntime, relative to the largest output."""
    x = np.random.default_rng(batch).uniform(0, 255, (batch, *_sizes(net))).astype(np.float32)
    (want,) = session.run([net.graph.output], {net.graph.input: x})
    with torch.no_grad():
        got = net(torch.from_numpy(x)).numpy()
    return float(np.abs(got - want).max() / np.abs(want).max())


def gradient_error(net: OnnxGraph, directions: int = 5) -> float:
    """Relative error of directional derivatives against central differences, in float64."""
    net = net.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *_sizes(net), generator=generator, dtype=torch.float64) * 255
    x.requires_grad_()
    with torch.no_grad():
        out = net(x)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((net(x) * weights).sum(), x)
    worst = 0.0
    for _ in range(directions):
        d = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            numeric = ((net(x + step * d) - net(x - step * d)) * weights).sum() / (2 * step)
        exact = (gradient * d).sum()
        worst = max(worst, float((numeric - exact).abs() / exact.abs().clamp_min(1e-9)))
    return worst


def seconds(run, repeats: int = 10) -> float:
    """Median wall time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _sizes(net: OnnxGraph) -> tuple[int, ...]:
    return tuple(n or 112 for n in net.input_shape[1:])


def check(path: Path) -> bool:
    """Print one line for a network; False if it fails."""
    net = OnnxGraph.from_onnx(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    errors = {
        "folded": max(differences(net, session, n) for n in (1, 3)),
        "plain": differences(OnnxGraph.from_onnx(path, fold=False), session, 3),
    }
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder) / "net.safetensors")
        errors["reloaded"] = differences(
            OnnxGraph.load(Path(folder) / "net.safetensors"), session, 3
        )
    x = torch.rand(1, *_sizes(net)) * 255
    y = x.numpy()
    with torch.no_grad():
        ours = seconds(lambda: net(x))
    theirs = seconds(lambda: session.run(None, {net.graph.input: y}))
    gradient = gradient_error(net)
    good = max(errors.values()) < 1e-4 and gradient < 1e-4
    text = ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
    print(
        f"{'ok' if good else 'FAILED'}  {path.name}: {len(net.graph.nodes)} nodes; against "
        f"onnxruntime: {text}; gradient: {gradient:.1e}; "
        f"{ours * 1e3:.1f} ms (onnxruntime {theirs * 1e3:.1f} ms)"
    )
    return good


def main() -> int:
    """Check every network named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("networks", nargs="+", type=Path)
    results = [check(path) for path in parser.parse_args().networks]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
