"""A fitted picture drawn and judged band by band, without the whole of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splat.image.figures import ErrorMaps
from splat.image.model import ImageGaussians
from splat.image.picture import Levels, Picture
from splat.image.scores import GroupScores
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
    """As it is written to files."""
    scores: Scores
    """Of the known pixels, where some are not."""
    groups: GroupScores
    errors: ErrorMaps


def judge(
    model: ImageGaussians,
    picture: Picture,
    path: Path,
    known: Tensor | None = None,
    tell: Callable[[float], None] | None = None,
) -> Judged:
    """Draws a model once, clamped to 0..1, and compares.

    Args:
        path: where the render is to go, see write_picture.
        known: bool [H, W], the pixels that count (the groups' scores are of all).
        tell: hears the share that is done.
    """
    height, width, layout = model.height, model.width, picture.layout
    errors = ErrorMaps(height, width * len(layout.groups))  # previews stand side by side
    judged = Judged(Levels(path, layout, height), Scores(height, width), GroupScores(layout), errors)
    top = 0
    for band, target in zip(render_bands(model), torch.split(picture.pixels, BAND), strict=True):
        band.clamp_(0, 1)
        rows = None if known is None else known[top : top + len(band)]
        judged.levels.add(band)
        judged.scores.add(band, target, rows)
        judged.groups.add(band, target)
        view, wanted = layout.preview(band), layout.preview(target)
        if rows is not None:
            wanted = torch.where(rows.repeat(1, len(layout.groups))[..., None], wanted, view)
        judged.errors.add(view, wanted)
        top += len(band)
        if tell is not None:
            tell(top / height)
    return judged
