"""PlayCanvas's compressed PLY: 16 bytes a Gaussian and a byte a coefficient, in chunks of 256 with their own ranges.

Positions and scales have 11, 10 and 11 bits between the chunk's least and greatest; rotations are the smallest three
components at 10 bits; colours and opacity a byte each. Coefficients beyond the constant one lie in -4 .. 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from splat.core.morton import morton_order
from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import BANDS, F32, U8, Arrays
from splat.io.ply import Element, element, read_header, rest_names, sh_degree_of

CHUNK = 256
MAX_LOG_SCALE = 20.0  # what the format's own writer keeps of scales that are 0 or infinite
_SH_RANGE = 8.0
_AXES = ("x", "y", "z")
_RANGES = tuple(
    tuple(f"{side}_{kind}{axis}" for axis in axes)
    for kind, axes in (("", _AXES), ("scale_", _AXES), ("", ("r", "g", "b")))
    for side in ("min", "max")
)
"""The names of a chunk's ranges: least and greatest of position, of log scale, of colour."""
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_U32 = npt.NDArray[np.uint32]


def read_compressed_ply(path: Path) -> Gaussians:
    """The Gaussians of a file, in its order. Older files have no ranges of colour: 0 .. 1 is meant.

    Raises:
        ValueError: not a compressed PLY file, truncated or damaged.
    """
    with path.open("rb") as file:
        return _read(path, file, read_header(path, file))


