"""The optimiser of a fit: Adam on positions, scales, angles and colours; Gaussians come and go on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import check_device

BETAS = (0.9, 0.99)
EPSILON = 1e-15


@dataclass(frozen=True)
class LearningRates:
    """Step lengths at the start of the schedule."""

    means: float = 0.1
    """In units of the typical standard deviation of a Gaussian."""
    log_scales: float = 0.04
    angles: float = 0.04
    colors: float = 0.01


def adam_step(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, steps: Tensor, learning_rate: float
) -> None:
    """One Adam step in place; steps int32 [rows] counts from 1 for each row (its own bias correction)."""
    state = {"grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "steps": steps}
    for name, value in state.items():
        check_device(name, value, "param", param)
    if ops.available and param.dtype == torch.float32 and param.device.type == "cpu":
        torch.ops.splat.adam(param, grad, exp_avg, exp_avg_sq, steps, learning_rate, *BETAS, EPSILON)
        return
    beta1, beta2 = BETAS
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.lerp_(grad * grad, 1 - beta2)
    t = steps.to(param.dtype).view(-1, *[1] * (param.dim() - 1))
    mean, square = exp_avg / (1 - beta1**t), exp_avg_sq / (1 - beta2**t)
    param.sub_(learning_rate * mean / (square.sqrt() + EPSILON))


class ShapeOptimizer:
    """The parameters of N Gaussians and their Adam moments, kept row by row."""

    NAMES = ("means", "log_scales", "angles", "colors")

    def __init__(self, params: dict[str, Tensor], rates: LearningRates, typical_scale: float) -> None:
        self.params = {name: params[name].contiguous() for name in self.NAMES}
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.steps = torch.zeros(len(self), dtype=torch.int32)
        self.rates = rates
        self.typical_scale = typical_scale

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    def step(self, grads: dict[str, Tensor], factor: float) -> None:
        """Moves every parameter; `factor` scales all learning rates (the schedule)."""
        self.steps += 1
        for name, param in self.params.items():
            rate = getattr(self.rates, name) * factor
            if name == "means":
                rate *= self.typical_scale
            adam_step(param, grads[name], self.exp_avg[name], self.exp_avg_sq[name], self.steps, rate)

    def set_colors(self, colors: Tensor) -> None:
        """Takes solved colours; the moments stay."""
        self.params["colors"] = colors.contiguous()

    def keep(self, rows: Tensor) -> None:
        """Keeps the given rows (indices or a mask)."""
        for table in (self.params, self.exp_avg, self.exp_avg_sq):
            for name in self.NAMES:
                table[name] = table[name][rows].contiguous()
        self.steps = self.steps[rows].contiguous()

    def append(self, params: dict[str, Tensor]) -> None:
        """Adds rows with zero moments."""
        count = params["means"].shape[0]
        for name in self.NAMES:
            new = params[name]
            self.params[name] = torch.cat([self.params[name], new])
            self.exp_avg[name] = torch.cat([self.exp_avg[name], torch.zeros_like(new)])
            self.exp_avg_sq[name] = torch.cat([self.exp_avg_sq[name], torch.zeros_like(new)])
        self.steps = torch.cat([self.steps, torch.zeros(count, dtype=torch.int32)])
