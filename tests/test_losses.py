import numpy as np
import pytest
import skimage.metrics
import torch

from facedeid import losses
from facedeid.errors import OptionError


@pytest.fixture
def pictures(astronaut):
    clean = torch.from_numpy(astronaut[60:188, 160:272]).permute(2, 0, 1)[None].float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([clean, clean + 12 * noise, 255 - clean]).clamp(0, 255)
    return clean.expand(3, -1, -1, -1) / 127.5 - 1, changed / 127.5 - 1


@pytest.mark.parametrize("sigma", [1.5, 0.8])
def test_ssim_is_that_of_scikit_image(pictures, sigma):
    a, b = (x.double() for x in pictures)
    expected = []
    for one, two in zip(a.numpy(), b.numpy(), strict=True):
        _, full = skimage.metrics.structural_similarity(
            (one + 1) / 2,
            (two + 1) / 2,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=sigma,
            use_sample_covariance=False,
            full=True,
        )
        edge = int(3.5 * sigma + 0.5)
        expected.append(full[:, edge:-edge, edge:-edge].mean())
    np.testing.assert_allclose(losses.ssim(a, b, sigma=sigma), expected, atol=1e-9)
    assert expected[0] == 1
    assert expected[2] < 0


def test_ssim_has_the_right_gradient():
    a, b = torch.rand(2, 1, 2, 13, 14, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(losses.ssim, (a, b))


def test_ssim_refuses_pictures_smaller_than_its_window():
    small = torch.zeros(1, 3, 10, 64)
    with pytest.raises(OptionError, match="10 px"):
        losses.ssim(small, small)


def test_only_edges_that_were_not_there_are_new(pictures):
    photo = pictures[0][:1]
    stroke, light = photo.clone(), (0.8 * photo + 0.1)
    stroke[:, :, 60:100, 50:53] -= 0.5
    shifted = torch.roll(photo, 2, dims=3)[:, :, :, 2:]
    same, lit, drawn, faint = (
        float(losses.new_edges(photo, x)) for x in (photo, light, stroke, (photo + stroke) / 2)
    )
    assert same == lit == 0
    assert float(losses.new_edges(photo[:, :, :, 2:], shifted)) < 0.02
    assert drawn > 2 * faint > 0.03
    both = losses.new_edges(torch.cat([photo, photo]), torch.cat([stroke, photo]))
    torch.testing.assert_close(both, torch.tensor([drawn, same]))


def test_only_what_was_nowhere_as_dark_is_a_stain():
    photo = torch.zeros(1, 3, 128, 128)
    photo[:, :, 40:48, 40:88] = -0.8  # brows
    blot, soft, moved = photo.clone(), photo.clone(), torch.roll(photo, 3, dims=2)
    blot[:, :, 70:82, 60:72] = -0.8
    soft[:, :, 70:82, 60:72] = -0.4
    found = losses.new_stains(photo.expand(4, -1, -1, -1), torch.cat([photo, moved, soft, blot]))
    assert found[0] == 0
    assert found[1] < 0.05 < 0.15 < found[2] < 0.6 * found[3]
    assert float(losses.new_stains(photo, photo + 0.3)) == 0


def test_only_edges_that_faded_are_lost():
    skin = torch.zeros(1, 3, 128, 128)
    brow = skin.clone()
    brow[:, :, 60:66, 40:80] = -0.8
    changed = torch.cat([brow, brow + 0.2, torch.roll(brow, 3, dims=2), 0.8 * brow, brow / 2, skin])
    found = losses.lost_edges(brow.expand(6, -1, -1, -1), changed)
    assert (found[:4] < 0.01).all()
    assert found[5] > 2 * found[4] > 0.03
    above = torch.ones(1, 1, 128, 128)
    above[:, :, 63:] = 0
    parts = (above + (1 - above), above, 1 - above)
    whole, *halves = (float(losses.lost_edges(brow, skin, where)) for where in parts)
    assert whole == float(found[5])
    assert all(0.2 * whole < half < 0.8 * whole for half in halves)


@pytest.mark.parametrize("measure", [losses.new_edges, losses.new_stains])
def test_the_gradient_takes_a_stroke_away(measure, pictures):
    photo = pictures[0][:1]
    stroke = photo.clone()
    stroke[:, :, 60:100, 48:56] -= 0.8
    changed = stroke.requires_grad_()
    (slope,) = torch.autograd.grad(measure(photo, changed).sum(), changed)
    assert slope.isfinite().all()
    assert measure(photo, stroke.detach() - slope / slope.norm()) < measure(photo, stroke.detach())
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(measure(flat.detach(), flat).sum(), flat)
    assert slope.isfinite().all()


def test_mse_is_per_picture(pictures):
    a, b = pictures
    expected = [((x - y) ** 2).mean() for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(losses.mse(a, b), expected, rtol=1e-5)


def test_perceptual_enlarges_small_pictures():
    seen = []

    def distance(a, b):
        seen.append(tuple(a.shape))
        return (a - b).abs().mean((1, 2, 3))

    small = torch.rand(2, 3, 32, 40)
    result = losses.perceptual(distance, small, -small)
    losses.perceptual(distance, torch.rand(1, 3, 100, 70), torch.rand(1, 3, 100, 70))
    assert seen == [(2, 3, 64, 80), (1, 3, 100, 70)]
    assert result.shape == (2,)


def test_embeddings_are_compared_row_by_row():
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[0.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(losses.cosine(a, b), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        losses.euclidean(a, b), torch.tensor([5**0.5, 0.0]), atol=1e-5, rtol=0
    )


def test_equal_embeddings_have_a_finite_gradient():
    a = torch.ones(1, 8, requires_grad=True)
    losses.euclidean(a, torch.ones(1, 8)).sum().backward()
    assert a.grad.tolist() == [[0.0] * 8]


def test_margins_stop_pushing():
    distance = torch.tensor([0.2, 0.9], requires_grad=True)
    losses.away_from(distance, 0.6).sum().backward()
    assert distance.grad.tolist() == [-1, 0]
    distance.grad = None
    losses.towards(distance, 0.6).sum().backward()
    assert distance.grad.tolist() == [0, 1]
