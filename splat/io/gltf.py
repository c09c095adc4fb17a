"""glTF binary (`.glb`) with KHR_gaussian_splatting: a POINTS primitive with float attributes.

As the extension was ratified in 2026: ROTATION is a unit quaternion xyzw, SCALE linear and not negative (drafts up to
February 2026 had its log), OPACITY in 0..1, SH_DEGREE_l_COEF_n a colour for each coefficient up to degree 3, with the
signs that 3DGS has; COLOR_0 is for viewers that know only points. glTF's axes are left, up, forward: Gaussians are
turned by half a turn about z on the way in and out, harmonics too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import BANDS, F32, Arrays
from splat.io.bounded import Json, check_length

EXTENSION = "KHR_gaussian_splatting"
_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<I4s")
_FLOAT, _UNSIGNED_BYTE = 5126, 5121
_COMPONENTS = {5120: "<i1", _UNSIGNED_BYTE: "<u1", 5122: "<i2", 5123: "<u2", _FLOAT: "<f4"}
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_MAX_BYTES = (1 << 32) - (1 << 16)


def write_gltf(path: Path, gaussians: Gaussians) -> None:
    """Writes the Gaussians that can be drawn, in their order.

    Raises:
        ValueError: there is none, harmonics of degree 4, or more than the 4 GiB of a glb.
    """
    arrays = Arrays.of(gaussians, drawable=True)
    if not len(arrays):
        raise ValueError(f"{path}: a glb cannot hold a scene without a Gaussian that can be drawn")
    if arrays.sh_degree > 3:
        raise ValueError(f"{path}: {EXTENSION} has harmonics up to degree 3, got {arrays.sh_degree}")
    arrays = arrays.turned(-1, -1, 1)
    names = dict(_shapes(arrays.sh_degree))
    sizes = {name: len(arrays) * (4 if name == "COLOR_0" else 4 * width) for name, width in names.items()}
    if sum(sizes.values()) > _MAX_BYTES:
        raise ValueError(f"{path}: a glb holds 4 GiB, got {sum(sizes.values()):,} bytes")
    text = json.dumps(_document(arrays, names, sizes), separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    length = _HEADER.size + 2 * _CHUNK.size + len(text) + sum(sizes.values())
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.pack(b"glTF", 2, length) + _CHUNK.pack(len(text), b"JSON") + text)
        file.write(_CHUNK.pack(sum(sizes.values()), b"BIN\0"))
        for name in names:
            file.write(np.ascontiguousarray(_attribute(arrays, name)).tobytes())


def _shapes(degree: int) -> Iterator[tuple[str, int]]:
    """Names and widths of the attributes, in the file's order; every one's bytes are a multiple of 4."""
    yield from (("POSITION", 3), ("COLOR_0", 4))
    yield from ((f"{EXTENSION}:{name}", width) for name, width in (("ROTATION", 4), ("SCALE", 3), ("OPACITY", 1)))
    for band in range(degree + 1):
        yield from ((f"{EXTENSION}:SH_DEGREE_{band}_COEF_{n}", 3) for n in range(2 * band + 1))


def _attribute(arrays: Arrays, name: str) -> npt.NDArray[Any]:
    """[N, width] or [N] little-endian, as it is in the file."""
    match name.removeprefix(f"{EXTENSION}:").split("_"):
        case ["POSITION"]:
            values = arrays.means
        case ["COLOR", _]:
            alpha = quantise.opacities(arrays.opacity_logits)[:, None]
            return quantise.levels(np.concatenate([quantise.colors(arrays.sh0[:, 0]), alpha], 1), 255)
        case ["ROTATION"]:
            quats = arrays.quats / np.abs(arrays.quats).max(1, keepdims=True)
            values = (quats / np.linalg.norm(quats, axis=1, keepdims=True))[:, [1, 2, 3, 0]]
        case ["SCALE"]:
            values = np.exp(arrays.log_scales)
        case ["OPACITY"]:
            values = quantise.opacities(arrays.opacity_logits)
        case ["SH", "DEGREE", band, "COEF", n]:
            values = _coefficients(arrays, int(band), int(n))
    return values.astype("<f4", copy=False)


def _coefficients(arrays: Arrays, band: int, n: int) -> F32:
    """[N, 3], a view."""
    return arrays.shN[:, BANDS[band - 1] + n] if band else arrays.sh0[:, 0]


def _document(arrays: Arrays, names: dict[str, int], sizes: dict[str, int]) -> dict[str, Any]:
    views, accessors, offset = [], [], 0
    for index, (name, width) in enumerate(names.items()):
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": sizes[name], "target": 34962})
        offset += sizes[name]
        accessor: dict[str, Any] = {"bufferView": index, "componentType": _FLOAT, "count": len(arrays)}
        accessor["type"] = _TYPES[width]
        if name == "COLOR_0":
            accessor |= {"componentType": _UNSIGNED_BYTE, "normalized": True}
        if name == "POSITION":
            accessor |= {"min": arrays.means.min(0).tolist(), "max": arrays.means.max(0).tolist()}
        accessors.append(accessor)
    extension = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "sortingMethod": "cameraDistance",
        "projection": "perspective",
    }
    primitive = {"attributes": {name: i for i, name in enumerate(names)}, "mode": 0}
    return {
        "asset": {"version": "2.0", "generator": "splat"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive | {"extensions": {EXTENSION: extension}}]}],
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": accessors,
    }


def read_gltf(path: Path) -> Gaussians:
    """The first primitive with the extension, in our axes. Transforms of nodes, compression and colours other than sRGB
    are not supported, and say so.

    Raises:
        ValueError: not such a file, truncated or damaged.
    """
    data = memoryview(path.read_bytes())
    document, binary = _chunks(path, data)
    primitive = _primitive(document)
    attributes = primitive.object("attributes")
    widths = {name: width for degree in range(4) for name, width in _shapes(degree) if name in attributes}
    degree = max((int(name[-8]) for name in widths if ":SH_" in name), default=-1)
    wanted = dict(_shapes(max(degree, 0)))
    del wanted["COLOR_0"]
    if missing := [name for name in wanted if name not in attributes]:
        raise ValueError(f"{path}: the primitive has no attribute {', '.join(missing)}")
    columns = {name: _accessor(document, binary, attributes, name, width) for name, width in wanted.items()}
    count = len(columns["POSITION"])
    if wrong := [name for name, column in columns.items() if len(column) != count]:
        raise ValueError(f"{path}: {wrong[0]} must have {count:,} values, got {len(columns[wrong[0]]):,}")
    arrays = Arrays.empty(count, degree)
    with np.errstate(all="ignore"):
        arrays.means[:] = columns["POSITION"]
        arrays.quats[:] = columns[f"{EXTENSION}:ROTATION"][:, [3, 0, 1, 2]]
        arrays.log_scales[:] = np.log(np.maximum(columns[f"{EXTENSION}:SCALE"], np.exp(np.float32(-30))))
        arrays.opacity_logits[:] = quantise.logits(columns[f"{EXTENSION}:OPACITY"][:, 0])
        for band in range(degree + 1):
            for n in range(2 * band + 1):
                _coefficients(arrays, band, n)[:] = columns[f"{EXTENSION}:SH_DEGREE_{band}_COEF_{n}"]
        return arrays.turned(-1, -1, 1).gaussians()


def _chunks(path: Path, data: memoryview) -> tuple[Json, memoryview]:
    """The JSON of a glb and its buffer."""
    check_length(path, "the header", _HEADER.size + 2 * _CHUNK.size, len(data))
    magic, version, length = _HEADER.unpack_from(data)
    if (magic, version) != (b"glTF", 2):
        raise ValueError(f"{path}: wanted a binary glTF of version 2, got {magic!r}, {version}")
    check_length(path, "the file", length, len(data))
    text_length, text_kind = _CHUNK.unpack_from(data, _HEADER.size)
    start = _HEADER.size + _CHUNK.size
    check_length(path, "the JSON chunk", start + text_length + _CHUNK.size, len(data))
    length, kind = _CHUNK.unpack_from(data, start + text_length)
    if (text_kind, kind) != (b"JSON", b"BIN\0"):
        raise ValueError(f"{path}: wanted chunks JSON and BIN, got {text_kind!r} and {kind!r}")
    binary = start + text_length + _CHUNK.size
    check_length(path, "the BIN chunk", binary + length, len(data))
    return Json.parse(path, bytes(data[start : start + text_length])), data[binary : binary + length]


def _primitive(document: Json) -> Json:
    found = [
        primitive
        for mesh in document.objects("meshes")
        for primitive in mesh.objects("primitives")
        if "extensions" in primitive and EXTENSION in primitive.object("extensions")
    ]
    if not found:
        raise ValueError(f"{document.path}: no primitive has the extension {EXTENSION}")
    if any(key in node for node in document.objects("nodes") for key in ("matrix", "translation", "rotation", "scale")):
        raise ValueError(f"{document.path}: transforms of nodes are not supported")
    extension = found[0].object("extensions").object(EXTENSION)
    if "extensions" in extension:
        used = ", ".join(extension.object("extensions").names)
        raise ValueError(f"{document.path}: extensions of {EXTENSION} are not supported, got {used[:80]}")
    if "colorSpace" in extension and extension.string("colorSpace") != "srgb_rec709_display":
        raise extension.error("colorSpace", "srgb_rec709_display")
    return found[0]


def _accessor(document: Json, binary: memoryview, attributes: Json, name: str, width: int) -> F32:
    """[N, width] the values of an attribute; normalised integers are brought to -1 .. 1 or 0 .. 1."""
    accessor = document.item("accessors", attributes.integer(name, 0, 1 << 32))
    view = document.item("bufferViews", accessor.integer("bufferView", 0, 1 << 32))
    view.integer("buffer", 0, 0)
    count = accessor.integer("count", 1, 1 << 32)
    kind = accessor.integer("componentType", 5120, _FLOAT)
    if kind not in _COMPONENTS or accessor.string("type") != _TYPES[width]:
        raise ValueError(
            f"{document.path}: {name} must be of type {_TYPES[width]} and of a component type that is allowed"
        )
    dtype = np.dtype(_COMPONENTS[kind])
    row = width * dtype.itemsize
    stride = view.integer("byteStride", row, 252) if "byteStride" in view else row
    start = view.integer("byteOffset", 0, 1 << 32) if "byteOffset" in view else 0
    start += accessor.integer("byteOffset", 0, 1 << 32) if "byteOffset" in accessor else 0
    check_length(document.path, name, start + (count - 1) * stride + row, len(binary))
    part = np.ndarray((count, width), dtype, binary, start, (stride, dtype.itemsize))
    if kind == _FLOAT or not accessor.flag("normalized"):
        return part.astype(np.float32)
    return np.maximum(part / np.float32(np.iinfo(dtype).max), np.float32(-1)).astype(np.float32)
