"""Where weights lie on this machine, and the proof at every load that they are what they were.

The store is one flat folder. `pins.json` in it records, for every file, the sha256 that it is held
to from its import on, and where the published hash is not known, the one found then.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from facedeid.errors import WeightsError
from facedeid.weights.registry import CHECKPOINTS, Checkpoint

__all__ = [
    "Status",
    "dlib_model_path",
    "entry",
    "import_file",
    "locate",
    "sha256_of",
    "shipped",
    "shipped_facts",
    "shipped_names",
    "status",
    "store",
    "verify",
]

State = Literal["missing", "present", "verified", "altered", "unpinned"]

_FITTING: Mapping[str, Mapping[str, tuple[int, ...] | None]] = {
    "arcface_torch_r50": {
        "layer3.13.conv2.weight": (256, 256, 3, 3),
        "layer3.14.conv2.weight": None,
    },
    "arcface_torch_r100": {"layer3.29.conv2.weight": (256, 256, 3, 3)},
    "curricularface": {
        "body.48.res_layer.3.weight": (512, 512, 3, 3),
        "output_layer.3.weight": (512, 25088),
    },
    "facenet_casia": {
        "block8.conv2d.weight": (1792, 384, 1, 1),
        "last_linear.weight": (512, 1792),
    },
    "mobilefacenet_casia": {
        "linear7.conv.weight": (512, 1, 7, 6),
        "linear1.conv.weight": (128, 512, 1, 1),
    },
    "psp_ffhq_encode": {
        "encoder.styles.17.linear.weight": (512, 512),
        "decoder.convs.15.conv.weight": (1, 32, 32, 3, 3),
    },
    "stylegan2_ffhq_256": {
        "convs.11.conv.weight": (1, 128, 128, 3, 3),
        "convs.12.conv.weight": None,
    },
    "stylegan2_ffhq_1024": {"convs.15.conv.weight": (1, 32, 32, 3, 3)},
    "stylegan2_ada_ffhq": {"synthesis.b1024.conv1.weight": (32, 32, 3, 3)},
}
"""Of files whose hash is not known: tensors by which they are told from others, with their shapes;
None: that one must not be there."""
_CLASSES = {"facenet_casia": 10_575}
"""People that a network was trained on, where the file may hold its classifier (`logits`)."""

_verified: dict[tuple[str, int, int, int, int], str] = {}
"""Hashes already computed in this process, by path, inode, size and times of the file."""


@dataclass(frozen=True)
class Status:
    """What the store knows of a checkpoint."""

    name: str
    state: State
    path: Path
    sha256: str | None
    """What the stored file is held to; None: it was never imported."""
    trust: Literal["published", "first use", "none"]
    """Where that hash comes from."""


def store() -> Path:
    """The folder of the weights: `FACEDEID_MODELS`, or `facedeid/models` in the user's cache.

    `FACEDEID_MODELS` may be a read-only mirror: a folder that another machine filled with
    `facedeid models download`.

    Raises:
        WeightsError: it begins with the home of somebody whom this machine does not know.
    """
    given = os.environ.get("FACEDEID_MODELS")
    if given:
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise WeightsError(f"FACEDEID_MODELS={given}: {error}") from error
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "facedeid" / "models"


def entry(name: str) -> Checkpoint:
    """The registry's entry.

    Raises:
        WeightsError: nothing is known by that name.
    """
    try:
        return CHECKPOINTS[name]
    except KeyError:
        known = ", ".join(CHECKPOINTS)
        raise WeightsError(f"no checkpoint is called {name!r}; there are: {known}") from None


def sha256_of(path: Path) -> str:
    """Hash of a file's content, lower-case hexadecimal; computed once per process and file state.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            key = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if key not in _verified:
                _verified[key] = hashlib.file_digest(file, "sha256").hexdigest()
            return _verified[key]
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def _pins() -> dict[str, dict[str, Any]]:
    path = store() / "pins.json"
    try:
        pins = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); import the files again") from error
    if not isinstance(pins, dict) or not all(isinstance(pin, dict) for pin in pins.values()):
        raise WeightsError(f"{path} is not a record of hashes; remove it and import again")
    return pins


