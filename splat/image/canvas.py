"""The pixels that the 2D Gaussians of a picture are drawn on, and how they become them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from splat.core.binning import ALPHA_MIN, TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import RasterizeOptions
from splat.core.rasterize_l2 import SUM

OrderFree = Literal["sum", "topk"]
"""The compositors of pictures: they do not depend on the order of the Gaussians, and are linear in the colours."""
TOPK_CUTOFF = 1e-6
"""Least weight that blend topk draws. It divides by the sum of the weights, so that a faint Gaussian that is alone at a
pixel colours it fully, and a cut at 1/255 would tear holes: a fit makes them, for its gradient does not see them (24 dB
turn into 18 in 300 steps). At 1e-6 the 1e-4 in the divisor has faded the pixel to 1 % anyway."""

PIXEL_VARIANCE = 1 / 12
"""Pixels^2, the variance of a pixel's square along each axis: the dilation that draws its mean, not its centre."""


def order_free_options(blend: OrderFree, topk: int) -> RasterizeOptions:
    """The compositor by its name; ValueError or TypeError for another blend or a topk out of range."""
    if blend not in get_args(OrderFree):
        raise ValueError(f"blend must be one of {', '.join(get_args(OrderFree))}, got {blend!r}")
    return RasterizeOptions(blend=blend, topk=topk, cutoff=TOPK_CUTOFF if blend == "topk" else ALPHA_MIN)


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
        return project_image(
            means,
            log_scales,
            angles,
            width=self.width,
            height=self.height,
            cutoff=self.options.cutoff,
            dilation=self.dilation,
        )

    def bin(self, splats: Splats2D) -> TileLists:
        """Stage 2."""
        cutoff = self.options.cutoff
        return bin_splats(splats, width=self.width, height=self.height, depth_order=False, cutoff=cutoff)
