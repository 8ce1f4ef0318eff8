"""The hiding network of face de-identification by feature embedding.

Hanawa et al., "Face image de-identification based on feature embedding", EURASIP Journal on Image
and Video Processing 2024, section 3.1: a U-Net (Ronneberger et al. 2015) with residual blocks (He
et al. 2016) in the encoder. The other person's feature is tiled to an image and concatenated with
the cover.

The paper's text gives neither widths nor depths. Decisions: five resolutions of 64 to 1024
channels and 2×2 up-convolutions as in U-Net; one basic residual block per resolution, which also
does the down-sampling, with batch normalisation as in ResNet; tanh at the end. Beyond the paper:
a width multiplier, feature-wise modulation by the identity (FiLM, Perez et al. 2018) instead of or
beside the tiles, group normalisation, and an output that is a bounded change of the cover.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facedeid.errors import OptionError
from facedeid.nets.residual import changed, repeated

__all__ = ["Conditioning", "EmbeddingNet", "HidingConfig", "HidingNet", "tile"]

Conditioning = Literal["tile", "film", "both"]


@dataclass(frozen=True, kw_only=True)
class HidingConfig:
    """The shape of a hiding network; the defaults follow the paper."""

    width: float = 1.0
    """Multiplies all channels (the 64 at full size are rounded to a multiple of 4)."""
    levels: int = 5
    """Resolutions; the sides of a photo must be multiples of fold · 2^(levels - 1)."""
    identity: int = 512
    """Length of the feature that is embedded."""
    conditioning: Conditioning = "tile"
    """How the feature comes in: as three tiled image channels, as scale and shift of the
    bottleneck and of every decoder stage, or both."""
    norm: Literal["batch", "group"] = "batch"
    """Group normalisation (groups of 4 or more channels) for training with small batches."""
    output: Literal["direct", "residual"] = "direct"
    """`direct`: tanh. `residual`: cover + limit · tanh, clamped; starts as the identity."""
    limit: float = 1.0
    """Largest change of a value under `residual` (the range -1..1 is 2 wide)."""
    outputs: int = 3
    """Channels of the head; more than 3 only for users of `HidingNet.raw`."""
    fold: int = 1
    """Side of the blocks of pixels that become channels before the first convolution, and pixels
    again after the head: the finest resolution, the dearest one, is then left out."""

    def __post_init__(self) -> None:
        if self.base < 4 or self.levels < 2 or self.identity < 1:
            raise OptionError("a hiding net needs 4 channels, 2 levels and a feature, at least")
        if self.outputs < 3 or self.limit <= 0 or self.fold < 1:
            raise OptionError("a hiding net needs 3 output channels, a positive limit and fold")

    @property
    def base(self) -> int:
        """Channels at full size."""
        return 4 * round(16 * self.width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per resolution, fine to coarse."""
        return tuple(self.base * 2**level for level in range(self.levels))


