"""render: Gaussians + Cameras -> pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.binning import ListRoom, TileLists, bin_splats
from splat.core.checks import Arguments, check_int, check_type
from splat.core.ops import Backend, choose_backend
from splat.core.project import ProjectOptions, Splats2D, project
from splat.core.rasterize import RasterizeOptions, rasterize, sums_by_splat
from splat.core.sh import sh_colors
from splat.gaussians import Gaussians


@dataclass(frozen=True)
class RenderOptions:
    """The options of the stages, under one roof."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    """Its camera_model is replaced by that of the cameras."""
    rasterize: RasterizeOptions = field(default_factory=RasterizeOptions)
    depth: bool = True
    """Whether to draw depth too, which is one more channel."""
    room: ListRoom | None = None
    """Lengths of the tile lists, for a loop in which nothing waits for the GPU, or a CUDA graph: take it from a picture
    (`info.tiles.room()`), and look at `info.tiles.overflowed(room)` now and then. Default: as long as it takes."""


@dataclass(frozen=True)
class RenderInfo:
    """What a render went through."""

    gaussians: Gaussians
    splats: Splats2D
    tiles: TileLists | None
    """None with backend="gsplat", whose lists do not say what TileLists does."""
    gradient_sums: Literal["records", "atomics"] = "records"
    """How the backward pass adds up a splat's gradients: in a fixed order, the same bits on every run; or, on a GPU
    where the records would take more than `RasterizeOptions.max_record_bytes`, by atomic operations."""

    @property
    def visible(self) -> Tensor:
        """bool [C, N]: touches a tile (with backend="gsplat": is not culled by the projection)."""
        if self.tiles is None:
            return (self.splats.radii > 0).all(-1)
        return (self.tiles.tiles_per_splat > 0).view(self.splats.opacities.shape)

    @property
    def invalid(self) -> int:
        """Number of Gaussians that are not drawn because they are degenerate or not finite."""
        return int((~self.gaussians.valid).sum())


@dataclass(frozen=True)
class Rendered:
    """Pictures of C cameras."""

    color: Tensor
    """[C, H, W, 3]; sRGB values as trained, may exceed 1 slightly."""
    alpha: Tensor
    """[C, H, W, 1] coverage."""
    depth: Tensor
    """[C, H, W, 1] expected distance along the optical axis (0 where nothing is); no channel, [C, H, W, 0], where
    `RenderOptions.depth` is False."""
    info: RenderInfo


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    sh_degree: int | None = None,
    options: RenderOptions = RenderOptions(),
    ids: Tensor | None = None,
    backend: Backend | Literal["gsplat"] | None = None,
) -> Rendered:
    """Draws a scene. Differentiable in the Gaussians' tensors, the cameras' viewmats and Ks, and the background.

    Args:
        background: [3] or [C, 3], what shows where nothing covers (default: black).
        sh_degree: harmonics to use (default: all that are stored).
        ids: int64 [N], breaks ties of depth (default: the index).
        backend: reference, cpu or cuda (default: by the device); or gsplat, to compare with that library where it is
            installed (see `splat.compat.gsplat_backend.render_with_gsplat`): CUDA tensors, no gradient of Ks.

    Gaussians with a value that is not finite are left out, and get gradients of zero (see `RenderInfo.invalid`).
    """
    check_type("gaussians", gaussians, Gaussians)
    check_type("cameras", cameras, Cameras)
    if background is not None:
        # What does not fit is said before anything is computed.
        _backgrounds(background, gaussians, len(cameras), options.depth)
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    check_int("sh_degree", degree, 0, gaussians.sh_degree)
    if backend == "gsplat":
        from splat.compat.gsplat_backend import render_with_gsplat  # here, as it builds on this module

        return render_with_gsplat(gaussians, cameras, background=background, sh_degree=degree, options=options, ids=ids)
    splats, colors = front_end(gaussians, cameras, degree, options, backend)
    return draw(gaussians, cameras, splats, colors, background=background, options=options, ids=ids, backend=backend)


def front_end(
    gaussians: Gaussians, cameras: Cameras, degree: int, options: RenderOptions, backend: Backend | None
) -> tuple[Splats2D, Tensor]:
    """The first half of `render`: splats and their colours [C, N, 3]."""
    # The kernels leave broken Gaussians out and give them no gradient; torch's own formulae would make it 0 * NaN.
    if choose_backend(gaussians.means, backend, float64=True) == "reference":
        gaussians = gaussians.with_invalid_hidden()
    splats = project(
        gaussians.means,
        gaussians.quats,
        gaussians.log_scales,
        gaussians.opacity_logits,
        cameras.viewmats,
        cameras.Ks,
        width=cameras.width,
        height=cameras.height,
        options=replace(options.project, camera_model=cameras.camera_model),
        raw=True,
        backend=backend,
    )
    harmonics = (gaussians.sh0, gaussians.shN, splats.radii, degree)
    return splats, sh_colors(gaussians.means, cameras.viewmats, *harmonics, backend=backend)


def draw(
    gaussians: Gaussians,
    cameras: Cameras,
    splats: Splats2D,
    colors: Tensor,
    *,
    background: Tensor | None,
    options: RenderOptions,
    ids: Tensor | None = None,
    backend: Backend | None = None,
) -> Rendered:
    """The second half of `render`, from what `front_end` made of the Gaussians."""
    backgrounds = None if background is None else _backgrounds(background, gaussians, len(cameras), options.depth)
    how = options.rasterize
    tiles = bin_splats(
        splats,
        width=cameras.width,
        height=cameras.height,
        depth_order=how.blend == "alpha",
        ids=ids,
        cutoff=how.cutoff,
        colors=colors,
        room=options.room,
        backend=backend,
    )
    # Depth is one more channel of the same pass.
    features = torch.cat([colors, splats.depths[..., None]], -1) if options.depth else colors
    image, alphas = rasterize(splats, features, tiles, backgrounds=backgrounds, options=how, backend=backend)
    alpha = alphas[..., None]
    depth = image[..., 3:] / alpha.clamp_min(1e-10) if options.depth else image.detach()[..., 3:]
    sums: Literal["records", "atomics"] = "atomics" if sums_by_splat(tiles, features.shape[2], how) else "records"
    color = image[..., :3] if options.depth else image
    return Rendered(color, alpha, depth, RenderInfo(gaussians, splats, tiles, sums))


def _backgrounds(background: Tensor, gaussians: Gaussians, cameras: int, depth: bool) -> Tensor:
    """[C, 3]: the colour of each camera's background; [C, 4] with a depth of 0."""
    check = Arguments()
    check.floats("means", gaussians.means, "N", 3)
    check.floats("background", background, *(() if getattr(background, "ndim", 1) == 1 else (cameras,)), 3)
    shared = background.expand(cameras, 3)
    return torch.cat([shared, shared.new_zeros(cameras, 1)], -1) if depth else shared
