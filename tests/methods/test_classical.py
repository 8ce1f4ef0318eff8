"""The classical methods do what their names say, at every size of a face."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from facedeid.faces import align, detect, frame
from facedeid.methods import create
from facedeid.methods.classical import FACE_SHARE, gaussian_blur
from facedeid.models import Models
from facedeid.random import stream

MODELS = Models()


@pytest.fixture(scope="module")
def crop(hopper: NDArray[np.uint8]) -> Tensor:
    face = max(detect(hopper), key=lambda f: f.score)
    return align(hopper, frame(face, 256))[None]


def run(name: str, faces: Tensor, **options: object) -> Tensor:
    random = [stream(3, i) for i in range(len(faces))]
    return create(name, **options)(faces, MODELS, random=random).faces


@pytest.mark.parametrize("sigma", [0.7, 3.0, 7.9])
def test_blur_is_a_gaussian(crop: Tensor, sigma: float) -> None:
    ours = gaussian_blur(crop, sigma)[0].numpy()
    theirs = gaussian_filter(crop[0].numpy(), (0, sigma, sigma), mode="mirror", truncate=3.0)
    assert np.abs(ours - theirs).max() < 0.02


@pytest.mark.parametrize("sigma", [0, 1e-30, 1e-20, 1e-4])
def test_next_to_no_blur_changes_nothing(crop: Tensor, sigma: float) -> None:
    assert torch.equal(run("blur", crop, sigma=sigma), crop)


def test_wide_blur_equals_the_slow_way(crop: Tensor) -> None:
    ours = gaussian_blur(crop, 20.0)[0].numpy()
    theirs = gaussian_filter(crop[0].numpy(), (0, 20, 20), mode="mirror")
    inner = (slice(None), slice(40, -40), slice(40, -40))
    assert np.abs(ours - theirs)[inner].max() < 0.05


@pytest.mark.parametrize(
    ("name", "options"),
    [("blur", {"sigma": 0.2}), ("pixelate", {"cells": 5}), ("down-up", {"size": 7})],
)
def test_strength_follows_the_face_not_the_pixels(
    crop: Tensor, name: str, options: dict[str, float]
) -> None:
    large = F.interpolate(crop, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
    small = run(name, crop, **options)
    shrunk = F.interpolate(run(name, large, **options), scale_factor=0.5, mode="area")
    assert (small - shrunk).abs().mean() < 0.02
    assert (small - crop).abs().mean() > 0.1


def test_pixelation_has_the_cells_asked_for(crop: Tensor) -> None:
    mosaic = run("pixelate", crop, cluster=16)[0]
    blocks = mosaic.reshape(3, 16, 16, 16, 16)
    assert blocks.std((2, 4)).max() < 1e-5
    torch.testing.assert_close(blocks.mean((2, 4)), F.avg_pool2d(crop, 16)[0])
    cells = run("pixelate", crop, cells=6)[0]
    across = (cells[:, 128].diff(dim=-1).abs().sum(0) > 1e-6).sum() + 1
    assert across == round(6 / FACE_SHARE)


def test_down_up_leaves_that_many_pixels(crop: Tensor) -> None:
    reading = {"size": 7, "cell": 19}
    for key, value in reading.items():
        result = run("down-up", crop, **{key: value})
        target = value if key == "size" else round(256 / value)
        assert torch.linalg.matrix_rank(result[0, 0], atol=1e-3) == target
    assert run("down-up", crop).equal(run("down-up", crop, size=7))


def test_noise_has_the_level_asked_for() -> None:
    grey = torch.zeros(2, 3, 256, 256)
    noisy = run("noise", grey, sigma=9)
    assert noisy.std().item() * 127.5 == pytest.approx(9, rel=0.02)
    assert not noisy[0].equal(noisy[1])


def test_mask_is_solid(crop: Tensor) -> None:
    painted = run("mask", crop, color=(255, 0, 51))
    assert painted[0, :, 5, 7].tolist() == pytest.approx([1, -1, -0.6])
    assert painted.std((2, 3)).max() < 1e-6
    assert create("mask", shape="box").region == "box"


@pytest.mark.parametrize(
    ("name", "light", "strong"),
    [
        ("blur", {"sigma": 0.03}, {"sigma": 0.2}),
        ("pixelate", {"cluster": 8}, {"cells": 5}),
        ("down-up", {"size": 64}, {"size": 7}),
    ],
)
def test_light_strengths_come_with_a_warning(
    name: str, light: dict[str, float], strong: dict[str, float]
) -> None:
    assert "see through" in " ".join(create(name, **light).warnings) or "read" in " ".join(
        create(name, **light).warnings
    )
    assert create(name, **strong).warnings == ()
    assert create("noise").warnings
