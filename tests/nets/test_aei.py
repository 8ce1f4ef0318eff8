import numpy as np
import pytest
import torch
from golden import digest, distance, golden, on_meta
from seedweights import fill, tensor, value
from torch.nn import functional as F

from facedeid.errors import OptionError, WeightsError
from facedeid.nets.aei import (
    AdaptiveAttention,
    AEIConfig,
    AEINet,
    FusionGenerator,
    IdentityNet,
    _Block,
)
from facedeid.nets.aei_layouts import _RENAME, CONFIGS, load_aei, official_keys, part

LAYOUTS = [
    ("taotaonice", {}, "336073852ffe7c6388e8ca6fd1d1138461319aa8c0d2599eba3362e5b7e40d4d"),
    ("sber", {}, "522e1d0ded8a80bd96e1778ed1309f41dfa3687be441035cd4f3a1a0d46d0e44"),
    (
        "sber",
        {"convolutions": 1},
        "cd66f9a5d9bb6a776c6c1a794ab6941c7158b355675779eea951cc2508dd2f89",
    ),
    (
        "sber",
        {"convolutions": 3},
        "2a2b830c803e02d9056350a025fe10581a6e46e216aca494f62620f50fedd3b0",
    ),
    (
        "sber",
        {"skip": "add"},
        "a75d30adfad77533565b9c981a90cbba3df246ef929e0cd62982208d34796475",
    ),
    ("mindslab", None, "5dfd5f69562138f4da633f9934fb763634b0c7bcbaeca926959974fff7729915"),
]
TINY = AEIConfig(size=32, identity=16, width=1 / 8)


def official_state(net, layout, prefix=""):
    """What (a part of) `net` would hold, had the public code filled itself from its key names."""
    state, names = net.state_dict(), official_keys(net, layout)
    keys = set(names.values())
    return {
        official: torch.from_numpy(
            np.asarray(value(official, tuple(state[own].shape), keys, "plain", 0, 1.4), np.float32)
        )
        for own, official in names.items()
        if state[own].is_floating_point() and own.startswith(prefix)
    }


def public_name(key):
    """`norms.1.mask.bias` -> `AAD2.conv_h.bias`, `convs.2.weight` -> `conv3.weight`."""
    prefix = "generator.AADBlk1."
    return _RENAME["taotaonice"](f"generator.blocks.0.{key}", 2).removeprefix(prefix)


@pytest.mark.parametrize(("layout", "options", "expected"), LAYOUTS)
def test_layouts_are_the_public_ones(layout, options, expected):
    config = CONFIGS[layout] if options is None else AEIConfig(**options)
    with on_meta():
        net = AEINet(config)
    state = net.state_dict()
    names = official_keys(net, layout)
    assert digest({names[key]: tuple(value.shape) for key, value in state.items()}) == expected


def test_one_aad_block_reproduces_the_public_code():
    """A block with a shortcut of its own: all three AAD layers, at sizes that fit a golden."""
    reference = golden("aad_resblk_taotaonice_tiny")
    weights = part(reference, "weight/")
    block = _Block(AEIConfig(identity=16), 8, 5, 6)
    block.load_state_dict({key: weights[public_name(key)] for key in block.state_dict()})
    inputs = reference["z_attr"], reference["z_id"]
    with torch.no_grad():
        assert distance(block.norms[0](reference["h"], *inputs), reference["aad1"]) < 1e-6
        assert distance(block(reference["h"], *inputs), reference["out"]) < 1e-6


