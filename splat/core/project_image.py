"""Stage 1 for images: 2D Gaussians given by two axes and an angle -> Splats2D."""

from __future__ import annotations

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
    backend: Backend | None = None,
) -> Splats2D:
    """Conics and extents of 2D Gaussians. No dilation is added: the model's axes are the drawn ones.

    Args:
        means: [N, 2] pixels, x right and y down, the centre of the first pixel at 0.5.
        log_scales: [N, 2] logs of the standard deviations in pixels.
        angles: [N] radians, direction of the first axis (from x towards y).
        opacities: [N] peak weights (default 1).
    """
    check = Arguments()
    check.floats("means", means, "N", 2)
    check.floats("log_scales", log_scales, "N", 2)
    check.floats("angles", angles, "N")
    peak = torch.ones_like(angles) if opacities is None else opacities
    check.floats("opacities", peak, "N")
    check_size(width, height)
    arguments = (means, log_scales, angles, peak, width, height, cutoff)
    if choose_backend(means, backend) == "reference":
        conics, radii = reference.project_image(*arguments)
    else:
        conics, radii = torch.ops.splat.project_image(*arguments)
    return Splats2D(means[None], torch.zeros_like(angles)[None], conics, peak[None], radii)


@ops.register_fake("splat::project_image")
def _(
    means: Tensor, log_scales: Tensor, angles: Tensor, opacities: Tensor, width: int, height: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    count = means.shape[0]
    return means.new_empty(1, count, 3), means.new_empty(1, count, 2, dtype=torch.int32)


@ops.register_fake("splat::project_image_backward")
def _(log_scales: Tensor, angles: Tensor, radii: Tensor, v_conics: Tensor) -> tuple[Tensor, Tensor]:
    return log_scales.new_empty(log_scales.shape), angles.new_empty(angles.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[1], inputs[2], output[1])


def _backward(ctx: Any, v_conics: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    v_log_scales, v_angles = torch.ops.splat.project_image_backward(*ctx.saved_tensors, v_conics)
    return None, v_log_scales, v_angles, *[None] * 4


ops.register_autograd("splat::project_image", _backward, _setup_context)
