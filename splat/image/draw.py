"""rasterize_image: 2D Gaussians -> image, the plain differentiable call."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from splat.core.binning import ALPHA_MIN, bin_splats
from splat.core.ops import Backend
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import RasterizeOptions, rasterize


def _from_covariances(means: Tensor, covariances: Tensor, opacities: Tensor) -> Splats2D:
    """Splats with the given covariances; those that are not positive definite are culled."""
    xx, xy, yy = covariances[:, 0, 0], 0.5 * (covariances[:, 0, 1] + covariances[:, 1, 0]), covariances[:, 1, 1]
    determinant = xx * yy - xy * xy
    drawn = (xx > 0) & (determinant > 0) & torch.isfinite(determinant) & torch.isfinite(means).all(-1)
    safe = torch.where(drawn, determinant, 1.0)
    conics = torch.where(drawn[:, None], torch.stack([yy, -xy, xx], -1) / safe[:, None], 0.0)
    radii = torch.where(drawn, 1, 0).to(torch.int32)
    both = radii[None, :, None].expand(1, -1, 2)
    return Splats2D(means[None], torch.zeros_like(xx)[None], conics[None], opacities[None], both)


def rasterize_image(
    means: Tensor,
    colors: Tensor,
    *,
    width: int,
    height: int,
    covariances: Tensor | None = None,
    log_scales: Tensor | None = None,
    angles: Tensor | None = None,
    opacities: Tensor | None = None,
    depths: Tensor | None = None,
    background: Tensor | None = None,
    options: RasterizeOptions = RasterizeOptions(blend="sum"),  # noqa: B008 (frozen)
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws 2D Gaussians. Differentiable in every float argument but depths.

    Args:
        means: [N, 2] pixels, x right, y down, the centre of the first pixel at 0.5.
        colors: [N, D], any number of channels.
        width, height: image size in pixels.
        covariances: [N, 2, 2] pixels^2, symmetric positive definite (others are not drawn); or instead
        log_scales, angles: [N, 2] logs of the standard deviations in pixels, and [N] radians of the first axis.
        opacities: [N] peak weights (default 1).
        depths: [N], drawing order of blend='alpha', small first (default: by index).
        background: [D], what shows where the Gaussians are transparent.
        options: the compositor (options.blend: sum, topk or alpha).

    Returns:
        image [H, W, D] and alphas [H, W].
    """
    if means.dim() != 2 or means.shape[1] != 2:
        raise ValueError(f"means must have shape [N, 2], got {list(means.shape)}")
    count = means.shape[0]
    if colors.dim() != 2 or colors.shape[0] != count:
        raise ValueError(f"colors must have shape [N, D] = [{count}, D], got {list(colors.shape)}")
    if opacities is not None and tuple(opacities.shape) != (count,):
        raise ValueError(f"opacities must have shape [N] = [{count}], got {list(opacities.shape)}")
    if covariances is not None:
        if log_scales is not None or angles is not None:
            raise ValueError("give either covariances or log_scales with angles, not both")
        if tuple(covariances.shape) != (count, 2, 2):
            raise ValueError(f"covariances must have shape [N, 2, 2] = [{count}, 2, 2], got {list(covariances.shape)}")
        splats = _from_covariances(means, covariances, means.new_ones(count) if opacities is None else opacities)
    elif log_scales is not None and angles is not None:
        splats = project_image(
            means,
            log_scales,
            angles,
            opacities,
            width=width,
            height=height,
            cutoff=min(options.cutoff, ALPHA_MIN),
            backend=backend,
        )
    else:
        raise ValueError("give covariances, or log_scales with angles")
    if depths is not None:
        splats = replace(splats, depths=depths[None])
    tiles = bin_splats(
        splats,
        width=width,
        height=height,
        depth_order=options.blend == "alpha",
        cutoff=options.cutoff,
        backend=backend,
    )
    backgrounds = None if background is None else background[None]
    image, alphas = rasterize(splats, colors[None], tiles, backgrounds=backgrounds, options=options, backend=backend)
    return image[0], alphas[0]
