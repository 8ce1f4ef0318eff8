import numpy as np

from facedeid.landmarks import MEAN_FACE, MIRRORED


def test_a_mirrored_mean_face_is_the_mean_face():
    """It was made symmetric about x = 0.498."""
    mirrored = MEAN_FACE[list(MIRRORED)] * [-1, 1] + [2 * 0.498, 0]
    np.testing.assert_allclose(mirrored, MEAN_FACE, atol=6e-4)
    assert sorted(MIRRORED) == list(range(68))
