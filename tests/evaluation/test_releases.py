import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from facedeid import inversion, registration
from facedeid.errors import PhotoError
from facedeid.evaluation import fingerprints
from facedeid.evaluation import views as module
from facedeid.evaluation.datasets import load
from facedeid.evaluation.fingerprints import is_white_box, method_digest, recognizer_digest
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.releases import Altered, Releases, text_of
from facedeid.evaluation.views import Untouched
from facedeid.faces import Pasted, align, frame, native_size, paste
from facedeid.methods import Method, fsap, parse, retouching
from facedeid.models import Models
from facedeid.models.registry import RECOGNIZERS
from facedeid.random import stream
from facedeid.weights import CHECKPOINTS, sha256_of


@pytest.fixture
def made(known, models, tmp_path):
    """Releases of a method on the shared photos, with their own cache."""
    dataset, originals = known

    def of(text, *, seed=0, folder="releases"):
        return Releases(dataset, originals, parse(text), models, tmp_path / folder, seed=seed)

    return of


def calls(monkeypatch):
    """How many faces each call of a method gets."""
    sizes = []
    usual = Method.__call__

    def counted(self, faces, models, **rest):
        sizes.append(len(faces))
        return usual(self, faces, models, **rest)

    monkeypatch.setattr(Method, "__call__", counted)
    return sizes


def alone(dataset, face, key, method, models, draw):
    """The same by hand, one face at a time."""
    rgb = dataset.read(key)
    place = frame(face, method.frame or native_size(face))
    before = align(rgb, place)
    points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
    random = [stream(0, key, draw)]
    after = method(before[None], models, random=random, landmarks=points).faces[0]
    item = Pasted(
        face=face, frame=place, before=before, after=after, carry=method.carry, region=method.region
    )
    return paste(rgb, [item])[0]


@pytest.mark.parametrize("text", ["noise:sigma=30", "mask:shape=box"])
def test_a_release_is_the_photo_with_its_face_changed(known, models, made, text, monkeypatch):
    dataset, originals = known
    releases = made(text)
    sizes = calls(monkeypatch)
    releases.prepare(dataset.keys, draw=3)
    assert max(sizes) > 1  # batches
    assert sum(sizes) == len(dataset.keys)
    for key in dataset.keys[::3]:
        wanted = alone(dataset, originals.face(key), key, parse(text), models, 3)
        np.testing.assert_array_equal(releases.photo(key, draw=3), wanted)
        assert releases.photo(key, draw=3).shape == dataset.read(key).shape


def test_draws_and_seeds_are_different_releases(known, made):
    key = known[0].keys[0]
    first = made("noise")
    assert not np.array_equal(first.photo(key), first.photo(key, draw=1))
    np.testing.assert_array_equal(made("noise", folder="elsewhere").photo(key), first.photo(key))
    assert not np.array_equal(made("noise", seed=1).photo(key), first.photo(key))


def test_what_was_made_is_kept(known, made, monkeypatch):
    dataset, _ = known
    made("noise").prepare(dataset.keys[:3])
    sizes = calls(monkeypatch)
    again = made("noise")
    again.prepare(dataset.keys[:3])
    before = again.photo(dataset.keys[0])
    assert not sizes
    again.prepare(dataset.keys[:5])
    assert sum(sizes) == 2
    for other in (made("noise:sigma=48"), made("noise", seed=2)):
        assert not np.array_equal(other.photo(dataset.keys[0]), before)
    assert sum(sizes) == 4
    assert again.told(dataset.keys[0])["seconds"] > 0


@pytest.mark.parametrize("damage", [b"", "cut", "flip"])
def test_a_damaged_release_is_made_again(known, made, damage):
    key = known[0].keys[0]
    releases = made("noise")
    wanted = releases.photo(key)
    (path,) = releases.folder.rglob("*.png")
    whole = path.read_bytes()
    if damage == "cut":
        damage = whole[: len(whole) // 2]
    elif damage == "flip":
        middle = len(whole) // 2
        damage = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes(damage)
    np.testing.assert_array_equal(made("noise").photo(key), wanted)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), wanted)


