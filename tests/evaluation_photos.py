"""A little LFW: two people, made of the portraits that ship with scikit-image and matplotlib."""

from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from facedeid.faces import detect, frame
from facedeid.landmarks import MEAN_FACE

SIDE = 250
"""Of the photos in pixels; the canonical frame has 0.68 of it, in the middle, as in LFW."""
VARIANTS = (
    (0, 1.0, 0.0, (0, 0)),
    (4, 0.97, 8.0, (3, -2)),
    (-5, 1.05, -12.0, (-4, 3)),
    (2, 0.93, 18.0, (1, 4)),
)
"""Of one portrait, as if they were further photos: degrees, scale, brightness, shift."""


def photo(portrait, face, degrees, scale, brightness, shift):
    """The portrait with its face placed as LFW places faces, SIDE×SIDE×3."""
    matrix = frame(face, round(0.68 * SIDE)).matrix.copy()
    matrix[:, 2] += 0.16 * SIDE
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, scale)
    whole = turn @ np.vstack([matrix, [0, 0, 1]])
    whole[:, 2] += shift
    placed = cv2.warpAffine(portrait, whole, (SIDE, SIDE), flags=cv2.INTER_AREA)
    return np.clip(placed.astype(np.float32) + brightness, 0, 255).astype(np.uint8)


def make(folder: Path, portraits):
    """Write `Person/Person_0001.jpg` and so on, and pairs.txt with two folds of six pairs each."""
    names = list(portraits)
    for name, portrait in portraits.items():
        (folder / name).mkdir(parents=True)
        faces = detect(portrait, min_face=80)
        face = max(faces, key=lambda found: found.box[2] - found.box[0])
        for number, variant in enumerate(VARIANTS, 1):
            path = folder / name / f"{name}_{number:04d}.jpg"
            Image.fromarray(photo(portrait, face, *variant)).save(path, quality=95)
    both = list(combinations(range(1, len(VARIANTS) + 1), 2))
    strangers = list(product(range(1, 5), range(1, 5)))
    lines = ["2\t6"]
    for fold, name in enumerate(names):
        lines += [f"{name}\t{i}\t{j}" for i, j in both]
        drawn = strangers[fold::2][:6]
        lines += [f"{names[0]}\t{i}\t{names[1]}\t{j}" for i, j in drawn]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


def usual_landmarks():
    """Where the mean face lies in such a photo, 68×2."""
    return (MEAN_FACE - 0.5) * 0.68 * SIDE + SIDE / 2
