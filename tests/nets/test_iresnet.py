import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill, tensor

from facedeid.errors import WeightsError
from facedeid.nets import load_official
from facedeid.nets.iresnet import iresnet

LAYOUTS = {  # insightface recognition/arcface_torch
    18: "9ef0efe33c6aacc564b6a81e3331e6a7833f70b38d383ce09c7db6d91cb7c2f4",
    50: "68068afafeed220dc28b1860fa9b5aa1c709f20283fbd9a7fb7cfbe1af4dcb24",
    100: "793d7032adbb1d8e988c5cbc539cec785ba37bc193c041a28d58d231a953dfab",
}


@pytest.mark.parametrize("depth", LAYOUTS)
def test_layout_is_the_official_one(depth):
    with on_meta():
        assert digest(shapes(iresnet(depth))) == LAYOUTS[depth]


@pytest.mark.parametrize("depth", [18, 50])
def test_reproduces_arcface_torch(depth):
    net = fill(iresnet(depth)).eval()
    with torch.no_grad():
        raw = net(tensor("id.x112", (2, 3, 112, 112), lo=-1, hi=1))
    assert distance(raw, golden(f"arcface_torch_iresnet{depth}")["raw"]) < 1e-5


def test_each_face_is_embedded_by_itself():
    net = fill(iresnet(18)).eval()
    faces = tensor("faces", (3, 3, 112, 112), lo=-1, hi=1)
    with torch.no_grad():
        together, alone = net(faces), torch.cat([net(face[None]) for face in faces])
        assert torch.equal(together, net(faces))
    assert distance(together, alone) < 1e-5


def test_refuses_another_depth():
    with on_meta():
        state = iresnet(50).state_dict()
    with pytest.raises(WeightsError, match="unknown"):
        load_official(iresnet(18), state)
