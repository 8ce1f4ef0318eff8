"""AEI-Net: attributes of one face, identity of another; IdentityDP's network and FaceShifter's.

Wen et al., "IdentityDP: Differential Private Identification Protection for Face Images",
Neurocomputing 2022 (fig. 3: 4×4 stride-2 convolutions down, transposed convolutions up with skip
concatenation, LeakyReLU 0.1, n = 8 AAD residual blocks at 256 px), after Li et al., "FaceShifter:
Towards High Fidelity and Occlusion Aware Face Swapping", CVPR 2020. The identity encoder is a
recogniser and not part of this file.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facedeid.errors import OptionError
from facedeid.nets.residual import changed, small

__all__ = [
    "AEIConfig",
    "AEINet",
    "AdaptiveAttention",
    "AttributeEncoder",
    "FusionGenerator",
    "IdentityNet",
]


@dataclass(frozen=True, kw_only=True)
class AEIConfig:
    """The shape of an AEI-Net; the defaults are IdentityDP's 256 px network, 184 M parameters.

    The number of attribute maps and of AAD blocks is n = log2(size / fold): the encoder goes down
    to 2×2. Channels are 32, 64, ... up to 1024 at full width.
    """

    size: int = 256
    """Side of the face: `fold` times a power of two from 8 up."""
    identity: int = 512
    """Length of the identity vector."""
    width: float = 1.0
    """Multiplies all channels (the 32 of the finest map are rounded to an integer)."""
    norm: Literal["instance", "batch"] = "instance"
    """Normalisation inside the AAD layers; instance is FaceShifter's."""
    kernel: Literal[1, 3] = 1
    """Kernel of the attribute and mask convolutions inside the AAD layers."""
    mask: Literal["one", "per-channel"] = "one"
    """Channels of the attention mask."""
    output: Literal["tanh", "sigmoid"] = "tanh"
    """Range of input and output: tanh works in [-1, 1], sigmoid in [0, 1]."""
    convolutions: int = 2
    """Convolutions on the main path of an AAD block."""
    skip: Literal["concat", "add"] = "concat"
    """How the attribute encoder's way up takes in its way down (U-Net or LinkNet)."""
    bias: bool = False
    """Biases on the 4×4 and 3×3 convolutions."""
    doublings: int = 5
    """How often the channels double on the way down."""
    fold: int = 1
    """Side of the blocks of pixels that become channels before the first convolution, and pixels
    again after the last: the finest resolutions, the dearest ones, are then left out."""
    pixels: bool = False
    """Whether the (folded) face itself is part of the finest attribute map."""

    def __post_init__(self) -> None:
        side = self.size // self.fold if self.fold > 0 and self.size % self.fold == 0 else 0
        if side < 8 or side & (side - 1):
            raise OptionError(
                f"size / fold must be a power of two from 8 up, got {self.size} / {self.fold}"
            )
        if self.base < 1 or self.identity < 1 or self.convolutions < 1 or self.doublings < 0:
            raise OptionError("width, identity and convolutions must leave at least one of each")

    @property
    def maps(self) -> int:
        """n, the number of attribute maps."""
        return (self.size // self.fold).bit_length() - 1

    @property
    def colours(self) -> int:
        """Channels of a folded face."""
        return 3 * self.fold**2

    @property
    def base(self) -> int:
        """Channels of the finest map on the way down."""
        return round(32 * self.width)

    def channels(self, level: int) -> int:
        """Channels at level 0 (half of the full size), 1, ...; doubled `doublings` times."""
        return self.base << min(level, self.doublings)

    def attribute_channels(self, index: int) -> int:
        """Channels of attribute map 0 (2×2) ... n - 1 (full size)."""
        if index == 0:
            return self.channels(self.maps - 2)
        joined = self.channels(max(self.maps - 2 - index, 0))
        extra = self.colours if self.pixels and index == self.maps - 1 else 0
        return (2 * joined if self.skip == "concat" else joined) + extra


def _norm(config: AEIConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels)


def _resized(x: Tensor) -> Tensor:
    """Twice the size, bilinear, corners aligned: as the public implementations do it."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class AttributeEncoder(nn.Module):
    """U-Net whose way up is the multi-level attribute representation.

    Input: N×3×S×S, range as `AEIConfig.output`. Output: n maps, from 2×2 to S×S.
    """

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        self.concat = config.skip == "concat"
        self.fold, self.pixels = config.fold, config.pixels
        deepest = config.maps - 2
        widths = [config.colours, *(config.channels(level) for level in range(deepest + 1))]
        self.down = nn.ModuleList(
            _stage(nn.Conv2d(a, b, 4, 2, 1, bias=config.bias), b) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList()
        for index in range(deepest):
            a, b = config.attribute_channels(index), config.channels(deepest - 1 - index)
            self.up.append(_stage(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=config.bias), b))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Attribute maps of a batch of faces, coarse to fine."""
        skips, folded = [], F.pixel_unshuffle(x, self.fold)
        x = folded
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        maps = [skips.pop()]
        for stage in self.up:
            x = stage(maps[-1])
            skip = skips.pop()
            maps.append(torch.cat([x, skip], 1) if self.concat else x + skip)
        finest = _resized(maps[-1])
        return [*maps, torch.cat([finest, folded], 1) if self.pixels else finest]


def _stage(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.1))


