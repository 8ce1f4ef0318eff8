import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from facedeid.errors import TrainingError
from facedeid.nets.lpips import Lpips
from facedeid.random import stream
from facedeid.training.loop import Options, _rivals, keep, seconds, train
from facedeid.training.prepared import Rivals


@dataclass(frozen=True, kw_only=True)
class Line:
    """Fits a small network to a fixed map."""

    name: ClassVar[str] = "line"
    bf16: ClassVar[bool] = False
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    steps: int = 12
    batch: int = 16
    lr: float = 0.02
    weight_decay: float = 0.0
    warmup: int = 2
    decay_from: float = 0.5
    ema: float = 0.9
    slow: float = 0.0

    def task(self):
        return LineTask(self)


class LineTask:
    def __init__(self, recipe):
        self.recipe = recipe
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
        self.sleeps = 0

    def loss(self, model, step):
        if self.recipe.slow:
            time.sleep(self.recipe.slow)
        x = torch.randn(self.recipe.batch, 3, 4, 4, generator=stream(1, step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"error": loss.item()}

    def finish(self, model):
        pass

    def evaluate(self, model):
        x = torch.randn(64, 3, 4, 4, generator=stream(1, "test"))
        return {"error": (model(x) - x.sum(1, keepdim=True)).square().mean().item()}

    def grid(self):
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    def metadata(self):
        return {"parameters": 25}


def run(out, recipe=None, **options):
    recipe = recipe or Line()
    task, said = recipe.task(), []
    outcome = train(recipe, task, Options(out=out, log_every=1, **options), say=said.append)
    return outcome, task, said


def test_learns_and_writes_everything(tmp_path):
    outcome, _, said = run(tmp_path / "run", Line(steps=60))
    assert outcome.finished
    assert outcome.step == 60
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert log[-2]["loss"] < 0.3 * log[0]["loss"]
    assert log[-1] == {"step": 60, "error": pytest.approx(outcome.figures["error"], abs=1e-6)}
    options = json.loads((tmp_path / "run/options.json").read_text())
    assert options["recipe"] == "line"
    assert options["lr"] == 0.02
    assert options.items() <= json.loads(said[0]).items()
    weights = load_file(tmp_path / "run/line.safetensors")
    assert {v.dtype for v in weights.values()} == {torch.float16}
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "grid.png",
        "line.md",
        "line.safetensors",
        "log.jsonl",
        "options.json",
        "state.pt",
    }


def test_a_network_and_its_adversary_are_clipped_each_by_itself():
    pair = Rivals(nn.Linear(2, 2), "patches", Lpips())
    assert _rivals(pair) == [pair.net, pair.critic]
    plain = nn.Sequential(nn.Linear(2, 2))
    assert _rivals(plain) == [plain]


def test_resume_is_as_if_never_interrupted(tmp_path):
    _, whole, _ = run(tmp_path / "whole")
    first, _, _ = run(tmp_path / "parts", Line(slow=0.05), budget=0.3)
    assert 0 < first.step < 12
    assert not first.finished
    again, parts, said = run(tmp_path / "parts", Line(slow=0.05))
    assert said[1] == f"from step {first.step} of 12"
    assert again.finished
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)
    one, two = (torch.load(tmp_path / d / "state.pt") for d in ("whole", "parts"))
    for key, value in one["average"].items():
        assert torch.equal(value, two["average"][key])


def test_budget_is_kept(tmp_path):
    run(tmp_path / "before", Line(steps=1))  # PyTorch imports much when it first optimises
    started = time.monotonic()
    outcome, _, _ = run(tmp_path, Line(steps=10_000, slow=0.05), budget=1)
    assert time.monotonic() - started < 2
    assert 5 < outcome.step < 25


def test_the_first_step_does_not_count_as_the_pace_of_the_next(tmp_path):
    class Loading(LineTask):
        def loss(self, model, step):
            if not step:
                time.sleep(3)
            return super().loss(model, step)

    options = Options(out=tmp_path, budget=5, log_every=1)
    assert train(Line(), Loading(Line()), options, say=lambda _: None).step == 12


def test_the_budget_counts_from_when_it_began_and_one_step_is_done(tmp_path):
    outcome, _, _ = run(tmp_path, budget=60, begun=time.monotonic() - 100)
    assert (outcome.step, outcome.finished) == (1, False)
    assert run(tmp_path, budget=60, begun=time.monotonic() - 100)[0].step == 2
    assert torch.load(tmp_path / "state.pt")["step"] == 2


def test_a_run_begun_anew_is_written_over_the_old_one(tmp_path):
    run(tmp_path)
    (tmp_path / "state.pt").unlink()
    outcome, _, _ = run(tmp_path, Line(lr=0.001))
    assert outcome.figures
    assert (tmp_path / "state.pt").exists()
    with safe_open(tmp_path / "line.safetensors", "pt") as file:
        assert json.loads(file.metadata()["facedeid"])["lr"] == 0.001


