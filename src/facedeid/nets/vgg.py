"""VGG-19 (Simonyan and Zisserman 2015), the trunk that perceptual losses look through.

Keys as in torchvision (`features.N.weight`, `features.N.bias`); a classifier is left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from facedeid.errors import OptionError
from facedeid.nets import load_official

__all__ = ["Vgg19", "vgg19"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, for RGB in [0, 1]."""
STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and convolutions before each pooling."""
SMALLEST = 32


class Vgg19(nn.Module):
    """N×3×H×W, RGB in [-1, 1], sides of 32 and more -> N×512×H/32×W/32, the last pooled map."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, repeats in STAGES:
            for _ in range(repeats):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map after the fifth pooling.

        Raises:
            OptionError: pictures are smaller than 32 pixels.
        """
        if min(x.shape[2:]) < SMALLEST:
            raise OptionError(f"pictures must be {SMALLEST} px or more, got {tuple(x.shape[2:])}")
        found: Tensor = self.features(((x + 1) / 2 - self.mean) / self.std)
        return found


def vgg19(state: Mapping[str, Tensor]) -> Vgg19:
    """The network with torchvision's weights (features alone, or the whole), for evaluation.

    Raises:
        WeightsError: these are not the weights of VGG-19.
    """
    trunk = {k: v.float() for k, v in state.items() if not k.startswith("classifier.")}
    return load_official(Vgg19(), trunk).eval()
