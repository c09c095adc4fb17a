"""Depth maps from files: .npy, 16-bit .png, and the OpenEXR files that programs write depth to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat.exr import read_exr
from splat.optional import NotInstalled
from splat.scene.data.capture import DepthFile
from splat.scene.data.pixels import DAMAGED, BrokenPhoto, one_line

SUFFIXES = (".npy", ".exr", ".png")
_DEPTH_NAMES = ("Z", "depth", "Y", "R", "V")

Array = npt.NDArray[np.float32]


def read_depth(file: DepthFile) -> Array:
    """float32 [h, w] z-depths in the units of the capture, 0 where not known.

    Raises:
        BrokenPhoto: missing, damaged, or not a map.
        NotInstalled: an OpenEXR file, without the extra [hdr].
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
    except (BrokenPhoto, NotInstalled):
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
    """The channel that holds the depth, by the names that programs give it."""
    channels = read_exr(path)
    return channels[next((name for name in _DEPTH_NAMES if name in channels), next(iter(channels)))]
