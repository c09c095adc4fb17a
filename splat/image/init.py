"""Where the first Gaussians of a fit go: more of them where the picture changes, thin along its edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import Arguments
from splat.core.separable import STRIP_VALUES, correlate, gaussian_taps

MAX_AXIS_RATIO = 2.5
"""Axis ratio of a new Gaussian on a perfectly straight edge."""
SHARE_BY_DETAIL = 0.7
"""Share of the Gaussians that go where the picture has detail, or a map asks for them; the others go everywhere."""


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First row and row after the last of the strips of a picture."""
    rows = max(16, STRIP_VALUES // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _replicated(field: Tensor, first: int, last: int, dim: int) -> Tensor:
    """Places first .. last - 1 of `field` along `dim`, those outside like the nearest one inside."""
    places = torch.arange(first, last, device=field.device).clamp(0, field.shape[dim] - 1)
    return field.index_select(dim, places)


def _blurred(field: Tensor, first: int, last: int, sigma: float) -> Tensor:
    """Rows first .. last - 1 of `field` [D, H, W], blurred by a Gaussian of `sigma` pixels, borders replicated."""
    radius = max(1, math.ceil(3 * sigma))
    taps = gaussian_taps(sigma, radius)
    down = correlate(_replicated(field, first - radius, last + radius, 1), taps, 1)
    return correlate(_replicated(down, -radius, field.shape[2] + radius, 2), taps, 2)


@dataclass(frozen=True)
class Structure:
    """Local structure of a picture, each [H, W]."""

    gradient: Tensor
    """Length of the colour gradient."""
    angle: Tensor
    """Direction along the edge, radians (across the mean gradient)."""
    coherence: Tensor
    """0 where all directions are alike, 1 on a straight edge."""
    importance: Tensor | None = None
    """How much more than elsewhere is gained by a Gaussian here, 1 on average (default: 1 everywhere)."""

    def importance_at(self, means: Tensor) -> Tensor | float:
        """[N] importance of the pixels that `means` [N, 2] lie in, or 1."""
        if self.importance is None:
            return 1.0
        height, width = self.importance.shape
        x, y = means.long().unbind(-1)
        return self.importance[y.clamp(0, height - 1), x.clamp(0, width - 1)]


def importance_of(wanted: Tensor, like: Tensor) -> Tensor:
    """`Structure.importance` by a map [H, W], at least 0, for the picture `like` [H, W, D]: for 70 % in proportion to
    the map, for 30 % the same everywhere, so that nothing is left bare (as Image-GS, Zhang et al. 2025, mixes its
    saliency map).

    Raises:
        ValueError: a map of another size, negative or not finite, or 0 everywhere.
    """
    check = Arguments()
    check.floats("image", like, "H", "W", "D")
    check.floats("importance", wanted, "H", "W")
    mean = wanted.mean()
    if not (bool(torch.isfinite(mean)) and float(wanted.min()) >= 0 and mean > 0):
        raise ValueError("importance must be finite, at least 0 and not all 0")
    return SHARE_BY_DETAIL * wanted / mean + (1 - SHARE_BY_DETAIL)


def structure_tensor(image: Tensor, sigma: float = 1.5) -> Structure:
    """Structure tensor (Foerstner & Guelch 1987) of [H, W, D], summed over the channels and blurred by `sigma`."""
    height, width, _ = image.shape
    structure = Structure(*(image.new_empty(height, width) for _ in range(3)))
    reach = max(1, math.ceil(3 * sigma))
    for top, end in strips(height, width):
        # The products of the rows that the blur reaches; it replicates them at the borders, not the picture.
        first, last = max(0, top - reach), min(height, end + reach)
        rows = _replicated(_replicated(image, first - 1, last + 1, 0), -1, width + 1, 1).permute(2, 0, 1).contiguous()
        gx = 0.5 * (rows[:, 1:-1, 2:] - rows[:, 1:-1, :-2])
        gy = 0.5 * (rows[:, 2:, 1:-1] - rows[:, :-2, 1:-1])
        products = torch.stack([(gx * gx).sum(0), (gx * gy).sum(0), (gy * gy).sum(0)])
        here = products[:, top - first : end - first]
        structure.gradient[top:end] = (here[0] + here[2]).sqrt()
        xx, xy, yy = _blurred(products, top - first, end - first, sigma)
        spread = torch.hypot(xx - yy, 2 * xy)
        structure.angle[top:end] = 0.5 * torch.atan2(2 * xy, xx - yy) + math.pi / 2
        structure.coherence[top:end] = spread / (xx + yy + 1e-8)
    return structure


def density(structure: Structure) -> Tensor:
    """Probability per pixel [H, W] of a Gaussian's centre: 70 % by gradient^0.8, 30 % uniform; both times the
    importance, where there is one."""
    gradient = structure.gradient
    detail, total = torch.empty_like(gradient), 0.0
    for top, end in strips(*gradient.shape):
        detail[top:end] = _blurred(gradient[None], top, end, 1.0)[0].clamp_min(0) ** 0.8
        total += float(detail[top:end].double().sum())
    uniform = 1.0 / detail.numel()
    if total > 0:
        mixed = detail.mul_(SHARE_BY_DETAIL / total).add_((1 - SHARE_BY_DETAIL) * uniform)
    else:
        mixed = detail.fill_(uniform)
    if structure.importance is None:
        return mixed
    wanted = mixed * structure.importance
    return wanted / wanted.sum()


BLOCK = 64
"""Side of the squares that the space-filling curve goes through one after the other, a power of two."""


def _morton_codes(height: int, width: int) -> Tensor:
    """[height, width] places along a Z-shaped space-filling curve, in order but not without gaps."""

    def spread(v: Tensor) -> Tensor:
        for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            v = (v | (v << shift)) & mask
        return v

    return spread(torch.arange(height)[:, None]) << 1 | spread(torch.arange(width)[None, :])


def _blocks(field: Tensor, row: int) -> Tensor:
    """[blocks, BLOCK^2] of [H, W]: a row of blocks, each in the order of the curve; 0 outside the picture."""
    rows = field[row * BLOCK : (row + 1) * BLOCK].double()
    rows = F.pad(rows, (0, -rows.shape[1] % BLOCK, 0, BLOCK - rows.shape[0]))
    blocks = rows.view(BLOCK, -1, BLOCK).transpose(0, 1).reshape(-1, BLOCK * BLOCK)
    return blocks[:, _morton_codes(BLOCK, BLOCK).flatten().argsort()]


def sample_positions(probability: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, 2] positions in pixels by `probability` [H, W], one from each of `count` equal shares of it along a
    space-filling curve: neighbours keep their distance, and no region is missed by chance.

    The curve leaves a block before it enters the next one, so the shares are found by block first, then within.
    """
    height, width = probability.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    weight = torch.stack([_blocks(probability, row).sum(1) for row in range(rows)]).flatten()
    order = _morton_codes(rows, columns).flatten().argsort()
    ends = weight[order].cumsum(0)
    jitter = torch.rand(count, generator=generator, dtype=torch.float64)
    marks = (torch.arange(count, dtype=torch.float64) + jitter) / max(count, 1) * ends[-1]
    place = torch.searchsorted(ends, marks).clamp_max(len(ends) - 1)
    block, within = order[place], marks - (ends - weight[order])[place]
    place_of = _morton_codes(BLOCK, BLOCK).flatten().argsort()
    corner = torch.empty(count, 2)
    for row in range(rows):
        (mine,) = (block // columns == row).nonzero(as_tuple=True)
        column = block[mine] % columns
        inside = _blocks(probability, row).cumsum(1)
        starts = F.pad(inside[:, -1].cumsum(0), (1, 0))
        flat = (inside + starts[:-1, None]).flatten()
        # A mark may round to the end of its block, or before its start.
        index = torch.searchsorted(flat, starts[column] + within[mine]) - column * BLOCK * BLOCK
        pixel = place_of[index.clamp(0, BLOCK * BLOCK - 1)]
        corner[mine, 0] = (column * BLOCK + pixel % BLOCK).clamp_max(width - 1).float()
        corner[mine, 1] = (row * BLOCK + pixel // BLOCK).clamp_max(height - 1).float()
    return corner + torch.rand(count, 2, generator=generator)


@dataclass(frozen=True)
class Shapes:
    """Geometry of new Gaussians."""

    means: Tensor
    log_scales: Tensor
    angles: Tensor


def oriented_shapes(means: Tensor, sizes: Tensor, structure: Structure) -> Shapes:
    """Gaussians at `means` [N, 2] with geometric-mean standard deviation `sizes` [N] pixels, drawn out along the edge
    that they lie on."""
    height, width = structure.angle.shape
    x = means[:, 0].long().clamp(0, width - 1)
    y = means[:, 1].long().clamp(0, height - 1)
    half_log_ratio = 0.5 * (1 + (MAX_AXIS_RATIO - 1) * structure.coherence[y, x]).log()
    log_sizes = sizes.log()
    log_scales = torch.stack([log_sizes + half_log_ratio, log_sizes - half_log_ratio], -1)
    return Shapes(means, log_scales, structure.angle[y, x].clone())


def initial_shapes(structure: Structure, count: int, generator: torch.Generator, size: float) -> Shapes:
    """`count` Gaussians by `density`, each with a standard deviation of `size` times the radius of its share of the
    picture."""
    probability = density(structure)
    means = sample_positions(probability, count, generator)
    height, width = probability.shape
    x, y = means.long().unbind(-1)
    x, y = x.clamp_max(width - 1), y.clamp_max(height - 1)  # a position may be rounded to the far edge
    share = 1.0 / (math.pi * count * probability[y, x])
    return oriented_shapes(means, size * share.sqrt().clamp(0.5, max(probability.shape) / 2), structure)