def test_the_full_attribute_encoder_reproduces_the_public_code():
    reference = golden("aei_taotaonice_c512")
    with on_meta():
        net = AEINet()
    encoder = net.encoder.to_empty(device="cpu").eval()
    state = official_state(net, "taotaonice", "encoder.")
    names = official_keys(net, "taotaonice")
    encoder.load_state_dict(
        {key: state.get(names[f"encoder.{key}"], old) for key, old in encoder.state_dict().items()}
    )
    with torch.no_grad():
        maps = encoder(F.interpolate(reference["x_low"], size=256, mode="bilinear"))
    for index, attribute in enumerate(maps, 1):
        measured = torch.stack([attribute.mean(), attribute.std()])
        assert distance(measured, reference[f"attr{index}_meanstd"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("taotaonice", "aei_taotaonice_c512"),
        ("sber", "aei_sber_unet_b2_c512"),
        ("mindslab", "aei_mindslab"),
    ],
)
def test_the_full_network_reproduces_the_public_code(layout, name):
    reference = golden(name)
    with on_meta():
        net = AEINet(CONFIGS[layout])
    net = net.to_empty(device="cpu")
    load_aei(net, official_state(net, layout), layout).eval()
    faces = F.interpolate(reference["x_low"], size=256, mode="bilinear")
    if layout == "mindslab":
        faces, identity = (faces + 1) / 2, reference["z256"]
    else:
        identity = F.normalize(reference["z"])
    with torch.no_grad():
        result, attributes = net(faces, identity)
        swapped = net.generator(identity.flip(0), attributes)
    assert distance(result[..., ::16, ::16], reference["y_s16"]) < 1e-4
    for index, attribute in enumerate(attributes, 1):
        measured = torch.stack([attribute.mean(), attribute.std()])
        assert distance(measured, reference[f"attr{index}_meanstd"]) < 1e-5
    if "y_s16_swapped" in reference:
        assert distance(swapped[..., ::16, ::16], reference["y_s16_swapped"]) < 1e-4


@pytest.mark.parametrize("size", [8, 64, 256])
def test_attribute_maps_double_from_2_to_the_full_size(size):
    config = AEIConfig(size=size, identity=8, width=1 / 16)
    net = AEINet(config).eval()
    with torch.no_grad():
        faces, attributes = net(torch.zeros(1, 3, size, size), torch.ones(1, 8))
    assert faces.shape == (1, 3, size, size)
    assert [a.shape[2] for a in attributes] == [2 << k for k in range(config.maps)]
    assert [a.shape[1] for a in attributes] == [
        config.attribute_channels(k) for k in range(config.maps)
    ]


def test_the_papers_network_has_eight_maps_and_184_million_parameters():
    with on_meta():
        net = AEINet()
    assert net.config.maps == 8
    assert sum(p.numel() for p in net.parameters()) == 184_343_381


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_checkpoint_goes_in_and_any_other_is_refused(layout):
    net = AEINet(TINY) if layout != "mindslab" else AEINet(AEIConfig(size=32, norm="batch"))
    state = official_state(net, layout)
    load_aei(net, state, layout)
    key, official = next(iter(official_keys(net, layout).items()))
    assert torch.equal(net.state_dict()[key], state[official])
    with pytest.raises(WeightsError, match="missing"):
        load_aei(net, {k: v for k, v in state.items() if k != official}, layout)
    with pytest.raises(WeightsError, match="unknown"):
        load_aei(net, state | {"generator.extra": torch.zeros(1)}, layout)


def test_the_identity_decides_only_where_the_mask_lets_it():
    """With the mask shut everywhere, no identity can change a pixel; open, it changes all."""
    generator = fill(FusionGenerator(TINY))
    attributes = [
        tensor(f"a{k}", (1, TINY.attribute_channels(k), 2 << k, 2 << k)) for k in range(TINY.maps)
    ]
    one, other = tensor("one", (1, 16)), tensor("other", (1, 16))
    torch.nn.init.zeros_(generator.start.weight)
    for bias, changes in ((-100.0, False), (0.0, True)):
        for block in generator.blocks:
            for layer in block.norms:
                torch.nn.init.constant_(layer.mask.bias, bias)
        with torch.no_grad():
            same = torch.equal(generator(one, attributes), generator(other, attributes))
        assert same != changes


