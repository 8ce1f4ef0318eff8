"""The recognition network of CurricularFace.

Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition",
CVPR 2020. The released network, `CurricularFace_Backbone.pth`, is an IR-101: the blocks and keys
of `irse`, a last normalisation without weights, and raw embeddings.
"""

from typing import Literal

from facedeid.nets.irse import IrSe

__all__ = ["CurricularFace"]


class CurricularFace(IrSe):
    """IR-50, IR-101 or (`gated`) their squeeze-and-excitation variants.

    Input: N×3×112×112 aligned to the ArcFace template, RGB, mean and std 0.5, so in [-1, 1].
    Output: N×512 raw embeddings; compare them by cosine (divided by their norm they are what pSp
    calls the CurricularFace embedding). The official forward also returns the last feature map;
    this one does not.
    """

    def __init__(self, depth: Literal[50, 101] = 101, *, gated: bool = False) -> None:
        layers = {50: 50, 101: 100}[depth]
        super().__init__(layers, se=gated, affine=False, normalize=False)
