"""Symbols to a .s2d file and back: layers, chunks, and reading only what a picture needs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from splat.image.canvas import Canvas
from splat.image.codec.chunk import PARTS, Frame, SymbolModels, decode_chunk, encode_chunk, sort_symbols
from splat.image.codec.container import MAGIC, CodecError, Reader, Section, Source, Writer, checksum, section
from splat.image.codec.header import MAX_COUNT, Header, LayerHead
from splat.image.codec.lattice import MARGIN, Floats, Ints, Symbols
from splat.image.model import TENSORS, ImageGaussians

Crop = tuple[float, float, float, float]
"""(x, y, w, h) in pixels of the picture."""
PER_BYTE = 32
"""Gaussians that a byte of coded data may stand for, at most: a small file cannot ask for much memory."""


@dataclass(frozen=True)
class CodedLayer:
    """What to write of one layer."""

    head: LayerHead
    symbols: Symbols


@dataclass
class Ledger:
    """Where the bytes of a file are."""

    sections: dict[str, float] = field(default_factory=dict)
    """Bytes of each part, by its name."""

    def add(self, name: str, count: float) -> None:
        """Counts bytes."""
        self.sections[name] = self.sections.get(name, 0.0) + count

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return round(sum(self.sections.values()))


# ---- writing


def write(header: Header, layers: Sequence[CodedLayer]) -> tuple[bytes, Ledger]:
    """The bytes of a file, and where they are."""
    ledger = Ledger()
    parts = [MAGIC, section(b"HEAD", header.write())]
    models = SymbolModels(header.layout.channels)
    for layer in layers:
        whole = _chunked(header, layer, ledger) if header.chunk else [_whole(header, layer, models, ledger)]
        parts += whole
    data = b"".join(parts)
    ledger.add("header and sections", len(data) - ledger.total)
    return data, ledger


def _whole(header: Header, layer: CodedLayer, models: SymbolModels, ledger: Ledger) -> bytes:
    frame, out = _frame(header, layer.head), Writer()
    layer.head.write(out)
    out.raw(_encode(sort_symbols(layer.symbols, frame), frame, models, ledger))
    return section(b"LAYR", bytes(out.data))


def _encode(symbols: Symbols, frame: Frame, models: SymbolModels, ledger: Ledger) -> bytes:
    data, sizes = encode_chunk(symbols, frame, models)
    if len(symbols) > PER_BYTE * (len(data) + 1):
        raise ValueError(f"{len(symbols)} Gaussians took only {len(data)} bytes: more of them than a file may hold")
    for part in PARTS:
        ledger.add(part, sizes[part])
    return data


def _chunked(header: Header, layer: CodedLayer, ledger: Ledger) -> list[bytes]:
    of = chunk_of(header, layer)
    model = to_model(header, layer.head, layer.symbols)
    canvas = Canvas(header.width, header.height, model.options, header.dilation)
    places = model.means.double().numpy()
    reach = canvas.project(model.means, model.log_scales, model.angles).radii[0].double().numpy()
    index, blobs = Writer(), []
    layer.head.write(index)
    for chunk in range(header.chunks[0] * header.chunks[1]):
        rows = np.flatnonzero(of == chunk)
        if not len(rows):
            index.varint(0)
            continue
        frame = _frame(header, layer.head, chunk)
        symbols = sort_symbols(layer.symbols.take(rows), frame)
        data = _encode(symbols, frame, SymbolModels(header.layout.channels), ledger)
        low, high = chunk_box(header, chunk)
        means = places[rows]
        beyond = np.maximum(low - (means - reach[rows]), means + reach[rows] - high).max()
        index.varint(len(rows))
        index.varint(len(data))
        index.varint(max(0, int(np.ceil(4 * beyond))))
        index.raw(checksum(data))
        blobs.append(data)
    return [section(b"INDX", bytes(index.data)), section(b"DATA", b"".join(blobs))]


def chunk_of(header: Header, layer: CodedLayer) -> Ints:
    """[N] chunk in which a Gaussian's centre lies; those outside of the picture go to the nearest."""
    columns, rows = header.chunks
    place = (layer.symbols.cells - MARGIN) >> (header.chunk - layer.head.cell)
    chunks: Ints = np.clip(place[:, 1], 0, rows - 1) * columns + np.clip(place[:, 0], 0, columns - 1)
    return chunks


