"""A dense start: depths of small copies of the photographs by plane sweeps, and points on what they show.

Sparse points lie where a feature detector fired: walls, lawns and what is far away have few, and growing Gaussians into
such places takes thousands of steps. A sweep over planes (Collins 1996) with normalised cross-correlation finds most of
that surface in seconds, and the points carry the colours of their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.cameras import Cameras
from splat.core.random import Purpose, uniform
from splat.scene.data.capture import Capture
from splat.scene.data.photos import PhotoCache
from splat.stop import deferred_stop

SIDE = 160
"""Longest side of the copies that are matched, pixels."""
PLANES = 64
"""Planes of a sweep, even in inverse depth."""
NEIGHBOURS = 4
"""Views that a view is matched with; the best two count at each pixel, since the others may not see it."""
MOST_VIEWS = 80
"""Of a larger capture every so-manieth view takes part."""
LEAST_ANGLE = 4.0
"""Degrees between two views below which there is little depth to see."""
WINDOW = 2
"""The correlation's window reaches this many pixels to each side."""
FAR = 100.0
"""Depth of the last plane, scene sizes."""
CONFIDENT = 0.6
"""Correlation from which a depth is believed, if AGREE other views say the same."""
AGREE = 2
TOLERANCE = 0.03
"""Relative difference of inverse depths that agree."""
SURE = 10.0
"""Weight of a surface whose depth views agree on, against one whose depth is filled in."""
NOISE = 1e-4
"""Variance of grey values (0..1) that is noise: it keeps flat places from correlating."""


@dataclass(frozen=True)
class DensePoints:
    """Points on what the photographs show."""

    points: Tensor
    """[R, 3] normalised world."""
    colors: Tensor
    """[R, 3] in 0..1."""
    sizes: Tensor
    """[R] distance to the next point of the same view, about; normalised world."""


@dataclass(frozen=True)
class _Small:
    """A small copy of a view."""

    camera: Cameras
    rgb: Tensor
    """[H, W, 3]"""
    grey: Tensor
    """[1, 1, H, W]"""
    covered: Tensor
    """bool [H, W]: not transparent, not masked."""
    rays: Tensor
    """[H, W, 3] camera axes, z = 1."""
    row: int


@dataclass(frozen=True)
class _Depths:
    """What the sweep of a view found."""

    inverse: Tensor
    """[H, W]"""
    correlation: Tensor
    """[H, W]"""


def dense_points(capture: Capture, photos: PhotoCache, count: int, seed: int = 0) -> DensePoints | None:
    """About `count` points on the surfaces that the training views show; None where there are too few views to tell, or
    the request to stop (Ctrl-C) came first."""
    rows = capture.train[:: -(-len(capture.train) // MOST_VIEWS)]
    if len(rows) < 3 or count < 1:
        return None
    views = [_small(capture, photos, row) for row in rows]
    depths = []
    with deferred_stop() as stop:
        for i, view in enumerate(views):
            if stop.requested:
                return None
            depths.append(_sweep(view, [views[j] for j in _neighbours(views, i)], _near(capture, view)))
    chances, filled = zip(*(_seen(views, depths, i) for i in range(len(views))), strict=True)
    total = sum(float(c.double().sum()) for c in chances)
    if not total > 0:
        return None
    share = min(1.0, count / total)
    parts = [_pick(v, inverse, c * share, share, seed) for v, inverse, c in zip(views, filled, chances, strict=True)]
    return DensePoints(*(torch.cat(p) for p in zip(*parts, strict=True)))


def _small(capture: Capture, photos: PhotoCache, row: int) -> _Small:
    view = capture.views[row]
    halvings = 0
    while max(view.width, view.height) / 2**halvings > SIDE:
        halvings += 1
    photo = photos.get(row, halvings)
    height, width = photo.rgb.shape[:2]
    camera = capture.camera(row)
    camera = camera.scaled(width / camera.width) if halvings else camera
    rgb = photo.rgb.float() / 255
    covered = torch.ones(height, width, dtype=torch.bool)
    if photo.alpha is not None:
        covered &= photo.alpha > 127
        rgb = rgb * (photo.alpha.float() / 255)[..., None]
    if photo.mask is not None:
        covered &= photo.mask
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    K = camera.Ks[0]
    plane = torch.stack(torch.meshgrid((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], indexing="xy"), -1)
    rays = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
    return _Small(camera, rgb, rgb.mean(-1)[None, None], covered, rays, row)


def _neighbours(views: list[_Small], i: int) -> list[int]:
    """The views that look most alike, but not from almost the same direction."""
    axes = torch.stack([v.camera.viewmats[0, 2, :3] for v in views]).double()
    centers = torch.cat([v.camera.centers for v in views]).double()
    # Between the axes, or as seen from a scene's size away: cameras in a row look the same way.
    turned = torch.acos((axes @ axes[i]).clamp(-1, 1))
    angles = torch.rad2deg(torch.maximum(turned, torch.atan((centers - centers[i]).norm(dim=1))))
    angles[angles < LEAST_ANGLE] += 30  # rather one that is farther off
    angles[i] = torch.inf
    return angles.argsort(stable=True)[: min(NEIGHBOURS, len(views) - 1)].tolist()


def _near(capture: Capture, view: _Small) -> float:
    """Depth of the first plane: a little before the first sparse point, or a third of the way to the middle."""
    viewmat = view.camera.viewmats[0]
    depths = (capture.points @ viewmat[2, :3] + viewmat[2, 3])[capture.views[view.row].point_rows]
    depths = depths[depths > 0]
    if len(depths) >= 20:
        return float(depths.quantile(0.01)) / 1.3
    return 0.3 * capture.extent


def _box(image: Tensor, reach: int = WINDOW) -> Tensor:
    """Means over windows; [B, 1, H, W]."""
    size = 2 * reach + 1
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, size), 1), (size, 1), 1)


