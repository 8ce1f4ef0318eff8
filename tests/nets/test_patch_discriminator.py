import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill
from torch.nn import functional as F

from facedeid.nets.patch_discriminator import (
    MultiscaleDiscriminator,
    hinge_fake,
    hinge_generator,
    hinge_real,
)


@pytest.mark.parametrize(
    ("layers", "norm", "layout"),
    [
        (6, "instance", "7b82a82b4cc390d86265110cfc17f2227e844199fa9ea00c2e65547bb8be7b4a"),
        (3, "batch", "202022f3ab8ac5a5a565bc98904bd8597e92ba8dac74ca4076e496932fce8963"),
    ],
)
def test_layouts_are_the_public_ones(layers, norm, layout):
    with on_meta():
        assert digest(shapes(MultiscaleDiscriminator(layers=layers, norm=norm))) == layout


def test_reproduces_the_public_discriminator():
    reference = golden("aei_taotaonice_D")
    net = fill(MultiscaleDiscriminator(), gain=1.4)
    with torch.no_grad():
        maps = net(F.interpolate(reference["x_low"], size=256, mode="bilinear"))
    assert len(maps) == 3
    for i, scores in enumerate(maps):
        assert distance(scores, reference[f"out{i}"]) < 1e-5


def test_hinge_losses_are_those_of_the_public_code():
    reference = golden("aei_mindslab")
    net = fill(MultiscaleDiscriminator(layers=3, norm="batch"), prefix="D.", gain=1.4).eval()
    with torch.no_grad():
        maps = net((F.interpolate(reference["x_low"], size=256, mode="bilinear") + 1) / 2)
    losses = torch.stack([hinge_generator(maps), hinge_real(maps), hinge_fake(maps)])
    assert distance(losses, reference["hinge"]) < 1e-5


def test_hinge_stops_at_the_margin():
    maps = [torch.tensor([2.0, 0.0]), torch.tensor([-3.0])]
    assert hinge_real(maps).item() == pytest.approx((0.5 + 4) / 2)
    assert hinge_fake(maps).item() == pytest.approx((2 + 0) / 2)
    assert hinge_generator(maps).item() == pytest.approx((-1 + 3) / 2)
