"""fit_image: the picture -> ImageGaussians loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from splat.core.binning import bin_splats
from splat.core.ops import one_torch_thread
from splat.core.project_image import project_image
from splat.core.rasterize_l2 import L2Step, rasterize_l2, to_tiles
from splat.image.grow import best_births, removal_cost
from splat.image.init import Structure, initial_shapes, structure_tensor
from splat.image.model import ImageGaussians
from splat.image.optimizer import LearningRates, ShapeOptimizer
from splat.image.picture import Picture, read_picture
from splat.image.solve import ColorSystem, solve_colors

Preset = Literal["draft", "fast", "best"]
STEPS: dict[Preset, int] = {"draft": 200, "fast": 600, "best": 3000}
SOLVE_EVERY = 50
PIXELS_PER_GAUSSIAN = 40


@dataclass(frozen=True)
class FitConfig:
    """What to fit."""

    n: int | None = None
    """Number of Gaussians (default: by the picture's size and detail)."""
    target_psnr: float | None = None
    """Add Gaussians until this PSNR in dB is reached."""
    time: float | None = None
    """Seconds to spend, instead of the preset's number of steps."""
    preset: Preset = "fast"
    """draft, fast or best: 200, 600 or 3,000 steps."""
    seed: int = 0
    """Seed of the random numbers; the same seed gives the same model."""

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if self.time is not None and not self.time > 0:
            raise ValueError(f"time must be a positive number of seconds, got {self.time}")
        if self.target_psnr is not None and not 0 < self.target_psnr < 100:
            raise ValueError(f"target_psnr must be between 0 and 100 dB, got {self.target_psnr}")
        if self.preset not in STEPS:
            raise ValueError(f"preset must be one of {', '.join(STEPS)}, got {self.preset!r}")


@dataclass(frozen=True)
class FitProgress:
    """State of a running fit, for the callback."""

    step: int
    steps: int
    n: int
    psnr: float
    its_per_second: float
    eta: float
    phase: str
    model_fn: Callable[[], ImageGaussians]


@dataclass(frozen=True)
class FitResult:
    """A finished (or interrupted) fit."""

    model: ImageGaussians
    history: list[dict[str, float]]
    """step, n, psnr and seconds, every 25 steps."""
    seconds: dict[str, float]
    """By phase: init, fit, solve."""
    psnr: float
    """Of the render clamped to 0..1, in dB."""
    interrupted: bool = False


def auto_count(structure: Structure) -> int:
    """A sensible number of Gaussians: one for 40 pixels of an ordinary photograph (mean gradient 0.06), fewer for a
    smooth picture, more for a busy one."""
    detail = float(structure.gradient.mean()) / 0.06
    return max(1, round(structure.gradient.numel() / PIXELS_PER_GAUSSIAN * min(4.0, max(0.1, detail))))


def psnr_of_error(mean_squared_error: float) -> float:
    """In dB, at most 100."""
    return -10 * math.log10(max(mean_squared_error, 1e-10))


def _psnr(render: Tensor, target: Tensor) -> float:
    return psnr_of_error(float((render.clamp(0, 1) - target).square().mean()))


@dataclass
class Schedule:
    """Growth, exchange and learning rate as functions of the share of the run that is done."""

    start: float = 0.1
    """Share of the Gaussians that the fit starts with."""
    growth_end: float = 0.45
    growths: int = 12
    exchange: float = 0.04
    """Share of the Gaussians that is moved at a time: those that do least, to where the residual is largest."""
    exchange_every: int = 35
    """Steps."""
    exchange_end: float = 0.8
    final_rate: float = 0.02
    """Learning rate at the end, as a share of that at the start (cosine)."""

    def rate(self, done: float) -> float:
        """Factor of the learning rates."""
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def count(self, done: float, total: int) -> int:
        """Number of Gaussians at this point."""
        first = max(1, round(total * self.start))
        stage = min(self.growths, int(done / self.growth_end * self.growths) if self.growth_end > 0 else self.growths)
        return first + (total - first) * stage // self.growths


class Fit:
    """One running fit. `advance` takes an optimiser step; the rest is the schedule."""

    def __init__(self, target: Tensor, channels: str, config: FitConfig) -> None:
        self.began = time.perf_counter()
        self.target = target
        self.target_tiles = to_tiles(target)
        self.height, self.width, _ = target.shape
        self.channels = channels
        self.generator = torch.Generator().manual_seed(config.seed)
        self.structure = structure_tensor(target)
        self.total = config.n or auto_count(self.structure)
        self.schedule = Schedule()
        self.typical = math.sqrt(self.height * self.width / (math.pi * self.total))
        first = initial_shapes(self.structure, self.schedule.count(0.0, self.total), self.generator)
        colors = target.new_zeros(len(first.means), target.shape[2])
        shapes = {"means": first.means, "log_scales": first.log_scales, "angles": first.angles, "colors": colors}
        self.optimizer = ShapeOptimizer(shapes, LearningRates(), self.typical)
        self.psnr = 0.0
        self.step = 0
        self.seconds = {"init": time.perf_counter() - self.began, "fit": 0.0, "solve": 0.0}
        self.solve(8)

    def solve(self, iterations: int) -> None:
        """Sets the colours to the best for the shapes."""
        began = time.perf_counter()
        p = self.optimizer.params
        system = ColorSystem(p["means"], p["log_scales"], p["angles"], self.width, self.height)
        self.optimizer.set_colors(solve_colors(system, self.target_tiles, p["colors"], iterations))
        error = system.step(self.optimizer.params["colors"], self.target_tiles).clamped_error
        self.psnr = psnr_of_error(error / self.target.numel())
        self.seconds["solve"] += time.perf_counter() - began

    def advance(self, done: float) -> None:
        """One step at the point `done` (0..1) of the schedule."""
        began = time.perf_counter()
        p = self.optimizer.params
        shapes = [p[name].detach().requires_grad_(True) for name in ("means", "log_scales", "angles")]
        splats = project_image(*shapes, width=self.width, height=self.height)
        tiles = bin_splats(splats, width=self.width, height=self.height, depth_order=False)
        # Not of the clamped picture: the colour solve minimises the same thing.
        step = rasterize_l2(splats, p["colors"][None], tiles, self.target_tiles)
        front = torch.autograd.grad((splats.means2d, splats.conics), shapes, (step.v_means2d, step.v_conics))
        grads = dict(zip(p, (*front, step.v_colors[0]), strict=True))
        self.psnr = psnr_of_error(step.clamped_error / self.target.numel())
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
            cost = removal_cost(optimizer.params["log_scales"], optimizer.params["colors"], -step.v_colors[0])
            moved = int(schedule.exchange * len(optimizer))
            if moved:
                optimizer.keep(cost.argsort()[moved:].sort().values)
        sigma = max(0.6, 0.35 * self.typical)
        born = best_births(step.residual, wanted - len(optimizer), sigma, self.structure, self.generator)
        shapes = {"means": born.shapes.means, "log_scales": born.shapes.log_scales, "angles": born.shapes.angles}
        # Less than the best colour: neighbours are born with it.
        optimizer.append({**shapes, "colors": 0.7 * born.colors})

    def model(self) -> ImageGaussians:
        """A copy of the present state."""
        tensors = {name: p.clone() for name, p in self.optimizer.params.items()}
        return ImageGaussians(**tensors, width=self.width, height=self.height, channels=self.channels)


@dataclass
class _Run:
    """The clock and the log of a fit: steps or seconds, history, progress."""

    steps: int
    limit: float | None
    callback: Callable[[FitProgress], None] | None
    history: list[dict[str, float]] = field(default_factory=list)

    def done(self, fit: Fit) -> float:
        if self.limit is None:
            return fit.step / self.steps
        return (time.perf_counter() - fit.began) / self.limit

    def report(self, fit: Fit, done: float, phase: str) -> None:
        elapsed = time.perf_counter() - fit.began
        n = len(fit.optimizer)
        if fit.step % 25 == 0 or phase != "fit":
            self.history.append({"step": fit.step, "n": n, "psnr": fit.psnr, "seconds": elapsed})
        if self.callback is not None:
            rate = fit.step / max(elapsed, 1e-9)
            eta = elapsed / max(done, 1e-3) * (1 - done) if fit.step else 0.0
            steps = self.steps if self.limit is None else max(fit.step, round(fit.step / max(done, 1e-3)))
            self.callback(FitProgress(fit.step, steps, n, fit.psnr, rate, eta, phase, fit.model))


def _run_schedule(fit: Fit, run: _Run) -> None:
    while (done := run.done(fit)) < 1.0:
        fit.advance(done)
        # Late solves cost as much as steps and no longer change much (measured).
        if fit.step % SOLVE_EVERY == 0:
            fit.solve(4)
        run.report(fit, min(1.0, done), "fit")
    fit.solve(12)
    run.report(fit, 1.0, "solve")


def fit_image(
    image: Any,
    config: FitConfig = FitConfig(),
    *,
    callback: Callable[[FitProgress], None] | None = None,
) -> FitResult:
    """Fits 2D Gaussians to a picture by least squares.

    Args:
        image: a path, a PIL image, or a numpy array or tensor [H, W] or [H, W, D] (uint8, uint16, or float in 0..1)
            with D = 1, 3 or 4 (RGBA is fitted premultiplied).
        config: how many Gaussians, how long.
        callback: called after every step.

    Returns:
        The model with its history. Ctrl-C ends the fit early and returns what there is, with interrupted=True.

    Raises:
        PictureError: the picture cannot be read or fitted.
    """
    picture = image if isinstance(image, Picture) else read_picture(image)
    with one_torch_thread():
        return _fit(picture, config, callback)


def _fit(picture: Picture, config: FitConfig, callback: Callable[[FitProgress], None] | None) -> FitResult:
    interrupted = False
    fit = Fit(picture.pixels.float().contiguous(), picture.channels, config)
    run = _Run(STEPS[config.preset], config.time, callback)
    best: tuple[float, ImageGaussians] | None = None
    try:
        run.report(fit, 0.0, "init")
        _run_schedule(fit, run)
        while config.target_psnr is not None and fit.psnr < config.target_psnr and config.n is None:
            if best is not None and fit.psnr < best[0] + 0.02:
                break  # more Gaussians no longer help
            best = (fit.psnr, fit.model())
            fit = _enlarged(fit, picture, config)
            _run_schedule(fit, run)
    except KeyboardInterrupt:
        interrupted = True
        if fit.step > 0:
            fit.psnr = _psnr(fit.model().render(), fit.target)
    if best is not None and best[0] > fit.psnr:
        return FitResult(best[1], run.history, fit.seconds, best[0], interrupted)
    return FitResult(fit.model(), run.history, fit.seconds, fit.psnr, interrupted)


def _enlarged(fit: Fit, picture: Picture, config: FitConfig) -> Fit:
    """A new fit with more Gaussians, for a target PSNR that was missed: doubling N gives 2 to 4 dB."""
    missing = (config.target_psnr or 0.0) - fit.psnr
    total = round(fit.total * min(4.0, max(1.3, 2 ** (missing / 3.0))))
    larger = Fit(picture.pixels.float().contiguous(), picture.channels, replace(config, n=total))
    larger.began = fit.began
    return larger
