"""Morton (Z) order: points that are near in space come near in the list."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.checks import Arguments

BITS = 21
"""Per axis: three make a key of 63 bits, the most that int64 holds without its sign."""

# Each step moves the upper half of every group of bits twice as many places up, until two zeros follow each bit.
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(points: Tensor) -> Tensor:
    """int64 [N] indices that sort points [N, 3] along a Z-curve through the cube around them.

    The cube has 2^21 cells along an edge. Points of one cell keep their order; those that are not finite come last.
    """
    check = Arguments()
    check.floats("points", points, "N", 3)
    points = points.detach()
    finite = torch.isfinite(points).all(1)
    if not bool(finite.any()):
        return torch.arange(len(points), device=points.device)
    # In float64, so that 21 bits and the whole range of float32 fit.
    inside = points.double().where(finite[:, None], points[finite][0].double())
    low = inside.amin(0)
    extent = (inside - low).amax().clamp_min(torch.finfo(torch.float64).tiny)
    cells = ((inside - low) / extent * (1 << BITS)).long().clamp_(max=(1 << BITS) - 1)
    keys = _spread(cells[:, 0]) | _spread(cells[:, 1]) << 1 | _spread(cells[:, 2]) << 2
    keys = keys.where(finite, torch.iinfo(torch.int64).max)
    return torch.sort(keys, stable=True).indices


def _spread(cells: Tensor) -> Tensor:
    """The bits of 21-bit numbers, each followed by two zeros."""
    for shift, mask in _SPREAD:
        cells = (cells | cells << shift) & mask
    return cells
