"""Stages 3 and 4 of an image fit in one pass: blend "sum", the residual, and the gradient of the squared error.

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
from splat.core.binning import ALPHA_MIN, TILE, TileLists, check_tiles
from splat.core.checks import check_device
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.rasterize import RasterizeOptions, rasterize, sums_by_splat


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
    """The squared error of a picture and its gradient."""

    residual: Tensor
    """[tiles, D, 256] target - image, tiled; 0 outside the picture."""
    squared_error: float
    """Sum of the squared residuals."""
    clamped_error: float
    """The same, of the picture clamped to 0..1."""
    v_means2d: Tensor
    """[1, N, 2] gradients of half the squared error, like the next three."""
    v_conics: Tensor
    v_opacities: Tensor
    v_colors: Tensor


def rasterize_l2(
    splats: Splats2D,
    colors: Tensor,
    tiles: TileLists,
    target_tiles: Tensor,
    *,
    cutoff: float = ALPHA_MIN,
    backend: Backend | None = None,
) -> L2Step:
    """Draws one picture with blend "sum" and differentiates |image - target|^2 / 2. Not differentiable itself.

    Args:
        splats: the splats of one picture, [1, N, ...], that `tiles` was made from.
        colors: [1, N, D].
        target_tiles: [tiles, D, 256], from `to_tiles`.
    """
    # The fit's inner loop: shapes and dtypes are left to the op and to the stages, which cannot name a device.
    named = {"conics": splats.conics, "opacities": splats.opacities, "colors": colors, "target_tiles": target_tiles}
    for name, value in named.items():
        check_device(name, value, "means2d", splats.means2d)
    check_tiles(tiles, splats)
    chosen = choose_backend(splats.means2d, backend)
    if chosen == "reference":
        return _by_stages(splats, colors, tiles, target_tiles, cutoff, chosen)
    lists = (tiles.offsets, tiles.entries, tiles.masks, tiles.splat_offsets, tiles.slots)
    by_splat = sums_by_splat(tiles, colors.shape[2], RasterizeOptions())
    geometry = (splats.means2d, splats.conics, splats.opacities, colors)
    with torch.no_grad():
        residual, errors, *v = torch.ops.splat.rasterize_l2(
            *geometry, *lists, tiles.width, tiles.height, cutoff, by_splat, target_tiles
        )
    squared, clamped = errors.sum(0).tolist()
    return L2Step(residual, squared, clamped, *v)


def _by_stages(
    splats: Splats2D, colors: Tensor, tiles: TileLists, target_tiles: Tensor, cutoff: float, backend: Backend
) -> L2Step:
    """What the op does, one stage after the other."""
    leaves = [t.detach().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, colors)]
    with torch.enable_grad():
        drawn = Splats2D(leaves[0], splats.depths, leaves[1], leaves[2], splats.radii)
        options = RasterizeOptions(blend="sum", cutoff=cutoff)
        image, _ = rasterize(drawn, leaves[3], tiles, options=options, backend=backend)
        residual = from_tiles(target_tiles, tiles.width, tiles.height) - image[0]
        v = torch.autograd.grad(0.5 * residual.square().sum(), leaves)
        clamped = residual + image[0] - image[0].clamp(0, 1)
    errors = [float(r.detach().double().square().sum()) for r in (residual, clamped)]
    return L2Step(to_tiles(residual.detach()), errors[0], errors[1], *v)


@ops.register_fake("splat::rasterize_l2")
def _(means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    target = rest[-1]
    return (
        target.new_empty(target.shape),
        target.new_empty(target.shape[0], 2, dtype=torch.float64),
        *(t.new_empty(t.shape) for t in (means2d, conics, opacities, colors)),
    )
