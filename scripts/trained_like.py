"""A synthetic scene with the statistics of trained ones, for benchmarks that need millions of Gaussians.

    python scripts/trained_like.py                                       # the statistics of 100,000 Gaussians
    python scripts/trained_like.py --count 100000 1000000 3000000 --cameras 2

`trained_like(count)` strews Gaussians over the surfaces of scripts/scene_surfaces.py and returns them with cameras on a
ring around the table, as things are captured for MipNeRF360. Densities follow the pixels that see a surface; the small
axis lies near the normal; opacities have two humps; a hundredth floats in the air. They are stored in Morton order, as
viewers and converters store scenes, or in random order, as densification leaves them.

What it aims at, at 1920x1080:

A. Trained scenes, measured with scripts/scene_stats.py: `kitchen_room.splat` (124,495 Gaussians), a room seen from
   within by four views, and the cut-out objects `guitar.ply`, `biker.compressed.ply`, `angel.sog` and `massa.sog`
   (59,000 to 153,000), each filling a part of four views around it. The last column is the kitchen in pictures of 0.2
   times the size, where its splats are as small and as dense as those of 3 million in full ones.
B. Planning values for MipNeRF360 scenes, estimates: 0.6 of 1 M, 1.5 of 3 M and 2.5 of 6 M visible, with 3.5, 8 and 12 M
   tile entries (5.8, 5.3 and 4.8 per visible splat), of which 0.6 are reached; 60 to 250 evaluated pairs per pixel.

                                    kitchen    objects       0.1 M     1 M     3 M     6 M    kitchen at 0.2
    opacity < 0.1                      0.27   0.09-0.35       0.23    0.23    0.23    0.23
    opacity > 0.9                      0.36   0.08-0.25       0.29    0.29    0.29    0.29
    log(largest / spacing) median      0.74   0.64-0.96       0.51    0.60    0.80    0.97
    log(largest / spacing) std         0.93   0.82-0.91       0.69    0.84    0.82    0.88
    middle / largest axis, median      0.17   0.18-0.28       0.17    0.17    0.17    0.17
    smallest / middle axis, median     0.20   0.11-0.29       0.20    0.20    0.20    0.20
    visible fraction                   0.46   0.40-0.69       0.61    0.59    0.48    0.43    0.49
    entries per visible splat          21     11-22           18.6    6.0     5.1     4.6     2.9
    entries on splats of > 100 tiles   0.40   0.08-0.35       0.19    0.03    0.02    0.01    0.005
    list length p99 / mean             2.6           -        2.9     3.7     3.5     3.4     2.6
    entries reached                    0.88   0.58-0.70       0.87    0.74    0.54    0.41    0.97
    evaluated pairs, by 8x4 box        105           -        96      194     262     309     248
    evaluated pairs, by 4x4 masks      87            -        71      126     168     197     187
    contributing splats per pixel      66            -        51      64      77      88      67
    covering splats per pixel          93            -        70      121     216     328     107

A and B disagree: at the kitchen's sizes 3 M would have 2.9 entries per visible splat. Here sizes grow with the count to
give B's entries, so that more splats cover a pixel, fewer entries are reached, and about 260 pairs are evaluated, the
upper end of B (where a pair counts for all pixels of a warp, many small splats cost much).

The harmonics are smaller than trained ones (rms 0.1, 0.06, 0.04 per degree; the robot `playbot` has 0.26, 0.16), for a
smooth picture; no time depends on them. The sky's Gaussians are larger, relative to the scene, than a room's largest.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Literal

import torch
import torch.nn.functional as F
from scene_stats import Stats, screen_stats, show, world_stats
from scene_surfaces import Patches, surfaces
from torch import Tensor

import splat
from splat.core.checks import check_int
from splat.core.reference.project import rotation
from splat.gaussians import SH_C0

WIDTH, HEIGHT = 1920, 1080
NEAR = 4.0
"""Radius of what the cameras circle around; at three times as much, all is background."""
BACKGROUND = 0.35
"""Share of the Gaussians in the background, of a million or fewer."""
FLOATERS = 0.01
"""Share of the Gaussians that hang in the air between the cameras."""
THICKNESS = 0.6
"""Standard deviation of the positions across a surface, relative to the spacing on it: a few Gaussians deep."""
SIZE = (0.48, 0.8)
"""Mean and standard deviation of log(largest axis / spacing)."""
MIDDLE, SMALLEST = (-1.6, 1.6), (-1.4, 1.95)
"""Mean and standard deviation of the logit of middle / largest axis, and of smallest / middle."""
FAINT, OPAQUE = 0.3, 0.3
"""Shares of the Gaussians in the lower and the upper hump of the opacities."""
SH_RMS = (0.1, 0.06, 0.04)
"""Of the coefficients of degree 1, 2, 3."""


def _growth(count: int) -> float:
    """0 up to a million, 1 at three: scenes with more Gaussians are larger ones, not only finer ones."""
    return max(0.0, math.log(count / 1e6, 3))


def _cameras(views: int) -> splat.Cameras:
    """A ring that looks down on the table."""
    return splat.Cameras.orbit(
        views, radius=3.6, width=WIDTH, height=HEIGHT, target=(0.0, 0.0, 0.7), elevation=14, fov_y=42
    )


def _exposure(patches: Patches) -> Tensor:
    """[Q] the share of a picture that a patch fills, mean over a capture, were nothing in its way. Densification makes
    about as many Gaussians as there are pixels to explain."""
    cameras, points = _cameras(16), patches.corners.mean(1)
    turn, shift = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    seen = points @ turn.mT + shift[:, None]
    distance = seen.norm(dim=2).clamp_min(1)
    facing = ((patches.normals @ turn.mT) * seen).sum(2).abs() / distance
    limit = torch.tensor([WIDTH / 2, HEIGHT / 2]) / cameras.Ks[0, 0, 0]
    framed = (seen[..., :2].abs() < limit * seen[..., 2:]).all(2)
    weight = torch.where(framed, 1.0, 0.03) * facing.clamp_min(0.15) / distance**2
    return patches.areas * weight.mean(0)


def _shares(patches: Patches, background: float, g: torch.Generator) -> Tensor:
    """float64 [Q] of the Gaussians: as the exposure asks, times a random factor, as detail varies."""
    varied = patches.detail * (0.6 * torch.randn(len(patches.areas), generator=g)).exp()
    weight = (_exposure(patches) * varied).double()
    far = ((patches.corners.mean(1).norm(dim=1) - NEAR) / (2 * NEAR)).clamp(0, 1)
    near, beyond = (weight * (1 - far)).sum(), (weight * far).sum()
    return weight * (1 - far) * (1 - background) / near + weight * far * background / beyond


def _place(patches: Patches, count: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [N, 3], their spacing [N] and patches [N] (-1: a floater)."""
    loose = round(FLOATERS * count)
    shares = _shares(patches, min(BACKGROUND + 0.19 * _growth(count), 0.75), g)
    ends = (shares.cumsum(0) / shares.sum() * (count - loose)).round().long()
    patch = torch.repeat_interleave(torch.arange(len(shares)), ends.diff(prepend=ends.new_zeros(1)))
    gaps = (patches.areas / (shares * (count - loose)).clamp_min(0.1)).sqrt().float()
    spacing = gaps[patch]
    u, v = torch.rand(2, len(patch), 1, generator=g)
    across = THICKNESS * spacing * torch.randn(len(patch), generator=g)
    means = patches.at(patch, u, v) + across[:, None] * patches.normals[patch]
    room = torch.tensor([7.0, 7.0, 2.5])
    floaters = (torch.rand(loose, 3, generator=g) - torch.tensor([0.5, 0.5, 0.0])) * room
    gap = 0.15 * (float(room.prod()) / max(loose, 1)) ** (1 / 3)
    return (
        torch.cat([means, floaters]),
        torch.cat([spacing, torch.full((loose,), gap)]),
        torch.cat([patch, torch.full((loose,), -1)]),
    )


