"""Symbols to a .s2d file and back: layers, chunks, and reading only what a picture needs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from splat.image.codec.chunk import PARTS, Frame, SymbolModels, decode_chunk, encode_chunk, sort_symbols
from splat.image.codec.container import MAGIC, CodecError, Reader, Section, Source, Writer, checksum, section
from splat.image.codec.header import Header
from splat.image.codec.lattice import MARGIN, Floats, Ints, Symbols
from splat.image.model import ImageGaussians

MAX_COUNT = 1 << 26
"""Gaussians in a file."""
PER_BYTE = 32
"""Gaussians that a byte of coded data may stand for, at most: a small file cannot ask for much memory."""
_EXTENT = 3.33
"""Standard deviations that a Gaussian reaches (cuda_ext/include/splat/constants.h, kExtentSigmas)."""


@dataclass(frozen=True)
class CodedLayer:
    """What to write of one layer."""

    symbols: Symbols
    psnr: float = 0.0
    """dB, of the picture up to this layer; 0: not known."""


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


def write(header: Header, layers: Sequence[CodedLayer], meta: str = "") -> tuple[bytes, Ledger]:
    """The bytes of a file, and where they are."""
    ledger = Ledger()
    parts = [MAGIC, section(b"HEAD", header.write())]
    if meta:
        parts.append(section(b"META", meta.encode()))
    models = SymbolModels(header.layout.channels)
    for layer in layers:
        whole = _chunked(header, layer, ledger) if header.chunk else [_whole(header, layer, models, ledger)]
        parts += whole
    data = b"".join(parts)
    ledger.add("header and sections", len(data) - ledger.total)
    return data, ledger


def _layer_head(layer: CodedLayer) -> Writer:
    out = Writer()
    out.varint(len(layer.symbols))
    out.pack("H", min(65535, max(0, round(100 * layer.psnr))))
    return out


def _whole(header: Header, layer: CodedLayer, models: SymbolModels, ledger: Ledger) -> bytes:
    frame = _frame(header)
    data = _encode(sort_symbols(layer.symbols, frame), frame, models, ledger)
    out = _layer_head(layer)
    out.raw(data)
    return section(b"LAYR", bytes(out.data))


def _encode(symbols: Symbols, frame: Frame, models: SymbolModels, ledger: Ledger) -> bytes:
    data, sizes = encode_chunk(symbols, frame, models)
    if len(symbols) > PER_BYTE * (len(data) + 1):
        raise ValueError(f"{len(symbols)} Gaussians took only {len(data)} bytes: more of them than a file may hold")
    for part in PARTS:
        ledger.add(part, sizes[part])
    return data


def _chunked(header: Header, layer: CodedLayer, ledger: Ledger) -> list[bytes]:
    of = chunk_of(header, layer.symbols)
    geometry = header.lattice.geometry(layer.symbols)
    reach = _EXTENT * extents(geometry.log_scales, geometry.angles)
    index, blobs = _layer_head(layer), []
    for chunk in range(header.chunks[0] * header.chunks[1]):
        rows = np.flatnonzero(of == chunk)
        if not len(rows):
            index.varint(0)
            continue
        frame = _frame(header, chunk)
        symbols = sort_symbols(layer.symbols.take(rows), frame)
        data = _encode(symbols, frame, SymbolModels(header.layout.channels), ledger)
        low, high = chunk_box(header, chunk)
        means = geometry.means[rows]
        beyond = np.maximum(low - (means - reach[rows]), means + reach[rows] - high).max()
        index.varint(len(rows))
        index.varint(len(data))
        index.varint(max(0, int(np.ceil(4 * beyond))))
        index.raw(checksum(data))
        blobs.append(data)
    return [section(b"INDX", bytes(index.data)), section(b"DATA", b"".join(blobs))]


def extents(log_scales: Floats, angles: Floats) -> Floats:
    """[N, 2] standard deviations along x and y."""
    squares = np.exp(2 * log_scales)
    cos2 = np.cos(angles) ** 2
    major, minor = squares.T
    spread: Floats = np.sqrt(np.stack([cos2 * major + (1 - cos2) * minor, (1 - cos2) * major + cos2 * minor], 1))
    return spread


def chunk_of(header: Header, symbols: Symbols) -> Ints:
    """[N] chunk in which a Gaussian's centre lies; those outside of the picture go to the nearest."""
    columns, rows = header.chunks
    place = (symbols.cells - MARGIN) // header.chunk_cells
    chunks: Ints = np.clip(place[:, 1], 0, rows - 1) * columns + np.clip(place[:, 0], 0, columns - 1)
    return chunks


