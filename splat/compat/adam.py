"""Adam for some rows, as gsplat's SelectiveAdam makes it, over our step."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.adam import AdamRule, adam_step
from splat.core.checks import Arguments

_OLD = 2**31 - 1
"""A step count at which the correction of the moments for their start at zero is 1: gsplat makes none."""


@torch.no_grad()
def adam(
    param: Tensor,
    param_grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    valid: Tensor | None,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
) -> None:
    """A step in place of the rows where valid [N] holds (None: all), without bias correction; the others keep their
    values and moments.

    Args:
        param: [N, ...], like param_grad, exp_avg and exp_avg_sq.
    """
    check = Arguments()
    tables = {"param": param, "param_grad": param_grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    for name, value in tables.items():
        check.floats(name, value, *param.shape)
    count = param.shape[0]
    rows = torch.arange(count, device=param.device)
    if valid is not None:
        check.tensor("valid", valid, count)
        rows = valid.nonzero()[:, 0]
    changed, grad, mean, square = (value.detach()[rows] for value in tables.values())
    steps = torch.full((len(rows),), _OLD, dtype=torch.int32, device=param.device)
    adam_step(changed, grad, mean, square, steps, float(lr), AdamRule(b1, b2, eps))
    for table, value in zip((param, exp_avg, exp_avg_sq), (changed, mean, square), strict=True):
        table.detach()[rows] = value
