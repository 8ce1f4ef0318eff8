import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from facedeid.errors import OptionError, WeightsError
from facedeid.evaluation import realism as module
from facedeid.evaluation.looks import _weights, loaded
from facedeid.evaluation.quality import load_lpips
from facedeid.evaluation.realism import (
    REFERENCES,
    Features,
    Sample,
    face_crop,
    features_of,
    frechet,
    kid,
    realism,
    reference_rows,
    sample,
    squeezenet,
)
from facedeid.faces import Face, detect
from facedeid.models import Models
from facedeid.nets.lpips import Lpips


def rows(n, d, seed, shift=0.0):
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) / d**0.5
    return random.normal(size=(n, d)) @ mix * (1 + shift) + shift


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 16), (500, 400, 64), (50, 40, 1)])
def test_the_frechet_distance_is_that_of_scipy_and_torchmetrics(n, m, d):
    a, b = rows(n, d, 0), rows(m, d, 1, 0.3)
    one, two = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(one @ two).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    theirs = _compute_fid(
        torch.from_numpy(a.mean(0)),
        torch.from_numpy(one),
        torch.from_numpy(b.mean(0)),
        torch.from_numpy(two),
    )
    assert frechet(a, b) == pytest.approx(float(theirs), rel=1e-6)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_normal_distributions_of_known_distance():
    """Same shape, mean moved by 3 and scale doubled: 9·D + (2 - 1)²·tr S."""
    a = rows(400, 8, 0)
    b = (a - a.mean(0)) * 2 + a.mean(0) + 3
    expected = 9 * 8 + np.trace(np.cov(a, rowvar=False))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_fewer_faces_than_features_are_no_difficulty():
    a, b = rows(20, 100, 0), rows(30, 100, 1)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    # the trace of the root is the sum of the singular values of Xa·Xbᵀ, centred and scaled
    one, two = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    shared = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (one**2).sum() + (two**2).sum() - 2 * shared
    assert frechet(a, b) == pytest.approx(expected, rel=1e-10)
    constant = np.ones((5, 100))
    expected = np.square(a.mean(0) - 1).sum() + np.trace(np.cov(a, rowvar=False))
    assert frechet(a, constant) == pytest.approx(expected)


def test_features_of_very_different_size_keep_their_distance():
    scales = 10.0 ** np.arange(-6, 6)
    a = np.random.default_rng(0).normal(size=(200, 12)) * scales
    assert frechet(a, a) <= 1e-9 * np.trace(np.cov(a, rowvar=False))


def test_the_kernel_distance_is_that_of_torchmetrics():
    a, b = rows(60, 24, 0), rows(60, 24, 1, 0.2)
    expected = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b), degree=3, coef=1.0))
    whole = kid(a, b, subsets=3, size=60)  # subsets of all rows: the order changes nothing
    assert whole.mean == pytest.approx(expected, rel=1e-9)
    assert whole.sd == pytest.approx(0, abs=1e-9)
    drawn = kid(a, b, subsets=200, size=30)
    assert drawn.mean == pytest.approx(expected, abs=4 * drawn.sd / 200**0.5)
    assert drawn.sd > 0


