"""The library's own landmark network: 68 points of an aligned face, differentiable.

Heat maps and the mean place of each (integral regression, Sun et al. 2018), on a small network
with a way back up (Newell et al. 2016, with one hourglass).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.nets.compact_face import Residual
from facedeid.nets.residual import small

__all__ = ["LandmarkNet"]


class LandmarkNet(nn.Module):
    """N×3×S×S RGB in [-1, 1], in the canonical frame -> N×68×2, x and y in pixels of that frame.

    The brows (17 to 26) are not learned: no measure of displacement counts them.
    Works at 128 px; other sides are averaged or enlarged to that, and the points scaled back.
    """

    SIDE = 128

    def __init__(self, *, stem: int = 24, widths: tuple[int, ...] = (48, 80, 112)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(12, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        inputs = (stem, *widths[:-1])
        self.down = nn.ModuleList(Residual(a, b, 2) for a, b in zip(inputs, widths, strict=True))
        self.deep = Residual(widths[-1], widths[-1], 1)
        self.lateral = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(Residual(fine, fine, 1) for fine in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 68, 1)

    def forward(self, faces: Tensor) -> Tensor:
        """The points; in float32 whatever the network runs in."""
        x, skips = self.stem(F.pixel_unshuffle(small(faces, self.SIDE), 2)), []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        x = self.deep(x)
        for lateral, stage, skip in zip(self.lateral, self.up, skips[-2::-1], strict=True):
            raised = F.interpolate(lateral(x), skip.shape[2:], mode="nearest")
            x = stage(raised + skip)
        heat = self.head(x).float()
        points: Tensor = _places(heat) * (faces.shape[-1] / heat.shape[-1]) - 0.5
        return points


def _places(heat: Tensor) -> Tensor:
    """Mean place under the softmax of each of N×K×H×H maps: N×K×2, cells from their edges on."""
    side = heat.shape[-1]
    share = heat.flatten(2).softmax(2).view_as(heat)
    middle = torch.arange(side, device=heat.device) + 0.5
    return torch.stack([(share.sum(axis) * middle).sum(-1) for axis in (2, 3)], -1)
