"""How values become small integers and come back; shared by the packed formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from splat.gaussians import SH_C0
from splat.io.arrays import F32, U8

MIN_OPACITY = 1e-6
"""Packed formats store opacities 0 and 1, whose logits are infinite: they are read as this much more or less. No
picture changes (alpha below 1/255 is skipped, above 0.999 cut), and the parameter can still be trained."""
MAX_LOGIT = float(np.log((1 - MIN_OPACITY) / MIN_OPACITY))


def logits(opacities: npt.NDArray[Any]) -> F32:
    """float32 of opacities in 0..1."""
    inside = np.clip(opacities.astype(np.float64), MIN_OPACITY, 1 - MIN_OPACITY)
    return np.log(inside / (1 - inside)).astype(np.float32)


def opacities(logits: F32) -> F32:
    """In 0..1."""
    return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)


def levels(values: npt.NDArray[Any], top: int, dtype: type[np.unsignedinteger[Any]] = np.uint8) -> npt.NDArray[Any]:
    """Values in 0..1 (others are clamped) rounded to the integers 0 .. top."""
    codes: npt.NDArray[Any] = np.rint(np.clip(values, 0, 1) * np.float64(top)).astype(dtype)
    return codes


def opacity_bytes(logits: F32) -> U8:
    """sigmoid * 255, rounded."""
    return levels(opacities(logits), 255)


_LOGITS = logits(np.arange(256) / 255)


def logits_of_bytes(codes: U8) -> F32:
    """The inverse of `opacity_bytes`."""
    return _LOGITS[codes]


def colors(sh0: F32) -> F32:
    """SH + 0.5 of [..., 3], not clamped."""
    return sh0 * np.float32(SH_C0) + np.float32(0.5)


def sh0_of_colors(colors: npt.NDArray[Any]) -> F32:
    """The inverse of `colors`."""
    return ((colors - 0.5) / SH_C0).astype(np.float32)


def smallest_three(quats: F32) -> tuple[npt.NDArray[np.int64], F32]:
    """For quaternions [N, 4] of any length but zero: which component of the unit quaternion is largest in size [N], and
    the others [N, 3] in their order, of the sign that makes the largest positive, times sqrt(2): in -1 .. 1."""
    # By the largest component first: squares of very long or short quaternions leave float32's range.
    quats = quats / np.abs(quats).max(1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    factor = np.sqrt(np.float32(2)) / np.linalg.norm(quats, axis=1)
    factor *= np.sign(np.take_along_axis(quats, largest[:, None], 1)[:, 0])
    rest: F32 = np.take_along_axis(quats, _OTHERS[largest], 1)
    rest *= factor[:, None]
    return largest, rest


def of_smallest_three(largest: npt.NDArray[Any], rest: npt.NDArray[Any]) -> F32:
    """The inverse of `smallest_three`: unit quaternions, the largest component positive."""
    rest = rest.astype(np.float32) * np.sqrt(np.float32(0.5))
    quats = np.empty((len(rest), 4), np.float32)
    np.put_along_axis(quats, _OTHERS[largest], rest, 1)
    missing = np.sqrt(np.maximum(0, 1 - np.square(rest).sum(1)))
    np.put_along_axis(quats, largest.astype(np.int64)[:, None], missing[:, None], 1)
    # Rounding can leave four numbers a little longer than 1, or (damaged files) far.
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return quats


_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
