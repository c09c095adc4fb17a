"""Fits of layered pictures: every prefix of the Gaussians that ends with a layer is a picture of its own.

Layer by layer, as P-GSVC does with base and enhancement layers that are trained together: a layer grows where the
prefix before it leaves the largest residual, and meanwhile all Gaussians so far are trained on the sum of the squared
errors of all prefixes. A layer that was fitted to be the best picture of its size is not what the next one wants to
stand on (docs/image-codec.md has what each way costs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from splat.core.rasterize_l2 import L2Step
from splat.image.canvas import Canvas
from splat.image.fitter import Clock, Fit, FitProgress, Plan, Schedule, run_fit
from splat.image.init import Structure
from splat.image.layout import Layout
from splat.image.model import TENSORS, ImageGaussians
from splat.image.objective import SHAPE, Objective
from splat.image.solve import ColorSystem


def term_weights(ends: Sequence[int]) -> list[float]:
    """What the squared error of each prefix counts, for the numbers of Gaussians up to the ends of the layers.

    Twice the Gaussians halve the squared error, about (DB_PER_DOUBLING), so in proportion to its Gaussians each prefix
    has about the same term, and a dB of one is worth a dB of another. Alike, the first would have the most to say.
    """
    return [end / ends[-1] for end in ends]


@dataclass(frozen=True)
class Prefixes:
    """The prefixes before the whole."""

    ends: tuple[int, ...] = ()
    """Rows of each, rising."""
    weights: tuple[float, ...] = ()
    """What the squared error of each counts; that of the whole counts 1."""

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(zip(self.ends, self.weights, strict=True))


class PrefixColorSystem(ColorSystem):
    """The sum of the linear systems of all prefixes: those of a prefix have no columns for later Gaussians."""

    def __init__(
        self, canvas: Canvas, params: Mapping[str, Tensor], weight_tiles: Tensor | None, prefixes: Prefixes
    ) -> None:
        means, log_scales, angles = (params[name] for name in SHAPE)
        super().__init__(canvas, means, log_scales, angles, weight_tiles)
        self.prefixes = prefixes
        self.parts = [
            ColorSystem(canvas, means[:end], log_scales[:end], angles[:end], weight_tiles) for end in prefixes.ends
        ]

    def step(self, colors: Tensor, target_tiles: Tensor) -> L2Step:
        """Of the whole picture, but with v_colors of all prefixes."""
        whole = super().step(colors, target_tiles)
        for part, (end, weight) in zip(self.parts, self.prefixes, strict=True):
            whole.v_colors[0, :end] += weight * part.step(colors[:end], target_tiles).v_colors[0]
        return whole

    @cached_property
    def energy(self) -> Tensor:
        """[N, 1 or D] diagonal of the summed systems; of the last layer's rows that of the whole."""
        counted = torch.ones(len(self.log_scales), 1)
        for end, weight in self.prefixes:
            counted[:end] += weight
        return super().energy * counted


@dataclass(frozen=True)
class PrefixObjective(Objective):
    """Half the sum over the prefixes of weight_k * |target - image of the first ends_k Gaussians|^2, the whole being
    the last of them with weight 1. Blend sum: what comes later is added to a prefix, and does not change it."""

    prefixes: Prefixes = Prefixes()

    def step(self, params: Mapping[str, Tensor]) -> tuple[L2Step, dict[str, Tensor]]:
        """The step of the whole picture, which new Gaussians and the PSNR go by, and the gradients of the sum."""
        whole, grads = super().step(params)
        grads["colors"] = grads["colors"].clone()  # the step has it, too
        for end, weight in self.prefixes:
            _, part = super().step({name: value[:end] for name, value in params.items()})
            for name, grad in part.items():
                grads[name][:end] += weight * grad
        return whole, grads

    def color_system(self, params: Mapping[str, Tensor]) -> ColorSystem:
        """The linear system of the colours at these shapes."""
        return PrefixColorSystem(self.canvas, params, self.weight_tiles, self.prefixes)


class LayerFit(Fit):
    """The fit of a layer, and on with it of those before. Its PSNR is that of the whole picture so far."""

    def __init__(
        self,
        objective: Objective,
        layout: Layout,
        structure: Structure,
        plan: Plan,
        before: ImageGaussians | None,
    ) -> None:
        """before: the model with the layers before (None: there is none)."""
        self.earlier = () if before is None else before.layers
        weights = term_weights((*self.earlier, plan.total))[:-1]
        prefixes = Prefixes(self.earlier, tuple(weights))
        start = None
        if before is not None:
            plan = replace(plan, schedule=Schedule(start=len(before) / plan.total))
            start = weighted_params(before)
        joint = PrefixObjective(objective.canvas, objective.target_tiles, objective.weight_tiles, prefixes)
        super().__init__(joint, layout, structure, plan, start)

    def _removal_cost(self, step: L2Step) -> Tensor:
        """Only Gaussians of the new layer move."""
        cost = super()._removal_cost(step)
        cost[: sum(self.earlier[-1:])] = torch.inf
        return cost

    def model(self) -> ImageGaussians:
        """A copy of the present state, with its layers."""
        model = super().model()
        grown = len(model) > sum(self.earlier[-1:])
        return replace(model, layers=(*self.earlier, len(model)) if grown else self.earlier)


def weighted_params(model: ImageGaussians) -> dict[str, Tensor]:
    """A model's tensors as a fit has them, with colours times the layout's root weights."""
    params = {name: getattr(model, name).clone() for name in TENSORS}
    return params | {"colors": params["colors"] * model.layout.root_weights()}


def fit_layers(
    objective: Objective,
    layout: Layout,
    structure: Structure,
    plan: Plan,
    ends: Sequence[int],
    clock: Clock,
    steps: int,
    until: float | None = None,
) -> Fit:
    """Fits a model whose layers end after `ends` Gaussians, each layer in `steps` steps, or all until the clock shows
    `until` seconds.

    Returns:
        The last layer's fit, whose `best` has the layers; its PSNR is that of the whole picture.
    """
    costs = [sum(ends[: k + 1]) for k in range(len(ends))]  # Gaussians drawn in a step
    began, seconds, fit, best = clock.elapsed, dict[str, float](), None, None
    for k, end in enumerate(ends):
        fit = LayerFit(objective, layout, structure, replace(plan, total=end), None if best is None else best[1])
        later = steps * sum(costs[k + 1 :]) / costs[k]

        def tell(p: FitProgress, stages: int = len(ends) - 1 - k, later: float = later) -> None:
            eta = p.eta if clock.limit is not None else p.eta + later / max(p.its_per_second, 1e-9)
            assert clock.callback is not None
            clock.callback(replace(p, steps=p.steps + stages * steps, eta=eta))

        stage = replace(clock, callback=None if clock.callback is None else tell)
        part = None if until is None else began + (until - began) * sum(costs[: k + 1]) / sum(costs)
        run_fit(fit, stage, steps, part)
        clock.steps = stage.steps
        assert fit.best is not None
        if best is None or fit.psnr > best[0] or not clock.stopped():
            best = fit.best
        for name, spent in fit.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent
        fit.best, fit.psnr = best, best[0]
        if clock.stopped():
            break
    assert fit is not None
    fit.seconds = seconds
    return fit
