"""The pixels that the 2D Gaussians of a picture are drawn on, and how they become them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from splat.core.binning import TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import RasterizeOptions
from splat.core.rasterize_l2 import SUM

OrderFree = Literal["sum", "topk"]
"""The compositors of pictures: they do not depend on the order of the Gaussians, and are linear in the colours."""


def order_free_options(blend: OrderFree, topk: int) -> RasterizeOptions:
    """The compositor by its name; ValueError or TypeError for another blend or a topk out of range."""
    if blend not in get_args(OrderFree):
        raise ValueError(f"blend must be one of {', '.join(get_args(OrderFree))}, got {blend!r}")
    return RasterizeOptions(blend=blend, topk=topk)


@dataclass(frozen=True)
class Canvas:
    """Size of a picture and how Gaussians are drawn on it."""

    width: int
    """Pixels."""
    height: int
    options: RasterizeOptions = SUM
    """The compositor, sum or topk."""
    dilation: float = 0.0
    """Pixels^2, see `project_image`."""

    def project(self, means: Tensor, log_scales: Tensor, angles: Tensor) -> Splats2D:
        """Stage 1. Differentiable."""
        return project_image(means, log_scales, angles, width=self.width, height=self.height, dilation=self.dilation)

    def bin(self, splats: Splats2D) -> TileLists:
        """Stage 2."""
        return bin_splats(splats, width=self.width, height=self.height, depth_order=False)
