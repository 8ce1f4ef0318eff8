"""The landmark network: its recipe on two people's portraits, and what ships on real faces."""

import json
from dataclasses import replace

import pytest
import torch

from facedeid.errors import TrainingError
from facedeid.faces import align, detect, frame
from facedeid.landmarks import MEAN_FACE
from facedeid.losses import displacement
from facedeid.models import Models
from facedeid.training.data import load_faces
from facedeid.training.loop import Options, train
from facedeid.training.recipes import configured


@pytest.mark.slow
def test_it_learns_where_features_are(photos, tmp_path):
    recipe = configured(
        "landmarks", ["steps=60", "batch=8", "lr=0.003", "changed=4", "warmup=5", "ema=0.5"]
    )
    task = recipe.task(load_faces([photos], size=256), [], tmp_path, torch.device("cpu"), 3)
    options = Options(out=tmp_path, seed=3, log_every=1, bf16=False)
    outcome = train(recipe, task, options, say=lambda _: None)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert {"chin", "changed nose", "displacement mouth"} <= set(outcome.figures)
    assert (tmp_path / "changed.pt").exists()
    again = recipe.task(load_faces([photos], size=256), [], tmp_path, torch.device("cpu"), 3)
    assert torch.equal(again.training.landmarks, task.training.landmarks)


def test_changed_photos_are_kept_for_the_same_ones_alone(photos, tmp_path):
    recipe, cpu = configured("landmarks", ["changed=4"]), torch.device("cpu")
    faces = load_faces([photos], size=256)
    first = recipe.task(faces, [], tmp_path, cpu, 3)
    written = (tmp_path / "changed.pt").read_bytes()
    (tmp_path / "changed.pt").write_bytes(written[:100])
    facts = first.metadata()
    assert (facts["photos"], facts["photos_changed"]) == (len(first.training) - 4, 4)
    again = recipe.task(faces, [], tmp_path, cpu, 3)
    assert torch.equal(again.training.images, first.training.images)
    for key, value in again.model.state_dict().items():
        assert torch.equal(first.model.state_dict()[key], value)
    lighter = replace(faces, images=faces.images.clamp_min(90))
    other = recipe.task(lighter, [], tmp_path, cpu, 3)
    assert not torch.equal(other.training.images[-4:], first.training.images[-4:])


def test_photos_without_landmarks_get_dlibs(photos, tmp_path):
    recipe, cpu = configured("landmarks", ["changed=1"]), torch.device("cpu")
    known = load_faces([photos], size=256)
    mean = torch.from_numpy(MEAN_FACE * 256).float().expand_as(known.landmarks)
    found, wanted = (
        recipe.task(replace(known, landmarks=points), [], tmp_path, cpu, 3).training.landmarks
        for points in (mean, known.landmarks)
    )
    apart = [displacement(wanted, points[: len(wanted)], 128)[:-1] for points in (found, mean / 2)]
    assert apart[0].mean() < 0.5 * apart[1].mean()


def test_it_has_no_other_teacher(photos, tmp_path):
    with pytest.raises(TrainingError, match=r"--teacher dlib: leave it out"):
        configured("landmarks").task(
            load_faces([photos], size=32), ["dlib"], tmp_path, torch.device("cpu"), 3
        )


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
@pytest.mark.parametrize("side", [128, 256])
def test_what_ships_places_points_as_dlib_does(name, side, request):
    rgb = request.getfixturevalue(name)
    face = detect(rgb)[0]
    place = frame(face, side)
    found = Models().landmarks(align(rgb, place)[None])
    truth = torch.from_numpy(place.to_frame(face.landmarks)[None]).float()
    assert found.shape == (1, 68, 2)
    assert (displacement(truth, found, side) < 4).all()


def test_its_points_follow_the_face_and_pull_it_back(astronaut):
    place = frame(detect(astronaut)[0], 128)
    face, net = align(astronaut, place)[None], Models().landmarks
    lower = torch.roll(face, 3, 2)
    with torch.no_grad():
        before, after = net(face), net(lower)
    shift = (after - before).mean(1)[0]
    assert abs(shift[0].item()) < 1
    assert 2 < shift[1].item() < 4
    lower.requires_grad_()
    distance = displacement(before, net(lower), 128).mean()
    (gradient,) = torch.autograd.grad(distance, lower)
    step = 0.1 * gradient / gradient.abs().max()
    with torch.no_grad():
        closer = displacement(before, net(lower - step), 128).mean()
    assert closer < distance
