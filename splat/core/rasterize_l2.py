"""Stages 3 and 4 of an image fit in one pass: the picture, its residual, the gradient of the weighted squared error.

The pictures are tiled, [tiles, D, 256]: a tile's 16x16 pixels lie together, as 4x4 blocks of 4x4 pixels (row-major),
which is the order the rasteriser works in. The target is brought into it once per fit, and the residual back when it is
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core import ops
from splat.core.binning import TILE, TileLists, check_tiles
from splat.core.checks import check_device
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.rasterize import RasterizeOptions, rasterize, sums_by_splat

SUM = RasterizeOptions(blend="sum")


def to_tiles(image: Tensor) -> Tensor:
    """[H, W, D] -> [tiles, D, 256], zeros where the last tiles reach out of the picture."""
    height, width, channels = image.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = F.pad(image, (0, 0, 0, columns * TILE - width, 0, rows * TILE - height))
    blocks = padded.view(rows, 4, 4, columns, 4, 4, channels)  # tile, block, pixel along y, then along x
    return blocks.permute(0, 3, 6, 1, 4, 2, 5).reshape(rows * columns, channels, TILE * TILE)


def from_tiles(tiles: Tensor, width: int, height: int) -> Tensor:
    """[tiles, D, 256] -> [H, W, D]."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    blocks = tiles.view(rows, columns, tiles.shape[1], 4, 4, 4, 4)
    image = blocks.permute(0, 3, 5, 1, 4, 6, 2).reshape(rows * TILE, columns * TILE, tiles.shape[1])
    return image[:height, :width]


@dataclass(frozen=True)
class L2Step:
    """The weighted squared error of a picture and its gradient."""

    residual: Tensor
    """[tiles, D, 256] weight * (target - image), tiled: minus the gradient of half the squared error by the image. 0
    outside the picture. Its correlation with a Gaussian is what a new Gaussian is judged by, whatever the weights."""
    squared_error: float
    """Sum of weight * (target - image)^2."""
    clamped_error: float
    """The same, of the picture clamped to 0..1."""
    v_means2d: Tensor
    """[1, N, 2] gradients of half the squared error, like the next three."""
    v_conics: Tensor
    v_opacities: Tensor
    v_colors: Tensor
    """[1, N, D]. With A the weights of the splats at the pixels (order-free blends): A^T W (A c - target)."""


def rasterize_l2(
    splats: Splats2D,
    colors: Tensor,
    tiles: TileLists,
    target_tiles: Tensor,
    *,
    weight_tiles: Tensor | None = None,
    options: RasterizeOptions = SUM,
    backend: Backend | None = None,
) -> L2Step:
    """Draws one picture and differentiates half the sum of weight * (target - image)^2. Not differentiable itself.

    Args:
        splats: the splats of one picture, [1, N, ...], that `tiles` was made from.
        colors: [1, N, D].
        target_tiles: [tiles, D, 256], from `to_tiles`.
        weight_tiles: [tiles, 1 or D, 256], from `to_tiles`, at least 0: what the squared error of a pixel (or of one
            channel of it) counts (default 1).
        options: the compositor. Blend sum runs in one pass of its own kernel, the others stage by stage.
    """
    # The fit's inner loop: shapes and dtypes are left to the op and to the stages, which cannot name a device.
    named = {"conics": splats.conics, "opacities": splats.opacities, "colors": colors, "target_tiles": target_tiles}
    if weight_tiles is not None:
        named["weight_tiles"] = weight_tiles
    for name, value in named.items():
        check_device(name, value, "means2d", splats.means2d)
    check_tiles(tiles, splats)
    chosen = choose_backend(splats.means2d, backend)
    if chosen == "reference" or options.blend != "sum":
        return _by_stages(splats, colors, tiles, (target_tiles, weight_tiles), options, chosen)
    lists = (tiles.offsets, tiles.entries, tiles.masks, tiles.splat_offsets, tiles.slots)
    by_splat = sums_by_splat(tiles, colors.shape[2], options)
    geometry = (splats.means2d, splats.conics, splats.opacities, colors)
    with torch.no_grad():
        residual, errors, *v = torch.ops.splat.rasterize_l2(
            *geometry, *lists, tiles.width, tiles.height, options.cutoff, by_splat, target_tiles, weight_tiles
        )
    squared, clamped = errors.sum(0).tolist()
    return L2Step(residual, squared, clamped, *v)


def _by_stages(
    splats: Splats2D,
    colors: Tensor,
    tiles: TileLists,
    wanted: tuple[Tensor, Tensor | None],
    options: RasterizeOptions,
    backend: Backend,
) -> L2Step:
    """What the op does, one stage after the other. wanted: target_tiles and weight_tiles."""
    target, weight = wanted
    leaves = [t.detach().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, colors)]
    with torch.enable_grad():
        drawn = Splats2D(leaves[0], splats.depths, leaves[1], leaves[2], splats.radii)
        image, _ = rasterize(drawn, leaves[3], tiles, options=options, backend=backend)
    shown = to_tiles(image.detach()[0])  # tiled, which the target is already
    both = [target - shown, target - shown.clamp(0, 1)]
    weighted = [error if weight is None else weight * error for error in both]
    v_image = from_tiles(-weighted[0], tiles.width, tiles.height)
    v = torch.autograd.grad(image, leaves, v_image[None])
    errors = [float((a * b).sum(dtype=torch.float64)) for a, b in zip(both, weighted, strict=True)]
    return L2Step(weighted[0], errors[0], errors[1], *v)


@ops.register_fake("splat::rasterize_l2")
def _(means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    target = rest[9]
    return (
        target.new_empty(target.shape),
        target.new_empty(target.shape[0], 2, dtype=torch.float64),
        *(t.new_empty(t.shape) for t in (means2d, conics, opacities, colors)),
    )
