"""The HEAD section: what a coded picture is, and the steps of its numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

from splat.image.codec.container import CodecError, Reader, Writer
from splat.image.codec.lattice import MAX_LOG_SCALE, MIN_LOG_SCALE, QP_PARTS, Floats, Lattice
from splat.image.layout import Layout, Mode

VERSION = 1
MAX_SIDE = 1 << 20
"""Pixels."""
MAX_CHANNELS = 256
MAX_COUNT = 1 << 26
"""Gaussians in a file."""
MAX_CELL = 12
"""log2 of the largest cell's side."""
MAX_DILATION = 1e4
MIN_CHUNK, MAX_CHUNK = 5, 16
"""log2 of a chunk's side."""
_MODES: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
_BLENDS: tuple[Literal["sum", "topk"], ...] = ("sum", "topk")
_BASIS_ONE = 127


@dataclass(frozen=True)
class Header:
    """Of one file."""

    width: int
    height: int
    layout: Layout
    basis: Floats
    """[D, D] multiples of 1/127."""
    offset: Floats
    """[D] float16 values."""
    blend: Literal["sum", "topk"] = "sum"
    topk: int = 10
    dilation: float = 0.0
    chunk: int = 0
    """log2 of a chunk's side in pixels; 0: no chunks."""

    def lattice(self, layer: LayerHead) -> Lattice:
        """The steps of a layer's numbers."""
        return Lattice(layer.qp, layer.cell, self.width, self.height, self.basis, self.offset)

    @property
    def chunks(self) -> tuple[int, int]:
        """Chunks along x and y."""
        if not self.chunk:
            return 1, 1
        return -(-self.width >> self.chunk), -(-self.height >> self.chunk)

    def write(self) -> bytes:
        """The section's content."""
        out = Writer()
        out.byte(VERSION)
        # An ordinary picture is said in two bits; its name is the file's.
        bits = self.layout.groups[0].bits
        mode = self.layout.mode if bits in (8, 16) else None
        with_offset, with_dilation = bool(self.offset.any()), self.dilation != 0.0
        flags = _BLENDS.index(self.blend) | with_offset << 1 | with_dilation << 2 | (mode is None) << 3
        out.byte(flags | (0 if mode is None else _MODES.index(mode) << 4 | (bits == 16) << 6))
        out.varint(self.width)
        out.varint(self.height)
        if mode is None:
            text = json.dumps(self.layout.records(), separators=(",", ":")).encode()
            out.varint(len(text))
            out.raw(text)
        if self.blend == "topk":
            out.varint(self.topk)
        if with_dilation:
            out.pack("e", self.dilation)
        out.byte(self.chunk)
        out.raw(np.round(self.basis * _BASIS_ONE).astype(np.int8).tobytes())
        if with_offset:
            out.raw(self.offset.astype("<f2").tobytes())
        return bytes(out.data)

    @classmethod
    def read(cls, content: bytes) -> Header:
        """The header of a section's content; CodecError where it is damaged."""
        read = Reader(content)
        if (version := read.byte()) > VERSION:
            raise CodecError(f"version {version} of .s2d is newer than this splat, which knows up to {VERSION}")
        flags = read.byte()
        width, height = (read.varint(MAX_SIDE) for _ in range(2))
        if flags & 8:
            try:
                layout = Layout.from_records(json.loads(read.raw(read.varint(1 << 16))))
            except ValueError as error:  # also what json and UTF-8 raise
                raise CodecError(f"the header's layout is damaged ({error})") from error
        else:
            layout = Layout.of(_MODES[flags >> 4 & 3], 16 if flags & 64 else 8)
        topk = read.varint(1024) if flags & 1 else 10
        dilation = float(read.unpack("e")[0]) if flags & 4 else 0.0
        chunk, count = read.byte(), layout.channels
        if min(width, height, topk) < 1 or count > MAX_CHANNELS or not 0 <= dilation < MAX_DILATION:
            raise CodecError("the header holds values out of range")
        if chunk and not MIN_CHUNK <= chunk <= MAX_CHUNK:
            raise CodecError("the header holds values out of range")
        basis = np.frombuffer(read.raw(count * count), np.int8).reshape(count, count) / _BASIS_ONE
        offset = np.frombuffer(read.raw(2 * count), "<f2").astype(np.float64) if flags & 2 else np.zeros(count)
        if not np.isfinite(offset).all() or np.linalg.matrix_rank(basis) < count:
            raise CodecError("the header's colours are damaged")
        return cls(width, height, layout, basis, offset, _BLENDS[flags & 1], topk, dilation, chunk)


def rounded_basis(basis: Floats) -> Floats:
    """A basis as the file holds it."""
    rounded: Floats = np.round(np.clip(basis, -1, 1) * _BASIS_ONE) / _BASIS_ONE
    return rounded


@dataclass(frozen=True)
class LayerHead:
    """What stands before a layer's Gaussians."""

    count: int
    qp: float
    cell: int
    """log2 of the side of a cell in pixels, not larger than a chunk."""
    typical: int
    """log2 of a usual smaller scale, in 1/256 octave: scales are coded as differences from it."""
    psnr: float = 0.0
    """dB of the picture up to this layer; 0: not known."""

    def write(self, out: Writer) -> None:
        """Adds it to a section."""
        out.varint(self.count)
        out.byte(round(self.qp * QP_PARTS))
        out.byte(self.cell)
        out.pack("hH", self.typical, min(65535, max(0, round(100 * self.psnr))))

    @classmethod
    def read(cls, read: Reader, header: Header) -> LayerHead:
        """What `write` wrote; CodecError for values out of range."""
        count, qp, cell = read.varint(MAX_COUNT), read.byte() / QP_PARTS, read.byte()
        typical, psnr = read.unpack("hH")
        if not MIN_LOG_SCALE <= typical <= MAX_LOG_SCALE or cell > (header.chunk or MAX_CELL):
            raise CodecError("the head of a layer holds values out of range")
        return cls(count, qp, cell, int(typical), psnr / 100)


def usual_cell(header: Header, count: int) -> int:
    """log2 of the side of a square that holds a Gaussian or two."""
    share = header.width * header.height // max(1, count)
    return min(MAX_CELL, (max(1, share).bit_length() - 1) // 2, header.chunk or MAX_CELL)
