"""Stand-ins for the names of gsplat that splat does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

SURFELS = "2D Gaussian surfels are not supported; rasterization draws 3D Gaussians"
UNSCENTED = (
    "the unscented transform and evaluation in 3D are not supported; undistort the pictures and take "
    "fully_fused_projection and rasterize_to_pixels"
)
INRIA = "Inria's rasterizer is not called from here; take rasterization"
RANKS = "Gaussians over several processes are not supported; run one process on one device"


def unsupported(name: str, why: str) -> Callable[..., NoReturn]:
    """A function `name` that raises NotImplementedError and says why and what to take instead."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{name}: {why}")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Not supported: {why}."
    return refuse
