"""The recipe of the network that ships: with dlib as the one guide, on two people's portraits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facedeid.errors import TrainingError
from facedeid.landmarks import MEAN_FACE
from facedeid.models import Models, Recognizer, identity_codes, lookalikes
from facedeid.nets import load_official
from facedeid.nets.hiding import EmbeddingNet
from facedeid.nets.lpips import Lpips
from facedeid.nets.residual import tint
from facedeid.nets.speed import fast_bf16
from facedeid.random import stream
from facedeid.training.data import load_faces
from facedeid.training.diversity import diverse, jittered_landmarks
from facedeid.training.loop import Options, train
from facedeid.training.prepared import Prepared, Rivals, drift, shade
from facedeid.training.recipes import configured

CPU = torch.device("cpu")
SMALL = ('guides=["dlib"]', "width=0.25", "levels=3", "batch=6", "warmup=2", "adversary_from=4")


def run(recipe, photos, out, **options):
    task = recipe.task(load_faces([photos], size=64), [], out, CPU, 3)
    settings = Options(out=out, seed=3, log_every=1, bf16=False, **options)
    return train(recipe, task, settings, say=lambda _: None), task


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedding")
    recipe = configured("feature-embedding", [*SMALL, "steps=24", "lr=0.003"])
    return out, *run(recipe, photos, out)


def test_it_learns_to_lead_the_recogniser_away(trained):
    out, outcome, _ = trained
    assert outcome.finished
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    parts = [row["identity"] for row in rows if "identity" in row]
    assert np.mean(parts[-5:]) < 0.9 * np.mean(parts[:3])
    assert rows[0]["perceptual"] < 1e-6 < rows[10]["perceptual"]  # starts as the identity


def test_the_adversary_learns_and_is_not_exported(trained):
    out, outcome, _ = trained
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[2]["fooling"] == 0
    assert rows[10]["fooling"] != 0
    state = load_file(out / "feature-embedding.safetensors")
    assert not any("critic" in key for key in state)
    net = EmbeddingNet(width=0.25, levels=3)
    load_official(net, {k.removeprefix("net."): v.float() for k, v in state.items()})
    assert set(outcome.figures) >= {"rejected dlib", "ssim", "perceptual"}


def test_figures_where_no_threshold_is_known(trained, no_threshold):
    _, outcome, task = trained
    assert set(task.evaluate(task.model.eval())) == set(outcome.figures) - {"rejected dlib"}


def test_first_weights_follow_the_seed(photos, tmp_path):
    recipe = configured("feature-embedding", list(SMALL))
    faces = load_faces([photos], size=64)
    one, two, other = (
        recipe.task(faces, [], tmp_path, CPU, seed).model.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[key], value) for key, value in two.items())
    for part in ("net.", "critic."):
        assert any(not torch.equal(one[k], v) for k, v in other.items() if k.startswith(part))


def test_samples_are_different_photos_in_batches_of_about_a_size(photos, tmp_path):
    kept, _ = Prepared.parts(load_faces([photos], size=64), [], tmp_path)
    for most, sizes in ((100, [5, 4, 4]), (7, [4, 3]), (1, [1])):
        found = list(kept.samples(most, stream(0), CPU, size=6))
        assert [len(batch.cover) for batch in found] == sizes
        rows = torch.cat([batch.rows for batch in found])
        assert len(set(rows.tolist())) == len(rows)
        covers = torch.cat([batch.cover for batch in found])
        assert torch.equal(covers, kept.faces.images[rows].float() / 127.5 - 1)


def test_embeddings_are_kept_for_the_same_photos_alone(photos, tmp_path):
    faces, guide = load_faces([photos], size=64), Models().recognizer("dlib")
    others = replace(faces, images=faces.images.flip(0))
    moved = replace(faces, landmarks=faces.landmarks + 3)
    file, first = tmp_path / "own-dlib.pt", Prepared.of(faces, [guide], tmp_path / "own")
    written = file.read_bytes()
    again = Prepared.of(faces, [guide], tmp_path / "own")
    assert torch.equal(first.own["dlib"], again.own["dlib"])
    assert file.read_bytes() == written
    for changed in (others, moved):
        found = Prepared.of(changed, [guide], tmp_path / "own").own["dlib"]
        assert torch.equal(found, Prepared.of(changed, [guide], tmp_path / "new").own["dlib"])
        assert not torch.equal(found, first.own["dlib"])
    for damaged in (written[:100], b""):
        file.write_bytes(damaged)
        assert torch.equal(
            Prepared.of(faces, [guide], tmp_path / "own").own["dlib"], first.own["dlib"]
        )
    assert not list(tmp_path.glob("*.part"))
    darker = replace(guide.spec, scale=lambda chips: guide.spec.scale(chips / 2))
    other = Recognizer(darker, CPU)  # of the same name, as an ONNX file with other options
    found = Prepared.of(faces, [other], tmp_path / "own").own["dlib"]
    assert torch.allclose(found, other.embed(faces.images / 127.5 - 1, faces.landmarks), atol=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(photos, tmp_path):
    whole = configured("feature-embedding", [*SMALL, "steps=6"])
    run(whole, photos, tmp_path / "whole")
    part = configured("feature-embedding", [*SMALL, "steps=3", "decay_from=1.0"])
    run(part, photos, tmp_path / "parts")
    rest = configured("feature-embedding", [*SMALL, "steps=6"])
    outcome, task = run(rest, photos, tmp_path / "parts")
    assert outcome.step == 6
    task.distance = Lpips("alex")  # as with --teacher
    more = Options(out=tmp_path / "parts", seed=3, bf16=False)
    with pytest.raises(TrainingError, match="had lpips_on compact, now it is alex"):
        train(replace(rest, steps=7), task, more, say=lambda _: None)


def test_a_step_depends_on_seed_and_step_alone(photos, tmp_path):
    recipe = configured("feature-embedding", list(SMALL))
    tasks = [recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3) for _ in range(2)]
    tasks[1].model.load_state_dict(tasks[0].model.state_dict())
    one, two = (task.loss(task.model, 5)[0] for task in tasks)
    assert torch.equal(one, two)
    assert not torch.equal(one, tasks[0].loss(tasks[0].model, 6)[0])


def test_a_thorough_adversary_is_larger_and_is_not_exported_either(photos, tmp_path):
    recipe = configured("feature-embedding", [*SMALL, "steps=1", "critic=thorough"])
    _, task = run(recipe, photos, tmp_path)
    plain = Rivals(torch.nn.Identity(), "patches", task.distance).critic
    sizes = [sum(p.numel() for p in net.parameters()) for net in (plain, task.model.critic)]
    assert sizes[1] > 9 * sizes[0]
    assert not any("critic" in key for key in load_file(tmp_path / "feature-embedding.safetensors"))


def test_an_adversary_may_see_features_and_is_not_exported_either(photos, tmp_path):
    recipe = configured("feature-embedding", [*SMALL, "steps=1", "critic=features"])
    _, task = run(recipe, photos, tmp_path)
    assert task.loss(task.model, 9)[1]["fooling"] != 0
    assert not any("critic" in key for key in load_file(tmp_path / "feature-embedding.safetensors"))


def test_unknown_adversaries_are_refused(photos, tmp_path):
    with pytest.raises(TrainingError, match="patches, thorough, features"):
        run(configured("feature-embedding", [*SMALL, "critic=tall"]), photos, tmp_path)


def test_shade_counts_what_is_as_wide_as_a_blotch():
    fine = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 3, 32, 32)
    assert shade(fine) == 0
    assert shade(0.5 * torch.ones(1, 3, 32, 32)) == pytest.approx(0.25)


def test_drift_counts_what_all_faces_become_and_not_that_they_change():
    net, covers = Models().perceptual, torch.rand(4, 3, 64, 64, generator=stream(0)) - 0.5
    assert drift(net, covers, covers) == 0
    assert drift(net, covers, covers + 0.3) > 1  # all lighter: more than they differ
    assert drift(net, covers, covers.roll(1, 0)) == 0  # each becomes another: nothing in common
    twice = covers[:1].repeat(2, 1, 1, 1)
    made = (twice + 0.3).requires_grad_()  # the same photo, drawn twice
    drift(net, twice, made).backward()
    assert drift(net, twice, made) == 0
    assert torch.isfinite(made.grad).all()


def test_it_may_begin_with_the_network_that_ships(photos, tmp_path):
    recipe = configured("feature-embedding", ['guides=["dlib"]', "continued=true"])
    task = recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)
    shipped = Models().embedding.state_dict()
    assert all(torch.equal(shipped[k], v) for k, v in task.model.net.state_dict().items())


@pytest.mark.parametrize("kept", [0, 0.6])
def test_the_losses_see_the_share_of_colour_that_the_method_keeps(kept, photos, tmp_path):
    options = ['guides=["dlib"]', "continued=true", f"kept={kept}"]
    task = configured("feature-embedding", options).task(
        load_faces([photos], size=128), [], tmp_path, CPU, 3
    )
    batch, target = next(task.training.samples(2, stream(0), CPU))
    codes, full = task.codes[target], torch.ones(2)
    with torch.no_grad():
        shown = task._applied(task.model.eval(), batch, target)
        whole = batch.within(task.model(batch.cover, codes, full))
    changes = [float(tint(made - batch.cover).abs().mean()) for made in (shown, whole)]
    assert changes[0] == pytest.approx(kept * changes[1], abs=0.2 * changes[1])  # clipped whites


@pytest.mark.parametrize("how", ["tile", "both"])
def test_the_identity_may_come_in_as_the_paper_tiles_it(how, photos, tmp_path):
    recipe = configured("feature-embedding", [*SMALL, "steps=2", f"conditioning={how}"])
    outcome, task = run(recipe, photos, tmp_path)
    assert outcome.finished
    assert task.model.net.hiding.config.conditioning == how


def test_another_conditioning_is_refused(photos, tmp_path):
    recipe = configured("feature-embedding", [*SMALL, "conditioning=words"])
    with pytest.raises(TrainingError, match="film"):
        recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)


def test_dlib_must_guide(photos, tmp_path):
    recipe = configured("feature-embedding", ['guides=["facedeid-mobile"]'])
    with pytest.raises(TrainingError, match="must include dlib"):
        recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)


def test_an_unknown_guide_is_named(photos, tmp_path):
    recipe = configured("feature-embedding", ['guides=["dlib", "nobody"]'])
    with pytest.raises(TrainingError, match="nobody"):
        recipe.task(load_faces([photos], size=64), [], tmp_path, CPU, 3)


def test_a_missing_file_of_the_perceptual_distance_is_named(photos, tmp_path):
    recipe = configured("feature-embedding", ['guides=["dlib"]'])
    with pytest.raises(TrainingError, match=r"none\.safetensors"):
        recipe.task(
            load_faces([photos], size=64), [str(tmp_path / "none.safetensors")], tmp_path, CPU, 3
        )


def test_input_diversity_changes_half_and_passes_gradients():
    faces = torch.rand(40, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    faces.requires_grad_()
    seen = diverse(faces, stream(0, "test"))
    same = [torch.equal(a, b) for a, b in zip(faces, seen, strict=True)]
    assert 10 <= sum(same) <= 30
    seen.sum().backward()
    assert (faces.grad.flatten(1).abs().sum(1) > 0).all()


def test_jittered_landmarks_move_as_a_whole():
    points = torch.from_numpy(MEAN_FACE * 128).expand(200, -1, -1)
    moved = jittered_landmarks(points, stream(0, "jitter"))
    shapes = [(p[:, None] - p[None]).norm(dim=-1) for p in (points[0], moved[0])]
    ratio = shapes[1][0, 16] / shapes[0][0, 16]
    torch.testing.assert_close(shapes[1], shapes[0] * ratio, atol=1e-2, rtol=1e-3)
    assert 0.5 < (moved - points).norm(dim=-1).mean() < 10


def test_lookalikes_are_the_nearest_and_codes_tell_identities_apart():
    models = Models()
    bank = models.identities("dlib")
    near = lookalikes(bank[:5], models, 3)
    assert near[:, 0].tolist() == [0, 1, 2, 3, 4]
    codes = identity_codes(models)
    assert codes.shape == (len(bank), 512)
    cosine = torch.nn.functional.cosine_similarity(codes[:50, None], codes[None, :50], dim=-1)
    assert (cosine - torch.eye(50)).max() < 0.9
    assert codes.std().item() == pytest.approx(1, abs=0.1)


def test_bfloat16_is_only_chosen_where_it_pays(monkeypatch):
    assert fast_bf16("cuda")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not fast_bf16("cpu")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    known = getattr(torch.cpu, "get_capabilities", dict)()
    assert fast_bf16("cpu") == bool(known.get("avx512_bf16") or known.get("amx_bf16"))