def _sweep(view: _Small, others: list[_Small], near: float) -> _Depths:
    """The inverse depth of each pixel at which the neighbours look most like it."""
    inverse = torch.linspace(1 / near, 1 / FAR, PLANES)
    mean = _box(view.grey)
    variance = (_box(view.grey * view.grey) - mean * mean).clamp_min(0)
    all_matches = []
    for other in others:
        uv, inside = _project(view.rays[None], inverse[:, None, None], view, other)
        height, width = other.grey.shape[2:]
        grid = uv / uv.new_tensor([width / 2, height / 2]) - 1
        seen = F.grid_sample(other.grey.expand(PLANES, -1, -1, -1), grid, align_corners=False, padding_mode="border")
        means = _box(seen)
        variances = (_box(seen * seen) - means * means).clamp_min(0)
        matches = (_box(seen * view.grey) - means * mean) / ((variances + NOISE) * (variance + NOISE)).sqrt()
        all_matches.append(torch.where(inside, matches[:, 0], matches.new_tensor(-0.2)))
    best = torch.stack(all_matches).topk(min(2, len(others)), 0).values.mean(0)
    best = _box(best[:, None], 1)[:, 0]
    top, plane = best.max(0)
    # A parabola through the best plane and its neighbours.
    middle = plane.clamp(1, PLANES - 2)
    before, here, after = (best.gather(0, (middle + k)[None])[0] for k in (-1, 0, 1))
    offset = (0.5 * (before - after) / (before - 2 * here + after).clamp_max(-1e-6)).clamp(-0.5, 0.5)
    fine = inverse[0] + (middle + torch.where(middle == plane, offset, plane - middle)) * (inverse[1] - inverse[0])
    return _Depths(fine.clamp_min(1 / FAR), torch.where(view.covered, top, torch.full_like(top, -1)))


def _project(rays: Tensor, inverse: Tensor, view: _Small, other: _Small) -> tuple[Tensor, Tensor]:
    """Pixels [..., 2] of another view, and whether they lie inside it, of points rays / inverse of a view."""
    there, here = other.camera.viewmats[0], view.camera.viewmats[0]
    turn = there[:3, :3] @ here[:3, :3].mT
    shift = there[:3, 3] - turn @ here[:3, 3]
    K = other.camera.Ks[0]
    scaled = rays @ (K @ turn).mT + inverse[..., None] * (K @ shift)
    z = scaled[..., 2]
    uv = scaled[..., :2] / z[..., None].clamp_min(1e-6)
    height, width = other.grey.shape[2:]
    return uv, (z > 1e-6) & (uv > 0).all(-1) & (uv[..., 0] < width) & (uv[..., 1] < height)


def _seen(views: list[_Small], depths: list[_Depths], i: int) -> tuple[Tensor, Tensor]:
    """[H, W] weight of each pixel in the choice of points, and [H, W] inverse depths without holes.

    A surface that k views agree on gets SURE / k of the weight in each, so that it is covered as densely as if one view
    alone had seen it, and better where the depth is known than where it is guessed.
    """
    view, mine = views[i], depths[i]
    agree = torch.zeros_like(mine.inverse)
    for j, other in enumerate(views):
        if j == i:
            continue
        uv, inside = _project(view.rays, mine.inverse, view, other)
        height, width = other.grey.shape[2:]
        column, line = (uv[..., k].floor().long().clamp(0, most - 1) for k, most in ((0, width), (1, height)))
        viewmat, here = other.camera.viewmats[0], view.camera.viewmats[0]
        turn = viewmat[2, :3] @ here[:3, :3].mT
        depth = (view.rays @ turn) / mine.inverse + (viewmat[2, 3] - turn @ here[:3, 3])
        theirs = depths[j].inverse[line, column]
        same = (theirs * depth - 1).abs() < TOLERANCE + 0.3 / FAR * depth
        agree += inside & same & (depths[j].correlation[line, column] > CONFIDENT - 0.1)
    sure = (mine.correlation > CONFIDENT) & (agree >= AGREE)
    weight = torch.where(sure, (SURE / (1 + agree)).clamp_max(1), torch.ones_like(agree)) * view.covered
    return weight, _filled(mine.inverse, sure)


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """[H, W]: what is not known takes the least known inverse depth in the smallest square of a pyramid that has one.

    The least, that is the farthest: beside an object it is what stands behind it that has no depth, the sky first.
    """
    levels = [torch.where(known, -values, torch.full_like(values, -torch.inf))[None, None]]
    while max(levels[-1].shape[2:]) > 1:
        levels.append(F.max_pool2d(levels[-1], 2, ceil_mode=True))
    result = torch.full_like(levels[-1], -2 / FAR)
    for level in reversed(levels):
        result = torch.where(level.isinf(), F.interpolate(result, size=level.shape[2:]), level)
    return -result[0, 0]


def _pick(view: _Small, inverse: Tensor, chances: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, colours and sizes of the pixels that are drawn with these chances [H, W]."""
    pixels = torch.arange(inverse.numel()) + (view.row << 32)
    line, column = (uniform(seed, 0, Purpose.POINTS, pixels, 1)[:, 0].view_as(chances) < chances).nonzero(as_tuple=True)
    depth = 1 / inverse[line, column]
    viewmat = view.camera.viewmats[0]
    points = (view.rays[line, column] * depth[:, None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    spacing = (1 / share) ** 0.5 / view.camera.Ks[0, 0, 0]
    return points, view.rgb[line, column], depth * spacing
