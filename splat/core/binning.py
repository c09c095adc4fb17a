"""Stage 2: which splats touch which tiles, in drawing order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import Arguments, check_size
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.reference import binning as reference

TILE = 16
"""Pixels per tile side."""

ALPHA_MIN = 1.0 / 255.0
"""A splat is skipped at a pixel where its weight is below this: it could not change an 8-bit picture."""


@dataclass(frozen=True)
class TileLists:
    """For each 16x16 tile of each camera (row-major), the splats that touch it. M entries in total."""

    offsets: Tensor
    """int64 [C * tiles + 1]: tile t of the batch has the entries offsets[t] .. offsets[t + 1]."""
    entries: Tensor
    """int32 [M]: camera * N + Gaussian, in drawing order within a tile."""
    masks: Tensor
    """int16 [M]: bit b is set where the splat reaches 4x4-pixel block b (row-major) of the tile."""
    splat_offsets: Tensor
    """int64 [C * N + 1]: cumulative number of entries of each splat."""
    slots: Tensor
    """int32 [M]: position of the entry when entries are grouped by splat."""
    width: int
    height: int

    @property
    def tiles_per_splat(self) -> Tensor:
        """int64 [C * N]: number of tiles that each splat touches."""
        return self.splat_offsets.diff()


def check_splats(splats: Splats2D) -> Arguments:
    """Checks the splats' own tensors; the result knows C and N and goes on with what belongs to them."""
    check = Arguments()
    check.floats("means2d", splats.means2d, "C", "N", 2)
    check.floats("depths", splats.depths, "C", "N")
    check.floats("conics", splats.conics, "C", "N", 3)
    check.floats("opacities", splats.opacities, "C", "N")
    check.integers("radii", splats.radii, torch.int32, "C", "N", 2)
    return check


def bin_splats(
    splats: Splats2D,
    *,
    width: int,
    height: int,
    depth_order: bool = True,
    ids: Tensor | None = None,
    cutoff: float = ALPHA_MIN,
    backend: Backend | None = None,
) -> TileLists:
    """Lists the splats of each tile. A splat is listed where its weight opacity * exp(-sigma) can reach `cutoff` inside
    one of the tile's 4x4 blocks (exact ellipse test).

    Args:
        splats: projected splats; those with radius 0 are left out.
        width, height: image size in pixels.
        depth_order: sort by depth (front to back); False for the order-free compositors, which skip the sort.
        ids: int64 [N], breaks ties of depth (default: the index). With ids that do not change when the scene is split
            over processes, the drawing order does not change either.
        cutoff: least weight that is drawn.
    """
    check_size(width, height)
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    check = check_splats(splats)
    if ids is not None:
        check.integers("ids", ids, torch.int64, "N")
    depths = splats.depths if depth_order else None
    depths = None if depths is None else depths.detach()
    means2d, conics, opacities = splats.means2d.detach(), splats.conics.detach(), splats.opacities.detach()
    if choose_backend(splats.means2d, backend) == "reference":
        lists = reference.bin(means2d, conics, opacities, splats.radii, depths, ids, width, height, cutoff)
    else:
        lists = torch.ops.splat.bin(means2d, conics, opacities, splats.radii, depths, ids, width, height, cutoff)
    return TileLists(*lists, width=width, height=height)


@ops.register_fake("splat::bin")
def _(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    radii: Tensor,
    depths: Tensor | None,
    ids: Tensor | None,
    width: int,
    height: int,
    cutoff: float,
) -> tuple[Tensor, ...]:
    cameras, count = opacities.shape
    tiles = cameras * (-(-width // TILE)) * (-(-height // TILE))
    entries = torch.library.get_ctx().new_dynamic_size()
    return (
        radii.new_empty(tiles + 1, dtype=torch.int64),
        radii.new_empty(entries, dtype=torch.int32),
        radii.new_empty(entries, dtype=torch.int16),
        radii.new_empty(cameras * count + 1, dtype=torch.int64),
        radii.new_empty(entries, dtype=torch.int32),
    )
