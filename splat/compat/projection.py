"""gsplat 1.5.3's functions around the projection, over our stage and its reference."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.compat.meta import Layout
from splat.compat.sparse import SparseRows
from splat.compat.unsupported import check_camera_model
from splat.core.checks import Arguments, check_int, check_size
from splat.core.project import CAMERA_MODELS, CameraModel, ProjectOptions, Splats2D, project
from splat.core.reference.project import covariances, image_plane
from splat.core.reference.sh import sh_basis
from splat.core.sh import MAX_DEGREE

_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Where the six values of a symmetric 3x3 matrix stand, as gsplat orders them."""

_OPAQUE = 1024.0
"""Stands for an opacity that was not given: so large that it neither narrows a splat's extent nor hides it, whatever
the antialiasing takes off; a power of two, so that dividing by it is exact."""


def quat_scale_to_covar_preci(
    quats: Tensor, scales: Tensor, compute_covar: bool = True, compute_preci: bool = True, triu: bool = False
) -> tuple[Tensor | None, Tensor | None]:
    """Covariances and their inverses. Differentiable.

    Args:
        quats: [..., 4] wxyz, of any length; a zero quaternion turns nothing.
        scales: [..., 3] standard deviations.
        triu: as the six values of the upper triangle, row by row.

    Returns:
        (covars, precis), each [..., 3, 3] or with triu [..., 6]; None for what is not computed.
    """
    batch = _batch("quats", quats, 1)
    check = Arguments()
    check.floats("quats", quats, *batch, 4)
    check.floats("scales", scales, *batch, 3)
    quats = torch.where((quats == 0).all(-1, keepdim=True), quats.new_tensor([1.0, 0, 0, 0]), quats)

    def matrices(lengths: Tensor) -> Tensor:
        full = covariances(quats, lengths)
        return torch.stack([full[..., i, j] for i, j in _UPPER], -1) if triu else full

    return matrices(scales) if compute_covar else None, matrices(1 / scales) if compute_preci else None


