"""The surfaces that scripts/trained_like.py strews Gaussians over: a table with objects on open ground, with hedges,
houses and trees around it under a sky, all made of bilinear patches. One unit is about a metre, z is up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

Color = tuple[float, float, float]
Shape = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""x, y, z of a surface over the unit square."""


@dataclass(frozen=True)
class Patches:
    """Q bilinear patches."""

    corners: Tensor
    """[Q, 4, 3] in the order (0, 0), (1, 0), (0, 1), (1, 1)."""
    colors: Tensor
    """[Q, 3] in 0..1."""
    limits: Tensor
    """[Q] largest standard deviation that a Gaussian here should have: what lies on a vase does not reach beyond it."""
    detail: Tensor
    """[Q] density of Gaussians, relative to other surfaces as far from the cameras."""

    @property
    def tangents(self) -> tuple[Tensor, Tensor]:
        """[Q, 3] twice: the sides in the middle of each patch."""
        p00, p10, p01, p11 = self.corners.unbind(1)
        return (p10 - p00 + p11 - p01) / 2, (p01 - p00 + p11 - p10) / 2

    @property
    def normals(self) -> Tensor:
        """[Q, 3] of unit length."""
        return F.normalize(torch.linalg.cross(*self.tangents), dim=1)

    @property
    def areas(self) -> Tensor:
        """[Q]."""
        return torch.linalg.cross(*self.tangents).norm(dim=1)

    def at(self, patch: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """[N, 3] the points u, v [N, 1] of the patches [N]."""
        p00, p10, p01, p11 = self.corners[patch].unbind(1)
        return (1 - v) * ((1 - u) * p00 + u * p10) + v * ((1 - u) * p01 + u * p11)


def _cut(shape: Shape, nu: int, nv: int, color: Color, limit: float, detail: float = 1.0) -> Patches:
    """The surface, cut into nu x nv patches. Long Gaussians will lie along u."""
    u, v = torch.meshgrid(torch.linspace(0, 1, nu + 1), torch.linspace(0, 1, nv + 1), indexing="ij")
    p = torch.stack(shape(u, v), -1)
    corners = torch.stack([p[:-1, :-1], p[1:, :-1], p[:-1, 1:], p[1:, 1:]], 2).reshape(-1, 4, 3)
    count = len(corners)
    return Patches(
        corners, torch.tensor(color).expand(count, 3), torch.full((count,), limit), torch.full((count,), detail)
    )


def _revolved(x: float, y: float, profile: Callable[[Tensor], tuple[Tensor, Tensor]], bumps: float = 0.0) -> Shape:
    """A surface of revolution about a vertical axis: radius and height from `profile`, the radius varied by `bumps`."""

    def shape(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle = 2 * math.pi * u
        radius, height = profile(v)
        radius = radius * (1 + bumps * (3 * angle + 9 * v).sin() * (2 * angle - 7 * v).cos())
        return x + radius * angle.cos(), y + radius * angle.sin(), height

    return shape


def _ball(x: float, y: float, z: float, radius: float, bumps: float) -> Shape:
    return _revolved(x, y, lambda v: (radius * (math.pi * v).sin(), z - radius * (math.pi * v).cos()), bumps)


def _disc(radius: float, z: float) -> Shape:
    return _revolved(0, 0, lambda v: (radius * v.clamp_min(0.02), torch.full_like(v, z)))


def _box(x: float, y: float, z: float, size: tuple[float, float, float], turn: float) -> list[Shape]:
    """Four sides and a top."""
    c, s = math.cos(turn), math.sin(turn)

    def side(k: int) -> Shape:
        def shape(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            end = torch.full_like(u, 0.5 if k % 2 else -0.5)
            a, b, h = ((end, u - 0.5, v), (u - 0.5, end, v), (u - 0.5, v - 0.5, torch.ones_like(u)))[k // 2]
            a, b = size[0] * a, size[1] * b
            return x + c * a - s * b, y + s * a + c * b, z + size[2] * h

        return shape

    return [side(k) for k in range(5)]


def _ground(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, angle = 0.6 * (0.05 + 4.3 * v).expm1(), 2 * math.pi * u
    x, y = r * angle.cos(), r * angle.sin()
    return x, y, 0.006 * r * ((2 * x + y).sin() + (3 * y - x).cos()) * (r / (1 + r))


def _sky(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    radius, angle, up = 80.0, 2 * math.pi * u, -0.03 + 1.2 * v
    return radius * angle.cos() * up.cos(), radius * angle.sin() * up.cos(), radius * up.sin()


def _hedge(start: float) -> Shape:
    def shape(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, r = start + 1.1 * u, 8 + 0.3 * (40 * u).sin() * (9 * v).cos()
        return r * angle.cos(), r * angle.sin(), 1.5 * v

    return shape


def _leaves(x: float, y: float, z: float, radius: float, count: int, g: torch.Generator) -> Patches:
    """A crown: `count` small patches of any direction in a ball."""
    centre = F.normalize(torch.randn(count, 3, generator=g), dim=1) * torch.rand(count, 1, generator=g) ** 0.4 * radius
    a, b = torch.randn(2, count, 3, generator=g) * radius / 9
    corners = torch.stack([-a - b, a - b, b - a, a + b], 1) + (centre + torch.tensor([x, y, z]))[:, None]
    green = torch.tensor([0.3, 0.42, 0.2]) * (0.5 + torch.rand(count, 1, generator=g))
    return Patches(corners, green, torch.full((count,), radius / 25), torch.full((count,), 0.3))


def surfaces(g: torch.Generator) -> Patches:
    """The whole scene. The table stands at the origin; the trees' distances are log-uniform in 6.5..40."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    wood, top = (0.5, 0.36, 0.25), 0.55
    parts = [
        _cut(_ground, 90, 60, (0.46, 0.43, 0.36), 0.12),
        _cut(_sky, 36, 12, (0.62, 0.72, 0.85), 0.5, 0.3),
        _cut(_disc(1.5, top), 48, 10, wood, 0.1),
        _cut(_revolved(0, 0, lambda v: (torch.full_like(v, 1.5), top - 0.15 * v)), 72, 2, wood, 0.08),
        _cut(_revolved(0, 0, lambda v: (0.4 - 0.15 * v, 0.5 * v)), 24, 6, (0.3, 0.24, 0.19), 0.06),
    ]
    vase = _revolved(0.1, 0, lambda v: (0.18 + 0.2 * (1 + 5 * v).sin() ** 2, top + 1.0 * v), 0.03)
    parts += [
        _cut(vase, 32, 24, (0.3, 0.42, 0.6), 0.05, 1.2),
        _cut(_ball(-0.65, 0.55, top + 0.3, 0.3, 0.0), 24, 16, (0.68, 0.3, 0.24), 0.04, 1.2),
        _cut(_ball(0.7, -0.75, top + 0.34, 0.36, 0.25), 28, 20, (0.72, 0.63, 0.32), 0.04, 1.2),
        _leaves(0.1, 0, top + 1.3, 0.5, 250, g),
    ]
    parts += [_cut(side, 8, 8, (0.36, 0.5, 0.4), 0.05, 1.2) for side in _box(-0.6, -0.65, top, (0.65, 0.45, 0.45), 0.5)]
    parts += [_cut(_hedge(start), 60, 10, (0.26, 0.36, 0.2), 0.15) for start in (0.3, 2.6, 4.4)]
    for turn in (0.0, 1.9, 4.0):
        d, angle = uniform(14, 25), turn + uniform(0, 0.8)
        sides = _box(d * math.cos(angle), d * math.sin(angle), 0, (9, 7, uniform(4, 6)), uniform(0, 3))
        parts += [_cut(side, 12, 8, (0.7, 0.65, 0.58), 0.25, 0.4) for side in sides]
    for _ in range(36):
        d, angle = math.exp(uniform(math.log(6.5), math.log(40))), uniform(0, 2 * math.pi)
        x, y, size = d * math.cos(angle), d * math.sin(angle), uniform(1.2, 2.2) * (d / 20) ** 0.3
        trunk = _revolved(x, y, lambda v, s=size: (0.16 * s * (1.3 - 0.6 * v), 2.2 * s * v), 0.1)
        parts += [_cut(trunk, 10, 10, (0.34, 0.28, 0.22), 0.06), _leaves(x, y, 2.6 * size, 1.3 * size, 160, g)]
    whole = Patches(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Patches)))
    # What is far may be drawn with larger Gaussians.
    distance = whole.corners.mean(1).norm(dim=1)
    whole.limits.mul_(1 + distance / 4)
    return whole
