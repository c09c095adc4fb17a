"""View-dependent colours from spherical harmonics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import Arguments, check_int
from splat.core.ops import Backend, choose_backend
from splat.core.reference import sh as reference

MAX_DEGREE = 4


def sh_colors(
    means: Tensor,
    viewmats: Tensor,
    sh0: Tensor,
    shN: Tensor,
    radii: Tensor,
    degree: int,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """max(SH(direction) + 0.5, 0) for each camera and Gaussian, the direction running from the camera to the Gaussian.
    Differentiable in means, viewmats, sh0 and shN. What is not finite stays so; `bin_splats` leaves it out.

    Args:
        means: [N, 3] world.
        viewmats: [C, 4, 4] world to camera (rigid).
        sh0, shN: [N, 1, D] and [N, K - 1, D] coefficients, K >= (degree + 1)^2, in 3DGS's order and signs.
        radii: int32 [C, N, 2]; a splat with radius 0 gets zeros.
        degree: 0 to 4, the bands that are used.

    Returns:
        [C, N, D].
    """
    check_int("degree", degree, 0, MAX_DEGREE)
    check = Arguments()
    check.floats("means", means, "N", 3)
    check.floats("viewmats", viewmats, "C", 4, 4)
    check.floats("sh0", sh0, "N", 1, "D")
    check.floats("shN", shN, "N", "K - 1", "D")
    check.integers("radii", radii, torch.int32, "C", "N", 2)
    needed = (degree + 1) ** 2 - 1
    if shN.shape[1] < needed:
        raise ValueError(f"shN must hold at least {needed} coefficients for degree {degree}, got {shN.shape[1]}")
    if choose_backend(means, backend, float64=True) == "reference":
        return reference.sh(means, viewmats, sh0, shN, radii, degree)
    colors: Tensor = torch.ops.splat.sh(means, viewmats, sh0, shN, radii, degree)
    return colors


@ops.register_fake("splat::sh")
def _(means: Tensor, viewmats: Tensor, sh0: Tensor, shN: Tensor, radii: Tensor, degree: int) -> Tensor:
    return means.new_empty(viewmats.shape[0], means.shape[0], sh0.shape[2])


@ops.register_fake("splat::sh_backward")
def _(means: Tensor, viewmats: Tensor, sh0: Tensor, shN: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (means, viewmats, sh0, shN))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5], output)
    ctx.degree = inputs[5]


def _backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, colors = ctx.saved_tensors
    return *torch.ops.splat.sh_backward(*inputs, ctx.degree, colors, v_colors), None, None


ops.register_autograd("splat::sh", _backward, _setup_context)
