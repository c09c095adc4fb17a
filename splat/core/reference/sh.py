"""Reference of the colours from spherical harmonics (real basis, 3DGS's signs)."""

from __future__ import annotations

import torch
from torch import Tensor


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """[..., 3] unit directions -> [..., (degree + 1)^2]."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bands = [[torch.full_like(x, 0.28209479177387814)]]
    if degree >= 1:
        bands.append([-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x])
    if degree >= 2:
        bands.append(
            [
                1.0925484305920792 * x * y,
                -1.0925484305920792 * y * z,
                0.31539156525252005 * (2 * zz - xx - yy),
                -1.0925484305920792 * x * z,
                0.5462742152960396 * (xx - yy),
            ]
        )
    if degree >= 3:
        bands.append(
            [
                -0.5900435899266435 * y * (3 * xx - yy),
                2.890611442640554 * x * y * z,
                -0.4570457994644658 * y * (4 * zz - xx - yy),
                0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
                -0.4570457994644658 * x * (4 * zz - xx - yy),
                1.445305721320277 * z * (xx - yy),
                -0.5900435899266435 * x * (xx - 3 * yy),
            ]
        )
    if degree >= 4:
        bands.append(
            [
                2.5033429417967046 * x * y * (xx - yy),
                -1.7701307697799304 * y * z * (3 * xx - yy),
                0.9461746957575601 * x * y * (7 * zz - 1),
                -0.6690465435572892 * y * z * (7 * zz - 3),
                0.10578554691520431 * (35 * zz * zz - 30 * zz + 3),
                -0.6690465435572892 * x * z * (7 * zz - 3),
                0.47308734787878004 * (xx - yy) * (7 * zz - 1),
                -1.7701307697799304 * x * z * (xx - 3 * yy),
                0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
            ]
        )
    return torch.stack([b for band in bands for b in band], -1)


def sh(means: Tensor, viewmats: Tensor, sh0: Tensor, shN: Tensor, radii: Tensor, degree: int) -> Tensor:
    """[C, N, D]; see splat.core.sh."""
    coefficients = torch.cat([sh0, shN[:, : (degree + 1) ** 2 - 1]], 1)
    visible = (radii > 0).all(-1)
    centres = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    offset = means[None] - centres[:, None]
    offset = torch.where(visible[..., None], offset, torch.ones_like(offset))
    basis = sh_basis(degree, offset / offset.norm(dim=-1, keepdim=True))
    colors = torch.einsum("cnk,nkd->cnd", basis, coefficients) + 0.5
    return torch.where(visible[..., None] & ~((colors < 0) & colors.isfinite()), colors, torch.zeros_like(colors))
