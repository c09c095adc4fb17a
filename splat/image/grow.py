"""Adding Gaussians where the residual asks for them, and moving the ones that do least."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.image.init import Shapes, Structure, gaussian_blur, oriented_shapes


def removal_cost(log_scales: Tensor, colors: Tensor, correlation: Tensor) -> Tensor:
    """[N] by how much the squared error rises when a Gaussian is left out (exact for interior Gaussians):
    |c|^2 |G|^2 + 2 c . <G, residual>, residual = target - render.

    Args:
        correlation: [N, D], <G_n, residual> for each channel (-v_colors of rasterize_l2).
    """
    energy = math.pi * log_scales.sum(-1).exp()
    return (colors * colors).sum(-1) * energy + 2 * (colors * correlation).sum(-1)


def best_sites(residual: Tensor, count: int, sigma: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where a Gaussian of `sigma` pixels would explain most of the residual [H, W, D].

    The matched filter <G, r>^2 / |G|^2 gives the squared error that a Gaussian with its best colour takes away; its
    local maxima are taken, best first, so that two new ones are not put on one spot.

    Returns:
        positions [K, 2] (pixels, K <= count) and colours [K, D], the best for each Gaussian alone.
    """
    width = residual.shape[1]
    # Blur divides by 2 pi sigma^2; |G|^2 = pi sigma^2. <G, r> / |G|^2 = 2 blur(r).
    response = gaussian_blur(residual.permute(2, 0, 1), sigma)
    score = (response * response).sum(0)
    window = 2 * max(1, round(sigma)) + 1
    peak = F.max_pool2d(score[None], window, 1, window // 2)[0]
    candidates = torch.where(score >= peak, score, 0.0).flatten()
    count = min(count, int((candidates > 0).sum()))
    chosen = candidates.topk(count).indices
    position = torch.stack([chosen % width, chosen // width], -1).float()
    position += 0.25 + 0.5 * torch.rand(count, 2, generator=generator)
    return position, 2 * response.flatten(1)[:, chosen].T


def births(
    residual: Tensor, count: int, sigma: float, structure: Structure, generator: torch.Generator
) -> tuple[Shapes, Tensor]:
    """At most `count` new Gaussians and their colours for a residual [H, W, D]."""
    means, colors = best_sites(residual, count, sigma, generator)
    return oriented_shapes(means, torch.full((len(means),), sigma), structure), 0.7 * colors
