"""3DGS PLY: float32 properties by name, as Inria's training code writes them. Nothing is lost but infinite
logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io.arrays import BANDS, F32, Arrays
from splat.io.bounded import check_length
from splat.io.quantise import MAX_LOGIT

_ROWS = 8192  # read and written at a time, so that a file of any length takes little beyond the tensors
_MAX_HEADER = 1 << 16
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


@dataclass(frozen=True)
class Element:
    """A table of a PLY file."""

    path: Path
    name: str
    count: int
    """Rows."""
    dtype: np.dtype[Any]
    """Of a row, a field for each property."""
    offset: int
    """Of the first row in the file."""

    @property
    def properties(self) -> tuple[str, ...]:
        """Their names."""
        return self.dtype.names or ()

    def require(self, *names: str) -> None:
        """Whether it has these properties."""
        if missing := [name for name in names if name not in self.properties]:
            raise ValueError(f"{self.path}: element {self.name} has no property {', '.join(missing)}")

    def rows(self, file: BinaryIO) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """The rows, some thousand at a time, with their place."""
        file.seek(self.offset)
        for start in range(0, self.count, _ROWS):
            count = min(_ROWS, self.count - start)
            data = file.read(count * self.dtype.itemsize)
            check_length(self.path, f"element {self.name}", count * self.dtype.itemsize, len(data))
            yield slice(start, start + count), np.frombuffer(data, self.dtype)


def read_header(path: Path, file: BinaryIO) -> dict[str, Element]:
    """The elements by name. Those after one with a list property, whose place is unknown, are left out.

    Raises:
        ValueError: not a binary PLY file, or the file is shorter than the elements.
    """
    lines = _header_lines(path, file)
    if lines[1] not in (["format", "binary_little_endian", "1.0"], ["format", "binary_big_endian", "1.0"]):
        raise ValueError(f"{path}: wanted a binary PLY file of version 1.0, got {' '.join(lines[1])!r}")
    order = "<" if "little" in lines[1][1] else ">"
    length = path.stat().st_size
    offset = file.tell()
    tables: list[tuple[str, int, dict[str, str]]] = []
    sized = True  # no list property so far
    for words in lines[2:]:
        match words:
            case ["element", name, rows] if rows.isascii() and rows.isdigit() and len(rows) < 19:
                if sized:
                    tables.append((name, int(rows), {}))
                continue
            case ["property", "list", *_] if tables or not sized:
                if sized:
                    tables.pop()
                sized = False
                continue
            case ["property", kind, name] if kind in _TYPES and (tables or not sized):
                if not sized:
                    continue
                if name not in tables[-1][2]:
                    tables[-1][2][name] = order + _TYPES[kind]
                    continue
            case ["end_header"]:
                continue
        raise ValueError(f"{path}: damaged PLY header: {' '.join(words)[:80]!r}")
    elements: dict[str, Element] = {}
    for name, count, properties in tables:
        dtype = np.dtype(list(properties.items()))
        if dtype.itemsize:
            check_length(path, f"element {name} ({count:,} rows)", offset + count * dtype.itemsize, length)
            elements[name] = Element(path, name, count, dtype, offset)
            offset += count * dtype.itemsize
    return elements


def _header_lines(path: Path, file: BinaryIO) -> list[list[str]]:
    lines: list[list[str]] = []
    size = 0
    while not lines or lines[-1] != ["end_header"]:
        line = file.readline(_MAX_HEADER - size)
        size += len(line)
        if not lines and line.strip() != b"ply":
            raise ValueError(f"{path}: not a PLY file: it does not begin with 'ply'")
        if not line.endswith(b"\n"):
            raise ValueError(f"{path}: the PLY header has no end")
        words = line.decode("ascii", "replace").split()
        if words and words[0] not in ("comment", "obj_info"):
            lines.append(words)
    if len(lines) < 3:
        raise ValueError(f"{path}: the PLY header says nothing")
    return lines


def read_ply(path: Path) -> Gaussians:
    """The element `vertex` of a file, in its order; properties of any order and type, others are ignored.

    Raises:
        ValueError: not a binary PLY file, truncated or damaged; a property is missing.
    """
    with path.open("rb") as file:
        vertex = element(path, read_header(path, file), "vertex")
        degree = sh_degree_of(path, vertex.properties)
        tables = {name: names for name, names in _names(degree).items() if names}
        vertex.require(*(name for names in tables.values() for name in names))
        arrays = Arrays.empty(vertex.count, degree)
        for rows, data in vertex.rows(file):
            for name, names in tables.items():
                target = getattr(arrays, name)[rows].reshape(len(data), -1)  # a view
                for column, source in enumerate(names):
                    with np.errstate(all="ignore"):  # float64 may lie beyond float32
                        target[:, column] = data[source]
    _finite_logits(arrays.opacity_logits, out=arrays.opacity_logits)
    return arrays.gaussians()


def element(path: Path, elements: dict[str, Element], name: str) -> Element:
    """The element of this name; ValueError where there is none."""
    if name not in elements:
        raise ValueError(f"{path}: the PLY file has no element {name} with a known place")
    return elements[name]


def _finite_logits(logits: F32, out: F32 | None = None) -> F32:
    """With those of opacity 0 and 1 as packed formats have them: nothing can be trained at infinity. NaN stays."""
    np.copyto(out := logits.copy() if out is None else out, MAX_LOGIT, where=np.isposinf(logits))
    np.copyto(out, -MAX_LOGIT, where=np.isneginf(logits))
    return out


def sh_degree_of(path: Path, names: tuple[str, ...]) -> int:
    """By the number of properties f_rest_*."""
    count = sum(name.startswith("f_rest_") for name in names)
    if count % 3 or count // 3 not in BANDS:
        raise ValueError(f"{path}: wanted 0, 9, 24, 45 or 72 properties f_rest_*, got {count}")
    return BANDS.index(count // 3)


def rest_names(degree: int) -> list[str]:
    """f_rest_* in the order of shN's rows; the file's numbers run through the coefficients of red, then green, blue."""
    bands = BANDS[degree]
    return [f"f_rest_{channel * bands + k}" for k in range(bands) for channel in range(3)]


def _names(degree: int) -> dict[str, list[str]]:
    """The properties of each tensor's columns."""
    return {
        "means": ["x", "y", "z"],
        "quats": [f"rot_{i}" for i in range(4)],
        "log_scales": [f"scale_{i}" for i in range(3)],
        "opacity_logits": ["opacity"],
        "sh0": [f"f_dc_{i}" for i in range(3)],
        "shN": rest_names(degree),
    }


