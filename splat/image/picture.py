"""Pictures in and out: files, arrays and PIL images to one float tensor, and back without losing a bit."""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splat.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

Channels = Literal["L", "RGB", "RGBA"]
Bits = Literal[8, 16]
Array: TypeAlias = npt.NDArray[np.generic]
Levels: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.uint16]"
Source: TypeAlias = "str | Path | Array | Tensor | Image.Image"

MAX_SIDE = 16384
"""Longest side of a picture, pixels."""
CHANNEL_COUNT: dict[Channels, int] = {"L": 1, "RGB": 3, "RGBA": 4}
_CHANNELS_OF = {count: name for name, count in CHANNEL_COUNT.items()}
_EXIF_ORIENTATION = 0x0112
# What Pillow raises for files that are cut off or damaged; its decoders do not share one exception.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class PictureError(ValueError):
    """A picture that cannot be read or written; the message is one line for the person who gave it."""


@dataclass(frozen=True)
class Picture:
    """A picture ready to be fitted.

    Args:
        pixels: [H,W,D] float32 in 0..1, the sRGB values as stored (not linearised). With alpha the colours are
            premultiplied: a fully transparent pixel is all zero.
        channels: what the D channels are.
        bits: per channel in the source (8 for float arrays); what a reconstruction should be written with.
        name: stem of the file name, or "array".
    """

    pixels: Tensor
    channels: Channels
    bits: Bits
    name: str


def read_picture(source: Source) -> Picture:
    """Reads a picture: path (PNG 8/16-bit, JPEG, WebP and what else Pillow opens), array, tensor or PIL image.

    Arrays and tensors are [H,W] or [H,W,D] with D of 1, 3 or 4 (alpha not premultiplied, as everywhere): uint8, uint16,
    or floats in 0..1. The EXIF orientation of files and PIL images is applied; colour profiles are not.

    Raises:
        PictureError: missing, damaged, animated, empty or too large picture; array of another shape, type or range.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        return _finish(*_read_file(path), path.stem)
    if isinstance(source, Tensor):
        source = (
            source.detach().cpu().float().numpy() if source.dtype == torch.bfloat16 else source.detach().cpu().numpy()
        )
    if isinstance(source, np.ndarray):
        return _finish(*_check_array(source), "array")
    if hasattr(source, "getexif"):
        try:
            _check_image(source, "the PIL image")
            return _finish(*_image_values(source), "array")
        except PictureError:
            raise
        except _DAMAGED as error:
            raise PictureError(f"cannot read the PIL image: {_one_line(error)}") from error
    raise PictureError(f"a picture is a path, numpy array, torch tensor or PIL image, got {type(source).__name__}")


PNG_LEVEL = 6
PNG_LEVEL_LARGE = 3
"""zlib's level above LARGE: half the time for 4 % more bytes (measured on 33 megapixels)."""
LARGE = 1 << 23
"""Pixels."""
STRIP = 256
"""Rows that are converted at a time."""


def write_picture(path: str | Path, pixels: Tensor, channels: Channels, bits: Bits = 8) -> None:
    """Writes `pixels` [H,W,D] (0..1, clamped; colours premultiplied when `channels` is RGBA) by the suffix of `path`:
    .png (8 or 16 bits, exact), .webp (lossless, 8 bits) or .jpg (quality 95, 8 bits, no alpha). The file appears whole
    or not at all.

    Raises:
        PictureError: shape that does not fit `channels`, values that are not finite, or a format that cannot hold them.
    """
    if pixels.ndim != 3 or pixels.shape[2] != CHANNEL_COUNT[channels] or pixels.numel() == 0:
        raise PictureError(
            f"cannot write {path}: pixels must have shape [H,W,{CHANNEL_COUNT[channels]}], got {list(pixels.shape)}"
        )
    check_suffix(path, channels, bits)
    if not all(bool(rows.isfinite().all()) for rows in torch.split(pixels, STRIP)):
        raise PictureError(f"cannot write {path}: pixels hold NaN or infinity")
    write_levels(path, quantise(pixels, bits), channels)


