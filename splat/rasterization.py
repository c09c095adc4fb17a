"""rasterization: gsplat 1.5.3's call, over our stages."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from splat.core.binning import TILE, bin_splats
from splat.core.project import CameraModel, ProjectOptions, Splats2D, project
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.sh import sh_colors

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
_UNSUPPORTED = {
    "distributed": False,
    "with_ut": False,
    "with_eval3d": False,
    "radial_coeffs": None,
    "tangential_coeffs": None,
    "thin_prism_coeffs": None,
    "ftheta_coeffs": None,
    "viewmats_rs": None,
}
_IGNORED = ("sparse_grad", "channel_chunk", "segmented", "rolling_shutter")


def rasterization(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = TILE,
    backgrounds: Tensor | None = None,
    render_mode: Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"] = "RGB",
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    camera_model: CameraModel = "pinhole",
    covars: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draws activated Gaussians with gsplat's argument names, shapes and results.

    Args:
        means: [..., N, 3]; quats [..., N, 4]; scales [..., N, 3] (linear); opacities [..., N] (in 0..1).
        colors: [..., N, D] or [..., C, N, D], or with sh_degree [..., N, K, 3] coefficients.
        viewmats: [..., C, 4, 4]; Ks [..., C, 3, 3]. "..." are scenes, drawn one after the other.
        packed: accepted; the picture is the same and meta has the dense layout.
        backgrounds: [..., C, D].
        others: gsplat's sparse_grad, channel_chunk, segmented and rolling_shutter change nothing here; what would
            change the picture (distributed, with_ut, with_eval3d, lens distortion, viewmats_rs) is an error.

    Returns:
        (render_colors [..., C, H, W, X], render_alphas [..., C, H, W, 1], meta). meta["means2d"] is part of the graph:
        call retain_grad() on it; with absgrad its `.absgrad` is there after backward.
    """
    for name, value in others.items():
        if name in _UNSUPPORTED:
            if value != _UNSUPPORTED[name]:
                raise ValueError(f"{name}={value!r} is not supported yet; leave it at {_UNSUPPORTED[name]!r}")
        elif name not in _IGNORED:
            raise TypeError(f"rasterization() got an unexpected argument {name!r}")
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be one of {', '.join(RENDER_MODES)}, got {render_mode!r}")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode must be classic or antialiased, got {rasterize_mode!r}")
    if tile_size != TILE:
        raise ValueError(f"tile_size must be {TILE}, got {tile_size}")
    batch = means.shape[:-2]
    if viewmats.shape[:-3] != batch:
        raise ValueError(f"viewmats must have shape {[*batch, 'C', 4, 4]}, got {list(viewmats.shape)}")
    projection = ProjectOptions(
        eps2d, near_plane, far_plane, radius_clip, camera_model, rasterize_mode == "antialiased"
    )
    scene = {
        "means": means,
        "quats": quats,
        "scales": scales,
        "opacities": opacities,
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
        "backgrounds": backgrounds,
        "covars": covars,
    }
    flat = {k: v if v is None else v.reshape(-1, *v.shape[len(batch) :]) for k, v in scene.items()}
    scenes = [{k: v if v is None else v[b] for k, v in flat.items()} for b in range(math.prod(batch))]
    splats = [_project_scene(one, width, height, projection) for one in scenes]
    # The means that the caller holds lie between the projection and the rasterisation of every scene.
    held = splats[0].means2d
    if batch:
        held = torch.stack([s.means2d for s in splats]).reshape(*batch, *held.shape)
        parts = held.reshape(-1, *held.shape[len(batch) :]).unbind(0)
        splats = [replace(s, means2d=part) for s, part in zip(splats, parts, strict=True)]
        if absgrad and held.requires_grad:
            _gather_absgrad(held, parts)
    options = RasterizeOptions(absgrad=absgrad)
    results = [
        _draw_scene(one, s, width, height, sh_degree, render_mode, options)
        for one, s in zip(scenes, splats, strict=True)
    ]
    colors_out, alphas_out = (torch.stack(v).reshape(*batch, *v[0].shape) for v in list(zip(*results, strict=True))[:2])
    meta = _join_meta([r[2] for r in results], batch)
    meta |= {"means2d": held, "width": width, "height": height, "tile_size": TILE, "n_cameras": viewmats.shape[-3]}
    meta |= {"batch_ids": None, "camera_ids": None, "gaussian_ids": None, "n_batches": len(scenes)}
    return colors_out, alphas_out, meta


