"""Name -> frozen network on one device, with its own crop, normalisation and thresholds."""

from facedeid.models.crops import (
    ARCFACE_CROP,
    CROPS,
    DLIB_CROP,
    FACENET_CROP,
    MOBILEFACENET_CROP,
    PSP_CROP,
    Crop,
)
from facedeid.models.holder import Models, device_of
from facedeid.models.identities import CODED, identity_codes, lookalikes
from facedeid.models.naming import recognizer_name
from facedeid.models.recognizers import Metric, Recognizer, RecognizerSpec
from facedeid.models.registry import JUDGES, RECOGNIZERS

__all__ = [
    "ARCFACE_CROP",
    "CODED",
    "CROPS",
    "DLIB_CROP",
    "FACENET_CROP",
    "JUDGES",
    "MOBILEFACENET_CROP",
    "PSP_CROP",
    "RECOGNIZERS",
    "Crop",
    "Metric",
    "Models",
    "Recognizer",
    "RecognizerSpec",
    "device_of",
    "identity_codes",
    "lookalikes",
    "recognizer_name",
]
