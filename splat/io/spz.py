"""Niantic's SPZ: about 20 bytes a Gaussian before a general compressor, and a byte a coefficient.

Read: versions 2 and 3 (gzip, or not compressed), 4 (Zstandard, a stream for each attribute). Written: 3 and 4.
Positions are 24-bit fixed point, scales a byte in sixteenths of the log, rotations the smallest three components at 10
bits (version 2: x, y, z at 8). An SPZ file's axes are right, up, back; ours right, down, forward, as in PLY: Gaussians
are turned by half a turn about x on the way in and out, harmonics too.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import BANDS, F32, U8, Arrays
from splat.io.bounded import Gunzip, check_length, check_room, unzstd

_MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sIIBBBB")
"""magic, version, count, degree, fractional bits, flags, and in version 4 the number of streams."""
_TABLE_PLACE = struct.Struct("<I12x")
_TABLE_ENTRY = struct.Struct("<QQ")
_EXTENDED = 2  # flag: vendors' records follow, which are skipped
_FRACTIONAL_BITS = 12
_COLOR_SCALE = 0.15
_ROTATION_TOP = 511


@dataclass(frozen=True)
class _Header:
    version: int
    count: int
    degree: int
    fractional_bits: int
    flags: int
    streams: int

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each attribute, in the file's order."""
        bytes_each = {
            "positions": 9,
            "alphas": 1,
            "colors": 3,
            "scales": 3,
            "rotations": 3 if self.version == 2 else 4,
            "sh": 3 * BANDS[self.degree],
        }
        return {name: self.count * each for name, each in bytes_each.items()}


