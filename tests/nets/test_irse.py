"""IR-SE50 against TreB1eN's code and pSp's identity loss."""

import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill, tensor
from torch import Tensor

from facedeid.errors import OptionError, WeightsError
from facedeid.nets import load_official
from facedeid.nets.irse import IrSe, psp_identity_crop


@pytest.fixture(scope="module")
def ir_se50() -> IrSe:
    return fill(IrSe()).eval()


def uniform(name: str, n: int, side: int) -> Tensor:
    return tensor(name, (n, 3, side, side), lo=-1, hi=1)


def test_the_layout_is_the_official_one() -> None:
    with on_meta():
        official = "ab86a97e028ce8864debed271b6f25b01e4b61ce6dc8ba22935a396c8c9d01b1"
        assert digest(shapes(IrSe())) == official


@torch.no_grad()
def test_embeddings_match_the_reference(ir_se50: IrSe) -> None:
    embeddings = ir_se50(uniform("id.x112", 2, 112))
    assert distance(embeddings, golden("ir_se50")["emb112"]) < 1e-5
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_channels_last_gives_the_same_embeddings() -> None:
    net = fill(IrSe()).eval().to(memory_format=torch.channels_last)
    assert distance(net(uniform("id.x112", 2, 112)), golden("ir_se50")["emb112"]) < 1e-5


def test_identity_crop_and_input_gradient_match_psp(ir_se50: IrSe) -> None:
    wanted = golden("ir_se50")
    crop = psp_identity_crop(uniform("id.x256", 1, 256))
    assert distance(crop[..., ::4, ::4], wanted["pooled112_s4"]) < 1e-6
    assert distance(ir_se50(crop), wanted["emb256"]) < 1e-5
    # In float64: in float32 some CPUs put PReLUs on the other side of zero (1.5e-3).
    x = uniform("id.x256", 1, 256).double().requires_grad_()
    embedding = fill(IrSe()).eval().double()(psp_identity_crop(x))
    (grad,) = torch.autograd.grad((embedding * tensor("id.cot", (1, 512))).sum(), x)
    # The stored gradient has a PReLU on the other side of zero: it is 2.7e-4 from float64.
    assert distance(grad[..., ::4, ::4], wanted["grad_x256_s4"]) < 5e-4


@torch.no_grad()
def test_psp_identity_loss_matches(ir_se50: IrSe) -> None:
    x, y = uniform("id.x256", 1, 256), uniform("id.y256", 1, 256)
    a, b = (ir_se50(psp_identity_crop(each)) for each in ((x + y) / 2, y))
    assert distance(1 - (a * b).sum(1), golden("ir_se50")["id_loss"]) < 1e-4


@torch.no_grad()
def test_compact_networks_and_options() -> None:
    net = fill(IrSe((1, 1, 2, 1), se=False, width=4, dim=8, affine=False, normalize=False)).eval()
    x = torch.rand(2, 3, 112, 112)
    assert net(x).shape == (2, 8)
    assert not torch.allclose(net(x).norm(dim=1), torch.ones(2))
    assert not [key for key in net.state_dict() if "fc1" in key or key == "output_layer.4.weight"]
    with pytest.raises(OptionError, match="50, 100, 152"):
        IrSe(34)
    with pytest.raises(OptionError, match="256×256"):
        psp_identity_crop(x)


def test_loading_tolerates_only_a_missing_batch_count() -> None:
    net = IrSe((1, 1, 1, 1), width=4, dim=8)
    state = {
        key: torch.ones_like(value)
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    load_official(net, state)
    assert all((parameter == 1).all() for parameter in net.parameters())
    del state["output_layer.3.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(output_layer\.3\.bias\)"):
        load_official(net, state)