@pytest.mark.parametrize("options", [{"size": 100}, {"size": 4}, {"width": 0}, {"identity": 0}])
def test_impossible_configurations_are_refused(options):
    with pytest.raises(OptionError):
        AEIConfig(**options)


def test_a_folded_network_works_at_a_quarter_of_the_pixels():
    config = AEIConfig(size=64, fold=2, pixels=True, identity=16, width=1 / 8, convolutions=1)
    assert config.maps == 5
    net = AEINet(config).eval()
    faces = tensor("faces", (2, 3, 64, 64)).clamp(-1, 1)
    made, maps = net(faces, F.normalize(tensor("identity", (2, 16))))
    assert made.shape == faces.shape
    assert [m.shape[-1] for m in maps] == [2, 4, 8, 16, 32]
    assert [m.shape[1] for m in maps] == [config.attribute_channels(k) for k in range(5)]
    assert torch.equal(maps[-1][:, -12:], F.pixel_unshuffle(faces, 2))


def test_channels_double_so_often_and_no_more():
    config = AEIConfig(width=1 / 8, doublings=2)
    assert [config.channels(level) for level in range(5)] == [4, 8, 16, 16, 16]


@pytest.mark.parametrize("options", [{"size": 48}, {"size": 64, "fold": 16}, {"fold": 3}])
def test_sides_that_do_not_halve_are_refused(options):
    with pytest.raises(OptionError, match="power of two"):
        AEIConfig(**options)


class TestIdentityNet:
    def net(self):
        return IdentityNet(width=1 / 8).eval()

    def test_it_starts_as_the_identity(self):
        faces = tensor("faces", (2, 3, 256, 256)).clamp(-1, 1)
        with torch.no_grad():
            made = self.net()(faces, F.normalize(tensor("identity", (2, 128))))
        assert torch.equal(made, faces)

    def test_the_change_is_bounded_and_follows_the_identity(self):
        net = fill(self.net())
        faces = tensor("faces", (1, 3, 256, 256)).clamp(-1, 1).expand(2, -1, -1, -1)
        with torch.no_grad():
            made = net(faces, F.normalize(tensor("identity", (2, 128))))
        assert not torch.allclose(made[0], made[1])
        assert (made - faces).abs().max() <= net.limit + 1e-6

    def test_identities_are_centred_unit_vectors(self):
        net = self.net()
        net.centre = tensor("centre", (128,))
        vectors = tensor("vectors", (3, 128))
        units = net.unit(vectors)
        assert torch.allclose(units.norm(dim=1), torch.ones(3))
        assert torch.allclose(units, F.normalize(vectors - net.centre))
        assert torch.allclose(net.unit(net.centre + 3 * (vectors - net.centre)), units, atol=1e-6)

    def test_the_attributes_do_not_know_the_identity_vector(self):
        net = fill(self.net())
        maps = net.attributes(tensor("faces", (2, 3, 256, 256)))
        assert [m.shape[-1] for m in maps] == [2, 4, 8, 16, 32, 64]


def test_attention_mixes_what_autocast_leaves_in_two_precisions():
    """On GPUs normalisation gives float32 and convolutions bfloat16."""
    block = AdaptiveAttention(TINY, 8, 4)
    block.norm = torch.nn.Identity()
    h, attributes = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 4, 4)
    identity = torch.randn(2, 16)
    plain = block(h, attributes, identity)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(h, attributes, identity)
    torch.testing.assert_close(mixed.float(), plain, atol=0.05, rtol=0.05)


def test_a_vector_is_turned_away_from_ones_own():
    wanted, own = torch.nn.functional.normalize(torch.randn(2, 4, 128), dim=-1)
    turned = IdentityNet.away(wanted, own)
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(4))
    assert ((turned * own).sum(1) < (wanted * own).sum(1)).all()
    assert ((turned * wanted).sum(1) > 0.8).all()