def test_a_large_release_is_read_again(known, made, monkeypatch):
    key = known[0].keys[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's, beyond which it refuses
    wanted = made("noise").photo(key)
    sizes = calls(monkeypatch)
    np.testing.assert_array_equal(made("noise").photo(key), wanted)
    assert not sizes


def test_a_long_name_is_no_obstacle(lfw_made, models, tmp_path):
    keys = ["x" * 251 + ".jpg", "x" * 250 + "y.jpg", "é" * 125 + ".jpg"]
    (tmp_path / "photos").mkdir()
    for key, number in zip(keys, (1, 2, 3), strict=True):
        shutil.copy(lfw_made / "Ann_A" / f"Ann_A_000{number}.jpg", tmp_path / "photos" / key)
    dataset = load(f"photos:{tmp_path / 'photos'}")
    assert set(dataset.keys) == set(keys)
    originals = Originals(dataset, models, tmp_path / "cache")
    made = [
        Releases(dataset, originals, parse("noise:sigma=5"), models, tmp_path / "cache")
        for _ in range(2)
    ]
    for key in keys:
        off = np.abs(made[0].photo(key).astype(int) - dataset.read(key)).mean()
        assert 0 < off < 5
    assert all(made[1].told(key) for key in keys)


def test_few_photos_are_held_in_memory(known, made):
    releases = made("noise")
    for key in known[0].keys:
        releases.photo(key)
    assert len(releases._recent) == 1
    assert releases.photo(known[0].keys[-1]) is releases.photo(known[0].keys[-1])


def test_another_original_gets_another_release(lfw, models, tmp_path):
    key = "Ann_A/Ann_A_0001.jpg"

    def released():
        dataset = load(f"lfw:{lfw}")
        originals = Originals(dataset, models, tmp_path / "cache")
        return Releases(dataset, originals, parse("mask"), models, tmp_path / "cache").photo(key)

    before = released()
    darker = np.asarray(Image.open(lfw / key)) // 2
    Image.fromarray(darker).save(lfw / key, quality=95)
    assert released().mean() < 0.7 * before.mean()


def test_faces_are_searched_afresh_and_only_once(known, models, made, monkeypatch):
    dataset, originals = known
    key = dataset.keys[0]
    light, heavy = made("noise:sigma=3"), made("mask:shape=box")
    off = np.linalg.norm(light.again(key).landmarks - originals.face(key).landmarks, axis=1)
    assert 0 < off.mean() < 5
    assert heavy.again(key) is None
    np.testing.assert_array_equal(light.look([key, key]), [True, True])
    np.testing.assert_array_equal(heavy.look([key]), [False])

    def fail(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(module, "find_again", fail)
    np.testing.assert_array_equal(made("mask:shape=box").look([key]), [False])
    face = made("noise:sigma=3").again(key)
    np.testing.assert_array_equal(face.landmarks, light.again(key).landmarks)
    with pytest.raises(AssertionError, match="searched again"):
        heavy.again(dataset.keys[1])


def test_embeddings_under_both_alignments(known, models, made):
    dataset, originals = known
    keys = [dataset.keys[i] for i in (4, 1, 4)]
    mobile = models.recognizer("facedeid-mobile")
    masked = made("mask:shape=box")
    fresh, seen = masked.embeddings(mobile, keys, "fresh")
    assert not seen.any()
    assert fresh.isnan().all()
    placed, seen = masked.embeddings(mobile, keys, "original")
    assert seen.all()
    by_hand = mobile.embed_photo(masked.photo(keys[1]), [originals.face(keys[1]).landmarks])
    torch.testing.assert_close(placed[1:2], by_hand, atol=1e-4, rtol=0)
    torch.testing.assert_close(placed[0], placed[2], atol=0, rtol=0)
    light = made("noise:sigma=3")
    fresh, seen = light.embeddings(mobile, keys, "fresh")
    assert seen.all()
    by_hand = mobile.embed_photo(light.photo(keys[0]), [light.again(keys[0]).landmarks])
    torch.testing.assert_close(fresh[:1], by_hand, atol=1e-4, rtol=0)


def test_without_a_face_there_is_no_release(lfw, models, tmp_path):
    key = "Ann_A/Ann_A_0001.jpg"
    Image.new("RGB", (250, 250), "teal").save(lfw / key)
    dataset = load(f"people:{lfw}")
    originals = Originals(dataset, models, tmp_path)
    releases = Releases(dataset, originals, parse("mask"), models, tmp_path)
    releases.prepare(dataset.keys[:2])
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert releases.again(key) is None
    with pytest.raises(PhotoError, match="no face"):
        releases.photo(key)


def test_an_operation_moves_the_landmarks_along(known, models, made):
    dataset, originals = known
    key = dataset.keys[0]
    releases = made("noise:sigma=3")
    cropped = Altered(releases, "crop-0.9")
    assert cropped.photo(key).shape == releases.photo(key).shape
    moved, before = cropped.place(key).landmarks, originals.face(key).landmarks
    assert np.linalg.norm(moved - before, axis=1).max() > 4
    off = np.linalg.norm(cropped.again(key).landmarks - moved, axis=1).mean()
    assert off < 3
    mobile = models.recognizer("facedeid-mobile")
    own = originals.embeddings(mobile, [key])
    distances = []
    for views in (cropped, Altered(releases, "jpeg-10"), releases):
        found, seen = views.embeddings(mobile, [key], "original")
        assert seen.all()
        distances.append(float(mobile.distance(own, found)))
    assert distances[0] < 0.2  # aligned where the face is now
    assert len(set(distances)) == 3  # nobody takes another's embeddings


def test_untouched_photos_are_read_alike(known, models, tmp_path):
    dataset, originals = known
    views = Untouched(dataset, originals, tmp_path)
    key = dataset.keys[0]
    np.testing.assert_array_equal(views.photo(key), dataset.read(key))
    assert views.look([key]).all()
    dlib = models.recognizer("dlib")
    found, _ = views.embeddings(dlib, [key], "original")
    torch.testing.assert_close(found, originals.embeddings(dlib, [key]), atol=1e-4, rtol=0)
    assert not views.white_box(dlib)


def test_a_method_knows_its_surrogates(known, models, tmp_path, monkeypatch):
    releases = Releases(*known, parse("mask"), models, tmp_path)
    monkeypatch.setattr(type(releases.method), "surrogates", ("dlib?threshold=0.5",))
    assert releases.white_box(models.recognizer("dlib"))
    assert not releases.white_box(models.recognizer("facedeid-mobile"))


def network_file(path, activation="Relu", dim=4):
    """A little ONNX recogniser: convolution, activation, mean."""
    weight = np.random.default_rng(0).standard_normal((dim, 3, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[8, 8]),
        helper.make_node(activation, ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["y"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 112, 112))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_a_method_knows_a_surrogate_by_another_name(models, tmp_path):
    one, other = network_file(tmp_path / "one.onnx"), network_file(tmp_path / "b.onnx", "Sigmoid")
    copied = shutil.copy(one, tmp_path / "copied.onnx")
    judge = models.recognizer
    for query in ("", "?mean=0&std=1", "?backend=onnxruntime", "?crop=psp"):
        method = parse(f'lgc:recognizers=["onnx:{one}"]')
        assert is_white_box(method, judge(f"onnx:{copied}{query}"), models)
        assert not is_white_box(method, judge(f"onnx:{other}{query}"), models)
        method = parse(f'lgc:recognizers=["onnx:{other}"]')
        assert not is_white_box(method, judge(f"onnx:{copied}{query}"), models)
    assert not is_white_box(None, judge(f"onnx:{one}"), models)


def test_a_method_knows_a_surrogate_that_was_converted(models, tmp_path):
    one = network_file(tmp_path / "one.onnx")
    rounded = onnx.load(str(one))
    weight = rounded.graph.initializer[0]
    values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, "w"))
    onnx.save(rounded, str(tmp_path / "rounded.onnx"))
    method = parse(f'lgc:recognizers=["onnx:{one}"]')
    assert is_white_box(method, models.recognizer(f"onnx:{tmp_path}/rounded.onnx"), models)
    weight.CopyFrom(numpy_helper.from_array(values[::-1].copy(), "w"))
    onnx.save(rounded, str(tmp_path / "turned.onnx"))
    assert not is_white_box(method, models.recognizer(f"onnx:{tmp_path}/turned.onnx"), models)


def test_a_public_surrogate_is_known_by_its_file_wherever_it_is(models, tmp_path, monkeypatch):
    path = network_file(tmp_path / "mine.onnx")
    public = replace(CHECKPOINTS["mobileface_v2"], sha256=sha256_of(path))
    monkeypatch.setattr(fingerprints, "CHECKPOINTS", {"mobileface_v2": public})
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "empty"))
    method = parse("mask")
    monkeypatch.setattr(type(method), "surrogates", ("mobileface-v2",))
    assert is_white_box(method, models.recognizer(f"onnx:{path}?mean=0&std=1"), models)
    dim = RECOGNIZERS["mobileface-v2"].dim  # its weights are not there to be asked
    other = network_file(tmp_path / "other.onnx", "Sigmoid", dim)
    assert not is_white_box(method, models.recognizer(f"onnx:{other}"), models)


