"""What a fit minimises: the weighted squared error of the drawn picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core.checks import Arguments
from splat.core.rasterize import RasterizeOptions
from splat.core.rasterize_l2 import SUM, L2Step, from_tiles, rasterize_l2, to_tiles
from splat.image.canvas import Canvas
from splat.image.solve import ColorSystem

SHAPE = ("means", "log_scales", "angles")
"""The parameters that a picture is not linear in."""


@dataclass(frozen=True)
class Objective:
    """Half the sum of weight * (target - image)^2 over pixels and channels, as a function of means, log_scales, angles
    and colors."""

    canvas: Canvas
    target_tiles: Tensor
    """[tiles, D, 256], tiled (see rasterize_l2)."""
    weight_tiles: Tensor | None = None
    """[tiles, 1 or D, 256] what a pixel counts, 1 on average over the picture (None: all alike)."""

    @classmethod
    def of(
        cls,
        target: Tensor,
        weights: Tensor | None = None,
        *,
        options: RasterizeOptions = SUM,
        dilation: float = 0.0,
    ) -> Objective:
        """Of a picture.

        Args:
            target: [H, W, D].
            weights: [H, W] or [H, W, D], at least 0 and not all 0; only their ratios matter.
            options, dilation: see Canvas.
        """
        height, width, _ = target.shape
        canvas = Canvas(width, height, options, dilation)
        if weights is None:
            return cls(canvas, to_tiles(target))
        return cls(canvas, to_tiles(target), to_tiles(_checked_weights(weights, target)))

    @property
    def target(self) -> Tensor:
        """[H, W, D]."""
        return from_tiles(self.target_tiles, self.canvas.width, self.canvas.height)

    @property
    def values(self) -> int:
        """Numbers in the picture, which is the sum of their weights too."""
        return self.canvas.width * self.canvas.height * self.target_tiles.shape[1]

    @property
    def weights_or_ones(self) -> Tensor:
        """[tiles, 1 or D, 256]."""
        if self.weight_tiles is not None:
            return self.weight_tiles
        return torch.ones_like(self.target_tiles[:, :1])

    def image(self, step: L2Step) -> Tensor:
        """[tiles, D, 256] what was drawn in a step; the target where it has no weight."""
        if self.weight_tiles is None:
            return self.target_tiles - step.residual
        known = self.weight_tiles > 0
        return self.target_tiles - step.residual / torch.where(known, self.weight_tiles, 1.0)

    def step(self, params: Mapping[str, Tensor]) -> tuple[L2Step, dict[str, Tensor]]:
        """The error and its gradients by the parameters, in their order."""
        # Not of the clamped picture: the colour solve minimises the same thing.
        shapes = [params[name].detach().requires_grad_(True) for name in SHAPE]
        splats = self.canvas.project(*shapes)
        tiles = self.canvas.bin(splats)
        step = rasterize_l2(
            splats,
            params["colors"][None],
            tiles,
            self.target_tiles,
            weight_tiles=self.weight_tiles,
            options=self.canvas.options,
        )
        made, v = [splats.means2d, splats.conics], [step.v_means2d, step.v_conics]
        if self.canvas.dilation:  # without one the peaks do not depend on the shapes
            made, v = [*made, splats.opacities], [*v, step.v_opacities]
        grads = dict(zip(SHAPE, torch.autograd.grad(made, shapes, v), strict=True)) | {"colors": step.v_colors[0]}
        return step, {name: grads[name] for name in params}

    def color_system(self, params: Mapping[str, Tensor]) -> ColorSystem:
        """The linear system of the colours at these shapes."""
        means, log_scales, angles = (params[name] for name in SHAPE)
        return ColorSystem(self.canvas, means, log_scales, angles, self.weight_tiles)


def _checked_weights(weights: Tensor, target: Tensor) -> Tensor:
    """[H, W, 1 or D], mean 1."""
    check = Arguments()
    check.floats("target", target, "H", "W", "D")
    if isinstance(weights, Tensor) and weights.dim() == 2:
        weights = weights[..., None]
    check.floats("weights", weights, "H", "W", 1 if weights.shape[-1:] == (1,) else "D")
    least, most = float(weights.min()), float(weights.max())
    if not bool(torch.isfinite(weights).all()) or least < 0 or most == 0:
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {least:g} .. {most:g}")
    return weights / weights.double().mean().to(weights.dtype)