def _morton(points: Tensor) -> Tensor:
    """int64 [N]; what is far is contracted, so that it does not use up the bits."""
    r = (points.norm(dim=1, keepdim=True) / NEAR).clamp_min(1e-9)
    unit = points / NEAR * torch.where(r < 1, torch.ones_like(r), (2 - 1 / r) / r)
    code = torch.zeros(len(points), dtype=torch.int64)
    for axis in range(3):
        x = ((unit[:, axis] + 2) / 4 * 65535).long()
        for shift, mask in ((16, 0xFF0000FF), (8, 0xF00F00F00F), (4, 0xC30C30C30C3), (2, 0x249249249249)):
            x = (x | x << shift) & mask
        code |= x << axis
    return code


def _opacity_logits(faint: Tensor, opaque: Tensor, g: torch.Generator) -> Tensor:
    """[N]: two humps and a wide middle. Training prunes below 0.005."""
    mean = 0.1 - 2.7 * faint + 3.5 * opaque
    spread = 1.4 - 0.6 * faint - 0.2 * opaque
    return (mean + spread * torch.randn(len(faint), generator=g)).clamp(-5.2, 9)


def _log_scales(base: Tensor, limits: Tensor, z: Tensor) -> Tensor:
    """[N, 3], largest first, from three normal variables [3, N]. The long ones are the thin ones, so that areas vary
    less than lengths."""
    largest = torch.minimum(base + SIZE[1] * z[0], limits.log())
    middle = largest + F.logsigmoid(MIDDLE[0] + MIDDLE[1] * (0.87 * z[1] - 0.5 * z[0]))
    smallest = middle + F.logsigmoid(SMALLEST[0] + SMALLEST[1] * z[2])
    return torch.stack([largest, middle, smallest], 1)


