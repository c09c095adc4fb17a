"""Picture files to arrays of bytes, and arrays to other sizes."""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = npt.NDArray[Any]
_EXIF_ORIENTATION = 0x0112
# What Pillow raises for files that are cut off or damaged; its decoders do not share one exception.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class BrokenPhoto(ValueError):
    """A picture, mask or depth map that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Header:
    """What a picture file says before it is decoded."""

    width: int
    """As stored."""
    height: int
    turned: bool
    """EXIF turns it by 90 degrees."""
    alpha: bool


def read_header(path: Path) -> Header:
    """Size and kind of a picture; BrokenPhoto when it is missing or no picture."""
    with _open(path) as image:
        return Header(image.width, image.height, _orientation(image) in (5, 6, 7, 8), _has_alpha(image))


# Decoding


def _open(path: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limit on the size is for pictures from strangers
            return Image.open(path)
    except FileNotFoundError:
        raise BrokenPhoto(f"{path}: no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise BrokenPhoto(f"{path} is not a picture in a known format, or is damaged") from None
    except DAMAGED as error:
        raise BrokenPhoto(f"{path} cannot be read: {one_line(error)}") from error


def _orientation(image: Image.Image) -> int:
    value: Any = 1
    with suppress(*DAMAGED):  # a damaged EXIF block is no reason to refuse the pixels
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa", "RGBA")


def decode(path: Path, upright: bool) -> Array:
    """uint8 [H, W, 3 or 4]."""
    from PIL import ImageOps

    try:
        with _open(path) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turned = ImageOps.exif_transpose(image) if upright and _orientation(image) != 1 else image
            if turned.mode.startswith("I") or turned.mode == "F":
                grey = np.asarray(turned).astype(np.float32)
                values = np.clip(grey / (257 if turned.mode != "F" else 1 / 255) + 0.5, 0, 255).astype(np.uint8)
                return np.repeat(values[..., None], 3, 2)
            return np.array(turned.convert("RGBA" if _has_alpha(image) else "RGB"))
    except BrokenPhoto:
        raise
    except DAMAGED as error:
        raise BrokenPhoto(f"{path} is damaged or cut off: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# Changing the size


def resize_area(pixels: Array, width: int, height: int) -> Array:
    """uint8 [H, W, C] averaged over the areas of the new pixels; with 4 channels the colours are weighted by alpha."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[2] != 4:
        return _rounded(_averaged(pixels, width, height))
    alpha = pixels[..., 3:].astype(np.float32)
    weighted = _averaged(np.concatenate([pixels[..., :3] * alpha, alpha], 2), width, height)
    colours = weighted[..., :3] / np.maximum(weighted[..., 3:], 1e-6)
    return _rounded(np.concatenate([colours, weighted[..., 3:]], 2))


def _rounded(values: Array) -> Array:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _averaged(values: Array, width: int, height: int) -> Array:
    """[H, W, C] to float32 [height, width, C]: a new pixel is the mean over its area, to fractions of a pixel."""
    for axis, size in ((0, height), (1, width)):
        old = values.shape[axis]
        edges = np.linspace(0, old, size + 1)
        first = np.minimum(np.floor(edges[:-1]).astype(np.int64), old - 1)
        taps = int(np.max(np.ceil(edges[1:]).astype(np.int64) - first))
        total: Any = 0
        for tap in range(taps):
            row = np.minimum(first + tap, old - 1)
            part = np.minimum(edges[1:], first + tap + 1) - np.maximum(edges[:-1], first + tap)
            weight = (np.maximum(part, 0) / (old / size)).astype(np.float32)
            total = total + np.take(values, row, axis) * weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        values = total
    return values


def resize_nearest(values: Array, width: int, height: int) -> Array:
    """[h, w] to [height, width]: an average across an edge in depth would be a point in mid-air."""
    rows = (np.arange(height) + 0.5) * values.shape[0] / height
    columns = (np.arange(width) + 0.5) * values.shape[1] / width
    return np.ascontiguousarray(values[rows.astype(np.int64)[:, None], columns.astype(np.int64)])
