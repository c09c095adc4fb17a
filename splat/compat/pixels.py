"""gsplat's functions from tile lists to pixels: the picture, the splats that make each pixel, and their sum."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.binning import ALPHA_MIN, TILE, TileLists
from splat.core.checks import Arguments, check_int, check_size
from splat.core.project import Splats2D
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.reference.rasterize import ALPHA_MAX, TRANSMITTANCE_MIN, splat_weights, weights_at


def rasterize_to_pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    packed: bool = False,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draws the splats of each tile's list, in the list's order (`splat.core.rasterize`). Differentiable in means2d,
    conics, colors, opacities and backgrounds.

    Args:
        means2d: [..., N, 2], conics [..., N, 3], colors [..., N, D], opacities [..., N]; or packed [nnz, ...].
        tile_size: pixels, a multiple of 4.
        isect_offsets: int32 [..., tile_height, tile_width], where each tile's list begins among
        flatten_ids: int32 [M], which of the flattened splats.
        backgrounds: [..., D].
        masks: bool [..., tile_height, tile_width]: tiles that are drawn; the others show the background.
        absgrad: leaves the absolute gradient as `means2d.absgrad` in the backward pass.

    Returns:
        colours [..., H, W, D] and alphas [..., H, W, 1].
    """
    _check_grid(image_width, image_height, tile_size, isect_offsets)
    if tile_size % 4:
        raise ValueError(f"tile_size must be a multiple of 4, got {tile_size}")
    dims = isect_offsets.shape[:-2]
    shape = ("nnz",) if packed else (*dims, "N")
    check = Arguments()
    check.floats("means2d", means2d, *shape, 2)
    check.floats("conics", conics, *shape, 3)
    check.floats("colors", colors, *shape, "D")
    check.floats("opacities", opacities, *shape)
    if backgrounds is not None:
        check.floats("backgrounds", backgrounds, *dims, "D")
    check.tensor("flatten_ids", flatten_ids, "M")
    if masks is not None:
        check.tensor("masks", masks, *isect_offsets.shape)
    images = math.prod(dims)
    count = means2d[..., 0].numel()
    # Lists hold indices of the flattened splats, so that it does not matter which image a packed one is counted to.
    each = -(-count // max(1, images)) if packed else means2d.shape[-2]

    def arranged(v: Tensor) -> Tensor:
        if not packed:
            return v.reshape(images, each, *v.shape[len(dims) + 1 :])
        filled = torch.cat([v, v.new_zeros(images * each - count, *v.shape[1:])]) if images else v[:0]
        return filled.reshape(images, each, *v.shape[1:])

    tiles = _tile_lists(isect_offsets, flatten_ids, masks, tile_size, (image_width, image_height), images * each)
    flat = [arranged(v) for v in (means2d, conics, opacities)]
    splats = Splats2D(
        flat[0], torch.zeros_like(flat[2]), flat[1], flat[2], torch.zeros_like(flat[0], dtype=torch.int32)
    )

    def keep_absgrad(value: Tensor) -> None:
        means2d.absgrad = value.flatten(0, 1)[:count].view(means2d.shape)  # type: ignore[attr-defined]

    image, alphas = rasterize(
        splats,
        arranged(colors),
        tiles,
        backgrounds=None if backgrounds is None else backgrounds.reshape(images, backgrounds.shape[-1]),
        options=RasterizeOptions(absgrad=absgrad),
        absgrad_to=keep_absgrad,
    )
    size = (image_height, image_width)
    return image.view(*dims, *size, image.shape[-1]), alphas.view(*dims, *size, 1)


@torch.no_grad()
def rasterize_to_indices_in_range(
    range_start: int,
    range_end: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which splats make each pixel, for a part of the tile lists: in front-to-back order for each pixel, the pixels
    one after the other. Slow (a tile at a time): for looking into a picture and for `accumulate`.

    Args:
        range_start, range_end: the part, counted in tile_size^2 entries of each list.
        transmittances: [..., H, W], what the parts before have left.
        means2d: [..., N, 2]; conics [..., N, 3]; opacities [..., N].
        isect_offsets: int32 [..., tile_height, tile_width]; flatten_ids int32 [M].

    Returns:
        Gaussian, pixel (row-major) and image of each pair, int64 [P] each.
    """
    _check_grid(image_width, image_height, tile_size, isect_offsets)
    dims = means2d.shape[:-2]
    check = Arguments()
    check.floats("means2d", means2d, *dims, "N", 2)
    check.floats("conics", conics, *dims, "N", 3)
    check.floats("opacities", opacities, *dims, "N")
    check.floats("transmittances", transmittances, *dims, image_height, image_width)
    check.tensor("isect_offsets", isect_offsets, *dims, "tile_height", "tile_width")
    count, pixels = means2d.shape[-2], image_height * image_width
    rows, columns = isect_offsets.shape[-2:]
    flat = [v.reshape(-1, *v.shape[len(dims) + 1 :]) for v in (means2d, conics, opacities)]
    light = transmittances.reshape(-1, image_height, image_width)
    begins = isect_offsets.flatten().tolist()
    found: list[tuple[Tensor, Tensor]] = []
    for tile, (begin, end) in enumerate(zip(begins, [*begins[1:], len(flatten_ids)], strict=True)):
        image, y, x = tile // (rows * columns), tile // columns % rows * tile_size, tile % columns * tile_size
        first = begin + int(range_start) * tile_size**2
        ids = flatten_ids[first : min(end, begin + int(range_end) * tile_size**2)].long()
        before = light[image, y : y + tile_size, x : x + tile_size]
        if first >= end or before.numel() == 0:
            continue
        ys, xs = (torch.arange(n, device=ids.device) for n in before.shape)
        at = ((ys[:, None] + y) * image_width + xs + x).flatten()
        centres = torch.stack([at % image_width, at // image_width], -1) + 0.5
        weights = splat_weights(centres.to(means2d.dtype), flat[0][ids], flat[1][ids], flat[2][ids])
        weights = weights.clamp_max(ALPHA_MAX) * (weights >= ALPHA_MIN)
        after = before.reshape(-1, 1) * (1 - weights).cumprod(1)
        pixel, entry = ((weights > 0) & (after > TRANSMITTANCE_MIN)).nonzero(as_tuple=True)
        found.append((ids[entry], image * pixels + at[pixel]))
    none = flatten_ids.new_zeros(0, dtype=torch.int64)
    splat, place = (torch.cat([none, *parts]) for parts in (zip(*found, strict=True) if found else ([], [])))
    place, order = place.sort(stable=True)
    return splat[order] % max(1, count), place % pixels, place // pixels


def accumulate(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    gaussian_ids: Tensor,
    pixel_ids: Tensor,
    image_ids: Tensor,
    image_width: int,
    image_height: int,
) -> tuple[Tensor, Tensor]:
    """Blends the splats of each pixel front to back, as `rasterize_to_indices_in_range` listed them. Plain torch:
    differentiable in means2d, conics, opacities and colors, twice too.

    Args:
        means2d: [..., N, 2]; conics [..., N, 3]; opacities [..., N]; colors [..., N, D].
        gaussian_ids, pixel_ids, image_ids: int64 [P]; those of a pixel in drawing order.

    Returns:
        colours [..., H, W, D] and alphas [..., H, W, 1].
    """
    check_size(image_width, image_height)
    dims = means2d.shape[:-2]
    check = Arguments()
    check.floats("means2d", means2d, *dims, "N", 2)
    check.floats("conics", conics, *dims, "N", 3)
    check.floats("opacities", opacities, *dims, "N")
    check.floats("colors", colors, *dims, "N", "D")
    for name, ids in (("gaussian_ids", gaussian_ids), ("pixel_ids", pixel_ids), ("image_ids", image_ids)):
        check.tensor(name, ids, "P")
    pixels = image_height * image_width
    place, order = (image_ids.long() * pixels + pixel_ids).sort(stable=True)
    splat = (image_ids * means2d.shape[-2] + gaussian_ids)[order].long()
    means2d, conics, opacities, colors = (
        v.reshape(-1, *v.shape[len(dims) + 1 :])[splat] for v in (means2d, conics, opacities, colors)
    )
    centres = torch.stack([place % image_width, place % pixels // image_width], -1) + 0.5
    alphas = weights_at(centres.to(means2d.dtype) - means2d, conics, opacities).clamp_max(ALPHA_MAX)
    # What is left before each splat is a product over its pixel: a difference of sums of logarithms. The sums run over
    # all pixels, so they need float64.
    logs = torch.log1p(-alphas.double())
    sums = logs.cumsum(0) - logs
    begins = torch.searchsorted(place, place)
    weights = alphas * (sums - sums[begins]).exp().to(alphas.dtype) if len(place) else alphas
    shape = (*dims, image_height, image_width)

    def gathered(values: Tensor) -> Tensor:
        total = values.new_zeros(math.prod(dims) * pixels, values.shape[-1])
        return total.index_add(0, place, values).view(*shape, values.shape[-1])

    return gathered(weights[:, None] * colors), gathered(weights[:, None])


def _check_grid(width: int, height: int, tile_size: int, isect_offsets: Tensor) -> None:
    check_size(width, height)
    check_int("tile_size", tile_size, 1)
    if not isinstance(isect_offsets, Tensor) or isect_offsets.dim() < 2:
        Arguments().tensor("isect_offsets", isect_offsets, "...", "tile_height", "tile_width")
    rows, columns = isect_offsets.shape[-2:]
    if rows * tile_size < height or columns * tile_size < width:
        raise ValueError(
            f"isect_offsets must cover {width} x {height} pixels, got {columns} x {rows} tiles of {tile_size}"
        )


def _tile_lists(
    offsets: Tensor, entries: Tensor, masks: Tensor | None, tile_size: int, size: tuple[int, int], count: int
) -> TileLists:
    """Lists [..., tile_height, tile_width] of tiles of any multiple of 4 pixels as lists of 16x16 tiles.

    A 16x16 tile gets the lists of all the tiles that it shares 4x4 blocks with, one after the other, each for those
    blocks alone: a pixel looks at the entries of its block, so they need no common order.
    """
    images, grid = math.prod(offsets.shape[:-2]), math.prod(offsets.shape[-2:])
    begins = F.pad(offsets.flatten().long(), (0, 1), value=len(entries))
    lengths = begins.diff()
    if bool((lengths < 0).any()) or int(begins[0]) != 0:
        raise ValueError("isect_offsets must rise from 0 to the length of flatten_ids")
    if len(entries) and not 0 <= int(entries.min()) <= int(entries.max()) < count:
        raise ValueError(f"flatten_ids must be in 0 .. {count - 1}, got {int(entries.min())} .. {int(entries.max())}")
    if masks is not None:
        lengths = lengths * masks.to(torch.bool).flatten()
    tiles, sources, bits = _shared_blocks(size, tile_size, offsets.shape[-1], entries.device)
    lists = (torch.arange(images, device=entries.device)[:, None] * grid + sources).flatten()
    taken = lengths[lists]
    piece = torch.arange(len(lists), device=entries.device).repeat_interleave(taken)
    within = torch.arange(len(piece), device=entries.device) - (taken.cumsum(0) - taken)[piece]
    entries = entries[begins[lists][piece] + within]
    per_tile = taken.new_zeros(images, (-(-size[0] // TILE)) * (-(-size[1] // TILE)))
    per_tile.index_add_(1, tiles, taken.view(images, len(tiles)))
    per_splat = entries.bincount(minlength=count)
    slots = torch.empty_like(entries, dtype=torch.int32)
    slots[entries.argsort(stable=True)] = torch.arange(len(entries), dtype=torch.int32, device=entries.device)
    return TileLists(
        F.pad(per_tile.flatten().cumsum(0), (1, 0)),
        entries.int(),
        bits.repeat(images)[piece],
        F.pad(per_splat.cumsum(0), (1, 0)),
        slots,
        torch.stack([per_splat.sum(), (per_splat > 0).sum()]),
        width=size[0],
        height=size[1],
    )


def _shared_blocks(
    size: tuple[int, int], tile_size: int, columns: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each 16x16 tile and each tile of `tile_size`, `columns` of them in a row, that share 4x4 blocks: the two
    tiles, and the blocks as bits (int16) of the former; ordered by it."""
    x, y = (torch.arange(-(-pixels // 4), device=device) for pixels in size)
    tile = (y[:, None] // 4) * (-(-size[0] // TILE)) + x // 4
    source = (4 * y[:, None] // tile_size) * columns + 4 * x // tile_size
    most = int(source.max()) + 1
    pairs, place = torch.unique(tile * most + source, return_inverse=True)
    bit = 1 << (4 * (y[:, None] % 4) + x % 4)
    bits = torch.zeros_like(pairs).index_add_(0, place.flatten(), bit.flatten())
    return pairs // most, pairs % most, torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
