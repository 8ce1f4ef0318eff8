"""What happens to photos on their way: jitter of the crop, light, blur, noise, JPEG, occlusion.

Each function takes and returns N×3×S×S float32 in 0..255 and draws from one generator; a draw
decides per picture whether it is touched.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blurred", "coloured", "compressed", "jittered", "noisy", "occluded", "shrunk"]


def _draw(random: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low


def _some(images: Tensor, share: float, random: torch.Generator) -> list[int]:
    chosen = torch.rand(len(images), generator=random) < share
    return [int(i) for i in chosen.nonzero()[:, 0]]


def jittered(images: Tensor, side: int, random: torch.Generator, *, amount: float = 1.0) -> Tensor:
    """The central side×side window, mirrored or not, a little turned, scaled and shifted."""
    n, whole = len(images), images.shape[-1]
    angle = torch.randn(n, generator=random) * 0.05 * amount
    zoom = side / whole * (1 + torch.randn(n, generator=random) * 0.035 * amount)
    flip = torch.randint(2, (n,), generator=random) * 2.0 - 1
    shift = torch.randn(n, 2, generator=random) * 0.018 * amount
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [cos * flip, -sin, shift[:, 0], sin * flip, cos, shift[:, 1]]
    theta = torch.stack(rows, 1).view(n, 2, 3).to(images)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def coloured(images: Tensor, random: torch.Generator, *, share: float = 0.5) -> Tensor:
    """Brightness, contrast, gamma, saturation (grey now and then)."""
    some = _some(images, share, random)
    n = len(some)
    gamma = _draw(random, -0.4, 0.4, n, 1, 1, 1).exp().to(images)
    gain = _draw(random, 0.7, 1.3, n, 1, 1, 1).to(images)
    tint = _draw(random, 0.9, 1.1, n, 3, 1, 1).to(images)
    grey = _draw(random, 0, 0.6, n, 1, 1, 1)
    grey = torch.where(torch.rand(n, 1, 1, 1, generator=random) < 0.15, 1.0, grey).to(images)
    x = (images[some].clamp(0, 255) / 255).pow(gamma) * 255
    mean = x.mean((1, 2, 3), keepdim=True)
    x = ((x - mean) * gain + mean * (0.5 + gain / 2)) * tint
    out = images.clone()
    out[some] = (x + grey * (x.mean(1, keepdim=True) - x)).clamp(0, 255)
    return out


def blurred(
    images: Tensor, random: torch.Generator, *, share: float, sigma: tuple[float, float]
) -> Tensor:
    """Gaussian blur of a random width in pixels."""
    out = images.clone()
    for i in _some(images, share, random):
        width = float(_draw(random, *sigma, 1))
        radius = max(1, round(3 * width))
        x = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
        line = torch.exp(-(x**2) / (2 * width**2))
        line = (line / line.sum()).expand(3, 1, 1, -1)
        padded = F.pad(images[i : i + 1], [radius] * 4, mode="replicate")
        out[i] = F.conv2d(F.conv2d(padded, line, groups=3), line.mT, groups=3)[0]
    return out


def shrunk(
    images: Tensor, random: torch.Generator, *, share: float, sides: tuple[int, int]
) -> Tensor:
    """Resampled to a random smaller side and back."""
    out, size = images.clone(), images.shape[-1]
    for i in _some(images, share, random):
        side = int(torch.randint(sides[0], sides[1] + 1, (1,), generator=random))
        mode = "bilinear" if torch.rand(1, generator=random) < 0.5 else "bicubic"
        small = F.interpolate(images[i : i + 1], size=(side, side), mode=mode, antialias=True)
        out[i] = F.interpolate(small, size=(size, size), mode=mode)[0]
    return out.clamp(0, 255)


def noisy(images: Tensor, random: torch.Generator, *, share: float, most: float) -> Tensor:
    """Gaussian noise of up to `most` levels, sometimes the same in all channels."""
    out, (height, width) = images.clone(), images.shape[2:]
    for i in _some(images, share, random):
        channels = 1 if torch.rand(1, generator=random) < 0.3 else 3
        noise = torch.randn(channels, height, width, generator=random)
        noise = noise * _draw(random, 0, most, 1)
        out[i] = (images[i] + noise.to(images)).clamp(0, 255)
    return out


def compressed(
    images: Tensor, random: torch.Generator, *, share: float, quality: tuple[int, int]
) -> Tensor:
    """JPEG, written and read again."""
    out = images.clone()
    for i in _some(images, share, random):
        level = int(torch.randint(quality[0], quality[1] + 1, (1,), generator=random))
        pixels = images[i].flip(0).round().byte().permute(1, 2, 0).cpu().numpy()  # OpenCV: BGR
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, level])
        back = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        out[i] = torch.from_numpy(back).permute(2, 0, 1).flip(0).to(images)
    return out


def occluded(images: Tensor, random: torch.Generator, *, share: float) -> Tensor:
    """A rectangle of one colour, or of noise, anywhere."""
    out, size = images.clone(), images.shape[-1]
    for i in _some(images, share, random):
        height, width = (int(v) for v in (_draw(random, 0.1, 0.4, 2) * size))
        top = int(torch.randint(size - height + 1, (1,), generator=random))
        left = int(torch.randint(size - width + 1, (1,), generator=random))
        colour = torch.rand(3, 1, 1, generator=random) * 255
        if torch.rand(1, generator=random) < 0.3:
            colour = torch.rand(3, height, width, generator=random) * 255
        out[i, :, top : top + height, left : left + width] = colour.to(images)
    return out
