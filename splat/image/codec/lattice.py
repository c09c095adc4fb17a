"""What a coded Gaussian's numbers are rounded to.

One step for all of a layer, `delta`, is an error: the length in pixel values of the picture that rounding may change. A
Gaussian G with colour c has the length |a|, a = c |G|, |G|^2 = pi s1 s2, and a change of its parameters has the length
of the change times (to first order, for a Gaussian alone)

    colour: |G|    log scale: |a| sqrt(3)/2    shift along an axis of standard deviation s: |a| / (s sqrt(2))
    angle: |a| (r - 1/r) / 2, r the ratio of the axes

so that equal lengths, which are the best for a given number of bits, ask for steps in these proportions. The decoder
knows |a| only after it has the colours; so each Gaussian says its class, log2 |a| / delta in whole numbers, first.

All that decides how many bits something takes is computed in integers from what is decoded by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_QP = 63.75
QP_PARTS = 4
"""qp is a multiple of 1/4."""
MAX_CLASS = 5
OCTAVE = 256
"""Logs of scales are counted in 1/256 octave."""
SCALE_STEP = 13 * 32
"""Step of the log scales in class 0: 1.625 octaves = 1.13 nats, 2/sqrt(3) = 1.155 so rounded that five
halvings are whole."""
MAX_LOG_SCALE = 14 * OCTAVE
"""Scales lie between 2^-6 and 2^14 pixels."""
MIN_LOG_SCALE = -6 * OCTAVE
MAX_LEVELS = 256
"""Most angles that are told apart."""
MAX_FINE = 14
"""Most bits of a position inside its cell."""
MARGIN = 2
"""Cells around the picture in which centres may lie."""
_ONE = 1 << 16


def step_of(qp: float) -> float:
    """delta in units of the picture's values (0..1): twice as large every 6."""
    return float(2.0 ** (qp / 6) / 64)


def scale_step(classes: Ints) -> Ints:
    """Step of the log scales, in 1/256 octave."""
    return SCALE_STEP >> classes


@cache
def _level_table() -> Ints:
    """[class, ratio] how many angles are told apart in half a turn: pi / (2^-class 2 / (r - 1/r))."""
    ratios = (MAX_LOG_SCALE - MIN_LOG_SCALE) // (SCALE_STEP >> MAX_CLASS) + 1
    table = np.ones((MAX_CLASS + 1, ratios), np.int64)
    for c in range(MAX_CLASS + 1):
        r = np.exp2(np.minimum(np.arange(ratios) * (SCALE_STEP >> c) / OCTAVE, 20))
        table[c] = np.clip(np.round(np.pi * 2.0**c * (r - 1 / r) / 2), 1, MAX_LEVELS)
    return table


@cache
def _fixed_point() -> tuple[Ints, Ints]:
    """sin^2 of (i + 1/2) / 64 half turns and 2^(-2 i / 256), i below 8 octaves, times 65536."""
    sines = np.round(_ONE * np.sin((np.arange(64) + 0.5) * np.pi / 64) ** 2).astype(np.int64)
    powers = np.round(_ONE * np.exp2(-2 * np.arange(8 * OCTAVE) / OCTAVE)).astype(np.int64)
    return sines, powers


def angle_levels(classes: Ints, ratio: Ints) -> Ints:
    """How many angles are told apart; 1 for a round Gaussian."""
    return _level_table()[classes, ratio]


