"""MCMCStrategy: 3D Gaussian splatting as Markov chain Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from splat.compat.gsplat.strategy.base import Optimizers, Params, Strategy
from splat.compat.gsplat.strategy.ops import inject_noise_to_position, relocate, sample_add
from splat.scene.densify.mcmc import MOST_COPIES


@dataclass
class MCMCStrategy(Strategy):
    """Moves Gaussians that nobody sees to where opaque ones are, adds 5 % up to a cap, and lets faint ones wander, with
    gsplat's fields and rules (Kheradmand et al. 2024)."""

    cap_max: int = 1_000_000
    """Most Gaussians."""
    noise_lr: float = 5e5
    """Noise on the means, times their learning rate."""
    refine_start_iter: int = 500
    refine_stop_iter: int = 25_000
    refine_every: int = 100
    min_opacity: float = 0.005
    """Gaussians with this or less are moved."""
    verbose: bool = False

    def initialize_state(self) -> dict[str, Any]:
        """binoms: binomial coefficients, as `compute_relocation` takes them."""
        rows = [[math.comb(n, k) for k in range(MOST_COPIES)] for n in range(MOST_COPIES)]
        return {"binoms": torch.tensor(rows, dtype=torch.float32)}

    @torch.no_grad()
    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        lr: float,
    ) -> None:
        """After loss.backward(): changes params and optimizers. lr: the learning rate of the means."""
        state["binoms"] = state["binoms"].to(params["means"].device)
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            moved = self._relocate_gs(params, optimizers, state["binoms"])
            added = self._add_new_gs(params, optimizers, state["binoms"])
            if self.verbose:
                print(f"step {step}: {moved} moved, {added} added; {len(params['means'])} Gaussians")
        inject_noise_to_position(params, optimizers, {}, lr * self.noise_lr)

    def _relocate_gs(self, params: Params, optimizers: Optimizers, binoms: torch.Tensor) -> int:
        dead = params["opacities"].flatten().sigmoid() <= self.min_opacity
        count = int(dead.sum())
        if count:
            relocate(params, optimizers, {}, dead, binoms, self.min_opacity)
        return count

    def _add_new_gs(self, params: Params, optimizers: Optimizers, binoms: torch.Tensor) -> int:
        count = len(params["means"])
        new = max(0, min(self.cap_max, int(1.05 * count)) - count)
        if new:
            sample_add(params, optimizers, {}, new, binoms, self.min_opacity)
        return new
