"""rasterization: gsplat 1.5.3's call, over our stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.compat.meta import Layout, make_meta
from splat.compat.sparse import SparseRows
from splat.compat.unsupported import LENSES, RANKS, SHUTTER, UNSCENTED, check_camera_model
from splat.core.binning import TILE, bin_splats
from splat.core.checks import Arguments, check_int, check_size
from splat.core.finite import all_finite, finite_rows, keep_rows
from splat.core.project import CameraModel, ProjectOptions, Splats2D, project
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.sh import MAX_DEGREE, sh_colors

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]


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
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: CameraModel = "pinhole",
    segmented: bool = False,
    covars: Tensor | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any = None,
    rolling_shutter: Any = None,
    viewmats_rs: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draws activated Gaussians with gsplat's arguments (names and places), shapes and results.

    Args:
        means: [..., N, 3]; quats [..., N, 4]; scales [..., N, 3] (linear); opacities [..., N] (in 0..1).
        colors: [..., N, D] or [..., C, N, D], or with sh_degree [..., N, K, 3] or [..., C, N, K, 3] coefficients.
        viewmats: [..., C, 4, 4]; Ks [..., C, 3, 3].
        packed: whether meta lists the visible splats only (the picture and its gradients are the same). As with gsplat,
            tell DefaultStrategy.step_post_backward the same value.
        backgrounds: [..., C, D]; depth has background 0.
        covars: [..., N, 3, 3], instead of quats and scales, which are then ignored.
        tile_size, channel_chunk, segmented: change nothing here; meta["tile_size"] is 16.
        sparse_grad: gradients of means, quats, scales and covars are sparse, of the Gaussians that are visible. Needs
            packed and no batch.
        distributed, with_ut, with_eval3d, the lens coefficients, rolling_shutter (but None and GLOBAL) and
            viewmats_rs: NotImplementedError for any value but the default.

    Returns:
        (render_colors [..., C, H, W, X], render_alphas [..., C, H, W, 1], meta). meta["means2d"] is part of the graph:
        call retain_grad() on it; with absgrad its `.absgrad` is there after backward. The tile lists of meta are exact:
        they hold fewer entries than gsplat's, which take all tiles of a splat's rectangle.

    Gaussians with a value that is not finite are left out, and get gradients of zero.
    """
    unsupported = {
        "distributed": (distributed, RANKS),
        "with_ut": (with_ut, UNSCENTED),
        "with_eval3d": (with_eval3d, UNSCENTED),
        "radial_coeffs": (radial_coeffs is not None, LENSES),
        "tangential_coeffs": (tangential_coeffs is not None, LENSES),
        "thin_prism_coeffs": (thin_prism_coeffs is not None, LENSES),
        "ftheta_coeffs": (ftheta_coeffs is not None, LENSES),
        "rolling_shutter": (getattr(rolling_shutter, "name", rolling_shutter) not in (None, "GLOBAL"), SHUTTER),
        "viewmats_rs": (viewmats_rs is not None, SHUTTER),
    }
    for name, (asked, why) in unsupported.items():
        if asked:
            raise NotImplementedError(f"{name}: {why}")
    _check_choice("render_mode", render_mode, get_args(RenderMode))
    _check_choice("rasterize_mode", rasterize_mode, ("classic", "antialiased"))
    check_camera_model(camera_model)
    check_int("tile_size", tile_size, 1)
    check_size(width, height)
    width, height = int(width), int(height)
    options = ProjectOptions(eps2d, near_plane, far_plane, radius_clip, camera_model, rasterize_mode == "antialiased")
    given = (None, None) if covars is not None else (quats, scales)  # gsplat: covars win
    scenes = _Scenes(means, *given, covars, opacities, colors, viewmats, Ks, backgrounds, sh_degree)
    scenes.check("RGB" in render_mode)
    batch, cameras, count = means.shape[:-2], viewmats.shape[-3], means.shape[-2]
    if sparse_grad and (not packed or batch):
        raise ValueError(f"sparse_grad needs packed and no batch, got packed={packed}, means {list(means.shape)}")
    visible: list[Tensor] = []
    if sparse_grad:
        scenes = scenes.with_sparse_gradients(visible)
    scenes = scenes.merged(math.prod(batch)).without_broken()
    splats, features, behind = scenes.prepare(width, height, options, render_mode)
    if not math.prod(batch):  # one scene of zeros was prepared instead
        splats = Splats2D(*(getattr(splats, f.name)[:0] for f in fields(Splats2D)))
        features, behind = features[:0], None if behind is None else behind[:0]
    rows = (splats.radii > 0).all(-1).flatten().nonzero()[:, 0] if packed else None
    layout = Layout(tuple(batch), cameras, count, rows)
    if sparse_grad and rows is not None:
        visible.append(torch.unique(rows % max(1, count)))
    # The means that the caller holds lie between the projection and the rasterisation.
    held = layout.outward(splats.means2d)
    splats = replace(splats, means2d=layout.inward(held))

    def keep_absgrad(value: Tensor) -> None:
        held.absgrad = layout.outward(value)  # type: ignore[attr-defined]

    tiles = bin_splats(splats, width=width, height=height)
    image, alphas = rasterize(
        splats,
        features,
        tiles,
        backgrounds=behind,
        options=RasterizeOptions(absgrad=absgrad),
        absgrad_to=keep_absgrad,
    )
    alphas = alphas[..., None]
    if "ED" in render_mode:
        image = torch.cat([image[..., :-1], image[..., -1:] / alphas.clamp_min(1e-10)], -1)
    image, alphas = (v.reshape(*batch, cameras, *v.shape[1:]) for v in (image, alphas))
    return image, alphas, make_meta(layout, splats, held, tiles)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class _Scenes:
    """What is drawn. "..." are the batch's dimensions; `merged` makes one of them, `split` takes it off."""

    means: Tensor
    """[..., N, 3]"""
    quats: Tensor | None
    """[..., N, 4], and scales [..., N, 3]; or covars [..., N, 3, 3]"""
    scales: Tensor | None
    covars: Tensor | None
    opacities: Tensor
    """[..., N]"""
    colors: Tensor
    """[..., (C,) N, D], or [..., (C,) N, K, 3] with sh_degree"""
    viewmats: Tensor
    """[..., C, 4, 4]"""
    Ks: Tensor
    """[..., C, 3, 3]"""
    backgrounds: Tensor | None
    """[..., C, D]"""
    sh_degree: int | None

    def check(self, colored: bool) -> None:
        """ValueError or TypeError for what does not fit. colored: colours are drawn (and backgrounds looked at)."""
        check = Arguments()
        if not isinstance(self.means, Tensor) or self.means.dim() < 2:
            check.tensor("means", self.means, "...", "N", 3)
        batch = self.means.shape[:-2]
        check.floats("means", self.means, *batch, "N", 3)
        if self.covars is not None:
            check.floats("covars", self.covars, *batch, "N", 3, 3)
        else:
            check.floats("quats", self.quats, *batch, "N", 4)
            check.floats("scales", self.scales, *batch, "N", 3)
        check.floats("opacities", self.opacities, *batch, "N")
        check.floats("viewmats", self.viewmats, *batch, "C", 4, 4)
        check.floats("Ks", self.Ks, *batch, "C", 3, 3)
        channels: tuple[str | int, ...] = ("D",) if self.sh_degree is None else ("K", 3)
        views = ("C",) if isinstance(self.colors, Tensor) and self.by_view else ()
        check.floats("colors", self.colors, *batch, *views, "N", *channels)
        if self.sh_degree is not None:
            check_int("sh_degree", self.sh_degree, 0, MAX_DEGREE)
            needed, got = (self.sh_degree + 1) ** 2, self.colors.shape[-2]
            if got < needed:
                raise ValueError(f"colors must hold {needed} coefficients for sh_degree {self.sh_degree}, got {got}")
        if self.backgrounds is not None:
            check.floats("backgrounds", self.backgrounds, *batch, "C", channels[-1] if colored else "any")

    @property
    def by_view(self) -> bool:
        """Whether the colours have the dimension C."""
        return self.colors.dim() - self.means.dim() == (1 if self.sh_degree is None else 2)

    def _tensors(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_sparse_gradients(self, rows: list[Tensor]) -> _Scenes:
        """With gradients of the shapes and places that are sparse, see `SparseRows`."""
        values = {name: v for name, v in self._tensors().items() if name in ("means", "quats", "scales", "covars")}
        return replace(self, **{name: SparseRows.apply(v, rows) for name, v in values.items()})  # type: ignore[no-untyped-call]

    def merged(self, count: int) -> _Scenes:
        """With one dimension for the batch, of `count` scenes; for an empty batch one scene of zeros, which no stage
        minds and whose gradients go nowhere."""
        kept = self.means.dim() - 2
        changed = {name: v.reshape(count, *v.shape[kept:]) for name, v in self._tensors().items()}
        if count == 0:
            changed = {name: torch.cat([v, v.new_zeros(1, *v.shape[1:])]) for name, v in changed.items()}
        return replace(self, **changed)

    def split(self) -> list[_Scenes]:
        """The scenes of a merged batch."""
        if len(self.means) == 1:  # a view: the gradient of v[0] would be a copy
            return [replace(self, **{k: v.squeeze(0) for k, v in self._tensors().items()})]
        return [replace(self, **{k: v[b] for k, v in self._tensors().items()}) for b in range(len(self.means))]

    def without_broken(self) -> _Scenes:
        """A merged batch with the Gaussians that are not finite made transparent and harmless."""
        names = ("means", "quats", "scales", "covars", "opacities")
        values = {name: v for name, v in self._tensors().items() if name in names}
        if all_finite(*values.values(), self.colors):
            return self
        colored = finite_rows(self.colors, 2).all(1) if self.by_view else finite_rows(self.colors, 1)
        keep = torch.stack([colored, *(finite_rows(v, 1) for v in values.values())]).all(0)
        keep_colors = keep[:, None].expand(self.colors.shape[:3]) if self.by_view else keep
        changed: dict[str, Any] = {name: keep_rows(v, keep) for name, v in values.items()}
        return replace(self, **changed, colors=keep_rows(self.colors, keep_colors))

    def prepare(
        self, width: int, height: int, options: ProjectOptions, render_mode: RenderMode
    ) -> tuple[Splats2D, Tensor, Tensor | None]:
        """A merged batch as I = B * C images: splats [I, N], features [I, N, X], backgrounds [I, X]."""
        each = self.split()
        parts = [one.project(width, height, options) for one in each]
        splats = Splats2D(*(_join([getattr(part, f.name) for part in parts]) for f in fields(Splats2D)))
        channels, behind = [], None
        if "RGB" in render_mode:
            channels.append(_join([one.features(part.radii) for one, part in zip(each, parts, strict=True)]))
        if "D" in render_mode:
            channels.append(splats.depths[..., None])
        if self.backgrounds is not None and "RGB" in render_mode:
            behind = F.pad(self.backgrounds.flatten(0, 1), (0, len(channels) - 1))  # depth 0
        return splats, torch.cat(channels, -1) if len(channels) > 1 else channels[0], behind

    def project(self, width: int, height: int, options: ProjectOptions) -> Splats2D:
        """Of one scene."""
        return project(
            self.means,
            self.quats,
            self.scales,
            self.opacities,
            self.viewmats,
            self.Ks,
            width=width,
            height=height,
            options=options,
            covars=self.covars,
        )

    def features(self, radii: Tensor) -> Tensor:
        """Colours [C, N, D] of one scene; radii [C, N, 2]."""
        cameras, degree = len(self.viewmats), self.sh_degree
        if degree is None:
            return self.colors if self.by_view else self.colors[None].expand(cameras, -1, -1)
        if not self.by_view:
            return sh_colors(self.means, self.viewmats, self.colors[:, :1], self.colors[:, 1:], radii, degree)
        if cameras == 0:
            return self.colors.sum(2)  # of the right shape and in the graph
        views = [slice(c, c + 1) for c in range(cameras)]
        return torch.cat(
            [
                sh_colors(self.means, self.viewmats[v], own[:, :1], own[:, 1:], radii[v], degree)
                for v, own in zip(views, self.colors, strict=True)
            ]
        )
