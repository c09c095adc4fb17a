"""Pictures of a capture: decoded to bytes, kept in memory up to a limit, loaded ahead in the background."""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_int
from splat.scene.data.capture import Capture, DepthFile, PhotoFile, Progress, View, listed
from splat.scene.data.distortion import Lens, sampling

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = npt.NDArray[Any]
_EXIF_ORIENTATION = 0x0112
# What Pillow raises for files that are cut off or damaged; its decoders do not share one exception.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class BrokenPhoto(ValueError):
    """A picture, mask or depth map that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture."""

    rgb: Tensor
    """uint8 [H, W, 3], not premultiplied."""
    alpha: Tensor | None
    """uint8 [H, W]."""
    mask: Tensor | None
    """bool [H, W], true where the picture counts."""
    depth: Tensor | None
    """float32 [H, W] z-depth in the normalised world, 0 = not known."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        parts = (self.rgb, self.alpha, self.mask, self.depth)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)


@dataclass(frozen=True)
class Header:
    """What a picture file says before it is decoded."""

    width: int
    """As stored."""
    height: int
    turned: bool
    """EXIF turns it by 90 degrees."""
    orientation: int
    """EXIF's 1 .. 8, 1 = as stored."""
    alpha: bool


def read_header(path: Path) -> Header:
    """Size and kind of a picture; BrokenPhoto when it is missing or no picture."""
    with _open(path) as image:
        orientation = _orientation(image)
        return Header(image.width, image.height, orientation in (5, 6, 7, 8), orientation, _has_alpha(image))


def load_photo(photo: PhotoFile) -> Photo:
    """Decodes a picture with its mask and depth, at full size.

    Raises:
        BrokenPhoto: a file is missing, damaged or of another shape.
    """
    lens = photo.lens
    pixels = _shrunk(_decode(photo.path, photo.upright), lens)
    mask = None
    if photo.mask is not None:
        grey = _decode(photo.mask, photo.upright)
        mask = (grey[..., 3] if grey.shape[2] == 4 and bool((grey[..., 3] < 255).any()) else grey[..., 0]) > 127
        mask = _shrunk(mask.astype(np.uint8)[..., None] * 255, lens)[..., 0]
    depth = None if photo.depth is None else _nearest(_read_depth(photo.depth), lens.width, lens.height)
    values = torch.from_numpy(pixels)
    counts = None if mask is None else torch.from_numpy(mask)
    known = None if depth is None else torch.from_numpy(depth)
    if lens.distorted:
        values, counts, known = _undistort(lens, values, counts, known)
    has_alpha = values.shape[2] == 4
    # A pixel counts where all that went into it counts.
    return Photo(
        values[..., :3].contiguous(),
        values[..., 3].contiguous() if has_alpha else None,
        None if counts is None else counts > 254,
        known,
    )


def halved(photo: Photo, halvings: int) -> Photo:
    """Area-averaged to 1 / 2^halvings of the size; colours are weighted by alpha."""
    if halvings == 0:
        return photo
    height, width = photo.rgb.shape[:2]
    size = max(1, round(width / 2**halvings)), max(1, round(height / 2**halvings))
    pixels = photo.rgb.numpy()
    if photo.alpha is not None:
        pixels = np.concatenate([pixels, photo.alpha.numpy()[..., None]], 2)
    small = torch.from_numpy(resize_area(pixels, *size))
    mask = None
    if photo.mask is not None:
        mask = torch.from_numpy(resize_area(photo.mask.numpy().astype(np.uint8)[..., None] * 255, *size)[..., 0]) > 254
    depth = None if photo.depth is None else torch.from_numpy(_nearest(photo.depth.numpy(), *size))
    alpha = small[..., 3].contiguous() if photo.alpha is not None else None
    return Photo(small[..., :3].contiguous(), alpha, mask, depth)


