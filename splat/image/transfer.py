"""Transfer: the curve between a channel's values as a file stores them and as they are fitted, in 0..1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

Curve = Literal["stored", "log", "pq"]

PQ_PEAK = 10_000.0
"""cd/m^2, what SMPTE ST 2084 encodes as 1."""
# SMPTE ST 2084:2014, section 5.2.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_TOE_QUANTILE = 0.01
_MAX_RANGE = 1e7
"""Most that high is of toe: a few stray dark pixels must not take the curve's steps from all others."""


def pq_encode(luminance: Tensor) -> Tensor:
    """cd/m^2 in 0..10,000 to PQ values in 0..1, the inverse EOTF of SMPTE ST 2084. Computed in float64."""
    y = (luminance.double().clamp_min(0) / PQ_PEAK) ** _M1
    encoded: Tensor = ((_C1 + _C2 * y) / (1 + _C3 * y)) ** _M2
    return encoded.to(luminance.dtype)


def pq_decode(values: Tensor) -> Tensor:
    """PQ values in 0..1 to cd/m^2, the EOTF of SMPTE ST 2084. Computed in float64."""
    root = values.double().clamp(0, 1) ** (1 / _M2)
    luminance: Tensor = PQ_PEAK * ((root - _C1).clamp_min(0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return luminance.to(values.dtype)


@dataclass(frozen=True)
class Transfer:
    """A curve and its scale. An error of a fit counts alike along the curve's output, so the curve says which errors of
    the stored values matter alike: equal differences (stored), equal ratios (log), what an eye tells apart (pq)."""

    curve: Curve = "stored"
    """stored: v = (x - low) / (high - low); with 0 and 1 the value itself, as with pictures of 8 and 16 bits.
    log: v = log(1 + x / toe) / log(1 + high / toe), linear light. pq: SMPTE ST 2084 of 10,000 cd/m^2 * x / high."""
    low: float = 0.0
    """Stored value that becomes 0; log and pq begin at 0."""
    high: float = 1.0
    """Stored value that becomes 1."""
    toe: float = 1.0
    """Of log alone: linear well below this value, logarithmic well above it."""

    def __post_init__(self) -> None:
        if self.curve not in get_args(Curve):
            raise ValueError(f"curve must be one of {', '.join(get_args(Curve))}, got {self.curve!r}")
        numbers = (self.low, self.high, self.toe)
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers) or self.toe <= 0:
            raise ValueError(f"low, high and toe must be finite numbers and toe positive, got {numbers}")
        if self.high <= self.low or (self.curve != "stored" and self.low != 0):
            raise ValueError(f"low must be below high, and 0 with log and pq, got {self.low:g} and {self.high:g}")

    @classmethod
    def of(cls, curve: Curve, values: Tensor) -> Self:
        """The curve with the scale of a picture. high is the largest value. toe is the value that 1 % of those above 0
        lie below, at least high / 10^7. stored keeps 0 and 1 where they hold all values."""
        least, most = (float(values.min()), float(values.max())) if values.numel() else (0.0, 1.0)
        if curve == "stored":
            if least >= 0 and most <= 1:
                return cls()
            return cls(low=least, high=most if most > least else least + 1.0)
        if most <= 0:
            return cls(curve)
        positive = values[values > 0].flatten()
        toe = float(positive.kthvalue(max(1, math.ceil(_TOE_QUANTILE * positive.numel()))).values)
        return cls(curve, high=most, toe=max(toe, most / _MAX_RANGE))

    @property
    def plain(self) -> bool:
        """Whether stored and fitted values are the same."""
        return self.curve == "stored" and (self.low, self.high) == (0.0, 1.0)

    def encode(self, values: Tensor) -> Tensor:
        """Stored values to 0..1."""
        if self.curve == "pq":
            return pq_encode(values * (PQ_PEAK / self.high))
        if self.curve == "log":
            return (torch.log1p(values.double() / self.toe) / math.log1p(self.high / self.toe)).to(values.dtype)
        return values if self.plain else (values - self.low) / (self.high - self.low)

    def decode(self, values: Tensor) -> Tensor:
        """0..1 to stored values."""
        if self.curve == "pq":
            return pq_decode(values) * (self.high / PQ_PEAK)
        if self.curve == "log":
            return (self.toe * torch.expm1(values.double() * math.log1p(self.high / self.toe))).to(values.dtype)
        return values if self.plain else self.low + values * (self.high - self.low)
