"""SelectiveAdam: only what a step has seen moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splat.compat.adam import adam


class SelectiveAdam(torch.optim.Adam):
    """Adam for the rows that are seen (Taming 3DGS's sparse Adam), without bias correction, as gsplat's. State and
    param_groups are those of torch.optim.Adam. One tensor [N, ...] in each group."""

    def __init__(self, params: Any, eps: float, betas: tuple[float, float]) -> None:
        super().__init__(params=params, eps=eps, betas=betas)

    @torch.no_grad()
    def step(self, visibility: Tensor) -> None:  # type: ignore[override]
        """Moves the rows where visibility [N] holds, by their gradients."""
        for group in self.param_groups:
            if len(group["params"]) != 1:
                raise ValueError(f"params must be one tensor for each group, got {len(group['params'])}")
            param = group["params"][0]
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
            b1, b2 = group["betas"]
            moments = (state["exp_avg"], state["exp_avg_sq"])
            adam(param, param.grad, *moments, visibility, group["lr"], b1, b2, group["eps"])
