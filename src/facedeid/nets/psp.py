"""pSp: encoders from an aligned face to StyleGAN2 styles, and encoder with generator as one.

Richardson et al., "Encoding in Style: a StyleGAN Encoder for Image-to-Image Translation", CVPR
2021, in the official state-dict layout. `width`, `layers` and `size` make compact versions.
"""

from collections.abc import Callable, Sequence
from math import log2
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.errors import OptionError
from facedeid.nets.equalised import EqualLinear
from facedeid.nets.irse import input_layer, stages
from facedeid.nets.stylegan2 import Generator, Noise

__all__ = ["ENCODERS", "GradualStyleEncoder", "PSp", "WEncoder", "WPlusEncoder"]

COARSE, MIDDLE = 3, 7
"""Styles below these indices are read from the coarsest and from the middle feature map."""


class _Encoder(nn.Module):
    """The IR-SE body that all encoders share; features have 8·`width` channels, size/16 a side."""

    def __init__(self, layers: int | tuple[int, ...], se: bool, width: int) -> None:
        super().__init__()
        blocks = stages(layers, se, width)
        if len(blocks) != 4:
            raise OptionError(f"a pSp encoder has four stages, not {len(blocks)}")
        self.input_layer = input_layer(width)
        self.body = nn.Sequential(*(block for stage in blocks for block in stage))
        self._ends = [sum(len(stage) for stage in blocks[:i]) - 1 for i in (2, 3, 4)]

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """RGB N×3×S×S -> the maps of sides S/4, S/8 and S/16, with 2, 4 and 8·`width` channels."""
        x = self.input_layer(x)
        maps = []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in self._ends:
                maps.append(x)
        return maps