def test_the_kernel_distance_repeats_with_its_seed_and_is_unbiased():
    a, b = rows(100, 16, 0), rows(120, 16, 1)
    assert kid(a, b, seed=1) == kid(a, b, seed=1) != kid(a, b, seed=2)
    found = [
        kid(rows(40, 4, i), rows(40, 4, 1000 + i), subsets=1, size=40).mean for i in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 200**0.5
    assert min(found) < 0  # an unbiased estimate of nothing is on either side


@pytest.mark.parametrize("distance", [frechet, kid])
def test_sets_that_do_not_fit_are_refused(distance):
    a = rows(20, 4, 0)
    for b in (rows(20, 5, 0), a[:1], a[0], np.full((20, 4), np.nan)):
        with pytest.raises(OptionError):
            distance(a, b)
    with pytest.raises(OptionError, match="cannot be drawn"):
        kid(a, a, size=21)


def test_features_of_two_networks_are_never_compared():
    a = Sample("squeezenet", rows(20, 4, 0))
    with pytest.raises(OptionError, match="cannot be compared"):
        realism(a, Sample("embedding:dlib", rows(20, 4, 1)))
    found = realism(a, Sample("squeezenet", rows(30, 4, 1)))
    assert (found.features, found.n, found.reference_n) == ("squeezenet", 20, 30)


@pytest.fixture(scope="module")
def face(astronaut) -> Face:
    return detect(astronaut[:256], min_face=80)[0]


def test_a_face_crop_is_the_grown_box(astronaut, face):
    left, top = (round(x) for x in face.box[:2])
    square = Face((left, top, left + 90, top + 90), face.landmarks, 1, "hog", "dlib")
    crop = face_crop(astronaut, square, 144)  # 1.6 sides of the box: pixels as they are
    expected = astronaut[top - 27 : top + 117, left - 27 : left + 117]
    levels = (crop.permute(1, 2, 0).numpy() + 1) * 127.5
    np.testing.assert_allclose(levels, expected, atol=0.51)
    small = face_crop(astronaut, square, 48)
    means = expected.reshape(48, 3, 48, 3, 3).mean((1, 3))
    np.testing.assert_allclose((small.permute(1, 2, 0).numpy() + 1) * 127.5, means, atol=1.1)


def test_face_crops_reach_beyond_the_photo_and_know_16_bits(astronaut, face):
    edge = Face((-30, -20, 80, 90), face.landmarks, 1, "given", "given")
    crop = face_crop(astronaut, edge)
    assert crop.shape == (3, 224, 224)
    assert -1 <= crop.min() < crop.max() <= 1
    deep = face_crop(astronaut.astype(np.uint16) * 257, edge)
    assert (crop - deep).abs().max() < 0.01


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """SqueezeNet's layout with weights of no meaning."""
    torch.manual_seed(0)
    net = Lpips("squeeze")
    path = tmp_path_factory.mktemp("weights") / "squeeze.safetensors"
    state = {k: v for k, v in net.state_dict().items() if k.startswith("features.")}
    safetensors.torch.save_file(state, path)
    return path, net.eval()


def test_squeezenet_is_the_pooled_last_map_of_imagenet_pictures(trunk, astronaut, face):
    path, net = trunk
    features = squeezenet(path)
    batch = torch.stack([face_crop(astronaut, face), face_crop(astronaut[:, ::-1], face)])
    found = sample(features, batch)
    assert (found.features, found.values.shape) == ("squeezenet", (2, 512))
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = ((batch + 1) / 2 - mean) / std
    with torch.no_grad():
        expected = net.features(x).mean((2, 3))
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)


def test_files_of_other_networks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "alex.safetensors"
    safetensors.torch.save_file(Lpips("alex").state_dict(), path)
    with pytest.raises(WeightsError, match=r"not SqueezeNet 1\.1"):
        squeezenet(path)
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "empty"))
    with pytest.raises(WeightsError, match="lpips_squeeze_backbone"):
        squeezenet()


def test_features_by_name(trunk, astronaut, face):
    path, _ = trunk
    models = Models()
    assert features_of(f"squeezenet:{path}", models).name == "squeezenet"
    identity = features_of("embedding:facedeid-mobile", models)
    assert identity.name == "embedding:facedeid-mobile"
    picture = identity.picture(astronaut, face)
    assert picture.shape == (3, 256, 256)
    found = sample(identity, [picture])
    expected = models.recognizer("facedeid-mobile").embed(picture[None])
    np.testing.assert_allclose(found.values, expected.detach(), atol=1e-6)
    for name in ("inception", "embedding", "onnx:", "embedding:nobody"):
        with pytest.raises(OptionError):
            features_of(name, models)


def test_two_features_of_one_name_are_refused(trunk, tmp_path):
    path, _ = trunk
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes())
    names = [f"squeezenet:{path}", "embedding:dlib", f"squeezenet:{path}"]
    assert list(loaded(names, Models())) == names[:2]
    with pytest.raises(OptionError, match="two features are called squeezenet"):
        loaded([*names, f"squeezenet:{other}"], Models())


def test_features_are_kept_by_the_weights(trunk, tmp_path):
    copy, models = tmp_path / "copy.safetensors", Models()
    copy.write_bytes(trunk[0].read_bytes())
    before = _weights(f"squeezenet:{copy}", models)
    net = Lpips("squeeze")
    safetensors.torch.save_file(dict(net.state_dict()), copy)
    assert _weights(f"squeezenet:{copy}", models) != before
    dlib, mobile = (_weights(f"embedding:{n}", models) for n in ("dlib", "facedeid-mobile"))
    assert dlib != mobile


