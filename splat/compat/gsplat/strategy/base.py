"""What the strategies have in common."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

Params = MutableMapping[str, Any] | torch.nn.ParameterDict
"""Parameters [N, ...] by name: means, scales (logs), quats, opacities (logits, [N] or [N, 1]) and any others."""
Optimizers = dict[str, torch.optim.Optimizer]
"""One for each parameter that is trained, with one param_group."""


@dataclass
class Strategy:
    """Adds, moves and removes Gaussians of parameters that torch.optim trains."""

    def check_sanity(self, params: Params, optimizers: Optimizers) -> None:
        """ValueError where parameters and optimisers do not fit each other."""
        trained = {name for name, param in params.items() if param.requires_grad}
        if trained != set(optimizers):
            raise ValueError(
                f"optimizers must be of {sorted(trained)}, which require gradients, got {sorted(optimizers)}"
            )
        for name, optimizer in optimizers.items():
            if len(optimizer.param_groups) != 1:
                raise ValueError(f"optimizers[{name!r}] must have one param_group, got {len(optimizer.param_groups)}")
        if missing := [name for name in ("means", "scales", "quats", "opacities") if name not in params]:
            raise ValueError(f"params must hold {', '.join(missing)}, got {', '.join(params)}")

    def step_pre_backward(self, *args: Any, **kwargs: Any) -> None:
        """Before loss.backward()."""

    def step_post_backward(self, *args: Any, **kwargs: Any) -> None:
        """After loss.backward()."""