class AdaptiveAttention(nn.Module):
    """AAD: adaptive attentional denormalisation (FaceShifter, eq. 3-6).

    The normalised features are denormalised once by the attribute map (per pixel) and once by the
    identity (per channel); a mask computed from them decides between the two at each place.
    """

    def __init__(self, config: AEIConfig, channels: int, attributes: int) -> None:
        super().__init__()
        kernel, pad = config.kernel, config.kernel // 2
        masks = 1 if config.mask == "one" else channels
        self.norm = _norm(config, channels)
        self.gamma = nn.Conv2d(attributes, channels, kernel, padding=pad)
        self.beta = nn.Conv2d(attributes, channels, kernel, padding=pad)
        self.gamma_id = nn.Linear(config.identity, channels)
        self.beta_id = nn.Linear(config.identity, channels)
        self.mask = nn.Conv2d(channels, masks, kernel, padding=pad)

    def forward(self, h: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """h: N×C×H×W, attributes: N×A×H×W, identity: N×D -> N×C×H×W."""
        h = self.norm(h)
        mask = torch.sigmoid(self.mask(h))
        by_attributes = self.beta(attributes).addcmul_(self.gamma(attributes), h)
        gamma, beta = self.gamma_id(identity), self.beta_id(identity)
        by_identity = torch.addcmul(beta[:, :, None, None], gamma[:, :, None, None], h)
        return torch.lerp(by_attributes, by_identity.to(by_attributes), mask.to(by_attributes))


class _Block(nn.Module):
    """AAD residual block: (AAD, ReLU, 3×3) repeated, plus the same once if channels change."""

    def __init__(self, config: AEIConfig, inputs: int, outputs: int, attributes: int) -> None:
        super().__init__()
        self.main = config.convolutions
        branches = self.main + (inputs != outputs)
        self.norms = nn.ModuleList(
            AdaptiveAttention(config, inputs, attributes) for _ in range(branches)
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(
                inputs, outputs if j >= self.main - 1 else inputs, 3, padding=1, bias=config.bias
            )
            for j in range(branches)
        )

    def forward(self, h: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        x, shortcut = h, h
        for j, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            if j < self.main:
                x = conv(F.relu(norm(x, attributes, identity), inplace=True))
            else:
                shortcut = conv(F.relu(norm(h, attributes, identity), inplace=True))
        return x + shortcut


class FusionGenerator(nn.Module):
    """n AAD residual blocks from a 2×2 start, up-sampled in between.

    Input: identity N×D (the public weights expect unit length) and the n attribute maps.
    Output: N×3×S×S in the range of `AEIConfig.output`.
    """

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        n = config.maps
        widths = [config.channels(n - k) for k in range(n)] + [config.colours]
        self.start = nn.ConvTranspose2d(config.identity, widths[0], 2)
        self.blocks = nn.ModuleList(
            _Block(config, widths[k], widths[k + 1], config.attribute_channels(k)) for k in range(n)
        )
        self.sigmoid = config.output == "sigmoid"
        self.fold = config.fold

    def last(self) -> list[nn.Conv2d]:
        """The convolutions whose sum is the picture, before the output function."""
        block = self.blocks[-1]
        assert isinstance(block, _Block)
        return [c for c in block.convs[block.main - 1 :] if isinstance(c, nn.Conv2d)]

    def forward(self, identity: Tensor, attributes: list[Tensor]) -> Tensor:
        """The face with these attributes and this identity."""
        x = self.start(identity[:, :, None, None])
        for k, (block, attribute) in enumerate(zip(self.blocks, attributes, strict=True)):
            x = block(_resized(x) if k else x, attribute, identity)
        x = F.pixel_shuffle(x, self.fold)
        return torch.sigmoid(x) if self.sigmoid else torch.tanh(x)


class AEINet(nn.Module):
    """Attribute encoder and fusion generator.

    Input: N×3×S×S RGB in [-1, 1] ([0, 1] with a sigmoid output) and identity vectors N×D; the
    public weights take ArcFace vectors of unit length. Output in the same range.
    """

    def __init__(self, config: AEIConfig | None = None) -> None:
        super().__init__()
        self.config = config or AEIConfig()
        self.encoder = AttributeEncoder(self.config)
        self.generator = FusionGenerator(self.config)

    def forward(self, faces: Tensor, identity: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The faces with another identity, and the attribute maps used (for L_att)."""
        attributes: list[Tensor] = self.encoder(faces)
        return self.generator(identity, attributes), attributes


class IdentityNet(nn.Module):
    """`facedeid-identity`: a compact AEI-Net that works at half the frame's side.

    Input: faces N×3×256×256 (or 128×128) RGB in [-1, 1] and unit vectors N×128: dlib's, less
    `centre`, normalised (`unit`). Output: faces with that identity. Beyond the paper, the face
    itself is the finest attribute map and the generator predicts a change of it, of at most
    `limit`: so that background, hair and light stay what they are.
    """

    SIDE = 128
    IDENTITY = 128
    centre: Tensor
    """Mean of dlib's vectors over people: 128."""

    def __init__(self, *, width: float = 1.0, doublings: int = 2, limit: float = 0.5) -> None:
        super().__init__()
        self.limit = limit
        self.aei = AEINet(
            AEIConfig(
                size=self.SIDE,
                identity=self.IDENTITY,
                width=width,
                convolutions=1,
                doublings=doublings,
                fold=2,
                pixels=True,
            )
        )
        for layer in self.aei.generator.last():
            nn.init.zeros_(layer.weight)  # starts as the identity
        self.register_buffer("centre", torch.zeros(self.IDENTITY))

    def unit(self, vectors: Tensor) -> Tensor:
        """dlib's vectors N×128, centred and normalised: what the network takes as an identity."""
        return F.normalize(vectors - self.centre.to(vectors))

    @staticmethod
    def away(wanted: Tensor, own: Tensor) -> Tensor:
        """Unit vectors N×128 of other people, turned away from the faces' own: for swaps.

        The network goes the less far, the more alike two vectors are, and people of one
        origin are.
        """
        return F.normalize(wanted - 0.6 * own)

    def attributes(self, faces: Tensor) -> list[Tensor]:
        """The attribute maps, coarse to fine: what is kept of the faces."""
        maps: list[Tensor] = self.aei.encoder(small(faces, self.SIDE))
        return maps

    def forward(self, faces: Tensor, identity: Tensor) -> Tensor:
        """The faces with another identity."""

        def change(cover: Tensor) -> Tensor:
            result: Tensor = self.limit * self.aei(cover, identity)[0].float()
            return result

        return changed(faces, self.SIDE, self.limit, change)
