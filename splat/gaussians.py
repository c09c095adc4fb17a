"""Gaussians: the parameters of a scene, as they are stored and optimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from splat.core.checks import Arguments, check_device, check_int
from splat.core.finite import finite_rows, keep_rows
from splat.core.sh import MAX_DEGREE
from splat.files import load_tensors, save_tensors

SH_C0 = 0.28209479177387814
NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")
_FORMAT, _VERSION = "splat-gaussians", "1"


@dataclass(frozen=True)
class Gaussians:
    """N 3D Gaussians, unactivated."""

    means: Tensor
    """[N, 3] world."""
    quats: Tensor
    """[N, 4] wxyz, of any length but zero."""
    log_scales: Tensor
    """[N, 3] logs of the standard deviations, world units."""
    opacity_logits: Tensor
    """[N]; opacity = sigmoid."""
    sh0: Tensor
    """[N, 1, 3] constant spherical-harmonic coefficient; colour = SH + 0.5, clamped at 0."""
    shN: Tensor
    """[N, (degree + 1)^2 - 1, 3] the other coefficients."""

    def __post_init__(self) -> None:
        check = Arguments()
        check.tensor("means", self.means, "N", 3)
        check.tensor("quats", self.quats, "N", 4)
        check.tensor("log_scales", self.log_scales, "N", 3)
        check.tensor("opacity_logits", self.opacity_logits, "N")
        check.tensor("sh0", self.sh0, "N", 1, 3)
        check.tensor("shN", self.shN, "N", "K - 1", 3)
        if self.shN.shape[1] + 1 not in (1, 4, 9, 16, 25):
            raise ValueError(f"shN must have shape [N, K - 1, 3] with K in 1, 4, 9, 16, 25, got {list(self.shN.shape)}")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Highest degree of the stored harmonics."""
        return math.isqrt(self.shN.shape[1] + 1) - 1

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in 0..1."""
        return self.opacity_logits.sigmoid()

    @property
    def valid(self) -> Tensor:
        """bool [N]: can be drawn, all its activated values being finite and its quaternion of a length that is neither
        0 nor infinite."""
        lengths = self.quats.square().sum(-1)
        good = torch.isfinite(lengths) & (lengths > 0)
        for value in (self.means, self.scales, self.opacities, self.sh0, self.shN):
            good &= finite_rows(value, 0)
        return good

    def with_invalid_hidden(self) -> Self:
        """With those that are not `valid` made transparent and harmless; their gradients are zeros."""
        keep = self.valid
        fills = {"quats": 1.0, "opacity_logits": -math.inf}
        return replace(self, **{k: keep_rows(v, keep, fills.get(k, 0.0)) for k, v in self.parameters().items()})

    def parameters(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in NAMES}

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With `change` applied to every tensor."""
        return replace(self, **{name: change(value) for name, value in self.parameters().items()})

    def select(self, rows: Tensor) -> Self:
        """The Gaussians of a mask [N] or of indices."""
        return self.map(lambda t: t[rows])

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """On another device or in another dtype."""
        return self.map(lambda t: t.to(target))

    def detach(self) -> Self:
        """Without history."""
        return self.map(lambda t: t.detach())

    def requires_grad_(self, requires: bool = True) -> Self:
        """Marks every tensor as a leaf to be optimised; returns self."""
        for value in self.parameters().values():
            value.requires_grad_(requires)
        return self

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All Gaussians of `parts`, in order; lower degrees are filled up with zeros."""
        if not parts:
            raise ValueError("parts must hold at least one Gaussians")
        for i, part in enumerate(parts):
            check_device(f"parts[{i}]", part.means, "parts[0]", parts[0].means)
        bands = max(part.shN.shape[1] for part in parts)
        tables = []
        for part in parts:
            missing = part.shN.new_zeros(len(part), bands - part.shN.shape[1], 3)
            tables.append(part.parameters() | {"shN": torch.cat([part.shN, missing], 1)})
        return cls(**{name: torch.cat([table[name] for table in tables]) for name in NAMES})

    @classmethod
    def from_points(cls, points: Tensor, colors: Tensor, *, sh_degree: int = 3, opacity: float = 0.1) -> Self:
        """A start for training, as 3DGS makes it: round Gaussians as large as the mean distance to three neighbours.

        Args:
            points: [N, 3] world.
            colors: [N, 3] in 0..1.
            opacity: between 0 and 1, without them (their logits are infinite).
        """
        check = Arguments()
        check.floats("points", points, "N", 3)
        check.floats("colors", colors, "N", 3)
        check_int("sh_degree", sh_degree, 0, MAX_DEGREE)
        if not 0 < opacity < 1:
            raise ValueError(f"opacity must be between 0 and 1, without them, got {opacity}")
        count = points.shape[0]
        quats = points.new_zeros(count, 4)
        quats[:, 0] = 1
        return cls(
            means=points.clone(),
            quats=quats,
            log_scales=_neighbour_distance(points).clamp_min(1e-7).log()[:, None].repeat(1, 3),
            opacity_logits=points.new_full((count,), math.log(opacity / (1 - opacity))),
            sh0=((colors - 0.5) / SH_C0)[:, None],
            shN=points.new_zeros(count, (sh_degree + 1) ** 2 - 1, 3),
        )

    @classmethod
    def random(cls, count: int, *, extent: float = 1.0, sh_degree: int = 0, seed: int = 0) -> Self:
        """`count` Gaussians in the cube [-extent, extent]^3, sized to fill it."""
        check_int("count", count, 0)
        g = torch.Generator().manual_seed(seed)
        points = (torch.rand(count, 3, generator=g) * 2 - 1) * extent
        result = cls.from_points(points, torch.rand(count, 3, generator=g), sh_degree=sh_degree)
        return replace(result, quats=torch.randn(count, 4, generator=g))

    def save(self, path: str | Path) -> None:
        """Writes .safetensors (to a temporary name, then renamed)."""
        save_tensors(path, self.parameters(), {"format": _FORMAT, "version": _VERSION})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote; ValueError for a missing, damaged or other file."""
        tensors, _ = load_tensors(path, NAMES, format=_FORMAT, version=_VERSION)
        return cls(**tensors)


def _neighbour_distance(points: Tensor) -> Tensor:
    """[N] root mean square distance to the three nearest other points (1 where there is none)."""
    count = points.shape[0]
    nearest = min(3, count - 1)
    if nearest < 1:
        return points.new_ones(count)
    rows = []
    for chunk in torch.split(points, max(1, 20_000_000 // count)):
        distance = torch.cdist(chunk, points, compute_mode="donot_use_mm_for_euclid_dist")
        rows.append(distance.topk(nearest + 1, largest=False).values[:, 1:].square().mean(1).sqrt())
    return torch.cat(rows)
