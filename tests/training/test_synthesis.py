import io

import numpy as np
import torch
from PIL import Image

from facedeid.landmarks import FIVE_POINTS
from facedeid.models import ARCFACE_CROP
from facedeid.training import degrade
from facedeid.training.data import load_faces
from facedeid.training.synthesis import SIDE, novel_faces, real_faces, thin_plate, warped


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_thin_plate_interpolates_and_keeps_affine_maps():
    centres = torch.rand(2, 30, 2, generator=generator()) * 2 - 1
    values = torch.rand(2, 30, 2, generator=generator(1))
    at = centres[0]
    found = thin_plate(centres, values, at, smooth=0)
    torch.testing.assert_close(found[0], values[0], atol=1e-4, rtol=0)
    matrix, shift = torch.tensor([[0.9, 0.2], [-0.1, 1.2]]), torch.tensor([0.3, -0.4])
    elsewhere = torch.rand(50, 2, generator=generator(2)) * 3 - 1.5
    found = thin_plate(centres, centres @ matrix.T + shift, elsewhere)
    expected = (elsewhere @ matrix.T + shift).expand(2, -1, -1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_warp_puts_landmarks_where_they_should_be(photos):
    faces = load_faces([photos], size=96)
    marked = torch.zeros(1, 3, 96, 96)
    source = faces.landmarks[:1]
    x, y = source[0, 30].round().long().tolist()
    marked[..., y - 1 : y + 2, x - 1 : x + 2] = 255
    target = source.flip(0) * 1.1 + torch.tensor([4.0, -7.0])
    spot = warped(marked, source, target, 128)[0, 0]
    centre = (spot[None] * torch.arange(128.0)).sum() / spot.sum()
    row = (spot * torch.arange(128.0)[:, None]).sum() / spot.sum()
    assert abs(centre - target[0, 30, 0]) < 1.2
    assert abs(row - target[0, 30, 1]) < 1.2


def test_chips_lie_on_the_template(photos):
    faces = load_faces([photos], size=96)
    chips = real_faces(faces, torch.arange(4))
    assert chips.images.shape == (4, 3, SIDE, SIDE)
    five = torch.stack([chips.landmarks[:, list(g)].mean(1) for g in FIVE_POINTS], 1)
    template = torch.tensor(ARCFACE_CROP.template) * 1.25 + 10
    torch.testing.assert_close(five.mean(1), template.mean(0).expand(4, 2), atol=1e-2, rtol=0)
    assert (five - template).norm(dim=2).mean() < 0.08 * SIDE


def test_novel_faces_follow_from_the_seed_and_differ(photos):
    faces = load_faces([photos], size=96)
    one, two = (novel_faces(faces, 12, generator(3)) for _ in range(2))
    assert torch.equal(one.images, two.images)
    other = novel_faces(faces, 12, generator(4)).images
    assert (one.images - other).abs().mean() > 2
    assert one.images.min() >= 0
    assert one.images.max() <= 255
    assert torch.equal(novel_faces(faces, 3, generator(), real=1).images, plain(faces))


def plain(faces):
    who = torch.randint(len(faces), (4, 3), generator=generator())
    return real_faces(faces, who[0]).images.clamp(0, 255)


def test_degradations_keep_shape_and_range_and_follow_the_seed(photos):
    images = load_faces([photos], size=96).images.float()
    steps = {
        "jittered": lambda x, g: degrade.jittered(x, 80, g),
        "coloured": lambda x, g: degrade.coloured(x, g, share=1),
        "blurred": lambda x, g: degrade.blurred(x, g, share=1, sigma=(1, 2)),
        "shrunk": lambda x, g: degrade.shrunk(x, g, share=1, sides=(12, 30)),
        "noisy": lambda x, g: degrade.noisy(x, g, share=1, most=30),
        "compressed": lambda x, g: degrade.compressed(x, g, share=1, quality=(5, 30)),
        "occluded": lambda x, g: degrade.occluded(x, g, share=1),
    }
    for name, step in steps.items():
        before = images.clone()
        found = step(images, generator(7))
        assert torch.equal(images, before), f"{name} wrote to its input"
        assert torch.equal(found, step(images, generator(7))), name
        assert found.shape[-1] == (80 if name == "jittered" else 96)
        assert -1e-3 <= found.min() <= found.max() <= 255.001
        if name != "jittered":
            assert ((found - images).abs().mean((1, 2, 3)) > 0.3).all(), name


def test_jpeg_is_that_of_pictures_in_red_green_and_blue():
    line = torch.arange(64)
    wave = (128 + 100 * (line / 3).sin()).round()
    image = torch.stack(
        [wave.expand(64, 64), torch.full((64, 64), 90.0), wave[:, None] / 2 + 20 + 0 * line]
    )
    image = image.round()
    data = io.BytesIO()
    Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(data, "JPEG", quality=20)
    wanted = torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1).float()
    found = degrade.compressed(image[None], generator(), share=1.1, quality=(20, 20))[0]
    assert (found - wanted).abs().mean() < 0.5 < 0.2 * (image - wanted).abs().mean()


def test_a_share_of_zero_changes_nothing(photos):
    images = load_faces([photos], size=96).images.float()
    assert torch.equal(degrade.blurred(images, generator(), share=0, sigma=(1, 2)), images)
    assert torch.equal(degrade.compressed(images, generator(), share=0, quality=(5, 9)), images)
    assert torch.equal(degrade.occluded(images, generator(), share=0), images)
