"""Pictures of a capture: decoded to bytes, kept in memory up to a limit, loaded ahead in the background."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_int
from splat.scene.data.capture import Capture, PhotoFile, Progress, View, listed
from splat.scene.data.depth import read_depth
from splat.scene.data.distortion import Lens, sampling
from splat.scene.data.pixels import BrokenPhoto as BrokenPhoto
from splat.scene.data.pixels import decode, resize_area, resize_nearest


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


def load_photo(photo: PhotoFile) -> Photo:
    """Decodes a picture with its mask and depth, at full size.

    Raises:
        BrokenPhoto: a file is missing, damaged or of another shape.
    """
    lens = photo.lens
    pixels = resize_area(decode(photo.path, photo.upright), lens.width, lens.height)
    mask = None
    if photo.mask is not None:
        grey = decode(photo.mask, photo.upright)
        mask = (grey[..., 3] if grey.shape[2] == 4 and bool((grey[..., 3] < 255).any()) else grey[..., 0]) > 127
        mask = resize_area(mask.astype(np.uint8)[..., None] * 255, lens.width, lens.height)[..., 0]
    depth = None if photo.depth is None else resize_nearest(read_depth(photo.depth), lens.width, lens.height)
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
    depth = None if photo.depth is None else torch.from_numpy(resize_nearest(photo.depth.numpy(), *size))
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

    @property
    def bytes_used(self) -> int:
        """Memory of the pictures that are kept."""
        return self._bytes

    def wait_idle(self, seconds: float) -> bool:
        """Waits until nothing is being loaded and nothing more will be by itself; whether that came about."""
        with self._change:
            return self._change.wait_for(lambda: not self._loading and not self._can_load(), seconds)

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
                self._change.notify_all()  # there may be room for one more ahead
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

    def _can_load(self) -> bool:
        """Whether there is something to load ahead: pictures loaded ahead may fill half of the room."""
        while self._wanted and (self._wanted[0] in self._photos or self._wanted[0] in self._loading):
            self._wanted.popleft()
        ahead = sum(self._photos[key].nbytes for key in self._ahead if key in self._photos)
        return bool(self._threads and self._wanted and not self._closed and ahead <= self._max_bytes // 2)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._can_load())
                if self._closed:
                    return
                key = self._wanted.popleft()
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
