import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill, tensor

from facedeid.nets.curricularface import CurricularFace

LAYOUTS = {  # HuangYG123/CurricularFace: IR_50, IR_101 (the released one), IR_SE_101
    (50, False): "cf8b27069c6b7118adde14fceb7f49917f1f6e486153b76b62a76f476d267fa7",
    (101, False): "8f8e31e3c5fe50ba3714d0cf88a9737cc2c9116608b01ed6c78bc58e6b737003",
    (101, True): "e0dad36aa82d539a01cc3f6efa596af86374016ed1c11ec41123e36d8a2fb0ef",
}


@pytest.mark.parametrize(("depth", "gated"), LAYOUTS)
def test_layout_is_the_official_one(depth, gated):
    with on_meta():
        net = CurricularFace(depth, gated=gated)
    assert digest(shapes(net)) == LAYOUTS[depth, gated]


def test_reproduces_curricularface():
    net = fill(CurricularFace()).eval()
    with torch.no_grad():
        raw = net(tensor("id.x112", (2, 3, 112, 112), lo=-1, hi=1))
    assert distance(raw, golden("curricularface_ir101")["raw"]) < 1e-5


def test_gates_scale_whole_channels():
    """With the second layer of a gate at zero, the gate is sigmoid(0): half of every channel."""
    net = fill(CurricularFace(50, gated=True)).eval()
    gate = net.body[0].res_layer[5]
    torch.nn.init.zeros_(gate.fc2.weight)
    x = tensor("features", (2, 64, 5, 5))
    assert torch.equal(gate(x), x / 2)
    fill(gate)
    ratio = gate(x) / x
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-5)
    assert ratio[:, :, 0, 0].std() > 0
