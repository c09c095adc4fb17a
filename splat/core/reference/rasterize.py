"""Reference of the compositors: one tile at a time, all its pixels against all its entries, by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.reference import tie

TILE = 16
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4
TOPK_EPSILON = 1e-4


def weights_at(offsets: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """[...]: opacity * exp(-sigma) at the offset [..., 2] of a pixel from a splat's centre (or the other way round)."""
    dx, dy = offsets.unbind(-1)
    a, b, c = conics.unbind(-1)
    return opacities * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))


def splat_weights(pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """[P, M] of P pixels and M splats."""
    return weights_at(pixels[:, None] - means2d[None], conics, opacities)


def _cut(weights: Tensor, cutoff: float, smooth: bool) -> Tensor:
    """Factor 0 or 1 below and above the cutoff; smooth: a C1 step between cutoff and 2 cutoff (gradient checks)."""
    if not smooth:
        return (weights >= cutoff).to(weights.dtype)
    t = ((weights - cutoff) / cutoff).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _alpha(raw: Tensor, colors: Tensor, cutoff: float, smooth: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Image, alpha and the weight of what lies behind, for [P, M] weights in drawing order."""
    clamped = torch.where(raw < ALPHA_MAX, raw, torch.full_like(raw, ALPHA_MAX))
    alpha = clamped * _cut(raw, cutoff, smooth)
    after = (1 - alpha).cumprod(1)
    # after falls monotonically, so once a splat would close the pixel, all later ones are closed off too.
    open_ = (after > TRANSMITTANCE_MIN).detach()
    alpha = alpha * open_
    after = (1 - alpha).cumprod(1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    behind = after[:, -1] if raw.shape[1] else raw.new_ones(raw.shape[0])
    return (alpha * before) @ colors, 1 - behind, behind


def order_free(
    raw: Tensor, colors: Tensor, cutoff: float, smooth: bool, topk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, alpha and the weight of what lies behind, for [P, M] weights; topk: None for blend sum."""
    weights = raw * _cut(raw, cutoff, smooth)
    if topk is None:
        return weights @ colors, weights.sum(1), raw.new_ones(raw.shape[0])
    if raw.shape[1] > topk:
        rank = weights.detach().argsort(dim=1, descending=True, stable=True)
        chosen = torch.zeros_like(weights, dtype=torch.bool).scatter(1, rank[:, :topk], True)
        weights = weights * chosen
    total = weights.sum(1)
    scale = 1 / (total + TOPK_EPSILON)
    return (weights @ colors) * scale[:, None], total * scale, TOPK_EPSILON * scale


def rasterize(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    tile_offsets: Tensor,
    entries: Tensor,
    width: int,
    height: int,
    blend: str,
    topk: int,
    cutoff: float,
    smooth_cutoff: bool = False,
) -> tuple[Tensor, Tensor]:
    """image [C, H, W, D] and alphas [C, H, W]; see splat.core.rasterize. smooth_cutoff replaces the jump at the cutoff
    by a C1 step, so that finite differences mean something."""
    cameras, count, channels = colors.shape
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    flat = [v.reshape(cameras * count, *v.shape[2:]) for v in (means2d, conics, opacities, colors)]
    pictures, coverages = [], []
    for camera in range(cameras):
        rows, alpha_rows = [], []
        for ty in range(tiles_y):
            row, alpha_row = [], []
            for tx in range(tiles_x):
                t = (camera * tiles_y + ty) * tiles_x + tx
                chosen = entries[int(tile_offsets[t]) : int(tile_offsets[t + 1])].long()
                h, w = min(TILE, height - ty * TILE), min(TILE, width - tx * TILE)
                rows_y, rows_x = (torch.arange(n, device=means2d.device) + 0.5 for n in (h, w))
                y, x = torch.meshgrid(rows_y + ty * TILE, rows_x + tx * TILE, indexing="ij")
                pixels = torch.stack([x, y], -1).reshape(-1, 2).to(means2d.dtype)
                raw = splat_weights(pixels, flat[0][chosen], flat[1][chosen], flat[2][chosen])
                if blend == "alpha":
                    image, alpha, behind = _alpha(raw, flat[3][chosen], cutoff, smooth_cutoff)
                else:
                    kept = topk if blend == "topk" else None
                    image, alpha, behind = order_free(raw, flat[3][chosen], cutoff, smooth_cutoff, kept)
                if backgrounds is not None:
                    image = image + behind[:, None] * backgrounds[camera]
                row.append(image.view(h, w, channels))
                alpha_row.append(alpha.view(h, w))
            rows.append(torch.cat(row, 1))
            alpha_rows.append(torch.cat(alpha_row, 1))
        pictures.append(torch.cat(rows, 0))
        coverages.append(torch.cat(alpha_rows, 0))
    shape = (cameras, height, width)
    image = torch.stack(pictures) if pictures else colors.new_zeros(*shape, channels)
    coverage = torch.stack(coverages) if coverages else colors.new_zeros(shape)
    geometry = (means2d, conics, opacities)
    return tie(image, *geometry, colors, backgrounds), tie(coverage, *geometry)
