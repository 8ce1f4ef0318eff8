"""StyleGAN2 against outputs of rosinality's and NVIDIA's code, and the properties we add.

The gradient with a random cotangent (`grad_cot`) has no common direction: one leaky ReLU that
changes side in rounding moves it by 1e-3, and the stored one is 1e-3 from float64. The gradient
of the mean is the tight check.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill, tensor, value
from torch import Tensor, nn
from torch.nn import functional as F

from facedeid.errors import OptionError, WeightsError
from facedeid.nets import load_official
from facedeid.nets.stylegan2 import Generator, channel_table, mix
from facedeid.nets.stylegan2_discriminator import Discriminator, _group_deviation
from facedeid.nets.stylegan2_nvidia import from_nvidia

TIGHT = 2e-5
TINY = {"style_dim": 16, "n_mlp": 2, "channels": dict.fromkeys((4, 8, 16, 32), 16)}


def tiny() -> Generator:
    return fill(Generator(32, **TINY), "stylegan2")


def check(generator: Generator, name: str, stored: str, stride: int, cot: float) -> None:
    wanted = golden(stored)
    w = tensor(name, tuple(wanted["grad_mean"].shape)).requires_grad_()
    image = generator(w)
    assert distance(image[..., ::stride, ::stride], wanted["image"]) < TIGHT
    (grad,) = torch.autograd.grad(image.mean(), w, retain_graph=True)
    assert distance(grad, wanted["grad_mean"]) < 1e-4
    cotangent = tensor(f"{name}.cot", tuple(image.shape))
    (grad,) = torch.autograd.grad((image * cotangent).mean(), w)
    assert distance(grad, wanted["grad_cot"]) < cot


def check_options(generator: Generator, name: str, stored: str, stride: int) -> None:
    wanted = golden(stored)
    n = len(wanted["w_of_z"])
    z = tensor(f"{name}.z", (n, generator.style_dim))
    w = generator.latent(z)
    pulled = generator.latent(z, truncation=0.7, centre=wanted["mean_latent"])
    mixed = mix(generator.widen(w[:1].expand(n, -1)), generator.widen(w), 2)
    plus = tensor(name, (n, generator.n_latent, generator.style_dim))
    noise = [tensor(f"{name}.noise{i}", b.shape) for i, b in enumerate(generator.noises.buffers())]
    assert distance(w, wanted["w_of_z"]) < TIGHT
    for key, image in {
        "image_z_trunc07": generator(pulled),
        "image_mix_idx2": generator(mixed),
        "image_ext_noise": generator(plus, noise=noise),
    }.items():
        assert distance(image[..., ::stride, ::stride], wanted[key]) < TIGHT, key


def test_tiny_matches_the_reference() -> None:
    check(tiny(), "sg2.tiny", "stylegan2_tiny32", 1, 1e-4)


@torch.no_grad()
def test_tiny_truncation_mixing_and_noise_match_the_reference() -> None:
    check_options(tiny(), "sg2.tiny", "stylegan2_tiny32", 1)


def test_64_matches_the_reference() -> None:
    generator = fill(Generator(64, n_mlp=2, channel_multiplier=1), "stylegan2")
    check(generator, "sg2.64", "stylegan2_64", 4, 3e-3)
    with torch.no_grad():
        check_options(generator, "sg2.64", "stylegan2_64", 4)


@pytest.mark.slow
def test_256_matches_the_reference() -> None:
    generator = fill(Generator(256, n_mlp=0), "stylegan2")  # the golden starts from W+
    check(generator, "sg2.256", "stylegan2_256", 8, 3e-3)


@pytest.mark.slow
def test_1024_matches_the_reference() -> None:
    generator = fill(Generator(1024, n_mlp=0), "stylegan2")
    check(generator, "sg2.1024", "stylegan2_1024", 32, 5e-3)


@torch.no_grad()
def test_discriminator_matches_the_reference() -> None:
    judge = fill(Discriminator(64, channel_multiplier=1), "stylegan2")
    logits = judge(tensor("sg2.d.x", (4, 3, 64, 64)))
    assert distance(logits, golden("stylegan2_discriminator_64")["logit"]) < TIGHT


@pytest.mark.parametrize(
    ("make", "official"),
    [
        (
            lambda: Generator(1024),
            "8f58ab7368356d864721649c19152af217461b2678003dfd9102499c524b5018",
        ),
        (
            lambda: Generator(256),
            "f4e3073604bf8a0ec7d0f3bc70fd400bf42e2632454a0d2de01dc8aa2126c95d",
        ),
        (
            lambda: Generator(64, n_mlp=2, channel_multiplier=1),
            "55e0fde559bb52013c0c3af338fffa7aa195294acbb47832fb77be9ca971edd3",
        ),
        (
            lambda: Discriminator(256),
            "a49736059c3866f5d0c196c790db7d50d94003594f1a045e48dbb03a1bf4cdbd",
        ),
        (
            lambda: Discriminator(64, channel_multiplier=1),
            "4eb1edc0824104da3df1b508ba1b07865f4baf689f1a02be4ec8fc0b31994103",
        ),
    ],
    ids=["1024", "256", "64", "discriminator-256", "discriminator-64"],
)
def test_the_layouts_are_the_official_ones(make: Callable[[], nn.Module], official: str) -> None:
    with on_meta():
        assert digest(shapes(make())) == official


# NVIDIA's layout


def nvidia_shapes(channels: dict[int, int], dim: int, n_mlp: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `G_ema` in stylegan2-ada-pytorch, written down from its modules."""
    keys: dict[str, tuple[int, ...]] = {"mapping.w_avg": (dim,)}
    for i in range(n_mlp):
        keys |= {f"mapping.fc{i}.weight": (dim, dim), f"mapping.fc{i}.bias": (dim,)}
    for side, width in channels.items():
        block, inputs = f"synthesis.b{side}", channels.get(side // 2, width)
        keys[f"{block}.resample_filter"] = (4, 4)
        if side == 4:
            keys[f"{block}.const"] = (width, 4, 4)
        for part, n in {"conv0": inputs, "conv1": width, "torgb": width}.items():
            if part == "conv0" and side == 4:
                continue
            outputs, kernel = (3, 1) if part == "torgb" else (width, 3)
            keys[f"{block}.{part}.weight"] = (outputs, n, kernel, kernel)
            keys[f"{block}.{part}.bias"] = (outputs,)
            keys |= {f"{block}.{part}.affine.weight": (n, dim), f"{block}.{part}.affine.bias": (n,)}
            if part != "torgb":
                keys[f"{block}.{part}.noise_strength"] = ()
                keys[f"{block}.{part}.noise_const"] = (side, side)
                keys[f"{block}.{part}.resample_filter"] = (4, 4)
    return keys


def nvidia_state(channels: dict[int, int], dim: int, n_mlp: int) -> dict[str, Tensor]:
    keys = nvidia_shapes(channels, dim, n_mlp)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return {
        key: torch.outer(taps, taps)
        if key.endswith("resample_filter")
        else torch.from_numpy(
            np.asarray(value(key, shape, keys, "stylegan2", 0, 1.0), dtype=np.float32)
        ).reshape(shape)
        for key, shape in keys.items()
    }


def test_nvidia_keys_in_these_tests_are_the_official_ones() -> None:
    table = channel_table(1)
    keys = nvidia_shapes({side: table[side] for side in (4, 8, 16, 32, 64, 128, 256)}, 512, 8)
    official = "991454c0c1d623a5ec3bbc5909dec54a40324d63c069f40b6e8830f863bf7956"
    assert digest(keys) == official


def test_converted_nvidia_weights_match_nvidias_code() -> None:
    channels = {4: 32, 8: 32, 16: 32, 32: 32, 64: 16}
    state = nvidia_state(channels, 32, 2)
    generator = Generator(64, style_dim=32, n_mlp=2, channels=channels)
    load_official(generator, from_nvidia(state))
    wanted = golden("stylegan2_ada_tiny64")
    ws = tensor("ada.ws", (2, 10, 32)).requires_grad_()
    z = tensor("ada.z", (2, 32))
    image = generator(ws)
    (grad,) = torch.autograd.grad(image.mean(), ws)
    full, average = generator.latent(z), state["mapping.w_avg"]
    pulled = generator.latent(z, truncation=0.7, centre=average)
    half = generator.widen(generator.latent(z, truncation=0.5, centre=average))
    assert distance(image[..., ::2, ::2], wanted["image"]) < TIGHT
    assert distance(grad, wanted["grad_mean"]) < TIGHT
    assert distance(full, wanted["w_of_z"]) < TIGHT
    silent = generator(ws, noise="none")
    assert distance(silent[..., ::4, ::4], wanted["image_nonoise"]) < TIGHT
    assert distance(generator(pulled)[..., ::4, ::4], wanted["image_z_trunc07"]) < TIGHT
    assert distance(mix(half, generator.widen(full), 4), wanted["w_trunc05_cut4"]) < TIGHT


@pytest.mark.slow
@torch.no_grad()
def test_converted_nvidia_1024_matches_nvidias_code() -> None:
    wanted = golden("stylegan2_ada_1024")
    generator = Generator(1024, n_mlp=2, clamp=256)
    load_official(generator, from_nvidia(nvidia_state(channel_table(), 512, 2)))
    image = generator(wanted["ws"])
    assert distance(image[..., ::32, ::32], wanted["image"]) < TIGHT


@pytest.mark.parametrize("key", ["mapping.embed.weight", "synthesis.b8.skip.weight", "b8.bias"])
def test_other_nvidia_networks_are_refused(key: str) -> None:
    with pytest.raises(WeightsError, match=key):
        from_nvidia({key: torch.zeros(1)})


# what is ours


def textbook(generator: Generator, w: Tensor) -> Tensor:
    """The first two layers as the paper writes them: a modulated kernel for every sample."""
    convs = [(generator.conv1, w[:, 0], "noise_0"), (generator.convs[0], w[:, 1], "noise_1")]
    x = generator.input.input.expand(len(w), -1, -1, -1)
    for layer, style, noise in convs:
        kernel = layer.conv.weight * layer.conv.scale
        scales = F.linear(style, layer.conv.modulation.weight / 4, layer.conv.modulation.bias)
        kernel = kernel * scales[:, None, :, None, None]
        kernel = kernel / (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        if noise == "noise_0":
            rows = [F.conv2d(a[None], k, padding=1) for a, k in zip(x, kernel, strict=True)]
        else:
            holes = x.new_zeros(len(x), x.shape[1], 11, 11)
            holes[:, :, 2:9:2, 2:9:2] = x
            wide = [F.conv2d(a[None], k.flip(2, 3)) for a, k in zip(holes, kernel, strict=True)]
            blur = layer.conv.blur.kernel[None, None].expand(16, 1, 4, 4)
            rows = [F.conv2d(a, blur, padding=1, groups=16) for a in wide]
        x = torch.cat(rows) + layer.noise.weight * getattr(generator.noises, noise)
        x = F.leaky_relu(x + layer.activate.bias[None, :, None, None], 0.2) * 2**0.5
    return x


@torch.no_grad()
def test_scaling_around_a_shared_kernel_is_the_modulated_convolution() -> None:
    generator = tiny()
    w = torch.randn(3, 8, 16)
    x = generator.input.input.expand(3, -1, -1, -1)
    x = generator.conv1(x, w[:, 0], generator.noises.noise_0)
    x = generator.convs[0](x, w[:, 1], generator.noises.noise_1)
    assert distance(x, textbook(generator, w)) < TIGHT


@torch.no_grad()
def test_a_batch_is_its_images() -> None:
    generator = tiny()
    w = torch.randn(3, 8, 16)
    alone = torch.cat([generator(each[None]) for each in w])
    assert distance(generator(w), alone) < TIGHT
    assert torch.equal(generator(w[:, 0]), generator(generator.widen(w[:, 0])))


def test_gradients_of_gradients_are_right() -> None:
    """Path length and R1 penalties differentiate twice."""
    channels = {4: 2, 8: 2}
    generator = Generator(8, style_dim=3, n_mlp=1, channels=channels, clamp=50.0).double()
    judge = Discriminator(8, channels=channels).double()
    w = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(generator, w, fast_mode=True)
    assert torch.autograd.gradgradcheck(generator, w, fast_mode=True)
    assert torch.autograd.gradgradcheck(judge, x, fast_mode=True)


def test_every_parameter_learns() -> None:
    generator, judge = tiny(), Discriminator(32, channels=TINY["channels"])
    judge(generator(generator.latent(torch.randn(4, 16)), noise="random")).sum().backward()
    for module in (generator, judge):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_noise_is_stored_random_absent_or_given() -> None:
    generator = tiny()
    w = torch.randn(2, 16)
    stored = list(generator.noises.buffers())
    assert torch.equal(generator(w), generator(w, noise=stored))
    assert not torch.allclose(generator(w), generator(w, noise="random"))
    silent = generator(w, noise=[torch.zeros_like(each) for each in stored])
    assert distance(generator(w, noise="none"), silent) < 1e-6
    drawn = [generator.draw_noise(2, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(generator(w, noise=drawn[0]), generator(w, noise=drawn[1]))
    with pytest.raises(OptionError, match="7 tensors"):
        generator(w, noise=stored[1:])


@torch.no_grad()
def test_bfloat16_stays_close() -> None:
    generator = tiny()
    w = torch.randn(2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = generator(w)
    assert not torch.equal(low, generator(w))
    assert distance(low, generator(w)) < 0.05


@torch.no_grad()
def test_the_clamp_bounds_activations() -> None:
    free = tiny()
    bound = fill(Generator(32, clamp=0.5, **TINY), "stylegan2")
    w = torch.randn(2, 16)
    assert not torch.allclose(free(w), bound(w))
    x = bound.conv1(bound.input.input.expand(2, -1, -1, -1), w, None)
    assert x.abs().max() == 0.5
    assert bound.to_rgb1(100 * x, w, None).abs().max() == 0.5


@torch.no_grad()
def test_mean_latent_and_truncation() -> None:
    generator = tiny()
    mean = generator.mean_latent(4096, torch.Generator().manual_seed(0))
    z = torch.randn(4, 16)
    assert mean.shape == (1, 16)
    assert distance(generator.latent(z, truncation=0.0, centre=mean), mean.expand(4, -1)) < 1e-6
    assert distance(mean, generator.latent(torch.randn(20000, 16)).mean(0, keepdim=True)) < 0.1
    with pytest.raises(OptionError, match="centre"):
        generator.latent(z, truncation=0.5)


@torch.no_grad()
def test_the_origin_of_each_layers_style_can_be_moved() -> None:
    generator = tiny()
    w = tensor("w", (2, generator.n_latent, 16))
    offsets = tensor("offsets", (generator.n_latent, 16))
    with torch.no_grad():
        before = generator(w + offsets)
        generator.absorb(offsets)
        assert distance(generator(w), before) < TIGHT


def test_the_discriminator_sees_how_alike_a_batch_is() -> None:
    judge = fill(Discriminator(32, channels=TINY["channels"]), "stylegan2")
    x = torch.randn(6, 3, 32, 32)
    assert judge(x).shape == (6, 1)
    alone = torch.cat([judge(each[None]) for each in x])
    assert not torch.allclose(judge(x), alone, rtol=1e-3)


def test_groups_of_a_batch_are_interleaved_as_in_the_reference() -> None:
    x = torch.randn(8, 2, 4, 4)
    x[0::2] = x[0]  # eight images are two groups of four: the even and the odd ones
    deviation = _group_deviation(x)
    assert (deviation[0::2] < 1e-3).all()
    assert (deviation[1::2] > 0.1).all()


def test_wrong_shapes_and_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="power of two"):
        Generator(48)
    with pytest.raises(OptionError, match="sides"):
        Generator(32, channels={4: 8})
    with pytest.raises(OptionError, match="N×8×16"):
        tiny()(torch.zeros(1, 7, 16))


def test_a_wrong_checkpoint_names_what_does_not_fit() -> None:
    target = Generator(32, **TINY)
    before = {key: each.clone() for key, each in target.state_dict().items()}
    larger = Generator(64, style_dim=16, n_mlp=2, channels=dict.fromkeys((4, 8, 16, 32, 64), 16))
    with pytest.raises(WeightsError, match=r"18 unknown \(.*and 14 more\)"):
        load_official(target, larger.state_dict())
    with pytest.raises(WeightsError, match=r"18 missing \(convs\.6"):
        load_official(larger, target.state_dict())
    wide = Generator(32, style_dim=16, n_mlp=2, channels=dict.fromkeys((4, 8, 16, 32), 24))
    with pytest.raises(WeightsError, match="1×24×4×4 instead of 1×16×4×4"):
        load_official(target, wide.state_dict())
    assert all(torch.equal(each, before[key]) for key, each in target.state_dict().items())
