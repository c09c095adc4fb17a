"""Reference of the tile lists: every splat against every 4x4 block, by the exact least value of its quadratic form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 16


def _least_sigma(means2d: Tensor, conics: Tensor, x0: Tensor, y0: Tensor) -> Tensor:
    """[N, B]: least sigma over the pixel centres' rectangles [x0 + .5, x0 + 3.5] x [y0 + .5, y0 + 3.5], B blocks. The
    form is convex: the minimum over a rectangle lies at the centre or on the edge that faces it."""
    a, b, c = (v[:, None] for v in conics.unbind(-1))
    left, top = x0 + 0.5 - means2d[:, :1], y0 + 0.5 - means2d[:, 1:]
    right, bottom = left + 3, top + 3

    def clamp(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(v, low), high)

    def sigma(dx: Tensor, dy: Tensor) -> Tensor:
        return 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy

    zero = torch.zeros_like(left)
    edge_x, edge_y = clamp(zero, left, right), clamp(zero, top, bottom)
    on_x = sigma(edge_x, clamp(-b / c * edge_x, top, bottom))
    on_y = sigma(clamp(-b / a * edge_y, left, right), edge_y)
    return torch.minimum(on_x, on_y)


def bin(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    radii: Tensor,
    depths: Tensor | None,
    ids: Tensor | None,
    width: int,
    height: int,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """tile_offsets, entries, masks, splat_offsets, slots, totals; see splat.core.binning.TileLists."""
    cameras, count = opacities.shape
    device = means2d.device
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    blocks_x, blocks_y = 4 * tiles_x, 4 * tiles_y
    by, bx = torch.meshgrid(torch.arange(blocks_y, device=device), torch.arange(blocks_x, device=device), indexing="ij")
    inside = ((4 * bx < width) & (4 * by < height)).flatten()
    bit = (4 * (by % 4) + bx % 4).flatten()
    tile_of_block = (by // 4 * tiles_x + bx // 4).flatten()
    tiles = tiles_x * tiles_y
    ranks, splats, tile_ids, mask_values = [], [], [], []
    for camera in range(cameras):
        a, b, c = conics[camera].unbind(-1)
        drawn = (radii[camera] > 0).all(-1) & (a > 0) & (a * c - b * b > 0) & (opacities[camera] >= cutoff)
        order = torch.arange(count, device=device)
        if depths is not None:
            if ids is not None:
                order = order[ids.argsort(stable=True)]
            order = order[depths[camera][order].argsort(stable=True)]
        rank = torch.empty(count, dtype=torch.int64, device=device)
        rank[order] = torch.arange(count, device=device)
        for chunk in torch.split(drawn.nonzero()[:, 0], max(1, 4_000_000 // max(1, blocks_x * blocks_y))):
            sigma = _least_sigma(
                means2d[camera, chunk].double(), conics[camera, chunk].double(), 4 * bx.flatten(), 4 * by.flatten()
            )
            reach = (opacities[camera, chunk].double() / cutoff).log()
            hit = (sigma <= reach[:, None]) & inside
            bits = torch.zeros(len(chunk), tiles, dtype=torch.int64, device=device)
            bits.index_add_(1, tile_of_block, hit.to(torch.int64) << bit)
            row, tile = bits.nonzero(as_tuple=True)
            splats.append(camera * count + chunk[row])
            ranks.append(rank[chunk[row]])
            tile_ids.append(camera * tiles + tile)
            mask_values.append(bits[row, tile])
    if not splats:
        none = torch.zeros(0, dtype=torch.int32, device=device)
        offsets, splat_offsets = (
            torch.zeros(n + 1, dtype=torch.int64, device=device) for n in (cameras * tiles, cameras * count)
        )
        return offsets, none, none.to(torch.int16), splat_offsets, none, offsets.new_zeros(2)
    splat, position, tile, mask = (torch.cat(v) for v in (splats, ranks, tile_ids, mask_values))
    # Entries arrive splat by splat, tiles in row-major order: that is the slot.
    by_tile = position.argsort(stable=True)
    by_tile = by_tile[tile[by_tile].argsort(stable=True)]
    tile_offsets, splat_offsets = (
        F.pad(values.bincount(minlength=n).cumsum(0), (1, 0))
        for values, n in ((tile, cameras * tiles), (splat, cameras * count))
    )
    signed = torch.where(mask >= 1 << 15, mask - (1 << 16), mask).to(torch.int16)
    totals = torch.stack([splat_offsets[-1], (splat_offsets.diff() > 0).sum()])
    entries, slots = splat[by_tile].to(torch.int32), by_tile.to(torch.int32)
    return tile_offsets, entries, signed[by_tile], splat_offsets, slots, totals