def tile(feature: Tensor, height: int, width: int) -> Tensor:
    """Tile features over an image: N×D -> N×3×height×width.

    The vector is repeated in reading order, so that 512 values at 256×256 become a 2×256 block
    repeated 128 times downwards, in three equal channels, as in the paper.
    """
    copies = -(-height * width // feature.shape[1])
    plane = feature.repeat(1, copies)[:, : height * width]
    return plane.view(-1, 1, height, width).expand(-1, 3, -1, -1)


class _Modulated(nn.Module):
    """Normalisation, then (1 + scale) and shift from a code, where there is one."""

    def __init__(self, config: HidingConfig, channels: int, *, film: bool) -> None:
        super().__init__()
        if config.norm == "group":
            self.norm: nn.Module = nn.GroupNorm(min(8, channels // 4), channels)
        else:
            self.norm = nn.BatchNorm2d(channels)
        self.film = nn.Linear(_code_length(config), 2 * channels) if film else None

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.film is None or code is None:
            return x
        scale, shift = self.film(code)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, x, 1 + scale)


def _code_length(config: HidingConfig) -> int:
    return 4 * config.base


class _Block(nn.Module):
    """Two 3×3 convolutions with normalisation and ReLU; `residual` adds a 1×1 shortcut."""

    def __init__(
        self,
        config: HidingConfig,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        residual: bool,
        film: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = _Modulated(config, outputs, film=film)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _Modulated(config, outputs, film=film)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if residual else None

    def forward(self, x: Tensor, code: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """`skip`: further channels; where it has fewer rows than `x`, again and again."""
        y = self.conv1(x) if skip is None else self._joined(x, skip)
        y = F.relu(self.norm1(y, code))
        y = self.norm2(self.conv2(y), code)
        return F.relu(y if self.shortcut is None else y + self._short(x))

    def _short(self, x: Tensor) -> Tensor:
        """`shortcut`, its stride taken by indexing: the gradient of the strided convolution writes
        where it must not, with few channels on CPUs with AVX-512 (torch 2.13).
        """
        assert self.shortcut is not None
        step = self.shortcut.stride[0]
        return F.conv2d(x[..., ::step, ::step], self.shortcut.weight, self.shortcut.bias)

    def _joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """`conv1` of both; what comes of `skip` is worked out once."""
        own, further = torch.split(self.conv1.weight, [x.shape[1], skip.shape[1]], 1)
        return F.conv2d(x, own, padding=1) + repeated(F.conv2d(skip, further, padding=1), len(x))


class HidingNet(nn.Module):
    """Embed a feature into a face.

    Input: cover N×3×H×W RGB in [-1, 1] and feature N×D, as the recogniser gives it (the paper
    feeds 512 values, 256×256 pixels). Output: N×3×H×W in [-1, 1]. With T features a face (T·N×D,
    one for each face, then the next) the output is T·N×3×H×W, and what no feature enters is worked
    out once.
    """

    def __init__(self, config: HidingConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HidingConfig()
        widths, film = config.widths, config.conditioning != "tile"
        tiles = 0 if config.conditioning == "film" else 3
        stages = [3 * config.fold**2 + tiles, *widths]
        self.encoder = nn.ModuleList(
            _Block(
                config,
                stages[level],
                stages[level + 1],
                stride=2 if level else 1,
                residual=True,
                film=film and level == config.levels - 1,
            )
            for level in range(config.levels)
        )
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(coarse, fine, 2, 2))
            self.decoder.append(_Block(config, 2 * fine, fine, residual=False, film=film))
        self.head = nn.Conv2d(config.base, config.outputs * config.fold**2, 1)
        self.code = nn.Linear(config.identity, _code_length(config)) if film else None
        if config.output == "residual":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, cover: Tensor, feature: Tensor) -> Tensor:
        """The de-identified face: first three channels of `raw` through the output function."""
        change = torch.tanh(self.raw(cover, feature)[:, :3])
        if self.config.output == "direct":
            return change
        return (repeated(cover, len(change)) + self.config.limit * change).clamp(-1, 1)

    def raw(self, cover: Tensor, feature: Tensor) -> Tensor:
        """The head's T·N×`outputs`×H×W, unbounded: for recipes that predict more than pixels.

        Raises:
            OptionError: the sides of the photo or the length of the feature do not fit.
        """
        self._check(cover, feature)
        code = None if self.code is None else F.relu(self.code(feature))
        x, skips = self._input(cover, feature), []
        for stage in self.encoder[:-1]:  # without modulation
            x = stage(x, None)
            skips.append(x)
        x = self.encoder[-1](repeated(x, len(feature)), code)
        for up, stage, skip in zip(self.up, self.decoder, skips[::-1], strict=True):
            x = stage(up(x), code, skip)
        return F.pixel_shuffle(self.head(x), self.config.fold)

    def _input(self, cover: Tensor, feature: Tensor) -> Tensor:
        cover = F.pixel_unshuffle(cover, self.config.fold)
        if self.config.conditioning == "film":
            return cover
        tiles = tile(feature, *cover.shape[2:])
        return torch.cat([repeated(cover, len(tiles)), tiles], 1)

    def _check(self, cover: Tensor, feature: Tensor) -> None:
        multiple = self.config.fold * 2 ** (self.config.levels - 1)
        if cover.shape[2] % multiple or cover.shape[3] % multiple:
            raise OptionError(
                f"the sides of a face must be multiples of {multiple}, got {tuple(cover.shape[2:])}"
            )
        times, rest = divmod(len(feature), max(1, len(cover)))
        if feature.shape[1:] != (self.config.identity,) or rest or bool(times) != bool(len(cover)):
            raise OptionError(
                f"{len(cover)} faces need features {len(cover)}×{self.config.identity}, or as "
                f"many again, got {tuple(feature.shape)}"
            )


class EmbeddingNet(nn.Module):
    """`facedeid-embedding`: a hiding network with a dial, working at half the frame's side.

    Input: cover N×3×256×256 (or 128×128) RGB in [-1, 1], code N×512 of a synthetic identity
    (`facedeid.models.identity_codes`), strength N in [0, 1]; or T·N×512 and T·N, T a face (see
    `HidingNet`). Output: the cover and a change of at most `limit`, which is smooth at the
    frame's resolution; at strength 0 the cover itself.
    """

    SIDE = 128

    def __init__(
        self,
        *,
        width: float = 0.5,
        levels: int = 4,
        limit: float = 0.4,
        conditioning: Conditioning = "film",
    ) -> None:
        super().__init__()
        self.hiding = HidingNet(
            HidingConfig(
                width=width,
                levels=levels,
                identity=512 + 1,
                conditioning=conditioning,
                norm="group",
                output="residual",
                limit=limit,
                fold=2,
            )
        )

    def forward(self, cover: Tensor, code: Tensor, strength: Tensor) -> Tensor:
        """The cover with the identity embedded, each with its own strength: T·N×3×S×S."""
        limit = self.hiding.config.limit
        feature = torch.cat([code, strength[:, None]], 1)

        def change(small: Tensor) -> Tensor:
            raw = self.hiding.raw(small, feature)
            return limit * torch.tanh(raw.float()) * strength[:, None, None, None]

        return changed(cover, self.SIDE, limit, change)
