"""Pictures in and out: files, arrays and PIL images to one float tensor, and back without losing a bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast, get_args

import numpy as np
import torch
from torch import Tensor

from splat.image.formats import Array, Stored, check_size, check_suffix, read_file, read_image, write_file
from splat.image.formats import PictureError as PictureError
from splat.image.layout import Bits, Group, Kind, Layout
from splat.image.normals import unit
from splat.image.transfer import Curve, Transfer

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | Path | Array | Tensor | Image.Image"
ReadAs = Literal["grey", "grey-alpha", "rgb", "rgba", "normal", "octa", "data"]

_STORED: dict[ReadAs, int] = {"grey": 1, "grey-alpha": 2, "rgb": 3, "rgba": 4, "normal": 3, "octa": 3}
_USUAL: dict[int, ReadAs] = {1: "grey", 2: "grey-alpha", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class Picture:
    """A picture, or a stack of them, ready to be fitted."""

    pixels: Tensor
    """[H, W, D] float32 in 0..1, what the fit sees (see `Group.encode`); of an ordinary picture the sRGB values as
    stored (not linearised). With alpha the colours are premultiplied: a fully transparent pixel is all zero."""
    layout: Layout
    """What the D channels are, and how the source had them."""
    name: str
    """Stem of the file name, or "array"."""


@dataclass(frozen=True)
class TextureMap:
    """A picture that says what it is: a normal map, linear light, how much it counts in a stack."""

    source: Source
    read_as: ReadAs | None = None
    """What the channels are (default: 1 grey, 2 grey with alpha, 3 RGB, 4 RGBA). grey also takes RGB with three equal
    channels. normal: unit normals, fitted as three channels; octa: unit normals, fitted as two octahedral channels.
    Normals of 8 and 16 bits are stored as (n + 1) / 2, those of floats as they are. data: any number of scalars, floats
    of any range."""
    curve: Curve | None = None
    """log or pq: floats from 0 up that are linear light (default: OpenEXR's colours log, all else as stored)."""
    weight: float = 1.0
    """How much the squared errors of its channels count in a stack."""
    name: str | None = None
    """What its results are named after (default: the stem of the file name)."""

    def __post_init__(self) -> None:
        if self.read_as is not None and self.read_as not in get_args(ReadAs):
            raise ValueError(f"read_as must be one of {', '.join(get_args(ReadAs))}, got {self.read_as!r}")
        if self.curve is not None and self.curve not in get_args(Curve):
            raise ValueError(f"curve must be one of {', '.join(get_args(Curve))}, got {self.curve!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """FILE[:KIND][:CURVE][:WEIGHT] in any order after the file: "normal.png:octa:0.5", "sky.exr:pq"."""
        found: dict[str, Any] = {}
        while ":" in text:
            rest, word = text.rsplit(":", 1)
            if word in get_args(ReadAs):
                key, value = "read_as", word
            elif word in get_args(Curve):
                key, value = "curve", word
            else:
                try:
                    key, value = "weight", float(word)  # type: ignore[assignment]
                except ValueError:
                    break
            if key in found:
                raise PictureError(f"{text}: {key} is given twice")
            found[key] = value
            text = rest
        return cls(text, **found)


def read_picture(source: Source | TextureMap | Picture | Sequence[Source | TextureMap | Picture]) -> Picture:
    """Reads a picture: path (PNG 8/16-bit, JPEG, WebP and what else Pillow opens, TIFF of 8 and 16 bits and of
    floats, OpenEXR, .npy, .npz with one array), array, tensor or PIL image.

    Arrays and tensors are [H,W] or [H,W,D] (alpha not premultiplied, as everywhere): uint8, uint16, or floats in 0..1
    (a TextureMap allows others). The EXIF orientation of files and PIL images is applied; colour profiles are not.
    A list of pictures is a stack: of one size, fitted by the same Gaussians.

    Raises:
        PictureError: missing, damaged, animated, empty or too large picture; array of another shape, type or range.
        NotInstalled: TIFF and OpenEXR without the extra [hdr].
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, list | tuple):
        return _stacked([read_picture(one) for one in source])
    texture = source if isinstance(source, TextureMap) else TextureMap(source)  # type: ignore[arg-type]
    stored, name = _read(texture.source)
    return _picture(stored, replace(texture, name=texture.name or name))


def read_grey(source: Source, like: Tensor, what: str) -> Tensor:
    """A picture as one value a pixel, [H,W] in 0..1 (the mean of its colours), for the picture `like` [H,W,D].

    Raises:
        PictureError: as read_picture, or another size; `what` names it.
    """
    picture = read_picture(source)
    pixels = picture.pixels
    if pixels.shape[:2] != like.shape[:2]:
        got, wanted = (f"{p.shape[1]} x {p.shape[0]}" for p in (pixels, like))
        raise PictureError(f"{what} must have the picture's size, {wanted} pixels, got {got}")
    return (pixels[..., :-1] if picture.layout.groups[0].alpha else pixels).mean(2)


def check_written(path: Path, layout: Layout) -> None:
    """Before the work: whether the format that the suffix of `path` names holds such a picture.

    Raises:
        PictureError: it does not.
    """
    for where, group, values in _files(path, torch.zeros(1, 1, layout.channels), layout):
        check_suffix(where)
        _to_store(values, group, where)


STRIP = 256
"""Rows that are converted at a time."""


def write_picture(path: str | Path, pixels: Tensor, layout: Layout) -> list[Path]:
    """Writes what a fit or a render gave.

    Args:
        path: of one group: the suffix says the format: .png (8 or 16 bits, exact), .webp (lossless, 8 bits), .jpg
            (quality 95, 8 bits, no alpha), .tif, .npy or .npz (8, 16 or 32 bits, any number of channels) or .exr (16
            or 32 bits; linear light, normals and data). Of several groups: "out/recon.png" becomes "out/recon-NAME"
            with each group's own suffix.
        pixels: [H, W, D], clamped to 0..1.

    Returns:
        The files, which appear whole or not at all.

    Raises:
        PictureError: shape that does not fit `layout`, values that are not finite, or a format that cannot hold them.
    """
    path = Path(path)
    if pixels.ndim != 3 or pixels.shape[2] != layout.channels or pixels.numel() == 0:
        raise PictureError(
            f"cannot write {path}: pixels must have shape [H,W,{layout.channels}], got {list(pixels.shape)}"
        )
    strips = torch.split(pixels.detach(), STRIP)
    if not all(bool(rows.isfinite().all()) for rows in strips):
        raise PictureError(f"cannot write {path}: pixels hold NaN or infinity")
    levels = Levels(path, layout, pixels.shape[0])
    for rows in strips:
        levels.add(rows)
    return levels.write()


class Levels:
    """What the files of a picture are to hold, of rows that come one after the other from the top. See write_picture,
    which has all of them."""

    def __init__(self, path: Path, layout: Layout, height: int) -> None:
        self.path, self.layout, self.height = path, layout, height
        self.rows = 0
        self.files: dict[Path, Array] = {}
        """[H, W, S] of each group, of the file's dtype; alpha not premultiplied where the format has it so."""

    def add(self, fitted: Tensor) -> None:
        """The next rows [h, W, D]."""
        end = self.rows + len(fitted)
        for where, group, values in _files(self.path, fitted.to("cpu", torch.float32), self.layout):
            stored = _to_store(values, group, where)
            if where not in self.files:
                self.files[where] = np.empty((self.height, *stored.shape[1:]), stored.dtype)
            self.files[where][self.rows : end] = stored
        self.rows = end

    def write(self) -> list[Path]:
        """Writes the files, once all rows are there."""
        for where, values in self.files.items():
            write_file(where, values)
        return list(self.files)


def _files(path: Path, fitted: Tensor, layout: Layout) -> Iterator[tuple[Path, Group, Tensor]]:
    """The files of a picture, with what they hold."""
    for group, values in zip(layout.groups, layout.decode(fitted), strict=True):
        several = len(layout.groups) > 1
        yield path.with_name(f"{path.stem}-{group.name}{group.suffix}") if several else path, group, values


# Sources


def _read(source: Any) -> tuple[Stored, str]:
    if isinstance(source, str | Path):
        path = Path(source)
        return read_file(path), path.stem
    if isinstance(source, Tensor):
        source = (source.float() if source.dtype == torch.bfloat16 else source).detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return Stored(source, ".npy" if source.dtype.kind == "f" or source.shape[2:] > (4,) else ".png"), "array"
    if hasattr(source, "getexif"):
        return read_image(source), "array"
    raise PictureError(f"a picture is a path, numpy array, torch tensor or PIL image, got {type(source).__name__}")


def _checked(array: Array, where: str) -> Array:
    """[H, W, S] uint8, uint16, float16 or float32 of any array of numbers."""
    shape = list(array.shape)
    if array.ndim not in (2, 3):
        raise PictureError(f"{where} must have shape [H,W] or [H,W,D], got {shape}")
    array = array[..., None] if array.ndim == 2 else array
    check_size(array.shape[1], array.shape[0], where)
    if array.shape[2] < 1:
        raise PictureError(f"{where} must have at least one channel [H,W,D], got {shape}")
    if array.dtype in (np.uint8, np.uint16, np.float16, np.float32):
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise PictureError(f"{where} must be uint8, uint16 or floating point, got {array.dtype}")
    return array.astype(np.float32)


def _picture(stored: Stored, texture: TextureMap) -> Picture:
    where = str(texture.source) if isinstance(texture.source, str | Path) else "picture array"
    array = _checked(stored.values, where)
    if array.dtype == np.float16 and stored.suffix != ".exr":
        array = array.astype(np.float32)  # OpenEXR alone is written back with 16 bits
    height, _, depth = array.shape
    read_as = texture.read_as or _USUAL.get(depth)
    if read_as is None:
        hint = "; channels come last" if height in _USUAL else "; more are read as data (a TextureMap)"
        raise PictureError(f"{where} must have 1 to 4 channels [H,W,D], got {list(array.shape)}{hint}")
    if read_as == "grey" and depth == 3 and (array == array[..., :1]).all():
        array, depth = array[..., :1], 1  # as JPEG files of roughness and height often are
    wanted = _STORED.get(read_as, depth)
    if depth != wanted:
        raise PictureError(f"{where}: {read_as} is stored as {wanted} channels, this one has {depth}")
    integers = array.dtype.kind == "u"
    values = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if integers:
        values /= np.iinfo(array.dtype).max
    elif not bool(values.isfinite().all()):
        raise PictureError(f"{where} holds NaN or infinity")
    kind: Kind = "normal" if read_as == "octa" else read_as
    group = Group(
        name=texture.name or "array",
        kind=kind,
        channels=2 if read_as == "octa" else depth,
        bits=cast(Bits, 32 if array.dtype == np.float32 else 8 * array.dtype.itemsize),
        weight=texture.weight,
        suffix=stored.suffix,
    )
    if kind == "normal":
        values = unit(2 * values - 1 if integers else values)
    else:
        colours = values[..., :-1] if group.alpha else values
        group = replace(group, transfer=_transfer(colours, group, texture.curve, stored, where))
    if not integers and kind not in ("data", "normal") and group.transfer.curve == "stored":
        values = values.clamp(0, 1)
    if group.alpha and not stored.premultiplied:
        values = torch.cat([values[..., :-1] * values[..., -1:], values[..., -1:]], 2)
    return Picture(group.encode(values).contiguous(), Layout((group,)), group.name)


def _transfer(colours: Tensor, group: Group, curve: Curve | None, stored: Stored, where: str) -> Transfer:
    """The curve that was asked for, or the usual one."""
    if curve is None:
        curve = "log" if stored.suffix == ".exr" and group.kind != "data" else "stored"
    low, high = float(colours.min()), float(colours.max())
    if curve == "stored":
        if group.kind != "data" and (low < -1e-3 or high > 1 + 1e-3):
            raise PictureError(
                f"{where}: floats must lie in 0..1, got {low:.4g}..{high:.4g}; scale or clip them first, or say that "
                "they are linear light (log, pq) or data"
            )
        return Transfer.of(curve, colours) if group.kind == "data" else Transfer()
    if stored.values.dtype.kind == "u":
        raise PictureError(f"{where}: {curve} is for floats of linear light, this picture is {stored.values.dtype}")
    if low < 0:
        raise PictureError(f"{where}: linear light must not be negative, got {low:.4g}; clip it, or read it as data")
    return Transfer.of(curve, colours)


def _stacked(pictures: list[Picture]) -> Picture:
    """One picture with the channels of all."""
    if not pictures:
        raise PictureError("a stack needs at least one picture")
    first = pictures[0]
    for other in pictures[1:]:
        if other.pixels.shape[:2] != first.pixels.shape[:2]:
            sizes = " and ".join(f"{p.name} is {p.pixels.shape[1]} x {p.pixels.shape[0]}" for p in (first, other))
            raise PictureError(f"the pictures of a stack must have one size: {sizes} pixels")
    names = [group.name for picture in pictures for group in picture.layout.groups]
    if len(set(names)) < len(names):
        raise PictureError(f"the pictures of a stack must have different names, got {', '.join(names)}")
    layout = Layout(tuple(group for picture in pictures for group in picture.layout.groups))
    return Picture(torch.cat([picture.pixels for picture in pictures], 2), layout, first.name)


# To files


def _to_store(values: Tensor, group: Group, path: Path) -> Array:
    """A group's values as the file at `path` holds them."""
    suffix = path.suffix.lower()
    integers = group.bits < 32 and group.transfer.plain and suffix != ".exr"
    if suffix in (".png", ".webp", ".jpg", ".jpeg"):
        depth = 3 if group.kind == "normal" else group.channels
        if not integers:
            raise PictureError(
                f"cannot write {path}: {suffix} holds integers of 8 or 16 bits; .tif, .exr and .npy hold these floats"
            )
        if group.bits == 16 and suffix != ".png":
            raise PictureError(f"cannot write {path}: only .png holds 16 bits")
        if depth > 4:
            raise PictureError(f"cannot write {path}: {suffix} holds at most 4 channels, got {depth}")
        if depth in (2, 4) and suffix in (".jpg", ".jpeg"):
            raise PictureError(f"cannot write {path}: JPEG holds no alpha, use .png or .webp")
    if group.alpha and suffix != ".exr":
        alpha = values[..., -1:]
        colours = torch.where(alpha > 0, values[..., :-1] / alpha.clamp_min(1e-12), 0)
        values = torch.cat([colours.clamp_max(1) if group.transfer.plain else colours, alpha], 2)
    if not integers:
        if (
            suffix == ".exr"
            and group.transfer.plain
            and group.kind not in ("normal", "data")
            and group.suffix != ".exr"
        ):
            raise PictureError(f"cannot write {path}: OpenEXR holds linear light, this picture is stored as sRGB")
        floats: Array = values.numpy()
        return floats.astype(np.float16) if suffix == ".exr" and group.bits == 16 else floats
    if group.kind == "normal":
        values = 0.5 * values + 0.5
    rounded: Array = (values.clamp(0, 1) * (2**group.bits - 1) + 0.5).floor().numpy()
    return rounded.astype(np.uint8 if group.bits == 8 else np.uint16)