def _pin(name: str, pin: dict[str, Any]) -> None:
    def write(target: Path) -> None:
        text = json.dumps({**_pins(), name: pin}, indent=2, sort_keys=True) + "\n"
        target.write_text(text, "utf-8")

    _place("pins.json", write)


def prepare() -> Path:
    """The store, made if need be and writable.

    Raises:
        WeightsError: it cannot be written to.
    """
    folder = store()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "read-only")
    return folder


def _unwritable(folder: Path, why: str | None) -> WeightsError:
    return WeightsError(
        f"the store {folder} cannot be written to ({why}); "
        "point FACEDEID_MODELS at a folder of your own"
    )


def _place(name: str, write: Callable[[Path], object]) -> None:
    """Create a file of the store all at once: `write` fills a temporary file beside it."""
    folder = prepare()
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        os.close(handle)
        write(Path(temporary))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / name)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _held_to(known: Checkpoint) -> tuple[str | None, Literal["published", "first use", "none"]]:
    """The hash of the stored file and where it comes from."""
    pin = _pins().get(known.name, {})
    if not known.converted and known.sha256 is not None:
        return known.sha256, "published"
    found = pin.get("sha256")
    if not isinstance(found, str):
        return None, "none"
    return found, "published" if known.sha256 is not None else "first use"


def status(name: str, *, check: bool = False) -> Status:
    """Whether a checkpoint is here; with `check`, whether its content is right.

    Raises:
        WeightsError: unknown name, or the record of hashes is damaged.
    """
    known = entry(name)
    path = store() / known.stored
    sha256, trust = _held_to(known)
    if not path.is_file():
        return Status(name, "missing", path, sha256, trust)
    if sha256 is None:
        return Status(name, "unpinned", path, None, trust)
    state: State = "present"
    if check:
        state = "verified" if sha256_of(path) == sha256 else "altered"
    return Status(name, state, path, sha256, trust)


def verify(name: str = "all") -> list[Status]:
    """Hash one checkpoint, or all that are in the store.

    Raises:
        WeightsError: unknown name, or the record of hashes is damaged.
    """
    if name != "all":
        return [status(name, check=True)]
    found = (status(each, check=True) for each in CHECKPOINTS)
    return [each for each in found if each.state != "missing"]


def by_hand(known: Checkpoint) -> str:
    """What a user does without a network, or where there is no direct address."""
    return (
        f"get {known.filename} from {known.source} (in a browser, or on another machine) "
        f"and run: facedeid models import {known.name} FILE"
    )


def _how_to_get(known: Checkpoint) -> str:
    if known.urls:
        return f"run: facedeid models download {known.name}; or {by_hand(known)}"
    return by_hand(known)


def locate(name: str) -> Path:
    """The file of a checkpoint, its content verified.

    Raises:
        WeightsError: not here, altered, or never imported; the message says what to do.
    """
    known = entry(name)
    now = status(name, check=True)
    if now.state == "missing":
        raise WeightsError(f"{name} is not in {store()}; {_how_to_get(known)}")
    if now.state == "unpinned":
        raise WeightsError(
            f"{now.path} was put there by hand and nothing says what it should be; "
            f"import it instead: facedeid models import {name} FILE"
        )
    if now.state == "altered":
        raise WeightsError(
            f"{now.path} is not what was imported: its sha256 is {sha256_of(now.path)}, it should "
            f"be {now.sha256}. Do not use it; remove it, then {_how_to_get(known)}"
        )
    return now.path


