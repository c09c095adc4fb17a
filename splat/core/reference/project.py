"""Reference of the 3D front end: obvious torch, differentiable by autograd, float64-capable."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.reference import tie

ALPHA_MIN = 1.0 / 255.0
EXTENT_SIGMAS = 3.33
FOV_MARGIN = 0.3
COMPENSATION_MIN = 0.005


def rotation(quats: Tensor) -> Tensor:
    """[..., 4] wxyz -> [..., 3, 3], normalised inside."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """[..., 4] wxyz and [..., 3] standard deviations -> [..., 3, 3]."""
    root = rotation(quats) * scales[..., None, :]
    return root @ root.mT


def _pinhole(point: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    x, y, z = point.unbind(-1)
    zero = torch.zeros_like(x)

    def bounded(ratio: Tensor, f: Tensor, c: Tensor, size: int) -> Tensor:
        margin = FOV_MARGIN * 0.5 * size / f
        return torch.minimum(torch.maximum(ratio, -c / f - margin), (size - c) / f + margin)

    fx, fy, cx, cy = _intrinsics(K)
    rx, ry = bounded(x / z, fx, cx, width), bounded(y / z, fy, cy, height)
    J = [torch.stack([fx / z, zero, -fx * rx / z], -1), torch.stack([zero, fy / z, -fy * ry / z], -1)]
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), torch.stack(J, -2)


def _ortho(point: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    x, y, _ = point.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    fx, fy, cx, cy = _intrinsics(K)
    J = [torch.stack([fx * one, zero, zero], -1), torch.stack([zero, fy * one, zero], -1)]
    return torch.stack([fx * x + cx, fy * y + cy], -1), torch.stack(J, -2)


def _fisheye(point: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    x, y, z = point.unbind(-1)
    r2 = (x * x + y * y).clamp_min(1e-24)
    r, n = r2.sqrt(), r2 + z * z
    a = torch.atan2(r, z) / r
    b = (z / n - a) / r2
    fx, fy, cx, cy = _intrinsics(K)
    J = [
        torch.stack([fx * (a + x * x * b), fx * x * y * b, -fx * x / n], -1),
        torch.stack([fy * x * y * b, fy * (a + y * y * b), -fy * y / n], -1),
    ]
    return torch.stack([fx * x * a + cx, fy * y * a + cy], -1), torch.stack(J, -2)


def _intrinsics(K: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """fx, fy, cx, cy, each [..., 1]."""
    return K[..., 0, 0, None], K[..., 1, 1, None], K[..., 0, 2, None], K[..., 1, 2, None]


def image_plane(point: Tensor, K: Tensor, size: tuple[int, int], model: int) -> tuple[Tensor, Tensor]:
    """Points [..., N, 3] in front of cameras K [..., 3, 3] -> where they are seen [..., N, 2], pixels, and how that
    moves with them [..., N, 2, 3]. size: width, height; model: index into CAMERA_MODELS."""
    if model == 0:
        return _pinhole(point, K, *size)
    return _ortho(point, K) if model == 1 else _fisheye(point, K)


def _project_camera(
    means: Tensor,
    covars: Tensor,
    opacities: Tensor,
    view: Tensor,
    K: Tensor,
    size: tuple[int, int],
    how: tuple[float, ...],
) -> tuple[Tensor, ...]:
    eps2d, near, far, radius_clip, model, antialiased = how
    point = means @ view[:3, :3].T + view[:3, 3]
    depths = point[:, 2]
    ahead = (depths >= near) & (depths <= far) & torch.isfinite(point).all(-1)
    # A splat that is culled must not spread NaN through the gradients of the others.
    point = torch.where(ahead[:, None], point, point.new_tensor([0.1, 0.2, 1.0]))
    mean2d, J = image_plane(point, K, size, int(model))
    cov = J @ view[:3, :3] @ covars @ view[:3, :3].T @ J.mT
    a, b, c = cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]
    det = (a + eps2d) * (c + eps2d) - b * b
    valid = ahead & (det > 0) & torch.isfinite(cov).all(-1).all(-1) & torch.isfinite(mean2d).all(-1)
    safe = torch.where(valid, det, 1.0)
    conics = torch.stack([(c + eps2d) / safe, -b / safe, (a + eps2d) / safe], -1)
    drawn = opacities
    if antialiased:
        ratio = torch.where(valid, (a * c - b * b) / safe, 1.0)
        drawn = opacities * ratio.clamp_min(COMPENSATION_MIN**2).sqrt()
    with torch.no_grad():
        visible = valid & (opacities >= ALPHA_MIN) & (drawn >= ALPHA_MIN) & torch.isfinite(opacities)
        extent = (2 * (torch.where(visible, drawn, 1.0) / ALPHA_MIN).log()).sqrt().clamp_max(EXTENT_SIGMAS)
        variances = torch.where(visible[:, None], torch.stack([a, c], -1) + eps2d, 1.0).clamp_min(0)
        radii = (extent[:, None] * variances.sqrt()).clamp_max(1e9).ceil()
        visible &= (radii > radius_clip).any(-1)
        visible &= ((mean2d + radii > 0) & (mean2d - radii < mean2d.new_tensor(size))).all(-1)

    def keep(value: Tensor) -> Tensor:
        mask = visible.view(-1, *[1] * (value.dim() - 1))
        return torch.where(mask, value, torch.zeros_like(value))

    return keep(mean2d), keep(depths), keep(conics), keep(drawn), keep(radii).to(torch.int32)


def project(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *how: float,
) -> tuple[Tensor, ...]:
    """means2d, depths, conics, opacities2d, radii; see splat.core.project."""
    n = means.shape[0]
    good = torch.isfinite(means).all(-1)
    if covars is None:
        assert quats is not None and scales is not None
        lengths = quats.square().sum(-1)  # 0 and infinity also where the squares leave the dtype's range
        good &= torch.isfinite(scales).all(-1) & torch.isfinite(lengths) & (lengths > 0)
        q = torch.where(good[:, None], quats, quats.new_tensor([1.0, 0, 0, 0]))
        covars = covariances(q, torch.where(good[:, None], scales, 1.0))
    else:
        good &= torch.isfinite(covars).all(-1).all(-1)
        identity = torch.eye(3, dtype=means.dtype, device=means.device)
        covars = torch.where(good[:, None, None], 0.5 * (covars + covars.mT), identity)
    means = torch.where(good[:, None], means, torch.zeros_like(means))
    opacities = torch.where(good & torch.isfinite(opacities), opacities, torch.zeros_like(opacities))
    views = [
        _project_camera(means, covars, opacities, view, K, (width, height), how)
        for view, K in zip(viewmats, Ks, strict=True)
    ]
    if not views:
        shapes: list[tuple[int, ...]] = [(0, n, 2), (0, n), (0, n, 3), (0, n), (0, n, 2)]
        empty = [tie(means.new_zeros(s), means, quats, scales, covars, opacities, viewmats, Ks) for s in shapes]
        return (*empty[:4], empty[4].to(torch.int32))
    return tuple(torch.stack(parts) for parts in zip(*views, strict=True))
