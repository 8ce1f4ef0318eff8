"""LPIPS (Zhang et al. 2018), version 0.1, on AlexNet, VGG16 or SqueezeNet 1.1, and a compact one.

The distance of two pictures: their features at several depths, normalised over channels at every
position, the squared difference weighed per channel, averaged over positions, summed over depths.
Trunks have the keys of torchvision (`features.N...`), heads those of the official files
(`linN.model.1.weight`); `lpips_state` also reads the state dict of the authors' package. The
compact trunk has AlexNet's shape with fewer channels in the last three layers; its distance is a
measure of its own, learned from LPIPS, and must not be called LPIPS.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import OptionError, WeightsError

__all__ = ["Kind", "Lpips", "lpips", "lpips_state", "unit"]

Kind = Literal["alex", "vgg", "squeeze", "compact"]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10
SMALLEST = 32
"""Smallest side: below, the deepest layers have no positions left."""

TAPS: dict[str, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "compact": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
CHANNELS: dict[str, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "compact": (64, 192, 112, 96, 96),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}


class Fire(nn.Module):
    """SqueezeNet's module (Iandola et al. 2016): N×C×H×W -> N×2·expand×H×W."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, then expand with two sizes of window."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def _alex(channels: tuple[int, ...]) -> list[nn.Module]:
    a, b, c, d, e = channels
    return [
        nn.Conv2d(3, a, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1),
        nn.ReLU(),
    ]


def _vgg(channels: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for width, repeats in zip(channels, (2, 2, 3, 3, 3), strict=True):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2))
    return layers[:-1]


def _squeeze(channels: tuple[int, ...]) -> list[nn.Module]:
    pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, 2), nn.ReLU(), pool()]
    layers += [Fire(64, 16, 64), Fire(128, 16, 64), pool()]
    layers += [Fire(128, 32, 128), Fire(256, 32, 128), pool()]
    return [*layers, Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]


TRUNKS = {"alex": _alex, "compact": _alex, "vgg": _vgg, "squeeze": _squeeze}


class Head(nn.Module):
    """One weight per channel, under the official key `model.1.weight`.

    `positive` takes weights by their size, so that a distance stays one while they are learned.
    """

    def __init__(self, channels: int, *, positive: bool = False) -> None:
        super().__init__()
        self.positive = positive
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        """Squared differences N×C×H×W -> N, weighed and averaged over positions."""
        weight = self.model[1].weight
        assert isinstance(weight, Tensor)
        weight = weight.flatten().abs() if self.positive else weight.flatten()
        return difference.mean((2, 3)) @ weight


class Lpips(nn.Module):
    """Two batches N×3×H×W, RGB in [-1, 1], sides of 32 and more -> N distances, 0 for equals."""

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Kind = "alex") -> None:
        super().__init__()
        if kind not in TRUNKS:
            raise OptionError(f"LPIPS runs on {', '.join(TRUNKS)}, not {kind!r}")
        self.kind = kind
        self.features = nn.Sequential(*TRUNKS[kind](CHANNELS[kind]))
        for i, width in enumerate(CHANNELS[kind]):
            self.add_module(f"lin{i}", Head(width, positive=kind == "compact"))
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor, *, by_depth: bool = False) -> Tensor:
        """Distances, differentiable in both pictures; or what each depth adds to them: depths×N."""
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
            raise OptionError(f"two batches N×3×H×W are compared, got {a.shape} and {b.shape}")
        if min(a.shape[2:]) < SMALLEST:
            raise OptionError(f"pictures must be {SMALLEST} px or more, got {tuple(a.shape[2:])}")
        if a.requires_grad == b.requires_grad:
            both = [features.chunk(2) for features in self.maps(torch.cat([a, b]))]
            first, second = [one for one, _ in both], [two for _, two in both]
        else:  # half of the backward pass would be for nothing
            first, second = self.maps(a), self.maps(b)
        return self.between(first, second, by_depth=by_depth)

    def between(
        self, first: Sequence[Tensor], second: Sequence[Tensor], *, by_depth: bool = False
    ) -> Tensor:
        """The distances of pictures whose `maps` are known: N, or depths×N."""
        parts = [
            self.get_submodule(f"lin{i}")((unit(one) - unit(two)).square())
            for i, (one, two) in enumerate(zip(first, second, strict=True))
        ]
        return torch.stack(parts) if by_depth else torch.stack(parts).sum(0)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Features at each depth of pictures in [-1, 1]."""
        x = (x - self.shift) / self.scale
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS[self.kind]:
                found.append(x)
        return found


def unit(features: Tensor) -> Tensor:
    """Unit length over channels; where all are zero (no gradient there), zero."""
    norm = features.square().sum(1, keepdim=True).clamp_min(EPSILON**2).sqrt()
    return features / (norm + EPSILON)


def lpips_state(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One state dict for `Lpips` from torchvision's features, the official heads, or the package's.

    The package repeats its heads under `lins.` and calls the trunk `net.sliceK.N`; classifiers of
    whole torchvision networks are left out.
    """
    state: dict[str, Tensor] = {}
    for part in parts:
        for key, value in part.items():
            if key.startswith(("lins.", "scaling_layer.", "classifier.")):
                continue
            state[re.sub(r"^net\.slice\d+\.", "features.", key)] = value.float()
    return state


def lpips(state: Mapping[str, Tensor]) -> Lpips:
    """The network that a state dict (see `lpips_state`) belongs to, in evaluation mode.

    Raises:
        WeightsError: no trunk of the known kinds has these keys and shapes.
    """
    for kind in TRUNKS:
        with torch.device("meta"):
            expected = Lpips(kind).state_dict()  # type: ignore[arg-type]
        if {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in state.items()}:
            net = Lpips(kind)  # type: ignore[arg-type]
            net.load_state_dict(dict(state))
            return net.eval()
    raise WeightsError(
        "not the weights of LPIPS: both the features (features.N.weight) and the linear heads "
        "(linN.model.1.weight) of AlexNet, VGG16 or SqueezeNet 1.1 are needed"
    )