def test_lpips_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "store"))
    with pytest.raises(WeightsError, match="lpips_alex_backbone is not in"):
        load_lpips([Path("store")], Models())
    parts = {"lpips_alex_backbone": {}, "lpips_alex_heads": {}}
    for key, value in Lpips("alex").state_dict().items():
        parts["lpips_alex_backbone" if "features" in key else "lpips_alex_heads"][key] = value
    for name, state in parts.items():
        safetensors.torch.save_file(state, tmp_path / name)
    monkeypatch.setattr("facedeid.evaluation.quality.locate", lambda name: tmp_path / name)
    found = load_lpips([Path("store")], Models())
    assert found.net.kind == "alex"
    assert found.digest == load_lpips([tmp_path / name for name in parts], Models()).digest


def test_an_onnx_network_gives_features(tmp_path, astronaut, face):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 3, stride=2)

        def forward(self, x):
            return self.conv(x).relu().mean((2, 3))

    net, path = Pooled().eval(), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, 64, 64),),
            str(path),
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    features = features_of(f"onnx:{path}?size=64&mean=128&std=128", Models())
    assert features.name == "onnx:net.onnx?size=64&mean=128&std=128"
    pictures = [features.picture(astronaut, face)] * 2
    assert pictures[0].shape == (3, 224, 224)
    found = sample(features, pictures)
    small = torch.nn.functional.interpolate(
        torch.stack(pictures), (64, 64), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = net(((small + 1) * 127.5 - 128) / 128)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


@pytest.fixture(scope="module")
def crops(astronaut, hopper):
    """Places in two photos: half of them shown, the others the reference."""
    random = np.random.default_rng(0)
    found = []
    for photo in (astronaut, hopper):
        for x, y in random.uniform(150, 300, (40, 2)):
            place = Face((x - 40, y - 40, x + 40, y + 40), np.zeros((68, 2)), 1, "given", "given")
            found.append(face_crop(photo, place, 64))
    return found


def texture(batch):
    """Means and sizes of differences: what blur and blocks change."""
    across = (batch[..., 1:] - batch[..., :-1]).abs().mean((2, 3))
    return torch.cat([batch.mean((2, 3)), 10 * across], 1)


def test_reference_rows_are_of_the_same_faces_and_reference(crops):
    features = Features("texture", texture)
    reference = sample(features, crops[::2])
    found = reference_rows(features, iter(crops[1::2]), reference)
    assert list(found) == list(REFERENCES) == ["untouched", "jpeg-20", "blur-2"]
    assert found["untouched"] == realism(sample(features, crops[1::2]), reference)
    assert found["untouched"].frechet < found["jpeg-20"].frechet < found["blur-2"].frechet
    assert found["untouched"].kid.mean < found["blur-2"].kid.mean
    assert {(row.n, row.reference_n) for row in found.values()} == {(40, 40)}
    with pytest.raises(OptionError, match="no picture"):
        reference_rows(features, [], reference)


def test_degraded_crops_are_what_their_names_say(crops):
    batch = torch.stack(crops[:3])
    blurred = REFERENCES["blur-2"](batch)
    weights = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    kernel = torch.from_numpy(np.outer(weights, weights) / weights.sum() ** 2).float()
    expected = torch.nn.functional.conv2d(batch, kernel.expand(3, 1, 17, 17), groups=3)
    torch.testing.assert_close(blurred[..., 8:-8, 8:-8], expected, atol=5e-3, rtol=0)
    packed = REFERENCES["jpeg-20"](batch)
    assert 0.01 < (packed - batch).abs().mean() < 0.15
    assert packed.dtype == batch.dtype
    assert batch is REFERENCES["untouched"](batch)


def test_pictures_are_read_in_batches(monkeypatch, crops):
    seen = []

    def watched(batch):
        seen.append(len(batch))
        return texture(batch)

    monkeypatch.setattr(module, "BATCH", 3)
    found = sample(Features("texture", watched), iter(crops[:7]))
    assert seen == [3, 3, 1]
    np.testing.assert_allclose(found.values, texture(torch.stack(crops[:7])), rtol=1e-5)
    with pytest.raises(OptionError, match="no picture"):
        sample(Features("texture", texture), [])
