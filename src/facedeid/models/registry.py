"""The recognisers that facedeid knows by name.

Thresholds are only those that were published or measured; `docs/networks.md` says how.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from facedeid import weights
from facedeid.errors import WeightsError
from facedeid.models.crops import (
    ARCFACE_CROP,
    DLIB_CROP,
    FACENET_CROP,
    MOBILEFACENET_CROP,
    Crop,
)
from facedeid.models.onnx import load_onnx
from facedeid.models.recognizers import Metric, RecognizerSpec
from facedeid.nets import load_official
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.nets.curricularface import CurricularFace
from facedeid.nets.dlib_resnet import DlibFaceNet, state_from_dat
from facedeid.nets.inception_resnet import InceptionResnetV1, without_logits
from facedeid.nets.iresnet import iresnet
from facedeid.nets.irse import IrSe
from facedeid.nets.mobilefacenet import mobilefacenet
from facedeid.weights.loading import load_state

__all__ = ["JUDGES", "RECOGNIZERS"]

JUDGES = ("dlib", "facedeid-mobile")
"""Who judges where nobody is named: recognisers that come with the installation."""

_LFW = "LFW View 2, 6,000 pairs, aligned by dlib's 68 landmarks (tools/lfw_accuracy.py)"
_NO_CUSTOM = f"{_LFW}; library is best, for want of a customary one"
_UNKNOWN = "none is known"


_DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"


def _build_dlib() -> nn.Module:
    net = DlibFaceNet()
    net.load_state_dict(state_from_dat(weights.dlib_model_path(_DLIB_FILE).read_bytes()))
    return net


def _has_dlib() -> bool:
    try:
        weights.dlib_model_path(_DLIB_FILE)
    except WeightsError:
        return False
    return True


_DLIB = RecognizerSpec(
    name="dlib",
    summary="dlib's face recognition network, as in the face_recognition library",
    source="King 2017",
    licence="CC0 (the landmark predictor that feeds it: no commercial use)",
    dim=128,
    metric="euclidean",
    crop=DLIB_CROP,
    thresholds={"library": 0.6, "best": 0.6323, "far=1e-3": 0.564},
    protocol=f"library: dlib's documentation; others: {_LFW}",
    scale=lambda chips: chips,
    build=_build_dlib,
    available=_has_dlib,
)


_MOBILE_FILE = "facedeid-mobile.safetensors"


def _mobile_facts() -> dict[str, Any]:
    """What the shipped file says of itself: options of its network, `protocol`, and thresholds.

    Those are distances (1 - cosine): `threshold_library`, `threshold_best`, `threshold_far1e-3`.
    """
    path = Path(str(files("facedeid").joinpath("data", _MOBILE_FILE)))
    try:
        with path.open("rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), 1 << 20)
            meta = json.loads(file.read(length)).get("__metadata__", {})
        return {**json.loads(meta.get("facedeid", "{}")), **meta}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # `build` complains


def _mobile() -> RecognizerSpec:
    facts = _mobile_facts()
    keys = {
        "library": ("threshold_library", "threshold_best"),
        "best": ("threshold_best",),
        "far=1e-3": ("threshold_far1e-3",),
    }
    found = {
        point: float(next(facts[key] for key in names if key in facts))
        for point, names in keys.items()
        if any(key in facts for key in names)
    }
    return RecognizerSpec(
        name="facedeid-mobile",
        summary="facedeid's own compact recogniser, distilled; comes with the package",
        source="facedeid (recipe `recognizer`)",
        licence="non-commercial research use (training photos)",
        dim=int(facts.get("dim", 256)),
        metric="cosine",
        crop=ARCFACE_CROP,
        thresholds=MappingProxyType(found),
        protocol=str(facts.get("protocol", _NO_CUSTOM if found else _UNKNOWN)),
        scale=_centred(127.5),
        build=lambda: _build_mobile(facts),
        available=_has_mobile,
    )


def _build_mobile(facts: dict[str, Any]) -> nn.Module:
    state = load_state(weights.shipped(_MOBILE_FILE))
    options: dict[str, Any] = {key: facts[key] for key in ("dim", "stem") if key in facts}
    options |= {key: tuple(facts[key]) for key in ("widths", "depths") if key in facts}
    return load_official(CompactFaceNet(**options), state)


def _has_mobile() -> bool:
    try:
        return _MOBILE_FILE in weights.shipped_names()
    except WeightsError:
        return False


def _centred(std: float) -> Callable[[Tensor], Tensor]:
    return lambda chips: (chips - 127.5) / std


def _as_is(chips: Tensor) -> Tensor:
    return chips


def _public(
    name: str,
    checkpoint: str,
    build: Callable[[Path], nn.Module],
    *,
    dim: int = 512,
    metric: Metric = "cosine",
    crop: Crop = ARCFACE_CROP,
    scale: Callable[[Tensor], Tensor] | None = None,
    thresholds: dict[str, float] | None = None,
    protocol: str = _UNKNOWN,
) -> RecognizerSpec:
    """A recogniser whose weights are a checkpoint of the store; by default ArcFace's habits."""
    known = weights.entry(checkpoint)
    return RecognizerSpec(
        name=name,
        summary=known.summary,
        source=known.paper,
        licence=known.licence,
        dim=dim,
        metric=metric,
        crop=crop,
        thresholds=MappingProxyType(thresholds or {}),
        protocol=protocol,
        scale=scale or _centred(127.5),
        build=lambda: build(weights.locate(checkpoint)),
        available=lambda: weights.status(checkpoint).state == "present",
    )


