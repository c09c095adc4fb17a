"""Cells of points as bits: in which half of the grid how many of them lie, and so on down to single cells.

The points are a set: their order, the grid's own, costs nothing. For points spread evenly this takes what the set
holds, about log2(cells / N) + 1.44 bits each, and less where they cluster.
"""

from __future__ import annotations

import numpy as np

from splat.image.codec.lattice import Ints
from splat.image.codec.range_coder import Models, RangeDecoder, RangeEncoder

_FEW = 8
"""Points of a box whose split is coded by its number of points; for more, how far the split is from even."""


class SplitModels:
    """What is learnt about splits."""

    def __init__(self) -> None:
        self.few = Models(_FEW + 1)
        self.many = Models(32)


def _axes(bits_x: int, bits_y: int) -> list[int]:
    """Which axis (0: x) each level of the grid halves: the longer one."""
    axes = []
    while bits_x or bits_y:
        axis = 0 if bits_x >= bits_y else 1
        axes.append(axis)
        bits_x, bits_y = bits_x - (axis == 0), bits_y - (axis == 1)
    return axes


def grid_bits(grid: tuple[int, int]) -> tuple[int, int]:
    """log2 of the sides of the box that is split."""
    return max(0, (grid[0] - 1).bit_length()), max(0, (grid[1] - 1).bit_length())


def cell_keys(cells: Ints, grid: tuple[int, int]) -> Ints:
    """[N] numbers of the cells [N, 2] in the order in which they are coded."""
    left = list(grid_bits(grid))
    keys = np.zeros(len(cells), np.int64)
    for axis in _axes(*left):
        left[axis] -= 1
        keys = keys << 1 | (cells[:, axis] >> left[axis] & 1)
    return keys


def cells_of(keys: Ints, grid: tuple[int, int]) -> Ints:
    """[N, 2] the cells with these numbers."""
    cells = np.zeros((len(keys), 2), np.int64)
    axes = _axes(*grid_bits(grid))
    for level, axis in enumerate(axes):
        cells[:, axis] = cells[:, axis] << 1 | (keys >> (len(axes) - 1 - level) & 1)
    return cells


def encode_cells(encoder: RangeEncoder, keys: Ints, grid: tuple[int, int], models: SplitModels) -> None:
    """Codes sorted cell numbers; their count is the decoder's to know."""
    levels = sum(grid_bits(grid))
    for level in range(levels):
        counts = np.unique(keys >> (levels - level), return_counts=True)[1]
        halves = keys >> (levels - level - 1)
        upper = np.add.reduceat(halves & 1, np.cumsum(counts) - counts) if len(keys) else counts
        few = counts <= _FEW
        encoder.bounded(upper[few], counts[few] + 1, counts[few], models.few)
        encoder.signed(upper[~few] - counts[~few] // 2, _size_class(counts[~few]), models.many)


def decode_cells(decoder: RangeDecoder, count: int, grid: tuple[int, int], models: SplitModels) -> Ints:
    """The sorted numbers of `count` cells."""
    boxes, counts = np.zeros(min(count, 1), np.int64), np.full(min(count, 1), count, np.int64)
    for _ in range(sum(grid_bits(grid))):
        few = counts <= _FEW
        upper = np.zeros_like(counts)
        upper[few] = decoder.bounded(counts[few] + 1, counts[few], models.few)
        upper[~few] = decoder.signed(_size_class(counts[~few]), models.many) + counts[~few] // 2
        if (upper < 0).any() or (upper > counts).any():
            raise ValueError("coded positions are damaged")
        boxes = np.stack([boxes << 1, boxes << 1 | 1], 1).ravel()
        counts = np.stack([counts - upper, upper], 1).ravel()
        boxes, counts = boxes[counts > 0], counts[counts > 0]
    return np.repeat(boxes, counts)


def _size_class(counts: Ints) -> Ints:
    """floor of log2."""
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64) - 1
