"""Losses on the rendered depth, as differences of disparity (1 / depth): what is far away is known less well.

A depth that is 0, negative or not finite is unknown, on either side, and counts for nothing: neither for the loss nor
for what it is divided by. Gradients are finite everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.checks import Arguments
from splat.scene.sums import take, total

NEAREST = 1e-6
"""Smaller depths are unknown."""


def _disparity(depth: Tensor) -> tuple[Tensor, Tensor]:
    """1 / depth, and where it is known (bool); 1 elsewhere, with a gradient of 0."""
    known = (depth > NEAREST) & torch.isfinite(depth)
    return 1 / torch.where(known, depth, 1), known


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """[]; 0 where nothing has a weight."""
    whole = total(weights)
    return total(values * weights) / torch.where(whole > 0, whole, 1)


def _around(place: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels of a line around each place [S], int64, and their weights; weights of 0 outside the picture."""
    inside = (place >= 0) & (place <= size)
    center = torch.where(inside, place - 0.5, 0).clamp(0, size - 1)
    first = center.long()
    part = center - first
    return [(first, (1 - part) * inside), ((first + 1).clamp_max(size - 1), part * inside)]


def sparse_depth_loss(depth: Tensor, keypoints: Tensor, target_depth: Tensor) -> Tensor:
    """[]: mean |1 / depth - 1 / target| at the pixels where sparse points are seen.

    Args:
        depth: [H, W] rendered, world units along the optical axis.
        keypoints: [S, 2] pixels (x, y), the centre of the first is 0.5; those outside the picture are left out. Between
            pixel centres the depth is interpolated, over those of the four pixels where it is known.
        target_depth: [S] depths of the points in this camera.
    """
    check = Arguments()
    check.floats("depth", depth, "H", "W")
    check.floats("keypoints", keypoints, "S", 2)
    check.floats("target_depth", target_depth, "S")
    height, width = depth.shape
    columns, rows = (_around(keypoints[:, i], size) for i, size in ((0, width), (1, height)))
    index = torch.stack([row * width + column for row, _ in rows for column, _ in columns])
    weight = torch.stack([down * across for _, down in rows for _, across in columns])
    four = take(depth.flatten(), index)
    weight = weight * ((four > NEAREST) & torch.isfinite(four))
    sums = weight.sum(0)
    seen = sums > 0
    mean = (torch.where(weight > 0, four, 0) * weight).sum(0) / torch.where(seen, sums, 1)
    rendered, known = _disparity(mean)
    target, given = _disparity(target_depth)
    return _weighted_mean((rendered - target).abs(), (seen & known & given).to(depth.dtype))


def depth_map_loss(
    depth: Tensor, alpha: Tensor, target: Tensor, mask: Tensor | None = None, *, align: bool = False
) -> Tensor:
    """[]: mean |1 / depth - 1 / target| over the picture, weighted by how much covers a pixel.

    Args:
        depth: [H, W] rendered, world units along the optical axis.
        alpha: [H, W] coverage, a weight without a gradient.
        target: [H, W] the depth map.
        mask: bool [H, W], what counts (default: all).
        align: the map is of a network, right up to a scale and a shift of disparity: those that fit the rendered depth
            best are found first, and are constants for the gradient. A map that fits best upside down counts as flat.
    """
    check = Arguments()
    check.floats("depth", depth, "H", "W")
    check.floats("alpha", alpha, "H", "W")
    check.floats("target", target, "H", "W")
    if mask is not None:
        check.integers("mask", mask, torch.bool, "H", "W")
    rendered, known = _disparity(depth)
    wanted, given = _disparity(target)
    counts = known & given if mask is None else known & given & mask
    weights = torch.where(counts, alpha.detach(), 0)
    if align:
        scale, shift = fit_disparity(wanted, rendered, weights)
        wanted = scale * wanted + shift
    return _weighted_mean((rendered - wanted).abs(), weights)


@torch.no_grad()
def fit_disparity(given: Tensor, wanted: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Scale >= 0 and shift, both [], that bring `given` closest to `wanted` in weighted least squares."""
    mean_given, mean_wanted = _weighted_mean(given, weights), _weighted_mean(wanted, weights)
    offset = given - mean_given
    variance = _weighted_mean(offset.square(), weights)
    scale = _weighted_mean(offset * (wanted - mean_wanted), weights) / torch.where(variance > 0, variance, 1)
    scale = scale.clamp_min(0)
    return scale, mean_wanted - scale * mean_given