def _official(make: Callable[[], nn.Module]) -> Callable[[Path], nn.Module]:
    return lambda path: load_official(make(), load_state(path))


def _facenet(path: Path) -> nn.Module:
    return load_official(InceptionResnetV1(), without_logits(load_state(path)))


def _facenet_spec(name: str, checkpoint: str) -> RecognizerSpec:
    return _public(
        name,
        checkpoint,
        _facenet,
        metric="euclidean",
        crop=FACENET_CROP,
        scale=_centred(128),
        thresholds={"library": 1.1},
        protocol="library: Xue et al. 2022 (Schroff et al. 2015: squared distance 1.242 on LFW), "
        "for MTCNN's boxes, which the crop here approximates",
    )


_SPECS = (
    _DLIB,
    _mobile(),
    _public(
        "mobilefacenet-casia",
        "mobilefacenet_casia",
        lambda path: mobilefacenet(load_state(path)),
        dim=128,
        crop=MOBILEFACENET_CROP,
        scale=_centred(128),
        thresholds={"library": 0.7094, "best": 0.7094, "far=1e-3": 0.62},
        protocol=_NO_CUSTOM,
    ),
    _public(
        "mobileface-v2",
        "mobileface_v2",
        load_onnx,
        dim=256,
        scale=_as_is,
        thresholds={"library": 0.7615, "best": 0.7615, "far=1e-3": 0.673},
        protocol=_NO_CUSTOM,
    ),
    _public("ir-se50", "ir_se50", _official(IrSe)),
    _public("iresnet-50", "arcface_torch_r50", _official(lambda: iresnet(50))),
    _public("iresnet-100", "arcface_torch_r100", _official(lambda: iresnet(100))),
    _public("w600k_r50", "w600k_r50", load_onnx),
    _public(
        "curricularface",
        "curricularface",
        _official(CurricularFace),
        thresholds={"mean-impostor": 0.81},
        protocol="mean-impostor: similarity 0.19 is the mean over random identities in Zhao et "
        "al. 2022, which is no operating point; others: none is known",
    ),
    _facenet_spec("facenet-vggface2", "facenet_vggface2"),
    _facenet_spec("facenet-casia", "facenet_casia"),
)

RECOGNIZERS = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Name -> what is known of it."""
