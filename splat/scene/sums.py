"""Sums whose order does not depend on the number of threads.

Torch splits the sum of a whole tensor into a part per thread, and adds up the gradients of entries that were read twice
by atomic operations: either way the last bits change from machine to machine, or from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_RUN = 1024
"""Values that are added up at a time. Fewer than torch splits among threads."""


def total(values: Tensor) -> Tensor:
    """[]: the sum of all values, differentiable."""
    flat = values.flatten()
    while flat.numel() > _RUN:
        flat = F.pad(flat, (0, -flat.numel() % _RUN)).view(-1, _RUN).sum(1)
    return flat.sum()


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = values.numel()
        return values[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        out = grads[0].new_zeros(ctx.count)
        if out.is_cuda:  # which sorts, where index_add_ uses atomic operations; on a CPU it is the other way round
            out.index_put_((index.flatten(),), grads[0].flatten(), accumulate=True)
        else:
            out.index_add_(0, index.flatten(), grads[0].flatten())
        return out, None


def take(values: Tensor, index: Tensor) -> Tensor:
    """values[index] of values [N] and an int64 index of any shape, differentiable."""
    result: Tensor = _Take.apply(values, index)  # type: ignore[no-untyped-call]
    return result