def _quats(patches: Patches, patch: Tensor, large: Tensor, g: torch.Generator) -> Tensor:
    """[N, 4]: the smallest axis near the surface's normal. Large Gaussians lie along the surface's u, as they would
    along edges; of the small ones a third have any direction. Not of unit length, as training does not keep that."""
    normals = torch.where(patches.normals[:, 2:] < 0, -patches.normals, patches.normals)
    nx, ny, nz = normals.unbind(1)
    upright = F.normalize(torch.stack([1 + nz, -ny, nx, torch.zeros_like(nz)], 1), dim=1)  # from z to the normal
    along = (rotation(upright).mT @ patches.tangents[0][..., None])[..., 0]
    turn = torch.atan2(along[:, 1], along[:, 0])[patch]
    half = (turn + torch.randn(len(patch), generator=g) * torch.where(large, 0.3, 3.0)) / 2
    (w, x, y, _), c, s = upright[patch].unbind(1), half.cos(), half.sin()
    quats = torch.stack([w * c, x * c + y * s, y * c - x * s, w * s], 1)
    wild = ~large & (torch.rand(len(patch), generator=g) < 0.3)
    return quats + torch.randn(len(patch), 4, generator=g) * torch.where(wild, 3.0, 0.12)[:, None]


def _colors(patches: Patches, patch: Tensor, means: Tensor, z: Tensor, g: torch.Generator) -> Tensor:
    """[N, 3] constant coefficients: the surface's colour under a smooth pattern that is as coarse as things are far;
    small Gaussians differ more from it than large ones."""
    scaled = means / (0.25 * (means.norm(dim=1, keepdim=True) + 1))
    phase = scaled @ (2 * torch.randn(3, 6, generator=g)) + torch.randn(6, generator=g)
    mix = torch.tensor([[0.6, 0.5, 0.5], [0.4, 0.4, 0.3], [0.3, 0.4, 0.5]])
    pattern = (phase[:, :3] + 1.5 * phase[:, 3:].sin()).sin() @ mix
    shade = 1 + 0.3 * pattern + 0.12 * torch.randn(len(patches.areas), 1, generator=g)[patch]
    noise = 0.35 * torch.randn(len(means), 1, generator=g) * (-0.5 * z).exp().clamp_max(2)[:, None]
    return (patches.colors[patch] * shade - 0.5) / SH_C0 + noise


def trained_like(
    count: int,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    views: int = 4,
    order: Literal["morton", "random"] = "morton",
) -> tuple[splat.Gaussians, splat.Cameras]:
    """`count` Gaussians of SH degree 3 and `views` cameras at 1920x1080; the same bits for the same seed."""
    check_int("count", count, 1)
    if order not in ("morton", "random"):
        raise ValueError(f"order must be morton or random, got {order!r}")
    g = torch.Generator().manual_seed(seed)
    patches = surfaces(g)
    means, spacing, patch = _place(patches, count, g)
    # All else is drawn in the final order, which spares moving it.
    rank = _morton(means).argsort(stable=True) if order == "morton" else torch.randperm(count, generator=g)
    means, spacing, patch = means[rank], spacing[rank], patch[rank]
    floating, patch = patch < 0, patch.clamp_min(0)
    kind, z = torch.rand(count, generator=g), torch.randn(3, count, generator=g)
    faint, opaque = (kind < FAINT) | floating, (kind > 1 - OPAQUE) & ~floating
    # Faint Gaussians are larger. Where a surface has few, they must be larger than its limit to cover it.
    base = spacing.log() + SIZE[0] + 0.2 * _growth(count) + 0.35 * faint
    limits = torch.where(floating, torch.inf, torch.maximum(patches.limits[patch], 1.5 * spacing))
    shN = torch.randn(count, 15, 3, generator=g)
    for band, rms in enumerate(SH_RMS, 1):
        shN[:, band * band - 1 : (band + 1) ** 2 - 1] *= rms
    gaussians = splat.Gaussians(
        means=means,
        quats=_quats(patches, patch, z[0] > 0, g),
        log_scales=_log_scales(base, limits, z),
        opacity_logits=_opacity_logits(faint, opaque, g),
        sh0=_colors(patches, patch, means, z[0], g)[:, None],
        shN=shN,
    )
    return gaussians.to(device), _cameras(views).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[100_000], help="Gaussians, a column each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cameras", type=int, default=4, help="views that the means are taken over")
    parser.add_argument("--json", action="store_true", help="instead of a table")
    arguments = parser.parse_args()
    columns: dict[str, Stats] = {}
    for count in arguments.count:
        began = time.perf_counter()
        gaussians, cameras = trained_like(count, seed=arguments.seed, views=arguments.cameras)
        took = time.perf_counter() - began
        stats = world_stats(gaussians) | screen_stats(gaussians, cameras)
        columns[f"{count:,}"] = stats | {"seconds to generate": took}
    print(json.dumps(columns, indent=1) if arguments.json else show(columns))


if __name__ == "__main__":
    main()
