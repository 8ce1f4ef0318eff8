"""Every recogniser by its name, with random weights; ONNX files by path; who judges by default."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from facedeid import weights
from facedeid._cli_models import app
from facedeid.checkpoints import import_checkpoint
from facedeid.errors import OptionError, WeightsError
from facedeid.landmarks import MEAN_FACE
from facedeid.models import (
    ARCFACE_CROP,
    FACENET_CROP,
    PSP_CROP,
    RECOGNIZERS,
    Models,
    recognizer_name,
)
from facedeid.models.onnx import OnnxRuntime
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.nets.curricularface import CurricularFace
from facedeid.nets.inception_resnet import InceptionResnetV1
from facedeid.nets.iresnet import iresnet
from facedeid.nets.irse import IrSe
from facedeid.nets.mobilefacenet import MobileFaceNet
from facedeid.nets.onnx_graph import OnnxGraph

Array = NDArray[np.uint8]
POINTS = MEAN_FACE * 175 + (137.6, 20)
"""About where the astronaut's face is."""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store in which any content counts as the published one."""
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    free = {name: replace(known, sha256=None) for name, known in weights.CHECKPOINTS.items()}
    monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", free)
    return tmp_path / "store"


def put(checkpoint: str, net: nn.Module, folder: Path, inside: str | None = None) -> None:
    """Import a network's weights as the published file would be."""
    state: dict[str, object] = dict(net.state_dict())
    torch.save(state if inside is None else {inside: state, "epoch": 1}, folder / "published")
    import_checkpoint(checkpoint, folder / "published")
    (folder / "published").unlink()


def arcface(chips: Tensor) -> Tensor:
    return (chips / 255 - 0.5) / 0.5


def older(chips: Tensor) -> Tensor:
    return (chips - 127.5) / 128