def fine_bits(classes: Ints, minor: Ints, ratio: Ints, angle: Ints, cell: int) -> Ints:
    """[N, 2] bits of x and of y inside a cell of 2^cell pixels: the step is sqrt(2) 2^-class over the root of the
    conic's entry for that axis."""
    sines, powers = _fixed_point()
    step = scale_step(classes)
    bucket = angle * 64 // angle_levels(classes, ratio)
    across = sines[bucket]
    thin = powers[np.minimum(ratio * step, len(powers) - 1)]
    bits = []
    for square in (across, _ONE - across):  # the axis' share of the minor and of the major direction
        conic = np.maximum(square + ((_ONE - square) * thin >> 16), 1)  # times minor^2, in 1/65536
        whole = np.frexp(conic.astype(np.float64))[1].astype(np.int64) - 1  # exact: floor of log2
        half = (conic * conic >= np.int64(2) << (2 * whole)).astype(np.int64)
        log_step = OCTAVE // 2 - classes * OCTAVE + minor * step - (2 * whole + half - 32) * OCTAVE // 4
        bits.append(np.clip((cell * OCTAVE - log_step + OCTAVE // 2) // OCTAVE, 0, MAX_FINE))
    return np.stack(bits, 1)


@dataclass(frozen=True)
class Symbols:
    """N Gaussians as whole numbers."""

    cells: Ints
    """[N, 2] cell of the centre, x and y, from the first cell of the grid."""
    classes: Ints
    """[N] 0 .. MAX_CLASS."""
    minor: Ints
    """[N] log of the smaller scale, in steps of the class."""
    ratio: Ints
    """[N] log of the ratio of the scales, at least 0."""
    angle: Ints
    """[N] of `angle_levels` in half a turn."""
    fine: Ints
    """[N, 2] place of the centre in its cell, of 2^fine_bits."""
    colors: Ints
    """[N, D] amplitudes along the basis, in steps of delta."""

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Symbols:
        """Some of the Gaussians."""
        return Symbols(*(value[rows] for value in vars(self).values()))

    @staticmethod
    def join(parts: list[Symbols]) -> Symbols:
        """One after the other."""
        return Symbols(*(np.concatenate([getattr(p, name) for p in parts]) for name in Symbols.__dataclass_fields__))


@dataclass(frozen=True)
class Geometry:
    """Parameters of N Gaussians, float64: means [N, 2], log_scales [N, 2] (nats, the larger first), angles [N]."""

    means: Floats
    log_scales: Floats
    angles: Floats

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Geometry:
        """Some of the Gaussians."""
        return Geometry(self.means[rows], self.log_scales[rows], self.angles[rows])

    @property
    def lengths(self) -> Floats:
        """[N] |G|, the root of pi s1 s2."""
        length: Floats = np.sqrt(np.pi) * np.exp(0.5 * self.log_scales.sum(1))
        return length


@dataclass(frozen=True)
class Lattice:
    """The steps of one layer."""

    qp: float
    cell: int
    """log2 of the side of a cell, in pixels."""
    width: int
    height: int
    basis: Floats
    """[D, D] rows: what a step of each amplitude adds to the colour, about of length 1."""
    offset: Floats
    """[D] colour of which the coded colours are differences."""

    @property
    def delta(self) -> float:
        """The step of the amplitudes."""
        return step_of(self.qp)

    @property
    def grid(self) -> tuple[int, int]:
        """Cells along x and y, with the margin."""
        side = 1 << self.cell
        return -(-self.width // side) + 2 * MARGIN, -(-self.height // side) + 2 * MARGIN

    def classes(self, geometry: Geometry, colors: Floats) -> Ints:
        """[N] the classes that fit Gaussians."""
        length = geometry.lengths * np.linalg.norm(self._amplitudes(colors), axis=1)
        nearest = np.round(np.log2(np.maximum(length / self.delta, 1e-9)))
        classes: Ints = np.clip(nearest, 0, MAX_CLASS).astype(np.int64)
        return classes

    def round_geometry(self, geometry: Geometry, classes: Ints) -> Symbols:
        """The nearest symbols, with no colours yet ([N, 0])."""
        step = scale_step(classes)
        logs = geometry.log_scales / np.log(2) * OCTAVE
        swapped = logs[:, 0] < logs[:, 1]
        major, minor = np.where(swapped[:, None], logs[:, ::-1], logs).T
        low, high = -(-MIN_LOG_SCALE // step), MAX_LOG_SCALE // step
        i_minor = np.clip(np.round(minor / step), low, high).astype(np.int64)
        ratio = np.clip(np.round(major / step), low, high).astype(np.int64) - i_minor
        ratio = np.maximum(ratio, 0)
        levels = angle_levels(classes, ratio)
        turned = geometry.angles + np.where(swapped, np.pi / 2, 0.0)
        angle = np.round(turned / np.pi * levels).astype(np.int64) % levels
        bits = fine_bits(classes, i_minor, ratio, angle, self.cell)
        place = geometry.means / (1 << self.cell) + MARGIN
        cells = np.clip(np.floor(place), 0, np.array(self.grid) - 1).astype(np.int64)
        fine = np.clip(np.floor((place - cells) * (1 << bits)), 0, (1 << bits) - 1).astype(np.int64)
        return Symbols(cells, classes, i_minor, ratio, angle, fine, np.zeros((len(classes), 0), np.int64))

    def geometry(self, s: Symbols) -> Geometry:
        """What the symbols stand for."""
        step = scale_step(s.classes)
        logs = np.stack([s.minor + s.ratio, s.minor], 1) * step[:, None] * (np.log(2) / OCTAVE)
        bits = fine_bits(s.classes, s.minor, s.ratio, s.angle, self.cell)
        place: Floats = np.asarray(s.cells, np.float64) + (s.fine + 0.5) / (1 << bits) - MARGIN
        angles = s.angle * np.pi / angle_levels(s.classes, s.ratio)
        means: Floats = place * float(1 << self.cell)
        return Geometry(means, logs, angles)

    def round_colors(self, geometry: Geometry, colors: Floats) -> Ints:
        """[N, D] steps of the amplitudes."""
        steps = self._amplitudes(colors) * (geometry.lengths / self.delta)[:, None]
        rounded: Ints = np.round(steps).astype(np.int64)
        return rounded

    def colors(self, geometry: Geometry, steps: Ints) -> Floats:
        """[N, D] what the steps stand for."""
        return (steps * (self.delta / geometry.lengths)[:, None]) @ self.basis + self.offset

    def _amplitudes(self, colors: Floats) -> Floats:
        return (colors - self.offset) @ np.linalg.inv(self.basis)
