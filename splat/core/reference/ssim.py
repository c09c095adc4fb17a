"""Reference of the SSIM index (Wang et al. 2004): an 11-tap Gaussian window of sigma 1.5."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def _window(like: Tensor) -> Tensor:
    offsets = torch.arange(TAPS, dtype=torch.float64, device=like.device) - TAPS // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    return (weights / weights.sum()).to(like)


def ssim_maps(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor at every pixel, zeros outside the picture: [B, H, W, D] -> two of it."""
    batch, height, width, channels = image.shape
    w = _window(image)

    def blur(field: Tensor) -> Tensor:
        rows = field.permute(0, 3, 1, 2).reshape(batch * channels, 1, height, width)
        rows = F.conv2d(rows, w.view(1, 1, 1, -1), padding=(0, TAPS // 2))
        rows = F.conv2d(rows, w.view(1, 1, -1, 1), padding=(TAPS // 2, 0))
        return rows.view(batch, channels, height, width).permute(0, 2, 3, 1)

    mu1, mu2 = blur(image), blur(target)
    variances = blur(image * image + target * target) - mu1 * mu1 - mu2 * mu2
    covariance = blur(image * target) - mu1 * mu2
    structure = (2 * covariance + C2) / (variances + C2)
    return structure * (2 * mu1 * mu2 + C1) / (mu1 * mu1 + mu2 * mu2 + C1), structure


def crop_border(field: Tensor) -> Tensor:
    """Without the pixels whose window leaves the picture (the whole field where it is smaller than the window)."""
    border = TAPS // 2
    if min(field.shape[1:3]) < TAPS:
        return field
    return field[:, border:-border, border:-border]