def world_to_cam(means: Tensor, covars: Tensor, viewmats: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussians in the axes of each camera. Differentiable.

    Args:
        means: [..., N, 3]; covars [..., N, 3, 3]; viewmats [..., C, 4, 4].

    Returns:
        means [..., C, N, 3] and covars [..., C, N, 3, 3].
    """
    batch = _batch("means", means, 2)
    check = Arguments()
    check.floats("means", means, *batch, "N", 3)
    check.floats("covars", covars, *batch, "N", 3, 3)
    check.floats("viewmats", viewmats, *batch, "C", 4, 4)
    turn = viewmats[..., :3, :3]
    each = turn[..., None, :, :]
    return means[..., None, :, :] @ turn.mT + viewmats[..., None, :3, 3], each @ covars[..., None, :, :, :] @ each.mT


def proj(
    means: Tensor, covars: Tensor, Ks: Tensor, width: int, height: int, camera_model: CameraModel = "pinhole"
) -> tuple[Tensor, Tensor]:
    """Gaussians in camera axes as the picture has them, without dilation. Differentiable.

    Args:
        means: [..., C, N, 3]; covars [..., C, N, 3, 3]; Ks [..., C, 3, 3].
        width, height: pixels; from beyond 0.15 of them outside the picture, slopes are those of there (pinhole).

    Returns:
        means2d [..., C, N, 2] and covars2d [..., C, N, 2, 2].
    """
    check_camera_model(camera_model)
    check_size(width, height)
    batch = _batch("means", means, 3)
    check = Arguments()
    check.floats("means", means, *batch, "C", "N", 3)
    check.floats("covars", covars, *batch, "C", "N", 3, 3)
    check.floats("Ks", Ks, *batch, "C", 3, 3)
    means2d, slopes = image_plane(means, Ks, (width, height), CAMERA_MODELS.index(camera_model))
    return means2d, slopes @ covars @ slopes.mT


def persp_proj(means: Tensor, covars: Tensor, Ks: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """`proj` for pinhole cameras."""
    return proj(means, covars, Ks, width, height)


def fully_fused_projection(
    means: Tensor,
    covars: Tensor | None,
    quats: Tensor | None,
    scales: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    packed: bool = False,
    sparse_grad: bool = False,
    calc_compensations: bool = False,
    camera_model: CameraModel = "pinhole",
    opacities: Tensor | None = None,
) -> tuple[Any, ...]:
    """Projects Gaussians (`splat.core.project`). Differentiable in means, covars, quats, scales, viewmats and Ks.

    Args:
        means: [..., N, 3]; covars [..., N, 6] (upper triangle), or quats [..., N, 4] and scales [..., N, 3].
        viewmats: [..., C, 4, 4]; Ks [..., C, 3, 3].
        packed: the visible splats only.
        sparse_grad: the gradients of means, covars, quats and scales are sparse, of the Gaussians that are visible.
            Needs packed and no batch.
        calc_compensations: what antialiasing multiplies opacities by, at least 0.005.
        opacities: [..., N] in 0..1: radii end where the weight falls below 1/255. No gradient.

    Returns:
        radii int32 [..., C, N, 2], means2d [..., C, N, 2], depths [..., C, N], conics [..., C, N, 3] and compensations
        [..., C, N] or None; zeros where a splat is not visible. With packed: batch_ids, camera_ids, gaussian_ids int64
        [nnz] and then the same as [nnz, ...].
    """
    check_camera_model(camera_model)
    batch = _batch("means", means, 2)
    check = Arguments()
    check.floats("means", means, *batch, "N", 3)
    if covars is not None:
        check.floats("covars", covars, *batch, "N", 6)
        quats = scales = None
    else:
        check.floats("quats", quats, *batch, "N", 4)
        check.floats("scales", scales, *batch, "N", 3)
    check.floats("viewmats", viewmats, *batch, "C", 4, 4)
    check.floats("Ks", Ks, *batch, "C", 3, 3)
    if opacities is not None:
        check.floats("opacities", opacities, *batch, "N")
    if sparse_grad and (not packed or batch):
        raise ValueError(f"sparse_grad needs packed and no batch, got packed={packed}, means {list(means.shape)}")
    visible: list[Tensor] = []
    shaped: tuple[Tensor | None, ...] = (means, quats, scales, covars)
    if sparse_grad:
        shaped = tuple(None if v is None else SparseRows.apply(v, visible) for v in shaped)  # type: ignore[no-untyped-call]
    given = means.new_full(means.shape[:-1], _OPAQUE) if opacities is None else opacities.detach()
    options = ProjectOptions(eps2d, near_plane, far_plane, radius_clip, camera_model, calc_compensations)
    full = None if shaped[3] is None else _symmetric(shaped[3])
    splats = _project_scenes((*shaped[:3], full, given, viewmats, Ks), len(batch), (width, height), options)
    seen = (splats.radii > 0).all(-1)
    cameras, count = viewmats.shape[-3], means.shape[-2]
    layout = Layout(tuple(batch), cameras, count, seen.flatten().nonzero()[:, 0] if packed else None)
    compensations = None
    if calc_compensations:
        peaks = given[..., None, :].expand(*batch, cameras, count).reshape(seen.shape)
        compensations = torch.where(seen, splats.opacities / torch.where(seen, peaks, 1.0), 0.0)
    values = (splats.radii, splats.means2d, splats.depths, splats.conics, compensations)
    out = tuple(None if v is None else layout.outward(v) for v in values)
    if not packed:
        return out
    batch_ids, camera_ids, gaussian_ids = (layout.ids(*stride) for stride in layout.strides().values())
    assert gaussian_ids is not None
    visible.append(torch.unique(gaussian_ids))
    return batch_ids, camera_ids, gaussian_ids, *out


def spherical_harmonics(degrees_to_use: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None) -> Tensor:
    """Sums of the real spherical harmonics of 3DGS, without the 0.5 that colours have. Differentiable.

    Args:
        dirs: [..., 3], of any length.
        coeffs: [..., K, 3] with K >= (degrees_to_use + 1)^2.
        masks: bool [...]; zeros, also as gradients, where it does not hold.

    Returns:
        [..., 3].
    """
    check_int("degrees_to_use", degrees_to_use, 0, MAX_DEGREE)
    batch = _batch("dirs", dirs, 1)
    check = Arguments()
    check.floats("dirs", dirs, *batch, 3)
    check.floats("coeffs", coeffs, *batch, "K", 3)
    count = (degrees_to_use + 1) ** 2
    if coeffs.shape[-2] < count:
        raise ValueError(f"coeffs must hold {count} for degrees_to_use {degrees_to_use}, got {coeffs.shape[-2]}")
    if masks is not None:
        check.tensor("masks", masks, *batch)
        masks = masks.bool()
        dirs = torch.where(masks[..., None], dirs, torch.ones_like(dirs))
    basis = sh_basis(degrees_to_use, F.normalize(dirs, dim=-1))
    colors = (basis[..., None] * coeffs[..., :count, :]).sum(-2)
    return colors if masks is None else torch.where(masks[..., None], colors, torch.zeros_like(colors))


def _batch(name: str, value: Any, kept: int) -> list[int]:
    """The sizes before the last `kept` dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() < kept:
        raise ValueError(f"{name} must have at least {kept} dimensions, got shape {list(value.shape)}")
    return list(value.shape[: value.dim() - kept])


def _symmetric(upper: Tensor) -> Tensor:
    """[..., 6] -> [..., 3, 3]."""
    index = [_UPPER.index((min(i, j), max(i, j))) for i in range(3) for j in range(3)]
    return upper[..., index].view(*upper.shape[:-1], 3, 3)


def _project_scenes(
    tensors: tuple[Tensor | None, ...], kept: int, size: tuple[int, int], options: ProjectOptions
) -> Splats2D:
    """The arguments of `project` behind `kept` dimensions of scenes -> splats [scenes * C, N]."""
    means = tensors[0]
    assert means is not None
    scenes = math.prod(means.shape[:kept])

    def merged(v: Tensor) -> Tensor:  # for no scene one of zeros, which is taken off again
        return v.reshape(scenes, *v.shape[kept:]) if scenes else v.sum(tuple(range(kept)))[None]

    table = [None if v is None else merged(v) for v in tensors]
    parts = []
    for b in range(max(1, scenes)):
        means, quats, scales, covars, opacities, viewmats, Ks = (None if v is None else v[b] for v in table)
        assert means is not None and opacities is not None and viewmats is not None and Ks is not None
        parts.append(
            project(
                means,
                quats,
                scales,
                opacities,
                viewmats,
                Ks,
                width=size[0],
                height=size[1],
                options=options,
                covars=covars,
            )
        )
    return Splats2D(
        *(
            torch.cat([getattr(p, name) for p in parts])[: None if scenes else 0]
            for name in Splats2D.__dataclass_fields__
        )
    )