class GradualStyleEncoder(_Encoder):
    """RGB N×3×S×S in [-1, 1] -> styles N×`n_styles`×`style_dim`, offsets from the mean latent.

    A frozen copy is a tenth faster on CPUs after `.to(memory_format=torch.channels_last)`.

    Args:
        n_styles: L of the generator: 18 at 1024 px, 14 at 256.
        size: S; 256 in the paper.
        layers: of the IR body: 50, 100, 152, or the blocks of each of its four stages.
        se: squeeze-and-excitation in the body.
        width: channels of the body's first stage; 64 in the paper.
        style_dim: D of the generator.
        heads: `paper`, convolutions from every map down to a pixel for every style; `light`, the
            map pooled to 8×8, few channels of it, and one linear map: far fewer weights.
    """

    def __init__(
        self,
        n_styles: int = 18,
        *,
        size: int = 256,
        layers: int | tuple[int, ...] = 50,
        se: bool = True,
        width: int = 64,
        style_dim: int = 512,
        heads: Literal["paper", "light"] = "paper",
    ) -> None:
        super().__init__(layers, se, width)
        channels = 8 * width
        block = _StyleBlock if heads == "paper" else _LightBlock
        self.styles = nn.ModuleList(
            block(channels, style_dim, size // (16 if i < COARSE else 8 if i < MIDDLE else 4))
            for i in range(n_styles)
        )
        self.latlayer1 = nn.Conv2d(4 * width, channels, 1)
        self.latlayer2 = nn.Conv2d(2 * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode aligned faces."""
        return self.heads(self.pyramid(x))

    def heads(self, maps: Sequence[Tensor]) -> Tensor:
        """From the maps of `pyramid` to styles."""
        fine, middle, coarse = maps
        middle = _enlarged(coarse, middle) + self.latlayer1(middle)
        fine = _enlarged(middle, fine) + self.latlayer2(fine)
        sources = [coarse] * COARSE + [middle] * (MIDDLE - COARSE) + [fine] * len(self.styles)
        return torch.stack([block(m) for block, m in zip(self.styles, sources, strict=False)], 1)


class WEncoder(_Encoder):
    """RGB N×3×S×S -> one style N×D; officially BackboneEncoderUsingLastLayerIntoW.

    Arguments as of `GradualStyleEncoder`.
    """

    def __init__(
        self,
        *,
        layers: int | tuple[int, ...] = 50,
        se: bool = True,
        width: int = 64,
        style_dim: int = 512,
    ) -> None:
        super().__init__(layers, se, width)
        self.linear = EqualLinear(8 * width, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Encode aligned faces."""
        styles: Tensor = self.linear(self.pyramid(x)[-1].mean((2, 3)))
        return styles


class WPlusEncoder(_Encoder):
    """RGB N×3×S×S -> styles N×L×D; officially BackboneEncoderUsingLastLayerIntoWPlus.

    Arguments as of `GradualStyleEncoder`.
    """

    def __init__(
        self,
        n_styles: int = 18,
        *,
        layers: int | tuple[int, ...] = 50,
        se: bool = True,
        width: int = 64,
        style_dim: int = 512,
    ) -> None:
        super().__init__(layers, se, width)
        self.shape = (n_styles, style_dim)
        self.output_layer_2 = nn.Sequential(
            nn.BatchNorm2d(8 * width),
            nn.AdaptiveAvgPool2d((7, 7)),
            nn.Flatten(),
            nn.Linear(8 * width * 7 * 7, style_dim),
        )
        self.linear = EqualLinear(style_dim, style_dim * n_styles)

    def forward(self, x: Tensor) -> Tensor:
        """Encode aligned faces."""
        styles: Tensor = self.linear(self.output_layer_2(self.pyramid(x)[-1]))
        return styles.view(-1, *self.shape)


ENCODERS: dict[str, Callable[[int], nn.Module]] = {
    "GradualStyleEncoder": GradualStyleEncoder,
    "BackboneEncoderUsingLastLayerIntoW": lambda n_styles: WEncoder(),
    "BackboneEncoderUsingLastLayerIntoWPlus": WPlusEncoder,
}
"""The paper's encoders by their official name (`opts["encoder_type"]`) and number of styles."""


class PSp(nn.Module):
    """Encoder and generator; the official state dict is `encoder.*` and `decoder.*`.

    Args:
        encoder: into W (N×D) or W+ (N×L×D).
        decoder: the generator.
        latent_avg: mean latent that is added to every code: D, 1×D or L×D; none for encoders that
            were not trained from it (`start_from_latent_avg`). Not part of the state dict.
        output_size: side that images are pooled to; None for the generator's own.
    """

    latent_avg: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Generator,
        *,
        latent_avg: Tensor | None = None,
        output_size: int | None = 256,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.output_size = output_size
        self.register_buffer("latent_avg", latent_avg, persistent=False)

    @classmethod
    def official(
        cls,
        encoder_type: str = "GradualStyleEncoder",
        *,
        size: int = 1024,
        learn_in_w: bool = False,
        latent_avg: Tensor | None = None,
        output_size: int | None = 256,
    ) -> "PSp":
        """The network that a pSp checkpoint's `opts` describe; `size` is their `output_size`.

        Raises:
            OptionError: no such encoder, or `learn_in_w` with one that does not encode into W.
        """
        if encoder_type not in ENCODERS:
            raise OptionError(f"no pSp encoder {encoder_type!r}; there are {', '.join(ENCODERS)}")
        decoder = Generator(size)
        encoder = ENCODERS[encoder_type](decoder.n_latent)
        if learn_in_w != isinstance(encoder, WEncoder):
            raise OptionError(f"{encoder_type} does not go with learn_in_w={learn_in_w}")
        return cls(encoder, decoder, latent_avg=latent_avg, output_size=output_size)

    @property
    def side(self) -> int:
        """Of the faces it gives back, in pixels."""
        return self.output_size or self.decoder.size

    def encode(self, x: Tensor) -> Tensor:
        """Aligned RGB N×3×256×256 in [-1, 1] -> W+ N×L×D."""
        codes: Tensor = self.encoder(x)
        average = self.latent_avg
        if average is not None:
            codes = codes + (average.reshape(-1) if codes.ndim == 2 else average)
        return self.decoder.widen(codes)

    def decode(self, w: Tensor, *, noise: Noise = "stored") -> Tensor:
        """W or W+ -> RGB N×3×`output_size`², nominally in [-1, 1], not clipped."""
        image: Tensor = self.decoder(w, noise=noise)
        if self.output_size in (None, image.shape[-1]):
            return image
        return F.adaptive_avg_pool2d(image, self.output_size)

    def likely(self, codes: Tensor, start: Tensor, steady: Tensor | None = None) -> Tensor:
        """The codes as they are: the published networks come without a prior in W+."""
        return codes

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct aligned faces with the stored noise."""
        return self.decode(self.encode(x))


class _StyleBlock(nn.Module):
    """N×I×s×s -> N×D: convolutions of stride 2 down to one pixel, then a linear map."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        if side < 2 or side & (side - 1):
            raise OptionError(f"style blocks read maps of a power of two, not {side}")
        convs: list[nn.Module] = []
        for i in range(int(log2(side))):
            convs += [nn.Conv2d(outputs if i else inputs, outputs, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*convs)
        self.linear = EqualLinear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        styles: Tensor = self.linear(self.convs(x).flatten(1))
        return styles


class _LightBlock(nn.Module):
    """N×I×s×s -> N×D from an 8×8 grid of few channels."""

    GRID, FEW = 8, 8

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        if side < self.GRID:
            raise OptionError(f"light style blocks read maps of {self.GRID} and more, not {side}")
        self.few = nn.Conv2d(inputs, self.FEW, 1)
        self.linear = EqualLinear(self.FEW * self.GRID**2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        few = F.leaky_relu(self.few(F.adaptive_avg_pool2d(x, self.GRID)), 0.2)
        styles: Tensor = self.linear(few.flatten(1))
        return styles


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
