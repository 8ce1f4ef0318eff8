import argparse
import builtins
import io
import os
import pickle
import struct
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from facedeid import checkpoints, weights
from facedeid.checkpoints.unpickle import unpickle
from facedeid.errors import UnsafeCheckpointError, WeightsError

STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4).t(), "bn.steps": torch.tensor(3)}
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path, value, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert torch.equal(found[key], value)
        assert found[key].is_contiguous()


@FORMATS
@pytest.mark.parametrize("kind", [argparse.Namespace, dict])
def test_psp(tmp_path, zipped, kind):
    opts = kind(output_size=1024, start_from_latent_avg=True, learning_rate=0.1, exp_dir="/home")
    state = {f"encoder.{key}": value for key, value in STATE.items()}
    average = torch.ones(18, 512)
    held = {"state_dict": state, "latent_avg": average, "opts": opts}
    found = checkpoints.read(save(tmp_path / "psp.pt", held, zipped), "psp")
    same(found.tensors, {**state, "latent_avg": average})
    assert found.options == {"output_size": 1024, "start_from_latent_avg": True}


def test_psp_with_options_that_were_never_set(tmp_path):
    held = {"state_dict": STATE, "opts": argparse.Namespace()}
    assert checkpoints.read(save(tmp_path / "psp.pt", held), "psp").options == {}


