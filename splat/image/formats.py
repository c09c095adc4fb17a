"""Picture files as they store their values: read and written without losing a bit."""

from __future__ import annotations

import logging
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from splat.exr import read_exr, write_exr
from splat.files import atomic_write
from splat.optional import NotInstalled, need

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = npt.NDArray[Any]

MAX_SIDE = 16384
"""Longest side of a picture, pixels."""
PNG_LEVEL = 6
PNG_LEVEL_LARGE = 3
"""zlib's level above LARGE: half the time for 4 % more bytes (measured on 33 megapixels)."""
LARGE = 1 << 23
"""Pixels."""
PNG_STRIP = 256
"""Rows of a PNG that are filtered at a time."""
_EXIF_ORIENTATION = 0x0112  # TIFF's own tag
# What Pillow raises for files that are cut off or damaged; its decoders do not share one exception.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, struct.error, zlib.error, zipfile.BadZipFile)


class PictureError(ValueError):
    """A picture that cannot be read or written; the message is one line for the person who gave it."""


@dataclass(frozen=True)
class Stored:
    """What a picture file holds."""

    values: Array
    """[H, W, S] or [H, W] of the file's own dtype, upright; grey, colour or whatever else, alpha last."""
    suffix: str
    """Of the format that holds the same without loss."""
    premultiplied: bool = False
    """Colours are stored times alpha."""


def read_file(path: Path) -> Stored:
    """Reads a picture file; PictureError where it is missing, damaged, animated or too large."""
    if not path.exists():
        raise PictureError(f"{path}: no such file")
    if path.is_dir():
        raise PictureError(f"{path} is a directory; give one picture file")
    try:
        if path.stat().st_size == 0:
            raise PictureError(f"{path} is empty (0 bytes)")
        return _READERS.get(path.suffix.lower(), _read_pillow)(path)
    except (PictureError, NotInstalled):
        raise
    except PermissionError:
        raise PictureError(f"{path}: permission denied") from None
    except _DAMAGED as error:
        raise PictureError(f"{path} is damaged or cut off: {_one_line(error)}") from error


def read_image(image: Image.Image) -> Stored:
    """The values of a PIL image."""
    try:
        _check_image(image, "the PIL image")
        return Stored(_image_values(image), ".png")
    except PictureError:
        raise
    except _DAMAGED as error:
        raise PictureError(f"cannot read the PIL image: {_one_line(error)}") from error


def check_suffix(path: Path) -> None:
    """PictureError where the suffix names no format that pictures are written in."""
    if path.suffix.lower() not in _WRITERS:
        raise PictureError(f"cannot write {path}: the name must end in {', '.join(_WRITERS)}")


def write_file(path: Path, values: Array) -> None:
    """Writes values [H, W, S] by the suffix of `path`, of a dtype that the format holds. The file appears whole or not
    at all."""
    check_suffix(path)
    try:
        with atomic_write(path) as temporary:
            _WRITERS[path.suffix.lower()](temporary, values)
    except OSError as error:
        raise PictureError(f"cannot write {path}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# Pillow


def _read_pillow(path: Path) -> Stored:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Our own limit on the size follows, and a damaged EXIF block does not make the pixels unreadable.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_image(image, str(path))
                return Stored(_image_values(image), ".png")
    except Image.DecompressionBombError:
        raise PictureError(f"{path} is too large: at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except UnidentifiedImageError:
        raise PictureError(f"{path} is not a picture in a known format (PNG, JPEG, WebP, ...), or is damaged") from None


def _check_image(image: Image.Image, where: str) -> None:
    # An MPO is a JPEG from a phone or stereo camera; its further pictures are previews, not frames.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise PictureError(f"{where} holds {frames} frames (an animation or several pages); give a single picture")
    check_size(image.width, image.height, where)


def check_size(width: int, height: int, where: str) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"{where} is empty: {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"{where} is too large: {width} x {height} pixels, at most {MAX_SIDE} a side")


def _image_values(image: Image.Image) -> Array:
    """Values [H, W, S] of an open PIL image, upright, alpha not premultiplied."""
    values = _png16_values(image)
    if values is not None:
        pass
    elif image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
    elif image.mode == "F":
        values = np.asarray(image)
    else:
        grey = image.mode in ("1", "L", "LA", "La")
        transparent = "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa", "RGBA")
        values = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if transparent else "")))
    values = values[..., None] if values.ndim == 2 else values
    orientation = 1
    # A damaged EXIF block is no reason to refuse the pixels.
    with suppress(*_DAMAGED):
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return _upright(values, orientation)


