"""The one training loop: time-boxed, resumable, the same on CPU and GPU."""

import copy
import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from facedeid.errors import TrainingError
from facedeid.nets.speed import channels_last, fast_bf16
from facedeid.training.card import card

__all__ = [
    "Adaptive",
    "Options",
    "Outcome",
    "Recipe",
    "Task",
    "keep",
    "seconds",
    "train",
    "write",
]


class Recipe(Protocol):
    """What the loop reads of a recipe's hyper-parameters (a frozen dataclass)."""

    name: ClassVar[str]
    bf16: ClassVar[bool]
    """Whether the network may run in bfloat16."""
    betas: ClassVar[tuple[float, float]]
    """Of Adam."""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def warmup(self) -> int: ...  # noqa: D102
    @property
    def decay_from(self) -> float: ...  # noqa: D102
    @property
    def ema(self) -> float: ...  # noqa: D102


class Task(Protocol):
    """A recipe with its data: everything that differs between models."""

    model: nn.Module

    def loss(self, model: Callable[..., Any], step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Loss of a step and its parts; a function of seed and step alone."""

    def finish(self, model: nn.Module) -> None:
        """Last touches to averaged weights, before they are evaluated and exported."""

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Figures on held-out people; empty where none are held out."""

    def grid(self) -> Tensor:
        """A picture of what is learned from: 3×H×W uint8."""

    def metadata(self) -> Mapping[str, Any]:
        """Facts for the log and the file of weights."""


@runtime_checkable
class Adaptive(Protocol):
    """What a task may have besides: a learning rate that follows what it measures on the way."""

    @property
    def rate_factor(self) -> float:
        """Multiplies the recipe's learning rate."""

    def after(self, step: int) -> Mapping[str, float]:
        """Called when `step` steps are done; figures to log, if any."""

    def state(self) -> dict[str, Any]:
        """Kept in `state.pt`: tensors, numbers and text, in dicts and lists."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what: nothing here changes the result of a step."""

    out: Path
    budget: float | None = None
    """Seconds after which the run saves and stops, with a step done at least; None: at the recipe's
    last step."""
    begun: float = field(default_factory=time.monotonic)
    """When the budget begins to count, by `time.monotonic`."""
    device: str = "cpu"
    bf16: bool | None = None
    """bfloat16 where the recipe allows it; None: where it is fast (`fast_bf16`)."""
    seed: int = 0
    dry_run: bool = False
    """Build everything, run two steps, estimate the speed, write nothing."""
    reduced: Mapping[str, Any] = field(default_factory=dict)
    """What a run has for the settings that are smaller in a dry run: its time is not told then."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What must be the same when the run goes on, beside the settings and the task's metadata."""
    log_every: int = 50
    save_every: float = 300
    """Seconds between saved states (each with an evaluation and an export)."""


@dataclass(frozen=True)
class Outcome:
    """Where a run ended: steps done, whether that was all, seconds per step, last figures."""

    step: int
    finished: bool
    seconds_per_step: float
    figures: dict[str, float]


def seconds(text: str) -> float:
    """`90s`, `8m`, `1.5h` or plain seconds -> seconds.

    Raises:
        TrainingError: anything else, or nothing left to train in.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    value = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not value:
        raise TrainingError(f"--budget {text}: write it as 90s, 8m or 1.5h")
    return value


def train(
    recipe: Recipe, task: Task, options: Options, *, say: Callable[[str], None] = print
) -> Outcome:
    """Train until the recipe's last step or the budget is spent; go on where a run left off.

    In `options.out`: `options.json`, `log.jsonl`, `state.pt` (to resume), `grid.png`, the averaged
    weights as `<recipe>.safetensors` (float16), and their model card, `<recipe>.md`.

    Raises:
        TrainingError: the state in `out` is of another recipe, of other photos or networks, or the
            loss or a gradient is not finite.
    """
    torch.set_flush_denormal(True)  # tiny gradients are slow on CPUs
    device = torch.device(options.device)
    model = channels_last(task.model.to(device=device))
    average = copy.deepcopy(model).eval().requires_grad_(False)
    bf16 = recipe.bf16 and (fast_bf16(options.device) if options.bf16 is None else options.bf16)
    optimiser = torch.optim.AdamW(
        _groups(model, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas
    )
    settings = _described(recipe, options, bf16)
    say(json.dumps({**settings, **task.metadata()}))
    facts = _facts(task, options)
    step = _resume(
        options.out / "state.pt", settings, facts, task, model, average, optimiser, device
    )
    adaptive = task if isinstance(task, Adaptive) else None
    last = min(recipe.steps, step + 2) if options.dry_run else recipe.steps
    if not options.dry_run:
        write(options.out / "options.json", json.dumps(settings, indent=2).encode())
    say(f"from step {step} of {recipe.steps}")

    def forward(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model(*inputs, **named)

    begun, saved, done, pace = step, time.monotonic(), time.monotonic(), 0.0
    figures: dict[str, float] = {}
    written = begun
    while step < last:
        expected = pace if step > begun + 1 else 0.0  # the first step also makes and loads data
        if step > begun and _spent(options.budget, time.monotonic() - options.begun, expected):
            break
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * _schedule(recipe, step)
            if adaptive is not None:
                group["lr"] *= adaptive.rate_factor
        loss, parts = task.loss(forward, step)
        if not torch.isfinite(loss):
            raise TrainingError(_diverged(f"the loss is {loss.item()}", step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [nn.utils.clip_grad_norm_(part.parameters(), 5.0) for part in _rivals(model)]
        if not all(map(torch.isfinite, norms)):  # a step would leave no number in the weights
            raise TrainingError(_diverged("a gradient is not finite", step))
        optimiser.step()
        _follow(average, model, min(recipe.ema, (1 + step) / (10 + step)))
        step += 1
        now = time.monotonic()
        warming = step <= begun + 2
        pace = now - done if warming else 0.9 * pace + 0.1 * (now - done)
        done = now
        found = {} if adaptive is None else adaptive.after(step)
        if options.dry_run:
            continue
        if step % options.log_every == 0 or step == begun + 1:
            rate = optimiser.param_groups[0]["lr"]
            _log(options.out, say, step=step, loss=loss.item(), **parts, rate=rate, pace=pace)
        if found:
            _log(options.out, say, step=step, **found)
            done = time.monotonic()
        if now - saved > options.save_every:
            figures = _saved(task, step, settings, model, average, optimiser, options, say)
            written, saved = step, time.monotonic()
            done = saved

    if options.dry_run:
        say(_estimate(recipe, pace, options.reduced))
    elif step != written or (step and step != _exported(options.out / _file(recipe.name))):
        figures = _saved(task, step, settings, model, average, optimiser, options, say)
    return Outcome(step, step >= recipe.steps, pace, figures)


def _estimate(recipe: Recipe, pace: float, reduced: Mapping[str, Any]) -> str:
    """What a dry run tells; no total where a run has other settings than those measured."""
    if not reduced:
        return (
            f"{pace:.2f} s a step, {recipe.steps * pace / 60:.0f} minutes for {recipe.steps} steps"
        )
    measured = ", ".join(f"{name}={getattr(recipe, name)}" for name in reduced)
    full = " ".join(f"--set {name}={value}" for name, value in reduced.items())
    return f"{pace:.2f} s a step with {measured}; for the time of a whole run give {full}"


def _diverged(what: str, step: int) -> str:
    return f"{what} at step {step}: lower the rate (lr)"


def _file(recipe: str) -> str:
    return f"{recipe}.safetensors"


def _spent(budget: float | None, elapsed: float, pace: float) -> bool:
    return budget is not None and elapsed + pace > budget


def _schedule(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, then linearly to zero."""
    fall = (recipe.steps - step) / max(1.0, recipe.steps * (1 - recipe.decay_from))
    return min(1.0, (step + 1) / max(1, recipe.warmup), fall)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and filters decay; biases and normalisations do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _rivals(model: nn.Module) -> list[nn.Module]:
    """A network and its adversaries, whose gradients are clipped each by itself."""
    return list(model.children()) if hasattr(model, "critic") else [model]


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    follow(list(average.parameters()), list(model.parameters()), 0)
    for kept, now in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(now)


def _described(recipe: Recipe, options: Options, bf16: bool) -> dict[str, Any]:
    fields = asdict(recipe)
    return {"recipe": recipe.name, **fields, "seed": options.seed, "bf16": bf16}


def _facts(task: Task, options: Options) -> dict[str, Any]:
    """What a run can go on with only if it is the same, beside the settings."""
    return {**task.metadata(), **options.facts}


_MAY_CHANGE = frozenset({"steps", "epochs", "decay_from", "bf16"})
"""Settings that may differ when a run goes on."""


def _resume(
    path: Path,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    task: Task,
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> int:
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        before = json.loads(state["settings"])
    except Exception as error:
        raise TrainingError(f"{path} cannot be read ({error}); remove it to start again") from error
    had = json.loads(state.get("facts", "{}"))
    now = json.loads(json.dumps(settings))
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k) and k not in _MAY_CHANGE]
    if changed:
        raise TrainingError(
            f"{path} is of another run: "
            + ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in sorted(changed))
            + "; use another output folder"
        )
    for name, value in json.loads(json.dumps(facts)).items():
        if name in had and had[name] != value:
            raise TrainingError(
                f"the run to go on with had {name} {had[name]}, now it is {value}; use the same "
                "--data, --limit and --teacher, or another output folder"
            )
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"].cpu())
    if isinstance(task, Adaptive):
        task.restore(state["task"])
    return int(state["step"])


