"""Reference of the SSIM index (Wang et al. 2004): an 11-tap Gaussian window of sigma 1.5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from splat.core.separable import correlate, gaussian_taps

TAPS = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def ssim_maps(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor at every pixel, zeros outside the picture: [B, H, W, D] -> two of it."""
    border = TAPS // 2
    return inner_ssim_maps(*(F.pad(v, (0, 0, border, border, border, border)) for v in (image, target)))


def inner_ssim_maps(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the pixels whose window lies inside the picture: TAPS - 1 fewer each way."""
    taps = gaussian_taps(SIGMA, TAPS // 2)

    def blur(field: Tensor) -> Tensor:
        return correlate(correlate(field, taps, 1), taps, 2)

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
