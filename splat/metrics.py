"""How close a picture is to another: PSNR, SSIM and MS-SSIM of [H, W, D] tensors with values in 0..1."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_device
from splat.core.reference.ssim import TAPS, crop_border, ssim_maps

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, fine to coarse (Wang, Simoncelli & Bovik 2003)."""
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


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal pictures."""
    _pair(image, target)
    return psnr_of_error(float((image - target).square().double().mean()) / data_range**2)


def _mean_maps(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure factor over the pixels whose window lies inside the picture.

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
        sums = [total + float(m.sum()) for total, m in zip(sums, maps, strict=True)]
        count += maps[0].numel()
    return sums[0] / count, sums[1] / count


def ssim(image: Tensor, target: Tensor) -> float:
    """Mean SSIM over the pixels whose window lies inside the picture (Wang et al. 2004)."""
    return _mean_maps(*_pair(image, target))[0]


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
