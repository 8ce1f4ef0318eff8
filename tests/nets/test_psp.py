"""pSp against the official code; the full networks take minutes and are marked slow."""

import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill, tensor
from torch import Tensor, nn

from facedeid.errors import OptionError
from facedeid.nets.psp import (
    GradualStyleEncoder,
    PSp,
    WEncoder,
    WPlusEncoder,
    _enlarged,
    _StyleBlock,
)
from facedeid.nets.stylegan2 import Generator

COMPACT = {"layers": (1, 1, 1, 1), "width": 4, "style_dim": 16}


def style(key: str) -> str:
    return "stylegan2" if key.startswith("decoder.") or "linear." in key else "plain"


def faces(n: int = 1, side: int = 256) -> Tensor:
    return tensor("psp.x", (n, 3, side, side), lo=-1, hi=1)


def decoder() -> Generator:
    return fill(
        Generator(32, style_dim=16, n_mlp=2, channels=dict.fromkeys((4, 8, 16, 32), 8)), "stylegan2"
    )


@torch.no_grad()
def test_blocks_match_the_reference() -> None:
    wanted = golden("psp_blocks")
    block = fill(_StyleBlock(16, 16, 16), style)
    assert distance(block(tensor("psp.block.x", (2, 16, 16, 16))), wanted["style_block_y"]) < 1e-5
    x, lateral = wanted["up_x"], wanted["up_lateral"]
    assert distance(_enlarged(x, lateral) + lateral, wanted["up_y"]) < 1e-6


@pytest.mark.parametrize(
    ("make", "official"),
    [
        (
            lambda: GradualStyleEncoder(14),
            "747c89678dcbb2d9a5b495d99220511f91beda0ed81306e57d4f11c6e6a3f1dd",
        ),
        (
            lambda: GradualStyleEncoder(18),
            "2477c53024893d0a7823db8825acc0e73254953c74efd4e12b76a26ecc9c1aeb",
        ),
        (WEncoder, "fd4d6c09464f3e4bf747666c26a57a10cbcd3c2d20c3d39d64c1ad5c2f07d2d0"),
        (WPlusEncoder, "395130b623b56c34992a5823005fe210d2bed8553cbb5e831a0591e2b43d4ffb"),
        (PSp.official, "1a0a93fe012c7ff2305f23576a88f217c44fd1d50eec8ccdeb1bc4ff188746db"),
    ],
    ids=["gradual-14", "gradual-18", "w", "w-plus", "whole"],
)
def test_the_layouts_are_the_official_ones(make: type[nn.Module], official: str) -> None:
    with on_meta():
        assert digest(shapes(make())) == official


@pytest.mark.slow
@torch.no_grad()
def test_the_encoder_matches_the_reference() -> None:
    wanted = golden("psp_encoder_gradual_18")
    encoder = fill(GradualStyleEncoder(18), style).eval()
    for index, features in zip((6, 20, 23), encoder.pyramid(faces()), strict=True):
        moments = torch.stack([features.mean(), features.std()])
        assert distance(moments, wanted[f"c_{index}_mean_std"]) < 1e-5
    assert distance(encoder(faces()), wanted["codes"]) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_the_whole_network_matches_the_reference() -> None:
    wanted = golden("psp_full_1024")
    average = 0.1 * tensor("psp.latent_avg", (18, 512))
    network = fill(PSp.official(latent_avg=average, output_size=None), style).eval()
    w = network.encode(faces())
    image = network.decode(w)
    network.output_size = 256
    pooled = network(faces())
    assert distance(w[..., ::2], wanted["latents"]) < 1e-5
    assert distance(image[..., ::32, ::32], wanted["image1024_s16"]) < 1e-5
    assert distance(pooled[..., ::8, ::8], wanted["image256"]) < 1e-5


def test_compact_networks_train_end_to_end() -> None:
    network = PSp(GradualStyleEncoder(8, size=64, **COMPACT), decoder(), output_size=16)
    image = network(faces(2, 64))
    assert image.shape == (2, 3, 16, 16)
    image.square().mean().backward()
    for name, parameter in network.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_styles_read_the_maps_of_their_scale() -> None:
    encoder = fill(GradualStyleEncoder(8, size=64, **COMPACT), style).eval()
    x = faces(1, 64)
    fine, middle, coarse = encoder.pyramid(x)
    assert [m.shape[1:] for m in (fine, middle, coarse)] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    before = encoder(x)
    encoder.latlayer2.bias.add_(1)
    changed = (encoder(x) != before).any(2)[0]
    assert changed.tolist() == [False] * 7 + [True]
    encoder.latlayer1.bias.add_(1)
    assert (encoder(x) != before).any(2)[0].tolist() == [False] * 3 + [True] * 5


@torch.no_grad()
def test_the_latent_average_is_added_to_every_code() -> None:
    generator = decoder()
    plus = PSp(WPlusEncoder(8, **COMPACT), generator, latent_avg=tensor("avg", (8, 16))).eval()
    expected = plus.encoder(faces(3, 128)) + tensor("avg", (8, 16))
    assert torch.equal(plus.encode(faces(3, 128)), expected)
    single = PSp(WEncoder(**COMPACT), generator, latent_avg=tensor("avg", (1, 16))).eval()
    codes = single.encode(faces(3, 64))
    assert codes.shape == (3, 8, 16)
    assert torch.equal(codes[:, 5], single.encoder(faces(3, 64)) + tensor("avg", (1, 16)))
    assert "latent_avg" not in plus.state_dict()


@torch.no_grad()
def test_output_pooling_is_a_mean_over_pixels() -> None:
    network = PSp(WEncoder(**COMPACT), decoder(), output_size=16).eval()
    w = torch.randn(1, 8, 16)
    whole = network.decoder(w)
    blocks = whole.view(1, 3, 16, 2, 16, 2).mean((3, 5))
    assert torch.allclose(network.decode(w), blocks, atol=1e-6)
    network.output_size = None
    assert torch.equal(network.decode(w), whole)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="no pSp encoder 'E4E'"):
        PSp.official("E4E", size=32)
    with pytest.raises(OptionError, match="learn_in_w=True"), on_meta():
        PSp.official(learn_in_w=True, size=32)
    with pytest.raises(OptionError, match="power of two"):
        GradualStyleEncoder(8, size=96, **COMPACT)
    with pytest.raises(OptionError, match="four stages"):
        WEncoder(layers=(1, 1))


def test_light_heads_give_styles_with_far_fewer_weights():
    options = {"size": 128, "layers": (1, 1, 1, 1), "width": 8, "style_dim": 64}
    light = GradualStyleEncoder(12, **options, heads="light")
    paper = GradualStyleEncoder(12, **options)
    count = [sum(p.numel() for p in net.styles.parameters()) for net in (light, paper)]
    assert 4 * count[0] < count[1]
    assert light.eval()(torch.rand(2, 3, 128, 128)).shape == (2, 12, 64)
    with pytest.raises(OptionError, match="maps of 8"):
        GradualStyleEncoder(12, **{**options, "size": 64}, heads="light")
