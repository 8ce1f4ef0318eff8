"""Is this face still the same person to a recogniser? Asked of the picture as written.

Two alignments are tried: faces found afresh, as anyone who gets the photo would, and the
original's landmarks, because a picture that merely blinds the detector protects nobody. Any match
under any of them counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.faces import Face, align, detect, face_mask, faces_from_boxes, frame
from facedeid.models import Models, Recognizer

__all__ = [
    "FacePair",
    "Match",
    "Verdict",
    "compare",
    "find_again",
    "perceptual_change",
    "verify_face",
]

SEARCH_SIDE = 120
"""A face is searched again at about this size in pixels, whatever its size in the photo."""
CONTROL_MARGIN = 0.02
"""How much nearer than the control a face may be without counting as a match."""
SAME_PLACE = 0.25
"""Least intersection over union with the original box for a detection to be that face."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """One recogniser's opinion."""

    recognizer: str
    aligned: Literal["fresh", "original"]
    """Whether the face was found afresh or aligned by the original's landmarks."""
    distance: float
    threshold: float
    matched: bool
    white_box: bool
    """The method was trained or optimised against it: its failure to match is no evidence."""
    control: float | None = None
    """Distance of the original to a picture whose face is painted over, worked out where there
    would be a match: if that is a match too, hair and surroundings make it (or the original is no
    face to this recogniser), and only what is nearer than the control counts."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All opinions on one face."""

    detected: bool
    matches: tuple[Match, ...]

    @property
    def outcome(self) -> Literal["not-detected", "not-matched", "matched", "unverified"]:
        """A match by anyone decides; without an independent recogniser nothing is proven."""
        if any(match.matched for match in self.matches):
            return "matched"
        if all(match.white_box for match in self.matches):
            return "unverified"
        return "not-matched" if self.detected else "not-detected"

    @property
    def protected(self) -> bool:
        """No recogniser matches it, and at least one of them was independent of the method."""
        return self.outcome in ("not-matched", "not-detected")

    @property
    def disagreement(self) -> bool:
        """Some recognisers match the face and others do not."""
        by_name: dict[str, bool] = {}
        for match in self.matches:
            by_name[match.recognizer] = by_name.get(match.recognizer, False) or match.matched
        return len(set(by_name.values())) > 1


def verify_face(
    face: Face,
    embeddings: Sequence[Tensor],
    after: NDArray[np.uint8],
    recognizers: Sequence[Recognizer],
    *,
    require: str = "library",
    detector: str = "hog",
    white_box: Sequence[str] = (),
) -> Verdict:
    """Compare a face with what is now in its place.

    Args:
        face: the face as found in the original.
        embeddings: of the original face, one D-vector per recogniser.
        after: the written picture, H×W×3.
        recognizers: who judges.
        require: operating point that counts as a match.
        detector: how the face is searched again.
        white_box: names of recognisers that the method knew.
    """
    again = find_again(after, face, detector)
    views: list[tuple[Literal["fresh", "original"], Face]] = [("original", face)]
    if again is not None:
        views.insert(0, ("fresh", again))
    matches = []
    for recognizer, own in zip(recognizers, embeddings, strict=True):
        threshold = recognizer.threshold(require)
        vectors = recognizer.embed_photo(after, [view.landmarks for _, view in views])
        for (aligned, _), vector in zip(views, vectors, strict=True):
            distance = float(recognizer.distance(own, vector))
            matched = not distance >= threshold  # what is not a number proves nothing
            control = None
            if matched and aligned == "original":
                control = _control(face, own, after, recognizer)
                matched = not (control < threshold and distance >= control - CONTROL_MARGIN)
            matches.append(
                Match(
                    recognizer=recognizer.name,
                    aligned=aligned,
                    distance=round(distance, 5),
                    threshold=threshold,
                    matched=matched,
                    white_box=recognizer.name in white_box,
                    control=None if control is None else round(control, 5),
                )
            )
    return Verdict(detected=again is not None, matches=tuple(matches))


