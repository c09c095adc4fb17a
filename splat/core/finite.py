"""Broken Gaussians: those with a value that is not finite. They are left out of the picture, with gradients of
zero. A NaN times the zero gradient of a culled splat would be NaN, so they are replaced before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(*tensors: Tensor | None) -> bool:
    """Whether every value is finite, by one pass of sums; False may also mean that a sum overflowed. False while
    torch.compile traces, where a branch on values would cut the graph."""
    if torch.compiler.is_compiling():
        return False
    sums = [t.detach().sum() for t in tensors if t is not None]
    return bool(torch.isfinite(torch.stack(sums).sum()))


def finite_rows(value: Tensor, dim: int) -> Tensor:
    """Bool, the first `dim` + 1 dimensions of `value`: whether all values behind them are finite."""
    good = torch.isfinite(value)
    return good.flatten(dim + 1).all(-1) if value.dim() > dim + 1 else good


def keep_rows(value: Tensor, keep: Tensor, fill: float = 0.0) -> Tensor:
    """`value` where `keep` (its first dimensions) holds, elsewhere `fill`, with gradient zero whatever comes back."""
    return torch.where(keep.view(*keep.shape, *[1] * (value.dim() - keep.dim())), value, fill)
