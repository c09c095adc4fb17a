"""The best colours for given shapes: the picture is linear in them, so this is a sparse least-squares problem."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from splat.core.binning import TileLists
from splat.core.project import Splats2D
from splat.core.rasterize import TOPK_EPSILON, RasterizeOptions, rasterize
from splat.core.rasterize_l2 import L2Step, rasterize_l2, to_tiles
from splat.image.canvas import Canvas

LEAST_ENERGY = 0.25
"""Squared pixels of weight that every Gaussian is taken to have: it keeps those below a pixel tame."""


class ColorSystem:
    """A c = I: A [pixels, N] holds what N fixed shapes count at the pixels: their weights (blend sum), or their shares
    of the sum of the largest weights (topk). A is never stored: A c is a render, A^T f the gradient of a render with
    respect to the colours."""

    def __init__(
        self, canvas: Canvas, means: Tensor, log_scales: Tensor, angles: Tensor, weight_tiles: Tensor | None = None
    ) -> None:
        self.canvas, self.weight_tiles = canvas, weight_tiles
        self.log_scales = log_scales
        with torch.no_grad():
            self.splats: Splats2D = canvas.project(means, log_scales, angles)
            self.tiles: TileLists = canvas.bin(self.splats)

    def step(self, colors: Tensor, target_tiles: Tensor) -> L2Step:
        """Residual W (target - A c), and A^T W (A c - target) as v_colors[0]. Pictures are tiled, see rasterize_l2."""
        weights, options = self.weight_tiles, self.canvas.options
        return rasterize_l2(self.splats, colors[None], self.tiles, target_tiles, weight_tiles=weights, options=options)

    def gather(self, field_tiles: Tensor) -> Tensor:
        """A^T f [N, F] of a tiled picture [tiles, F, 256]."""
        return _gather(self.splats, self.tiles, field_tiles, self.canvas.options)

    def gather_squares(self, field_tiles: Tensor) -> Tensor:
        """The same with the squares of A. With blend topk a Gaussian counts where it is not among the largest too (by
        less than 1 / topk^2)."""
        s, options = self.splats, self.canvas.options
        squared = Splats2D(s.means2d, s.depths, 2 * s.conics, s.opacities.square(), s.radii)
        if options.blend == "topk":
            field_tiles = field_tiles * self.normaliser.square()
        return _gather(squared, self.tiles, field_tiles, RasterizeOptions(blend="sum", cutoff=options.cutoff**2))

    @cached_property
    def normaliser(self) -> Tensor:
        """[tiles, 1, 256] what the weights are multiplied by: 1 over the sum of the largest (topk)."""
        nothing = self.splats.opacities.new_zeros(1, len(self.log_scales), 1)
        alphas = rasterize(self.splats, nothing, self.tiles, options=self.canvas.options)[1]
        return to_tiles((1 - alphas[0, ..., None]) / TOPK_EPSILON)

    @cached_property
    def energy(self) -> Tensor:
        """[N, 1 or D] diagonal of A^T W A. Of unweighted sums it is the integral: pi s1 s2 for a peak of 1."""
        if self.weight_tiles is None and self.canvas.options.blend == "sum":
            axes = ((2 * self.log_scales).exp() + self.canvas.dilation).sqrt()
            return math.pi * (self.splats.opacities[0].square() * axes.prod(-1))[:, None]
        if self.weight_tiles is None:
            ones = self.log_scales.new_ones(self.canvas.height, self.canvas.width, 1)
            return self.gather_squares(to_tiles(ones))
        return self.gather_squares(self.weight_tiles)


def _gather(splats: Splats2D, tiles: TileLists, field_tiles: Tensor, options: RasterizeOptions) -> Tensor:
    nothing = field_tiles.new_zeros(1, splats.opacities.shape[1], field_tiles.shape[1])
    return -rasterize_l2(splats, nothing, tiles, field_tiles, options=options).v_colors[0]


def solve_colors(
    system: ColorSystem, target_tiles: Tensor, start: Tensor, iterations: int, ridge: float = 1e-4
) -> Tensor:
    """Minimises the weighted |A c - target|^2 + ridge * sum energy_n |c_n|^2 by conjugate gradients with the diagonal
    as preconditioner, from `start` [N, D]. All channels share A; each has its own step lengths.

    The ridge keeps pairs of Gaussians that nearly coincide from taking huge opposite colours.
    """
    weight = system.energy.clamp_min(LEAST_ENERGY)
    nothing = torch.zeros_like(target_tiles)
    colors = start.clone()
    residual = -system.step(colors, target_tiles).v_colors[0] - ridge * weight * colors
    direction = z = residual / weight
    rho = (residual * z).sum(0)
    for _ in range(iterations):
        product = system.step(direction, nothing).v_colors[0] + ridge * weight * direction
        step = rho / (direction * product).sum(0).clamp_min(1e-30)
        colors = colors + step * direction
        residual = residual - step * product
        z = residual / weight
        rho, previous = (residual * z).sum(0), rho
        direction = z + rho / previous.clamp_min(1e-30) * direction
    return colors
