"""What a scene is made of, in the numbers that decide how fast it is drawn: sizes and opacities of its Gaussians, tile
lists, depth complexity. For comparing synthetic scenes with trained ones; runs on the CPU backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import splat
from splat.core.binning import ALPHA_MIN, TILE, TileLists, bin_splats
from splat.core.project import Splats2D, project

Stats = dict[str, float]

TRANSMITTANCE_MIN = 1e-4
ALPHA_MAX = 0.999


def _quantiles(name: str, values: Tensor, at: tuple[float, ...], most: int = 1_000_000) -> Stats:
    """By a sort: torch.quantile refuses long tensors."""
    step = max(1, len(values) // most)
    ordered = values[::step].sort().values
    return {f"{name} p{100 * q:g}": float(ordered[round(q * (len(ordered) - 1))]) for q in at}


def neighbour_distance(points: Tensor, count: int = 3, samples: int = 1000) -> tuple[Tensor, Tensor]:
    """Indices of evenly spaced rows of `points`, and their root mean square distance to the nearest others."""
    rows = torch.linspace(0, len(points) - 1, min(samples, len(points))).long()
    found = []
    for chunk in rows.split(max(1, 20_000_000 // len(points))):
        distance = torch.cdist(points[chunk], points, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distance.topk(count + 1, largest=False).values[:, 1:].square().mean(1).sqrt())
    return rows, torch.cat(found)


def world_stats(gaussians: splat.Gaussians, samples: int = 1000) -> Stats:
    """Statistics without a camera. Sizes are standard deviations; spacing is the rms distance to three neighbours."""
    opacity, size = gaussians.opacities, gaussians.scales.sort(dim=1).values
    rows, spacing = neighbour_distance(gaussians.means, samples=samples)
    ratio = (size[rows, 2] / spacing.clamp_min(1e-12)).log()
    centre = gaussians.means.median(0).values
    extent = (gaussians.means - centre).norm(dim=1).median()
    stats: Stats = {"Gaussians": len(gaussians)}
    stats |= _quantiles("opacity", opacity, (0.05, 0.25, 0.5, 0.75, 0.95))
    stats |= {"opacity < 0.1": float((opacity < 0.1).float().mean())}
    stats |= {"opacity > 0.9": float((opacity > 0.9).float().mean())}
    stats |= {"log(largest axis / spacing) median": float(ratio.median())}
    stats |= {"log(largest axis / spacing) std": float(ratio.std())}
    stats |= {"log(largest axis) std": float(size[:, 2].log().std())}
    stats |= _quantiles("largest axis / median radius", size[:, 2] / extent, (0.5, 0.99, 0.999))
    stats |= _quantiles("middle / largest axis", size[:, 1] / size[:, 2], (0.1, 0.25, 0.5, 0.75, 0.9))
    stats |= _quantiles("smallest / middle axis", size[:, 0] / size[:, 1], (0.1, 0.25, 0.5, 0.75, 0.9))
    stats |= {"SH 0 std": float(gaussians.sh0.std())}
    for band in range(1, gaussians.sh_degree + 1):
        values = gaussians.shN[:, band * band - 1 : (band + 1) ** 2 - 1]
        stats[f"SH {band} rms"] = float(values.square().mean().sqrt())
    return stats


def _tile_pairs(splats: Splats2D, tiles: TileLists, tile: int) -> dict[str, float]:
    """Pairs per pixel in one tile of camera 0."""
    begin, end = int(tiles.offsets[tile]), int(tiles.offsets[tile + 1])
    across = -(-tiles.width // TILE)
    corner = torch.tensor([tile % across, tile // across]) * TILE
    y, x = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
    x, y = x.flatten(), y.flatten()
    warp = (y // 4) * 2 + x // 8
    inside = (x + corner[0] < tiles.width) & (y + corner[1] < tiles.height)
    n = tiles.entries[begin:end].long()
    mean, conic = splats.means2d[0, n], splats.conics[0, n]
    d = torch.stack([x, y], -1) + corner + 0.5 - mean[:, None]  # [M, 256, 2]
    dx, dy = d.unbind(-1)
    sigma = 0.5 * (conic[:, :1] * dx * dx + conic[:, 2:] * dy * dy) + conic[:, 1:2] * dx * dy
    weight = splats.opacities[0, n, None] * torch.exp(-sigma)
    drawn = weight >= ALPHA_MIN
    through = (1 - weight.clamp_max(ALPHA_MAX) * drawn).cumprod(0)
    # The pixels that are still open when an entry is reached.
    live = torch.cat([torch.ones_like(drawn[:1]), through[:-1] > TRANSMITTANCE_MIN])[: len(n)] & inside
    # A warp of 8x4 pixels evaluates the entries that reach its two blocks, or whose box does, while a pixel is open.
    warps = torch.stack([live[:, warp == w].any(1) for w in range(8)], 1)
    first = torch.tensor([4 * (w // 2) + 2 * (w % 2) for w in range(8)])
    reach = ((tiles.masks[begin:end].int()[:, None] >> first) & 3) > 0
    low = corner + torch.tensor([[8 * (w % 2), 4 * (w // 2)] for w in range(8)])
    size, radii = torch.tensor([8, 4]), splats.radii[0, n, None]
    box = ((mean[:, None] + radii > low) & (mean[:, None] - radii < low + size)).all(-1)
    pixels = float(inside.sum())
    return {
        "listed": float(len(n)),
        "reached": float(live.any(1).sum()),
        "box": 32 * float((warps & box).sum()) / pixels,
        "evaluated": 32 * float((warps & reach).sum()) / pixels,
        "contributing": float((drawn & live & (through > TRANSMITTANCE_MIN)).sum()) / pixels,
        "covering": float((drawn & inside).sum()) / pixels,
        "stopped": float((through[-1:] <= TRANSMITTANCE_MIN).logical_and(inside).sum()) / pixels,
        "alpha": float(((1 - through[-1:]) * inside).sum()) / pixels,
        "holes": float(((through[-1] if len(n) else torch.ones(256)) > 0.5).logical_and(inside).sum()) / pixels,
    }


def screen_stats(gaussians: splat.Gaussians, cameras: splat.Cameras, *, samples: int = 200, seed: int = 0) -> Stats:
    """Statistics of the pictures, means over the cameras; pairs per pixel from `samples` random tiles of each."""
    total: Stats = {}
    generator = torch.Generator().manual_seed(seed)
    for index in range(len(cameras)):
        camera = cameras[index]
        shape = {"width": camera.width, "height": camera.height}
        splats = project(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, camera.viewmats, camera.Ks, **shape
        )
        tiles = bin_splats(splats, **shape)
        visible = (splats.radii[0] > 0).all(-1)
        lists = tiles.offsets.diff()
        touched = tiles.tiles_per_splat[visible].double()
        one: Stats = {
            "visible": float(visible.sum()),
            "visible fraction": float(visible.float().mean()),
            "tile entries": float(lists.sum()),
            "entries per visible splat": float(touched.mean()),
            "visible splats on no tile": float((touched == 0).double().mean()),
            "splats on > 100 tiles": float((touched > 100).double().mean()),
            "their share of entries": float(touched[touched > 100].sum() / touched.sum()),
            "list length mean": float(lists.double().mean()),
            "list length max": float(lists.max()),
        }
        one |= _quantiles("entries per visible splat", touched, (0.5, 0.9, 0.99))
        one |= _quantiles("list length", lists.double(), (0.5, 0.99))
        one |= _quantiles("radius (pixels)", splats.radii[0].amax(-1)[visible].double(), (0.5, 0.9, 0.99))
        chosen = torch.randperm(len(lists), generator=generator)[:samples].tolist()
        pairs = [_tile_pairs(splats, tiles, tile) for tile in chosen]
        mean = {key: math.fsum(p[key] for p in pairs) / len(pairs) for key in pairs[0]}
        one |= {
            "entries reached": mean["reached"] / max(mean["listed"], 1e-9),
            "evaluated pairs per pixel, by box": mean["box"],
            "evaluated pairs per pixel, by 4x4 masks": mean["evaluated"],
            "contributing splats per pixel": mean["contributing"],
            "covering splats per pixel": mean["covering"],
            "pixels that stop early": mean["stopped"],
            "coverage": mean["alpha"],
            "pixels covered less than half": mean["holes"],
        }
        for key, value in one.items():
            total[key] = total.get(key, 0.0) + value / len(cameras)
    return total


def show(columns: dict[str, Stats]) -> str:
    """A table, one column per scene."""
    names = list(dict.fromkeys(name for stats in columns.values() for name in stats))
    width = max(len(name) for name in names)
    lines = [" " * width + "".join(f"{title:>14}" for title in columns)]
    for name in names:
        cells = [stats.get(name) for stats in columns.values()]
        text = [f"{'-' if v is None else _number(v):>14}" for v in cells]
        lines.append(f"{name:<{width}}" + "".join(text))
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
