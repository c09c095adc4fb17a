"""gsplat 1.5.3's names over splat: `import splat.compat.gsplat as gsplat`. docs/gsplat.md has what differs.

The modules below have the places of gsplat's own, so that `from splat.compat.gsplat.strategy import DefaultStrategy`
works, and after `splat.compat.gsplat.stand_in()` so does `from gsplat.strategy import DefaultStrategy`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import walk_packages

from splat.compat.gsplat.compression import PngCompression
from splat.compat.gsplat.cuda._torch_impl import accumulate
from splat.compat.gsplat.cuda._torch_impl_2dgs import accumulate_2dgs
from splat.compat.gsplat.cuda._wrapper import (
    RollingShutterType,
    fully_fused_projection,
    fully_fused_projection_2dgs,
    fully_fused_projection_with_ut,
    isect_offset_encode,
    isect_tiles,
    proj,
    quat_scale_to_covar_preci,
    rasterize_to_indices_in_range,
    rasterize_to_indices_in_range_2dgs,
    rasterize_to_pixels,
    rasterize_to_pixels_2dgs,
    rasterize_to_pixels_eval3d,
    spherical_harmonics,
    world_to_cam,
)
from splat.compat.gsplat.exporter import export_splats
from splat.compat.gsplat.optimizers import SelectiveAdam
from splat.compat.gsplat.rendering import (
    rasterization,
    rasterization_2dgs,
    rasterization_2dgs_inria_wrapper,
    rasterization_inria_wrapper,
)
from splat.compat.gsplat.strategy import DefaultStrategy, MCMCStrategy, Strategy

__version__ = "1.5.3"
"""The gsplat whose names these are."""

__all__ = [
    "DefaultStrategy",
    "MCMCStrategy",
    "PngCompression",
    "RollingShutterType",
    "SelectiveAdam",
    "Strategy",
    "__version__",
    "accumulate",
    "accumulate_2dgs",
    "export_splats",
    "fully_fused_projection",
    "fully_fused_projection_2dgs",
    "fully_fused_projection_with_ut",
    "isect_offset_encode",
    "isect_tiles",
    "proj",
    "quat_scale_to_covar_preci",
    "rasterization",
    "rasterization_2dgs",
    "rasterization_2dgs_inria_wrapper",
    "rasterization_inria_wrapper",
    "rasterize_to_indices_in_range",
    "rasterize_to_indices_in_range_2dgs",
    "rasterize_to_pixels",
    "rasterize_to_pixels_2dgs",
    "rasterize_to_pixels_eval3d",
    "spherical_harmonics",
    "world_to_cam",
]


def stand_in() -> None:
    """Makes `import gsplat`, and imports from its modules, give this package, for code that cannot be changed. Call it
    before any of that code is imported.

    Raises:
        RuntimeError: the real gsplat has been imported.
    """
    here = sys.modules[__name__]
    if sys.modules.get("gsplat", here) is not here:
        raise RuntimeError("gsplat has been imported; call stand_in() before anything imports it")
    sys.modules["gsplat"] = here
    for module in walk_packages(here.__path__, f"{__name__}."):
        sys.modules["gsplat" + module.name.removeprefix(__name__)] = import_module(module.name)
