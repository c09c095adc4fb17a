"""The optimiser of a fit: Adam on positions, scales, angles and colours; Gaussians come and go on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core.adam import AdamRule, adam_step
from splat.image.model import scaled_axes

RULE = AdamRule(beta2=0.99)


@dataclass(frozen=True)
class LearningRates:
    """Step lengths at the start of the schedule."""

    means: float = 0.1
    """Along each of a Gaussian's axes, in units of its standard deviation there."""
    log_scales: float = 0.06
    angles: float = 0.04
    colors: float = 0.01


class ShapeOptimizer:
    """The parameters of N Gaussians and their Adam moments, kept row by row."""

    NAMES = ("means", "log_scales", "angles", "colors")

    def __init__(self, params: dict[str, Tensor], rates: LearningRates, least_scale: float = 0.0) -> None:
        """least_scale: no standard deviation becomes smaller, pixels."""
        self.least_log_scale = math.log(least_scale) if least_scale else -math.inf
        self.params = {name: self._allowed(name, params[name]).contiguous() for name in self.NAMES}
        self.exp_avg = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.steps = torch.zeros(len(self), dtype=torch.int32)
        self.rates = rates

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    def _allowed(self, name: str, values: Tensor) -> Tensor:
        return values.clamp_min(self.least_log_scale) if name == "log_scales" else values

    def step(self, grads: dict[str, Tensor], factor: float) -> None:
        """Moves every parameter; `factor` scales all learning rates (the schedule).

        The means move along their Gaussian's axes, and their moments are kept in that frame, in standard deviations:
        one rate then suits large and small Gaussians, and both axes of a thin one.
        """
        self.steps += 1
        axes = scaled_axes(self.params["log_scales"], self.params["angles"])
        shifts = torch.zeros_like(self.params["means"])
        moved = {**self.params, "means": shifts}
        # Products of columns, which torch does in a tenth of the time of products with small matrices.
        v = grads["means"]
        grads = {**grads, "means": axes[:, 0] * v[:, :1] + axes[:, 1] * v[:, 1:]}
        for name, param in moved.items():
            rate = getattr(self.rates, name) * factor
            adam_step(param, grads[name], self.exp_avg[name], self.exp_avg_sq[name], self.steps, rate, RULE)
        self.params["means"] += axes[:, :, 0] * shifts[:, :1] + axes[:, :, 1] * shifts[:, 1:]
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
