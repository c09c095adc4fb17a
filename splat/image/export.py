"""Fitted pictures in files that other programs read: PLY, JSON and npz, to the bit and back; SVG, for browsers.

| suffix | what | read back |
|---|---|---|
| .safetensors | our own | to the bit |
| .s2d | compressed, see splat.image.codec | rounded |
| .ply | element `vertex` with x y scale_0 scale_1 rotation f_0 .., the rest in a comment | to the bit |
| .json | the same names, a list of numbers each | to the bit |
| .npz | means, log_scales, angles, colors, width, height, layout (JSON), .. | to the bit |
| .svg | see splat.image.svg | no |
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splat.files import atomic_write, read_metadata
from splat.image.model import FORMAT, TENSORS, ImageGaussians
from splat.image.svg import export_svg
from splat.image.table import Column, about, column_names, columns, from_columns, model_values
from splat.io.ply import element, read_header

VERSION = 1
"""Of the JSON, PLY and npz files."""
# What numpy and zipfile raise for an npz file that is cut off or damaged; they do not share one exception.
_DAMAGED_NPZ = (OSError, ValueError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_PLY_TYPES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class ImageFormat:
    """How a fitted picture is kept in files of one suffix."""

    name: str
    suffix: str
    read: Callable[[Path], ImageGaussians] | None
    write: Callable[[ImageGaussians, Path], None]
    keeps: str = "all, to the bit"
    """What of a model comes back from a file."""


def export_ply(model: ImageGaussians, path: str | Path) -> None:
    """Writes a binary PLY. What is no number of a Gaussian stands as JSON in a comment of the header."""
    table = columns(model)
    kind = str(model.means.dtype).removeprefix("torch.")
    note = json.dumps({"version": VERSION, **about(model)})
    header = ["ply", "format binary_little_endian 1.0", f"comment {FORMAT} {note}", f"element vertex {len(model)}"]
    header += [f"property {_PLY_TYPES[kind]} {name}" for name in table]
    rows = np.stack(list(table.values()), 1).astype(np.dtype(kind).newbyteorder("<"), copy=False)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        file.write(rows.tobytes())


def import_ply(path: str | Path) -> ImageGaussians:
    """Reads what `export_ply` wrote; ValueError for a missing, damaged or other file."""
    path = _existing(path)
    with path.open("rb") as file:
        vertex = element(path, read_header(path, file), "vertex")
        file.seek(0)
        lines = file.read(vertex.offset).decode("utf-8", "replace").splitlines()
        start = f"comment {FORMAT} "
        note = next((line.removeprefix(start) for line in lines if line.startswith(start)), None)
        if note is None:
            raise ValueError(f"{path}: no fitted picture: its header has no comment {FORMAT}")
        vertex.require(*column_names(sum(name.startswith("f_") for name in vertex.properties)))
        table = {name: np.empty(vertex.count, vertex.dtype[name]) for name in vertex.properties}
        for rows, data in vertex.rows(file):
            for name, column in table.items():
                column[rows] = data[name]
    return from_columns(table, _checked(_parse(note, path), path), str(path))


def export_json(model: ImageGaussians, path: str | Path) -> None:
    """Writes {"format", "version", "dtype", width, height, layout, .., "gaussians": {name: [N numbers]}}."""
    table = columns(model)
    if not all(np.isfinite(column).all() for column in table.values()):
        raise ValueError(f"{path}: JSON holds no NaN or infinity, and the model has some; write .npz or .ply")
    kind = str(model.means.dtype).removeprefix("torch.")
    digits = 9 if kind == "float32" else 17  # what it takes to come back to the bit
    numbers = {name: [float(f"{v:.{digits}g}") for v in column.tolist()] for name, column in table.items()}
    whole = {"format": FORMAT, "version": VERSION, "dtype": kind, **about(model), "gaussians": numbers}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(whole, allow_nan=False, separators=(",", ":")) + "\n")


def import_json(path: str | Path) -> ImageGaussians:
    """Reads what `export_json` wrote; ValueError for a missing, damaged or other file."""
    path = _existing(path)
    whole = _parse(path.read_text(errors="replace"), path)
    if whole.pop("format", None) != FORMAT:
        raise ValueError(f"{path}: no fitted picture: wanted a JSON object with format {FORMAT!r}")
    kind, numbers = whole.pop("dtype", None), whole.pop("gaussians", None)
    if kind not in _PLY_TYPES or not isinstance(numbers, dict):
        raise ValueError(f"{path}: wanted dtype float32 or float64 and gaussians, an object of lists")
    try:
        with np.errstate(over="ignore"):
            table: dict[str, Column] = {
                name: np.array(values, dtype=kind).reshape(-1) for name, values in numbers.items()
            }
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: gaussians must be lists of numbers ({error})") from error
    return from_columns(table, _checked(whole, path), str(path))


def export_npz(model: ImageGaussians, path: str | Path) -> None:
    """Writes the model's tensors and values under their own names, and format and version."""
    arrays = {name: getattr(model, name).detach().cpu().numpy() for name in TENSORS}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        values = {name: json.dumps(v) if isinstance(v, list) else v for name, v in about(model).items()}
        said: dict[str, Any] = {"format": FORMAT, "version": VERSION, **values, **arrays}
        np.savez_compressed(file, **said)


