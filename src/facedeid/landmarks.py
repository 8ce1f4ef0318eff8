"""The 68 landmarks (iBUG 300-W order): groups, the mean face, least-squares similarities.

Points are (x, y); a face's right side, which is the image's left, comes first.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BROWS",
    "CHIN",
    "EYES",
    "FACE_BOX",
    "FIVE_POINTS",
    "LEFT_EYE",
    "LIPS",
    "MEAN_FACE",
    "MIRRORED",
    "MOUTH",
    "NOSE",
    "PARTS",
    "RIGHT_EYE",
    "similarity",
]

CHIN = tuple(range(17))
BROWS = tuple(range(17, 27))
NOSE = tuple(range(27, 36))
RIGHT_EYE = tuple(range(36, 42))
LEFT_EYE = tuple(range(42, 48))
EYES = RIGHT_EYE + LEFT_EYE
MOUTH = tuple(range(48, 68))
LIPS = tuple(range(48, 60))
"""Their outer edge."""

PARTS = {"chin": CHIN, "nose": NOSE, "eyes": EYES, "mouth": MOUTH}
"""Those whose displacement is measured; the brows are not."""

FIVE_POINTS: tuple[tuple[int, ...], ...] = (
    RIGHT_EYE,
    LEFT_EYE,
    (30,),
    (48,),
    (54,),
)
"""Eye centres, nose tip, mouth corners: each the mean of these landmarks."""

MIRRORED: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)
"""Landmark i of a mirrored picture is landmark MIRRORED[i] of the picture."""

FACE_BOX = (0.1975, 0.294, 0.7985, 0.895)
"""Where HOG finds the face of the canonical frame, by the median over 146 faces: left, top, right,
bottom, in sides of the frame."""

MEAN_FACE: NDArray[np.float64] = np.array(
    [
        (0.2203, 0.4767),
        (0.2246, 0.5496),
        (0.2339, 0.6216),
        (0.2465, 0.6934),
        (0.2705, 0.7612),
        (0.3118, 0.8206),
        (0.3661, 0.8704),
        (0.4286, 0.9099),
        (0.498, 0.9219),
        (0.5675, 0.9099),
        (0.63, 0.8704),
        (0.6843, 0.8206),
        (0.7256, 0.7612),
        (0.7496, 0.6934),
        (0.7621, 0.6216),
        (0.7715, 0.5496),
        (0.7758, 0.4767),
        (0.2706, 0.4152),
        (0.3068, 0.3854),
        (0.3552, 0.3773),
        (0.4038, 0.3853),
        (0.4502, 0.4049),
        (0.5459, 0.4049),
        (0.5923, 0.3853),
        (0.6409, 0.3773),
        (0.6893, 0.3854),
        (0.7255, 0.4152),
        (0.498, 0.4651),
        (0.498, 0.5142),
        (0.498, 0.563),
        (0.498, 0.6133),
        (0.4435, 0.6455),
        (0.4698, 0.6548),
        (0.498, 0.6631),
        (0.5262, 0.6548),
        (0.5526, 0.6455),
        (0.326, 0.472),
        (0.3564, 0.4546),
        (0.3931, 0.4559),
        (0.4247, 0.48),
        (0.39, 0.4856),
        (0.354, 0.4846),
        (0.5714, 0.48),
        (0.603, 0.4559),
        (0.6396, 0.4546),
        (0.67, 0.472),
        (0.6421, 0.4846),
        (0.6061, 0.4856),
        (0.3892, 0.7344),
        (0.4292, 0.7158),
        (0.469, 0.7065),
        (0.498, 0.7134),
        (0.5271, 0.7065),
        (0.5669, 0.7158),
        (0.6069, 0.7344),
        (0.5686, 0.772),
        (0.5294, 0.7891),
        (0.498, 0.7925),
        (0.4667, 0.7891),
        (0.4275, 0.772),
        (0.4064, 0.7373),
        (0.4686, 0.7332),
        (0.498, 0.7358),
        (0.5275, 0.7332),
        (0.5897, 0.7373),
        (0.528, 0.7505),
        (0.498, 0.7539),
        (0.4681, 0.7505),
    ]
)
"""Where the landmarks lie in the canonical frame, as shares of its side: the median over 8,459
adult faces (CelebA, All-Age-Faces, generated), made symmetric. Read-only."""
MEAN_FACE.setflags(write=False)


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares similarities without reflection, N×K×2 and K×2 -> N×2×3 (Umeyama 1991).

    Each matrix takes points (x, y, 1) of `source` to `target`.
    """
    source_mean = source.mean(1, keepdims=True)
    target_mean = target.mean(0)
    a = source - source_mean
    b = target - target_mean
    norm = np.maximum((a**2).sum((1, 2)), 1e-12)
    cosine = (a * b).sum((1, 2)) / norm
    sine = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(1) / norm
    matrix = np.empty((len(source), 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = cosine
    matrix[:, 1, 0] = sine
    matrix[:, 0, 1] = -sine
    matrix[:, :, 2] = target_mean - np.einsum("nij,nj->ni", matrix[:, :, :2], source_mean[:, 0])
    return matrix
