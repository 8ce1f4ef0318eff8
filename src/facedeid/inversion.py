"""Into a generator's latent space and back: what methods that move faces there share."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facedeid.faces import feature_masks, frame_masks
from facedeid.landmarks import LEFT_EYE, LIPS, MEAN_FACE, RIGHT_EYE
from facedeid.losses import mse, perceptual
from facedeid.nets.landmark_net import LandmarkNet
from facedeid.nets.lpips import Lpips
from facedeid.nets.residual import small
from facedeid.nets.style_pair import LatentPair
from facedeid.registration import Registration

__all__ = [
    "COLOUR",
    "SPARED",
    "Detail",
    "Inverted",
    "Spared",
    "blended",
    "change",
    "inner",
    "invert",
    "refined",
    "scaled",
    "tuned",
    "within",
]

Detail = Literal["kept", "none"]
"""`none`: a face is what the generator makes. `kept`: it is the photo, and within the face what
the generator makes of the new code, with a share of what it cannot draw (`change`): with all of
that, the photo's detail stays, and an unchanged code changes nothing."""

COLOUR = 0.25
"""How much is kept of how a new code changes colour beside brightness: skin that turns green shows
at once, and recognisers hardly look at it."""

BORDER = 12
"""Pixels (of 256) within the face's edge over which what is generated fades into the photo: hair,
jaw and ears are the photo's, which takes little from what changes who it is."""

TONE = 16
"""σ in pixels (of 256) of the average over which `blended` can keep the photo's colour: light and
shade, not features."""

Spared = Literal["forehead-eyes-mouth", "eyes-mouth", "mouth", "none"]
SPARED: Mapping[Spared, tuple[tuple[int, ...], ...]] = {
    "forehead-eyes-mouth": (RIGHT_EYE, LEFT_EYE, LIPS),
    "eyes-mouth": (RIGHT_EYE, LEFT_EYE, LIPS),
    "mouth": (LIPS,),
    "none": (),
}
"""Parts of the face that stay the photo's: what lies between the lids (gaze), the lips and what is
between them (expression, teeth), and with the forehead (`_below`) fringes, hats and hairlines."""
FOREHEAD = (0.3, 0.6)
"""From where to where what is generated fades into it; 0 at the brows, 1 at the hairline."""
SOFT = 4
"""σ in pixels (of 256) with which they fade into what is generated."""
_GRID = 32
"""Side of the square on which colours are averaged."""

_Pair = TypeVar("_Pair", bound=LatentPair)


def inner(mask: Tensor) -> Tensor:
    """A face's mask N×1×s×s, without a border of `BORDER` and soft over another."""
    width = round(mask.shape[-1] * BORDER / 256)
    if not width:
        return mask
    outside = F.pad(1 - mask, [width] * 4, value=1.0)
    core = 1 - F.max_pool2d(outside, 2 * width + 1, 1)
    return mask * F.avg_pool2d(core, 2 * width + 1, 1, width)


def change(made: Tensor, base: Tensor, cover: Tensor, residue: Tensor | float = 1.0) -> Tensor:
    """What detail "kept" adds to the photo, of generated faces before and after: N×3×s×s each.

    `residue`: the share (N×1×1×1 or a number) that is kept of what the generator could not draw.
    """
    difference = made - base
    brightness = difference.mean(1, keepdim=True)
    kept = brightness + COLOUR * (difference - brightness)
    return kept - (1 - residue) * (cover - base)


def within(mask: Tensor, landmarks: Tensor, spared: Spared = "none") -> Tensor:
    """Where detail "kept" shows what is generated, of faces' masks N×1×s×s: `inner`, and not where
    features are spared. Landmarks N×68×2 in pixels of the masks.
    """
    core, side = inner(mask), mask.shape[-1]
    if not SPARED[spared]:
        return core
    kept = feature_masks(landmarks, side, SPARED[spared], SOFT * side / 256)
    core = core * (1 - kept.to(core))
    return core * _below(landmarks, side).to(core) if spared.startswith("forehead") else core


def _below(landmarks: Tensor, side: int) -> Tensor:
    """N×1×side×side: 1 up to the brows of landmarks N×68×2, 0 on the upper forehead (`FOREHEAD`).

    As in a face's outline, it is as far from brows to hairline as from nose to brows.
    """
    points = landmarks.float().cpu()
    brows = points[:, 17:27].mean(1)
    up = brows - points[:, 33]
    across = torch.arange(side, dtype=torch.float32)
    place = torch.stack(torch.meshgrid(across, across, indexing="xy"), -1) - brows[:, None, None]
    unit = up / up.square().sum(-1, keepdim=True).clamp_min(1e-6)
    height = (place * unit[:, None, None]).sum(-1)
    begin, end = FOREHEAD
    ramp = ((end - height) / (end - begin)).clamp(0, 1)
    return (ramp.square() * (3 - 2 * ramp))[:, None]


def blended(
    cover: Tensor,
    made: Tensor,
    base: Tensor,
    mask: Tensor,
    residue: Tensor | float = 1.0,
    *,
    tone: bool = False,
) -> Tensor:
    """The picture of detail "kept", N×3×s×s, not clipped: `change` within the mask N×1×s×s, with
    `tone` without its average colour (`_even`).
    """
    part = change(made, base, cover, residue)
    return cover + mask * (_even(part, mask) if tone else part)