def _png16_values(image: Image.Image) -> Array | None:
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
        return bytes4[..., 0::2] << 8 | bytes4[..., 1::2]
    values = decode(raw) << 8 | decode(raw[:-1] + "L")
    key = image.info.get("transparency")
    if key is None:
        return values
    opaque = (values != np.asarray(key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([values, opaque.astype(np.uint16) * 65535], axis=2)


def _upright(values: Array, orientation: int) -> Array:
    """Undoes the EXIF orientation (1..8; anything else is taken for upright)."""
    if orientation in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


# 16-bit PNG, which Pillow cannot write in colour


def _write_png16(path: Path, values: Array) -> None:
    """[H,W,1|2|3|4] uint16 as a PNG file (W3C PNG, third edition), each row with the Up filter, by strips of rows.

    Up costs about 5 % in size against the best filter of every row, and is one subtraction.
    """
    height, width, depth = values.shape
    packer = zlib.compressobj(_png_level(values))
    with path.open("wb") as file:

        def chunk(kind: bytes, body: bytes) -> None:
            file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))

        file.write(b"\x89PNG\r\n\x1a\n")
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[depth]
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        above = np.zeros((1, 2 * width * depth), np.uint8)
        for top in range(0, height, PNG_STRIP):
            rows = values[top : top + PNG_STRIP].astype(">u2").reshape(-1, width * depth).view(np.uint8)
            filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
            filtered[:, 0] = 2
            filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
            above = rows[-1:]
            if data := packer.compress(filtered.tobytes()):
                chunk(b"IDAT", data)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def _png_level(values: Array) -> int:
    return PNG_LEVEL if values.shape[0] * values.shape[1] <= LARGE else PNG_LEVEL_LARGE


def _write_pillow(path: Path, values: Array) -> None:
    from PIL import Image

    if values.dtype == np.uint16:
        _write_png16(path, values)
        return
    lossless: dict[str, dict[str, Any]] = {".png": {"compress_level": _png_level(values)}, ".webp": {"lossless": 1}}
    options = lossless.get(path.suffix.lower(), {"quality": 95})
    Image.fromarray(_squeezed(values)).save(path, **options)


# TIFF


def _read_tiff(path: Path) -> Stored:
    tifffile = need("tifffile", "hdr", "reading TIFF files")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it raises too
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if len(file.pages) > 1:
                raise PictureError(f"{path} holds {len(file.pages)} pages; give a single picture")
            check_size(page.imagewidth, page.imagelength, str(path))
            if page.photometric.name not in ("MINISBLACK", "RGB"):
                return _read_pillow(path)  # palettes and the like, of 8 bits
            values: Array = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
            orientation = page.tags.valueof(_EXIF_ORIENTATION, 1)
            associated = [sample.name for sample in page.extrasamples] == ["ASSOCALPHA"]
    except (tifffile.TiffFileError, RuntimeError) as error:  # the latter from its codecs
        raise PictureError(f"{path} is damaged or cut off: {_one_line(error)}") from error
    return Stored(_upright(values, orientation), ".tif", premultiplied=associated)


def _write_tiff(path: Path, values: Array) -> None:
    tifffile = need("tifffile", "hdr", "writing TIFF files")
    depth = values.shape[2]
    extra = ["unassalpha"] if depth in (2, 4) else ["unspecified"] * (depth - 1 if depth > 4 else 0)
    tifffile.imwrite(
        path,
        _squeezed(values),
        photometric="rgb" if depth in (3, 4) else "minisblack",
        planarconfig="contig" if depth > 1 else None,
        extrasamples=extra or None,
        compression="zlib",
        metadata=None,
    )


# OpenEXR


def _read_exr(path: Path) -> Stored:
    """R, G, B and A or Y and A where they are there, and otherwise all channels in the order of their names."""
    channels = read_exr(path)
    names = sorted(channels)
    if {"R", "G", "B"} <= channels.keys():
        names = [name for name in "RGBA" if name in channels]
    elif set(names) <= {"Y", "A"}:
        names = [name for name in "YA" if name in channels]
    values = np.stack([channels[name] for name in names], 2)
    return Stored(values.astype(np.float32) if values.dtype.kind == "u" else values, ".exr", premultiplied=True)


def _write_exr(path: Path, values: Array) -> None:
    depth = values.shape[2]
    names = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}.get(depth, [f"C{i:03d}" for i in range(depth)])
    write_exr(path, {name: values[..., i] for i, name in enumerate(names)})


# Arrays


def _squeezed(values: Array) -> Array:
    """[H, W] where there is one channel."""
    return values[..., 0] if values.shape[2] == 1 else values


def _read_array(path: Path) -> Stored:
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return Stored(loaded, ".npy")
        if len(loaded.files) != 1:
            raise PictureError(f"{path} must hold one array [H,W,D], holds {', '.join(loaded.files) or 'none'}")
        return Stored(loaded[loaded.files[0]], ".npz")


def _write_npy(path: Path, values: Array) -> None:
    np.save(path, _squeezed(values))


def _write_npz(path: Path, values: Array) -> None:
    np.savez_compressed(path, values=_squeezed(values))


_READERS: dict[str, Callable[[Path], Stored]] = {
    **dict.fromkeys((".tif", ".tiff"), _read_tiff),
    ".exr": _read_exr,
    ".npy": _read_array,
    ".npz": _read_array,
}
_WRITERS: dict[str, Callable[[Path, Array], None]] = {
    **dict.fromkeys((".png", ".webp", ".jpg", ".jpeg"), _write_pillow),
    **dict.fromkeys((".tif", ".tiff"), _write_tiff),
    ".exr": _write_exr,
    ".npy": _write_npy,
    ".npz": _write_npz,
}
