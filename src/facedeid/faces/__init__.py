"""Find faces, cut them out in the canonical frame, and put them back.

Finding gives `Face`s, `frame` and `align` cut them out, `paste` is their inverse.
"""

from facedeid.faces.alignment import Frame, align, frame, native_size
from facedeid.faces.detection import DETECTORS
from facedeid.faces.landmarks import Face, detect, faces_from_boxes, from_landmarks
from facedeid.faces.pasting import Pasted, face_mask, feature_masks, frame_masks, paste

__all__ = [
    "DETECTORS",
    "Face",
    "Frame",
    "Pasted",
    "align",
    "detect",
    "face_mask",
    "faces_from_boxes",
    "feature_masks",
    "frame",
    "frame_masks",
    "from_landmarks",
    "native_size",
    "paste",
]
