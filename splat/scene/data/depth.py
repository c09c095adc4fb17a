"""Depth maps from files: .npy, 16-bit .png, and the OpenEXR files that programs write depth to."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splat.scene.data.capture import DepthFile
from splat.scene.data.pixels import DAMAGED, BrokenPhoto, one_line

SUFFIXES = (".npy", ".exr", ".png")
_EXR_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_EXR_ROWS = {0: 1, 2: 1, 3: 16}  # rows per block: stored as they are, zlib by rows, zlib by 16 rows
_DEPTH_NAMES = ("Z", "depth", "Y", "R", "V")

Array = npt.NDArray[np.float32]


def read_depth(file: DepthFile) -> Array:
    """float32 [h, w] z-depths in the units of the capture, 0 where not known.

    Raises:
        BrokenPhoto: missing, damaged, or not a map.
    """
    suffix = file.path.suffix.lower()
    try:
        if suffix == ".npy":
            values = np.load(file.path, allow_pickle=False)
        elif suffix == ".exr":
            values = _read_exr(file.path)
        elif suffix == ".png":
            values = _read_png(file.path)
        else:
            raise BrokenPhoto(f"{file.path}: a depth map is one of {', '.join(SUFFIXES)}")
    except BrokenPhoto:
        raise
    except FileNotFoundError:
        raise BrokenPhoto(f"{file.path}: no such file") from None
    except (*DAMAGED, IndexError, KeyError) as error:
        raise BrokenPhoto(f"{file.path} is damaged or cut off: {one_line(error)}") from error
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "fiu" or values.size == 0:
        raise BrokenPhoto(f"{file.path}: a depth map is [h, w] numbers, got {list(values.shape)} {values.dtype}")
    depth = values.astype(np.float32) * np.float32(file.unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _read_png(path: Path) -> npt.NDArray[np.generic]:
    from PIL import Image

    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise BrokenPhoto(f"{path}: a depth map's .png has one channel of 16 bits, this one is {image.mode}")
        return np.asarray(image)


def _read_exr(path: Path) -> npt.NDArray[np.generic]:
    """One channel of a flat file of scan lines, stored as it is or with zlib."""
    data = path.read_bytes()
    magic, flags = struct.unpack_from("<II", data)
    if magic != 20000630:
        raise BrokenPhoto(f"{path} is no OpenEXR file")
    if flags & 0x1A00:
        raise BrokenPhoto(f"{path}: tiled, deep and multi-part OpenEXR files are not read; convert it to .npy")
    at, header = 8, dict[str, bytes]()
    while data[at] != 0:
        name, at = _exr_text(data, at)
        _, at = _exr_text(data, at)  # its type, which the name implies
        (size,) = struct.unpack_from("<I", data, at)
        header[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    compression = header["compression"][0]
    if compression not in _EXR_ROWS:
        raise BrokenPhoto(f"{path}: OpenEXR's compression {compression} is not read (ZIP, ZIPS, none are)")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels = _exr_channels(header["channels"])
    wanted = next((name for name in _DEPTH_NAMES if name in channels), next(iter(channels)))
    row_size = sum(dtype.itemsize for dtype in channels.values()) * width
    if width < 1 or height < 1 or width > 1 << 16 or height > 1 << 16:
        raise BrokenPhoto(f"{path} is damaged: {width} x {height} pixels")
    before = 0  # bytes of a row that come before the wanted channel
    for name, dtype in channels.items():
        if name == wanted:
            break
        before += dtype.itemsize * width
    result = np.zeros((height, width), channels[wanted])
    rows = _EXR_ROWS[compression]
    for offset in struct.unpack_from(f"<{-(-height // rows)}Q", data, at + 1):
        y, size = struct.unpack_from("<iI", data, offset)
        packed = data[offset + 8 : offset + 8 + size]
        if len(packed) != size or not top <= y <= bottom:
            raise ValueError("a block of lines is not all there")
        count = min(rows, bottom + 1 - y)
        block = _exr_unpacked(packed, count * row_size, compression)
        lines = np.frombuffer(block, np.uint8).reshape(count, row_size)
        part = lines[:, before : before + result.itemsize * width]
        result[y - top : y - top + count] = np.ascontiguousarray(part).view(result.dtype)
    return result


def _exr_text(data: bytes, at: int) -> tuple[str, int]:
    """Up to the next zero byte, and where to go on."""
    end = data.index(b"\0", at)
    return data[at:end].decode("latin-1"), end + 1


def _exr_channels(table: bytes) -> dict[str, np.dtype[Any]]:
    """In the order of the file, which is that of the names."""
    channels: dict[str, np.dtype[Any]] = {}
    at = 0
    while table[at] != 0:
        name, at = _exr_text(table, at)
        kind, _, x_step, y_step = struct.unpack_from("<iIii", table, at)
        if kind not in _EXR_TYPES or (x_step, y_step) != (1, 1):
            raise ValueError(f"channel {name} is of an unknown kind")
        channels[name] = _EXR_TYPES[kind]
        at += 16
    return channels


def _exr_unpacked(block: bytes, size: int, compression: int) -> bytes:
    """zlib's output holds first the even and then the odd bytes, each as the difference to the one before."""
    if compression == 0 or len(block) == size:  # what zlib would not make smaller is stored as it is
        return block
    packed = np.frombuffer(zlib.decompressobj().decompress(block, size + 1), np.uint8)
    if len(packed) != size:
        raise ValueError("a block has the wrong length")
    steps = packed.astype(np.int64) - 128
    steps[0] += 128
    planes = np.cumsum(steps).astype(np.uint8)
    half = (size + 1) // 2
    result = np.empty(size, np.uint8)
    result[0::2], result[1::2] = planes[:half], planes[half:]
    return result.tobytes()