def test_a_finished_run_is_left_alone(tmp_path):
    run(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    outcome, _, _ = run(tmp_path)
    assert outcome.finished
    assert outcome.step == 12
    assert (tmp_path / "state.pt").read_bytes() == before


def test_more_steps_go_on_from_the_last(tmp_path):
    run(tmp_path)
    outcome, _, said = run(tmp_path, Line(steps=20))
    assert "from step 12 of 20" in said
    assert outcome.step == 20


def test_dry_run_writes_nothing(tmp_path):
    outcome, _, said = run(tmp_path / "run", dry_run=True)
    assert outcome.step == 2
    assert "minutes for 12 steps" in said[-1]
    assert not (tmp_path / "run").exists()


def test_refuses_the_state_of_another_run(tmp_path):
    run(tmp_path)
    with pytest.raises(TrainingError, match=r"lr was 0\.02, is 0\.5"):
        run(tmp_path, Line(lr=0.5))
    with pytest.raises(TrainingError, match="seed was 0, is 7"):
        run(tmp_path, seed=7)

    class Curve(Line):
        name = "curve"

    with pytest.raises(TrainingError, match="recipe was 'line', is 'curve'"):
        run(tmp_path, Curve())


def test_refuses_a_state_it_cannot_read(tmp_path):
    run(tmp_path)
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[:100])
    with pytest.raises(TrainingError, match="remove it to start again"):
        run(tmp_path)


def test_stops_when_it_diverges(tmp_path):
    class Broken(LineTask):
        def loss(self, model, step):
            loss, parts = super().loss(model, step)
            return loss * float("nan"), parts

    recipe = Line()
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        train(recipe, Broken(recipe), Options(out=tmp_path), say=lambda _: None)


def test_stops_before_a_gradient_that_is_none_reaches_the_weights(tmp_path):
    class Root(LineTask):
        def loss(self, model, step):
            loss, parts = super().loss(model, step)
            nothing = sum(p.sum() for p in self.model.parameters()) * 0
            return loss + (nothing.sqrt() if step == 11 else 0), parts

    task = Root(Line())
    with pytest.raises(TrainingError, match="a gradient is not finite at step 11: lower the rate"):
        train(Line(), task, Options(out=tmp_path), say=lambda _: None)
    assert all(p.isfinite().all() for p in task.model.parameters())


def test_small_rates_are_not_logged_as_none(tmp_path):
    run(tmp_path, Line(lr=1.6e-8, warmup=1, steps=1))
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["rate"] == 1.6e-8


def test_learning_rate_warms_up_and_falls(tmp_path):
    run(tmp_path, Line(steps=10))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rates = [line["rate"] for line in log if "rate" in line]
    assert rates == pytest.approx([0.01, *[0.02] * 5, 0.016, 0.012, 0.008, 0.004])


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("8m", 480), ("1.5h", 5400), ("30", 30), (" 2 m", 120)]
)
def test_budgets(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "0m", "-5m", "5d", "1h30m"])
def test_refuses_other_budgets(text):
    with pytest.raises(TrainingError, match="8m"):
        seconds(text)


@pytest.mark.parametrize("before", [0, 6])
def test_weights_that_a_run_did_not_come_to_write_are_written_by_the_next(before, tmp_path):
    if before:
        run(tmp_path, Line(steps=before))

    class Interrupted(LineTask):
        def evaluate(self, model):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Line(), Interrupted(Line()), Options(out=tmp_path), say=lambda _: None)
    outcome, _, said = run(tmp_path)
    assert said[1] == "from step 12 of 12"
    assert outcome.figures
    with safe_open(tmp_path / "line.safetensors", "pt") as file:
        assert json.loads(file.metadata()["facedeid"])["step"] == 12
    assert (tmp_path / "grid.png").exists()
    written = (tmp_path / "line.safetensors").stat().st_mtime_ns
    run(tmp_path)
    assert (tmp_path / "line.safetensors").stat().st_mtime_ns == written


def test_refuses_to_go_on_with_other_photos_or_networks(tmp_path):
    class Other(LineTask):
        def metadata(self):
            return super().metadata() | {"parameters": 26, "photos": 3}

    run(tmp_path)
    with pytest.raises(TrainingError, match="had parameters 25, now it is 26; use the same --data"):
        train(Line(steps=20), Other(Line()), Options(out=tmp_path), say=lambda _: None)


def test_says_bfloat16_only_where_the_recipe_allows_it(tmp_path):
    run(tmp_path, bf16=True)
    assert json.loads((tmp_path / "options.json").read_text())["bf16"] is False


def test_the_card_says_averaged_only_where_weights_are(tmp_path):
    run(tmp_path / "averaged")
    run(tmp_path / "last", Line(ema=0.0))
    said = [(tmp_path / name / "line.md").read_text() for name in ("averaged", "last")]
    assert ["averaged over steps" in text for text in said] == [True, False]


def test_a_state_that_does_not_fit_on_the_disk_leaves_the_last_one(tmp_path):
    keep(tmp_path / "state.pt", {"a": torch.zeros(1)})
    code = (
        "import resource, torch; from pathlib import Path; from facedeid.training.loop import keep;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"keep(Path({str(tmp_path / 'state.pt')!r}), dict(a=torch.zeros(100_000)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "OSError: state.pt cannot be written; the disk may be full" in done.stderr
    assert torch.equal(torch.load(tmp_path / "state.pt")["a"], torch.zeros(1))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
