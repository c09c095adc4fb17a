"""Points with colours from a .ply file, the little of the format that data sets use."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
Array: TypeAlias = npt.NDArray[np.float64]
_Properties: TypeAlias = list[tuple[str, str]]
"""Names and numpy's type codes."""


def read_points_ply(path: Path) -> tuple[Array, Array]:
    """x, y, z [P, 3] and red, green, blue in 0..1 [P, 3] (grey where there are none); ASCII or binary. Points that are
    not finite are left out.

    Raises:
        ValueError: missing, cut off, or not such a file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    end = data.find(b"end_header")
    newline = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or newline < 0:
        raise ValueError(f"{path} is no PLY file")
    form, count, properties = _header(path, data[:end].decode("ascii", "replace"))
    body = data[newline + 1 :]
    if not count:
        return np.zeros((0, 3)), np.zeros((0, 3))
    columns = _ascii(path, body, count, properties) if form == "ascii" else _binary(path, body, count, properties, form)
    points = np.stack([columns[name].astype(np.float64) for name in "xyz"], 1)
    colors = np.full((count, 3), 0.5)
    kinds = dict(properties)
    if all(name in columns for name in ("red", "green", "blue")):
        top = 255.0 if kinds["red"] == "u1" else 65535.0 if kinds["red"] == "u2" else 1.0
        colors = np.stack([columns[name].astype(np.float64) for name in ("red", "green", "blue")], 1) / top
    good = np.isfinite(points).all(1) & np.isfinite(colors).all(1)
    return points[good], colors[good].clip(0, 1)


def _ascii(path: Path, body: bytes, count: int, properties: _Properties) -> dict[str, npt.NDArray[np.generic]]:
    """Columns by name."""
    lines = body.decode("ascii", "replace").splitlines()[:count]
    try:
        table = np.array([line.split()[: len(properties)] for line in lines], np.float64)
        table = table.reshape(count, len(properties))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or cut off: wanted {count} lines of {len(properties)} numbers") from error
    return {name: table[:, i] for i, (name, _) in enumerate(properties)}


def _binary(
    path: Path, body: bytes, count: int, properties: _Properties, form: str
) -> dict[str, npt.NDArray[np.generic]]:
    """Columns by name."""
    order = "<" if form == "binary_little_endian" else ">"
    dtype = np.dtype([(name, order + kind) for name, kind in properties])
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"{path} is cut off: {count} points announced, {len(body) // dtype.itemsize} there")
    table = np.frombuffer(body[: count * dtype.itemsize], dtype)
    return {name: table[name] for name, _ in properties}


def _header(path: Path, text: str) -> tuple[str, int, _Properties]:
    """Format, number of points, and their properties with numpy's type codes."""
    form, count, elements = "", -1, 0
    properties: _Properties = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            elements += 1
            if words[1] == "vertex" and elements == 1 and words[2].isdigit():
                count = int(words[2])
        elif words[:1] == ["property"] and elements == 1:
            if len(words) != 3 or words[1] not in _TYPES:
                raise ValueError(f"{path}: a point's property {' '.join(words[1:])!r} is not supported")
            properties.append((words[2], _TYPES[words[1]]))
    if form not in ("ascii", "binary_little_endian", "binary_big_endian") or count < 0:
        raise ValueError(f"{path} is no PLY file of points (an element vertex must come first)")
    if not {"x", "y", "z"} <= {name for name, _ in properties}:
        raise ValueError(f"{path}: points have no x, y and z")
    return form, count, properties