def _control(face: Face, own: Tensor, after: NDArray[np.uint8], recognizer: Recognizer) -> float:
    """The least distance of a face to the picture with that face painted over."""
    low, region = _surroundings(after, face)
    inside = _moved(face, np.ones(2), -low)
    mask = face_mask(inside, region.shape)[..., None]
    distances = []
    for color in (np.zeros(3), region.mean((0, 1))):
        painted = np.asarray(region * (1 - mask) + color * mask, np.uint8)
        vector = recognizer.embed_photo(painted, [inside.landmarks])[0]
        distances.append(float(recognizer.distance(own, vector)))
    return min(distances)


def _surroundings(rgb: NDArray[np.uint8], face: Face) -> tuple[NDArray[np.int_], NDArray[np.uint8]]:
    """The part of a photo within one side of a face's box, and where it begins (x, y)."""
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top, 1)
    low = np.maximum(np.floor([left - side, top - side]), 0).astype(int)
    high = np.ceil([right + side, bottom + side]).astype(int)
    return low, rgb[low[1] : high[1], low[0] : high[0]]


def find_again(rgb: NDArray[np.uint8], face: Face, detector: str) -> Face | None:
    """The face at the place of `face`, detected afresh; None: nothing is found there."""
    low, region = _surroundings(rgb, face)
    if not region.size:
        return None
    scale = SEARCH_SIDE / max(face.box[2] - face.box[0], face.box[3] - face.box[1], 1)
    width, height = (max(1, round(n * scale)) for n in region.shape[1::-1])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(region, (width, height), interpolation=kind), dtype=np.uint8)
    factor = np.array([region.shape[1] / width, region.shape[0] / height])
    candidates = [
        _moved(found, factor, low)
        for found in detect(resized, detector=detector, min_face=SEARCH_SIDE // 2)
    ]
    best = max(candidates, key=lambda found: _overlap(found.box, face.box), default=None)
    if best is None or _overlap(best.box, face.box) < SAME_PLACE:
        return None
    (placed,) = faces_from_boxes(rgb, [best.box])  # landmarks at the photo's own resolution
    return placed


def _moved(face: Face, factor: NDArray[np.float64], offset: NDArray[np.int_]) -> Face:
    """From pixels of a resized region to those of the photo."""
    corners = (np.array(face.box).reshape(2, 2) * factor + offset).ravel()
    landmarks = (face.landmarks + 0.5) * factor - 0.5 + offset
    left, top, right, bottom = (float(v) for v in corners)
    return replace(face, box=(left, top, right, bottom), landmarks=landmarks)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(shared / (areas - shared))


@dataclass(frozen=True)
class FacePair:
    """A face of the original and the verdict on its place in the other picture."""

    face: Face
    verdict: Verdict
    perceptual: float
    """How much the place has changed to the eye, by facedeid-lpips (not LPIPS)."""


@torch.no_grad()
def perceptual_change(
    before: NDArray[Any], after: NDArray[Any], face: Face, models: Models
) -> float:
    """Distance of an aligned face to what is in its place in another picture, by facedeid-lpips.

    Args:
        before: H×W×3 uint8 or uint16, where the face was found.
        after: the other picture, of the same geometry.
        face: whose place is compared.
        models: where the perceptual distance comes from.
    """
    place = frame(face)
    pair = [align(photo, place)[None].to(models.device) for photo in (before, after)]
    return round(float(models.perceptual(*pair)), 5)


def compare(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    models: Models,
    recognizers: Sequence[str] | None = None,
    *,
    require: str = "library",
    detector: str = "hog",
    min_face: int = 24,
) -> list[FacePair]:
    """Per face of `before`, whether recognisers still match it in `after` (same geometry)."""
    pairs = []
    judges = models.recognizers(recognizers)
    for face in detect(before, detector=detector, min_face=min_face):
        own = [r.embed_photo(before, [face.landmarks])[0] for r in judges]
        verdict = verify_face(face, own, after, judges, require=require, detector=detector)
        pairs.append(FacePair(face, verdict, perceptual_change(before, after, face, models)))
    return pairs
