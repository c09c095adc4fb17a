"""Losses of scene training."""

from __future__ import annotations

from torch import Tensor

from splat.core.ops import Backend
from splat.core.ssim import l1_ssim


def photometric_loss(
    image: Tensor, target: Tensor, *, ssim_weight: float = 0.2, backend: Backend | None = None
) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of [H, W, D] or [B, H, W, D] pictures (3DGS, Kerbl et al. 2023, eq. 7)."""
    if image.dim() == 3:
        image, target = image[None], target[None]
    l1, similarity = l1_ssim(image, target, backend=backend)
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)