def check_suffix(path: str | Path, channels: Channels, bits: Bits) -> None:
    """PictureError where no picture with these channels can be written under this name."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".webp", ".jpg", ".jpeg"):
        raise PictureError(f"cannot write {path}: the name must end in .png, .webp or .jpg")
    if bits == 16 and suffix != ".png":
        raise PictureError(f"cannot write {path}: only .png holds 16 bits")
    if channels == "RGBA" and suffix in (".jpg", ".jpeg"):
        raise PictureError(f"cannot write {path}: JPEG holds no alpha, use .png or .webp")


def write_levels(path: str | Path, values: Levels, channels: Channels) -> None:
    """Writes [H,W,D] of uint8 or uint16, alpha not premultiplied, as `write_picture` does what it has quantised."""
    path = Path(path)
    check_suffix(path, channels, 16 if values.dtype == np.uint16 else 8)
    try:
        with atomic_write(path) as temporary:
            if values.dtype == np.uint16:
                _write_png16(temporary, values)
            else:
                from PIL import Image

                level = PNG_LEVEL if values.shape[0] * values.shape[1] <= LARGE else PNG_LEVEL_LARGE
                kinds: dict[str, dict[str, Any]] = {".png": {"compress_level": level}, ".webp": {"lossless": 1}}
                options = kinds.get(path.suffix.lower(), {"quality": 95})
                Image.fromarray(values[..., 0] if channels == "L" else values).save(temporary, **options)
    except OSError as error:
        raise PictureError(f"cannot write {path}: {_one_line(error)}") from error


def quantise(pixels: Tensor, bits: Bits = 8) -> Levels:
    """[H,W,D] 0..1 (premultiplied when D is 4) to integers: divides the colours by alpha, clamps and rounds."""
    levels = np.empty(pixels.shape, np.uint8 if bits == 8 else np.uint16)
    for top in range(0, pixels.shape[0], STRIP):
        values = pixels[top : top + STRIP].detach().to("cpu", torch.float32).clamp(0, 1)
        if values.shape[2] == 4:
            alpha = values[..., 3:]
            colours = torch.where(alpha > 0, values[..., :3] / alpha.clamp_min(1e-12), 0).clamp_max(1)
            values = torch.cat([colours, alpha], dim=2)
        levels[top : top + STRIP] = (values * (2**bits - 1) + 0.5).floor().numpy()
    return levels


def _finish(values: npt.NDArray[np.float32], bits: Bits, name: str) -> Picture:
    channels = _CHANNELS_OF[values.shape[2]]
    pixels = torch.from_numpy(np.ascontiguousarray(values))
    if channels == "RGBA":
        pixels[..., :3] *= pixels[..., 3:]
    return Picture(pixels, channels, bits, name)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# Files and PIL images


def _read_file(path: Path) -> tuple[npt.NDArray[np.float32], Bits]:
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise PictureError(f"{path}: no such file")
    if path.is_dir():
        raise PictureError(f"{path} is a directory; give one picture file")
    try:
        if path.stat().st_size == 0:
            raise PictureError(f"{path} is empty (0 bytes)")
        with warnings.catch_warnings():
            # Our own limit on the size follows, and a damaged EXIF block does not make the pixels unreadable.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_image(image, str(path))
                return _image_values(image)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"{path} is too large: at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except UnidentifiedImageError:
        raise PictureError(f"{path} is not a picture in a known format (PNG, JPEG, WebP, ...), or is damaged") from None
    except PermissionError:
        raise PictureError(f"{path}: permission denied") from None
    except _DAMAGED as error:
        raise PictureError(f"{path} is damaged or cut off: {_one_line(error)}") from error


def _check_image(image: Image.Image, where: str) -> None:
    # An MPO is a JPEG from a phone or stereo camera; its further pictures are previews, not frames.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise PictureError(f"{where} holds {frames} frames (an animation or several pages); give a single picture")
    _check_size(image.width, image.height, where)


def _check_size(width: int, height: int, where: str) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"{where} is empty: {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"{where} is too large: {width} x {height} pixels, at most {MAX_SIDE} a side")


def _image_values(image: Image.Image) -> tuple[npt.NDArray[np.float32], Bits]:
    """Values [H,W,D] in 0..1 of an open PIL image, upright, alpha not premultiplied."""
    bits: Bits = 8
    values = _png16_values(image)
    if values is not None:
        bits = 16
    elif image.mode.startswith("I"):
        bits = 16
        values = _scaled(np.asarray(image).clip(0, 65535).astype(np.uint16)[..., None])
    elif image.mode == "F":
        values, bits = _check_array(np.asarray(image))
    else:
        transparent = "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa", "RGBA")
        grey = image.mode in ("1", "L")
        values = _scaled(np.asarray(image.convert("RGBA" if transparent else "L" if grey else "RGB")))
        values = values[..., None] if values.ndim == 2 else values
    orientation = 1
    # A damaged EXIF block is no reason to refuse the pixels.
    with suppress(*_DAMAGED):
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return _upright(values, orientation), bits


def _png16_values(image: Image.Image) -> npt.NDArray[np.float32] | None:
    """All 16 bits of a PNG with more than one channel, or None where `image` is something else.

    Pillow has no 16-bit colour mode and keeps the high bytes only. But its decoder undoes the PNG filters in C for any
    raw mode of the right width, so the file is decoded once as big endian (keeps the high bytes) and once as little
    endian (keeps the low ones). Grey with alpha is as wide as 8-bit RGBA, which yields all four bytes at once.
    """
    tiles = getattr(image, "tile", [])
    raw = tiles[0][3] if image.format == "PNG" and tiles else None
    if raw not in ("RGB;16B", "RGBA;16B", "LA;16B"):
        return None
    from PIL import Image

    def decode(raw_mode: str) -> npt.NDArray[np.uint16]:
        with Image.open(image.filename) as again:  # type: ignore[attr-defined]
            codec, extents, offset, _ = again.tile[0]
            again.tile = [type(again.tile[0])(codec, extents, offset, raw_mode)]
            return np.asarray(again).astype(np.uint16)

    if raw == "LA;16B":
        bytes4 = decode("RGBA")
        grey_alpha = bytes4[..., 0::2] << 8 | bytes4[..., 1::2]
        return _scaled(grey_alpha[..., [0, 0, 0, 1]])
    values = decode(raw) << 8 | decode(raw[:-1] + "L")
    key = image.info.get("transparency")
    if key is None:
        return _scaled(values)
    opaque = (values != np.asarray(key, np.uint16)).any(axis=2, keepdims=True)
    return _scaled(np.concatenate([values, opaque.astype(np.uint16) * 65535], axis=2))


def _upright(values: npt.NDArray[np.float32], orientation: int) -> npt.NDArray[np.float32]:
    """Undoes the EXIF orientation (1..8; anything else is taken for upright)."""
    if orientation in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


# Arrays


def _scaled(values: Array) -> npt.NDArray[np.float32]:
    scaled = values.astype(np.float32)
    scaled /= np.float32(np.iinfo(cast("np.dtype[np.integer]", values.dtype)).max)
    return scaled


def _check_array(array: Array) -> tuple[npt.NDArray[np.float32], Bits]:
    shape = list(array.shape)
    if array.ndim not in (2, 3):
        raise PictureError(f"picture array must have shape [H,W] or [H,W,D], got {shape}")
    if array.ndim == 2:
        array = array[..., None]
    height, width, depth = array.shape
    if depth not in _CHANNELS_OF:
        hint = "; channels come last" if height in _CHANNELS_OF else ""
        raise PictureError(f"picture array must have 1, 3 or 4 channels [H,W,D], got {shape}{hint}")
    _check_size(width, height, "picture array")
    if array.dtype in (np.uint8, np.uint16):
        return _scaled(array), 16 if array.dtype == np.uint16 else 8
    if array.dtype == np.bool_:
        return array.astype(np.float32), 8
    if not np.issubdtype(array.dtype, np.floating):
        raise PictureError(f"picture array must be uint8, uint16 or floating point, got {array.dtype}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise PictureError("picture array holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise PictureError(f"float picture array must lie in 0..1, got {low:.4g}..{high:.4g}; scale or clip it first")
    return values.clip(0, 1), 8


# 16-bit PNG, which Pillow cannot write in colour


def _write_png16(path: Path, values: Array) -> None:
    """[H,W,1|3|4] uint16 as a PNG file (W3C PNG, third edition), each row with the Up filter.

    Up costs about 5 % in size against the best filter of every row, and is one subtraction.
    """
    height, width, depth = values.shape
    colour_type = {1: 0, 3: 2, 4: 6}[depth]
    packer = zlib.compressobj(PNG_LEVEL if height * width <= LARGE else PNG_LEVEL_LARGE)

    with path.open("wb") as file:

        def chunk(kind: bytes, body: bytes) -> None:
            file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        above = np.zeros((1, 2 * width * depth), np.uint8)
        for top in range(0, height, STRIP):
            rows = values[top : top + STRIP].astype(">u2").reshape(-1, width * depth).view(np.uint8)
            filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
            filtered[:, 0] = 2
            filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
            above = rows[-1:]
            if data := packer.compress(filtered.tobytes()):
                chunk(b"IDAT", data)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")
