"""Quantisation-aware finishing of the GaussianImage profile: the second training run of Zhang et al. 2024, section 3.3.

The picture is drawn from what a file would hold; gradients pass the rounding as if it were not there (straight through,
Bengio et al. 2013). Scales and offsets of the codes learn with them (LSQ+, Bhalgat et al. 2020). The codebooks follow
the colours by moving averages, and the colours are drawn to their entries (VQ-VAE, van den Oord et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core.adam import adam_step
from splat.core.binning import bin_splats
from splat.core.checks import check_int
from splat.core.ops import one_torch_thread
from splat.core.rasterize_l2 import rasterize_l2, to_tiles
from splat.image.codec.gaussianimage import (
    LEVELS,
    Quantised,
    check_codable,
    cholesky,
    covariances,
    first_tables,
    in_pixels,
    nearest_entries,
    normalised,
    rounded,
    sum_of_entries,
    uniform,
)
from splat.image.draw import splats_from_covariances
from splat.image.fitter import Schedule
from splat.image.model import ImageGaussians
from splat.image.optimizer import RULE
from splat.metrics import psnr_of_error
from splat.stop import deferred_stop

DECAY = 0.8
"""Of the codebooks' moving averages, as the original has it."""
COMMITMENT = 4.0
"""Weight of the colours' distance to their entries beside the picture's squared error, both means. The original has 1,
and 100 times the steps; 4 is 1.3 dB better at 0.5 bits per pixel and 400 steps (kodim23)."""
INSIDE = 0.96
"""Share of the covariances' numbers that the codes span at the start. For the few large Gaussians of a smooth sky the
steps would be too coarse for all others: that costs 2.3 dB (the same run)."""


@dataclass(frozen=True)
class FinishRates:
    """Step lengths at the start; a cosine takes them to a fiftieth."""

    means: float = 0.1
    """In units of the typical standard deviation of a Gaussian, like the next."""
    factors: float = 0.05
    colors: float = 0.01
    tables: float = 0.1
    """In units of the step of the codes."""


def finish(
    model: ImageGaussians,
    target: Tensor,
    steps: int = 400,
    *,
    rates: FinishRates = FinishRates(),
    callback: Callable[[int, float], None] | None = None,
) -> Quantised:
    """What a file should hold of a fitted model, trained for the rounding.

    Args:
        model: RGB, fitted to `target` or near it.
        target: [H, W, 3] the picture.
        steps: of Adam on the squared error of the drawn picture.
        callback: called with the step and the PSNR (dB) of what a file would hold at it.

    Returns:
        The best of all steps, by the squared error of the picture clamped to 0..1. Ctrl-C ends with the best so far.

    Raises:
        ValueError: a model that the format cannot hold, or a target of another size.
    """
    check_codable(model)
    check_int("steps", steps, 0)
    if tuple(target.shape) != (model.height, model.width, 3):
        raise ValueError(f"target must have shape [{model.height}, {model.width}, 3], got {list(target.shape)}")
    state = _Finish(model, target, rates)
    schedule = Schedule()
    with one_torch_thread(), deferred_stop() as stop:
        for step in range(steps + 1):
            # The first look is at what plain rounding gives, so that no run ends below it.
            psnr = state.look(last=step == steps)
            if callback is not None:
                callback(step, psnr)
            if stop.requested or step == steps:
                break
            state.move(schedule.rate(step / steps))
    assert state.best is not None
    return state.best[1]


