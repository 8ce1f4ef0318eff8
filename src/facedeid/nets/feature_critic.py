"""An adversary that sees features of a frozen network instead of pixels.

Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021; here without their random mixing of
channels and depths, on the trunk of a perceptual distance. As there, spectral norm keeps the heads'
slopes small: without it networks and adversary chase each other.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facedeid.nets.lpips import CHANNELS, Lpips, unit

__all__ = ["FeatureCritic"]


class FeatureCritic(nn.Module):
    """Small convolutional heads, one for each depth of the trunk; only they learn and are saved.

    Input: N×3×S×S in [-1, 1]. Output: one N×1×h×w map of raw scores per depth.
    """

    def __init__(self, trunk: Lpips, *, width: int = 64) -> None:
        super().__init__()
        self._trunk = (trunk,)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(channels, width, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, 1, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for channels in CHANNELS[trunk.kind]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Score maps, from the shallowest depth to the deepest."""
        (trunk,) = self._trunk
        return [
            head(unit(features) * features.shape[1] ** 0.5)
            for head, features in zip(self.heads, trunk.maps(x), strict=True)
        ]
