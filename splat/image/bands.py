"""A fitted picture drawn and judged band by band, without the whole of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splat.image.figures import ErrorMaps
from splat.image.model import ImageGaussians
from splat.image.picture import Levels, Picture, quantise
from splat.image.tiles import Box, draw_box
from splat.metrics import Scores

BAND = 256
"""Rows of a band, a multiple of the rasteriser's tiles: the bits are those of the whole render."""


def render_bands(model: ImageGaussians) -> Iterator[Tensor]:
    """The render, [BAND or the rest, W, D] after the other from the top."""
    for top in range(0, model.height, BAND):
        yield draw_box(model, Box(0, top, model.width, min(top + BAND, model.height)))


@dataclass(frozen=True)
class Judged:
    """A render beside its picture."""

    levels: Levels
    """[H, W, D], as it is written to a file."""
    scores: Scores
    errors: ErrorMaps


def judge(model: ImageGaussians, picture: Picture, tell: Callable[[float], None] | None = None) -> Judged:
    """Draws a model once, clamped to 0..1, and compares. tell hears the share that is done."""
    size = (model.height, model.width)
    levels = np.empty(picture.pixels.shape, np.uint8 if picture.bits == 8 else np.uint16)
    judged = Judged(levels, Scores(*size), ErrorMaps(*size))
    top = 0
    for band, target in zip(render_bands(model), torch.split(picture.pixels, BAND), strict=True):
        band.clamp_(0, 1)
        judged.scores.add(band, target)
        judged.errors.add(band, target)
        levels[top : top + len(band)] = quantise(band, picture.bits)
        top += len(band)
        if tell is not None:
            tell(top / model.height)
    return judged