class PhotoCache:
    """The pictures of some views, decoded when first wanted and kept as bytes. Use as a context manager: leaving it
    ends the background threads.

    Args:
        views: whose pictures.
        max_bytes: what decoded pictures may take in all; those not used for longest are dropped.
        threads: that load ahead what `expect` announced; 0 for none.
    """

    def __init__(self, views: Sequence[View], *, max_bytes: int = 2 << 30, threads: int = 1) -> None:
        check_int("max_bytes", max_bytes, 0)
        check_int("threads", threads, 0)
        self._views = tuple(views)
        self._max_bytes = max_bytes
        self._photos: OrderedDict[tuple[int, int], Photo] = OrderedDict()  # the one used last is at the end
        self._bytes = 0
        self._ahead: set[tuple[int, int]] = set()  # loaded in the background and not asked for yet
        self._wanted: deque[tuple[int, int]] = deque()
        self._loading: set[tuple[int, int]] = set()
        self._closed = False
        self._change = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name="photos", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads (after the picture each is at) and forgets the pictures."""
        with self._change:
            self._closed = True
            self._wanted.clear()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self._photos.clear()
        self._ahead.clear()
        self._bytes = 0

    def get(self, row: int, halvings: int = 0) -> Photo:
        """The picture of a view, area-averaged by 2^halvings; BrokenPhoto where it cannot be read."""
        check_int("halvings", halvings, 0, 30)
        key = (range(len(self._views))[row], halvings)
        with self._change:
            if self._closed:
                raise ValueError("the cache is closed")
            self._change.wait_for(lambda: key not in self._loading)
            self._ahead.discard(key)
            photo = self._photos.get(key)
            if photo is not None:
                self._photos.move_to_end(key)
                self._change.notify_all()  # there is room for one more ahead
                return photo
            self._loading.add(key)
        return self._load(key, ahead=False)

    def expect(self, rows: Sequence[int], halvings: int = 0) -> None:
        """Says what `get` will ask for next, in this order; replaces what was said before. A broken picture is found
        out by `get`."""
        count = range(len(self._views))
        with self._change:
            self._wanted = deque((count[row], halvings) for row in rows)
            self._ahead &= set(self._wanted)
            self._change.notify_all()

    def _load(self, key: tuple[int, int], *, ahead: bool) -> Photo:
        """Loads what the caller has entered in `_loading`."""
        row, halvings = key
        photo = None
        try:
            with self._change:
                full = self._photos.get((row, 0))
            photo = halved(full or load_photo(self._views[row].photo), halvings)
            return photo
        finally:
            with self._change:
                self._loading.discard(key)
                if photo is not None and not self._closed:
                    self._keep(key, photo, ahead)
                self._change.notify_all()

    def _keep(self, key: tuple[int, int], photo: Photo, ahead: bool) -> None:
        self._photos[key] = photo
        self._bytes += photo.nbytes
        if ahead:
            self._ahead.add(key)
        for old in [k for k in self._photos if k != key and k not in self._ahead]:
            if self._bytes <= self._max_bytes:
                return
            self._bytes -= self._photos.pop(old).nbytes
        if not ahead and self._bytes > self._max_bytes:  # what was loaded ahead fills the room
            self._bytes -= self._photos.pop(key).nbytes

    def _next(self) -> tuple[int, int] | None:
        """What to load ahead now, if anything: pictures loaded ahead may fill half of the room."""
        while self._wanted and (self._wanted[0] in self._photos or self._wanted[0] in self._loading):
            self._wanted.popleft()
        room = sum(self._photos[key].nbytes for key in self._ahead if key in self._photos) <= self._max_bytes // 2
        return self._wanted.popleft() if self._wanted and room else None

    def _work(self) -> None:
        while True:
            with self._change:
                key = self._next()
                while key is None and not self._closed:
                    self._change.wait()
                    key = self._next()
                if self._closed or key is None:
                    return
                self._loading.add(key)
            # `get` reads it again and raises in its own thread, whatever it is; a thread that died would say nothing.
            with suppress(Exception):
                self._load(key, ahead=True)


def check_photos(capture: Capture, cache: PhotoCache, progress: Progress | None = None) -> Capture:
    """Decodes every picture once; the capture less the broken ones, which a note names.

    Raises:
        ValueError: fewer than 2 training pictures are left.
    """
    broken: dict[int, str] = {}
    cache.expect(range(len(capture.views)))
    for row in range(len(capture.views)):
        try:
            cache.get(row)
        except BrokenPhoto as error:
            broken[row] = str(error)
        if progress is not None:
            progress("reading photos", row + 1, len(capture.views))
    if not broken:
        return capture
    what = "1 picture is" if len(broken) == 1 else f"{len(broken)} pictures are"
    return capture.without(broken, f"{what} left out: {listed(broken.values())}")


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
    except _DAMAGED as error:
        raise BrokenPhoto(f"{path} cannot be read: {_one_line(error)}") from error


def _orientation(image: Image.Image) -> int:
    value: Any = 1
    with suppress(*_DAMAGED):  # a damaged EXIF block is no reason to refuse the pixels
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa", "RGBA")


def _decode(path: Path, upright: bool) -> Array:
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
    except _DAMAGED as error:
        raise BrokenPhoto(f"{path} is damaged or cut off: {_one_line(error)}") from error


def _read_depth(file: DepthFile) -> Array:
    """float32 [h, w], normalised units."""
    raise BrokenPhoto(f"{file.path}: not yet")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# Changing the size


def _shrunk(pixels: Array, lens: Lens) -> Array:
    return resize_area(pixels, lens.width, lens.height)


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


def _nearest(values: Array, width: int, height: int) -> Array:
    """[h, w] to [height, width]: an average across an edge in depth would be a point in mid-air."""
    rows = (np.arange(height) + 0.5) * values.shape[0] / height
    columns = (np.arange(width) + 0.5) * values.shape[1] / width
    return np.ascontiguousarray(values[rows.astype(np.int64)[:, None], columns.astype(np.int64)])


def _undistort(
    lens: Lens, pixels: Tensor, counts: Tensor | None, depth: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Picture, mask (0 .. 255) and depth of the pinhole camera `undistorted(lens)`."""
    where, inside = sampling(lens)
    size = torch.tensor([lens.width, lens.height], dtype=torch.float32)
    grid = (torch.from_numpy(where) / size * 2 - 1)[None]  # grid_sample: -1 and 1 are the outer edges of the picture

    def sample(values: Tensor, mode: str) -> Tensor:
        source = values.permute(2, 0, 1)[None].float()
        return F.grid_sample(source, grid, mode, "border", align_corners=False)[0].permute(1, 2, 0)

    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].float()
        mixed = sample(torch.cat([pixels[..., :3] * alpha, alpha], 2), "bilinear")
        values = torch.cat([mixed[..., :3] / mixed[..., 3:].clamp_min(1e-6), mixed[..., 3:]], 2)
    else:
        values = sample(pixels, "bilinear")
    flat = (values + 0.5).clamp(0, 255).to(torch.uint8)
    seen = torch.from_numpy(inside)
    if counts is not None:
        counts = torch.where(seen, (sample(counts[..., None], "bilinear")[..., 0] + 0.5).to(torch.uint8), 0)
    elif not inside.all():
        counts = seen.to(torch.uint8) * 255
    known = None if depth is None else torch.where(seen, sample(depth[..., None], "nearest")[..., 0], 0)
    return flat, counts, known


def threads_available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
