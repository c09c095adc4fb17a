"""The best colours for given shapes: the picture is linear in them, so this is a sparse least-squares problem."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splat.core.binning import TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize_l2 import L2Step, rasterize_l2


def kernel_energy(log_scales: Tensor) -> Tensor:
    """[N] |G|^2, the integral of the squared Gaussian: pi s1 s2."""
    return math.pi * log_scales.sum(-1).exp()


class ColorSystem:
    """A c = I: A [pixels, N] holds the weights of N fixed shapes. A is never stored: A c is a render, A^T r the
    gradient of a render with respect to the colours."""

    def __init__(self, means: Tensor, log_scales: Tensor, angles: Tensor, width: int, height: int) -> None:
        with torch.no_grad():
            self.splats: Splats2D = project_image(means, log_scales, angles, width=width, height=height)
            self.tiles: TileLists = bin_splats(self.splats, width=width, height=height, depth_order=False)
            # Diagonal of A^T A. The floor keeps Gaussians below a pixel tame.
            self.energy = kernel_energy(log_scales).clamp_min(0.25)

    def step(self, colors: Tensor, target_tiles: Tensor) -> L2Step:
        """Residual target - A c, and A^T (A c - target) as v_colors[0]. target_tiles: tiled, see rasterize_l2."""
        return rasterize_l2(self.splats, colors[None], self.tiles, target_tiles)


def solve_colors(
    system: ColorSystem,
    target_tiles: Tensor,
    start: Tensor,
    iterations: int,
    ridge: float = 1e-4,
    free: Tensor | None = None,
) -> Tensor:
    """Minimises |A c - target|^2 + ridge * sum energy_n |c_n|^2 by conjugate gradients with the diagonal as
    preconditioner, from `start` [N, D]. All channels share A; each has its own step lengths.

    The ridge keeps pairs of Gaussians that nearly coincide from taking huge opposite colours. free: bool [N], whose
    colours may change (default: all).
    """
    weight = system.energy[:, None]
    moves = torch.ones_like(weight) if free is None else free[:, None].to(weight.dtype)
    nothing = torch.zeros_like(target_tiles)
    colors = start.clone()
    residual = moves * (-system.step(colors, target_tiles).v_colors[0] - ridge * weight * colors)
    direction = z = residual / weight
    rho = (residual * z).sum(0)
    for _ in range(iterations):
        product = moves * (system.step(direction, nothing).v_colors[0] + ridge * weight * direction)
        step = rho / (direction * product).sum(0).clamp_min(1e-30)
        colors = colors + step * direction
        residual = residual - step * product
        z = residual / weight
        rho, previous = (residual * z).sum(0), rho
        direction = z + rho / previous.clamp_min(1e-30) * direction
    return colors