def _read(path: Path, file: BinaryIO, elements: dict[str, Element]) -> Gaussians:
    chunk, vertex = element(path, elements, "chunk"), element(path, elements, "vertex")
    vertex.require(*_PACKED)
    chunk.require(*(name for names in _RANGES[:4] for name in names))
    with_colors = all(name in chunk.properties for names in _RANGES[4:] for name in names)
    if chunk.count < -(-vertex.count // CHUNK):
        raise ValueError(f"{path}: {vertex.count:,} Gaussians want a chunk for each {CHUNK}, got {chunk.count:,}")
    coefficients = elements.get("sh")
    degree = sh_degree_of(path, coefficients.properties) if coefficients else 0
    if coefficients and coefficients.count != vertex.count:
        raise ValueError(f"{path}: element sh must have {vertex.count:,} rows, got {coefficients.count:,}")
    if coefficients:
        coefficients.require(*rest_names(degree))
    arrays = Arrays.empty(vertex.count, degree)
    with np.errstate(all="ignore"):  # ranges of a damaged file overflow; what comes of it is not drawn
        ranges = np.empty((chunk.count, 6, 3), np.float32)
        for rows, data in chunk.rows(file):
            for k, names in enumerate(_RANGES[: 6 if with_colors else 4]):
                for axis, name in enumerate(names):
                    ranges[rows, k, axis] = data[name]
        if not with_colors:
            ranges[:, 4], ranges[:, 5] = 0, 1
        for rows, data in vertex.rows(file):
            packed = [data[name].astype(np.uint32) for name in _PACKED]
            _unpack(arrays, rows, packed, ranges[np.arange(rows.start, rows.stop) // CHUNK])
        if coefficients:
            for rows, data in coefficients.rows(file):
                target = arrays.shN[rows].reshape(len(data), -1)
                for column, name in enumerate(rest_names(degree)):
                    target[:, column] = _SH_OF_BYTE[data[name].astype(np.uint8)]
    return arrays.gaussians()


# The middle of what a byte stands for, and the ends themselves.
_SH_OF_BYTE = ((np.concatenate([[0], np.arange(1.5, 255), [256]]) / 256 - 0.5) * _SH_RANGE).astype(np.float32)


def _unpack(arrays: Arrays, rows: slice, packed: list[_U32], ranges: F32) -> None:
    position, rotation, scale, color = packed
    arrays.means[rows] = _between(ranges[:, 0], ranges[:, 1], _fields(position, (11, 10, 11)))
    arrays.log_scales[rows] = _between(ranges[:, 2], ranges[:, 3], _fields(scale, (11, 10, 11)))
    rest = _fields(rotation, (2, 10, 10, 10))[:, 1:] * 2 - 1
    arrays.quats[rows] = quantise.of_smallest_three(rotation >> 30, rest)
    rgba = _fields(color, (8, 8, 8, 8))
    arrays.sh0[rows, 0] = quantise.sh0_of_colors(_between(ranges[:, 4], ranges[:, 5], rgba[:, :3]))
    arrays.opacity_logits[rows] = quantise.logits_of_bytes((color & 255).astype(np.uint8))


def _fields(words: _U32, bits: tuple[int, ...]) -> F32:
    """[N, fields] in 0..1 of unsigned fields, the first in the highest bits."""
    shifts = 32 - np.cumsum(bits)
    tops = [(1 << b) - 1 for b in bits]
    return np.stack([(words >> s & t) / np.float32(t) for s, t in zip(shifts, tops, strict=True)], 1).astype(np.float32)


def _between(low: F32, high: F32, share: F32) -> F32:
    """By two products, so that 0 and 1 give the ends exactly."""
    return low * (1 - share) + high * share


def write_compressed_ply(path: Path, gaussians: Gaussians) -> None:
    """Writes the Gaussians that can be drawn, in Morton order.

    Raises:
        ValueError: the harmonics are of degree 4.
    """
    arrays = Arrays.of(gaussians, drawable=True)
    if arrays.sh_degree > 3:
        raise ValueError(f"{path}: compressed PLY has harmonics up to degree 3, got {arrays.sh_degree}")
    arrays = arrays.select(morton_order(torch.from_numpy(arrays.means)).numpy())
    count, width = len(arrays), 3 * BANDS[arrays.sh_degree]
    position, low_position, high_position = _in_chunks(arrays.means)
    scales = np.clip(arrays.log_scales, -MAX_LOG_SCALE, MAX_LOG_SCALE)
    scale, low_scale, high_scale = _in_chunks(scales)
    color, low_color, high_color = _in_chunks(quantise.colors(arrays.sh0[:, 0]))
    ranges = np.stack([low_position, high_position, low_scale, high_scale, low_color, high_color], 1)
    largest, rest = quantise.smallest_three(arrays.quats)
    alpha = quantise.opacities(arrays.opacity_logits)[:, None]
    packed = np.empty((count, 4), "<u4")
    packed[:, 0] = _word(position, (11, 10, 11))
    packed[:, 1] = _word(rest * 0.5 + 0.5, (10, 10, 10)) | largest.astype(np.uint32) << np.uint32(30)
    packed[:, 2] = _word(scale, (11, 10, 11))
    packed[:, 3] = _word(np.concatenate([color, alpha], 1), (8, 8, 8, 8))
    header = ["ply", "format binary_little_endian 1.0", "comment written by splat", f"element chunk {len(ranges)}"]
    header += [f"property float {name}" for names in _RANGES for name in names]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if width:
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(width))]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        file.write(ranges.astype("<f4").tobytes())
        file.write(packed.tobytes())
        if width:
            file.write(_sh_bytes(arrays.shN.transpose(0, 2, 1)).tobytes())


def _sh_bytes(values: F32) -> U8:
    codes: U8 = np.floor(np.clip(values / np.float32(_SH_RANGE) + np.float32(0.5), 0, 255 / 256) * 256).astype(np.uint8)
    return codes


def _in_chunks(values: F32) -> tuple[F32, F32, F32]:
    """[N, 3] as shares 0..1 of the ranges of their chunks, and those: [chunks, 3] least, [chunks, 3] greatest."""
    starts = np.arange(0, len(values), CHUNK)
    if not len(values):
        return values, values, values
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    of_row = np.arange(len(values)) // CHUNK
    size = (high.astype(np.float64) - low)[of_row]
    share = np.divide(values - low[of_row].astype(np.float64), size, out=np.zeros_like(size), where=size > 0)
    return share.astype(np.float32), low, high


def _word(shares: npt.NDArray[Any], bits: tuple[int, ...]) -> _U32:
    """[N] words of fields [N, fields] in 0..1, the first in the highest bits."""
    word = np.zeros(len(shares), np.uint32)
    for column, count in enumerate(bits):
        word = word << np.uint32(count) | quantise.levels(shares[:, column], (1 << count) - 1, np.uint32)
    return word
