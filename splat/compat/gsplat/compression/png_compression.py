"""PngCompression: Gaussians as a folder of PNG pictures, that gsplat 1.5.3 reads and writes too.

Each tensor is a square picture with a Gaussian for each pixel, 8 bits a value between the least and the greatest of its
channel, 16 for the means (their logs, see `log_transform`; low and high bytes in two files). The harmonics are at most
65,536 rows of 6-bit values and the row of each Gaussian, in an .npz. meta.json holds shapes, dtypes and ranges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from splat.compat.gsplat.utils import inverse_log_transform, log_transform
from splat.core.finite import finite_rows
from splat.core.morton import morton_order
from splat.files import atomic_write

_BITS = {"means": 16, "scales": 8, "quats": 8, "opacities": 8, "sh0": 8}
_ROWS, _ROW_BITS = 65536, 6
"""Most rows of harmonics, and the bits of their values."""

Meta = dict[str, Any]


@dataclass
class PngCompression:
    """Writes and reads such folders. The tensors are [N, ...], unactivated: means, scales (logs), quats, opacities
    (logits), sh0, shN; others are kept as they are, in an .npz each.

    Gaussians with a value that is not finite are left out, and of the others as many of the faintest as it takes for
    their number to be a square.
    """

    use_sort: bool = True
    """Gaussians that are near in space become near in the pictures (by Morton order; gsplat needs PLAS)."""
    verbose: bool = True
    """Say how many were left out."""

    def compress(self, compress_dir: str | Path, splats: Mapping[str, Tensor]) -> None:
        """Writes the folder. `splats` stays as it is.

        Raises:
            ValueError: tensors of different lengths, or a name that cannot be a file's.
        """
        folder = Path(compress_dir)
        values = {name: value.detach().cpu() for name, value in splats.items()}
        if missing := [name for name in ("means", "quats", "opacities") if name not in values]:
            raise ValueError(f"splats must hold {', '.join(missing)}, got {', '.join(values) or 'nothing'}")
        count = len(values["means"])
        for name, value in values.items():
            _check_name(name)
            if len(value) != count:
                raise ValueError(f"splats must have {count} rows each, as means has, got {len(value)} of {name}")
        rows = self._rows(values)
        side = int(len(rows) ** 0.5)
        if self.verbose and len(rows) < count:
            print(f"{count - len(rows)} of {count} Gaussians left out, for a square of {side} x {side}")
        values = {name: value[rows] for name, value in values.items()}
        values["means"], values["quats"] = log_transform(values["means"]), F.normalize(values["quats"], dim=-1)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {name: _write(folder, name, value, side) for name, value in values.items()}
        with atomic_write(folder / "meta.json") as temporary:
            temporary.write_text(json.dumps(meta))

    def decompress(self, compress_dir: str | Path) -> dict[str, Tensor]:
        """What a folder holds.

        Raises:
            ValueError: a file is missing or damaged.
        """
        folder = Path(compress_dir)
        path = folder / "meta.json"
        try:
            meta: dict[str, Meta] = json.loads(path.read_text())
            values = {name: _read(folder, name, own) for name, own in meta.items()}
        except OSError as error:
            raise ValueError(f"{error.filename or path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{folder}: damaged, or not a folder of PngCompression ({error})") from error
        if "means" in values:
            values["means"] = inverse_log_transform(values["means"])
        return values

    def _rows(self, values: dict[str, Tensor]) -> Tensor:
        """int64 [side * side]: the Gaussians in the order of the pictures' pixels."""
        good = torch.stack([finite_rows(value, 0) for value in values.values()]).all(0).nonzero()[:, 0]
        side = int(len(good) ** 0.5)
        by_opacity = values["opacities"].reshape(len(values["means"]))[good].argsort(descending=True, stable=True)
        rows = good[by_opacity[: side * side].sort().values]
        # Along the curve row by row: laid out along a curve in the picture too, the files came out 8 % larger.
        return rows[morton_order(values["means"][rows].float())] if self.use_sort else rows


def _check_name(name: str) -> None:
    if not name.replace("_", "").isalnum():
        raise ValueError(f"names of tensors must be of letters, digits and _, got {name!r}")


