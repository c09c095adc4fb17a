"""gsplat.utils: what scripts for training and files take from it."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.reference.project import rotation


def normalized_quat_to_rotmat(quat: Tensor) -> Tensor:
    """[..., 4] wxyz -> [..., 3, 3]. Quaternions of another length than 1 are normalised."""
    return rotation(quat)


def log_transform(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): far values come nearer."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def inverse_log_transform(y: Tensor) -> Tensor:
    """The inverse of `log_transform`."""
    return torch.sign(y) * torch.expm1(torch.abs(y))
