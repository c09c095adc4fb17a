"""The configuration of a training run. What stands below a field is its help on the command line, which is why nothing
heavy is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro


def seconds(text: str) -> float:
    """Of 90, 90s, 10m or 1h; ValueError for anything else."""
    units = {"s": 1, "m": 60, "h": 3600}
    number = text[:-1] if text[-1:] in units else text
    try:
        value = float(number) * units.get(text[-1:], 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"wanted a time such as 90, 90s, 10m or 1h, got {text!r}")
    return value


Duration = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="TIME",
        instance_from_str=lambda words: seconds(words[0]),
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [f"{value:g}s"],
    ),
]
Preset = Literal["draft", "standard", "best"]
PRESETS: tuple[Preset, ...] = ("draft", "standard", "best")
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

    def at(self, progress: float, extent: float) -> dict[str, float]:
        """The fields of `splat.LearningRates` at a point 0..1 of the run."""
        means = self.means * (self.means_final / self.means) ** progress if self.means > 0 else 0.0
        names = ("quats", "log_scales", "opacity_logits", "sh0", "shN")
        return {"means": means * extent} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ScheduleConfig:
    """When what happens; times are shares of the run, which --steps or --time gives."""

    coarse: int = 2
    """The run begins with pictures halved this often (as far as they stay at least 64 pixels wide and high)."""
    coarse_until: float = 0.25
    """Share of the run at which the full pictures are reached."""
    harmonics_until: float = 0.15
    """Share of the run at which all harmonics are used; their degree rises evenly."""
    refine_every: int = 100
    """Images from one densification to the next."""


@dataclass(frozen=True)
class StartConfig:
    """What the run begins with besides the sparse points."""

    dense: float = 0.5
    """Points found by matching the photographs, as a share of max_gaussians. 0: none, as 3DGS has it."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: (1 - ssim) L1 + ssim (1 - SSIM), and what is asked for besides."""

    ssim: float = 0.2
    """Weight of the structural part."""
    background: str = "auto"
    """What shows where nothing covers: black, white, R,G,B in 0..1, or auto: white where the pictures carry alpha,
    black otherwise. random: another colour at each image, which keeps a scene with alpha free of haze."""
    depth: Literal["none", "points", "maps"] = "none"
    """Also learn the depths of the sparse points, or of depth maps."""
    depth_weight: float = 0.01
    """Weight of the depths (L1 of their inverses, in scene sizes)."""


@dataclass(frozen=True)
class DefaultConfig:
    """Clone, split and prune by the gradient on the screen, as 3DGS does. Times are shares of the run, so that they
    stretch with it; 500 and 15,000 of 30,000 images are those of 3DGS."""

    grow_grad2d: float = 2e-4
    """Gaussians whose mean screen gradient (of a loss that is a mean, in half pictures) is above this grow."""
    grow_scale3d: float = 0.01
    """Those larger than this share of the scene are split, smaller ones are cloned."""
    prune_opacity: float = 0.005
    """Those with less opacity are removed."""
    prune_scale3d: float = 0.1
    """After the first opacity reset, those larger than this share of the scene are removed."""
    start: float = 1 / 60
    """Growing begins."""
    stop: float = 0.5
    """Growing and pruning end."""
    reset_every: int = 3_000
    """Images from one opacity reset (to 2 x prune_opacity) to the next, while growing. 0: never. This does not stretch
    with the run: what is reset takes some hundred images to come back, however long the run is."""
    absgrad: bool = False
    """Sum the magnitudes of the pixels' gradients (AbsGS, Ye et al. 2024); wants grow_grad2d of about 8e-4."""
    revised_opacity: bool = False
    """Halves of a split get 1 - sqrt(1 - opacity) (Bulo et al. 2024), so that together they cover as much as before."""


@dataclass(frozen=True)
class McmcConfig:
    """Relocation and noise (3DGS-MCMC). Times are shares of the run; 500 and 25,000 of 30,000 are the authors'."""

    start: float = 1 / 60
    """Relocating and growing begin."""
    stop: float = 5 / 6
    """Relocating and growing end."""
    grow_until: float = 0.5
    """The count rises geometrically until this share of the run, when it reaches the budget (or by 5 % each time, if
    that is faster)."""
    noise: float = 5e5
    """Noise on the means, times their learning rate. 0: none."""
    noise_every: int = 5
    """Images from noise to noise; its variance is that of noise at every image."""
    min_opacity: float = 0.005
    """Gaussians with less are dead and move."""
    opacity_weight: float = 0.01
    """Weight of the mean opacity in the loss."""
    scale_weight: float = 0.01
    """Weight of the mean scale in the loss."""


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
    time: Duration | None = None
    """Time to spend (90, 90s, 10m or 1h), instead of `steps`: the schedule stretches to it."""
    strategy: StrategyName = "mcmc"
    """How Gaussians are added and removed."""
    max_gaussians: int | None = None
    """Most Gaussians (default: by the pictures and the length of the run)."""
    sh_degree: int = 3
    """Highest degree of the harmonics, 0 to 4."""
    visible_only: bool = False
    """Step only the Gaussians that the image sees, moments too (Taming 3DGS)."""
    antialiased: bool = False
    """Dim small Gaussians by what the dilation adds to their area (Mip-Splatting)."""
    seed: int = 0
    """Same seed, same data, same machine: same bits (with `time`: as far as the clock allows)."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    start: StartConfig = field(default_factory=StartConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    default: DefaultConfig = field(default_factory=DefaultConfig)
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    correct: CorrectionConfig = field(default_factory=CorrectionConfig)

    def __post_init__(self) -> None:
        least = {"steps": 1, "max_gaussians": 1, "sh_degree": 0}
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise ValueError(f"{name} must be at least {value}, got {given}")
        least_of = {
            "schedule.refine_every": (self.schedule.refine_every, 1),
            "schedule.coarse": (self.schedule.coarse, 0),
            "mcmc.noise_every": (self.mcmc.noise_every, 1),
            "default.reset_every": (self.default.reset_every, 0),
        }
        for name, (value, low) in least_of.items():
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        for name, rate in vars(self.rates).items():
            if not 0 <= rate < float("inf"):
                raise ValueError(f"rates.{name} must be finite and not negative, got {rate}")
        if self.sh_degree > 4:
            raise ValueError(f"sh_degree must be at most 4, got {self.sh_degree}")
        if self.time is not None and not 0 < self.time < float("inf"):
            raise ValueError(f"time must be positive seconds, got {self.time}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> TrainConfig:
        """Of what `to_dict` made; fields that are not known raise TypeError."""
        parts = {
            "schedule": ScheduleConfig,
            "start": StartConfig,
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
