"""gsplat's lists of which splats touch which tiles: whole rectangles of tiles, keys of 64 bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splat.core.checks import Arguments, check_int


def list_keys(image: Tensor, tile: Tensor, depths: Tensor, tiles: int) -> Tensor:
    """int64 [M]: image | tile | 32 bits of the depth; the tile takes as many bits as `tiles`, their number, has.
    Sorted by them, entries come image by image, tile by tile and front to back (of depths that are not negative)."""
    high = ((image.long() << tiles.bit_length()) | tile.long()) << 32
    return high | (depths.detach().float().view(torch.int32).long() & 0xFFFFFFFF)


@torch.no_grad()
def isect_tiles(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool = True,
    segmented: bool = False,
    packed: bool = False,
    n_images: int | None = None,
    image_ids: Tensor | None = None,
    gaussian_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All tiles of each splat's rectangle, as gsplat lists them. `splat.core.binning.bin_splats`, which
    `rasterization` takes, looks at the ellipse and lists fewer.

    Args:
        means2d: [..., N, 2], radii int32 [..., N, 2], depths [..., N]; or packed [nnz, 2], [nnz, 2], [nnz].
        tile_size: pixels; tile_width, tile_height: numbers of tiles.
        sort: by image, tile and depth; else splat by splat.
        segmented: changes nothing here.
        n_images, image_ids [nnz]: for packed splats. gaussian_ids: not looked at.

    Returns:
        tiles per splat int32 [..., N] or [nnz]; keys int64 [M] (see `list_keys`); int32 [M], which splat of the
        flattened ones.
    """
    for name, value in (("tile_size", tile_size), ("tile_width", tile_width), ("tile_height", tile_height)):
        check_int(name, value, 1)
    if not isinstance(means2d, Tensor) or means2d.dim() < (1 if packed else 2):
        Arguments().tensor("means2d", means2d, *(("nnz",) if packed else ("...", "N")), 2)
    shape = means2d.shape[:-1]
    check = Arguments()
    check.floats("means2d", means2d, *shape, 2)
    check.integers("radii", radii, torch.int32, *shape, 2)
    check.tensor("depths", depths, *shape)
    index = torch.arange(math.prod(shape), device=means2d.device)
    if packed:
        if image_ids is None or n_images is None:
            raise ValueError("n_images and image_ids must be given with packed")
        check.tensor("image_ids", image_ids, *shape)
        images = image_ids
    else:
        images = index // max(1, shape[-1])
    visible = (radii > 0).all(-1, keepdim=True)
    centre, half = means2d / tile_size, radii / tile_size
    grid = torch.tensor([tile_width, tile_height], device=means2d.device)
    low, high = (torch.minimum(v.clamp_min(0), grid).long() for v in ((centre - half).floor(), (centre + half).ceil()))
    spans = ((high - low) * visible).flatten(0, -2)
    counts = spans.prod(-1)
    splat = index.repeat_interleave(counts)
    within = torch.arange(len(splat), device=splat.device) - (counts.cumsum(0) - counts)[splat]
    first = low.flatten(0, -2)[splat]
    columns = spans[splat, 0]
    tile = (first[:, 1] + within // columns) * tile_width + first[:, 0] + within % columns
    keys = list_keys(images[splat], tile, depths.flatten()[splat], tile_width * tile_height)
    if sort:
        keys, order = keys.sort(stable=True)
        splat = splat[order]
    return counts.view(shape).int(), keys, splat.int()


@torch.no_grad()
def isect_offset_encode(isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor:
    """int32 [n_images, tile_height, tile_width]: where the list of each tile begins among sorted keys [M]."""
    Arguments().integers("isect_ids", isect_ids, torch.int64, "M")
    tiles = tile_width * tile_height
    high = isect_ids >> 32
    bits = tiles.bit_length()
    lists = (high >> bits) * tiles + (high & ((1 << bits) - 1))
    counts = lists.bincount(minlength=n_images * tiles)
    return (counts.cumsum(0) - counts).view(n_images, tile_height, tile_width).int()
