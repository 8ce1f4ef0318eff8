import pytest
import torch
from golden import digest, distance, golden, on_meta, shapes
from seedweights import fill
from torch.nn import functional as F

from facedeid.errors import WeightsError
from facedeid.nets import load_official
from facedeid.nets.inception_resnet import InceptionResnetV1, without_logits

LAYOUT = "a76af126584f118146c5c4356be76231bd77335954e1fa91a41b13d192a37d4c"


@pytest.fixture(scope="module")
def net():
    return fill(InceptionResnetV1(), gain=1.4).eval()


def test_layout_is_facenet_pytorchs():
    with on_meta():
        assert digest(shapes(InceptionResnetV1())) == LAYOUT


def test_reproduces_facenet_pytorch(net):
    reference = golden("facenet_inception_resnet_v1")
    with torch.no_grad():
        emb = net(F.interpolate(reference["x_low"], size=160, mode="bilinear"))
    assert distance(emb, reference["emb"]) < 1e-5
    assert torch.allclose(emb.norm(dim=1), torch.ones(2))


def test_loads_an_official_file_with_its_classifier(net):
    official = dict(net.state_dict())
    official |= {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    official = {k: v for k, v in official.items() if not k.endswith("num_batches_tracked")}
    with pytest.raises(WeightsError, match=r"logits\.weight"):
        load_official(InceptionResnetV1(), official)
    loaded = load_official(InceptionResnetV1(), without_logits(official))
    assert torch.equal(loaded.last_linear.weight, net.last_linear.weight)
