"""DefaultStrategy: 3DGS's adaptive density control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from splat.compat.gsplat.strategy.base import Optimizers, Params, Strategy
from splat.compat.gsplat.strategy.ops import grow, remove, reset_opa


@dataclass
class DefaultStrategy(Strategy):
    """Clones, splits and prunes Gaussians by their gradients on the screen, with gsplat's fields and rules.

    Unlike gsplat 1.5.3, opacities are reset: its `step % self.reset_every == 0 & step > 0` never holds (its pull
    request 776). And with several cameras the largest radius counts, not the last.
    """

    prune_opa: float = 0.005
    """Gaussians with less opacity are removed."""
    grow_grad2d: float = 0.0002
    """Those whose mean gradient (in half pictures) is above this grow."""
    grow_scale3d: float = 0.01
    """Times scene_scale: smaller ones are cloned, larger ones split."""
    grow_scale2d: float = 0.05
    """Those with a radius above this share of the picture are split, until refine_scale2d_stop_iter."""
    prune_scale3d: float = 0.1
    """Times scene_scale: larger ones are removed, after reset_every steps."""
    prune_scale2d: float = 0.15
    """As grow_scale2d; they are removed, after reset_every steps."""
    refine_scale2d_stop_iter: int = 0
    refine_start_iter: int = 500
    refine_stop_iter: int = 15_000
    reset_every: int = 3000
    """Steps from one reset of the opacities, to 2 x prune_opa, to the next."""
    refine_every: int = 100
    pause_refine_after_reset: int = 0
    """Steps after a reset without refining."""
    absgrad: bool = False
    """Look at means2d.absgrad (AbsGS); needs `rasterization(absgrad=True)` and grow_grad2d of about 8e-4."""
    revised_opacity: bool = False
    """Halves of a split cover together what the whole did (arXiv 2404.06109)."""
    verbose: bool = False
    key_for_gradient: Literal["means2d", "gradient_2dgs"] = "means2d"

    def initialize_state(self, scene_scale: float = 1.0) -> dict[str, Any]:
        """grad2d, the sum of the gradients' lengths; count, of the views; with refine_scale2d_stop_iter radii, the
        largest, as shares of the picture. [N] from the first step on."""
        state: dict[str, Any] = {"grad2d": None, "count": None, "scene_scale": scene_scale}
        if self.refine_scale2d_stop_iter > 0:
            state["radii"] = None
        return state

    def step_pre_backward(
        self, params: Params, optimizers: Optimizers, state: dict[str, Any], step: int, info: dict[str, Any]
    ) -> None:
        """Before loss.backward(): asks for the gradient of the 2D means. info: meta of `rasterization`."""
        self._of_info(info, self.key_for_gradient).retain_grad()

    @torch.no_grad()
    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """After loss.backward(): counts, and changes params, optimizers and state when it is time to. packed: what
        `rasterization` was called with."""
        if step >= self.refine_stop_iter:
            return
        self._observe(state, info, len(params["means"]), packed)
        if (
            step > self.refine_start_iter
            and step % self.refine_every == 0
            and step % self.reset_every >= self.pause_refine_after_reset
        ):
            cloned, halved = self._grow_gs(params, optimizers, state, step)
            removed = self._prune_gs(params, optimizers, state, step)
            if self.verbose:
                now = len(params["means"])
                print(f"step {step}: {cloned} cloned, {halved} split, {removed} removed; {now} Gaussians")
            for table in self._statistics(state):
                table.zero_()
        if step > 0 and step % self.reset_every == 0:
            reset_opa(params, optimizers, state, 2 * self.prune_opa)

    def _statistics(self, state: dict[str, Any]) -> list[Tensor]:
        return [state[name] for name in ("grad2d", "count", "radii") if name in state]

    def _of_info(self, info: dict[str, Any], name: str) -> Any:
        if name not in info:
            raise ValueError(f"info must hold {name!r}, as the meta of rasterization does")
        return info[name]

    def _observe(self, state: dict[str, Any], info: dict[str, Any], count: int, packed: bool) -> None:
        """Adds what a step has seen to the state."""
        width, height, cameras, radii = (self._of_info(info, n) for n in ("width", "height", "n_cameras", "radii"))
        held = self._of_info(info, self.key_for_gradient)
        grads = getattr(held, "absgrad", None) if self.absgrad else held.grad
        if grads is None:
            wanted = "rasterization(absgrad=True)" if self.absgrad else "step_pre_backward"
            raise ValueError(f"info[{self.key_for_gradient!r}] has no gradient; call {wanted} before loss.backward()")
        lengths = (grads * grads.new_tensor([width / 2 * cameras, height / 2 * cameras])).norm(dim=-1)
        sizes = radii.amax(-1) / float(max(width, height))
        if packed:
            rows = self._of_info(info, "gaussian_ids")
        else:
            seen = (radii > 0).all(-1)
            rows, lengths, sizes = seen.nonzero()[:, -1], lengths[seen], sizes[seen]
        for name in ("grad2d", "count", "radii"):
            if name in state and state[name] is None:
                state[name] = torch.zeros(count, device=grads.device)
        state["grad2d"].index_add_(0, rows, lengths.to(state["grad2d"]))
        state["count"].index_add_(0, rows, torch.ones_like(lengths, dtype=state["count"].dtype))
        if "radii" in state:
            state["radii"].scatter_reduce_(0, rows, sizes.to(state["radii"]), "amax")

    def _grow_gs(self, params: Params, optimizers: Optimizers, state: dict[str, Any], step: int) -> tuple[int, int]:
        """How many were cloned and split."""
        high = state["grad2d"] / state["count"].clamp_min(1) > self.grow_grad2d
        small = params["scales"].exp().amax(-1) <= self.grow_scale3d * state["scene_scale"]
        clone, halve = high & small, high & ~small
        if step < self.refine_scale2d_stop_iter:
            halve |= state["radii"] > self.grow_scale2d
        counts = int(clone.sum()), int(halve.sum())
        if any(counts):
            grow(params, optimizers, state, clone, halve, self.revised_opacity)
        return counts

    def _prune_gs(self, params: Params, optimizers: Optimizers, state: dict[str, Any], step: int) -> int:
        """How many were removed."""
        gone = params["opacities"].flatten().sigmoid() < self.prune_opa
        if step > self.reset_every:
            gone |= params["scales"].exp().amax(-1) > self.prune_scale3d * state["scene_scale"]
            if step < self.refine_scale2d_stop_iter:
                gone |= state["radii"] > self.prune_scale2d
        count = int(gone.sum())
        if count:
            remove(params, optimizers, state, gone)
        return count
