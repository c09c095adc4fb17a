"""The loop of an image fit: one optimiser step after the other on a schedule of growth, exchange and learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from splat.core.rasterize_l2 import L2Step
from splat.image.canvas import OrderFree
from splat.image.grow import best_births, removal_cost
from splat.image.init import Structure, initial_shapes
from splat.image.layout import Layout
from splat.image.model import ImageGaussians
from splat.image.objective import Objective
from splat.image.optimizer import LearningRates, ShapeOptimizer
from splat.image.solve import solve_colors
from splat.metrics import MAX_PSNR, psnr_of_error

SOLVE_EVERY = 50
REPORT_EVERY = 25
FIRST_SIZE: dict[OrderFree, float] = {"sum": 0.9, "topk": 0.63}
"""Standard deviation of the first Gaussians by the radius of their shares. Those of topk part the picture among them
and need no overlap: 0.3 dB more than with 0.9 on crops of three Kodak pictures (1.35: 0.8 dB less)."""
PLATEAU_RISE = 0.01
"""dB. A fit that rises by less in a tenth of its schedule goes straight to the closing part of it."""
PLATEAU_TO = 0.85
PLATEAU_STEPS = 4 * REPORT_EVERY
"""Fewest steps that a plateau is judged over: the best state is looked for every REPORT_EVERY."""
PERFECT = 90.0
"""dB, finer than any picture format: nothing is left to do."""


@dataclass(frozen=True)
class Schedule:
    """Growth, exchange and learning rate as functions of the share of the run that is done."""

    start: float = 0.1
    """Share of the Gaussians that the fit starts with."""
    growth_end: float = 0.45
    growths: int = 12
    exchange: float = 0.03
    """Share of the Gaussians that is moved at a time: those that do least, to where the residual is largest."""
    exchange_every: int = 20
    """Steps."""
    exchange_end: float = 0.8
    final_rate: float = 0.05
    """Learning rate at the end, as a share of that at the start (cosine)."""

    def rate(self, done: float) -> float:
        """Factor of the learning rates."""
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def count(self, done: float, total: int) -> int:
        """Number of Gaussians at this point."""
        first = max(1, round(total * self.start))
        stage = min(self.growths, int(done / self.growth_end * self.growths))
        return first + (total - first) * stage // self.growths


@dataclass(frozen=True)
class Plan:
    """What a fit works towards."""

    total: int
    """Gaussians."""
    seed: int = 0
    least_scale: float = 0.0
    """No standard deviation becomes smaller, pixels."""
    schedule: Schedule = Schedule()


class Fit:
    """The Gaussians of one running fit. `advance` takes an optimiser step, and grows and exchanges where it is due.

    The target is [H, W, D] times the layout's `root_weights`, and so are the colours while the fit runs.
    """

    def __init__(
        self,
        objective: Objective,
        layout: Layout,
        structure: Structure,
        plan: Plan,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """start: the Gaussians at first (default: as many as the schedule says, by the structure)."""
        began = time.perf_counter()
        self.objective = objective
        self.layout = layout
        self.root_weights = layout.root_weights()
        self.full_error = objective.canvas.height * objective.canvas.width * float(self.root_weights.square().sum())
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.structure = structure
        self.total = total = plan.total
        self.schedule = plan.schedule
        self.typical = math.sqrt(objective.canvas.height * objective.canvas.width / (math.pi * total))
        if start is None:
            size = FIRST_SIZE[cast(OrderFree, objective.canvas.options.blend)]
            first = initial_shapes(structure, self.schedule.count(0.0, total), self.generator, size)
            colors = first.means.new_zeros(len(first.means), objective.target_tiles.shape[1])
            start = {"means": first.means, "log_scales": first.log_scales, "angles": first.angles, "colors": colors}
        self.optimizer = ShapeOptimizer(start, LearningRates(), plan.least_scale)
        self.psnr = 0.0
        self.best: tuple[float, ImageGaussians] | None = None
        self.step = 0
        self.seconds = {"init": time.perf_counter() - began, "fit": 0.0, "solve": 0.0}
        self.solve(8)

    def __len__(self) -> int:
        return len(self.optimizer)

    def _error(self, step: L2Step) -> float:
        """The squared error that the PSNR is of."""
        return step.clamped_error

    def _wanting(self, residual: Tensor) -> Tensor:
        """The part of a tiled residual that new Gaussians are to explain."""
        return residual

    def _removal_cost(self, step: L2Step) -> Tensor:
        """[N] what leaving a Gaussian out costs; infinite for those that stay where they are."""
        params = self.optimizer.params
        return removal_cost(self.objective, params, step) * self.structure.importance_at(params["means"])

    def _take_psnr(self, step: L2Step) -> None:
        self.psnr = min(MAX_PSNR, psnr_of_error(self._error(step) / self.full_error))

    def solve(self, iterations: int) -> None:
        """Sets the colours to the best for the shapes."""
        began = time.perf_counter()
        params, target = self.optimizer.params, self.objective.target_tiles
        system = self.objective.color_system(params)
        self.optimizer.set_colors(solve_colors(system, target, params["colors"], iterations))
        self._take_psnr(system.step(self.optimizer.params["colors"], target))
        self.seconds["solve"] += time.perf_counter() - began

    def advance(self, done: float) -> None:
        """One step at the point `done` (0..1) of the schedule."""
        began = time.perf_counter()
        step, grads = self.objective.step(self.optimizer.params)
        self._take_psnr(step)
        if self.step % REPORT_EVERY == 0:
            self.keep_if_best()
        self.optimizer.step(grads, self.schedule.rate(done))
        self._restructure(done, step)
        self.step += 1
        self.seconds["fit"] += time.perf_counter() - began

    def _restructure(self, done: float, step: L2Step) -> None:
        """Growth and exchange, when they are due."""
        optimizer, schedule = self.optimizer, self.schedule
        wanted = schedule.count(done, self.total)
        due = self.step % schedule.exchange_every == schedule.exchange_every - 1 and done < schedule.exchange_end
        if wanted <= len(optimizer) and not due:
            return
        if due:
            cost = self._removal_cost(step)
            moved = int(schedule.exchange * int(cost.isfinite().sum()))
            if moved:
                optimizer.keep(cost.argsort()[moved:].sort().values)
        sigma = max(0.6, 0.35 * self.typical)
        missing = wanted - len(optimizer)
        step = replace(step, residual=self._wanting(step.residual))
        born = best_births(self.objective, optimizer.params, step, missing, sigma, self.structure, self.generator)
        shapes = {"means": born.shapes.means, "log_scales": born.shapes.log_scales, "angles": born.shapes.angles}
        # Less than the best colour: neighbours are born with it.
        optimizer.append({**shapes, "colors": torch.lerp(born.ground, born.colors, 0.7)})

    def keep_if_best(self) -> None:
        """Keeps the present state if it is the best full-sized one so far; self.psnr must be of that state."""
        if len(self) >= self.total and (self.best is None or self.psnr > self.best[0]):
            self.best = (self.psnr, self.model())

    def model(self) -> ImageGaussians:
        """A copy of the present state."""
        p = self.optimizer.params
        means, log_scales, angles, colors = (p[name].clone() for name in ("means", "log_scales", "angles", "colors"))
        colors /= self.root_weights
        canvas = self.objective.canvas
        return ImageGaussians(
            means,
            log_scales,
            angles,
            colors,
            canvas.width,
            canvas.height,
            self.layout,
            blend=cast(OrderFree, canvas.options.blend),
            topk=canvas.options.topk,
            dilation=canvas.dilation,
        )


@dataclass(frozen=True)
class FitProgress:
    """State of a running fit, for the callback."""

    step: int
    """Of all fits so far."""
    steps: int
    """Expected in all."""
    n: int
    """Gaussians at present."""
    psnr: float
    """dB, of the picture clamped to 0..1."""
    its_per_second: float
    eta: float
    """Seconds."""
    phase: str
    """init, pilot (looking for the number of Gaussians), fit or done; of a large picture coarse (the picture at a
    smaller size), tiles or done."""
    model_fn: Callable[[], ImageGaussians]
    """A copy of the present model."""
    tile: int = 0
    """The tile that is being fitted, from 1; 0 where there is none."""
    tiles: int = 0


@dataclass
class Clock:
    """Steps and seconds of a run of fit_image (one fit, or several for a target PSNR), its history and its callback."""

    limit: float | None
    """Seconds in all."""
    callback: Callable[[FitProgress], None] | None
    stopped: Callable[[], bool]
    began: float = field(default_factory=time.perf_counter)
    history: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    phase: str = "fit"

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return time.perf_counter() - self.began

    def report(self, fit: Fit, done: float, expected: int) -> None:
        """Calls the callback, and adds to the history now and then."""
        if fit.step % REPORT_EVERY == 0 or done >= 1.0:
            row = {"step": self.steps, "n": len(fit), "psnr": fit.psnr, "seconds": self.elapsed}
            if self.history and self.history[-1]["step"] == self.steps and self.history[-1]["n"] == len(fit):
                self.history.pop()  # the same step, now with the closing solve
            self.history.append(row)
        if self.callback is None:
            return
        rate = fit.step / max(sum(fit.seconds.values()), 1e-9)
        left = max(0, expected - fit.step)
        eta = max(0.0, self.limit - self.elapsed) if self.limit is not None else left / max(rate, 1e-9)
        phase = "init" if self.steps == 0 else self.phase
        self.callback(FitProgress(self.steps, self.steps + left, len(fit), fit.psnr, rate, eta, phase, fit.model))


@dataclass
class _Plateau:
    """Notices when the PSNR has stopped rising."""

    at: float = 0.0
    step: int = 0
    psnr: float = 0.0

    def reached(self, done: float, step: int, psnr: float) -> bool:
        if done - self.at < 0.1 or step - self.step < PLATEAU_STEPS:
            return False
        flat = psnr < self.psnr + PLATEAU_RISE
        self.at, self.step, self.psnr = done, step, max(psnr, self.psnr)
        return flat


def run_fit(fit: Fit, clock: Clock, steps: int, until: float | None = None) -> None:
    """Runs the whole schedule in `steps` steps, or until the clock shows `until` seconds; sets the fit's `best`, also
    where the clock is stopped early."""
    start, skipped, plateau = clock.elapsed, 0.0, _Plateau()
    if until is not None:  # the closing solve takes half as long again as the first
        until -= 1.6 * fit.seconds["solve"]
    clock.report(fit, 0.0, steps)
    while not clock.stopped() and fit.psnr < PERFECT:
        share = fit.step / steps if until is None else (clock.elapsed - start) / max(until - start, 1e-9)
        done = share + skipped
        if done >= 1.0:
            break
        fit.advance(done)
        clock.steps += 1
        if fit.step % SOLVE_EVERY == 0:
            fit.solve(4)
        if fit.schedule.growth_end <= done < PLATEAU_TO and fit.best is not None:
            skipped += PLATEAU_TO - done if plateau.reached(done, fit.step, fit.best[0]) else 0.0
        expected = steps if until is None else round(fit.step / max(share, 1e-3))
        clock.report(fit, min(done, 0.999), expected)
    fit.solve(12)
    # Whatever its size: a fit that ends while it grows has nothing better.
    if fit.best is None or fit.psnr > fit.best[0]:
        fit.best = (fit.psnr, fit.model())
    fit.psnr = fit.best[0]
    clock.report(fit, 1.0, fit.step)