def read_spz(path: Path) -> Gaussians:
    """The Gaussians of a file, in our axes; the order is kept.

    Raises:
        ValueError: not an SPZ file, of an unknown version, truncated or damaged.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        unpack = Gunzip(path, data)
        header = _read_header(path, unpack.read("the header", _HEADER.size), (2, 3))
        check_room(path, f"{header.count:,} Gaussians", sum(header.sizes.values()), len(data))
        streams = {name: unpack.read(name, size) for name, size in header.sizes.items()}
        if header.flags & _EXTENDED:
            unpack.skip_rest()
        unpack.check_end()
    else:
        check_length(path, "the header", _HEADER.size, len(data))
        header = _read_header(path, data[: _HEADER.size], (2, 3, 4))
        streams = _packed_streams(path, header, data) if header.version == 4 else _plain_streams(path, header, data)
    return _unpack(header, streams).turned(1, -1, -1).gaussians()


def _read_header(path: Path, data: bytes, versions: tuple[int, ...]) -> _Header:
    magic, *values = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise ValueError(f"{path}: not an SPZ file: wanted {_MAGIC!r}, got {magic!r}")
    header = _Header(*values)
    if header.version not in versions:
        raise ValueError(f"{path}: wanted SPZ of version {', '.join(map(str, versions))}, got {header.version}")
    if header.degree >= len(BANDS):
        raise ValueError(f"{path}: wanted harmonics up to degree 4, got {header.degree}")
    if header.fractional_bits > 24:
        raise ValueError(f"{path}: wanted at most 24 fractional bits, got {header.fractional_bits}")
    return header


def _plain_streams(path: Path, header: _Header, data: bytes) -> dict[str, bytes]:
    check_length(path, f"{header.count:,} Gaussians", _HEADER.size + sum(header.sizes.values()), len(data))
    streams, place = {}, _HEADER.size
    for name, size in header.sizes.items():
        streams[name] = data[place : place + size]
        place += size
    return streams


def _packed_streams(path: Path, header: _Header, data: bytes) -> dict[str, bytes]:
    sizes = {name: size for name, size in header.sizes.items() if name != "sh" or header.degree}
    check_length(path, "the header", _HEADER.size + _TABLE_PLACE.size, len(data))
    (place,) = _TABLE_PLACE.unpack_from(data, _HEADER.size)
    if header.streams < len(sizes):
        raise ValueError(f"{path}: wanted {len(sizes)} streams, got {header.streams}")
    offset = place + header.streams * _TABLE_ENTRY.size
    check_length(path, "the table of streams", offset, len(data))
    check_room(path, f"{header.count:,} Gaussians", sum(sizes.values()), len(data))
    streams = {"sh": b""}
    for i, (name, size) in enumerate(sizes.items()):
        packed, unpacked = _TABLE_ENTRY.unpack_from(data, place + i * _TABLE_ENTRY.size)
        if unpacked != size:
            raise ValueError(f"{path}: stream {name} must have {size:,} bytes, got {unpacked:,}")
        check_length(path, f"stream {name}", offset + packed, len(data))
        streams[name] = unzstd(path, f"stream {name}", memoryview(data)[offset : offset + packed], size)
        offset += packed
    return streams


def _unpack(header: _Header, streams: dict[str, bytes]) -> Arrays:
    count = header.count
    parts = {name: np.frombuffer(data, np.uint8) for name, data in streams.items()}
    arrays = Arrays.empty(count, header.degree)
    # 24 bits in the upper part of an int32, so that the shift back brings the sign along.
    words = np.zeros((3 * count, 4), np.uint8)
    words[:, 1:] = parts["positions"].reshape(-1, 3)
    fixed = words.view("<i4").reshape(count, 3) >> 8
    arrays.means[:] = fixed * np.float32(2.0**-header.fractional_bits)
    arrays.opacity_logits[:] = quantise.logits_of_bytes(parts["alphas"])
    arrays.sh0[:, 0] = (parts["colors"].reshape(count, 3) / np.float32(255) - np.float32(0.5)) / np.float32(
        _COLOR_SCALE
    )
    arrays.log_scales[:] = parts["scales"].reshape(count, 3) / np.float32(16) - 10
    if header.version == 2:
        vector = parts["rotations"].reshape(count, 3) / np.float32(127.5) - 1
        arrays.quats[:, 0] = np.sqrt(np.maximum(0, 1 - np.square(vector).sum(1)))
        arrays.quats[:, 1:] = vector
    else:
        arrays.quats[:] = _unpack_rotations(parts["rotations"].view("<u4"))
    arrays.shN[:] = (parts["sh"].reshape(arrays.shN.shape).astype(np.float32) - 128) / 128
    return arrays


def _unpack_rotations(words: npt.NDArray[np.uint32]) -> F32:
    """wxyz of words: 2 bits that name the largest component of xyzw, then sign and 9 bits of each other."""
    rest = np.empty((len(words), 3), np.float32)
    for column in range(3):
        field = words >> np.uint32(20 - 10 * column)
        rest[:, column] = (field & _ROTATION_TOP) / np.float32(_ROTATION_TOP)
        rest[:, column] *= np.where(field >> np.uint32(9) & 1, np.float32(-1), np.float32(1))
    return quantise.of_smallest_three(words >> np.uint32(30), rest)[:, [3, 0, 1, 2]]


def write_spz(
    path: Path, gaussians: Gaussians, *, version: Literal[3, 4] = 4, fractional_bits: int | None = None
) -> None:
    """Writes the Gaussians that can be drawn, in their order.

    Coefficients beyond the constant one are clamped to -1 .. 1, with 5 bits in degree 1 and 4 bits above, as the
    format's own tools do; log scales to -10 .. 5.9, colours to -2.8 .. 3.8 (a coefficient sh0 of 3.3 either way).

    Args:
        fractional_bits: of positions, 0 .. 23: steps of 2^-bits, up to 2^(23 - bits) either way. Without it 12, or
            fewer where the scene is larger.

    Raises:
        ValueError: the positions do not fit.
    """
    if version not in (3, 4):
        raise ValueError(f"version must be 3 or 4, got {version}")
    arrays = Arrays.of(gaussians, drawable=True).turned(1, -1, -1)
    extent = float(np.abs(arrays.means).max(initial=0))
    choices = range(_FRACTIONAL_BITS, -1, -1) if fractional_bits is None else [fractional_bits]
    bits = next((b for b in choices if 0 <= b <= 23 and np.rint(extent * 2.0**b) < 2.0**23), None)
    if bits is None:
        asked = "" if fractional_bits is None else f" with {fractional_bits} of them fractional"
        raise ValueError(f"{path}: positions up to {extent:g} do not fit SPZ's 24 bits{asked}")
    streams = _pack(arrays, bits)
    if version == 3:
        head = _HEADER.pack(_MAGIC, version, len(arrays), arrays.sh_degree, bits, 0, 0)
        compress = zlib.compressobj(9, wbits=31)  # its header has no time
        parts = [compress.compress(part) for part in (head, *streams.values())] + [compress.flush()]
    else:
        import zstandard

        if not arrays.sh_degree:
            del streams["sh"]
        packed = [zstandard.ZstdCompressor(level=12).compress(part) for part in streams.values()]
        head = _HEADER.pack(_MAGIC, version, len(arrays), arrays.sh_degree, bits, 0, len(streams))
        head += _TABLE_PLACE.pack(_HEADER.size + _TABLE_PLACE.size)
        sizes = zip(packed, streams.values(), strict=True)
        parts = [head, *(_TABLE_ENTRY.pack(len(small), len(large)) for small, large in sizes), *packed]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(parts)


def _pack(arrays: Arrays, fractional_bits: int) -> dict[str, bytes]:
    fixed = np.rint(arrays.means * np.float64(2.0**fractional_bits)).astype("<i4")
    parts: dict[str, npt.NDArray[Any]] = {
        "positions": fixed.reshape(-1, 1).view(np.uint8)[:, :3],
        "alphas": quantise.opacity_bytes(arrays.opacity_logits),
        "colors": quantise.levels(arrays.sh0[:, 0] * np.float32(_COLOR_SCALE) + np.float32(0.5), 255),
        "scales": quantise.levels((arrays.log_scales + 10) * np.float32(16 / 255), 255),
        "rotations": _pack_rotations(arrays.quats),
        "sh": _pack_sh(arrays.shN),
    }
    return {name: part.tobytes() for name, part in parts.items()}


def _pack_rotations(quats: F32) -> npt.NDArray[np.uint32]:
    largest, rest = quantise.smallest_three(quats[:, [1, 2, 3, 0]])
    words = largest.astype("<u4")
    for column in range(3):
        field = quantise.levels(np.abs(rest[:, column]), _ROTATION_TOP, np.uint32)
        words = words << np.uint32(10) | (rest[:, column] < 0).astype(np.uint32) << np.uint32(9) | field
    return words.astype("<u4")


def _pack_sh(shN: F32) -> U8:
    step = np.where(np.arange(shN.shape[1]) < BANDS[1], 8, 16).astype(np.float32)[:, None]
    codes = np.rint(np.clip(shN, -1, 1) * 128) + 128
    rounded: U8 = np.clip(np.floor((codes + step / 2) / step) * step, 0, 255).astype(np.uint8)
    return rounded