def import_file(name: str, path: Path | str, *, converted: Path | None = None) -> Status:
    """Take a local file into the store.

    Args:
        name: which checkpoint it is.
        path: the published file; its hash must be the published one, or, where none is known,
            the one of an earlier import. The first import without a known hash is trusted, if
            the file holds tensors and those of that network.
        converted: what `facedeid.checkpoints` made of it, for layouts that are converted.

    Returns:
        Its status; `trust` says "first use" where nobody vouches for the content.

    Raises:
        WeightsError: not that checkpoint, or the store cannot be written to.
    """
    known, path = entry(name), Path(path)
    if known.converted and converted is None:
        raise WeightsError(
            f"{known.filename} holds more than weights and is converted on import; "
            f"run: facedeid models import {name} {path}"
        )
    published = accept(known, path)
    chosen = converted or path
    if known.sha256 is None:
        _must_fit(known, chosen, path)
    _place(known.stored, lambda target: _copy(chosen, target))
    _pin(name, {"sha256": sha256_of(store() / known.stored), "source_sha256": published})
    return status(name, check=True)


def _must_fit(known: Checkpoint, path: Path, given: Path) -> None:
    """Open a file that no hash vouches for, before it is recorded as the right one; errors name the
    one that was given.

    Raises:
        UnsafeCheckpointError: it would run code; nothing was run.
        WeightsError: it is damaged, or holds another network.
    """
    if known.layout != "tensors" and known.name not in _FITTING:
        return
    from facedeid.weights.loading import load_state

    found = {key: tuple(value.shape) for key, value in load_state(path).items()}
    wanted = dict(_FITTING.get(known.name, {}))
    if known.name in _CLASSES and "logits.weight" in found:
        wanted["logits.weight"] = (_CLASSES[known.name], *found["logits.weight"][1:])
    for key, shape in wanted.items():
        if found.get(key) != shape:
            raise WeightsError(
                f"{given} is not {known.name}: its tensor {key} is {_told(found.get(key))} instead "
                f"of {_told(shape)}; get {known.filename} from {known.source}"
            )


def _told(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def accept(known: Checkpoint, path: Path) -> str:
    """The published file's hash, if it is the right one.

    Raises:
        WeightsError: it is another file.
    """
    found = sha256_of(path)
    other = next((each.name for each in CHECKPOINTS.values() if each.sha256 == found), known.name)
    if other != known.name:
        raise WeightsError(
            f"{path} is {other}, not {known.name}: its sha256 is {found}; "
            f"run: facedeid models import {other} {path}"
        )
    wanted = known.sha256 or _pins().get(known.name, {}).get("source_sha256")
    if wanted is not None and found != wanted:
        origin = "published" if known.sha256 else "recorded at its first import"
        hint = "" if known.sha256 else f"; to replace it, take {known.name} out of pins.json first"
        raise WeightsError(
            f"{path} is not {known.name}: its sha256 is {found}, the one {origin} is {wanted}{hint}"
        )
    return found


def _manifest() -> dict[str, dict[str, Any]]:
    text = files("facedeid").joinpath("data", "MANIFEST.json")
    try:
        found: dict[str, dict[str, Any]] = json.loads(text.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"the installation is damaged, reinstall facedeid: {error}") from error
    return found


def shipped_names() -> tuple[str, ...]:
    """The files that come with the package.

    Raises:
        WeightsError: the installation is damaged.
    """
    return tuple(_manifest())


def shipped_facts(name: str) -> dict[str, Any]:
    """What the manifest says of a file that comes with the package: size, licence, what it is.

    Raises:
        WeightsError: there is no such file.
    """
    manifest = _manifest()
    if name not in manifest:
        known = ", ".join(manifest) or "none"
        raise WeightsError(f"no file {name!r} comes with facedeid; there are: {known}")
    return manifest[name]


def shipped(name: str) -> Path:
    """A file that comes with the package, its content verified.

    Raises:
        WeightsError: there is no such file, or it is not what was released.
    """
    facts = shipped_facts(name)
    path = Path(str(files("facedeid").joinpath("data", name)))
    if sha256_of(path) != facts.get("sha256"):
        raise WeightsError(f"{path} is not what was released; reinstall facedeid")
    return path


def dlib_model_path(name: str) -> Path:
    """A file of the package face_recognition_models, found without importing it.

    Raises:
        WeightsError: the package or the file is missing.
    """
    spec = find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise WeightsError(f"{name} is missing; run: pip install face_recognition_models")
