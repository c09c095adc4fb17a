"""A picture from the first Gaussians of a list: in which order, how many, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from splat.image.model import ImageGaussians
from splat.metrics import psnr

RATIO = 4
"""Gaussians of a level by those of the one before: half the distance between them, about, as in a pyramid."""
LEVELS = 4
"""Of a model without layers."""


@dataclass(frozen=True)
class Level:
    """The first `count` Gaussians."""

    count: int
    psnr: float | None = None
    """dB; None where it is not known."""


def kernel_energy(log_scales: Tensor) -> Tensor:
    """[N] |G|^2, the integral of the squared Gaussian: pi s1 s2."""
    return math.pi * log_scales.sum(-1).exp()


def importance_order(model: ImageGaussians) -> Tensor:
    """[N] rows as `by_importance` puts them."""
    cost = model.colors.detach().square().sum(1) * kernel_energy(model.log_scales.detach())
    return cost.argsort(descending=True, stable=True)


def by_importance(model: ImageGaussians) -> ImageGaussians:
    """The same Gaussians, those first that change most when they are left out alone: by |c|^2 times the energy of the
    kernel, the squared error that this makes in an otherwise exact sum. Layers do not stay."""
    order = importance_order(model)
    return replace(model.map(lambda t: t[order]), layers=())


def in_growing_order(model: ImageGaussians) -> ImageGaussians:
    """The same picture with the Gaussians of each layer `by_importance`; without layers, all of them."""
    ends = (0, *(model.layers or (len(model),)))
    parts = [a + importance_order(model.map(lambda t, a=a, b=b: t[a:b])) for a, b in pairwise(ends)]  # type: ignore[misc]
    order = torch.cat(parts)
    return model.map(lambda t: t[order])


def growing_counts(model: ImageGaussians, frames: int = 32) -> list[int]:
    """Rising numbers of Gaussians, evenly in their logarithm, from a 256th to all; the ends of the layers are among
    them."""
    count = len(model)
    even = {max(1, round(count * 256 ** (k / (frames - 1) - 1))) for k in range(frames)}
    return sorted(even | set(model.layers) | {count})


def layer_sizes(model: ImageGaussians) -> list[int]:
    """Sizes of the model's layers, coarse to fine; empty for a model without."""
    return [b - a for a, b in pairwise((0, *model.layers)) if b > a]


def prefix_sizes(count: int, layers: int) -> tuple[int, ...]:
    """Numbers of Gaussians up to the ends of so many layers, each RATIO times the one before, the last `count`; fewer
    where `count` is too small for as many."""
    return tuple(sorted({-(-count // RATIO**k) for k in range(layers)}))


def level_counts(count: int, layers: Sequence[int] = ()) -> list[int]:
    """Gaussians of each level, rising to `count`.

    Args:
        layers: sizes of the model's layers, coarse to fine; empty for a model without.

    Raises:
        ValueError: the layers are not positive or do not add up to `count`.
    """
    if layers and (min(layers) < 1 or sum(layers) != count):
        raise ValueError(f"layers must be positive and add up to {count} Gaussians, got {list(layers)}")
    return list(accumulate(layers)) if layers else list(prefix_sizes(count, LEVELS))


def draw_levels(
    model: ImageGaussians, layers: Sequence[int] = (), target: Tensor | None = None, known: Tensor | None = None
) -> Iterator[tuple[Level, Tensor]]:
    """Each level and its picture [H, W, D] in 0..1, at the size of the fitted picture.

    Args:
        model: in the order of its levels.
        target: [H, W, D], what the PSNR is against.
        known: bool [H, W], the pixels that it is of.
    """
    for count in level_counts(len(model), layers):
        with torch.no_grad():
            picture = model.map(lambda t, n=count: t[:n]).render().clamp(0, 1)  # type: ignore[misc]
        yield Level(count, None if target is None else psnr(picture, target, mask=known)), picture
