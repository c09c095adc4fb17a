"""render through an installed gsplat (1.5.3; pip install 'torchsplat[gsplat]'), for comparisons and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.binning import ALPHA_MIN
from splat.core.checks import Arguments
from splat.core.finite import all_finite
from splat.core.project import Splats2D
from splat.gaussians import Gaussians
from splat.rendering import Rendered, RenderInfo, RenderOptions


def render_with_gsplat(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None,
    sh_degree: int,
    options: RenderOptions,
    ids: Tensor | None = None,
) -> Rendered:
    """`splat.render` with backend="gsplat", which has checked what every backend needs.

    Differentiable in the Gaussians' tensors, the cameras' viewmats and the background, not in Ks: gsplat gives them no
    gradient. That of viewmats is ours along rigid motions; elsewhere it differs, as gsplat takes the general inverse.

    Args:
        gaussians: float32, on a CUDA device, like everything else.
        cameras: at least one.
        background: [3] or [C, 3], or None for black.
        sh_degree: 0 to that of the Gaussians.
        options: blend "alpha" and the default cutoff, which is all that gsplat has.
        ids: None, as gsplat does not take them.

    Returns:
        Rendered whose info.splats holds gsplat's own tensors: call retain_grad() on its means2d; with absgrad its
        `.absgrad` is there after backward. Where a splat is culled (radius 0), its other values mean nothing.
        info.tiles is None: gsplat lists whole rectangles of tiles and no 4x4 blocks.

    Raises:
        ValueError: something that gsplat cannot do, or tensors that it cannot take.
        ImportError: gsplat is not installed.
    """
    _check_options(options, ids)
    _check_tensors(gaussians, cameras)
    _check_device(gaussians.means)
    gsplat = _import_gsplat()
    given, scales, opacities = gaussians, gaussians.scales, gaussians.opacities
    # gsplat draws broken Gaussians, and NaN would spread. The logarithm is finite where a quaternion has a direction.
    directions = gaussians.quats.detach().square().sum(-1).log()
    if not all_finite(gaussians.means, directions, scales, opacities, gaussians.sh0, gaussians.shN):
        gaussians = gaussians.with_invalid_hidden()
        scales, opacities = gaussians.scales, gaussians.opacities
    how = options.project
    image, alpha, meta = gsplat.rasterization(
        gaussians.means,
        gaussians.quats,
        scales,
        opacities,
        torch.cat([gaussians.sh0, gaussians.shN], 1),
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        near_plane=how.near_plane,
        far_plane=how.far_plane,
        radius_clip=how.radius_clip,
        eps2d=how.eps2d,
        sh_degree=sh_degree,
        packed=False,
        # Of the colours only: gsplat adds the 0 of the depth.
        backgrounds=None if background is None else background.expand(len(cameras), 3),
        render_mode="RGB+ED",
        absgrad=options.rasterize.absgrad,
        rasterize_mode="antialiased" if how.antialiased else "classic",
        camera_model=cameras.camera_model,
    )
    splats = Splats2D(meta["means2d"], meta["depths"], meta["conics"], meta["opacities"], meta["radii"])
    return Rendered(image[..., :3], alpha, image[..., 3:], RenderInfo(given, splats, None, "atomics"))


def _check_options(options: RenderOptions, ids: Tensor | None) -> None:
    how = options.rasterize
    if how.blend != "alpha":
        raise ValueError(f"blend must be 'alpha' with backend='gsplat', got {how.blend!r}")
    if how.cutoff != ALPHA_MIN:
        raise ValueError(f"cutoff must be 1/255 with backend='gsplat', got {how.cutoff}")
    if ids is not None:
        raise ValueError(f"ids must be None with backend='gsplat', got {type(ids).__name__}")


def _check_tensors(gaussians: Gaussians, cameras: Cameras) -> None:
    """float32 and on one device; Gaussians and Cameras have checked the shapes."""
    check = Arguments()
    tensors = gaussians.parameters() | {"viewmats": cameras.viewmats, "Ks": cameras.Ks}
    for name, value in tensors.items():
        check.floats(name, value, *value.shape)
    if gaussians.means.dtype != torch.float32:
        raise ValueError(f"means must be float32 with backend='gsplat', got {gaussians.means.dtype}")
    if len(cameras) == 0:
        raise ValueError("cameras must hold at least one camera with backend='gsplat', got 0")


def _check_device(means: Tensor) -> None:
    """gsplat has no CPU kernels. A function of its own, so that tests can put a CPU renderer in gsplat's place."""
    if means.device.type != "cuda":
        raise ValueError(f"means must be on a CUDA device with backend='gsplat', got {means.device}")


def _import_gsplat() -> Any:
    try:
        import gsplat
    except ImportError as error:
        raise ImportError(
            f"backend='gsplat' needs gsplat, pip install 'torchsplat[gsplat]'; importing it gave: {error}"
        ) from error
    return gsplat
