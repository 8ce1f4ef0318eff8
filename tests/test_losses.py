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
