"""Unknown parts of a picture: what a fit takes for them, so that it goes around them and stays sane inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 500
"""Most steps of the harmonic fill; a hole of 100 pixels across takes about that many."""
RELATIVE_ERROR = 1e-4
"""Where the harmonic fill stops: a tenth of an 8-bit level, about."""
WEIGHT = 0.02
"""Of a pixel in the hole, towards the harmonic fill. On scratches and text over a photo 0 loses 0.4 dB inside, as
Gaussians there are free to be anything, and 1, a fit of the fill, loses 1 dB."""


def hole_weights(hole: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weights of the pixels [H, W] or [H, W, D], with those of the hole (bool [H, W]) at WEIGHT of their mean."""
    if weights is None:
        return torch.where(hole, WEIGHT, 1.0)
    if weights.shape[:2] != hole.shape:
        raise ValueError(f"weights must have the hole's size [H, W] = {list(hole.shape)}, got {list(weights.shape)}")
    inside = hole if weights.dim() == 2 else hole[..., None]
    return torch.where(inside, WEIGHT * weights.mean(), weights)


def _neighbours(field: Tensor) -> Tensor:
    """[D, H, W]: sum of the four neighbours; nothing beyond the border."""
    padded = F.pad(field, (1, 1, 1, 1))
    return padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] + padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]


def harmonic_fill(image: Tensor, hole: Tensor) -> Tensor:
    """The picture [H, W, D] with its hole (bool [H, W]) filled by the solution of Laplace's equation with the
    surroundings as boundary values: what diffusion ends in. Conjugate gradients over the pixels of the hole.

    Raises:
        ValueError: a hole of another size, or one that leaves nothing.
    """
    if hole.dtype != torch.bool or hole.shape != image.shape[:2]:
        raise ValueError(f"hole must be bool [H, W] = {list(image.shape[:2])}, got {hole.dtype} {list(hole.shape)}")
    if bool(hole.all()):
        raise ValueError("hole must leave at least one known pixel")
    inside = hole[None].to(image.dtype)
    known = image.permute(2, 0, 1) * (1 - inside)
    degree = _neighbours(torch.ones_like(inside))

    def laplace(x: Tensor) -> Tensor:
        return (degree * x - _neighbours(x)) * inside

    mean = known.sum((1, 2)) / (1 - inside).sum()
    x = mean[:, None, None] * inside
    residual = _neighbours(known) * inside - laplace(x)
    direction, rho = residual, residual.square().sum()
    least = rho * RELATIVE_ERROR**2
    for _ in range(ITERATIONS):
        if rho <= least:
            break
        product = laplace(direction)
        step = rho / (direction * product).sum()
        x, residual = x + step * direction, residual - step * product
        rho, previous = residual.square().sum(), rho
        direction = residual + rho / previous * direction
    return (known + x).permute(1, 2, 0)
