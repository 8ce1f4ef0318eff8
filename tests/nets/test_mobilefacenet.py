import pytest
import torch
from golden import digest, shapes
from seedweights import fill, tensor

from facedeid.errors import WeightsError
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.nets.mobilefacenet import MobileFaceNet, mobilefacenet

# of Xiaoccer/MobileFaceNet_Pytorch, model/best/068.ckpt
OFFICIAL = "8b4599c00c5c51363eb0226941c155ce01f37475a76e2d60b85c08f6d14a4903"


def test_layout_is_the_public_one():
    net = MobileFaceNet()
    assert digest(shapes(net)) == OFFICIAL
    assert sum(p.numel() for p in net.parameters()) == 999_552


def reference(state, x):
    """The network again, from the table in the paper, with functions only."""

    def conv(x, key, norm, stride=1, pad=0, groups=1):
        x = torch.conv2d(x, state[f"{key}.weight"], None, stride, pad, 1, groups)
        rest = [state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return torch.nn.functional.batch_norm(x, *rest)

    def prelu(x, key):
        return torch.nn.functional.prelu(x, state[f"{key}.weight"])

    x = prelu(conv(x, "conv1.conv", "conv1.bn", 2, 1), "conv1.prelu")
    x = prelu(conv(x, "dw_conv1.conv", "dw_conv1.bn", 1, 1, 64), "dw_conv1.prelu")
    strides = [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    for i, stride in enumerate(strides):
        k = f"blocks.{i}.conv"
        y = prelu(conv(x, f"{k}.0", f"{k}.1"), f"{k}.2")
        y = prelu(conv(y, f"{k}.3", f"{k}.4", stride, 1, y.shape[1]), f"{k}.5")
        y = conv(y, f"{k}.6", f"{k}.7")
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = prelu(conv(x, "conv2.conv", "conv2.bn"), "conv2.prelu")
    x = conv(x, "linear7.conv", "linear7.bn", groups=512)
    return conv(x, "linear1.conv", "linear1.bn").flatten(1)


def test_computes_what_the_paper_says():
    net = fill(MobileFaceNet()).eval()
    faces = tensor("faces", (2, 3, 112, 96), lo=-1, hi=1)
    with torch.no_grad():
        found = net(faces)
        torch.testing.assert_close(found, reference(net.state_dict(), faces))
    assert found.shape == (2, 128)


@pytest.mark.parametrize(("size", "dim", "width"), [((112, 112), 256, 1.0), ((112, 96), 128, 0.5)])
def test_is_rebuilt_from_its_weights(size, dim, width):
    net = fill(MobileFaceNet(size, dim=dim, width=width)).eval()
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    again = mobilefacenet(state)
    faces = tensor("faces", (1, 3, *size), lo=-1, hi=1)
    with torch.no_grad():
        assert torch.equal(again(faces), net(faces))


def test_refuses_other_weights():
    state = MobileFaceNet().state_dict()
    with pytest.raises(WeightsError, match="linear7"):
        mobilefacenet({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not expected"):
        mobilefacenet({**state, "extra": torch.zeros(1)})
    del state["conv2.bn.weight"]
    with pytest.raises(WeightsError, match=r"conv2\.bn\.weight"):
        mobilefacenet(state)


def test_compact_network_is_small_and_gives_unit_vectors():
    net = CompactFaceNet().eval()
    count = sum(v.numel() for v in net.state_dict().values())
    assert sum(p.numel() for p in net.parameters()) <= 2_000_000
    assert 2 * count <= 4 * 2**20
    faces = tensor("faces", (2, 3, 112, 112), lo=-1, hi=1).requires_grad_()
    found = net(faces)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(net(faces.flip(3)), found)
    assert not torch.allclose(net.train()(faces.flip(3)), net(faces), atol=1e-3)
    found[:, 0].sum().backward()
    assert faces.grad.abs().sum() > 0


def test_whitening_spreads_embeddings_of_many_faces():
    net = CompactFaceNet(32, stem=8, widths=(8, 8), depths=(1, 1), squeeze=8).eval()
    faces = tensor("faces", (300, 3, 112, 112), lo=-1, hi=1) * 0.3
    faces = faces + tensor("light", (300, 3, 1, 1))

    def largest_share():
        values = torch.linalg.eigvalsh(torch.cov(net(faces).T))
        return values[-1] / values.sum()

    with torch.no_grad():
        before, mean = largest_share(), net(faces).mean(0).norm()
        net.whiten(faces.split(100), shrink=0.1)
        assert largest_share() < 0.7 * before
        assert net(faces).mean(0).norm() < 0.3 * mean
        torch.testing.assert_close(net(faces).norm(dim=1), torch.ones(300))