def _saved(
    task: Task,
    step: int,
    settings: Mapping[str, Any],
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    options: Options,
    say: Callable[[str], None],
) -> dict[str, float]:
    """State, export, its card and grid written; the averaged model's figures."""
    out = options.out
    state = {
        "settings": json.dumps(settings),
        "facts": json.dumps(_facts(task, options)),
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "task": task.state() if isinstance(task, Adaptive) else {},
    }
    keep(out / "state.pt", state)
    finished = copy.deepcopy(average)
    task.finish(finished)
    figures = dict(task.evaluate(finished))
    known = {**task.metadata(), "step": step}
    text = {"facedeid": json.dumps({**settings, **known, "figures": figures})}
    write(out / f"{settings['recipe']}.md", card(settings, known, figures).encode())
    picture = io.BytesIO()
    Image.fromarray(np.asarray(task.grid().permute(1, 2, 0))).save(picture, "PNG")
    write(out / "grid.png", picture.getvalue())
    write(out / _file(settings["recipe"]), save(_half(finished), text))
    _log(out, say, step=step, **figures)
    return figures


def _exported(path: Path) -> int | None:
    """The step of the weights that were written last: a run may have ended between its state and
    them. None: there are none.
    """
    try:
        with safe_open(path, "pt") as file:
            return int(json.loads(file.metadata()["facedeid"])["step"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _half(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics as contiguous float16."""
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    return {k: v.half().cpu().contiguous() for k, v in state.items()}


def _log(out: Path, say: Callable[[str], None], **values: float) -> None:
    line = json.dumps({k: _short(v) for k, v in values.items()})
    say(line)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _short(value: float) -> float:
    """Six digits: rates may be small."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write(path: Path, data: bytes) -> None:
    """A file, all at once, and its folder."""
    _place(path, lambda part: part.write_bytes(data))


def keep(path: Path, values: Any) -> None:
    """The same of what `torch.save` takes.

    Raises:
        OSError: it cannot be written.
    """

    def save_to(part: Path) -> None:
        try:
            torch.save(values, part)
        except RuntimeError as error:  # so PyTorch tells of a full disk
            raise OSError(f"{path.name} cannot be written; the disk may be full") from error

    _place(path, save_to)


def _place(path: Path, fill: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        fill(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