def straight_through(codes: Tensor, factors: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The codes [N, 3] of factors [N, 3], with the gradients of the numbers that were rounded (0 where they were
    clamped)."""
    exact = ((factors - offset) / scale).clamp(0, LEVELS)
    return exact + (codes - exact).detach()


class _Finish:
    """The parameters of a finishing run, and the best file seen."""

    def __init__(self, model: ImageGaussians, target: Tensor, rates: FinishRates) -> None:
        model = model.map(lambda t: t.detach().cpu().float())
        self.like, self.target_tiles, self.values = model, to_tiles(target.float()), target.numel()
        factors = cholesky(model)
        scale, offset, self.books = first_tables(factors, model.colors, INSIDE)
        self.params = {"means": model.means.clone(), "factors": factors, "colors": model.colors.clone()}
        self.params |= {"scale": scale, "offset": offset}
        self.pixels_each = model.width * model.height / len(model)
        typical = math.sqrt(self.pixels_each / math.pi)
        tables = rates.tables * float(scale.mean())
        self.rates = {"means": rates.means * typical, "factors": rates.factors * typical, "colors": rates.colors}
        self.rates |= {"scale": tables / LEVELS, "offset": tables}
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.params.items()}
        self.steps = torch.zeros(max(len(model), 3), dtype=torch.int32)
        self.counts, self.sums = torch.zeros(self.books.shape[:2]), torch.zeros_like(self.books)
        self.best: tuple[float, Quantised] | None = None
        self.grads: dict[str, Tensor] = {}

    def look(self, last: bool) -> float:
        """Draws what a file would hold, keeps it if it is the best, takes the gradients unless it is the last. dB."""
        p, width, height = self.params, self.like.width, self.like.height
        positions = normalised(p["means"], width, height)
        entries, left = nearest_entries(p["colors"], self.books)
        held = rounded(positions, p["factors"], entries, (p["scale"], p["offset"], self.books), self.like)
        trained = [p[name].detach().requires_grad_() for name in ("factors", "scale", "offset")]
        factors, scale, offset = trained
        shapes = covariances(uniform(straight_through(held.codes, factors, scale, offset), scale, offset))
        means = in_pixels(held.positions.float(), width, height)
        splats = splats_from_covariances(means, shapes, torch.ones(len(means)))
        tiles = bin_splats(splats, width=width, height=height, depth_order=False)
        colors = sum_of_entries(entries, self.books)
        step = rasterize_l2(splats, colors[None], tiles, self.target_tiles)
        if self.best is None or step.clamped_error < self.best[0]:
            self.best = step.clamped_error, held
        if not last:
            grads = torch.autograd.grad(splats.conics, trained, step.v_conics)
            self.grads = dict(zip(("factors", "scale", "offset"), grads, strict=True))
            self.grads |= {"means": step.v_means2d[0], "colors": step.v_colors[0] + self._commitment(left, entries)}
            self._follow(left, entries)
        return psnr_of_error(step.clamped_error / self.values)

    def _commitment(self, left: list[Tensor], entries: Tensor) -> Tensor:
        """[N, 3] gradient of the mean squared distances to the entries, in the unit of half the picture's squared
        error: the picture's mean is over its pixels, theirs over the Gaussians."""
        distances = [v - book[entry] for v, book, entry in zip(left, self.books, entries.T, strict=True)]
        return COMMITMENT * self.pixels_each * torch.stack(distances).sum(0)

    def _follow(self, left: list[Tensor], entries: Tensor) -> None:
        """Moves the codebooks to the moving averages of what they stand for. An entry that nothing is near stays."""
        for stage, (values, entry) in enumerate(zip(left, entries.T, strict=True)):
            one_hot = torch.nn.functional.one_hot(entry, self.books.shape[1]).to(values.dtype)
            self.counts[stage].lerp_(one_hot.sum(0), 1 - DECAY)
            self.sums[stage].lerp_(one_hot.T @ values, 1 - DECAY)
        used = self.counts > 1e-3
        means = self.sums / self.counts.clamp_min(1e-3)[..., None]
        self.books = torch.where(used[..., None], means, self.books)

    def move(self, factor: float) -> None:
        """One step of Adam with the gradients of the last look."""
        self.steps += 1
        for name, param in self.params.items():
            rate = self.rates[name] * factor
            adam_step(param, self.grads[name], *self.moments[name], self.steps[: len(param)], rate, RULE)
        self.params["scale"].clamp_min_(1e-6)
