"""Gradients of some rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SparseRows(torch.autograd.Function):
    """A tensor whose gradient is a sparse one of some rows, `rows[0]` int64 [M], which may be said later."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rows: list[Tensor]) -> Tensor:
        ctx.rows = rows
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows = ctx.rows[0]
        values = (rows[None], grad[rows], grad.shape)
        return torch.sparse_coo_tensor(*values, is_coalesced=True, check_invariants=False), None