def write_ply(path: Path, gaussians: Gaussians, *, normals: bool = True) -> None:
    """Writes properties in Inria's order: x y z nx ny nz f_dc_* f_rest_* opacity scale_* rot_*.

    Args:
        normals: write nx ny nz (zeros), which some readers want; without them a Gaussian takes 12 bytes less.
    """
    arrays = Arrays.of(gaussians, drawable=False)
    bands = BANDS[arrays.sh_degree]
    names = ["x", "y", "z", *(["nx", "ny", "nz"] if normals else []), "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(3 * bands)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = ["ply", "format binary_little_endian 1.0", "comment written by splat", f"element vertex {len(arrays)}"]
    header += [f"property float {name}" for name in names]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        for start in range(0, len(arrays), _ROWS):
            file.write(_table(arrays, slice(start, start + _ROWS), normals).astype("<f4", copy=False).tobytes())


def _table(arrays: Arrays, rows: slice, normals: bool) -> F32:
    """[n, properties] in the order of the file."""
    means = arrays.means[rows]
    count = len(means)
    rest = arrays.shN[rows].transpose(0, 2, 1).reshape(count, -1)
    logits = _finite_logits(arrays.opacity_logits[rows])
    columns = [means, *([np.zeros_like(means)] if normals else []), arrays.sh0[rows].reshape(count, 3), rest]
    return np.concatenate([*columns, logits[:, None], arrays.log_scales[rows], arrays.quats[rows]], 1)