@FORMATS
def test_rosinality_training_file(tmp_path, zipped):
    net = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    held = {
        "g": net.state_dict(),
        "g_ema": net.state_dict(),
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(size=256, path="/data", augment=None),
        "ada_aug_p": 0.0,
    }
    path = save(tmp_path / "550000.pt", held, zipped)
    same(checkpoints.convert(path, "rosinality"), net.state_dict())
    held["latent_avg"] = torch.ones(512)
    save(path, held, zipped)
    same(
        checkpoints.convert(path, "rosinality"),
        {**net.state_dict(), "latent_avg": torch.ones(512)},
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"iter": 3, "net_state_dict": state},
        lambda state: {"epoch": 1, "state_dict_backbone": state, "state_dict_softmax_fc": {}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
def test_nested(tmp_path, wrap):
    same(checkpoints.convert(save(tmp_path / "a.ckpt", wrap(STATE)), "nested"), STATE)


@pytest.mark.parametrize(
    ("layout", "held", "message"),
    [
        ("psp", {"latent_avg": torch.ones(2)}, "state_dict is missing"),
        ("psp", {"state_dict": STATE, "opts": 3}, "opts is missing"),
        ("rosinality", {"g": STATE}, "g_ema is missing"),
        ("nested", {"state_dict": {"a": 1}}, "tensors only: a"),
        ("nested", [1, 2], "the file is missing or not a dict"),
        ("nested", {}, "tensors only"),
        ("nested", {"sparse": torch.eye(2).to_sparse()}, "tensors only: sparse"),
        ("nested", {"empty": torch.empty(2, device="meta")}, "tensors only: empty"),
        ("nested", {"bomb": torch.zeros(1).expand(10**13)}, "tensors only: bomb"),
        ("psp", {"state_dict": STATE, "latent_avg": 3}, "tensors only: latent_avg"),
        ("unknown", {}, "there are: nested, nvidia, psp, rosinality"),
    ],
)
def test_another_layout(tmp_path, layout, held, message):
    with pytest.raises(WeightsError, match=message):
        checkpoints.convert(save(tmp_path / "a.pt", held), layout)


# NVIDIA's pickles: networks are rebuilt by a function of their own package, with its source inside


@pytest.fixture
def nvidia(monkeypatch):
    """The names that NVIDIA's pickles use, so that look-alikes can be written."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def rebuild(meta):
        raise AssertionError("the file's own code was called")

    rebuild.__module__, rebuild.__qualname__ = module.__name__, "_reconstruct_persistent_obj"
    rebuild.__name__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = rebuild
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    return rebuild


class Module:
    """Pickles like a persistent object; `source` is code that must never run."""

    def __init__(self, rebuild, kind, source="", **state):
        groups = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": False}
        groups["_non_persistent_buffers_set"] = set()
        self.rebuild = rebuild
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": kind,
            "state": {**groups, **state},
        }

    def __reduce__(self):
        return self.rebuild, (self.meta,)


def network(rebuild, source="", **more):
    layer = Module(
        rebuild,
        "FullyConnectedLayer",
        _parameters={"weight": nn.Parameter(torch.arange(6.0).reshape(2, 3)), "bias": None},
        _buffers={"half": torch.ones(2, 2).half().t(), "gone": torch.ones(1)},
        _non_persistent_buffers_set={"gone"},
        gain=np.float64(0.5),
        dtype=np.dtype("float32"),
    )
    mapping = Module(rebuild, "MappingNetwork", _modules={"fc0": layer}, **more)
    generator = Module(rebuild, "Generator", source, _modules={"mapping": mapping, "empty": None})
    return {"G": None, "G_ema": generator, "training_set_kwargs": {"path": "/data"}}


def dumped(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nvidia(tmp_path, nvidia, protocol):
    path = dumped(tmp_path / "ffhq.pkl", network(nvidia), protocol)
    found = checkpoints.read(path, "nvidia")
    wanted = {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, 2).half()}
    same(found.tensors, {f"mapping.fc0.{key}": value for key, value in wanted.items()})
    assert found.options == {"class": "Generator"}


def test_nvidia_source_code_is_never_run(tmp_path, nvidia):
    canary = tmp_path / "canary"
    source = f"open({str(canary)!r}, 'w').close()"
    checkpoints.convert(dumped(tmp_path / "a.pkl", network(nvidia, source)), "nvidia")
    assert not canary.exists()


def test_nvidia_without_a_generator(tmp_path):
    with pytest.raises(WeightsError, match="G_ema is missing"):
        checkpoints.convert(dumped(tmp_path / "a.pkl", {"D": 1}), "nvidia")


# hostile files: each must be refused, and the canary must not be there afterwards


class Call:
    def __init__(self, function, *args):
        self.how = function, args

    def __reduce__(self):
        return self.how


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def payloads(canary):
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": Call(os.system, f"touch {canary}"),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "open": Call(builtins.open, str(canary), "w"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "load": Call(torch.load, str(canary)),
        "loads": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {canary}"))),
    }


PAYLOADS = pytest.mark.parametrize("name", payloads(""))


@PAYLOADS
@pytest.mark.parametrize("place", ["top", "state", "options", "inside"])
def test_hostile_torch_files(tmp_path, canary, name, place):
    payload = payloads(canary)[name]
    held = {
        "top": payload,
        "state": {"state_dict": {**STATE, "more": payload}},
        "options": {"state_dict": STATE, "opts": argparse.Namespace(size=payload)},
        "inside": {"state_dict": STATE, "latent_avg": [{"deep": (1, {2: payload})}]},
    }[place]
    for zipped in (True, False):
        path = save(tmp_path / "a.pt", held, zipped)
        for layout in ("psp", "rosinality", "nested"):
            with pytest.raises(UnsafeCheckpointError):
                checkpoints.convert(path, layout)
        with pytest.raises(WeightsError):
            checkpoints.convert(path, "nvidia")


@PAYLOADS
def test_a_hostile_pickle_inside_a_torch_archive(tmp_path, canary, name):
    good = save(tmp_path / "good.pt", {"state_dict": STATE})
    with zipfile.ZipFile(good) as read, zipfile.ZipFile(tmp_path / "a.pt", "w") as write:
        for item in read.namelist():
            content = read.read(item)
            if item.endswith("data.pkl"):
                content = pickle.dumps(payloads(canary)[name], protocol=2)
            write.writestr(item, content)
    with pytest.raises(UnsafeCheckpointError, match="was not opened"):
        checkpoints.convert(tmp_path / "a.pt", "psp")


@PAYLOADS
@pytest.mark.parametrize("place", ["top", "attribute", "parameter", "key"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_nvidia_files(tmp_path, canary, nvidia, name, place, protocol):
    payload = payloads(canary)[name]
    held = {
        "top": payload,
        "attribute": network(nvidia, secret=payload),
        "parameter": network(nvidia, _parameters={"w": payload}),
        "key": {**network(nvidia), "more": [payload]},
    }[place]
    with pytest.raises(UnsafeCheckpointError, match="was refused and nothing of it was run"):
        checkpoints.convert(dumped(tmp_path / "a.pkl", held, protocol), "nvidia")


@PAYLOADS
def test_a_hostile_pickle_as_the_data_of_a_tensor(tmp_path, canary, nvidia, name):
    inner = io.BytesIO()
    torch.save(payloads(canary)[name], inner, _use_new_zipfile_serialization=False)
    storage = Call(torch.storage._load_from_bytes, inner.getvalue())
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    held = network(nvidia, _parameters={"w": tensor})
    with pytest.raises(UnsafeCheckpointError, match="not what torch would write"):
        checkpoints.convert(dumped(tmp_path / "a.pkl", held), "nvidia")


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module, name):
    return text(module) + text(name) + b"\x93"  # STACK_GLOBAL


NAMESPACE, ORDERED = named("argparse", "Namespace"), named("collections", "OrderedDict")
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
EMPTY = b"}"
PROGRAMS = {
    "set an attribute of a function": REBUILD + b"}" + text("__doc__") + text("x") + b"sb.",
    "set a slot of a function": REBUILD + b"N}" + text("_which") + text("bytes") + b"s\x86b.",
    "set an attribute of a type": NAMESPACE + b"}" + text("fields") + text("x") + b"sb.",
    "set a slot of a type": ORDERED + b"N}" + text("__setstate__") + text("x") + b"s\x86b.",
    "replace a method": NAMESPACE + b")\x81N}" + text("__setstate__") + text("x") + b"s\x86b.",
    "make an object of a function": REBUILD + b")\x81.",
    "go through a dotted name": named("collections", "OrderedDict.__init__.__globals__") + b".",
    "go through a class": named("argparse", "Namespace.__class__") + b".",
    "reach this module": named("facedeid.checkpoints.unpickle", "unpickle") + b".",
    "reach os": named("os", "system") + text("true") + b"\x85R.",
    "reach os by the old instruction": b"cos\nsystem\n" + text("true") + b"\x85R.",
    "build by class name": b"(" + text("true") + b"ios\nsystem\n.",
    "build an object": b"(cos\nsystem\n" + text("true") + b"o.",
    "an extension": b"\x82\x01.",
    "a persistent identifier": text("x") + b"Q.",
    "call what is no function": EMPTY + b")R.",
    "numbers where bytes belong": named("torch.storage", "_load_from_bytes") + b"K\x05\x85R.",
    "a set of a set": named("builtins", "set") + b"K\x05\x85R.",
    "a module of nothing": named("torch_utils.persistence", "_reconstruct_persistent_obj")
    + b"N\x85R.",
    "a memory bomb by places": b"Nr\xff\xff\xff\x7f.",
    "a memory bomb by length": b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "a memory bomb by bytearray": b"\x96" + struct.pack("<Q", 1 << 60) + b"x.",
    "a memory bomb by text": b"\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "a memory bomb by number": b"\x8b\xff\xff\xff\x7f1.",
    "truncated": b"}X",
    "no end": b"}",
    "an empty stack": b".",
    "nothing": b"",
}


@pytest.mark.parametrize(
    "program",
    [
        b"\x96" + struct.pack("<Q", 1) + b"x.",  # a bytearray
        b"\x8b" + struct.pack("<I", 1) + b"x.",  # a number of any length
        b"(\x91.",  # a frozenset
        b"(K\x01d.",  # a dict by mark
    ],
)
def test_harmless_but_unusual_instructions_are_refused_too(tmp_path, program):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises(UnsafeCheckpointError, match="unusual instruction"):
        unpickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_programs(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + PROGRAMS[name])
    with pytest.raises(UnsafeCheckpointError):
        unpickle(tmp_path / "a.pkl")


def test_a_hostile_program_changes_nothing_for_the_next_file(tmp_path, nvidia):
    for name, program in PROGRAMS.items():
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + program)
        with pytest.raises(UnsafeCheckpointError):
            unpickle(tmp_path / "a.pkl")
        assert checkpoints.convert(dumped(tmp_path / "b.pkl", network(nvidia)), "nvidia"), name


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (10**12,), (0,)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (True, (2,), (1,)),
        (0, [2], [1]),
    ],
)
def test_a_tensor_beyond_its_data(tmp_path, nvidia, offset, size, stride):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        function, arguments = torch.ones(6).storage().__reduce__()
    storage = Call(function, *arguments)
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride)
    held = network(nvidia, _parameters={"w": tensor})
    with pytest.raises(WeightsError):
        checkpoints.convert(dumped(tmp_path / "a.pkl", held), "nvidia")


class Rebuilt:
    """A tensor that is described, and then given other attributes."""

    def __init__(self, *attributes):
        self.attributes = list(attributes)

    def __reduce__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            function, arguments = torch.ones(6).storage().__reduce__()
        storage = Call(function, *arguments)
        return torch._utils._rebuild_tensor_v2, (storage, 0, (2,), (1,)), self.attributes


@pytest.mark.parametrize("attributes", [(None, 0, (2,), (1,)), (None, -1, (2,), (1,)), (3,)])
def test_a_tensor_is_not_changed_after_it_was_described(tmp_path, nvidia, attributes):
    held = network(nvidia, _parameters={"w": Rebuilt(*attributes)})
    with pytest.raises(UnsafeCheckpointError, match="tries to change what it has described"):
        checkpoints.convert(dumped(tmp_path / "a.pkl", held), "nvidia")


def test_names_of_temporary_buffers_that_are_none(tmp_path, nvidia):
    buffers = {"w": nn.Parameter(torch.ones(1))}
    held = network(nvidia, _buffers=buffers, _non_persistent_buffers_set=5)
    with pytest.raises(WeightsError, match="_non_persistent_buffers_set is not a set"):
        checkpoints.convert(dumped(tmp_path / "a.pkl", held), "nvidia")


def test_modules_inside_themselves(tmp_path):
    """A generator whose two children are itself: 2^n paths, and no end."""
    state = b"}" + text("_modules") + b"h\x00s"
    fields = text("type") + text("class") + text("class_name") + text("G") + text("state") + state
    made = b"}q\x000" + named("torch_utils.persistence", "_reconstruct_persistent_obj")
    made += b"}(" + fields + b"u\x85Rq\x010"
    made += b"h\x00" + text("a") + b"h\x01s" + text("b") + b"h\x01s0"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + made + b"}" + text("G_ema") + b"h\x01s.")
    with pytest.raises(WeightsError, match="contain each other without end"):
        checkpoints.convert(tmp_path / "a.pkl", "nvidia")


# the way into the store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "store"))
    monkeypatch.setattr("facedeid.weights.local._FITTING", {})  # any tensors are the right ones
    return tmp_path / "store"


def test_import_converts_and_keeps_the_options(tmp_path, store):
    opts = argparse.Namespace(output_size=1024, start_from_latent_avg=True)
    path = save(tmp_path / "psp.pt", {"state_dict": STATE, "opts": opts})
    status = checkpoints.import_checkpoint("psp_ffhq_encode", path)
    assert (status.state, status.trust) == ("verified", "first use")
    found = weights.locate("psp_ffhq_encode")
    assert found == store / "psp_ffhq_encode.safetensors"
    same(weights.load_state(found), STATE)
    assert checkpoints.options(found) == {"output_size": 1024, "start_from_latent_avg": True}
    other = save(tmp_path / "other.pt", {"state_dict": {"a": torch.ones(1)}})
    with pytest.raises(WeightsError, match="recorded at its first import"):
        checkpoints.import_checkpoint("psp_ffhq_encode", other)
    assert checkpoints.import_checkpoint("psp_ffhq_encode", path).state == "verified"


def test_a_hostile_file_leaves_the_store_empty(tmp_path, store, canary):
    path = save(tmp_path / "psp.pt", {"state_dict": STATE, "opts": payloads(canary)["system"]})
    with pytest.raises(UnsafeCheckpointError):
        checkpoints.import_checkpoint("psp_ffhq_encode", path)
    assert weights.status("psp_ffhq_encode").state == "missing"
    assert not store.exists()


def test_download_converts(tmp_path, store, monkeypatch):
    from dataclasses import replace

    path = save(tmp_path / "mirror.ckpt", {"net_state_dict": STATE})
    known = replace(weights.CHECKPOINTS["mobilefacenet_casia"], urls=(path.as_uri(),))
    monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", {known.name: known})
    found = checkpoints.download(known.name)
    same(weights.load_state(found), STATE)
    assert sorted(p.name for p in store.iterdir()) == [found.name, "pins.json"]
    assert checkpoints.download(known.name) == found


def test_files_that_need_no_conversion_go_in_as_they_are(tmp_path, store):
    path = save(tmp_path / "a.pth", STATE)
    assert (
        checkpoints.import_checkpoint("curricularface", path).path.read_bytes() == path.read_bytes()
    )
