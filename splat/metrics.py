"""How close a picture is to another: PSNR, SSIM and MS-SSIM of [H, W, D] tensors with values in 0..1.

A mask (bool [H, W]) says which pixels count."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_device
from splat.core.reference.ssim import TAPS, crop_border, ssim_maps

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, fine to coarse (Wang, Simoncelli & Bovik 2003)."""
MAX_PSNR = 100.0
"""dB, what reports say of equal pictures: JSON has no infinity."""
STRIP = 256
"""Rows that SSIM is computed over at a time."""


def _pair(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if image.dim() != 3 or image.shape != target.shape:
        raise ValueError(
            f"image and target must have the same shape [H, W, D], got {list(image.shape)} and {list(target.shape)}"
        )
    check_device("target", target, "image", image)
    return image[None], target[None]


def psnr_of_error(mean_squared_error: float) -> float:
    """PSNR in dB of values in 0..1; infinity for no error."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else math.inf


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal pictures."""
    _pair(image, target)
    squared = (image - target).square()
    if mask is not None:
        squared = squared[_checked(mask, image)]
    return psnr_of_error(float(squared.double().mean()) / data_range**2)


# PU21 "banding + glare" (Mantiuk & Azimi, "PU21: A novel perceptually uniform encoding for adapting existing quality
# metrics for HDR", PCS 2021, eq. 2 and table 1).
_PU21 = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
_PU21_RANGE = (0.005, 10_000.0)
PU21_PEAK = 256.0
"""What 100 cd/m^2 is encoded as, about: the peak of PU21's PSNR, so that it reads like that of an ordinary display."""


def pu21(luminance: Tensor) -> Tensor:
    """cd/m^2, clamped to 0.005 .. 10,000, to perceptually uniform values 0 .. 596. Computed in float64."""
    p1, p2, p3, p4, p5, p6, p7 = _PU21
    power = luminance.double().clamp(*_PU21_RANGE) ** p4
    encoded: Tensor = p7 * (((p1 + p2 * power) / (1 + p3 * power)) ** p5 - p6)
    return encoded.clamp_min(0)


def pu21_psnr(image: Tensor, target: Tensor, white: float = 100.0) -> float:
    """PSNR in dB of the PU21 encodings of linear light [H, W, D], of which 1 is `white` cd/m^2; infinity for equal
    pictures."""
    return psnr(pu21(image * white), pu21(target * white), PU21_PEAK)


def _checked(mask: Tensor, image: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != image.shape[:2]:
        raise ValueError(f"mask must be bool [H, W] = {list(image.shape[:2])}, got {mask.dtype} {list(mask.shape)}")
    if not bool(mask.any()):
        raise ValueError("mask must leave at least one pixel")
    return mask


def _mean_maps(a: Tensor, b: Tensor, mask: Tensor | None = None) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure factor over the pixels (of the mask) whose window lies inside the
    picture.

    By strips of rows in float64: the maps of a whole 8k picture would take 16 GB.
    """
    height = a.shape[1]
    if min(a.shape[1:3]) < TAPS:
        strips = [slice(0, height)]
    else:
        strips = [slice(top, top + STRIP + TAPS - 1) for top in range(0, height - TAPS + 1, STRIP)]
    sums, count = [0.0, 0.0], 0
    for rows in strips:
        maps = [crop_border(m) for m in ssim_maps(a[:, rows].double(), b[:, rows].double())]
        if mask is not None:
            maps = [m[crop_border(mask[None, rows])] for m in maps]
        sums = [total + float(m.sum()) for total, m in zip(sums, maps, strict=True)]
        count += maps[0].numel()
    return sums[0] / count, sums[1] / count


def ssim(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Mean SSIM over the pixels whose window lies inside the picture (Wang et al. 2004). Where the mask is False the
    pictures are taken for equal, and not counted."""
    a, b = _pair(image, target)
    if mask is None:
        return _mean_maps(a, b)[0]
    mask = _checked(mask, image)
    if not bool(crop_border(mask[None]).any()):
        raise ValueError(f"mask must leave a pixel that is {TAPS // 2} or more from the border")
    return _mean_maps(torch.where(mask[..., None], a, b), b, mask)[0]


def ms_ssim(image: Tensor, target: Tensor) -> float:
    """Multi-scale SSIM. A picture too small for five scales uses those it has room for, their weights scaled to 1."""
    a, b = _pair(image, target)
    scales = max(1, min(5, 1 + math.floor(math.log2(min(a.shape[1:3]) / TAPS))))
    weights = [w / sum(MS_WEIGHTS[:scales]) for w in MS_WEIGHTS[:scales]]
    result = 1.0
    for scale, weight in enumerate(weights):
        full, structure = _mean_maps(a, b)
        result *= max(0.0, full if scale == scales - 1 else structure) ** weight
        a, b = (F.avg_pool2d(v.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1) for v in (a, b))
    return result
