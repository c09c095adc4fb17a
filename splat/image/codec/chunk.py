"""The Gaussians of one chunk (or of a whole layer) as bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from splat.image.codec.lattice import (
    MAX_CLASS,
    MAX_LEVELS,
    MAX_LOG_SCALE,
    MIN_LOG_SCALE,
    Ints,
    Symbols,
    angle_levels,
    fine_bits,
    scale_step,
)
from splat.image.codec.positions import SplitModels, cell_keys, cells_of, decode_cells, encode_cells
from splat.image.codec.range_coder import Models, RangeDecoder, RangeEncoder

PARTS = ("cells", "classes", "scales", "angles", "fine positions", "colors")
"""What the ledger tells apart."""
_COUNTS = 3
MAX_SYMBOL = 1 << 24
"""Amplitudes lie below: so many steps of the finest qp are far more than any picture holds."""


@dataclass
class SymbolModels:
    """What is learnt about the symbols of a file's Gaussians."""

    channels: int
    splits: SplitModels = field(default_factory=SplitModels)
    classes: Models = field(default_factory=lambda: Models(1))
    minor: Models = field(default_factory=lambda: Models(MAX_CLASS + 1))
    ratio: Models = field(default_factory=lambda: Models(MAX_CLASS + 1))
    angle: Models = field(default_factory=lambda: Models(MAX_LEVELS.bit_length()))

    def __post_init__(self) -> None:
        self.colors = [Models((MAX_CLASS + 1) * _COUNTS) for _ in range(self.channels)]


@dataclass(frozen=True)
class Frame:
    """What a chunk's symbols are relative to; known to both sides."""

    cell: int
    grid: tuple[int, int]
    """Cells along x and y of the box that holds the chunk's centres."""
    first: tuple[int, int] = (0, 0)
    """Its first cell."""
    typical: int = 0
    """log2 of a usual smaller scale, in 1/256 octave: scales are coded as differences from it."""

    def expected_minor(self, classes: Ints) -> Ints:
        """[N] the usual `minor`."""
        step = scale_step(classes)
        return (2 * self.typical + step) // (2 * step)


def sort_symbols(symbols: Symbols, frame: Frame) -> Symbols:
    """In the order of their cells, which is the order they are coded in. Of one cell the larger come first."""
    keys = cell_keys(symbols.cells - np.array(frame.first), frame.grid)
    return symbols.take(np.lexsort((-symbols.classes, keys)))


def _color_contexts(classes: Ints, before: Ints | None) -> Ints:
    """By the class, and by how large the amplitude before it is for the class."""
    if before is None:
        return classes * _COUNTS
    contexts: Ints = classes * _COUNTS + np.minimum(_COUNTS - 1, 4 * np.abs(before) >> classes)
    return contexts


def encode_chunk(symbols: Symbols, frame: Frame, models: SymbolModels) -> tuple[bytes, dict[str, float]]:
    """Codes sorted symbols. Returns the bytes, and about how many each part takes."""
    encoder, ledger, before = RangeEncoder(), dict.fromkeys(PARTS, 0.0), 0

    def note(part: str) -> None:
        nonlocal before
        ledger[part] += encoder.size - before
        before = encoder.size

    encode_cells(encoder, cell_keys(symbols.cells - np.array(frame.first), frame.grid), frame.grid, models.splits)
    note("cells")
    classes, count = symbols.classes, len(symbols)
    encoder.unsigned(classes, np.zeros(count, np.int32), models.classes)
    note("classes")
    encoder.signed(symbols.minor - frame.expected_minor(classes), classes, models.minor)
    encoder.unsigned(symbols.ratio, classes, models.ratio)
    note("scales")
    levels = angle_levels(classes, symbols.ratio)
    encoder.bounded(symbols.angle, levels, _angle_contexts(levels), models.angle)
    note("angles")
    bits = fine_bits(classes, symbols.minor, symbols.ratio, symbols.angle, frame.cell)
    encoder.bits(symbols.fine.ravel(), bits.ravel())
    note("fine positions")
    previous = None
    for values, model in zip(symbols.colors.T, models.colors, strict=True):
        encoder.signed(values, _color_contexts(classes, previous), model)
        previous = values
    data = encoder.finish()
    note("colors")
    ledger["colors"] += len(data) - before
    return data, ledger


def decode_chunk(data: bytes, count: int, frame: Frame, models: SymbolModels) -> Symbols:
    """What `encode_chunk` coded. ValueError where the data are damaged."""
    decoder = RangeDecoder(data)
    keys = decode_cells(decoder, count, frame.grid, models.splits)
    cells = cells_of(keys, frame.grid)
    if (cells >= np.array(frame.grid)).any():
        raise ValueError("coded positions are damaged")
    cells += np.array(frame.first)
    classes = decoder.unsigned(np.zeros(count, np.int32), models.classes).astype(np.int64)
    if (classes > MAX_CLASS).any():
        raise ValueError("coded classes are damaged")
    minor = decoder.signed(classes, models.minor).astype(np.int64) + frame.expected_minor(classes)
    ratio = decoder.unsigned(classes, models.ratio).astype(np.int64)
    step = scale_step(classes)
    low, high = minor * step, (minor + ratio) * step
    if (low < MIN_LOG_SCALE).any() or (high > MAX_LOG_SCALE).any():
        raise ValueError("coded scales are damaged")
    levels = angle_levels(classes, ratio)
    angle = decoder.bounded(levels, _angle_contexts(levels), models.angle).astype(np.int64)
    bits = fine_bits(classes, minor, ratio, angle, frame.cell)
    fine = decoder.bits(bits.ravel()).astype(np.int64).reshape(-1, 2)
    colors, previous = np.zeros((count, models.channels), np.int64), None
    for channel, model in enumerate(models.colors):
        colors[:, channel] = decoder.signed(_color_contexts(classes, previous), model)
        previous = colors[:, channel]
        if (np.abs(previous) > MAX_SYMBOL).any():
            raise ValueError("coded colours are damaged")
    decoder.finish()
    return Symbols(cells, classes, minor, ratio, angle, fine, colors)


def _angle_contexts(levels: Ints) -> Ints:
    """floor of log2 of the number of levels."""
    return np.frexp(levels.astype(np.float64))[1].astype(np.int64) - 1