CASES: dict[
    str,
    tuple[str, Callable[[], nn.Module], str | None, Callable[[Tensor], Tensor], tuple[int, int]],
] = {
    "mobilefacenet-casia": (
        "mobilefacenet_casia",
        MobileFaceNet,
        "net_state_dict",
        older,
        (112, 96),
    ),
    "ir-se50": ("ir_se50", IrSe, None, arcface, (112, 112)),
    "iresnet-50": (
        "arcface_torch_r50",
        lambda: iresnet(50),
        "state_dict_backbone",
        arcface,
        (112, 112),
    ),
    "iresnet-100": ("arcface_torch_r100", lambda: iresnet(100), None, arcface, (112, 112)),
    "curricularface": ("curricularface", CurricularFace, None, arcface, (112, 112)),
    "facenet-vggface2": ("facenet_vggface2", InceptionResnetV1, None, older, (160, 160)),
    "facenet-casia": ("facenet_casia", InceptionResnetV1, None, older, (160, 160)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_the_store_becomes_a_recogniser(
    name: str, tmp_path: Path, astronaut: Array
) -> None:
    checkpoint, make, inside, prepared, size = CASES[name]
    torch.manual_seed(3)
    net = make().eval()
    assert not RECOGNIZERS[name].available()
    put(checkpoint, net, tmp_path, inside)
    assert RECOGNIZERS[name].available()
    recognizer = Models().recognizer(name)
    assert recognizer.differentiable

    chips = torch.rand(1, 3, *size) * 255
    with torch.no_grad():
        wanted = F.normalize(net(prepared(chips)))
    torch.testing.assert_close(recognizer.embed_chips(chips), wanted, rtol=1e-3, atol=1e-4)

    cut = recognizer.spec.crop.chips_from_photo(astronaut, [POINTS])
    assert cut.shape[2:] == size
    outer = recognizer.embed_photo(astronaut, [POINTS])
    assert outer.shape == (1, recognizer.spec.dim)
    assert recognizer.embed_photo(astronaut, []).shape == (0, recognizer.spec.dim)
    torch.testing.assert_close(outer.norm(dim=1), torch.ones(1))

    face = (torch.rand(1, 3, 256, 256) * 2 - 1).requires_grad_()
    recognizer.embed(face)[0, 0].backward()
    assert face.grad is not None
    assert torch.isfinite(face.grad).all()
    assert face.grad[:, :, 100:160, 100:160].abs().max() > 0


def test_facenet_files_may_carry_their_classifier(tmp_path: Path) -> None:
    net = InceptionResnetV1()
    net.add_module("logits", nn.Linear(512, 8_631))  # of VGGFace2
    with pytest.raises(WeightsError, match=r"logits\.weight is 8631×512 instead of 10575×512"):
        put("facenet_casia", net, tmp_path)
    assert weights.status("facenet_casia").sha256 is None  # the right file still fits
    net.logits = nn.Linear(512, 10_575)
    put("facenet_casia", net, tmp_path)
    assert Models().recognizer("facenet-casia").threshold() == 1.1


def test_a_psp_file_without_the_mean_that_its_codes_start_from(tmp_path: Path) -> None:
    options = argparse.Namespace(output_size=1024, start_from_latent_avg=True)
    state = {
        "encoder.styles.17.linear.weight": torch.zeros(512, 512),
        "decoder.convs.15.conv.weight": torch.zeros(1, 32, 32, 3, 3),
    }
    held = {"state_dict": state, "opts": options}
    torch.save(held, tmp_path / "published")
    import_checkpoint("psp_ffhq_encode", tmp_path / "published")
    with pytest.raises(WeightsError, match="has no latent_avg"):
        Models().pair("psp")


def test_the_network_of_another_depth_is_not_taken(tmp_path: Path) -> None:
    for checkpoint, blocks in (("arcface_torch_r50", 30), ("arcface_torch_r100", 14)):
        names = (f"layer3.{i}.conv2.weight" for i in range(12, blocks))
        state = dict.fromkeys(names, torch.zeros(256, 256, 3, 3))
        torch.save({"state_dict_backbone": state}, tmp_path / "published")
        with pytest.raises(WeightsError, match=rf"is not {checkpoint}: its tensor layer3\."):
            import_checkpoint(checkpoint, tmp_path / "published")
        assert weights.status(checkpoint).state == "missing"


@pytest.mark.parametrize("name", [n for n in RECOGNIZERS if n not in ("dlib", "facedeid-mobile")])
def test_missing_weights_are_named_at_once(name: str) -> None:
    with pytest.raises(WeightsError, match=r"is not in .*run: facedeid models import \w+ FILE"):
        Models().recognizer(name)


def test_homes_of_nobody() -> None:
    with pytest.raises(OptionError, match=r"~nosuchuser/x\.onnx: there is no home folder"):
        Models().recognizer("onnx:~nosuchuser/x.onnx")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    put("ir_se50", MobileFaceNet(), tmp_path)
    with pytest.raises(WeightsError, match="do not fit IrSe"):
        Models().recognizer("ir-se50").embed_chips(torch.zeros(1, 3, 112, 112))


def test_who_judges_by_default_does_not_depend_on_the_store(tmp_path: Path) -> None:
    before = [r.name for r in Models().recognizers()]
    assert before[0] == "dlib"
    assert set(before) <= {"dlib", "facedeid-mobile"}
    put("mobilefacenet_casia", MobileFaceNet(), tmp_path)
    assert [r.name for r in Models().recognizers()] == before
    named = Models().recognizers(["mobilefacenet-casia", "dlib"])
    assert [r.name for r in named] == ["mobilefacenet-casia", "dlib"]


def test_the_shipped_recogniser_describes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, astronaut: Array
) -> None:
    from facedeid.models import registry

    net = CompactFaceNet(64, stem=16, widths=(16, 24), depths=(1, 1)).eval()
    facts = {"dim": 64, "stem": 16, "widths": [16, 24], "depths": [1, 1], "threshold_best": 0.71}
    (tmp_path / "data").mkdir()
    save_file(
        {k: v.half() for k, v in net.state_dict().items() if v.is_floating_point()},
        tmp_path / "data" / "facedeid-mobile.safetensors",
        {"facedeid": json.dumps(facts), "threshold_far1e-3": "0.6", "protocol": "measured"},
    )
    monkeypatch.setattr(registry, "files", lambda package: tmp_path)
    monkeypatch.setattr(weights, "shipped", lambda name: tmp_path / "data" / name)
    monkeypatch.setattr(weights, "shipped_names", lambda: ("facedeid-mobile.safetensors",))
    spec = registry._mobile()
    assert spec.available()
    assert spec.thresholds == {"library": 0.71, "best": 0.71, "far=1e-3": 0.6}
    assert (spec.dim, spec.protocol) == (64, "measured")
    monkeypatch.setattr(
        "facedeid.models.naming.RECOGNIZERS", {**RECOGNIZERS, "facedeid-mobile": spec}
    )
    found = Models().recognizer("facedeid-mobile")
    chips = torch.rand(2, 3, 112, 112) * 255
    with torch.no_grad():
        wanted = net(chips / 127.5 - 1)
    torch.testing.assert_close(found.embed_chips(chips), wanted, rtol=0, atol=2e-2)
    assert found.distance(found.embed_chips(chips[:1]), wanted[:1]).item() < 1e-3


def test_psp_sees_a_fixed_part_of_the_canonical_face(tmp_path: Path, astronaut: Array) -> None:
    put("ir_se50", IrSe(), tmp_path)
    models = Models()
    psp = models.recognizer("ir-se50?crop=psp")
    assert psp.name == models.recognizer("ir-se50").name
    face = torch.rand(1, 3, 256, 256) * 2 - 1
    chips = PSP_CROP.chips(face, torch.rand(1, 68, 2))
    wanted = F.adaptive_avg_pool2d(face[:, :, 35:223, 32:220], 112)
    torch.testing.assert_close(chips, wanted)
    large = F.interpolate(face, (512, 512))  # each pixel four times
    torch.testing.assert_close(PSP_CROP.chips(large), wanted)
    # smooth pictures: the photo's own crop is the same place
    smooth = F.avg_pool2d(torch.rand(1, 3, 264, 264), 9, 1) * 255
    photo = smooth[0].round().byte().permute(1, 2, 0).numpy()
    inner = PSP_CROP.chips(torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1)
    outer = PSP_CROP.chips_from_photo(photo, [MEAN_FACE * 256])
    assert ((inner + 1) * 127.5 - outer).abs().mean() < 1.5
    with pytest.raises(OptionError, match="not of the size that ir-se50 takes"):
        models.recognizer("ir-se50?crop=facenet")


def test_facenet_faces_are_squeezed_into_a_square() -> None:
    (matrix,) = FACENET_CROP.matrices(MEAN_FACE[None] * 256)
    eyes = [MEAN_FACE[36:42].mean(0) * 256, MEAN_FACE[42:48].mean(0) * 256]
    left, right = (matrix[:, :2] @ eye + matrix[:, 2] for eye in eyes)
    assert left + right == pytest.approx([159, 2 * 62.2], abs=6)
    assert np.linalg.norm(matrix[0]) != pytest.approx(np.linalg.norm(matrix[1]))
    assert matrix[0, 0] / matrix[1, 1] == pytest.approx(1.339)


# ONNX files


def normal(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def onnx_file(
    path: Path, shape: tuple[int | str, ...], *, odd: bool = False, pooled: bool = True
) -> Path:
    """Convolution, ReLU (or a sine, which has no differentiable counterpart here), pool, Gemm.

    Without the pool, only 9×9 pictures fit.
    """
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[4, 4]),
        helper.make_node("Sin" if odd else "Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool" if pooled else "Identity", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "g"], ["y"]),
    ]
    constants = {"w": normal(6, 3, 5, 5, seed=0), "g": normal(6 if pooled else 24, 9, seed=1)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def by_hand(x: Tensor) -> Tensor:
    x = F.conv2d(x, torch.from_numpy(normal(6, 3, 5, 5, seed=0)), stride=4)
    return F.relu(x).mean((2, 3)) @ torch.from_numpy(normal(6, 9, seed=1))


@pytest.mark.parametrize("backend", ["auto", "torch", "onnxruntime"])
def test_an_onnx_file_is_a_recogniser(tmp_path: Path, astronaut: Array, backend: str) -> None:
    path = onnx_file(tmp_path / "net.onnx", ("N", 3, 112, 112))
    models = Models()
    found = models.recognizer(f"onnx:{path}?mean=100&std=50&layout=bgr&backend={backend}")
    assert (found.name, found.spec.dim, found.spec.metric) == ("onnx:net.onnx", 9, "cosine")
    assert found.spec.crop == ARCFACE_CROP
    chips = found.spec.crop.chips_from_photo(astronaut, [POINTS, POINTS + 3])
    wanted = F.normalize(by_hand((chips.flip(1) - 100) / 50))
    got = found.embed_photo(astronaut, [POINTS, POINTS + 3])
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert found.differentiable == (backend != "onnxruntime")
    assert isinstance(found.net, OnnxGraph if found.differentiable else OnnxRuntime)

    face = (torch.rand(1, 3, 256, 256) * 2 - 1).requires_grad_()
    if found.differentiable:
        found.embed(face)[0, 0].backward()
        assert face.grad is not None
        assert face.grad.abs().max() > 0
    else:
        with pytest.raises(OptionError, match="no gradients: backend=onnxruntime was asked for"):
            found.embed(face)
        assert found.embed(face.detach()).shape == (1, 9)


def test_what_torch_cannot_run_is_evaluated_by_onnxruntime(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx", (1, 3, 112, 96), odd=True)  # one face at a time
    found = Models().recognizer(f"onnx:{path}")
    assert not found.differentiable
    assert found.spec.crop.columns == (8, 104)
    chips = torch.rand(3, 3, 112, 96) * 255
    together = found.embed_chips(chips)
    alone = torch.cat([found.embed_chips(chip[None]) for chip in chips])
    torch.testing.assert_close(together, alone)
    with pytest.raises(OptionError, match=r"no gradients: .*Sin"):
        found.embed((torch.rand(1, 3, 256, 256)).requires_grad_())
    with pytest.raises(OptionError, match="Sin"):
        Models().recognizer(f"onnx:{path}?backend=torch")


def test_options_of_onnx_files(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx", ("N", 3, "H", "W"))
    models = Models()
    small = models.recognizer(f"onnx:{path}?size=56&metric=euclidean&threshold=3.5")
    assert small.spec.crop.size == 56
    middle = np.array(small.spec.crop.template) * 2
    np.testing.assert_allclose(middle, ARCFACE_CROP.template)
    chips = torch.rand(1, 3, 56, 56) * 255
    torch.testing.assert_close(
        small.embed_chips(chips), by_hand((chips - 127.5) / 127.5), rtol=1e-3, atol=1e-4
    )
    assert small.threshold("far=1e-3") == small.threshold() == 3.5
    assert small.spec.protocol == "given by the user"
    facenet = models.recognizer(f"onnx:{path}?crop=facenet")
    assert facenet.spec.crop == FACENET_CROP
    with pytest.raises(OptionError, match=r"none is known.*'onnx:net.onnx\?threshold=0.7'"):
        facenet.threshold()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("mean=", "mean=: a number is wanted"),
        ("std=0", "divided by it"),
        ("std=nan", "a number is wanted"),
        ("layout=grb", "layout=grb: use rgb, bgr"),
        ("metric=l1", "use cosine, euclidean"),
        ("backend=cuda", "use auto, torch, onnxruntime"),
        ("crop=tight", "crop=tight: use arcface"),
        ("crop=psp&size=200", "is of 112×112"),
        ("size=4", "use 8 to 2048"),
        ("size=112.5", "size=112.5: a whole number is wanted"),
        ("threshold=-1", "larger than 0"),
        ("treshold=1", "'treshold' is no option; there are: threshold"),
        ("threshold", "'threshold' is no option"),
    ],
)
def test_wrong_options_of_onnx_files(tmp_path: Path, options: str, message: str) -> None:
    path = onnx_file(tmp_path / "net.onnx", ("N", 3, "H", "W"))
    with pytest.raises(OptionError, match=message):
        Models().recognizer(f"onnx:{path}?{options}")


def test_files_that_are_no_recognisers(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no file"):
        Models().recognizer(f"onnx:{tmp_path / 'none.onnx'}")
    (tmp_path / "bad.onnx").write_bytes(b"no network" * 100)
    with pytest.raises(OptionError, match=r"bad\.onnx"):
        Models().recognizer(f"onnx:{tmp_path / 'bad.onnx'}")
    path = onnx_file(tmp_path / "net.onnx", ("N", 3, 60, 60))
    with pytest.raises(OptionError, match="takes N×3×60×60"):
        Models().recognizer(f"onnx:{path}?size=112")
    fixed = onnx_file(tmp_path / "fixed.onnx", ("N", 3, "H", "W"), pooled=False)
    assert Models().recognizer(f"onnx:{fixed}?size=9").spec.dim == 9
    with pytest.raises(OptionError, match=r"does not take pictures of 112×112, .* size="):
        Models().recognizer(f"onnx:{fixed}")
    wide = onnx_file(tmp_path / "wide.onnx", ("N", 3, 60, 80))
    with pytest.raises(OptionError, match="wider than high"):
        Models().recognizer(f"onnx:{wide}")
    usual = onnx_file(tmp_path / "usual.onnx", ("N", 3, 112, 112))
    with pytest.raises(OptionError, match=r"size=100: .* takes pictures of 112×112, leave"):
        Models().recognizer(f"onnx:{usual}?size=100")


def test_what_torch_fails_on_is_evaluated_by_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = onnx_file(tmp_path / "net.onnx", ("N", 3, 112, 112))

    def fail(self: OnnxGraph, x: Tensor) -> Tensor:
        raise TypeError("of another kind")

    monkeypatch.setattr(OnnxGraph, "_run", fail)
    found = Models().recognizer(f"onnx:{path}")
    assert isinstance(found.net, OnnxRuntime)
    with pytest.raises(OptionError, match=r"no gradients: .*of another kind"):
        found.embed((torch.rand(1, 3, 256, 256)).requires_grad_())
    with pytest.raises(OptionError, match="of another kind"):
        Models().recognizer(f"onnx:{path}?backend=torch")


def test_a_threshold_may_be_given_with_any_name() -> None:
    models = Models()
    strict = models.recognizer("dlib?threshold=0.7")
    assert (strict.name, strict.threshold(), strict.threshold("best")) == ("dlib", 0.7, 0.7)
    assert models.recognizer("dlib").threshold() == 0.6
    with pytest.raises(OptionError, match="'mean' is no option; there are: threshold, crop"):
        models.recognizer("dlib?mean=0")


def test_no_operating_point_is_made_up(tmp_path: Path) -> None:
    assert dict(RECOGNIZERS["ir-se50"].thresholds) == {}
    assert dict(RECOGNIZERS["curricularface"].thresholds) == {"mean-impostor": 0.81}
    for spec in RECOGNIZERS.values():
        assert spec.protocol
        assert spec.licence
        if "best" in spec.thresholds and "far=1e-3" in spec.thresholds:
            assert 0 < spec.thresholds["far=1e-3"] < spec.thresholds["best"] < 2


def test_names_say_neither_folders_nor_options() -> None:
    assert recognizer_name("onnx:/home/me/net.onnx?size=112") == "onnx:net.onnx"
    assert recognizer_name("ir-se50?crop=psp") == "ir-se50"


def test_the_list_shows_what_is_built_in_and_what_is_here(tmp_path: Path) -> None:
    put("mobilefacenet_casia", MobileFaceNet(), tmp_path)
    output = CliRunner().invoke(app, ["list"]).output
    lines = {line.split()[0]: line for line in output.splitlines() if line.strip()}
    assert "built in" in lines["dlib"]
    assert " here " in lines["mobilefacenet_casia"]
    assert " here " not in lines["ir_se50"]
