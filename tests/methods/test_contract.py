"""What every method promises, whatever it does."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.faces import align, detect, frame
from facedeid.methods import METHODS, Method, create, parse
from facedeid.methods.base import toned
from facedeid.models import Models
from facedeid.random import stream

CASES: dict[str, Method] = {
    "blur": create("blur"),
    "down-up": create("down-up", cell=19),
    "fawkes": create("fawkes", level="mid", steps=3),
    "fsap": create("fsap", iterations=1, inner=1, identity_step=0.2, detail="none"),
    "lgc": create("lgc", radius=8, iterations=4),
    "feature-embedding": create("feature-embedding", strength=0.9),
    "identity-dp": create("identity-dp", epsilon=0.57, seeded=True),
    "mask": create("mask", shape="ellipse", color=[200, 30, 30]),
    "noise": create("noise", sigma=25),
    "pixelate": create("pixelate", cluster=16),
    "private-encoder": create("private-encoder", beta=0.1, tries=2, retouch=1),
    "tip-im": create("tip-im", iterations=3, targets=2, norm="linf"),
}
"""One case per method, with options that are not the default where there are any."""

MODELS = Models()
every_method = pytest.mark.parametrize("method", CASES.values(), ids=lambda m: m.name)


def streams(count: int, first: int = 0) -> list[torch.Generator]:
    return [stream(7, "photo", i) for i in range(first, first + count)]


@pytest.fixture(scope="module")
def faces(astronaut: NDArray[np.uint8], hopper: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Three real faces at 256 px, and their landmarks."""
    crops, points = [], []
    for photo in (astronaut, hopper, np.ascontiguousarray(hopper[:, ::-1])):
        face = max(detect(photo), key=lambda f: f.score)
        canonical = frame(face, 256)
        crops.append(align(photo, canonical))
        points.append(torch.from_numpy(canonical.to_frame(face.landmarks)).float())
    return torch.stack(crops), torch.stack(points)


def test_every_method_has_a_case() -> None:
    assert set(CASES) == set(METHODS)


@every_method
def test_the_input_is_left_alone(method: Method, faces: tuple[Tensor, Tensor]) -> None:
    crops, points = faces
    before = crops.clone()
    result = method(crops, MODELS, random=streams(3), landmarks=points)
    assert torch.equal(crops, before)
    assert result.faces.data_ptr() != crops.data_ptr()


@every_method
def test_shape_and_range_are_kept_and_the_face_changes(
    method: Method, faces: tuple[Tensor, Tensor]
) -> None:
    crops, points = faces
    result = method(crops, MODELS, random=streams(3), landmarks=points)
    assert result.faces.shape == crops.shape
    assert result.faces.dtype == torch.float32
    assert -1 <= result.faces.amin() <= result.faces.amax() <= 1
    assert len(result.facts) == 3
    json.dumps([dict(f) for f in result.facts], allow_nan=False)
    assert (result.faces - crops).abs().mean() > 0.005


@every_method
def test_a_grey_face_stays_grey_where_it_is_changed(
    method: Method, faces: tuple[Tensor, Tensor]
) -> None:
    if method.carry != "change":
        pytest.skip("this method replaces pixels")
    crops, points = faces[0].clone(), faces[1]
    crops[1] = crops[1].mean(0, keepdim=True)
    made = method(crops, MODELS, random=streams(3), landmarks=points).faces
    assert (made[1] - made[1].mean(0)).abs().max() < 1e-5
    assert (made[1] - crops[1]).abs().mean() > 0.005
    assert (made[0] - made[0].mean(0)).abs().mean() > 0.05


def test_a_face_with_hardly_any_colour_keeps_what_it_has(faces: tuple[Tensor, Tensor]) -> None:
    grey = 0.9 * faces[0].mean(1, keepdim=True)
    sepia = grey + torch.tensor([0.02, 0.0, -0.02]).view(1, 3, 1, 1)
    changed = sepia + torch.tensor([0.1, -0.1, 0.03]).view(1, 3, 1, 1)
    assert torch.allclose(toned(changed, sepia), sepia + 0.01, atol=1e-6)
    assert torch.equal(toned(changed, faces[0]), changed)


