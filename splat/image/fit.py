"""fit_image: a picture -> ImageGaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Real
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from splat.core.checks import check_int
from splat.core.ops import one_torch_thread
from splat.core.project_image import check_dilation
from splat.image.canvas import PIXEL_VARIANCE, OrderFree, order_free_options
from splat.image.fitter import Clock, Fit, FitProgress, Plan, run_fit
from splat.image.holes import harmonic_fill, hole_weights
from splat.image.init import Structure, importance_of, structure_tensor
from splat.image.large import LargeFit, check_work, fit_large
from splat.image.layered import fit_layers
from splat.image.levels import prefix_sizes
from splat.image.model import ImageGaussians
from splat.image.objective import Objective
from splat.image.picture import Picture, read_picture
from splat.metrics import MAX_PSNR
from splat.stop import deferred_stop

Preset = Literal["draft", "fast", "best"]
STEPS: dict[Preset, int] = {"draft": 200, "fast": 600, "best": 3000}
GAIN: dict[Preset, float] = {"draft": 0.0, "fast": 0.8, "best": 1.3}
"""dB that a preset gains over a pilot run (a draft), about (Kodak, 10,000 Gaussians)."""
PIXELS_PER_GAUSSIAN = 40
DB_PER_DOUBLING = 3.0
"""What twice as many Gaussians gain, about."""
PIXEL_SCALE = 0.45
"""Least scale in pixels of a model that is to be drawn larger. On two Kodak pictures, twice as large, it wins 0.6 to
1.2 dB over none; 0.35 and 0.55 lose up to 0.4 (docs/image-masks-upscale.md)."""
TILED_FROM = 20_000_000
"""Pixels. Pictures with as many are fitted by tiles: with less memory, and with less error in equal time at 33
megapixels (60 s), though with more at 8 and 16 (docs/image-large.md)."""
AUTO_TILE = 1024
MAX_LAYERS = 16


@dataclass(frozen=True)
class FitConfig:
    """What to fit."""

    n: int | None = None
    """Number of Gaussians (default: by the picture's size and detail). Fewer are used where they explain all there is,
    and where the fit ends before it has grown to them."""
    target_psnr: float | None = None
    """Look for the number of Gaussians that reaches this PSNR in dB, instead of giving n."""
    time: float | None = None
    """Seconds to spend in all, instead of the preset's number of steps."""
    preset: Preset = "fast"
    """draft, fast or best: 200, 600 or 3,000 steps (fewer where the PSNR stops rising)."""
    blend: OrderFree = "sum"
    """How Gaussians become pixels: their sum (GaussianImage), or the mean of the `topk` strongest (Image-GS)."""
    topk: int = 10
    """Gaussians per pixel that count, for blend topk."""
    dilation: float = 0.0
    """Pixels^2 that every Gaussian grows by when it is drawn. 1/12 fits the means over the pixels' squares, which the
    pixels of a photo are, so that the model is one for other sizes too (`ImageGaussians.dilation`)."""
    least_scale: float = 0.0
    """Pixels that no standard deviation is under. Narrower Gaussians fit the pixels better, and are needles and grains
    in a larger picture."""
    seed: int = 0
    """Seed of the random numbers; the same seed gives the same model (without `time`, which counts seconds)."""
    layers: int | tuple[int, ...] = 1
    """Fit so many layers, each prefix with about four times the Gaussians of the one before, so that each is a picture
    of its own (`ImageGaussians.layers`); or the numbers of Gaussians up to the end of each layer, instead of n. Each
    layer takes the preset's steps. Blend sum."""
    tile: int | None = None
    """Fit tiles of at most so many pixels a side one after the other, with memory for one; 0: the picture as a whole.
    Default: tiles of 1024 for pictures of 20 megapixels and more; the whole below, for target_psnr, and where tiles
    cannot do it: they are for one ordinary picture, blend sum, and no weights, hole, importance or layers."""

    def __post_init__(self) -> None:
        if self.n is not None:
            check_int("n", self.n, 1)
        if self.tile is not None:
            check_int("tile", self.tile, 0)
        if self.tile and self.target_psnr is not None:
            raise ValueError("tile goes with n, not with target_psnr: the search fits the picture as a whole")
        for name, most in (("time", math.inf), ("target_psnr", MAX_PSNR)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
            if not 0 < float(value) < most:
                raise ValueError(f"{name} must be between 0 and {most:g}, got {value}")
        if self.n is not None and self.target_psnr is not None:
            raise ValueError("give n or target_psnr, not both: the PSNR follows from n, or n from the PSNR")
        if self.preset not in tuple(STEPS):
            raise ValueError(f"preset must be one of {', '.join(STEPS)}, got {self.preset!r}")
        order_free_options(self.blend, self.topk)
        check_dilation(self.dilation)
        self._check_layers()
        least: object = self.least_scale
        if not isinstance(least, Real):
            raise TypeError(f"least_scale must be a number, got {type(least).__name__} {least!r}")
        if not 0 <= self.least_scale < math.inf:
            raise ValueError(f"least_scale must be at least 0 and finite, got {self.least_scale}")

    def _check_layers(self) -> None:
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise ValueError("layers must be a number or the ends of at least one layer, got ()")
            for before, end in pairwise((0, *self.layers)):
                check_int("layers", end, before + 1)
            if self.n not in (None, self.layers[-1]) or self.target_psnr is not None:
                raise ValueError(
                    "give layers as a number with n or target_psnr: their ends say the number of Gaussians"
                )
        else:
            check_int("layers", self.layers, 1, MAX_LAYERS)
        if self.layers != 1 and self.blend != "sum":
            raise ValueError("layers must be 1 with blend topk: its Gaussians do not add up to the picture")

    def ends(self, n: int) -> tuple[int, ...]:
        """Numbers of Gaussians up to the end of each layer, of a model of `n`."""
        return self.layers if isinstance(self.layers, tuple) else prefix_sizes(n, self.layers)

    def for_any_size(self) -> FitConfig:
        """The same for a model that is to be drawn larger: of means over pixels, with no Gaussian much smaller."""
        return replace(self, dilation=PIXEL_VARIANCE, least_scale=PIXEL_SCALE)


@dataclass(frozen=True)
class FitResult:
    """A finished (or interrupted) fit."""

    model: ImageGaussians
    history: list[dict[str, float]]
    """step, n, psnr and seconds, every 25 steps; of a fit by tiles after each of them."""
    seconds: dict[str, float]
    """By phase: init, fit, solve, and pilot (other runs, that looked for the number of Gaussians). Of a fit by tiles:
    coarse, and tiles where it came to them."""
    psnr: float
    """Of the render clamped to 0..1, in dB, at most 100. Weights, where they were given, weigh the pixels of it too; a
    hole counts little (`splat.image.holes.WEIGHT`), by its distance from the
    fill. Of a stack, each group's squared error by its weight."""
    interrupted: bool = False


def auto_count(structure: Structure) -> int:
    """A sensible number of Gaussians: one for 40 pixels of an ordinary photograph (mean gradient 0.06), fewer for a
    smooth picture, more for a busy one."""
    detail = float(structure.gradient.mean()) / 0.06
    return max(1, round(structure.gradient.numel() / PIXELS_PER_GAUSSIAN * min(4.0, max(0.1, detail))))


def _tile_side(config: FitConfig, picture: Picture, weights: Tensor | None, importance: Tensor | None) -> int:
    """0: the picture is fitted as a whole. ValueError where tiles are asked for and cannot do what else is."""
    if config.tile == 0:
        return 0
    beyond = {
        "stacks, normals, linear light or data": picture.layout.mode is None,
        "weights or a hole": weights is not None,
        "an importance": importance is not None,
        "blend topk": config.blend != "sum",
        "layers": config.layers != 1,
    }
    wanted = [what for what, there in beyond.items() if there]
    if config.tile is None:
        height, width, _ = picture.pixels.shape
        return AUTO_TILE if height * width >= TILED_FROM and config.target_psnr is None and not wanted else 0
    if wanted:
        raise ValueError(f"tile must be 0 or left out with {', '.join(wanted)}: these are fitted as a whole")
    return config.tile


def fit_image(
    image: Any,
    config: FitConfig = FitConfig(),
    weights: Tensor | None = None,
    *,
    hole: Tensor | None = None,
    importance: Tensor | None = None,
    work: str | Path | None = None,
    callback: Callable[[FitProgress], None] | None = None,
) -> FitResult:
    """Fits 2D Gaussians to a picture by least squares.

    Args:
        image: a path, a PIL image, or a numpy array or tensor [H, W] or [H, W, D] (uint8, uint16, or float in 0..1)
            with D of 1 to 4 (alpha is fitted premultiplied); a TextureMap where more is to be said of it, as of
            normals, linear light and feature maps; a list of these for a stack, which one set of Gaussians is fitted
            to.
        config: how many Gaussians, how long.
        weights: [H, W] or [H, W, D], at least 0: what the squared error of each pixel counts (only ratios matter).
        hole: bool [H, W], true where the picture is unknown. The fit goes around it: its surroundings extend into it,
            held by a weak pull to the harmonic fill (`splat.image.holes`). That repairs scratches and text; a large
            hole stays a smooth patch.
        importance: [H, W], at least 0: where it is large more of the Gaussians go (a saliency map, a painted region).
            They are placed by it, at the start and as the fit grows; the error that is minimised does not change.
        work: file (.safetensors) in which a fit by tiles keeps those that are done. With the same picture and config it
            goes on from there, after Ctrl-C or a kill, to the same model (without `time`). Remove it when the model is
            safe. Only for fits by tiles; what another fit left is written over.
        callback: called after every step.

    Returns:
        The model with its history. Ctrl-C (and a KeyboardInterrupt from the callback) ends the fit at the next step and
        returns the best model so far, with interrupted=True.

    Raises:
        PictureError: the picture cannot be read or fitted.
        ValueError: weights or an importance of another size, negative, or all 0; a hole of another size, or that leaves
            nothing; a tile with what is fitted as a whole; a `work` that is no .safetensors file or holds something
            else.
    """
    picture = read_picture(image)
    if hole is not None:
        picture = replace(picture, pixels=harmonic_fill(picture.pixels.float(), hole))
        weights = hole_weights(hole, weights)
    with one_torch_thread(), deferred_stop() as stop:

        def report(progress: FitProgress) -> None:
            try:
                if callback is not None:
                    callback(progress)
            except KeyboardInterrupt:
                stop.requested = True

        clock = Clock(config.time, report, lambda: stop.requested)
        side = _tile_side(config, picture, weights, importance)
        if side == 0:
            return _Search(picture, config, clock, weights=weights, importance=importance).run()
        # By bands: the structure of a whole picture takes as much memory as the picture.
        n = config.n or sum([auto_count(structure_tensor(band)) for band in torch.split(picture.pixels, side)])
        if work is not None:
            check_work(Path(work))
        plan = Plan(n, config.seed, config.least_scale)
        job = LargeFit(picture, plan, STEPS[config.preset], side, config.dilation, None if work is None else Path(work))
        state = fit_large(job, clock)
        return FitResult(state.model, state.history, state.seconds, state.psnr, interrupted=clock.stopped())


class _Search:
    """One fit, or the search for the number of Gaussians that reaches a PSNR."""

    def __init__(
        self, picture: Picture, config: FitConfig, clock: Clock, *, weights: Tensor | None, importance: Tensor | None
    ) -> None:
        target = (picture.pixels.float() * picture.layout.root_weights()).contiguous()
        self.layout, self.config, self.clock = picture.layout, config, clock
        began = perf_counter()
        options = order_free_options(config.blend, config.topk)
        self.objective = Objective.of(target, weights, options=options, dilation=config.dilation)
        self.structure = structure_tensor(target)
        if importance is not None:
            self.structure = replace(self.structure, importance=importance_of(importance, target))
        self.prepared = perf_counter() - began
        self.fits: list[Fit] = []

    def run(self) -> FitResult:
        config, clock = self.config, self.clock
        if config.target_psnr is None:
            given = config.layers[-1] if isinstance(config.layers, tuple) else config.n
            self._fit(given or auto_count(self.structure), config.time)
            fit = self.fits[0]
        else:
            self._reach(config.target_psnr)
            enough = [f for f in self.fits if f.psnr >= (config.target_psnr or 0.0)]
            fit = min(enough, key=len) if enough else max(self.fits, key=lambda f: f.psnr)
        assert fit.best is not None
        clock.phase = "done"
        clock.report(fit, 1.0, fit.step)
        seconds = dict(fit.seconds)
        seconds["init"] += self.prepared
        if config.target_psnr is not None:
            seconds["pilot"] = max(0.0, clock.elapsed - sum(seconds.values()))
        return FitResult(fit.best[1], clock.history, seconds, fit.best[0], interrupted=clock.stopped())

    def _fit(self, n: int, until: float | None, steps: int | None = None) -> Fit:
        job = self.objective, self.layout, self.structure, Plan(n, self.config.seed, self.config.least_scale)
        steps = steps or STEPS[self.config.preset]
        if self.config.layers == 1:
            fit = Fit(*job)
            run_fit(fit, self.clock, steps, until)
        else:
            fit = fit_layers(*job, self.config.ends(n), self.clock, steps, until)
        self.fits.append(fit)
        return fit

    def _reach(self, target: float) -> None:
        """Pilots find about how many Gaussians it takes; then full runs, with more of them while they miss it."""
        clock, limit = self.clock, self.config.time
        most = self.objective.canvas.width * self.objective.canvas.height
        wanted = target - (GAIN[self.config.preset] if limit is None else GAIN["fast"])
        n = max(1, auto_count(self.structure) // 4)
        tried: dict[int, float] = {}
        clock.phase = "pilot"
        while n not in tried and len(tried) < 5 and (limit is None or clock.elapsed < 0.3 * limit):
            tried[n] = self._fit(n, None if limit is None else clock.elapsed + 0.1 * limit, STEPS["draft"]).psnr
            if clock.stopped():
                return
            n = min(most, _next_count(tried, wanted))
            if min(abs(psnr - wanted) for psnr in tried.values()) < 0.1:
                break
        clock.phase = "fit"
        for _ in range(1 if limit is not None else 5):
            missing = target - self._fit(n, limit).psnr
            if missing <= 0 or n >= most or clock.stopped():
                return
            n = min(most, math.ceil(n * 2 ** (missing / DB_PER_DOUBLING) * 1.03))


def _next_count(tried: dict[int, float], wanted: float) -> int:
    """The number of Gaussians for a PSNR, from those tried: along the line through the two nearest, over log2 n."""
    nearest = sorted(tried, key=lambda n: abs(tried[n] - wanted))[:2]
    slope = DB_PER_DOUBLING
    if len(nearest) == 2:
        between = (tried[nearest[0]] - tried[nearest[1]]) / math.log2(nearest[0] / nearest[1])
        slope = min(12.0, max(0.5, between))
    doublings = min(6.0, max(-6.0, (wanted - tried[nearest[0]]) / slope))
    return max(1, round(nearest[0] * 2**doublings))
