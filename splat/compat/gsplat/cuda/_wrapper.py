"""gsplat.cuda._wrapper."""

from enum import Enum

from splat.compat.adam import adam
from splat.compat.intersections import isect_offset_encode, isect_tiles
from splat.compat.pixels import rasterize_to_indices_in_range, rasterize_to_pixels
from splat.compat.projection import (
    fully_fused_projection,
    persp_proj,
    proj,
    quat_scale_to_covar_preci,
    spherical_harmonics,
    world_to_cam,
)
from splat.compat.unsupported import SURFELS, UNSCENTED, unsupported

__all__ = [
    "FThetaCameraDistortionParameters",
    "RollingShutterType",
    "UnscentedTransformParameters",
    "adam",
    "fully_fused_projection",
    "fully_fused_projection_2dgs",
    "fully_fused_projection_with_ut",
    "isect_offset_encode",
    "isect_tiles",
    "persp_proj",
    "proj",
    "quat_scale_to_covar_preci",
    "rasterize_to_indices_in_range",
    "rasterize_to_indices_in_range_2dgs",
    "rasterize_to_pixels",
    "rasterize_to_pixels_2dgs",
    "rasterize_to_pixels_eval3d",
    "spherical_harmonics",
    "world_to_cam",
]


class RollingShutterType(Enum):
    """In which order a camera reads its picture; `rasterization` takes GLOBAL, all at once."""

    ROLLING_TOP_TO_BOTTOM = 0
    ROLLING_LEFT_TO_RIGHT = 1
    ROLLING_BOTTOM_TO_TOP = 2
    ROLLING_RIGHT_TO_LEFT = 3
    GLOBAL = 4


fully_fused_projection_2dgs = unsupported("fully_fused_projection_2dgs", SURFELS)
rasterize_to_pixels_2dgs = unsupported("rasterize_to_pixels_2dgs", SURFELS)
rasterize_to_indices_in_range_2dgs = unsupported("rasterize_to_indices_in_range_2dgs", SURFELS)
fully_fused_projection_with_ut = unsupported("fully_fused_projection_with_ut", UNSCENTED)
rasterize_to_pixels_eval3d = unsupported("rasterize_to_pixels_eval3d", UNSCENTED)
UnscentedTransformParameters = unsupported("UnscentedTransformParameters", UNSCENTED)
FThetaCameraDistortionParameters = unsupported("FThetaCameraDistortionParameters", UNSCENTED)
