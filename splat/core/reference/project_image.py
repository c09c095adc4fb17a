"""Reference of the 2D front end."""

from __future__ import annotations

import torch
from torch import Tensor


def project_image(
    means: Tensor, log_scales: Tensor, angles: Tensor, opacities: Tensor, width: int, height: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    """conics [1, N, 3] and radii int32 [1, N, 2]; see splat.core.project_image."""
    cos, sin = angles.cos(), angles.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    precision = rotation @ torch.diag_embed((-2 * log_scales).exp()) @ rotation.mT
    conics = torch.stack([precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]], -1)
    with torch.no_grad():
        variances = (rotation @ torch.diag_embed((2 * log_scales).exp()) @ rotation.mT).diagonal(dim1=-2, dim2=-1)
        extent = (2 * (opacities.clamp_min(cutoff) / cutoff).log()).sqrt()
        radii = (extent[:, None] * variances.clamp_max(1e9).sqrt()).ceil() + 1
        size = means.new_tensor([width, height])
        drawn = (opacities >= cutoff) & torch.isfinite(opacities) & torch.isfinite(means).all(-1)
        drawn &= torch.isfinite(variances).all(-1) & torch.isfinite(conics).all(-1)
        drawn &= ((means + radii > 0) & (means - radii < size)).all(-1)
        radii = torch.where(drawn[:, None], radii, 0.0).nan_to_num(0.0, 0.0, 0.0)
    finite = torch.isfinite(conics).all(-1) & torch.isfinite(means).all(-1) & (opacities >= cutoff)
    conics = torch.where(finite[:, None], conics, torch.zeros_like(conics))
    return conics[None], radii.to(torch.int32)[None]
