"""Adding Gaussians where the residual asks for them, and moving the ones that do least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.image.init import Shapes, Structure, oriented_shapes
from splat.image.solve import ColorSystem, kernel_energy

SIZE_SPREAD = 1.5
"""Candidates are 2^-SIZE_SPREAD to 2^SIZE_SPREAD times as large as the typical one. One size for all costs 0.3 dB on
Kodak at 10,000 Gaussians."""
RATIO_SPREAD = 0.4
"""Standard deviation of the log of half the axis ratio."""
SPACING = 1.6
"""Distance of candidates in units of the typical one's standard deviation."""


def removal_cost(log_scales: Tensor, colors: Tensor, correlation: Tensor) -> Tensor:
    """[N] by how much the squared error rises when a Gaussian is left out (exact for interior Gaussians):
    |c|^2 |G|^2 + 2 c . <G, residual>, residual = target - render.

    Args:
        correlation: [N, D], <G_n, residual> for each channel (-v_colors of rasterize_l2).
    """
    return (colors * colors).sum(-1) * kernel_energy(log_scales) + 2 * (colors * correlation).sum(-1)


@dataclass(frozen=True)
class Births:
    """New Gaussians."""

    shapes: Shapes
    colors: Tensor
    """[K, D], the best for each Gaussian alone."""


def best_births(
    residual_tiles: Tensor, count: int, sigma: float, structure: Structure, generator: torch.Generator
) -> Births:
    """At most `count` Gaussians that explain most of a residual [tiles, D, 256] (tiled, see rasterize_l2).

    A jittered lattice of candidates about `sigma` pixels large, along the edges of the picture, goes through the
    rasteriser once, which correlates each with the residual: <G, r>^2 / |G|^2 is the squared error that a Gaussian
    with its best colour takes away. Local maxima over the lattice are taken, best first, so that two are not put on
    one spot. Where the structure has an importance, what is explained counts times that.
    """
    height, width = structure.angle.shape
    spacing = SPACING * sigma
    rows, columns = max(1, round(height / spacing)), max(1, round(width / spacing))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    lattice = torch.stack([x, y], -1).view(-1, 2) + torch.rand(rows * columns, 2, generator=generator)
    means = lattice * torch.tensor([width / columns, height / rows])
    sizes = sigma * torch.exp2(SIZE_SPREAD * (2 * torch.rand(len(means), generator=generator) - 1))
    shapes = oriented_shapes(means, sizes, structure)
    stretch = RATIO_SPREAD * torch.randn(len(means), 1, generator=generator)
    shapes = Shapes(means, shapes.log_scales + torch.cat([stretch, -stretch], -1), shapes.angles)
    system = ColorSystem(shapes.means, shapes.log_scales, shapes.angles, width, height)
    nothing = means.new_zeros(len(means), residual_tiles.shape[1])
    correlation = -system.step(nothing, residual_tiles).v_colors[0]
    gain = correlation.square().sum(-1) / system.energy * structure.importance_at(means)
    peak = F.max_pool2d(gain.view(1, rows, columns), 3, 1, 1).flatten()
    candidates = torch.where(gain >= peak, gain, 0.0)
    chosen = candidates.topk(min(count, int((candidates > 0).sum()))).indices
    best = Shapes(shapes.means[chosen], shapes.log_scales[chosen], shapes.angles[chosen])
    return Births(best, correlation[chosen] / system.energy[chosen, None])
