"""Gradients pulled back through the shipped generator, beside autograd's."""

import pytest
import torch

from facedeid.models import Models
from facedeid.nets.pullback import MAPS, Synthesis, Traced, pullback
from facedeid.random import stream

PAIR = Models().pair()


@pytest.fixture(scope="module")
def codes():
    return PAIR.sample(MAPS + 1, stream(0, "codes"))


def directions(count, faces):
    return torch.randn(count, faces, 3, 128, 128, generator=stream(0, "directions"))


@pytest.mark.parametrize("count", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_it_is_the_chain_rule(codes, count):
    gradients = directions(count, len(codes))
    pulled = []
    for generator in (Traced(PAIR), Synthesis(PAIR.generator)):
        faces, seen = generator.decode(codes)
        torch.testing.assert_close(faces, PAIR.decode(codes), atol=1e-4, rtol=0)
        assert not faces.requires_grad
        pulled.append(generator.pull(seen, gradients))
    ours, theirs = pulled
    assert ours.shape == (count, *codes.shape)
    assert (ours - theirs).norm() < 0.01 * theirs.norm()  # leaky ReLUs may turn at zero
    assert (ours.sign() == theirs.sign()).float().mean() > 0.999


@pytest.mark.slow
def test_bfloat16_rounds_as_autocast_does(codes):
    codes, gradients = codes[:2], directions(1, 2)
    exact = Traced(PAIR)
    want = exact.pull(exact.decode(codes)[1], gradients)
    errors = []
    for generator in (Traced(PAIR, bf16=True), Synthesis(PAIR.generator, bf16=True)):
        faces, seen = generator.decode(codes)
        assert faces.dtype == torch.float32
        assert (faces - PAIR.decode(codes)).abs().max() < 0.1
        errors.append(float((generator.pull(seen, gradients) - want).norm() / want.norm()))
    assert 0 < errors[1] < 1.5 * errors[0] < 0.4


def test_each_face_has_its_own_gradients(codes):
    generator, gradients = Synthesis(PAIR.generator), directions(2, len(codes))
    together = generator.pull(generator.decode(codes)[1], gradients)
    alone = generator.pull(generator.decode(codes[-1:])[1], gradients[:, -1:])
    assert (alone[:, 0] - together[:, -1]).norm() < 0.01 * alone.norm()


def test_other_pairs_are_traced():
    class Other:
        def decode(self, codes):
            return codes.sum(-1)[:, :, None, None].expand(-1, -1, 2, 2).square()

    generator = pullback(Other())
    faces, seen = generator.decode(torch.ones(1, 3, 4))
    assert isinstance(generator, Traced)
    assert isinstance(pullback(PAIR), Synthesis)
    pulled = generator.pull(seen, torch.stack([faces / 16, faces / 8]))
    assert torch.equal(pulled[:, 0, 0, 0], torch.tensor([32.0, 64.0]))
