"""antimatter15's `.splat`: 32 bytes a Gaussian, no header and no harmonics.

Position and scale are float32, the scale not its log; colour and opacity are four bytes; the unit quaternion wxyz is
four bytes, (b - 128) / 128.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import Arrays

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
MIN_LOG_SCALE = -30.0
"""What a scale of 0 (or less, in a damaged file) is read as."""


def read_dotsplat(path: Path) -> Gaussians:
    """The Gaussians of a file; the order is kept.

    Raises:
        ValueError: its length is not that of whole Gaussians.
    """
    length = path.stat().st_size
    if length == 0 or length % _ROW.itemsize:
        raise ValueError(f"{path}: a .splat file has {_ROW.itemsize} bytes for each Gaussian, got {length:,} bytes")
    rows = np.fromfile(path, _ROW)
    arrays = Arrays.empty(len(rows), 0)
    with np.errstate(all="ignore"):
        arrays.means[:] = rows["means"]
        arrays.log_scales[:] = np.log(np.maximum(rows["scales"], np.exp(np.float32(MIN_LOG_SCALE))))
    arrays.sh0[:, 0] = quantise.sh0_of_colors(rows["rgba"][:, :3] / np.float32(255))
    arrays.opacity_logits[:] = quantise.logits_of_bytes(rows["rgba"][:, 3])
    quats = rows["quats"].astype(np.float32) - 128
    quats[~quats.any(1)] = (1, 0, 0, 0)
    arrays.quats[:] = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    return arrays.gaussians()


def write_dotsplat(path: Path, gaussians: Gaussians) -> None:
    """Writes the Gaussians that can be drawn, the large and opaque first, as viewers that draw while they load want it.
    Harmonics beyond the constant one are dropped, colours clamped to 0..1.

    Raises:
        ValueError: there is none.
    """
    arrays = Arrays.of(gaussians, drawable=True)
    if not len(arrays):
        raise ValueError(f"{path}: a .splat file cannot hold a scene without a Gaussian that can be drawn")
    weight = arrays.log_scales.astype(np.float64).sum(1) + np.log(
        quantise.opacities(arrays.opacity_logits).astype(np.float64)
    )
    arrays = arrays.select(np.argsort(-weight, kind="stable"))
    rows = np.empty(len(arrays), _ROW)
    rows["means"] = arrays.means
    rows["scales"] = np.exp(arrays.log_scales)
    rows["rgba"][:, :3] = quantise.levels(quantise.colors(arrays.sh0[:, 0]), 255)
    rows["rgba"][:, 3] = quantise.opacity_bytes(arrays.opacity_logits)
    quats = arrays.quats / np.abs(arrays.quats).max(1, keepdims=True)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    rows["quats"] = np.clip(np.rint(quats * 128 + 128), 0, 255)
    with atomic_write(path) as temporary:
        rows.tofile(temporary)
