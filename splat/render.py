"""render: Gaussians + Cameras -> pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.binning import TileLists, bin_splats
from splat.core.ops import Backend
from splat.core.project import ProjectOptions, Splats2D, project
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.sh import sh_colors
from splat.gaussians import Gaussians


@dataclass(frozen=True)
class RenderOptions:
    """The options of the stages, under one roof."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    """Its camera_model is replaced by that of the cameras."""
    rasterize: RasterizeOptions = field(default_factory=RasterizeOptions)


@dataclass(frozen=True)
class RenderInfo:
    """What a render went through."""

    gaussians: Gaussians
    splats: Splats2D
    tiles: TileLists

    @property
    def visible(self) -> Tensor:
        """bool [C, N]: drawn at all."""
        return (self.splats.radii > 0).all(-1)

    @property
    def invalid(self) -> int:
        """Number of Gaussians that were culled because they are degenerate or not finite."""
        g = self.gaussians
        finite = torch.isfinite(g.means).all(-1) & torch.isfinite(g.quats).all(-1) & (g.quats != 0).any(-1)
        finite &= torch.isfinite(g.scales).all(-1) & torch.isfinite(g.opacities)
        return int((~finite).sum())


@dataclass(frozen=True)
class Rendered:
    """Pictures of C cameras."""

    color: Tensor
    """[C, H, W, 3]; sRGB values as trained, may exceed 1 slightly."""
    alpha: Tensor
    """[C, H, W, 1] coverage."""
    depth: Tensor
    """[C, H, W, 1] expected distance along the optical axis (0 where nothing is)."""
    info: RenderInfo


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    sh_degree: int | None = None,
    options: RenderOptions = RenderOptions(),
    ids: Tensor | None = None,
    backend: Backend | None = None,
) -> Rendered:
    """Draws a scene. Differentiable in the Gaussians' tensors, the cameras' viewmats and Ks, and the background.

    Args:
        background: [3] or [C, 3], what shows where nothing covers (default: black).
        sh_degree: harmonics to use (default: all that are stored).
        ids: int64 [N], breaks ties of depth (default: the index).
        backend: reference, cpu or cuda (default: by the device).
    """
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    p = options.project
    projection = ProjectOptions(p.eps2d, p.near_plane, p.far_plane, p.radius_clip, cameras.camera_model, p.antialiased)
    splats = project(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        cameras.viewmats,
        cameras.Ks,
        width=cameras.width,
        height=cameras.height,
        options=projection,
        backend=backend,
    )
    colors = sh_colors(
        gaussians.means, cameras.viewmats, gaussians.sh0, gaussians.shN, splats.radii, degree, backend=backend
    )
    how = options.rasterize
    tiles = bin_splats(
        splats,
        width=cameras.width,
        height=cameras.height,
        depth_order=how.blend == "alpha",
        ids=ids,
        cutoff=how.cutoff,
        backend=backend,
    )
    backgrounds = None
    if background is not None:
        if background.shape not in ((3,), (len(cameras), 3)):
            raise ValueError(f"background must have shape [3] or [C, 3], got {list(background.shape)}")
        shared = background.expand(len(cameras), 3)
        backgrounds = torch.cat([shared, shared.new_zeros(len(cameras), 1)], -1)
    # Depth is one more channel of the same pass.
    features = torch.cat([colors, splats.depths[..., None]], -1)
    image, alphas = rasterize(splats, features, tiles, backgrounds=backgrounds, options=how, backend=backend)
    alpha = alphas[..., None]
    depth = image[..., 3:] / alpha.clamp_min(1e-10)
    return Rendered(image[..., :3], alpha, depth, RenderInfo(gaussians, splats, tiles))