def _write(folder: Path, name: str, value: Tensor, side: int) -> Meta:
    """The files of a tensor [side * side, ...], and its part of meta.json."""
    meta: Meta = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if value.numel() == 0:
        return meta
    if name == "shN":
        return meta | _write_rows(folder / "shN.npz", value.flatten(1))
    if name not in _BITS:
        _save_arrays(folder / f"{name}.npz", arr=value.numpy())
        return meta
    grid = value.double().reshape(side, side, -1)
    mins, maxs = grid.amin((0, 1)), grid.amax((0, 1))
    codes = _codes(grid, mins, maxs, _BITS[name])
    for suffix, part in _parts(name, codes):
        _save_picture(folder / f"{name}{suffix}.png", part)
    return meta | {"mins": mins.tolist(), "maxs": maxs.tolist()}


def _read(folder: Path, name: str, meta: Meta) -> Tensor:
    _check_name(name)
    dtype, shape = getattr(torch, meta["dtype"]), meta["shape"]
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no dtype {meta['dtype']}")
    if 0 in shape:
        return torch.zeros(shape, dtype=dtype)
    if name == "shN":
        values = _read_rows(folder / "shN.npz", meta)
    elif name not in _BITS:
        values = torch.from_numpy(_load_arrays(folder / f"{name}.npz", "arr")[0])
    else:
        suffixes = ("_l", "_u") if _BITS[name] == 16 else ("",)
        parts = [_load_picture(folder / f"{name}{suffix}.png").astype(np.int64) for suffix in suffixes]
        codes = sum(part << 8 * k for k, part in enumerate(parts))
        values = _values(torch.as_tensor(codes), meta, _BITS[name])
    return values.reshape(shape).to(dtype)


def _parts(name: str, codes: npt.NDArray[Any]) -> list[tuple[str, npt.NDArray[Any]]]:
    """The bytes of a picture's values, by the suffixes of their files."""
    if _BITS[name] == 8:
        return [("", codes)]
    return [("_l", codes & 0xFF), ("_u", codes >> 8)]


def _codes(values: Tensor, mins: Tensor, maxs: Tensor, bits: int) -> npt.NDArray[np.int64]:
    """Integers 0 .. 2^bits - 1 between mins and maxs; 0 where those are equal."""
    size = torch.where(maxs > mins, maxs - mins, 1.0)
    return np.asarray(((values - mins) / size * (2**bits - 1)).round().long())


def _values(codes: Tensor, meta: Meta, bits: int) -> Tensor:
    mins, maxs = (torch.tensor(meta[name], dtype=torch.float64) for name in ("mins", "maxs"))
    values: Tensor = codes / (2**bits - 1) * (maxs - mins) + mins
    return values


def _write_rows(path: Path, values: Tensor) -> Meta:
    """Harmonics [N, D] as at most 65,536 rows (k-means) and which of them each Gaussian has."""
    from splat.io.kmeans import palette

    book, labels = palette(values.float().numpy(), _ROWS)
    rows = torch.from_numpy(book).double()
    mins, maxs = rows.min(), rows.max()
    codes = _codes(rows, mins, maxs, _ROW_BITS)
    _save_arrays(path, centroids=codes.astype(np.uint8), labels=labels.astype(np.uint16))
    return {"mins": mins.item(), "maxs": maxs.item(), "quantization": _ROW_BITS}


def _read_rows(path: Path, meta: Meta) -> Tensor:
    codes, labels = _load_arrays(path, "centroids", "labels")
    rows = _values(torch.from_numpy(codes.astype(np.int64)), meta, meta["quantization"])
    return rows[torch.from_numpy(labels.astype(np.int64))]


def _save_picture(path: Path, codes: npt.NDArray[Any]) -> None:
    import imageio.v3 as iio

    image = codes.astype(np.uint8)
    with atomic_write(path) as temporary:
        iio.imwrite(temporary, image[..., 0] if image.shape[2] == 1 else image)


def _load_picture(path: Path) -> npt.NDArray[np.uint8]:
    import imageio.v3 as iio

    return cast("npt.NDArray[np.uint8]", iio.imread(path))


def _save_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(cast(BinaryIO, file), **arrays)  # type: ignore[arg-type]


def _load_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    with np.load(path) as file:
        return [file[name] for name in names]
