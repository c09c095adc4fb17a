"""What gsplat has and splat does not: it says so, and what to take instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from splat.core.project import CAMERA_MODELS

SURFELS = "2D Gaussian surfels are not supported; rasterization draws 3D Gaussians"
UNSCENTED = "the unscented transform and evaluation in 3D are not supported; undistort the pictures for rasterization"
INRIA = "Inria's rasterizer is not called from here; take rasterization"
LENSES = "cameras with lens distortion are not supported; undistort the pictures"
SHUTTER = "cameras that read their picture line by line are not supported; take one pose for a picture"
RANKS = "Gaussians over several processes are not supported; run one process on one device"


def unsupported(name: str, why: str) -> Callable[..., NoReturn]:
    """A function `name` that raises NotImplementedError and says why and what to take instead."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{name}: {why}")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Not supported: {why}."
    return refuse


def check_camera_model(camera_model: str) -> None:
    """One of CAMERA_MODELS."""
    if camera_model == "ftheta":
        raise NotImplementedError(f"camera_model 'ftheta': {LENSES}")
    if camera_model not in CAMERA_MODELS:
        raise ValueError(f"camera_model must be one of {', '.join(CAMERA_MODELS)}, got {camera_model!r}")
