"""mkkellogg's `.ksplat`, read only: sections of float32 (level 0) or of float16, with positions in 16 bits relative to
buckets (level 1; 2 with harmonics in bytes)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import BANDS, Arrays
from splat.io.bounded import check_length

_HEADER_BYTES, _SECTION_BYTES = 4096, 1024
_SECTION = struct.Struct("<IIIIfHxxIIIIH")
_CENTER_BYTES = 12
_DEFAULT_RANGE = 32767
_COEFFICIENTS = (0, 9, 24, 45)
_MIN_LOG_SCALE = -30.0


@dataclass(frozen=True)
class _Section:
    count: int
    """Gaussians."""
    room: int
    """Gaussians that the section has bytes for."""
    bucket_capacity: int
    buckets: int
    block_size: float
    """Edge of a bucket, world units."""
    bucket_bytes: int
    range: int
    """A position's code for the middle of its bucket."""
    storage: int
    full: int
    """Buckets that are full; they come first."""
    partial: int
    """Buckets that are not; their counts stand before the centres."""
    degree: int


def read_ksplat(path: Path) -> Gaussians:
    """The Gaussians of a file, in its order.

    Raises:
        ValueError: of an unknown version, truncated or damaged.
    """
    data = path.read_bytes()
    check_length(path, "the header", _HEADER_BYTES, len(data))
    if data[0] != 0 or data[1] < 1:
        raise ValueError(f"{path}: wanted ksplat of version 0.1 or a later 0, got {data[0]}.{data[1]}")
    sections, _, _, count, level = struct.unpack_from("<IIIIH", data, 4)
    if level > 2:
        raise ValueError(f"{path}: wanted compression level 0, 1 or 2, got {level}")
    low, high = struct.unpack_from("<ff", data, 36)
    offset = _HEADER_BYTES + sections * _SECTION_BYTES
    check_length(path, f"{sections:,} sections", offset, len(data))
    headers = [_Section(*_SECTION.unpack_from(data, _HEADER_BYTES + i * _SECTION_BYTES)) for i in range(sections)]
    used = [header for header in headers if header.count]
    if sum(header.count for header in used) != count:
        raise ValueError(f"{path}: {count:,} Gaussians, but {sum(h.count for h in used):,} in its sections")
    if any(header.degree >= len(_COEFFICIENTS) for header in used):
        raise ValueError(f"{path}: wanted harmonics up to degree 3, got {max(h.degree for h in used)}")
    parts = []
    for header in headers:
        row = _row(level, header.degree) if header.count else _row(level, 0)
        if not 0 <= header.count <= header.room:
            raise ValueError(f"{path}: a section for {header.room:,} Gaussians has {header.count:,}")
        lists = 4 * header.partial
        start = offset + lists + header.bucket_bytes * header.buckets
        check_length(path, f"a section of {header.room:,} Gaussians", start + header.room * row.itemsize, len(data))
        if header.count:
            rows = np.frombuffer(data, row, header.count, start)
            centers = _centers(path, header, data, offset) if level else None
            harmonics = (low or -1.5, high or 1.5)
            parts.append(_decode(header, rows, centers, harmonics).gaussians())
        offset = start + header.room * row.itemsize
    return Gaussians.concat(parts) if parts else Arrays.empty(0, 0).gaussians()


def _row(level: int, degree: int) -> np.dtype[Any]:
    number = "<f2" if level else "<f4"
    harmonics = ("<f4", "<f2", "u1")[level]
    return np.dtype(
        [
            ("means", "<u2" if level else "<f4", 3),
            ("scales", number, 3),
            ("quats", number, 4),
            ("rgba", "u1", 4),
            ("sh", harmonics, (_COEFFICIENTS[degree],)),
        ]
    )


def _centers(path: Path, header: _Section, data: bytes, offset: int) -> npt.NDArray[np.float32]:
    """[N, 3] the centre of each Gaussian's bucket."""
    if header.bucket_bytes < _CENTER_BYTES or header.buckets != header.full + header.partial:
        raise ValueError(f"{path}: damaged: {header.buckets:,} buckets of {header.bucket_bytes} bytes")
    sizes = np.frombuffer(data, "<u4", header.partial, offset).astype(np.int64)
    row = np.arange(header.count)
    ends = header.full * header.bucket_capacity + np.cumsum(sizes)
    bucket = header.full + np.searchsorted(ends, row, side="right")
    if header.bucket_capacity:
        bucket = np.where(row < header.full * header.bucket_capacity, row // header.bucket_capacity, bucket)
    if int(bucket.max()) >= header.buckets:
        raise ValueError(f"{path}: damaged: its buckets hold fewer than {header.count:,} Gaussians")
    table: npt.NDArray[np.float32] = np.ndarray(
        (header.buckets, 3), "<f4", data, offset + 4 * header.partial, (header.bucket_bytes, 4)
    )
    centers: npt.NDArray[np.float32] = table[bucket]
    return centers


def _decode(
    header: _Section,
    rows: npt.NDArray[Any],
    centers: npt.NDArray[np.float32] | None,
    harmonics: tuple[float, float],
) -> Arrays:
    arrays = Arrays.empty(header.count, header.degree)
    with np.errstate(all="ignore"):
        if centers is None:
            arrays.means[:] = rows["means"]
        else:
            middle = header.range or _DEFAULT_RANGE
            arrays.means[:] = centers + (rows["means"].astype(np.float32) - middle) * (header.block_size / 2 / middle)
        floor = np.exp(np.float32(_MIN_LOG_SCALE))
        arrays.log_scales[:] = np.log(np.maximum(rows["scales"].astype(np.float32), floor))
        arrays.quats[:] = rows["quats"]
        coefficients = rows["sh"].astype(np.float32)
        if rows["sh"].dtype == np.uint8:
            low, high = harmonics
            coefficients = (low + coefficients / 255 * (high - low)).astype(np.float32)
    arrays.sh0[:, 0] = quantise.sh0_of_colors(rows["rgba"][:, :3] / np.float32(255))
    arrays.opacity_logits[:] = quantise.logits_of_bytes(rows["rgba"][:, 3])
    # A degree after the other, and in each of them red, green, blue.
    for degree in range(1, header.degree + 1):
        start, end = BANDS[degree - 1], BANDS[degree]
        block = coefficients[:, 3 * start : 3 * end].reshape(header.count, 3, end - start)
        arrays.shN[:, start:end] = block.transpose(0, 2, 1)
    return arrays