def chunk_box(header: Header, chunk: int) -> tuple[Floats, Floats]:
    """Its first corner and the one across, pixels."""
    columns, _ = header.chunks
    corner = np.array([chunk % columns, chunk // columns], np.float64)
    side = float(1 << header.chunk)
    return corner * side, (corner + 1) * side


def _frame(header: Header, head: LayerHead, chunk: int | None = None) -> Frame:
    cell = head.cell
    if chunk is None:
        return Frame(cell, header.lattice(head).grid, (0, 0), head.typical)
    columns, _ = header.chunks
    side = 1 << (header.chunk - cell)
    first = (chunk % columns * side, chunk // columns * side)
    return Frame(cell, (side + 2 * MARGIN,) * 2, first, head.typical)


# ---- reading


@dataclass(frozen=True)
class Decoded:
    """What was read of a file."""

    model: ImageGaussians
    header: Header
    psnr: tuple[float, ...]
    """dB of the picture up to each layer, 0: not known."""
    layer_bytes: tuple[int, ...]
    """Of the file up to the end of each layer: cut there, it is a file of so many layers."""
    bytes_read: int
    bytes_total: int
    cut_off: bool
    """Whether the file ends inside a section: what is missing was not read."""


def decode_image(
    source: bytes | str | Path,
    *,
    layers: int | None = None,
    max_bytes: int | None = None,
    crop: Crop | None = None,
) -> Decoded:
    """Reads a .s2d file, or some of it.

    Args:
        source: the file's bytes or its path.
        layers: read at most so many layers.
        max_bytes: read only layers that end within the first `max_bytes` bytes.
        crop: (x, y, w, h) in pixels of the picture: of a file with chunks those are read whose Gaussians reach into
            this part; the model then holds no others.

    Raises:
        CodecError: the file is damaged, of a newer version, or holds no whole layer within the limits. A file that was
            cut off is read up to its last whole layer, with a warning.
    """
    with Source(source) as file:
        return _decode(file, layers, max_bytes, crop)


class _Reading:
    """What has been read of a file so far."""

    def __init__(self, file: Source, header: Header, crop: Crop | None) -> None:
        self.file, self.header, self.crop = file, header, crop
        self.models = SymbolModels(header.layout.channels)
        self.index: Section | None = None
        self.layers: list[ImageGaussians] = []
        self.psnr: list[float] = []
        self.ends: list[int] = []

    def take(self, found: Section) -> None:
        """Reads a section, where it is one that is known."""
        if found.name == b"INDX":
            self.index = found
        elif found.name == b"LAYR":
            read = Reader(self.file.content(found))
            head = LayerHead.read(read, self.header)
            self._add(found, head, self._chunk(read.rest(), head.count, head, None, self.models))
        elif found.name == b"DATA":
            if self.index is None or not self.header.chunk:
                raise CodecError(f"{self.file.name}: chunks without their index")
            self._add(found, *self._chunks(self.index, found))
            self.index = None

    def _add(self, found: Section, head: LayerHead, symbols: Symbols) -> None:
        self.ends.append(found.end)
        self.layers.append(to_model(self.header, head, symbols))
        self.psnr.append(head.psnr)
        if sum(map(len, self.layers)) > MAX_COUNT:
            raise CodecError(f"{self.file.name}: more than {MAX_COUNT:,} Gaussians")

    def _chunk(self, data: bytes, count: int, head: LayerHead, chunk: int | None, models: SymbolModels) -> Symbols:
        if count > PER_BYTE * (len(data) + 1):
            raise CodecError(f"{len(data)} bytes cannot hold {count} Gaussians")
        try:
            return decode_chunk(data, count, _frame(self.header, head, chunk), models)
        except CodecError:
            raise
        except ValueError as error:
            raise CodecError(str(error)) from error

    def _chunks(self, index: Section, data: Section) -> tuple[LayerHead, Symbols]:
        """Those that are wanted."""
        header, read = self.header, Reader(self.file.content(index))
        head, at = LayerHead.read(read, header), data.start
        channels = header.layout.channels
        parts = [Symbols(*(np.zeros(s, np.int64) for s in ((0, 2), 0, 0, 0, 0, (0, 2), (0, channels))))]
        for chunk in range(header.chunks[0] * header.chunks[1]):
            count = read.varint(MAX_COUNT)
            if not count:
                continue
            length, halo, check = read.varint(data.length), read.varint(1 << 24) / 4, read.raw(4)
            if at + length > data.start + data.length:
                raise CodecError("a chunk ends behind its section")
            if self._wanted(chunk, halo):
                blob = self.file.read(at, length)
                if checksum(blob) != check:
                    raise CodecError(f"chunk {chunk} is damaged (its check sum does not fit)")
                parts.append(self._chunk(blob, count, head, chunk, SymbolModels(channels)))
            at += length
        symbols = Symbols.join(parts)
        if self.crop is None and len(symbols) != head.count:
            raise CodecError("the index does not fit its layer")
        return head, symbols

    def _wanted(self, chunk: int, halo: float) -> bool:
        if self.crop is None:
            return True
        low, high = chunk_box(self.header, chunk)
        first = np.array(self.crop[:2])
        return bool((low - halo < first + self.crop[2:]).all() and (high + halo > first).all())


def _decode(file: Source, layers: int | None, max_bytes: int | None, crop: Crop | None) -> Decoded:
    reading: _Reading | None = None
    end = len(MAGIC)
    for found in file.sections():
        if max_bytes is not None and found.end > max_bytes:
            break
        end = found.end
        if reading is None:
            if found.name != b"HEAD":
                raise CodecError(f"{file.name}: the first section must be HEAD")
            reading = _Reading(file, Header.read(file.content(found)), crop)
        elif layers is None or len(reading.layers) < layers:
            reading.take(found)
    if reading is None:
        raise CodecError(f"{file.name} ends inside its header")
    if not reading.layers:
        raise CodecError(f"{file.name} holds no whole layer" + (f" in {max_bytes} bytes" if max_bytes else ""))
    cut_off = max_bytes is None and end < file.size
    if cut_off:
        warnings.warn(f"{file.name} is cut off: {len(reading.layers)} layers are whole", stacklevel=4)
    parts = reading.layers
    means, log_scales, angles, colors = (torch.cat([getattr(p, name) for p in parts]) for name in TENSORS)
    ends = tuple(accumulate(map(len, parts)))
    model = replace(parts[0], means=means, log_scales=log_scales, angles=angles, colors=colors, layers=ends)
    return Decoded(model, reading.header, tuple(reading.psnr), tuple(reading.ends), file.bytes_read, file.size, cut_off)


def to_model(header: Header, head: LayerHead, symbols: Symbols) -> ImageGaussians:
    """The Gaussians that a layer's symbols stand for."""
    lattice = header.lattice(head)
    geometry = lattice.geometry(symbols)
    values = (geometry.means, geometry.log_scales, geometry.angles, lattice.colors(geometry, symbols.colors))
    means, log_scales, angles, colors = (torch.from_numpy(v).float() for v in values)
    size = (header.width, header.height)
    return ImageGaussians(
        means, log_scales, angles, colors, *size, header.layout, header.blend, header.topk, header.dilation
    )
