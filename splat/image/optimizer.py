"""The optimiser of a fit: Adam on positions, scales, angles and colours; Gaussians come and go on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core.adam import AdamRule, adam_step

RULE = AdamRule(beta2=0.99)


@dataclass(frozen=True)
class LearningRates:
    """Step lengths at the start of the schedule."""

    means: float = 0.1
    """In units of the typical standard deviation of a Gaussian."""
    log_scales: float = 0.04
    angles: float = 0.04
    colors: float = 0.01


class ShapeOptimizer:
    """The parameters of N Gaussians and their Adam moments, kept row by row."""

    NAMES = ("means", "log_scales", "angles", "colors")

    def __init__(
        self, params: dict[str, Tensor], rates: LearningRates, typical_scale: float, least_scale: float = 0.0
    ) -> None:
        """least_scale: no standard deviation becomes smaller, pixels."""
        self.least_log_scale = math.log(least_scale) if least_scale else -math.inf
        self.params = {name: self._allowed(name, params[name]).contiguous() for name in self.NAMES}
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.steps = torch.zeros(len(self), dtype=torch.int32)
        self.rates = rates
        self.typical_scale = typical_scale

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    def _allowed(self, name: str, values: Tensor) -> Tensor:
        return values.clamp_min(self.least_log_scale) if name == "log_scales" else values

    def step(self, grads: dict[str, Tensor], factor: float) -> None:
        """Moves every parameter; `factor` scales all learning rates (the schedule)."""
        self.steps += 1
        for name, param in self.params.items():
            rate = getattr(self.rates, name) * factor
            if name == "means":
                rate *= self.typical_scale
            adam_step(param, grads[name], self.exp_avg[name], self.exp_avg_sq[name], self.steps, rate, RULE)
        if self.least_log_scale > -math.inf:
            self.params["log_scales"].clamp_min_(self.least_log_scale)

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
            new = self._allowed(name, params[name])
            self.params[name] = torch.cat([self.params[name], new])
            self.exp_avg[name] = torch.cat([self.exp_avg[name], torch.zeros_like(new)])
            self.exp_avg_sq[name] = torch.cat([self.exp_avg_sq[name], torch.zeros_like(new)])
        self.steps = torch.cat([self.steps, torch.zeros(count, dtype=torch.int32)])
