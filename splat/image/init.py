"""Where the first Gaussians of a fit go: more of them where the picture changes, thin along its edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import Arguments

MAX_AXIS_RATIO = 2.5
"""Axis ratio of a new Gaussian on a perfectly straight edge."""
SHARE_BY_DETAIL = 0.7
"""Share of the Gaussians that go where the picture has detail, or a map asks for them; the others go everywhere."""


def gaussian_blur(fields: Tensor, sigma: float) -> Tensor:
    """[D, H, W] blurred by a Gaussian of `sigma` pixels, borders replicated."""
    radius = max(1, math.ceil(3 * sigma))
    taps = torch.arange(-radius, radius + 1, dtype=fields.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    out = fields[:, None]
    out = F.conv2d(F.pad(out, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None, :])
    out = F.conv2d(F.pad(out, (0, 0, radius, radius), mode="replicate"), kernel[:, :, :, None])
    return out[:, 0]


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
    fields = F.pad(image.permute(2, 0, 1)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = 0.5 * (fields[:, 1:-1, 2:] - fields[:, 1:-1, :-2])
    gy = 0.5 * (fields[:, 2:, 1:-1] - fields[:, :-2, 1:-1])
    tensor = torch.stack([(gx * gx).sum(0), (gx * gy).sum(0), (gy * gy).sum(0)])
    gradient = (tensor[0] + tensor[2]).sqrt()
    xx, xy, yy = gaussian_blur(tensor, sigma)
    spread = torch.hypot(xx - yy, 2 * xy)
    return Structure(gradient, 0.5 * torch.atan2(2 * xy, xx - yy) + math.pi / 2, spread / (xx + yy + 1e-8))


def density(structure: Structure) -> Tensor:
    """Probability per pixel [H, W] of a Gaussian's centre: 70 % by gradient^0.8, 30 % uniform; both times the
    importance, where there is one."""
    detail = gaussian_blur(structure.gradient[None], 1.0)[0].clamp_min(0) ** 0.8
    uniform = torch.full_like(detail, 1.0 / detail.numel())
    total = detail.sum()
    mixed = SHARE_BY_DETAIL * detail / total + (1 - SHARE_BY_DETAIL) * uniform if total > 0 else uniform
    if structure.importance is None:
        return mixed
    wanted = mixed * structure.importance
    return wanted / wanted.sum()


def _morton_order(height: int, width: int) -> Tensor:
    """Indices of the pixels along a Z-shaped space-filling curve."""

    def spread(v: Tensor) -> Tensor:
        for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            v = (v | (v << shift)) & mask
        return v

    code = spread(torch.arange(height)[:, None]) << 1 | spread(torch.arange(width)[None, :])
    return code.flatten().argsort()


def sample_positions(probability: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, 2] positions in pixels by `probability` [H, W], one from each of `count` equal shares of it along a
    space-filling curve: neighbours keep their distance, and no region is missed by chance."""
    height, width = probability.shape
    order = _morton_order(height, width)
    cumulative = probability.flatten()[order].double().cumsum(0)
    jitter = torch.rand(count, generator=generator, dtype=torch.float64)
    marks = (torch.arange(count, dtype=torch.float64) + jitter) / max(count, 1) * cumulative[-1]
    pixel = order[torch.searchsorted(cumulative, marks).clamp_max(order.numel() - 1)]
    corner = torch.stack([pixel % width, pixel // width], -1).float()
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


def initial_shapes(structure: Structure, count: int, generator: torch.Generator, size: float = 0.9) -> Shapes:
    """`count` Gaussians by `density`, each with a standard deviation of `size` times the radius of its share of the
    picture."""
    probability = density(structure)
    means = sample_positions(probability, count, generator)
    height, width = probability.shape
    x, y = means.long().unbind(-1)
    x, y = x.clamp_max(width - 1), y.clamp_max(height - 1)  # a position may be rounded to the far edge
    share = 1.0 / (math.pi * count * probability[y, x])
    return oriented_shapes(means, size * share.sqrt().clamp(0.5, max(probability.shape) / 2), structure)