def _even(part: Tensor, mask: Tensor) -> Tensor:
    """A change N×3×s×s without its average around each pixel, weighed by the mask: skin stays as
    light or dark, and as lit, as it is in the photo.
    """
    place = torch.arange(_GRID, device=part.device, dtype=part.dtype)
    near = torch.exp(-((place[:, None] - place).square()) / (2 * (TONE * _GRID / 256) ** 2))
    weight, value = (
        near @ F.interpolate(x, (_GRID, _GRID), mode="area") @ near for x in (mask, mask * part)
    )
    average = value / weight.clamp_min(1e-3)
    return part - F.interpolate(average, part.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False)
class Inverted:
    """Faces with their codes, at the generator's resolution."""

    cover: Tensor
    """The faces, N×3×s×s in [-1, 1]."""
    landmarks: Tensor
    """N×68×2 in pixels of the cover."""
    mask: Tensor
    """N×1×s×s, 1 where detail "kept" shows what is generated (`within`)."""
    codes: Tensor
    """W+, N×L×D."""
    base: Tensor
    """The reconstruction, N×3×s×s, not clipped."""
    place: Registration | None = None
    """Moves features back to where the faces have them."""
    tone: bool = False
    """Whether detail "kept" leaves the faces their average colour (`blended`)."""

    def rows(self, rows: Tensor) -> "Inverted":
        """Some of the faces."""

        def of(part: Tensor) -> Tensor:
            return part[rows.to(part.device)]

        return replace(
            self,
            cover=of(self.cover),
            landmarks=of(self.landmarks),
            mask=of(self.mask),
            codes=of(self.codes),
            base=of(self.base),
            place=None if self.place is None else self.place.rows(rows),
        )

    def registered(self, made: Tensor, detail: Detail, residue: float = 1.0) -> Tensor:
        """Generated faces N×3×s×s with their features at the places of the faces', if asked for."""
        if self.place is None:
            return made
        return self.place(made, self.shown(made, detail, residue))

    def shown(self, made: Tensor, detail: Detail, residue: float = 1.0) -> Tensor:
        """What a viewer gets of generated faces N×3×s×s, at the generator's resolution."""
        if detail == "none":
            return made.clamp(-1, 1)
        return self._blended(self.cover, made, self.base, self.mask, residue)

    def full(self, faces: Tensor, made: Tensor, detail: Detail, residue: float = 1.0) -> Tensor:
        """`shown` at the resolution of the faces, N×3×S×S."""
        large, base = (_enlarged(x, faces) for x in (made, self.base))
        if detail == "none":
            return large.clamp(-1, 1)
        mask = _enlarged(self.mask, faces).clamp(0, 1)
        return self._blended(faces, large, base, mask, residue)

    def _blended(
        self, cover: Tensor, made: Tensor, base: Tensor, mask: Tensor, residue: float
    ) -> Tensor:
        return blended(cover, made, base, mask, residue, tone=self.tone).clamp(-1, 1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-1] == like.shape[-1]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bicubic", align_corners=False)


def scaled(landmarks: Tensor, old: int, new: int) -> Tensor:
    """Pixels of a frame of one side -> of another."""
    return (landmarks + 0.5) * (new / old) - 0.5


@torch.no_grad()
def invert(
    pair: LatentPair,
    faces: Tensor,
    landmarks: Tensor | None,
    network: LandmarkNet | None = None,
    *,
    tone: bool = False,
    spared: Spared = "none",
) -> Inverted:
    """Encode aligned faces N×3×S×S in [-1, 1]; landmarks N×68×2, or None for the mean face's.

    `network`: places landmarks for `Inverted.registered`; None: features stay where they are made.
    `tone`: as in `Inverted`. `spared`: a key of `SPARED`.
    """
    full = faces.shape[-1]
    if landmarks is None:
        landmarks = torch.from_numpy(MEAN_FACE * full).float().expand(len(faces), -1, -1)
    codes = pair.encode(faces)
    points = scaled(landmarks, full, pair.side)
    mask = within(frame_masks(points, pair.side).to(faces), points, spared)
    cover = small(faces, pair.side)
    place = None if network is None else Registration.of(network, cover)
    return Inverted(cover, points, mask, codes, pair.decode(codes), place, tone)


@torch.enable_grad()
def refined(
    pair: LatentPair, found: Inverted, distance: Lpips, *, steps: int = 100, rate: float = 0.02
) -> Inverted:
    """Latent optimisation: Adam on the codes, for squared error and perceptual distance."""
    codes = found.codes.clone().requires_grad_()
    optimiser = torch.optim.Adam([codes], rate)
    for _ in range(steps):
        optimiser.zero_grad()
        made = pair.decode(codes)
        loss = mse(made, found.cover) + perceptual(distance, made, found.cover)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        return replace(found, codes=codes.detach(), base=pair.decode(codes))


@torch.enable_grad()
def tuned(
    pair: _Pair, found: Inverted, distance: Lpips, *, steps: int = 100, rate: float = 1e-3
) -> tuple[_Pair, Inverted]:
    """Pivotal tuning (Roich et al. 2021): a copy of the generator learns the faces at their codes.

    Returns:
        The pair with the tuned copy, which serves these faces only, and the faces inverted by it.
    """
    assert isinstance(pair, nn.Module)
    own = copy.deepcopy(pair)
    weights = [p.requires_grad_() for p in own.parameters()]
    optimiser = torch.optim.Adam(weights, rate)
    for _ in range(steps):
        optimiser.zero_grad()
        made = own.decode(found.codes)
        loss = mse(made, found.cover) + perceptual(distance, made, found.cover)
        loss.mean().backward()
        optimiser.step()
    own.requires_grad_(False)
    with torch.no_grad():
        return own, replace(found, base=own.decode(found.codes))
