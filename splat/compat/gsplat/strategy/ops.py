"""gsplat.strategy.ops: changes of parameters, their optimisers' state and statistics, in place.

What changes is said by the edits of `splat.scene.densify`; here they are applied to torch.optim. Random numbers are
seeded by torch's generator, so that torch.manual_seed repeats a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from splat.compat.gsplat.strategy.base import Optimizers, Params
from splat.gaussians import Gaussians
from splat.scene.config import McmcConfig
from splat.scene.densify.base import Edit, Moment, keep_all, logit
from splat.scene.densify.default import grown, opacity_reset
from splat.scene.densify.mcmc import McmcStrategy, moved_and_added
from splat.scene.densify.surgery import edited, edited_moments, then, zero_rows

_OURS = {"scales": "log_scales", "opacities": "opacity_logits"}
"""Names of parameters that `Gaussians` has others for."""


@torch.no_grad()
def duplicate(params: Params, optimizers: Optimizers, state: dict[str, Any], mask: Tensor) -> None:
    """Gaussians of the mask [N] twice, the copies at the end."""
    grow(params, optimizers, state, mask, torch.zeros_like(mask))


@torch.no_grad()
def split(
    params: Params, optimizers: Optimizers, state: dict[str, Any], mask: Tensor, revised_opacity: bool = False
) -> None:
    """Instead of the Gaussians of the mask [N] two halves each, drawn from them, at the end. revised_opacity: the
    halves together cover as much as the whole did (arXiv 2404.06109)."""
    grow(params, optimizers, state, torch.zeros_like(mask), mask, revised_opacity)


@torch.no_grad()
def remove(params: Params, optimizers: Optimizers, state: dict[str, Any], mask: Tensor) -> None:
    """Without the Gaussians of the mask [N]."""
    edit = then(keep_all(len(mask), mask.device), (~mask).nonzero()[:, 0])
    _apply(params, optimizers, state, edit)


@torch.no_grad()
def reset_opa(params: Params, optimizers: Optimizers, state: dict[str, Any], value: float) -> None:
    """Opacities of at most `value` (in 0..1); their moments begin anew."""
    logits = params["opacities"].detach().flatten()
    cap = float(logit(torch.tensor(value, dtype=torch.float64, device="cpu")))
    edit = opacity_reset(keep_all(len(logits), logits.device), logits.clamp_max(cap))
    _apply(params, optimizers, {}, edit, names=("opacities",))


@torch.no_grad()
def relocate(
    params: Params,
    optimizers: Optimizers,
    state: dict[str, Any],
    mask: Tensor,
    binoms: Tensor,
    min_opacity: float = 0.005,
) -> None:
    """The Gaussians of the mask [N] become copies of others, drawn by opacity. Moments and statistics of those that are
    copied begin anew; the copies keep what they had. binoms: not looked at, see `compute_relocation`."""
    edit = moved_and_added(_gaussians(params), mask, 0, _draw(), min_opacity)
    same = keep_all(len(mask), mask.device)
    parents = torch.zeros_like(mask)
    parents[edit.rows[edit.children > 0]] = True
    same = replace(same, fresh=parents)
    _apply(params, optimizers, state, edit, moments=same, statistics=same)


@torch.no_grad()
def sample_add(
    params: Params, optimizers: Optimizers, state: dict[str, Any], n: int, binoms: Tensor, min_opacity: float = 0.005
) -> None:
    """n copies of Gaussians that are drawn by opacity, at the end, with moments and statistics of zero."""
    gaussians = _gaussians(params)
    none = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
    edit = moved_and_added(gaussians, none, n, _draw(), min_opacity)
    tables = replace(edit, fresh=edit.children > 0)
    _apply(params, optimizers, state, edit, moments=tables, statistics=tables)


@torch.no_grad()
def inject_noise_to_position(params: Params, optimizers: Optimizers, state: dict[str, Any], scaler: float) -> None:
    """Moves faint Gaussians by noise of the shape of their covariance, times `scaler`."""
    gaussians = _gaussians(params)
    strategy = McmcStrategy(McmcConfig(noise=float(scaler), noise_every=1))
    strategy.add_noise(gaussians, _ids(gaussians), 0, _draw().seed, 1.0)


def grow(
    params: Params,
    optimizers: Optimizers,
    state: dict[str, Any],
    clone: Tensor,
    halve: Tensor,
    revised_opacity: bool = False,
) -> None:
    """`duplicate` those of the mask `clone` and `split` those of `halve`, in this order."""
    gaussians = _gaussians(params)
    edit = grown(gaussians, _ids(gaussians), clone, halve, _draw(), revised_opacity)
    _apply(params, optimizers, state, edit)


def _gaussians(params: Params) -> Gaussians:
    """The parameters' values, without colours; they share the memory."""
    means, opacities = params["means"].detach(), params["opacities"].detach()
    black = means.new_zeros(1, 1, 3).expand(len(means), 1, 3)
    shape = (params["quats"].detach(), params["scales"].detach())
    return Gaussians(means, *shape, opacities.reshape(len(means)), black, black[:, :0])


def _ids(gaussians: Gaussians) -> Tensor:
    return torch.arange(len(gaussians), device=gaussians.means.device)


def _draw() -> Moment:
    """A moment whose seed comes from torch's generator."""
    seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    return Moment(iteration=0, progress=0.0, share=0.0, images=1, seed=seed, extent=1.0)


def _apply(
    params: Params,
    optimizers: Optimizers,
    state: dict[str, Any],
    edit: Edit,
    *,
    moments: Edit | None = None,
    statistics: Edit | None = None,
    names: Sequence[str] = (),
) -> None:
    """The edit of the parameters (`names`, or all) and, where they differ, those of the moments and the statistics."""
    for name in names or list(params):
        param = params[name]
        key = _OURS.get(name, name)
        value = edited({key: param.detach()}, edit)[key].reshape(-1, *param.shape[1:])
        params[name] = changed = torch.nn.Parameter(value, requires_grad=param.requires_grad)
        if name not in optimizers:
            if param.requires_grad:
                raise ValueError(f"optimizers must hold one for {name!r}, which requires a gradient")
            continue
        optimizer = optimizers[name]
        own = optimizer.state.pop(param, {})
        for entry, table in own.items():
            if entry != "step":
                own[entry] = edited_moments({key: table}, moments or edit)[key]
        for group in optimizer.param_groups:
            group["params"] = [changed]
        if own:
            optimizer.state[changed] = own
    for entry, table in state.items():
        if isinstance(table, Tensor):
            rows = statistics or replace(edit, fresh=torch.zeros_like(edit.fresh))
            state[entry] = zero_rows(table[rows.rows], rows.fresh)
