"""Reference of the 2D front end."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.reference.project import COMPENSATION_MIN


def project_image(
    means: Tensor,
    log_scales: Tensor,
    angles: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    cutoff: float,
    dilation: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """conics [1, N, 3], opacities2d [1, N] and radii int32 [1, N, 2]; see splat.core.project_image."""
    cos, sin = angles.cos(), angles.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    # In the axes' frame, where the dilation only adds to the variances.
    spread = (2 * log_scales).exp() + dilation
    precisions = spread.reciprocal() if dilation else (-2 * log_scales).exp()
    precision = rotation @ torch.diag_embed(precisions) @ rotation.mT
    conics = torch.stack([precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]], -1)
    if dilation:
        ratio = ((2 * log_scales).exp() * precisions).prod(-1)
        opacities = opacities * ratio.clamp_min(COMPENSATION_MIN**2).sqrt()
    with torch.no_grad():
        variances = (rotation @ torch.diag_embed(spread) @ rotation.mT).diagonal(dim1=-2, dim2=-1)
        extent = (2 * (opacities.clamp_min(cutoff) / cutoff).log()).sqrt()
        radii = (extent[:, None] * variances.clamp_max(1e9).sqrt()).ceil() + 1
        size = means.new_tensor([width, height])
        finite = torch.isfinite(opacities) & torch.isfinite(means).all(-1) & torch.isfinite(log_scales).all(-1)
        finite &= torch.isfinite(variances).all(-1) & torch.isfinite(conics).all(-1) & (opacities >= cutoff)
        drawn = finite & ((means + radii > 0) & (means - radii < size)).all(-1)
        radii = torch.where(drawn[:, None], radii, 0.0).nan_to_num(0.0, 0.0, 0.0)
    conics = torch.where(finite[:, None], conics, torch.zeros_like(conics))
    opacities = torch.where(finite, opacities, torch.zeros_like(opacities))
    return conics[None], opacities[None], radii.to(torch.int32)[None]