def _gather_absgrad(held: Tensor, parts: tuple[Tensor, ...]) -> None:
    """Once the gradient of `held` is there, those of its parts are: joins what the backward pass left on them."""

    def join(_: Tensor) -> None:
        absgrads: list[Tensor] = [part.absgrad for part in parts]  # type: ignore[attr-defined]
        held.absgrad = torch.stack(absgrads).view_as(held)  # type: ignore[attr-defined]

    held.register_hook(join)  # type: ignore[no-untyped-call]


def _join_meta(metas: list[dict[str, Any]], batch: torch.Size) -> dict[str, Any]:
    joined = {}
    for name, first in metas[0].items():
        values = [m[name] for m in metas]
        if not isinstance(first, Tensor):
            joined[name] = first
        elif name == "flatten_ids":  # of different lengths
            joined[name] = torch.cat(values)
        else:
            joined[name] = torch.stack(values).reshape(*batch, *first.shape)
    return joined


def _project_scene(one: dict[str, Any], width: int, height: int, options: ProjectOptions) -> Splats2D:
    shaped = one["covars"] is None
    return project(
        one["means"],
        one["quats"] if shaped else None,
        one["scales"] if shaped else None,
        one["opacities"],
        one["viewmats"],
        one["Ks"],
        width=width,
        height=height,
        options=options,
        covars=one["covars"],
    )


def _features(one: dict[str, Tensor | None], radii: Tensor, sh_degree: int | None) -> Tensor:
    """Colours per view [C, N, D]."""
    means, colors, viewmats = one["means"], one["colors"], one["viewmats"]
    assert means is not None and colors is not None and viewmats is not None
    if sh_degree is not None:
        return sh_colors(means, viewmats, colors[:, :1], colors[:, 1:], radii, sh_degree)
    return colors if colors.dim() == 3 else colors[None].expand(len(viewmats), -1, -1)


def _draw_scene(
    one: dict[str, Any],
    splats: Splats2D,
    width: int,
    height: int,
    sh_degree: int | None,
    render_mode: str,
    options: RasterizeOptions,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    tiles = bin_splats(splats, width=width, height=height)
    backgrounds = one["backgrounds"]
    depths = splats.depths[..., None]
    if render_mode in ("D", "ED"):
        features, backgrounds = depths, None if backgrounds is None else backgrounds[:, :1]
    else:
        features = _features(one, splats.radii, sh_degree)
        if render_mode != "RGB":
            features = torch.cat([features, depths], -1)
            if backgrounds is not None:
                backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(len(backgrounds), 1)], -1)
    image, alphas = rasterize(splats, features, tiles, backgrounds=backgrounds, options=options)
    alphas = alphas[..., None]
    if render_mode in ("ED", "RGB+ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alphas.clamp_min(1e-10)], -1)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    cameras = len(one["viewmats"])
    meta = {
        "radii": splats.radii,
        "depths": splats.depths,
        "conics": splats.conics,
        "opacities": splats.opacities,
        "tile_width": tiles_x,
        "tile_height": tiles_y,
        "tiles_per_gauss": tiles.tiles_per_splat.view(cameras, -1).int(),
        "flatten_ids": tiles.entries,
        "isect_offsets": tiles.offsets[:-1].view(cameras, tiles_y, tiles_x).int(),
    }
    return image, alphas, meta
