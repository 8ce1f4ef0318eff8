import pytest
import torch
from golden import distance, on_meta
from seedweights import fill, tensor

from facedeid.errors import OptionError
from facedeid.nets.hiding import EmbeddingNet, HidingConfig, HidingNet, tile
from facedeid.nets.residual import retoned

SMALL = {"width": 1 / 8, "identity": 32}


def small(**options):
    return fill(HidingNet(HidingConfig(**SMALL | options))).eval()


def faces(count=2, size=64):
    return tensor("faces", (count, 3, size, size), lo=-1, hi=1)


def test_the_feature_is_tiled_as_the_paper_says():
    """1×512 -> 2×256, 128 of them downwards, three equal channels."""
    feature = tensor("feature", (2, 512))
    plane = feature.view(2, 2, 256).repeat(1, 128, 1)
    assert torch.equal(tile(feature, 256, 256), torch.stack([plane] * 3, 1))


@pytest.mark.parametrize(("length", "height", "width"), [(512, 128, 128), (128, 64, 64), (7, 5, 6)])
def test_tiles_hold_the_feature_in_reading_order(length, height, width):
    feature = tensor("feature", (1, length))
    flat = tile(feature, height, width)[0, 1].flatten()
    assert torch.equal(flat, feature[0, torch.arange(height * width) % length])


def test_the_papers_network_takes_six_channels_of_256():
    with on_meta():
        net = HidingNet()
        face, feature = torch.zeros(1, 3, 256, 256), torch.zeros(1, 512)
        assert net.encoder[0].conv1.in_channels == 6
        assert net(face, feature).shape == face.shape


