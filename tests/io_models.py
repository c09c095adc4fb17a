"""Models for the tests of splat.io, and how two of them are compared whatever their order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from splat.gaussians import Gaussians

SHARED = Path(__file__).parents[2] / "shared" / "data" / "gaussian_scenes"
WHY_NOT = "the shared data is not beside the checkout"

HIGHEST = {
    ".safetensors": 4,
    ".ply": 4,
    ".compressed.ply": 3,
    ".splat": 0,
    ".spz": 4,
    ".sog": 3,
    "meta.json": 3,
    ".glb": 3,
}
"""The suffixes that are written, and the highest degree of each."""


def model(count: int = 300, sh_degree: int = 0, seed: int = 0) -> Gaussians:
    """As a trained one: scales and opacities vary, colours lie about 0..1, harmonics are small."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(count, *size, generator=g)

    return Gaussians(
        means=torch.rand(count, 3, generator=g) * 4 - 2,
        quats=normal(4),
        log_scales=normal(3) - 3,
        opacity_logits=normal() * 2,
        sh0=normal(1, 3).clamp(-3, 3),
        shN=(normal((sh_degree + 1) ** 2 - 1, 3) * 0.15).clamp(-0.9, 0.9),
    )


def name_of(suffix: str, folder: Path) -> Path:
    """A path with this suffix."""
    return folder / (suffix if suffix.endswith(".json") else f"model{suffix}")


def matched(got: Gaussians, wanted: Gaussians) -> Gaussians:
    """`got` in the order of `wanted`, by the nearest means; each must be the nearest of one."""
    assert len(got) == len(wanted)
    rows = torch.cdist(wanted.means.double(), got.means.double()).argmin(1)
    assert len(rows.unique()) == len(rows), "two Gaussians have the same nearest one"
    return got.select(rows)


@dataclass(frozen=True)
class Differences:
    """The largest of each kind between two models of the same order."""

    means: float
    angle: float
    """Of rotation, radians."""
    log_scales: float
    opacities: float
    sh0: float
    shN: float

    @classmethod
    def between(cls, a: Gaussians, b: Gaussians) -> Differences:
        qa, qb = (torch.nn.functional.normalize(g.quats.double(), dim=-1) for g in (a, b))
        # By the chord, which the cosine of a small angle would round away.
        chord = torch.minimum((qa - qb).norm(dim=-1), (qa + qb).norm(dim=-1))
        angle = 4 * (chord / 2).clamp(max=1).asin()
        pairs = {
            "means": (a.means, b.means),
            "log_scales": (a.log_scales, b.log_scales),
            "opacities": (a.opacities, b.opacities),
            "sh0": (a.sh0, b.sh0),
            "shN": (a.shN, b.shN),
        }
        largest = {k: float((x.double() - y.double()).abs().max()) if x.numel() else 0.0 for k, (x, y) in pairs.items()}
        return cls(angle=float(angle.max()), **largest)

    def within(self, other: Differences) -> bool:
        """Whether none is larger."""
        return all(mine <= most for mine, most in zip(vars(self).values(), vars(other).values(), strict=True))


def with_extremes(gaussians: Gaussians) -> Gaussians:
    """With opacities of exactly 0 and 1, a scale of 0, and one Gaussian each that cannot be drawn for a reason."""
    logits, scales = gaussians.opacity_logits.clone(), gaussians.log_scales.clone()
    means, quats, sh0 = gaussians.means.clone(), gaussians.quats.clone(), gaussians.sh0.clone()
    logits[0], logits[1] = torch.inf, -torch.inf
    scales[2, 1] = -torch.inf
    means[3, 0], quats[4], sh0[5, 0, 2], scales[6, 0], logits[7] = torch.nan, 0.0, torch.inf, torch.inf, torch.nan
    return replace(gaussians, means=means, quats=quats, sh0=sh0, log_scales=scales, opacity_logits=logits)
