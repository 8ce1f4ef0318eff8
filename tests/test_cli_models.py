import argparse
import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from facedeid import weights
from facedeid._cli_models import app
from facedeid.errors import OptionError, UnsafeCheckpointError, WeightsError

STATE = {"conv.weight": torch.ones(2, 3)}
YUNET = weights.CHECKPOINTS["yunet"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("facedeid.weights.local._FITTING", {})  # any tensors are the right ones
    return tmp_path / "store"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments):
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, WeightsError)
    return str(result.exception)


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_list_shows_what_there_is_and_what_is_here(store, arguments, tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    weights.import_file("curricularface", tmp_path / "a.pth")
    result = run(*arguments)
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert set(weights.CHECKPOINTS) <= set(lines)
    assert "built in" in lines["dlib"]
    assert "here" in lines["curricularface"]
    assert " no " in lines["w600k_r50"]
    assert "174.4 MB" in lines["w600k_r50"]
    assert str(store) in lines["store:"]


def test_show(store):
    result = run("show", "w600k_r50")
    assert result.exit_code == 0
    known = weights.CHECKPOINTS["w600k_r50"]
    for text in (
        known.sha256,
        known.licence,
        known.source,
        known.input,
        known.paper,
        known.urls[0],
    ):
        assert text in result.output
    assert "trusted on first use" in run("show", "psp_ffhq_encode").output
    assert isinstance(run("show", "nothing").exception, OptionError)
    assert "no checkpoint is called 'nothing'" in str(run("show", "nothing").exception)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dlib", ("CC0", "dlib_face_recognition_resnet_model_v1.dat", "yes")),
        ("dlib landmarks", ("excludes commercial use", "no")),
        ("facedeid-mobile", ("facedeid-mobile.safetensors", "non-commercial", "sha256")),
        ("facedeid-mobile.safetensors", ("facedeid-mobile.md", "non-commercial")),
    ],
)
def test_show_knows_what_comes_along(name, words):
    result = run("show", name)
    assert result.exit_code == 0
    for word in words:
        assert word in result.output


def test_show_says_what_a_trusted_file_is_held_to(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    run("import", "curricularface", tmp_path / "a.pth")
    digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    assert f"{digest} (first use)" in run("show", "curricularface").output


def test_import_says_plainly_that_it_trusts(tmp_path, store):
    torch.save(STATE, tmp_path / "a.pth")
    result = run("import", "curricularface", tmp_path / "a.pth")
    assert result.exit_code == 0
    assert "No published hash of curricularface is known" in result.output
    assert str(store / "CurricularFace_Backbone.pth") in result.output
    assert run("path", "curricularface").output.strip() == str(
        store / "CurricularFace_Backbone.pth"
    )


def test_import_converts(tmp_path, store):
    held = {"state_dict": STATE, "opts": argparse.Namespace(output_size=256)}
    torch.save(held, tmp_path / "a.pt")
    assert run("import", "psp_ffhq_encode", tmp_path / "a.pt").exit_code == 0
    state = weights.load_state(weights.locate("psp_ffhq_encode"))
    assert torch.equal(state["conv.weight"], STATE["conv.weight"])


class Exploit:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_import_refuses_a_hostile_file(tmp_path, store):
    torch.save({"state_dict": STATE, "opts": Exploit(tmp_path / "canary")}, tmp_path / "a.pt")
    result = run("import", "psp_ffhq_encode", tmp_path / "a.pt")
    assert result.exit_code != 0
    assert isinstance(result.exception, UnsafeCheckpointError)
    assert not (tmp_path / "canary").exists()
    assert weights.status("psp_ffhq_encode").state == "missing"
    assert not store.exists()


def test_import_refuses_another_file(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"something else")
    assert f"the one published is {YUNET.sha256}" in fails("import", "yunet", tmp_path / "a.onnx")
    assert run("import", "yunet", tmp_path / "none.onnx").exit_code == 2


def test_download(tmp_path, store, monkeypatch):
    content = os.urandom(100_000)
    (tmp_path / "mirror.onnx").write_bytes(content)
    url, digest = (tmp_path / "mirror.onnx").as_uri(), hashlib.sha256(content).hexdigest()
    known = replace(YUNET, urls=(url,), sha256=digest)
    monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", {"yunet": known})
    result = run("download", "yunet")
    assert result.exit_code == 0
    assert known.licence in result.output
    assert "No published hash" not in result.output
    assert (store / known.filename).read_bytes() == content
    assert run("download", "yunet").exit_code == 0
    known = replace(YUNET, name="y", filename="y", urls=(f"{url}x",))
    monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", {"y": known})
    assert "facedeid models import y FILE" in fails("download", "y")


def test_verify(tmp_path, store):
    assert "the store is empty" in run("verify").output
    torch.save(STATE, tmp_path / "a.pth")
    run("import", "curricularface", tmp_path / "a.pth")
    result = run("verify")
    assert result.exit_code == 0
    assert "verified" in result.output
    (store / "CurricularFace_Backbone.pth").write_bytes(b"altered")
    assert fails("verify") == "not as they should be: curricularface"
    assert "ALTERED" in run("verify", "curricularface").output
    assert fails("verify", "yunet") == "not in the store: yunet"


def test_path(store):
    assert run("path").output.strip() == str(store)
    assert "facedeid models download yunet" in fails("path", "yunet")


def test_no_torch_until_it_is_needed():
    code = (
        "import sys; from facedeid._cli_models import list_models; list_models();"
        "sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False)
    assert run.returncode == 0
