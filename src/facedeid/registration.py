"""Moving the features of a made face back to where the photo has them."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.landmarks import BROWS
from facedeid.nets.landmark_net import LandmarkNet

__all__ = ["Registration"]

REACH = 0.24
"""Standard deviation of the Gaussians that carry displacements, of half the frame's side."""
STIFFNESS = 0.05
"""Added to the diagonal: displacements are met roughly, and neighbours move alike."""
FIELD = 32
"""Side of the square of displacements, which is enlarged: they are smooth."""
_PLACED = [i for i in range(68) if i not in BROWS]


@dataclass(frozen=True, eq=False)
class Registration:
    """Smooth warps of faces, so that their landmarks come to lie where those of others do.

    Displacements between landmarks are carried to all pixels by ridge regression with Gaussian
    kernels; the brows are not among them.
    """

    network: LandmarkNet
    landmarks: Tensor
    """Where they belong, N×68×2 in pixels of the frame of `of`."""
    weights: Tensor
    """N×P×58: displacements of the landmarks -> of P pixels of a square."""
    side: int

    @classmethod
    @torch.no_grad()
    def of(cls, network: LandmarkNet, faces: Tensor) -> "Registration":
        """To where faces N×3×s×s in [-1, 1] have their landmarks."""
        side, points = faces.shape[-1], network(faces)
        own, line = _relative(points, side), torch.linspace(-1, 1, FIELD, device=faces.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(1, -1, 2)
        stiff = STIFFNESS * torch.eye(own.shape[1], device=faces.device)
        across = _kernel(own, places.expand(len(own), -1, -1))
        weights = torch.linalg.solve(_kernel(own, own) + stiff, across).mT.contiguous()
        return cls(network, points, weights, side)

    def rows(self, rows: Tensor) -> "Registration":
        """Of some of the faces."""
        return replace(self, landmarks=self.landmarks[rows], weights=self.weights[rows])

    def __call__(self, made: Tensor, shown: Tensor) -> Tensor:
        """Warp faces by as much as would bring landmarks to their places.

        Args:
            made: what is warped, N×3×s×s; gradients pass through, and not through the warp's size.
            shown: where the landmarks are found now, N×3×s×s in [-1, 1].

        Returns:
            N×3×s×s.
        """
        with torch.no_grad():
            apart = _relative(self.network(shown), self.side) - _relative(self.landmarks, self.side)
            field = (self.weights @ apart).view(len(made), FIELD, FIELD, 2).permute(0, 3, 1, 2)
            size = list(made.shape[-2:])
            field = F.interpolate(field, size, mode="bilinear", align_corners=True)
            still = torch.eye(2, 3, device=made.device).expand(len(made), -1, -1)
            grid = F.affine_grid(still, list(made.shape), align_corners=False)
            grid = grid + field.permute(0, 2, 3, 1)
        return F.grid_sample(made, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _relative(landmarks: Tensor, side: int) -> Tensor:
    """Pixels of 68 landmarks -> the 58 that are placed, in -1..1 from edge to edge."""
    return (landmarks[:, _PLACED].float() + 0.5) * (2 / side) - 1


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """N×P×2 and N×Q×2 -> N×P×Q."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return torch.exp(-squared / (2 * REACH**2))
