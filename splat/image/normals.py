"""Unit normals: as two octahedral coordinates, and by how much two maps of them differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """[..., 3] scaled to length 1; (0, 0, 1) where there is no direction."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    up = vectors.new_tensor([0.0, 0.0, 1.0])
    return torch.where(length > 1e-6, vectors / length.clamp_min(1e-6), up)


def _sign(values: Tensor) -> Tensor:
    """-1 or 1, also of 0: the corners of the square are all the direction (0, 0, -1)."""
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def octahedral_encode(normals: Tensor) -> Tensor:
    """Unit vectors [..., 3] to the square [..., 2] in -1..1 (Meyer et al. 2010, "On Floating-Point Normal Vectors";
    Cigolle et al. 2014). Those with z >= 0 fill its inner diamond without a seam; the others are folded into the
    corners."""
    folded = normals / normals.abs().sum(-1, keepdim=True).clamp_min(1e-12)
    xy = folded[..., :2]
    return torch.where(folded[..., 2:] < 0, (1 - xy.flip(-1).abs()) * _sign(xy), xy)


def octahedral_decode(square: Tensor) -> Tensor:
    """The square [..., 2] (clamped to -1..1) to unit vectors [..., 3]."""
    uv = square.clamp(-1, 1)
    z = 1 - uv.abs().sum(-1, keepdim=True)
    return unit(torch.cat([uv - _sign(uv) * (-z).clamp_min(0), z], -1))


def angles_between(a: Tensor, b: Tensor) -> Tensor:
    """Degrees [...] between unit vectors [..., 3], exact for small angles too."""
    cross = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    degrees: Tensor = torch.atan2(cross, (a * b).sum(-1)) * (180 / math.pi)
    return degrees