@pytest.mark.parametrize("conditioning", ["tile", "film", "both"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("output", ["direct", "residual"])
def test_the_feature_reaches_the_face(conditioning, norm, output):
    net = small(conditioning=conditioning, norm=norm, output=output)
    feature = tensor("one", (2, 32)).requires_grad_()
    with torch.no_grad():
        one, other = net(faces(), feature), net(faces(), tensor("other", (2, 32)))
    assert one.shape == (2, 3, 64, 64)
    assert one.abs().max() <= 1
    assert distance(one, other) > 1e-3
    net(faces(), feature).square().mean().backward()
    assert torch.isfinite(feature.grad).all()
    assert (feature.grad != 0).all()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_each_face_is_treated_by_itself(norm):
    net, feature = small(norm=norm), tensor("one", (3, 32))
    with torch.no_grad():
        together = net(faces(3), feature)
        alone = [net(f[None], e[None]) for f, e in zip(faces(3), feature, strict=True)]
        assert torch.equal(together, net(faces(3), feature))
    assert distance(together, torch.cat(alone)) < 1e-5


@pytest.mark.parametrize("conditioning", ["tile", "film", "both"])
@pytest.mark.parametrize("output", ["direct", "residual"])
def test_several_features_a_face_are_as_many_passes(conditioning, output):
    net = small(conditioning=conditioning, norm="group", output=output)
    features = tensor("many", (6, 32))
    with torch.no_grad():
        together = net(faces(), features)
        apart = [net(faces(), some) for some in features.chunk(3)]
    assert distance(together, torch.cat(apart)) < 1e-5


def test_a_residual_network_starts_as_the_identity_and_is_bounded():
    net = HidingNet(HidingConfig(**SMALL, output="residual", limit=0.25)).eval()
    feature = tensor("one", (2, 32))
    with torch.no_grad():
        assert torch.equal(net(faces(), feature), faces())
        change = fill(net, gain=50)(faces(), feature) - faces()
    assert 0.2 < change.abs().max() <= 0.2501


def test_raw_gives_every_output_channel_unbounded():
    net = fill(HidingNet(HidingConfig(**SMALL, outputs=5)), gain=10).eval()
    with torch.no_grad():
        raw = net.raw(faces(), tensor("one", (2, 32)))
        assert torch.equal(net(faces(), tensor("one", (2, 32))), torch.tanh(raw[:, :3]))
    assert raw.shape == (2, 5, 64, 64)
    assert raw.abs().max() > 1


def test_width_multiplies_the_channels():
    with on_meta():
        assert [HidingNet(HidingConfig(width=w)).head.in_channels for w in (1, 0.5, 0.25)] == [
            64,
            32,
            16,
        ]


def test_faces_and_features_that_do_not_fit_are_refused():
    net = small()
    with pytest.raises(OptionError, match="multiples of 16"):
        net(faces(size=40), tensor("one", (2, 32)))
    with pytest.raises(OptionError, match="2×32"):
        net(faces(), tensor("one", (2, 31)))
    for count in (0, 1, 3):
        with pytest.raises(OptionError, match="2×32, or as many again"):
            net(faces(), torch.zeros(count, 32))
    with pytest.raises(OptionError, match="0×32"):
        net(faces()[:0], torch.zeros(2, 32))


@pytest.mark.parametrize(
    "options", [{"width": 0.01}, {"levels": 1}, {"outputs": 2}, {"limit": 0}, {"identity": 0}]
)
def test_impossible_configurations_are_refused(options):
    with pytest.raises(OptionError):
        HidingConfig(**options)


def test_folding_keeps_the_shape_and_the_place():
    """With blocks of 2×2 pixels as channels, a face goes in and comes out at its own size."""
    net = small(fold=2, levels=3, conditioning="film", norm="group", output="residual")
    face, feature = faces(), tensor("feature", (2, 32))
    out = net(face, feature)
    assert out.shape == face.shape
    assert net.encoder[0].conv1.in_channels == 12
    changed = face.clone()
    changed[:, :, 20:24, 40:44] *= -1
    moved = (net(changed, feature) - out - (changed - face)).abs().sum((0, 1))
    assert moved[16:28, 36:48].mean() > moved[40:, :16].mean()


def test_a_fold_must_divide_the_side():
    with pytest.raises(OptionError, match="multiples of 8"):
        small(fold=2, levels=3)(faces(size=60), tensor("feature", (2, 32)))


class TestEmbeddingNet:
    def net(self):
        return fill(EmbeddingNet(width=1 / 8, levels=3)).eval()

    def test_strength_zero_is_the_cover_itself(self):
        cover, code = faces(), tensor("code", (2, 512))
        strength = torch.tensor([0.0, 1.0])
        made = self.net()(cover, code, strength)
        assert torch.equal(made[0], cover[0])
        assert (made[1] - cover[1]).abs().max() > 0.01

    def test_the_change_is_bounded(self):
        cover, code = faces(size=256), tensor("code", (2, 512))
        made = self.net()(cover, 50 * code, torch.ones(2))
        assert (made - cover).abs().max() <= 0.4 + 1e-6

    def test_the_frame_gets_the_change_of_half_its_side(self):
        cover, code = faces(size=256), tensor("code", (2, 512))
        small_cover = torch.nn.functional.interpolate(cover, (128, 128), mode="area")
        large = self.net()(0.3 * cover, code, torch.ones(2)) - 0.3 * cover
        less = self.net()(0.3 * small_cover, code, torch.ones(2)) - 0.3 * small_cover
        shrunk = torch.nn.functional.interpolate(large, (128, 128), mode="area")
        assert torch.nn.functional.cosine_similarity(shrunk.flatten(), less.flatten(), 0) > 0.9


def test_a_change_is_retoned_in_brightness_and_colour_apart():
    cover = torch.zeros(1, 3, 2, 2)
    grey = torch.full((1, 3, 2, 2), 0.2)
    tint = torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    made = retoned(cover, cover + grey + tint, brightness=1.5, colour=0.5)
    torch.testing.assert_close(made, 1.5 * grey + 0.5 * tint)
    assert retoned(cover, cover + 5 * grey, brightness=1.5, colour=1.0).amax() == 1
