"""gsplat.rendering."""

from splat.compat.rasterization import RenderMode, rasterization
from splat.compat.unsupported import INRIA, SURFELS, unsupported

rasterization_2dgs = unsupported("rasterization_2dgs", SURFELS)
rasterization_inria_wrapper = unsupported("rasterization_inria_wrapper", INRIA)
rasterization_2dgs_inria_wrapper = unsupported("rasterization_2dgs_inria_wrapper", SURFELS)

__all__ = [
    "RenderMode",
    "rasterization",
    "rasterization_2dgs",
    "rasterization_2dgs_inria_wrapper",
    "rasterization_inria_wrapper",
]
