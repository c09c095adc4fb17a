"""Slicing of a bilateral grid: the colour change of each pixel by its place and brightness, and its gradients.

Torch's `grid_sample` would do but for its gradients on a GPU, which are added up by atomic operations. Here a line of
the picture is cut where the grid's nodes are, and what is between two nodes is one multiplication and one sum. Only
operations on single values and sums along a dimension are used: the last bits of a matrix product were seen to change
with the number of threads. A strip of the picture is done at a time, so that what all nodes say about its pixels is
never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Brightness of a colour (ITU-R BT.601)."""
_STRIP = {"cpu": 1 << 13, "cuda": 1 << 18}
"""Pixels that are done at a time: on a CPU, as many as its caches hold."""


def _between(size: int, nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [size] node before each pixel's centre, and [size] how far it is from there to the next one, 0..1.

    The outer nodes lie on the picture's border.
    """
    place = (torch.arange(size, dtype=torch.float64, device=like.device) + 0.5) * ((nodes - 1) / size)
    before = place.floor().clamp_max(nodes - 2)
    return before.long(), (place - before).to(like.dtype)


def _weights(nodes: int, before: Tensor, part: Tensor) -> Tensor:
    """[A, nodes, ...] weights of the nodes for positions [A, ...]."""
    node = torch.arange(nodes, device=part.device).view(-1, *[1] * (part.dim() - 1))
    before, part = before[:, None], part[:, None]
    return torch.where(node == before, 1 - part, torch.where(node == before + 1, part, 0))


def _luma(like: Tensor) -> Tensor:
    """[3, 1]; made without a copy to a GPU, which would wait."""
    return torch.cat([like.new_full((1, 1), share) for share in LUMA])


@dataclass(frozen=True)
class _Columns:
    """The pixels of a line by the interval of the grid's nodes they are in, each interval filled up to the longest."""

    pixel: Tensor
    """int64 [P] column at each position; P = intervals * longest."""
    real: Tensor
    """[P] 1; 0 where a position is only filled up."""
    part: Tensor
    """[intervals, longest] how far it is from the interval's first node to its second."""
    position: Tensor
    """int64 [W] where each column is."""

    @classmethod
    def cut(cls, width: int, nodes: int, like: Tensor) -> _Columns:
        before, part = _between(width, nodes, like)
        interval = torch.arange(nodes, device=like.device)
        start = torch.searchsorted(before, interval)  # the last one is the width
        longest = width // (nodes - 1) + 1
        column = start[:-1, None] + torch.arange(longest, device=like.device)
        pixel = column.clamp_max(width - 1).flatten()
        position = before * longest + torch.arange(width, device=like.device) - start[before]
        real = (column < start[1:, None]).to(like.dtype).flatten()
        return cls(pixel, real, part[pixel].view(column.shape), position)


@dataclass(frozen=True)
class _Strip:
    """R lines of a picture, in the order of `_Columns`, and the grid's matrices there."""

    rows: slice
    rgb1: Tensor
    """[R, 4, P] colours and ones."""
    level: Tensor
    """int64 [R, P] node below the pixel's brightness."""
    part: Tensor
    """[R, P] how far the brightness is above it, 0..1."""
    inside: Tensor
    """bool [R, P]: the brightness is between the outer nodes, where its gradient is not 0."""
    matrix: Tensor
    """[R, 3, 4, P]"""
    slope: Tensor
    """[R, 3, 4, P] change of the matrix from one level to the next."""


def _strips(grid: Tensor, rgb: Tensor, columns: _Columns) -> Iterator[_Strip]:
    down, levels = grid.shape[:2]
    height, width, _ = rgb.shape
    before, part = _between(height, down, rgb)
    lines = max(1, _STRIP["cuda" if rgb.is_cuda else "cpu"] // width)
    down_slope, luma = grid.diff(dim=0), _luma(rgb)
    for top in range(0, height, lines):
        rows = slice(top, min(top + lines, height))
        count = rows.stop - top
        nodes = grid[before[rows]] + part[rows, None, None, None] * down_slope[before[rows]]
        at = columns.part * nodes.diff(dim=-1)[..., None]
        at = at.add_(nodes[..., :-1, None]).view(count, levels, 12, -1)
        color = rgb[rows].mT[..., columns.pixel]
        place = (color * luma).sum(1) * (levels - 1)
        held = place.clamp(0, levels - 1)
        level = held.long().clamp(0, levels - 2)  # also that of a NaN
        above = held - level
        picks = [(level + k)[:, None, None].expand(-1, 1, 12, -1) for k in (0, 1)]
        low, high = (at.gather(1, pick).view(count, 3, 4, -1) for pick in picks)
        slope = high.sub_(low)
        rgb1 = torch.cat([color, torch.ones_like(color[:, :1])], 1)
        matrix = low + above[:, None, None] * slope
        yield _Strip(rows, rgb1, level, above, place == held, matrix, slope)


class _Slice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, rgb: Tensor) -> Tensor:
        ctx.save_for_backward(grid, rgb)
        columns = _Columns.cut(rgb.shape[1], grid.shape[3], rgb)
        out = torch.empty(rgb.shape, dtype=rgb.dtype, device=rgb.device)
        for s in _strips(grid, rgb, columns):
            out[s.rows] = (s.matrix * s.rgb1[:, None]).sum(2)[..., columns.position].mT
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grid, rgb = ctx.saved_tensors
        down, levels, _, across = grid.shape
        columns = _Columns.cut(rgb.shape[1], across, rgb)
        luma = _luma(rgb)
        y = _weights(down, *_between(rgb.shape[0], down, rgb))
        to_grid, to_rgb = torch.zeros_like(grid), torch.empty_like(rgb)
        for s in _strips(grid, rgb, columns):
            grad = (grads[0][s.rows].mT[..., columns.pixel] * columns.real)[:, :, None]  # [R, 3, 1, P]
            to_luma = ((grad * s.slope).sum(1) * s.rgb1).sum(1) * ((levels - 1) * s.inside)
            to_color = (grad * s.matrix[:, :, :3]).sum(1) + luma * to_luma[:, None]
            to_rgb[s.rows] = to_color[..., columns.position].mT
            outer = (grad * s.rgb1[:, None]).flatten(1, 2)
            each = _weights(levels, s.level, s.part)[:, :, None] * outer[:, None]
            each = each.view(*each.shape[:3], *columns.part.shape)
            whole, far = each.sum(-1), (each * columns.part).sum(-1)  # [R, levels, 12, intervals]
            lines = torch.zeros_like(grid[:1]).repeat(len(outer), 1, 1, 1)
            lines[..., :-1] = whole - far
            lines[..., 1:] += far
            to_grid += (y[s.rows, :, None, None, None] * lines[:, None]).sum(0)
        return to_grid, to_rgb


def slice_grid(grid: Tensor, rgb: Tensor) -> Tensor:
    """[H, W, 3]: what the matrices of the grid, interpolated at each pixel's place and brightness, make of its colour.

    Args:
        grid: [nodes in y, nodes in brightness, 12, nodes in x] 3x4 matrices, row by row, acting on (r, g, b, 1). The
            outer nodes lie on the picture's border and at brightnesses 0 and 1; beyond, they hold.
        rgb: [H, W, 3].
    """
    result: Tensor = _Slice.apply(grid, rgb)  # type: ignore[no-untyped-call]
    return result
