"""Stage 2: which splats touch which tiles, in drawing order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core import ops
from splat.core.checks import Arguments, check_device, check_int, check_size
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.reference import binning as reference

TILE = 16
"""Pixels per tile side."""

ALPHA_MIN = 1.0 / 255.0
"""A splat is skipped at a pixel where its weight is below this: it could not change an 8-bit picture."""


@dataclass(frozen=True)
class ListRoom:
    """Lengths of tile lists that are made without asking a GPU how long they will be: nothing then waits for the host,
    and a CUDA graph can capture the step. Take it from lists that were made (`TileLists.room`)."""

    entries: int
    """Splat-tile pairs of all cameras."""
    visible: int
    """Splats of all cameras that touch a tile."""

    def __post_init__(self) -> None:
        check_int("entries", self.entries, 0, 2**31 - 2)
        check_int("visible", self.visible, 0, 2**31 - 2)


@dataclass(frozen=True)
class TileLists:
    """For each 16x16 tile of each camera (row-major), the splats that touch it. M entries in total, or the room that
    was given: then the last ones may be unused, with entries and slots of -1."""

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
    totals: Tensor
    """int64 [2]: number of entries, and of splats that have any, also where the room did not suffice."""
    width: int
    height: int

    @property
    def tiles_per_splat(self) -> Tensor:
        """int64 [C * N]: number of tiles that each splat touches."""
        return self.splat_offsets.diff()

    def overflowed(self, room: ListRoom) -> Tensor:
        """bool []: the lists are empty because `room`, which they were made with, did not suffice. On the lists'
        device, so that a loop can look at it now and then; `bool()` of it waits for the GPU."""
        return (self.totals[0] > room.entries) | (self.totals[1] > room.visible)

    def room(self, margin: float = 1.25) -> ListRoom:
        """What these lists needed, times `margin`. Waits for the GPU."""
        entries, visible = (min(2**31 - 2, math.ceil(margin * n)) for n in self.totals.tolist())
        return ListRoom(entries, min(visible, self.splat_offsets.shape[0] - 1))


def check_splats(splats: Splats2D) -> Arguments:
    """Checks the splats' own tensors; the result knows C and N and goes on with what belongs to them."""
    check = Arguments()
    check.floats("means2d", splats.means2d, "C", "N", 2)
    check.floats("depths", splats.depths, "C", "N")
    check.floats("conics", splats.conics, "C", "N", 3)
    check.floats("opacities", splats.opacities, "C", "N")
    check.integers("radii", splats.radii, torch.int32, "C", "N", 2)
    return check


def check_tiles(tiles: TileLists, splats: Splats2D) -> None:
    """Checks that tile lists are on the device of the splats that they are drawn with."""
    for name in ("offsets", "entries", "masks", "splat_offsets", "slots"):
        check_device(f"tiles.{name}", getattr(tiles, name), "means2d", splats.means2d)


def bin_splats(
    splats: Splats2D,
    *,
    width: int,
    height: int,
    depth_order: bool = True,
    ids: Tensor | None = None,
    cutoff: float = ALPHA_MIN,
    colors: Tensor | None = None,
    room: ListRoom | None = None,
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
        colors: [C, N, D]; splats with a colour that is not finite are left out.
        room: lengths of the lists (default: as long as it takes; the host waits for a GPU to say). Where they do not
            suffice the lists are empty, and nothing is drawn: see `TileLists.overflowed`.
    """
    check_size(width, height)
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    check = check_splats(splats)
    if ids is not None:
        check.integers("ids", ids, torch.int64, "N")
    if colors is not None:
        check.floats("colors", colors, "C", "N", "D")
        colors = colors.detach()
    depths = splats.depths if depth_order else None
    depths = None if depths is None else depths.detach()
    means2d, conics, opacities = splats.means2d.detach(), splats.conics.detach(), splats.opacities.detach()
    by_reference = choose_backend(splats.means2d, backend) == "reference"
    if by_reference:
        radii = splats.radii if colors is None else splats.radii * colors.isfinite().all(-1, keepdim=True)
        lists = reference.bin(means2d, conics, opacities, radii, depths, ids, width, height, cutoff)
    else:
        lengths = (-1, -1) if room is None else (room.entries, room.visible)
        lists = torch.ops.splat.bin(
            means2d, conics, opacities, splats.radii, depths, ids, colors, width, height, cutoff, *lengths
        )
    made = TileLists(*lists, width=width, height=height)
    return _in_room(made, room) if by_reference else made


def _in_room(lists: TileLists, room: ListRoom | None) -> TileLists:
    """The lists at the lengths of `room`, empty where that does not suffice."""
    if room is None:
        return lists
    if bool(lists.overflowed(room)):
        none, offsets = lists.entries[:0], torch.zeros_like(lists.offsets)
        splat_offsets = torch.zeros_like(lists.splat_offsets)
        lists = replace(
            lists, offsets=offsets, splat_offsets=splat_offsets, entries=none, slots=none, masks=lists.masks[:0]
        )
    rest = (0, room.entries - len(lists.entries))
    return replace(
        lists,
        entries=F.pad(lists.entries, rest, value=-1),
        masks=F.pad(lists.masks, rest, value=0),
        slots=F.pad(lists.slots, rest, value=-1),
    )


@ops.register_fake("splat::bin")
def _(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    radii: Tensor,
    depths: Tensor | None,
    ids: Tensor | None,
    colors: Tensor | None,
    width: int,
    height: int,
    cutoff: float,
    room_entries: int,
    room_visible: int,
) -> tuple[Tensor, ...]:
    cameras, count = opacities.shape
    tiles = cameras * (-(-width // TILE)) * (-(-height // TILE))
    entries = torch.library.get_ctx().new_dynamic_size() if room_entries < 0 else room_entries
    return (
        radii.new_empty(tiles + 1, dtype=torch.int64),
        radii.new_empty(entries, dtype=torch.int32),
        radii.new_empty(entries, dtype=torch.int16),
        radii.new_empty(cameras * count + 1, dtype=torch.int64),
        radii.new_empty(entries, dtype=torch.int32),
        radii.new_empty(2, dtype=torch.int64),
    )
