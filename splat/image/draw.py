"""rasterize_image: 2D Gaussians -> image, the plain differentiable call."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from splat.core.binning import ALPHA_MIN, ListRoom, bin_splats
from splat.core.checks import Arguments, check_size
from splat.core.finite import all_finite, finite_rows, keep_rows
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import Blend, RasterizeOptions, rasterize


def splats_from_covariances(means: Tensor, covariances: Tensor, opacities: Tensor) -> Splats2D:
    """Splats with the given covariances; those that are not positive definite are culled."""
    xx, xy, yy = covariances[:, 0, 0], 0.5 * (covariances[:, 0, 1] + covariances[:, 1, 0]), covariances[:, 1, 1]
    determinant = xx * yy - xy * xy
    drawn = (xx > 0) & (determinant > 0) & torch.isfinite(determinant)
    safe = torch.where(drawn, determinant, 1.0)
    conics = torch.where(drawn[:, None], torch.stack([yy, -xy, xx], -1), 0.0) / safe[:, None]
    radii = torch.where(drawn, 1, 0).to(torch.int32)
    both = radii[None, :, None].expand(1, -1, 2)
    return Splats2D(means[None], torch.zeros_like(xx)[None], conics[None], opacities[None], both)


def rasterize_image(
    means: Tensor,
    shapes: Tensor | tuple[Tensor, Tensor],
    colors: Tensor,
    size: tuple[int, int],
    *,
    blend: Blend | RasterizeOptions = "sum",
    opacities: Tensor | None = None,
    depths: Tensor | None = None,
    background: Tensor | None = None,
    dilation: float = 0.0,
    room: ListRoom | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws 2D Gaussians. Differentiable in every float argument but depths.

    Args:
        means: [N, 2] pixels, x right, y down, the centre of the first pixel at 0.5.
        shapes: covariances [N, 2, 2] in pixels^2 (symmetric and positive definite; others are not drawn), or the pair
            (log_scales [N, 2], angles [N]): logs of the standard deviations in pixels, radians of the first axis.
        colors: [N, D], any number of channels.
        size: (width, height) in pixels.
        blend: sum, alpha or topk, or a RasterizeOptions to set its topk and cutoff too.
        opacities: [N] peak weights (default 1).
        depths: [N], drawing order of blend "alpha", small first (default: by index).
        background: [D], what shows where the Gaussians are transparent.
        dilation: pixels^2 that the covariances grow by, the peaks falling in turn (see `project_image`); for shapes
            given by axes. 1/12 stands for the average over a pixel's square.
        room: lengths of the tile lists, with which nothing waits for a GPU (see `bin_splats`); nothing is drawn where
            they do not suffice.

    Returns:
        image [H, W, D] and alphas [H, W].

    Gaussians with a value that is not finite are left out, and get gradients of zero.
    """
    options = blend if isinstance(blend, RasterizeOptions) else RasterizeOptions(blend=blend)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise TypeError(f"size must be (width, height), got {size!r}")
    width, height = size
    check_size(width, height)
    axes = isinstance(shapes, tuple | list)
    _check_gaussians(means, shapes, colors, opacities, depths, background)
    opacities = means.new_ones(means.shape[0]) if opacities is None else opacities
    if dilation and not axes:
        raise ValueError("dilation needs shapes given as (log_scales, angles); add it to covariances yourself")
    parts = [means, colors, opacities, *(shapes if axes else [shapes])]
    # The kernels leave broken Gaussians out; torch's own formulae would give them gradients of 0 * NaN.
    in_torch = not axes or choose_backend(means, backend) == "reference"
    if in_torch and not all_finite(*parts):
        keep = torch.stack([finite_rows(part, 0) for part in parts]).all(0)
        means, colors, opacities, *rest = (keep_rows(part, keep) for part in parts)  # opacity 0: not drawn
        shapes = (rest[0], rest[1]) if axes else rest[0]
    if isinstance(shapes, Tensor):
        splats = splats_from_covariances(means, shapes, opacities)
    else:
        cutoff = min(options.cutoff, ALPHA_MIN)
        splats = project_image(
            means,
            *shapes,
            opacities,
            width=width,
            height=height,
            cutoff=cutoff,
            dilation=dilation,
            backend=backend,
        )
    if depths is not None:
        splats = replace(splats, depths=depths[None])
    ordered = options.blend == "alpha"
    tiles = bin_splats(
        splats,
        width=width,
        height=height,
        depth_order=ordered,
        cutoff=options.cutoff,
        colors=colors[None],
        room=room,
        backend=backend,
    )
    backgrounds = None if background is None else background[None]
    image, alphas = rasterize(splats, colors[None], tiles, backgrounds=backgrounds, options=options, backend=backend)
    return image[0], alphas[0]


def _check_gaussians(
    means: Tensor,
    shapes: Tensor | tuple[Tensor, Tensor],
    colors: Tensor,
    opacities: Tensor | None,
    depths: Tensor | None,
    background: Tensor | None,
) -> None:
    """Errors that name the argument of `rasterize_image` which does not fit the others."""
    check = Arguments()
    check.floats("means", means, "N", 2)
    if isinstance(shapes, tuple | list):
        if len(shapes) != 2:
            raise ValueError(f"shapes must be covariances or the pair (log_scales, angles), got {len(shapes)} values")
        check.floats("log_scales", shapes[0], "N", 2)
        check.floats("angles", shapes[1], "N")
    else:
        check.floats("shapes", shapes, "N", 2, 2)
    check.floats("colors", colors, "N", "D")
    if opacities is not None:
        check.floats("opacities", opacities, "N")
    if depths is not None:
        check.floats("depths", depths, "N")
    if background is not None:
        check.floats("background", background, "D")
