"""Rounding Gaussians so that the picture suffers least: a part at a time, while the rest makes up for it.

Rounding all at once adds the errors of all. Here a share of the Gaussians is rounded and stays so; the others, and all
colours, go on being fitted to the picture; then the next share. At last the colours are rounded in the same way, amid
solutions of the linear system that the others' colours are (GPTQ, Frantar et al. 2023, does this for the weights of a
network). Straight-through gradients, by which others train through the rounding, were worse here than rounding at the
end: with steps as coarse as these the parameters never come to rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from splat.image.codec.lattice import Geometry, Ints, Lattice, Symbols
from splat.image.grow import removal_cost
from splat.image.objective import Objective
from splat.image.optimizer import LearningRates, ShapeOptimizer
from splat.image.solve import solve_colors

Params = dict[str, Tensor]
BITS: dict[str, float] = {"sum": 34.0, "topk": 42.0}
"""What a Gaussian takes in a file, about, by the blend, where the number of Gaussians and the step are chosen well for
a given size (sum: Kodak, .15 to 1 bit a pixel: 27 to 38)."""
SQUARED_ERROR_PER_BIT = 0.054
"""In units of delta^2: what a bit is worth where the number of Gaussians and the step are chosen well (on Kodak
pictures by the change of both between neighbouring steps)."""


@dataclass(frozen=True)
class FinishConfig:
    """How much effort."""

    rounds: int = 8
    """Shares in which the shapes are rounded."""
    steps: int = 12
    """Optimiser steps after each."""
    color_rounds: int = 8
    rate: float = 0.3
    """Of the fit's learning rates at its start."""
    iterations: int = 8
    """Of a colour solve."""


def geometry_of(params: Params) -> Geometry:
    """Parameters as the lattice takes them."""
    means, log_scales, angles = (params[name].double().numpy() for name in ("means", "log_scales", "angles"))
    return Geometry(means, log_scales, angles)


def _put(params: Params, rows: Ints, geometry: Geometry) -> None:
    at = torch.from_numpy(rows)
    for name in ("means", "log_scales", "angles"):
        params[name][at] = torch.from_numpy(getattr(geometry, name)).float()


def prune(params: Params, objective: Objective, lattice: Lattice, iterations: int) -> Params:
    """Without the Gaussians that take more bits than they are worth, and with the colours solved again."""
    cost = removal_cost(objective, params, objective.step(params)[0])
    stays = cost > SQUARED_ERROR_PER_BIT * lattice.delta**2 * BITS[objective.canvas.options.blend]
    if bool(stays.all()):
        return params
    kept = {name: value[stays] for name, value in params.items()}
    return kept | {"colors": _solve(kept, objective, kept["colors"], iterations)}


def _solve(params: Params, objective: Objective, start: Tensor, iterations: int, free: Tensor | None = None) -> Tensor:
    return solve_colors(objective.color_system(params), objective.target_tiles, start, iterations, free=free)


def round_gaussians(
    params: Params,
    objective: Objective,
    lattice: Lattice,
    config: FinishConfig = FinishConfig(),
    tell: Callable[[float], None] | None = None,
) -> Symbols:
    """The symbols [N or fewer] of Gaussians that a fit gave, for the picture of an objective.

    Args:
        params: means [N, 2], log_scales [N, 2], angles [N], colors [N, D].
        tell: called with the share that is done, 0..1.
    """
    params = prune({name: value.clone() for name, value in params.items()}, objective, lattice, config.iterations)
    order = np.random.default_rng(0).permutation(len(params["means"]))
    classes = lattice.classes(geometry_of(params), params["colors"].double().numpy())
    parts = config.rounds + config.color_rounds
    optimizer = ShapeOptimizer(params, LearningRates())
    shapes = _Rows(len(order))
    fixed = np.zeros(0, np.int64)
    for i, rows in enumerate(np.array_split(order, config.rounds)):
        rounded = lattice.round_geometry(geometry_of(optimizer.params).take(rows), classes[rows])
        shapes.put(rows, rounded)
        fixed = np.concatenate([fixed, rows])
        _put(optimizer.params, fixed, lattice.geometry(shapes.symbols(fixed)))
        for step in range(config.steps if i + 1 < config.rounds else 0):
            _, grads = objective.step(optimizer.params)
            optimizer.step(grads, config.rate * (1 - 0.7 * step / config.steps))
            _put(optimizer.params, fixed, lattice.geometry(shapes.symbols(fixed)))
        if tell is not None:
            tell((i + 1) / parts)
    symbols = shapes.symbols(np.arange(len(order)))
    start = {name: value.clone() for name, value in optimizer.params.items()}
    _put(start, np.arange(len(order)), lattice.geometry(symbols))
    colors = round_colors(start, objective, lattice, symbols, config)
    if tell is not None:
        tell(1.0)
    return replace(symbols, colors=colors).take(np.flatnonzero((colors != 0).any(1)))


def round_colors(params: Params, objective: Objective, lattice: Lattice, shapes: Symbols, config: FinishConfig) -> Ints:
    """[N, D] steps of the amplitudes for shapes that stay."""
    geometry = lattice.geometry(shapes)
    colors = _solve(params, objective, params["colors"], 2 * config.iterations)
    order = np.random.default_rng(1).permutation(len(shapes))
    free = torch.ones(len(order), dtype=torch.bool)
    steps = np.zeros(tuple(colors.shape), np.int64)
    for i, rows in enumerate(np.array_split(order, config.color_rounds)):
        part = geometry.take(rows)
        steps[rows] = lattice.round_colors(part, colors[rows].double().numpy())
        colors[rows] = torch.from_numpy(lattice.colors(part, steps[rows])).float()
        free[rows] = False
        if i + 1 < config.color_rounds:
            colors = _solve(params, objective, colors, config.iterations, free)
    return steps


def round_at_once(params: Params, lattice: Lattice) -> Symbols:
    """The symbols of the nearest steps, without care for the picture."""
    geometry, colors = geometry_of(params), params["colors"].double().numpy()
    shapes = lattice.round_geometry(geometry, lattice.classes(geometry, colors))
    steps = lattice.round_colors(lattice.geometry(shapes), colors)
    return replace(shapes, colors=steps).take(np.flatnonzero((steps != 0).any(1)))


class _Rows:
    """The shapes of N Gaussians, row by row as they are rounded."""

    def __init__(self, count: int) -> None:
        self._at: dict[str, Ints] = {}
        self._count = count

    def put(self, rows: Ints, symbols: Symbols) -> None:
        for name, value in vars(symbols).items():
            table = self._at.setdefault(name, np.zeros((self._count, *value.shape[1:]), np.int64))
            table[rows] = value

    def symbols(self, rows: Ints) -> Symbols:
        return Symbols(**{name: value[rows] for name, value in self._at.items()})
