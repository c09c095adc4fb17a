"""Adding Gaussians where the residual asks for them, and moving the ones that do least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.rasterize_l2 import SUM, L2Step
from splat.image.init import Shapes, Structure, oriented_shapes
from splat.image.objective import Objective
from splat.image.solve import LEAST_ENERGY, ColorSystem

SIZE_SPREAD = 1.5
"""Candidates are 2^-SIZE_SPREAD to 2^SIZE_SPREAD times as large as the typical one. One size for all costs 0.3 dB on
Kodak at 10,000 Gaussians."""
RATIO_SPREAD = 0.4
"""Standard deviation of the log of half the axis ratio."""
SPACING = 1.6
"""Distance of candidates in units of the typical one's standard deviation."""
MOST_SHARE = 0.95
"""Most that a Gaussian of blend topk is taken to have of its pixels when its removal is judged: what the neighbours
that take over would show there is hardly seen in the picture with it."""


def removal_cost(objective: Objective, params: Mapping[str, Tensor], step: L2Step) -> Tensor:
    """[N] by how much the weighted squared error rises when a Gaussian is left out.

    Sum: c^2 |G|^2 + 2 c <G, residual>, exact. Topk: a Gaussian with the share a of a pixel leaves a (c - I) / (1 - a)
    of the picture I behind; its mean share is taken for that in the denominator, and that other Gaussians move up among
    the largest is left out.

    Args:
        step: of these parameters.
    """
    colors, system = params["colors"], objective.color_system(params)
    if objective.canvas.options.blend == "sum":
        correlation = -step.v_colors[0]
        return (colors * colors * system.energy).sum(-1) + 2 * (colors * correlation).sum(-1)
    weights, image = objective.weights_or_ones, objective.image(step)
    squares = system.gather_squares(torch.cat([(weights * image.square()).sum(1, keepdim=True), weights * image], 1))
    share = (system.energy.mean(-1) / system.gather(weights).mean(-1).clamp_min(1e-12)).clamp_max(MOST_SHARE)
    pull = -step.v_opacities[0] * system.splats.opacities[0]  # <residual, a (c - I)>
    size = (colors * colors * system.energy - 2 * colors * squares[:, 1:]).sum(-1) + squares[:, 0]
    return 2 * pull / (1 - share) + size / (1 - share).square()


@dataclass(frozen=True)
class Births:
    """New Gaussians."""

    shapes: Shapes
    colors: Tensor
    """[K, D], the best for each Gaussian alone."""
    ground: Tensor
    """[K, D], colours that would change nothing: 0, or the picture beneath (topk)."""


def best_births(
    objective: Objective,
    params: Mapping[str, Tensor],
    step: L2Step,
    count: int,
    sigma: float,
    structure: Structure,
    generator: torch.Generator,
) -> Births:
    """At most `count` Gaussians that explain most of the residual of a step, near these parameters.

    A jittered lattice of candidates about `sigma` pixels large, along the edges of the picture, goes through the
    rasteriser once, which correlates each with the residual. Local maxima over the lattice of the squared error that a
    Gaussian with its best colour takes away are taken, best first, so that two are not put on one spot. Where the
    structure has an importance, the error counts times that.
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
    born, gain = _best_colors(objective, params, step, shapes)
    gain = gain * structure.importance_at(means)
    peak = F.max_pool2d(gain.view(1, rows, columns), 3, 1, 1).flatten()
    candidates = torch.where(gain >= peak, gain, 0.0)
    chosen = candidates.topk(min(count, int((candidates > 0).sum()))).indices
    best = Shapes(shapes.means[chosen], shapes.log_scales[chosen], shapes.angles[chosen])
    return Births(best, born.colors[chosen], born.ground[chosen])


def _best_colors(
    objective: Objective, params: Mapping[str, Tensor], step: L2Step, shapes: Shapes
) -> tuple[Births, Tensor]:
    """Each Gaussian with its best colour, and the squared error [N] that it takes away alone.

    Sum: <G, r> / |G|^2 and <G, r>^2 / |G|^2. Topk: the share of a new Gaussian is b = G h, h = 1 / (1 + the weights
    that are there), exact at its centre; it adds b (c - I) to the picture I, so that the best colour is
    c = (<b, r> + <b^2, I>) / |b|^2, and takes c^2 |b|^2 - 2 <b, r I> - <b^2, I^2> away.
    """
    alone = replace(objective.canvas, options=SUM)
    system = ColorSystem(alone, shapes.means, shapes.log_scales, shapes.angles, objective.weight_tiles)
    if objective.canvas.options.blend == "sum":
        energy = system.energy.clamp_min(LEAST_ENERGY)
        colors = system.gather(step.residual) / energy
        return Births(shapes, colors, torch.zeros_like(colors)), (colors.square() * energy).sum(-1)
    there = objective.color_system(params).normaliser
    h, image = there / (1 + there), objective.image(step)
    weights = (objective.weights_or_ones * h.square()).expand_as(image)
    first = system.gather(torch.cat([h * step.residual, (h * step.residual * image).sum(1, keepdim=True)], 1))
    second = system.gather_squares(torch.cat([weights, weights * image, (weights * image.square()).sum(1, True)], 1))
    d = image.shape[1]
    energy = second[:, :d].clamp_min(LEAST_ENERGY * 0.25)
    colors = (first[:, :d] + second[:, d : 2 * d]) / energy
    gain = (colors.square() * energy).sum(-1) - 2 * first[:, d] - second[:, 2 * d]
    return Births(shapes, colors, second[:, d : 2 * d] / energy), gain
