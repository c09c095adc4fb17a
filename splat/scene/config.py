"""The configuration of a training run. What stands below a field is its help on the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from splat.optim import LearningRates
from splat.scene.densify import DefaultConfig, McmcConfig

Preset = Literal["draft", "standard", "best"]
StrategyName = Literal["default", "mcmc"]


@dataclass(frozen=True)
class RatesConfig:
    """Adam's step lengths; those of 3DGS."""

    means: float = 1.6e-4
    """Of the means, times the size of the scene."""
    means_final: float = 1.6e-6
    """Of the means at the end; in between it falls exponentially."""
    quats: float = 1e-3
    """Of the rotations."""
    log_scales: float = 5e-3
    """Of the logs of the scales."""
    opacity_logits: float = 5e-2
    """Of the logits of the opacities."""
    sh0: float = 2.5e-3
    """Of the colours."""
    shN: float = 1.25e-4
    """Of the view-dependent part of the colours."""
    final: float = 1.0
    """All rates but that of the means fall to this share of themselves over the last third of the run."""

    def at(self, progress: float, extent: float) -> LearningRates:
        """The rates at a point 0..1 of the run."""
        means = self.means * (self.means_final / self.means) ** progress if self.means > 0 else 0.0
        fade = self.final ** max(0.0, 3 * progress - 2)
        others = (self.quats, self.log_scales, self.opacity_logits, self.sh0, self.shN)
        return LearningRates(means * extent, *(fade * rate for rate in others))


@dataclass(frozen=True)
class ScheduleConfig:
    """When what happens. Everything is a share of the run, which --steps or --time gives."""

    coarse: int = 2
    """The run begins with pictures halved this often (as far as they stay at least 64 pixels wide and high)."""
    coarse_until: float = 0.25
    """Share of the run at which the full pictures are reached."""
    harmonics_until: float = 0.15
    """Share of the run at which all harmonics are used; their degree rises evenly."""
    refine_every: int = 100
    """Images from one densification to the next."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: (1 - ssim) L1 + ssim (1 - SSIM), and what is asked for besides."""

    ssim: float = 0.2
    """Weight of the structural part."""
    background: Literal["auto", "black", "white", "random"] = "auto"
    """What shows where nothing covers. auto: white where the pictures carry alpha, black otherwise. random: another
    colour at each image, which keeps a scene with alpha free of haze."""
    depth: Literal["none", "points", "maps"] = "none"
    """Also learn the depths of the sparse points, or of depth maps."""
    depth_weight: float = 0.01
    """Weight of the depths (L1 of their inverses, in scene sizes)."""


@dataclass(frozen=True)
class CorrectionConfig:
    """What may differ from photograph to photograph besides the view."""

    exposure: Literal["none", "affine", "grid"] = "none"
    """Learn a colour transform for each photograph: one 3x4 matrix, or a bilateral grid of them."""
    poses: bool = False
    """Learn a small correction of each photograph's pose."""


@dataclass(frozen=True)
class TrainConfig:
    """All of a run but its data."""

    steps: int = 7_000
    """Length of the run, in images."""
    time: float | None = None
    """Seconds to spend, instead of `steps`: the schedule stretches to them."""
    strategy: StrategyName = "mcmc"
    """How Gaussians are added and removed."""
    max_gaussians: int | None = None
    """Most Gaussians (default: by the pictures and the length of the run)."""
    sh_degree: int = 3
    """Highest degree of the harmonics, 0 to 4."""
    antialiased: bool = False
    """Dim small Gaussians by what the dilation adds to their area (Mip-Splatting)."""
    seed: int = 0
    """Same seed, same data, same machine: same bits (with `time`: as far as the clock allows)."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    default: DefaultConfig = field(default_factory=DefaultConfig)
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    correct: CorrectionConfig = field(default_factory=CorrectionConfig)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> TrainConfig:
        """Of what `to_dict` made; fields that are not known raise TypeError."""
        parts = {
            "schedule": ScheduleConfig,
            "rates": RatesConfig,
            "loss": LossConfig,
            "default": DefaultConfig,
            "mcmc": McmcConfig,
            "correct": CorrectionConfig,
        }
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in table.items()})


def preset(name: Preset) -> TrainConfig:
    """draft: a look in a minute or two; standard; best: 30,000 images."""
    base = TrainConfig()
    if name == "draft":
        return replace(base, steps=2_000, sh_degree=2)
    if name == "best":
        return replace(base, steps=30_000)
    return base
