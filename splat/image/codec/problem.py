"""What the rounding of a picture's Gaussians tries to keep small: the squared error of the picture that they draw."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splat.core.binning import bin_splats
from splat.core.project_image import project_image
from splat.core.rasterize_l2 import L2Step, rasterize_l2, to_tiles
from splat.image.solve import ColorSystem, solve_colors


class Problem:
    def __init__(self, target: Tensor) -> None:
        self.height, self.width, _ = target.shape
        self.target_tiles = to_tiles(target)

    def typical(self, count: int) -> float:
        return math.sqrt(self.height * self.width / (math.pi * max(1, count)))

    def step(self, p: dict[str, Tensor]) -> tuple[L2Step, dict[str, Tensor]]:
        shapes = [p[name].detach().requires_grad_(True) for name in ("means", "log_scales", "angles")]
        splats = project_image(*shapes, width=self.width, height=self.height)
        tiles = bin_splats(splats, width=self.width, height=self.height, depth_order=False)
        step = rasterize_l2(splats, p["colors"][None], tiles, self.target_tiles)
        front = torch.autograd.grad((splats.means2d, splats.conics), shapes, (step.v_means2d, step.v_conics))
        return step, dict(zip(("means", "log_scales", "angles", "colors"), (*front, step.v_colors[0]), strict=True))

    def solve(self, p: dict[str, Tensor], start: Tensor, iterations: int, free: Tensor | None = None) -> Tensor:
        system = ColorSystem(p["means"], p["log_scales"], p["angles"], self.width, self.height)
        return solve_colors(system, self.target_tiles, start, iterations, free=free)
