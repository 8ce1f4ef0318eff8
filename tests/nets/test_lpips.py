import pytest
import torch
from golden import digest, golden, shapes
from seedweights import fill

from facedeid.errors import OptionError, WeightsError
from facedeid.nets.lpips import CHANNELS, Lpips, lpips, lpips_state

KINDS = ("alex", "vgg", "squeeze")
TRUNKS = {  # torchvision's features.*
    "alex": "e68f380d754f72ab419cea53416f6c11a26ed7fc980814fed977c2639b6f1929",
    "vgg": "5c6f209a64a610177aacc63a1d73d0e8079346a119c01a00ad01961e0654a70a",
    "squeeze": "7f213bfce772d1efa2d279d776f0c7263d1019780653a4dc09ce83fad71cd7d1",
}


def seeded(kind):
    """Random trunk, the authors' linear heads."""
    trunk = fill(Lpips(kind), gain=1.4).state_dict()
    trunk = {k: v for k, v in trunk.items() if k.startswith("features.")}
    stored = golden("lpips").items()
    heads = {k.removeprefix(f"{kind}/"): v for k, v in stored if k.startswith(f"{kind}/lin")}
    return lpips(lpips_state(trunk, heads))


@pytest.mark.parametrize("kind", KINDS)
def test_trunk_has_the_layout_of_torchvision(kind):
    layout = {k: v for k, v in shapes(Lpips(kind)).items() if k.startswith("features.")}
    assert digest(layout) == TRUNKS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_reproduces_the_authors_package(kind):
    stored, net = golden("lpips"), seeded(kind)
    assert net.kind == kind
    depths = net(stored["a"], stored["b"], by_depth=True)
    torch.testing.assert_close(depths, stored[f"{kind}/per_layer"], rtol=1e-4, atol=1e-7)
    distance = net(stored["a"], stored["b"])
    torch.testing.assert_close(distance, stored[f"{kind}/dist"], rtol=1e-5, atol=0)
    # In float64: in float32 some CPUs put ReLUs on the other side of zero (5e-3 of VGG's).
    a = stored["a"].double().requires_grad_()
    net.double()(a, stored["b"].double()).sum().backward()
    reference = stored[f"{kind}/grad_a"]
    assert (a.grad[:, :, ::4, ::4] - reference).norm() < 1e-4 * reference.norm()


def test_reads_the_state_dict_of_the_authors_package():
    net = seeded("alex")
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    package = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for key, value in net.state_dict().items():
        if key.startswith("features."):
            index = int(key.split(".")[1])
            package[f"net.slice{slices[index]}.{key.removeprefix('features.')}"] = value
        else:
            package[key] = value
            package[f"lins.{key[3]}.{key.split('.', 1)[1]}"] = value
    stored = golden("lpips")
    again = lpips(lpips_state(package))
    assert torch.equal(again(stored["a"], stored["b"]), net(stored["a"], stored["b"]))


@pytest.mark.parametrize("kind", [*KINDS, "compact"])
def test_is_a_distance_with_finite_gradients(kind):
    net = fill(Lpips(kind), gain=1.4).eval()
    with torch.no_grad():
        for i in range(len(CHANNELS[kind])):
            net.get_submodule(f"lin{i}").get_parameter("model.1.weight").abs_()
    a = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(1)) * 2 - 1
    b = a.flip(3)
    assert net(a, a).tolist() == [0, 0]
    torch.testing.assert_close(net(a, b), net(b, a))
    assert (net(a, b) > 0).all()
    black = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    net(black, torch.zeros_like(black)).sum().backward()
    assert black.grad.isfinite().all()
    assert black.grad.abs().sum() > 0


def test_learned_head_stays_positive():
    net = fill(Lpips("compact"), gain=1.4).eval()
    with torch.no_grad():
        for i in range(5):
            net.get_submodule(f"lin{i}").get_parameter("model.1.weight").abs_().neg_()
    a = torch.rand(1, 3, 64, 64) * 2 - 1
    assert (net(a, -a, by_depth=True) > 0).all()


def test_compact_is_small():
    count = sum(p.numel() for p in Lpips("compact").parameters())
    assert count <= 1_000_000
    assert 2 * count <= 1.5 * 2**20


def test_refuses_what_it_cannot_compare():
    net = Lpips("alex")
    a = torch.zeros(1, 3, 64, 64)
    with pytest.raises(OptionError, match="two batches"):
        net(a, torch.zeros(2, 3, 64, 64))
    with pytest.raises(OptionError, match="32 px"):
        net(a[..., :16, :16], a[..., :16, :16])
    with pytest.raises(OptionError, match="resnet"):
        Lpips("resnet")


def test_refuses_incomplete_weights():
    trunk = {k: v for k, v in Lpips("alex").state_dict().items() if "features" in k}
    with pytest.raises(WeightsError, match="heads"):
        lpips(trunk)
