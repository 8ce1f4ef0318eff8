import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from facedeid import weights
from facedeid.checkpoints import import_checkpoint
from facedeid.errors import UnsafeCheckpointError, WeightsError
from facedeid.nets.stylegan2 import Generator

CONTENT = os.urandom(1_000_003)
SHA = hashlib.sha256(CONTENT).hexdigest()
YUNET = weights.CHECKPOINTS["yunet"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "store"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "store"


class Server(ThreadingHTTPServer):
    """Serves CONTENT, and misbehaves as told."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges = CONTENT, '"one"', True
        self.cut = None
        self.delay = 0.0
        self.requests = []

    def handle_error(self, request, address):
        pass  # clients that go away are part of the tests

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/page":
            return self.answer(200, b"<html>Virus scan warning</html>", "text/html; charset=utf-8")
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/file.bin")
            self.end_headers()
            return None
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not (server.ranges and wanted and self.headers.get("If-Range") == server.etag):
            return self.answer(200, server.content)
        start = int(wanted[1])
        if start >= len(server.content):
            return self.send_error(416)
        return self.answer(206, server.content[start:], extra=start)

    def answer(self, code, body, kind="application/octet-stream", extra=None):
        server = self.server
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if extra is not None:
            size = len(server.content)
            self.send_header("Content-Range", f"bytes {extra}-{size - 1}/{size}")
        self.end_headers()
        body = body if server.cut is None else body[: server.cut]
        for i in range(0, len(body), 65536):
            self.wfile.write(body[i : i + 65536])
            time.sleep(server.delay)
        self.close_connection = True


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def register(monkeypatch):
    def add(**fields):
        known = replace(YUNET, **{"name": "x", "filename": "x.bin", "sha256": SHA, **fields})
        monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", {"x": known})
        return known

    return add


def test_the_registry_is_sane():
    wanted = {"psp_ffhq_encode", "stylegan2_ffhq_256", "stylegan2_ffhq_1024", "stylegan2_ada_ffhq"}
    wanted |= {"ir_se50", "curricularface", "facenet_casia", "facenet_vggface2", "w600k_r50"}
    wanted |= {"arcface_torch_r50", "arcface_torch_r100", "vgg19", "mobilefacenet_casia", "yunet"}
    wanted |= {
        f"lpips_{net}_{part}"
        for net in ("alex", "vgg", "squeeze")
        for part in ("heads", "backbone")
    }
    assert wanted <= set(weights.CHECKPOINTS)
    for name, known in weights.CHECKPOINTS.items():
        assert known.name == name
        assert known.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", known.sha256)
        assert all(url.startswith("https://") for url in known.urls)
        assert known.source.startswith("https://")
        assert "/" not in known.filename
    files = [known.stored for known in weights.CHECKPOINTS.values()]
    assert len(set(files)) == len(files)
    hashes = [known.sha256 for known in weights.CHECKPOINTS.values() if known.sha256]
    assert len(set(hashes)) == len(hashes)


def test_torchvision_file_names_carry_the_beginning_of_the_hash():
    found = {
        known.filename: known.sha256
        for known in weights.CHECKPOINTS.values()
        if re.search(r"-[0-9a-f]{8}\.pth$", known.filename)
    }
    assert len(found) == 5
    for filename, sha256 in found.items():
        assert sha256.startswith(filename[-12:-4])


def test_the_store_is_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path, store):
    assert weights.store() == store
    monkeypatch.delenv("FACEDEID_MODELS")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights.store() == tmp_path / "cache" / "facedeid" / "models"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert weights.store() == tmp_path / "local" / "facedeid" / "models"


def test_download_verifies_and_reports_progress(server, register, store):
    register(urls=(server.url,))
    seen = []
    path = weights.download("x", lambda done, total: seen.append((done, total)))
    assert path == store / "x.bin"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in store.iterdir()) == ["pins.json", "x.bin"]
    assert weights.download("x") == path
    assert len(server.requests) == 1  # it is there: no network
    (status,) = weights.verify()
    assert (status.state, status.trust, status.sha256) == ("verified", "published", SHA)


def test_a_cut_transfer_goes_on_where_it_stopped(server, register, store):
    register(urls=(server.url,))
    server.cut = 400_000
    with pytest.raises(WeightsError, match=r"ended after 400000 of 1000003 bytes"):
        weights.download("x")
    assert not (store / "x.bin").exists()
    assert (store / "x.bin.part").stat().st_size == 400_000
    server.cut = None
    assert weights.download("x").read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=400000-"
    assert server.requests[-1]["If-Range"] == '"one"'


@pytest.mark.parametrize("change", ["etag", "no ranges", "no etag"])
def test_what_changed_meanwhile_is_fetched_from_the_start(server, register, change):
    register(urls=(server.url,), sha256=None)
    server.etag = None if change == "no etag" else server.etag
    server.cut = 300_000
    with pytest.raises(WeightsError, match="ended after"):
        weights.download("x")
    server.cut = None
    server.content = CONTENT[::-1]
    server.etag = '"two"' if change == "etag" else server.etag
    server.ranges = change != "no ranges"
    assert weights.download("x").read_bytes() == CONTENT[::-1]


def test_a_part_longer_than_the_file_is_thrown_away(server, register, store):
    register(urls=(server.url,))
    store.mkdir()
    (store / "x.bin.part").write_bytes(CONTENT + b"more")
    note = {"url": server.url, "validator": '"one"'}
    (store / "x.bin.part.json").write_text(json.dumps(note))
    assert weights.download("x").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_wrong_content_is_thrown_away(server, register, store):
    register(urls=(server.url,))
    server.content = b"\x00" * 1000
    with pytest.raises(WeightsError, match=rf"content is wrong.*{SHA}"):
        weights.download("x")
    assert list(store.iterdir()) == []


def test_the_next_address_is_tried(server, register):
    missing = server.url.replace("file.bin", "missing")
    register(urls=(missing, server.url.replace("file.bin", "elsewhere")))
    assert weights.download("x").read_bytes() == CONTENT


def test_not_found_and_how_to_go_on(server, register):
    register(urls=(server.url.replace("file.bin", "missing"),))
    with pytest.raises(WeightsError, match=r"Not Found.*facedeid models import x FILE"):
        weights.download("x")


def test_a_web_page_is_not_a_file(server, register, store):
    register(urls=(server.url.replace("file.bin", "page"),), sha256=None)
    with pytest.raises(WeightsError, match="a web page instead of the file"):
        weights.download("x")
    assert list(store.iterdir()) == []


def test_offline(register):
    with Server() as gone:
        url = gone.url
    register(urls=(url,))
    with pytest.raises(WeightsError, match=r"refused.*in a browser, or on another machine"):
        weights.download("x")
    register(urls=())
    with pytest.raises(WeightsError, match=r"no address to fetch it from; get x\.bin from https"):
        weights.download("x")


def test_from_https_only_to_https(register):
    from urllib.request import Request

    from facedeid.weights.transfer import _SafeRedirects

    ask = Request("https://example.org/a")
    with pytest.raises(OSError, match="not https"):
        _SafeRedirects().redirect_request(ask, None, 302, "", {}, "http://example.org/a")
    found = _SafeRedirects().redirect_request(ask, None, 302, "", {}, "https://example.org/b")
    assert found.full_url == "https://example.org/b"


def test_from_a_file_address(register, tmp_path):
    (tmp_path / "mirror.bin").write_bytes(CONTENT)
    register(urls=((tmp_path / "mirror.bin").as_uri(),))
    assert weights.download("x").read_bytes() == CONTENT


KILLED = """
import sys
from dataclasses import replace
from facedeid import weights
known = replace(weights.CHECKPOINTS["yunet"], name="x", filename="x.bin", sha256=sys.argv[2],
                urls=(sys.argv[1],))
weights.store_module.CHECKPOINTS = {"x": known}
weights.download("x", lambda done, total: print(done, flush=True))
""".replace("weights.store_module", "sys.modules['facedeid.weights.local']")


def test_a_killed_process_leaves_nothing_half_done(server, register, store):
    register(urls=(server.url,))
    server.delay = 0.1
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url, SHA], stdout=subprocess.PIPE, text=True
    )
    while int(process.stdout.readline()) < 250_000:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (store / "x.bin").exists()
    assert weights.status("x").state == "missing"
    have = (store / "x.bin.part").stat().st_size
    assert 0 < have < len(CONTENT)
    server.delay = 0.0
    assert weights.download("x").read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == f"bytes={have}-"


def test_trust_on_first_use_and_never_again(server, register, store, tmp_path):
    register(urls=(server.url,), sha256=None)
    weights.download("x")
    status = weights.status("x", check=True)
    assert (status.state, status.trust, status.sha256) == ("verified", "first use", SHA)
    (store / "x.bin").unlink()
    server.content = b"another" * 100
    with pytest.raises(WeightsError, match=rf"recorded at its first import is {SHA}"):
        weights.download("x")
    (tmp_path / "other").write_bytes(b"another")
    with pytest.raises(WeightsError, match=r"take x out of pins\.json first"):
        weights.import_file("x", tmp_path / "other")
    server.content = CONTENT
    assert weights.download("x").read_bytes() == CONTENT


def test_what_is_no_network_is_not_trusted_on_first_use(store, tmp_path):
    (tmp_path / "page.pt").write_text("<html>Virus scan warning</html>")
    save_file(STATE, tmp_path / "other.pt")
    for file, reason in (
        ("page.pt", "neither safetensors nor a torch file"),
        ("other.pt", r"is not facenet_casia: its tensor block8\.conv2d\.weight is missing instead"),
    ):
        with pytest.raises(WeightsError, match=reason):
            weights.import_file("facenet_casia", tmp_path / file)
    assert weights.status("facenet_casia").state == "missing"
    assert not store.exists()  # nothing is recorded, and the right file still fits


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("stylegan2_ffhq_256", 1024, r"convs\.12\.conv\.weight is 1×64×128×3×3 instead of missing"),
        ("stylegan2_ffhq_1024", 256, r"convs\.15\.conv\.weight is missing instead of 1×32×32×3×3"),
    ],
)
def test_a_generator_of_another_size_is_not_trusted_on_first_use(
    name, side, message, store, tmp_path
):
    with torch.device("meta"):
        shapes = Generator(side).state_dict()
    told = [f"convs.{layer}.conv.weight" for layer in (11, 12, 15)]
    state = {key: torch.zeros(shapes[key].shape) for key in told if key in shapes}
    torch.save({"g_ema": state}, tmp_path / "published.pt")
    other = "stylegan2_ffhq_1024" if side == 1024 else "stylegan2_ffhq_256"
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(name, tmp_path / "published.pt")
    assert weights.status(name).state == "missing"
    assert import_checkpoint(other, tmp_path / "published.pt").state == "verified"


@pytest.mark.parametrize("side", [256, None])
def test_what_is_no_psp_is_not_trusted_on_first_use(side, store, tmp_path):
    state = {"encoder.styles.17.linear.weight": torch.zeros(512, 512)}
    if side:
        state["decoder.convs.11.conv.weight"] = torch.zeros(1, 128, 128, 3, 3)
    torch.save({"state_dict": state if side else STATE}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=rf"^{tmp_path}/other\.pt is not psp_ffhq_encode: its"):
        import_checkpoint("psp_ffhq_encode", tmp_path / "other.pt")
    assert weights.status("psp_ffhq_encode").sha256 is None


def test_the_file_of_another_checkpoint_is_not_taken(register, tmp_path, monkeypatch):
    known = register(sha256=None)
    both = {"x": known, "y": replace(known, name="y", filename="y.bin", sha256=SHA)}
    monkeypatch.setattr("facedeid.weights.local.CHECKPOINTS", both)
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r"is y, not x: .*facedeid models import y "):
        weights.import_file("x", tmp_path / "mine.bin")
    assert weights.import_file("y", tmp_path / "mine.bin").state == "verified"


def test_import_and_locate(register, tmp_path, store):
    register()
    with pytest.raises(WeightsError, match=r"x is not in .*facedeid models import x FILE"):
        weights.locate("x")
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    assert weights.import_file("x", tmp_path / "mine.bin").state == "verified"
    assert weights.locate("x") == store / "x.bin"
    (tmp_path / "wrong.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is not x: its sha256 is"):
        weights.import_file("x", tmp_path / "wrong.bin")
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        weights.import_file("x", tmp_path / "nothing.bin")
    assert weights.locate("x").read_bytes() == CONTENT
    with pytest.raises(WeightsError, match="no checkpoint is called 'y'; there are: x"):
        weights.locate("y")


@pytest.mark.parametrize("sha256", [SHA, None], ids=["known", "unknown"])
def test_an_altered_file_is_noticed_at_the_next_load(register, tmp_path, store, sha256):
    register(sha256=sha256)
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    weights.import_file("x", tmp_path / "mine.bin")
    path = weights.locate("x")
    before = path.stat()
    time.sleep(0.05)  # the clock of the file system ticks every few milliseconds
    path.write_bytes(CONTENT[:-1] + b"!")  # same length, and the same time:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(WeightsError, match=r"not what was imported.*Do not use it"):
        weights.locate("x")
    assert [status.state for status in weights.verify("x")] == ["altered"]
    with pytest.raises(WeightsError, match="not what was imported"):
        weights.download("x")


def test_a_file_put_there_by_hand_counts_only_with_a_known_hash(register, store):
    store.mkdir()
    (store / "x.bin").write_bytes(CONTENT)
    register()
    assert weights.locate("x") == store / "x.bin"
    register(sha256=None)
    assert weights.status("x").state == "unpinned"
    with pytest.raises(WeightsError, match="put there by hand"):
        weights.locate("x")


def test_a_read_only_mirror(register, tmp_path, store, monkeypatch):
    register(sha256=None)
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    weights.import_file("x", tmp_path / "mine.bin")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert weights.locate("x").read_bytes() == CONTENT
    with pytest.raises(WeightsError, match=r"cannot be written to \(read-only\)"):
        weights.import_file("x", tmp_path / "mine.bin")


def test_a_store_that_cannot_be_made(register, tmp_path, monkeypatch, server):
    register(urls=(server.url,))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "file" / "store"))
    with pytest.raises(WeightsError, match="FACEDEID_MODELS at a folder of your own"):
        weights.download("x")
    monkeypatch.setenv("FACEDEID_MODELS", "~nobody-of-this-name/store")
    with pytest.raises(WeightsError, match="FACEDEID_MODELS=~nobody"):
        weights.locate("x")


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 3}'])
def test_a_damaged_record_is_not_ignored(register, store, text):
    register(sha256=None)
    store.mkdir()
    (store / "pins.json").write_text(text)
    with pytest.raises(WeightsError, match=r"pins\.json"):
        weights.status("x")


def test_converted_layouts_are_not_taken_as_they_are(register, tmp_path):
    register(layout="psp")
    (tmp_path / "mine.bin").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="holds more than weights"):
        weights.import_file("x", tmp_path / "mine.bin")
    with pytest.raises(WeightsError, match="facedeid models download x"):
        weights.download("x")


def test_shipped_files_are_verified(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr("facedeid.weights.local.files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match="reinstall facedeid"):
        weights.shipped("a.bin")
    (data / "a.bin").write_bytes(CONTENT)
    (data / "MANIFEST.json").write_text(json.dumps({"a.bin": {"sha256": SHA}}))
    assert weights.shipped("a.bin") == data / "a.bin"
    assert weights.shipped_names() == ("a.bin",)
    with pytest.raises(WeightsError, match=r"there are: a\.bin"):
        weights.shipped("b.bin")
    (data / "a.bin").write_bytes(CONTENT[1:])
    with pytest.raises(WeightsError, match="not what was released"):
        weights.shipped("a.bin")


STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4), "bn.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_load_state(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    state = weights.load_state(path)
    assert list(state) == sorted(STATE) if kind == "safetensors" else list(STATE)
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


class Exploit:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_load_state_runs_nothing(tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "file.pt"
    payload = {**STATE, "more": Exploit(canary)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UnsafeCheckpointError, match=r"was not opened .*models import"):
        weights.load_state(path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"hello, world", b"PK\x03\x04 and nothing", b"\x80\x02}"])
def test_load_state_of_something_else(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(WeightsError):
        weights.load_state(tmp_path / "file")


def test_load_state_of_damaged_files(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    save_file(STATE, tmp_path / "b.safetensors")
    for name in ("a.pt", "b.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError, match="damaged"):
            weights.load_state(tmp_path / name)
    torch.save({"state_dict": STATE}, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="holds: state_dict"):
        weights.load_state(tmp_path / "c.pt")


def test_importing_the_store_does_not_import_torch():
    code = "import sys, facedeid.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