def import_npz(path: str | Path) -> ImageGaussians:
    """Reads what `export_npz` wrote; ValueError for a missing, damaged or other file."""
    path = _existing(path)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _DAMAGED_NPZ as error:
        raise ValueError(f"{path}: damaged or not an npz file ({error})") from error
    if str(arrays.pop("format", "")) != FORMAT:
        raise ValueError(f"{path}: no fitted picture: wanted an npz file with format {FORMAT!r}")
    if missing := [name for name in TENSORS if name not in arrays]:
        raise ValueError(f"{path}: has no {', '.join(missing)}")
    means, log_scales, angles, colors = (torch.from_numpy(arrays.pop(name)) for name in TENSORS)
    values = _checked({name: value.item() for name, value in arrays.items() if value.ndim == 0}, path)
    try:
        values |= {name: json.loads(values[name]) for name in ("layout", "layers") if name in values}
        return ImageGaussians(means, log_scales, angles, colors, **model_values(values, str(path)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_s2d(path: Path) -> ImageGaussians:
    from splat.image.codec.s2d import decode_image

    return decode_image(path).model


def _write_s2d(model: ImageGaussians, path: Path) -> None:
    from splat.image.codec.encode import encode_model

    data = encode_model(model).data
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


FORMATS = (
    ImageFormat("splat image", ".safetensors", ImageGaussians.load, ImageGaussians.save),
    ImageFormat("s2d", ".s2d", _read_s2d, _write_s2d, "what qp 28 keeps; splat encode can be told more"),
    ImageFormat("PLY", ".ply", import_ply, export_ply),
    ImageFormat("JSON", ".json", import_json, export_json),
    ImageFormat("npz", ".npz", import_npz, export_npz),
    ImageFormat("SVG", ".svg", None, export_svg, "what a browser shows; SVG is not read back"),
)


def is_image_model(path: str | Path) -> bool:
    """Whether a file holds a fitted picture, by its first bytes. False where there is no file, so that the readers of
    scenes say what they want."""
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        return False
    if suffix == ".safetensors":
        return read_metadata(path).get("format") == FORMAT
    if suffix not in (".ply", ".json"):
        return suffix in (".npz", ".s2d")
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(4096)


def load_image_model(path: str | Path) -> ImageGaussians:
    """The fitted picture in a file of any format that is read; ValueError where there is none."""
    path = _existing(path)
    read = _format_of(path, [kind for kind in FORMATS if kind.read]).read
    assert read
    return read(path)


def save_image_model(model: ImageGaussians, path: str | Path) -> ImageFormat:
    """Writes a fitted picture in the format of the suffix; ValueError for another suffix or no such folder."""
    path = Path(path)
    kind = _format_of(path, list(FORMATS))
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no such folder: {path.parent}")
    kind.write(model, path)
    return kind


def _format_of(path: Path, kinds: list[ImageFormat]) -> ImageFormat:
    found = [kind for kind in kinds if kind.suffix == path.suffix.lower()]
    if not found:
        raise ValueError(f"{path}: wanted a file name that ends in {', '.join(kind.suffix for kind in kinds)}")
    return found[0]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: wanted a JSON object, got {type(value).__name__}")
    return value


def _checked(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Without the version, which must be ours."""
    if (version := values.pop("version", None)) != VERSION:
        raise ValueError(f"{path}: wanted a {FORMAT} file of version {VERSION}, got {version}")
    return values
