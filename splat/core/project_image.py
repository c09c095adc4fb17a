"""Stage 1 for images: 2D Gaussians given by two axes and an angle -> Splats2D."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from splat.core import ops
from splat.core.binning import ALPHA_MIN
from splat.core.checks import Arguments, check_size
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.reference import project_image as reference


def project_image(
    means: Tensor,
    log_scales: Tensor,
    angles: Tensor,
    opacities: Tensor | None = None,
    *,
    width: int,
    height: int,
    cutoff: float = ALPHA_MIN,
    dilation: float = 0.0,
    backend: Backend | None = None,
) -> Splats2D:
    """Conics, extents and peaks of 2D Gaussians.

    Args:
        means: [N, 2] pixels, x right and y down, the centre of the first pixel at 0.5.
        log_scales: [N, 2] logs of the standard deviations in pixels.
        angles: [N] radians, direction of the first axis (from x towards y).
        opacities: [N] peak weights (default 1).
        dilation: pixels^2, added to the covariance; 0 draws the Gaussians as they are. The peak is scaled by
            sqrt(det Sigma / det(Sigma + dilation I)), so that the sum over the picture stays (Mip-Splatting, Yu et al.
            2024, eq. 9; at least 0.005, as in 3D). 1/12, the variance of a pixel's square, is close to the mean of the
            Gaussian over the pixel instead of its value at the centre.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, or a dilation that is negative or not finite.
    """
    check = Arguments()
    check.floats("means", means, "N", 2)
    check.floats("log_scales", log_scales, "N", 2)
    check.floats("angles", angles, "N")
    peak = torch.ones_like(angles) if opacities is None else opacities
    check.floats("opacities", peak, "N")
    check_size(width, height)
    check_dilation(dilation)
    arguments = (means, log_scales, angles, peak, width, height, cutoff, dilation)
    if choose_backend(means, backend) == "reference":
        conics, peaks, radii = reference.project_image(*arguments)
    else:
        conics, peaks, radii = torch.ops.splat.project_image(*arguments)
    return Splats2D(means[None], torch.zeros_like(angles)[None], conics, peaks, radii)


def check_dilation(dilation: float) -> None:
    """A dilation in pixels^2."""
    if not 0 <= dilation < math.inf:
        raise ValueError(f"dilation must be at least 0 and finite, got {dilation}")


@ops.register_fake("splat::project_image")
def _(
    means: Tensor,
    log_scales: Tensor,
    angles: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    cutoff: float,
    dilation: float,
) -> tuple[Tensor, Tensor, Tensor]:
    count = means.shape[0]
    radii = means.new_empty(1, count, 2, dtype=torch.int32)
    return means.new_empty(1, count, 3), means.new_empty(1, count), radii


@ops.register_fake("splat::project_image_backward")
def _(
    log_scales: Tensor,
    angles: Tensor,
    opacities: Tensor,
    dilation: float,
    radii: Tensor,
    v_conics: Tensor,
    v_opacities2d: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (log_scales, angles, opacities))  # type: ignore[return-value]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs[1:4], output[2])
    ctx.dilation = inputs[7]


def _backward(ctx: Any, v_conics: Tensor, v_opacities2d: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *shapes, radii = ctx.saved_tensors
    v = torch.ops.splat.project_image_backward(*shapes, ctx.dilation, radii, v_conics, v_opacities2d)
    return None, *v, *[None] * 4


ops.register_autograd("splat::project_image", _backward, _setup_context)
