"""The judges that come with the package do on real faces what their cards say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import facedeid
from facedeid.faces import align, detect, frame
from facedeid.models import Models
from facedeid.nets.lpips import lpips
from facedeid.random import stream
from facedeid.training.degrade import compressed
from facedeid.training.distortions import FAMILIES
from facedeid.training.recipes import configured

DATA = Path(facedeid.__file__).parent / "data"
LIMITS = {
    "facedeid-mobile": (2_000_000, 4.0),
    "facedeid-lpips": (1_000_000, 1.5),
    "facedeid-embedding": (3_000_000, 6.0),
}


def facts(name):
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["facedeid"])


@pytest.mark.parametrize("name", LIMITS)
def test_file_is_small_and_says_how_it_was_made(name):
    most, mebibytes = LIMITS[name]
    tensors = load_file(DATA / f"{name}.safetensors")
    assert sum(t.numel() for t in tensors.values()) <= most
    assert (DATA / f"{name}.safetensors").stat().st_size <= mebibytes * 2**20
    said = facts(name)
    given = re.search(r"--set lr=(\S+)", (DATA / f"{name}.md").read_text())
    assert said["lr"] == (float(given[1]) if given else configured(said["recipe"]).lr)
    assert said["figures"]
    assert (DATA / f"{name}.md").read_text().startswith(f"# {name}")


def test_recognizer_tells_people_apart(astronaut, hopper):
    judge = Models().recognizer("facedeid-mobile")

    def embedded(rgb):
        rgb = np.ascontiguousarray(rgb)
        return judge.embed_photo(rgb, [detect(rgb)[0].landmarks])

    one, other = embedded(astronaut), embedded(hopper)
    darker = embedded((astronaut * 0.6).astype(np.uint8))
    mirrored = embedded(astronaut[:, ::-1])
    limit = judge.spec.thresholds["far=1e-3"]
    assert judge.distance(one, other).item() > judge.spec.thresholds["best"]
    assert judge.distance(one, darker).item() < limit
    assert judge.distance(one, mirrored).item() < limit


def test_no_teacher_was_a_black_box():
    assert facts("facedeid-mobile")["teachers"] == ["dlib", "mobileface_v2"]


@pytest.fixture(scope="module")
def distance():
    state = load_file(DATA / "facedeid-lpips.safetensors")
    return lpips({k: v.float() for k, v in state.items()})


def crop(rgb):
    return align(rgb, frame(detect(rgb)[0], 128))[None]


def test_distance_grows_with_the_damage(astronaut, distance):
    face = crop(astronaut)
    noise = torch.randn(face.shape, generator=stream(0))
    with torch.no_grad():
        found = [distance(face, face + s * noise).item() for s in (0, 0.03, 0.1, 0.3)]
    assert found[0] == 0
    assert found[1] < found[2] < found[3]


def test_another_face_is_farther_than_the_same_one_compressed(astronaut, hopper, distance):
    face, other = crop(astronaut), crop(hopper)
    jpeg = compressed((face + 1) * 127.5, stream(0), share=1.1, quality=(20, 20)) / 127.5 - 1
    with torch.no_grad():
        assert distance(face, jpeg) < 0.5 * distance(face, other)


def test_distance_pulls_a_picture_back(astronaut, distance):
    face = crop(astronaut)
    moved = (face + 0.1 * torch.randn(face.shape, generator=stream(1))).requires_grad_()
    before = distance(face, moved)
    (gradient,) = torch.autograd.grad(before.sum(), moved)
    step = 0.3 * gradient / gradient.abs().max()
    with torch.no_grad():
        assert distance(face, moved - step) < before


def test_figures_reach_the_bars():
    figures = facts("facedeid-lpips")["figures"]
    assert figures["mixed"] >= 0.95
    assert all(figures[family] >= 0.9 for family in FAMILIES)
    assert facts("facedeid-mobile")["lfw"]["acc"] >= 95