@every_method
def test_the_batch_size_changes_nothing(method: Method, faces: tuple[Tensor, Tensor]) -> None:
    crops, points = faces
    together = method(crops, MODELS, random=streams(3), landmarks=points).faces
    for i in range(3):
        alone = method(
            crops[i : i + 1], MODELS, random=streams(1, i), landmarks=points[i : i + 1]
        ).faces[0]
        torch.testing.assert_close(alone, together[i], atol=2e-4, rtol=0)


@every_method
def test_a_seed_repeats_the_result(method: Method, faces: tuple[Tensor, Tensor]) -> None:
    crops, points = faces
    first, second = (
        method(crops, MODELS, random=streams(3), landmarks=points).faces for _ in range(2)
    )
    assert torch.equal(first, second)
    third = method(crops, MODELS, random=streams(3, first=3), landmarks=points).faces
    assert torch.equal(first, third) != method.varies


@every_method
def test_an_empty_batch_is_no_error(method: Method) -> None:
    result = method(torch.zeros(0, 3, 256, 256), MODELS, random=[])
    assert result.faces.shape == (0, 3, 256, 256)
    assert result.facts == ()


@every_method
@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        (np.zeros((1, 3, 256, 256), np.float32), "must be a torch tensor"),
        (torch.zeros(1, 1, 256, 256), "N×3×S×S"),
        (torch.zeros(1, 3, 256, 200), "N×3×S×S"),
        (torch.zeros(1, 3, 256, 256, dtype=torch.float64), "float32"),
        (torch.full((1, 3, 256, 256), 3.0), r"\[-1, 1\]"),
        (torch.full((1, 3, 256, 256), torch.nan), r"\[-1, 1\]"),
    ],
)
def test_a_wrong_batch_is_refused(method: Method, batch: Tensor, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        method(batch, MODELS, random=streams(1))


@every_method
def test_generators_and_landmarks_must_fit(method: Method) -> None:
    batch = torch.zeros(2, 3, 256, 256)
    with pytest.raises(OptionError, match="2 faces need as many generators, got 1"):
        method(batch, MODELS, random=streams(1))
    with pytest.raises(OptionError, match="N×68×2"):
        method(batch, MODELS, random=streams(2), landmarks=torch.zeros(2, 5, 2))
    with pytest.raises(OptionError, match="landmarks must be finite"):
        method(batch, MODELS, random=streams(2), landmarks=torch.full((2, 68, 2), torch.nan))


@every_method
def test_a_method_is_a_value(method: Method) -> None:
    assert pickle.loads(pickle.dumps(method)) == method
    assert copy.deepcopy(method) == method
    assert eval(repr(method), {type(method).__name__: type(method)}) == method
    again = create(method.name, **json.loads(json.dumps(method.options())))
    assert again == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", METHODS)
def test_methods_describe_themselves(name: str) -> None:
    method = create(name)
    assert method.summary
    assert method.source
    assert type(method).__doc__
    assert method.carry in ("replace", "change")
    assert all(isinstance(w, str) for w in method.warnings)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("emoji", "no method is called 'emoji'; there are: blur"),
        ("blur:radius=3", "blur has no option 'radius'; it takes sigma"),
        ("pixelate:cells=many", "cells must be int"),
        ("pixelate:cells=2.5", "cells must be int"),
        ("pixelate:cells=0", "between 1 and 256, got 0"),
        ("pixelate:cells=" + 400 * "9", "cells must be int"),
        ("fsap:iterations=" + 400 * "9", "iterations must be int"),
        ("mask:color=" + 100_000 * "[", "color must be"),
        ("pixelate:cells=8,cluster=8", "not both"),
        ("noise:sigma=true", "sigma must be float"),
        ("mask:shape=star", "shape must be"),
        ("mask:color=[1,2]", "color must be"),
        ("mask:color=[1,2,999]", "0 to 255"),
        ("blur:sigma", "write NAME:option=value"),
    ],
)
def test_text_that_is_no_method(text: str, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        parse(text)


def test_text_becomes_a_method() -> None:
    assert parse("mask:color=[255,0,10],shape=box") == create(
        "mask", color=(255, 0, 10), shape="box"
    )
    assert parse("blur:sigma=1") == create("blur", sigma=1)
    assert parse('lgc:recognizers=["dlib","onnx:a.onnx?size=112&mean=0"],radius=2') == create(
        "lgc", recognizers=["dlib", "onnx:a.onnx?size=112&mean=0"], radius=2
    )