def chunk_box(header: Header, chunk: int) -> tuple[Floats, Floats]:
    """Its first corner and the one across, pixels."""
    columns, _ = header.chunks
    corner = np.array([chunk % columns, chunk // columns], np.float64)
    side = float(1 << header.chunk)
    return corner * side, (corner + 1) * side


def _frame(header: Header, chunk: int | None = None) -> Frame:
    channels = header.layout.channels
    if chunk is None:
        return Frame(header.cell, header.lattice.grid, (0, 0), channels, header.typical)
    columns, _ = header.chunks
    side = header.chunk_cells
    first = (chunk % columns * side, chunk // columns * side)
    return Frame(header.cell, (side + 2 * MARGIN,) * 2, first, channels, header.typical)


# ---- reading


@dataclass(frozen=True)
class Decoded:
    """What was read of a file."""

    model: ImageGaussians
    header: Header
    ends: tuple[int, ...]
    """For each layer that was read, how many Gaussians there are up to its end."""
    psnr: tuple[float, ...]
    """dB of each layer, 0: not known."""
    bytes_read: int
    bytes_total: int
    cut_off: bool
    """Whether the file ends inside a section: what is missing was not read."""


def decode(
    source: bytes | str | Path,
    *,
    layers: int | None = None,
    max_bytes: int | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> Decoded:
    """Reads a .s2d file, or some of it.

    Args:
        source: the file's bytes or its path.
        layers: read at most so many layers.
        max_bytes: read only layers that end within the first `max_bytes` bytes.
        crop: (x, y, w, h) in pixels of the picture: of a file with chunks only those whose Gaussians reach into this part
            are read; the model then holds no others.

    Raises:
        CodecError: the file is damaged, of a newer version, or holds no whole layer within the limits. A file that was
            cut off is read up to its last whole layer, with a warning.
    """
    with Source(source) as file:
        return _decode(file, layers, max_bytes, crop)


def _decode(
    file: Source, layers: int | None, max_bytes: int | None, crop: tuple[float, float, float, float] | None
) -> Decoded:
    header: Header | None = None
    parts: list[Symbols] = []
    ends: list[int] = []
    psnr: list[float] = []
    models: SymbolModels | None = None
    index: Section | None = None
    end = 4
    for found in file.sections():
        end = found.end
        if max_bytes is not None and end > max_bytes:
            break
        if header is None:
            if found.name != b"HEAD":
                raise CodecError(f"{file.name}: the first section must be HEAD")
            header = Header.read(file.content(found))
            models = SymbolModels(header.layout.channels)
            continue
        if found.name not in (b"LAYR", b"INDX", b"DATA") or (layers is not None and len(ends) >= layers):
            continue
        if found.name == b"INDX":
            index = found
            continue
        assert models is not None
        if found.name == b"LAYR":
            read = Reader(file.content(found))
            count, quality = _read_head(read)
            got = _decode_chunk(read.rest(), count, header, None, models)
        elif index is None or not header.chunk:
            raise CodecError(f"{file.name}: chunks without their index")
        else:
            got, quality = _read_chunks(file, header, index, found, crop)
            index = None
        parts.append(got)
        ends.append((ends[-1] if ends else 0) + len(got))
        psnr.append(quality)
        if ends[-1] > MAX_COUNT:
            raise CodecError(f"{file.name}: more than {MAX_COUNT:,} Gaussians")
    if header is None:
        raise CodecError(f"{file.name} ends inside its header")
    if not parts:
        raise CodecError(f"{file.name} holds no whole layer" + (f" in {max_bytes} bytes" if max_bytes else ""))
    cut_off = max_bytes is None and end < file.size
    if cut_off:
        warnings.warn(f"{file.name} is cut off: read the {len(ends)} layers that are whole", stacklevel=4)
    model = to_model(header, Symbols.join(parts), tuple(ends))
    return Decoded(model, header, tuple(ends), tuple(psnr), file.bytes_read, file.size, cut_off)


def _read_head(read: Reader) -> tuple[int, float]:
    count = read.varint(MAX_COUNT)
    (quality,) = read.unpack("H")
    return count, quality / 100


def _decode_chunk(data: bytes, count: int, header: Header, chunk: int | None, models: SymbolModels) -> Symbols:
    if count > PER_BYTE * (len(data) + 1):
        raise CodecError(f"{len(data)} bytes cannot hold {count} Gaussians")
    try:
        return decode_chunk(data, count, _frame(header, chunk), models)
    except CodecError:
        raise
    except ValueError as error:
        raise CodecError(str(error)) from error


def _read_chunks(
    file: Source, header: Header, index: Section, data: Section, crop: tuple[float, float, float, float] | None
) -> tuple[Symbols, float]:
    read = Reader(file.content(index))
    total, quality = _read_head(read)
    at, parts = data.start, []
    for chunk in range(header.chunks[0] * header.chunks[1]):
        count = read.varint(MAX_COUNT)
        if not count:
            continue
        length, halo = read.varint(data.length), read.varint(1 << 24) / 4
        check = read.raw(4)
        low, high = chunk_box(header, chunk)
        wanted = crop is None or bool(
            (low - halo < np.array(crop[:2]) + crop[2:]).all() and (high + halo > np.array(crop[:2])).all()
        )
        if at + length > data.start + data.length:
            raise CodecError("a chunk ends behind its section")
        if wanted:
            blob = file.read(at, length)
            if checksum(blob) != check:
                raise CodecError(f"chunk {chunk} is damaged (its check sum does not fit)")
            parts.append(_decode_chunk(blob, count, header, chunk, SymbolModels(header.layout.channels)))
        at += length
    if crop is None and sum(len(p) for p in parts) != total:
        raise CodecError("the index does not fit its layer")
    empty = Symbols(*(np.zeros(s, np.int64) for s in ((0, 2), 0, 0, 0, 0, (0, 2), (0, header.layout.channels))))
    return Symbols.join([empty, *parts]), quality


def to_model(header: Header, symbols: Symbols, ends: tuple[int, ...] = ()) -> ImageGaussians:
    """The Gaussians that symbols stand for."""
    lattice = header.lattice
    geometry = lattice.geometry(symbols)
    colors = lattice.colors(geometry, symbols.colors)
    tensors = [torch.from_numpy(v).float() for v in (geometry.means, geometry.log_scales, geometry.angles, colors)]
    model = ImageGaussians(*tensors, width=header.width, height=header.height, layout=header.layout)
    return replace(model, layers=ends)