def test_networks_of_the_same_weights_are_told_apart(models, tmp_path):
    files = [network_file(tmp_path / f"{name}.onnx", name) for name in ("Relu", "Sigmoid")]
    one, other = (recognizer_digest(models.recognizer(f"onnx:{file}")) for file in files)
    assert one != other


def test_releases_depend_on_the_portraits(models, hopper, tmp_path):
    method = parse(f"tip-im:images={tmp_path}")
    Image.fromarray(hopper).save(tmp_path / "a.png")
    before = method_digest(method, models, 0)
    (tmp_path / "README.txt").write_text("no photo")
    assert method_digest(method, models, 0) == before
    Image.fromarray(hopper // 2).save(tmp_path / "a.png")
    assert method_digest(method, models, 0) != before


def test_releases_depend_on_the_file_of_a_surrogate(tmp_path, monkeypatch):
    """`onnx:PATH`: by the weights, wherever they lie; two files of one name are two."""
    spec = Models().recognizer("facedeid-mobile").spec

    def network(text):
        assert text.startswith(f"onnx:{tmp_path}")  # and not without its folder
        net = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.constant_(net.weight, float(Path(text.removeprefix("onnx:")).read_text()))
        return replace(spec, name="onnx:net.onnx", build=lambda: net, available=lambda: True)

    monkeypatch.setattr("facedeid.models.holder.specified", network)
    method = parse(f'lgc:recognizers=["onnx:{tmp_path}/net.onnx"]')
    found = []
    for weight in ("1", "2", "1"):
        (tmp_path / "net.onnx").write_text(weight)
        found.append(method_digest(method, Models(), 0))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        (inversion, [True, True, False, False]),
        (registration, [True, True, False, False]),
        (retouching, [True, True, False, False]),
        (fsap, [True, False, False, False]),
    ],
    ids=lambda m: getattr(m, "__name__", ""),
)
def test_releases_depend_on_what_a_method_is_made_of(models, module, changes, monkeypatch):
    methods = [parse(name) for name in ("fsap", "private-encoder", "lgc", "pixelate")]
    before = [method_digest(method, models, 0) for method in methods]
    usual = fingerprints.code
    monkeypatch.setattr(fingerprints, "code", lambda of: "new" if of is module else usual(of))
    after = [method_digest(method, models, 0) for method in methods]
    assert [a != b for a, b in zip(after, before, strict=True)] == changes


@pytest.mark.parametrize(
    "text", ["pixelate", "blur:sigma=0.05", "mask:shape=box,color=[0, 9, 0]", "down-up:cell=19"]
)
def test_a_method_is_called_as_it_is_asked_for(text):
    assert text_of(parse(text)) == text
    assert parse(text_of(parse(text))) == parse(text)
