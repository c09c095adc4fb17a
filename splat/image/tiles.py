"""A large picture in tiles: what each covers, how many Gaussians it gets, and its fit beside neighbours that stay."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from splat.core.binning import TILE
from splat.core.rasterize_l2 import L2Step
from splat.image.draw import rasterize_image
from splat.image.fitter import Fit, Plan, Schedule
from splat.image.init import structure_tensor
from splat.image.model import ImageGaussians
from splat.image.objective import Objective
from splat.image.optimizer import ShapeOptimizer
from splat.metrics import error_of_psnr

HALO = 48
"""Pixels around a tile in which the error counts too: what its Gaussians reach into. A multiple of TILE."""
EXCHANGE_EVERY = 40
"""Steps. Tiles get few of them: with 20 four tiles of 120 steps reach 0.1 dB less, in 10 s 0.6, in 6 s 1.0 dB less."""


@dataclass(frozen=True)
class Box:
    """Pixels left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def origin(self) -> Tensor:
        """float32 [2]: the corner left above."""
        return torch.tensor([self.left, self.top], dtype=torch.float32)

    def grown(self, margin: int, within: Box) -> Box:
        """The box with a margin, as far as `within` goes."""
        return Box(
            max(self.left - margin, within.left),
            max(self.top - margin, within.top),
            min(self.right + margin, within.right),
            min(self.bottom + margin, within.bottom),
        )

    def of(self, pixels: Tensor) -> Tensor:
        """The part of a picture [H, W, D], a view."""
        return pixels[self.top : self.bottom, self.left : self.right]


def plan_tiles(width: int, height: int, side: int) -> list[Box]:
    """Tiles that cover a picture, row by row, of about equal sizes, none longer than `side` rounded up to a multiple of
    16. Their borders lie on those of the rasteriser's tiles."""

    def edges(length: int) -> list[int]:
        cells = -(-length // TILE)
        count = -(-cells // max(1, side // TILE))
        return [min(length, cells * i // count * TILE) for i in range(count)] + [length]

    rows, columns = edges(height), edges(width)
    return [Box(left, top, right, bottom) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]


def share_out(errors: list[float], counts: list[int], more: int) -> list[int]:
    """How many of `more` Gaussians each tile gets, given its squared error and the number it has.

    A squared error falls about as one over the number (DB_PER_DOUBLING is 3), so with shares x_i the sum of
    errors_i counts_i / (counts_i + x_i) is made least: counts_i + x_i is in proportion to sqrt(errors_i counts_i),
    where that is not below counts_i.
    """
    weights = [math.sqrt(error * max(1, count)) for error, count in zip(errors, counts, strict=True)]
    active = [i for i, weight in enumerate(weights) if weight > 0]
    shares = [0.0] * len(errors)
    while active:
        level = (more + sum(counts[i] for i in active)) / sum(weights[i] for i in active)
        poor = [i for i in active if level * weights[i] > counts[i]]
        if len(poor) == len(active):
            for i in active:
                shares[i] = level * weights[i] - counts[i]
            break
        active = poor
    if not active:
        shares = [more / len(errors)] * len(errors)
    ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return (ends * (more / max(float(ends[-1]), 1e-30))).round().long().diff(prepend=torch.zeros(1).long()).tolist()


def draw_box(model: ImageGaussians, box: Box) -> Tensor:
    """[H, W, D] of a part of the picture, without gradients. Gaussians that do not reach it cost nothing."""
    reach = _reach(model)
    (x, y), near = model.means.unbind(1), torch.ones(len(model), dtype=torch.bool)
    for at, first, last in ((x, box.left, box.right), (y, box.top, box.bottom)):
        near &= (at + reach > first) & (at - reach < last)
    part = model.map(lambda t: t[near])
    shapes, size = (part.log_scales, part.angles), (box.width, box.height)
    with torch.no_grad():
        means, options = part.means - box.origin, model.options
        return rasterize_image(means, shapes, part.colors, size, blend=options, dilation=model.dilation)[0]


def _reach(model: ImageGaussians) -> Tensor:
    """[N] pixels from its mean that a Gaussian is drawn at, at most: there its weight, 1 at the mean, is the cutoff."""
    return (
        math.sqrt(-2 * math.log(model.options.cutoff)) * ((2 * model.log_scales.amax(1)).exp() + model.dilation).sqrt()
    )


@dataclass(frozen=True)
class Place:
    """One tile."""

    core: Box
    window: Box
    """The core with its halo."""


def own_rows(model: ImageGaussians, place: Place) -> Tensor:
    """bool [N]: Gaussians that lie in the core (beyond the picture's border: in the core nearest to them) and do not
    reach out of the window. The others stay as they are while the tile is fitted."""
    core, window = place.core, place.window
    reach, rows = _reach(model), torch.ones(len(model), dtype=torch.bool)
    x, y = (model.means[:, k].clamp(0, size - 0.5) for k, size in ((0, model.width), (1, model.height)))
    for at, first, last in ((x, core.left, core.right), (y, core.top, core.bottom)):
        rows &= (at >= first) & (at < last)
    for at, first, last, size in (
        (x, window.left, window.right, model.width),
        (y, window.top, window.bottom, model.height),
    ):
        rows &= ((at - reach >= first) | (first == 0)) & ((at + reach <= last) | (last == size))
    return rows


class TileFit(Fit):
    """The fit of the Gaussians of one tile. The others are part of what it is to explain: the target is the picture
    minus their render, and the error of the whole window counts, so that a step that lowers it lowers the squared error
    of the whole picture by as much."""

    def __init__(self, pixels: Tensor, others: ImageGaussians, own: ImageGaussians, place: Place, plan: Plan) -> None:
        """pixels: the window's part of the picture. others, own: of the whole picture, in its pixels. plan: for the
        Gaussians of its own, of which there are to be 1 or more; it gets a schedule of its own."""
        self.place = place
        target = pixels - draw_box(others, place.window)
        start = {name: getattr(own, name) for name in ShapeOptimizer.NAMES}
        start["means"] = start["means"] - place.window.origin
        plan = replace(plan, schedule=Schedule(start=len(own) / plan.total, exchange_every=EXCHANGE_EVERY))
        objective, structure = Objective.of(target, dilation=own.dilation), structure_tensor(pixels)
        super().__init__(objective, own.layout, structure, plan, start if len(own) else None)

    def _error(self, step: L2Step) -> float:
        return step.squared_error  # what others draw is not in the picture that the kernel clamps

    def _wanting(self, residual: Tensor) -> Tensor:
        """What is missing in the core: the rest is for the tiles that it belongs to."""
        core, window = self.place.core, self.place.window
        inside = torch.zeros(-(-window.height // TILE), -(-window.width // TILE))
        top, left = (core.top - window.top) // TILE, (core.left - window.left) // TILE
        inside[top : top - -core.height // TILE, left : left - -core.width // TILE] = 1
        return residual * inside.view(-1, 1, 1)

    def error(self, psnr: float) -> float:
        """The squared error of the window with this PSNR."""
        return error_of_psnr(psnr) * self.full_error

    def at_place(self, model: ImageGaussians, like: ImageGaussians) -> ImageGaussians:
        """A state of this fit as a part of the whole picture `like`."""
        means = model.means + self.place.window.origin
        return replace(model, means=means, width=like.width, height=like.height)
