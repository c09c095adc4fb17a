"""Stage 1 for scenes: 3D Gaussians and cameras -> Splats2D."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import Arguments, check_size
from splat.core.ops import Backend, choose_backend
from splat.core.reference import project as reference

CameraModel = Literal["pinhole", "ortho", "fisheye"]
CAMERA_MODELS: tuple[CameraModel, ...] = ("pinhole", "ortho", "fisheye")


@dataclass(frozen=True)
class Splats2D:
    """Projected splats of C cameras. A culled splat has radius 0 and zeros elsewhere."""

    means2d: Tensor
    """[C, N, 2] pixels; the centre of the first pixel is 0.5."""
    depths: Tensor
    """[C, N] distance along the optical axis."""
    conics: Tensor
    """[C, N, 3] inverse covariance (a, b, c): sigma = a dx^2 / 2 + b dx dy + c dy^2 / 2."""
    opacities: Tensor
    """[C, N] peak weight in 0..1."""
    radii: Tensor
    """int32 [C, N, 2]: half width and half height of the drawn rectangle, pixels."""


@dataclass(frozen=True)
class ProjectOptions:
    """How Gaussians are projected; the defaults are gsplat's."""

    eps2d: float = 0.3
    """Added to the diagonal of the projected covariance, pixels^2."""
    near_plane: float = 0.01
    far_plane: float = 1e10
    radius_clip: float = 0.0
    """Splats whose radii are both at most this many pixels are culled."""
    camera_model: CameraModel = "pinhole"
    antialiased: bool = False
    """Dim a splat by what the dilation added to its area (Mip-Splatting)."""

    def __post_init__(self) -> None:
        if self.camera_model not in CAMERA_MODELS:
            raise ValueError(f"camera_model must be one of {', '.join(CAMERA_MODELS)}, got {self.camera_model!r}")
        for name in ("eps2d", "radius_clip"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if not self.near_plane < self.far_plane:
            raise ValueError(f"near_plane must be below far_plane, got {self.near_plane} and {self.far_plane}")


def project(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    *,
    width: int,
    height: int,
    options: ProjectOptions = ProjectOptions(),
    covars: Tensor | None = None,
    raw: bool = False,
    backend: Backend | None = None,
) -> Splats2D:
    """Projects 3D Gaussians by EWA splatting (Zwicker et al. 2001). Differentiable in every tensor.

    Args:
        means: [N, 3] world.
        quats, scales: [N, 4] wxyz, of any length but zero, and [N, 3] standard deviations; or instead
        covars: [N, 3, 3] world covariances (the symmetric part is used).
        opacities: [N] in 0..1.
        viewmats: [C, 4, 4] world to camera, OpenCV axes.
        Ks: [C, 3, 3] pixels.
        width, height: image size in pixels.
        raw: scales holds their logs and opacities their logits, as models store them; exp and sigmoid are part of the
            kernel, and the gradients are those of the stored values.

    Degenerate Gaussians (zero quaternion, non-finite values) are culled, never NaN.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a camera is not finite (not looked at on a GPU, which
            the host would have to wait for: nothing is drawn there).
    """
    if (covars is None) == (quats is None or scales is None):
        raise ValueError("give either quats and scales, or covars")
    check = Arguments()
    check.floats("means", means, "N", 3)
    if covars is not None:
        check.floats("covars", covars, "N", 3, 3)
    else:
        check.floats("quats", quats, "N", 4)
        check.floats("scales", scales, "N", 3)
    check.floats("opacities", opacities, "N")
    check.floats("viewmats", viewmats, "C", 4, 4)
    check.floats("Ks", Ks, "C", 3, 3)
    check_size(width, height)
    if not torch.compiler.is_compiling() and not means.is_cuda:
        for name, value in (("viewmats", viewmats), ("Ks", Ks)):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite, got NaN or infinity")
    o = options
    arguments = (means, quats, scales, covars, opacities, viewmats, Ks, width, height)
    how = (o.eps2d, o.near_plane, o.far_plane, o.radius_clip, CAMERA_MODELS.index(o.camera_model), o.antialiased)
    if choose_backend(means, backend, float64=True) == "reference":
        if raw:
            scales, opacities = None if scales is None else scales.exp(), opacities.sigmoid()
        arguments = (means, quats, scales, covars, opacities, viewmats, Ks, width, height)
        return Splats2D(*reference.project(*arguments, *how))
    return Splats2D(*torch.ops.splat.project(*arguments, *how, raw))


@ops.register_fake("splat::project")
def _(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    c, n = viewmats.shape[0], means.shape[0]
    radii = means.new_empty(c, n, 2, dtype=torch.int32)
    return means.new_empty(c, n, 2), means.new_empty(c, n), means.new_empty(c, n, 3), means.new_empty(c, n), radii


@ops.register_fake("splat::project_backward")
def _(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    n = means.shape[0]
    shaped, full = (0 if quats is None else n), (0 if covars is None else n)
    shapes = [(n, 3), (shaped, 4), (shaped, 3), (full, 3, 3), (n,), tuple(viewmats.shape), tuple(Ks.shape)]
    return tuple(means.new_empty(shape) for shape in shapes)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[4])
    ctx.save_for_backward(*inputs[:7], output[4])
    ctx.how = inputs[7:]


def _backward(ctx: Any, *v: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, radii = ctx.saved_tensors
    grads = torch.ops.splat.project_backward(*inputs, *ctx.how, radii, *v[:4])
    return *(g if t is not None else None for g, t in zip(grads, inputs, strict=True)), *[None] * 9


ops.register_autograd("splat::project", _backward, _setup_context)
