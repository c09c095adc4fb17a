"""From posed picture files, however they were listed, to a Capture: sizes, masks, split, normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from splat.scene.data.capture import Capture, DepthFile, Kind, Normalisation, PhotoFile, View, listed
from splat.scene.data.distortion import Array, Lens, undistorted
from splat.scene.data.options import DataOptions
from splat.scene.data.pixels import BrokenPhoto, Header, read_header

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of photos, in lower case."""


def _no_keypoints() -> Array:
    return np.zeros((0, 2))


def _no_rows() -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Frame:
    """A posed picture as a data set lists it."""

    name: str
    folder: Path
    """Of the pictures; a folder `<folder>_N` beside it holds the same at 1/N of the size."""
    file: str
    """Below `folder`."""
    viewmat: Array
    """[4, 4] world to camera, OpenCV axes, world units."""
    lens: Lens | FieldOfView
    split: str | None = None
    """"train" or "test" where the data set says so."""
    upright: bool | None = None
    """Whether the pose goes with the picture turned as EXIF says; None: by the lens's width and height, as stored when
    they leave it open (COLMAP and nerfstudio do not look at EXIF)."""
    mask: Path | None = None
    depth: Path | None = None
    keypoints: Array = field(default_factory=_no_keypoints)
    """[S, 2] pixels of the lens's picture."""
    point_rows: npt.NDArray[np.int64] = field(default_factory=_no_rows)
    """[S] rows of Listing.points."""


@dataclass(frozen=True)
class FieldOfView:
    """A lens that is known by its angle only; the rest comes from the picture."""

    radians: float
    """Horizontal."""

    def lens(self, width: int, height: int) -> Lens:
        """With square pixels and the principal point in the middle."""
        focal = width / 2 / math.tan(self.radians / 2)
        return Lens(width, height, (focal, focal), (width / 2, height / 2))


@dataclass(frozen=True)
class Listing:
    """A data set as it was read, before any picture is looked at."""

    path: Path
    kind: Kind
    frames: tuple[Frame, ...]
    points: Array
    """[P, 3] world."""
    colors: Array
    """[P, 3] in 0..1."""
    depth_unit: float | None = None
    """World units of a stored depth unit, where the data set says so."""
    notes: tuple[str, ...] = ()


def assemble(listing: Listing, options: DataOptions) -> Capture:
    """Looks at every picture's header and makes the capture.

    Raises:
        ValueError: fewer than 2 training pictures are left.
    """
    notes = list(listing.notes)
    found, broken = [], {}
    for frame in sorted(listing.frames, key=lambda f: f.name):
        try:
            path = _existing(frame.folder / frame.file)
            found.append((frame, path, read_header(path)))
        except BrokenPhoto as error:
            broken[frame.name] = str(error)
    if broken:
        notes.append(f"{len(broken)} of {len(listing.frames)} pictures are left out: {listed(broken.values())}")
    if len(found) < 2:
        why = f" ({listed(notes, 2)})" if notes else ""
        raise ValueError(f"{listing.path}: {len(found)} posed pictures can be read, at least 2 are needed{why}")
    factor = options.downscale or _downscale([header for _, _, header in found], options.max_side)
    masks = _Beside("mask", options.masks, "masks", (".png",))
    depths = _Beside("depth map", options.depths, None, (".npy", ".exr", ".png"))
    drafts, has_alpha, misfits = [], False, []
    for frame, path, header in found:
        try:
            photo = _photo_file(frame, path, header, factor)
        except (BrokenPhoto, ValueError) as error:
            misfits.append(str(error))
            continue
        photo = replace(
            photo, mask=masks.find(frame, frame.mask), depth=_depth(depths.find(frame, frame.depth), listing, options)
        )
        has_alpha |= header.alpha
        drafts.append((frame, photo))
    if misfits:
        notes.append(f"{len(misfits)} of {len(listing.frames)} pictures are left out: {listed(misfits)}")
    train, test = _split([frame for frame, _ in drafts], options.test_every)
    if len(train) < 2:
        train, test = sorted(train + test), []
        notes.append("too few pictures to hold some out: all are used for training")
    if len(train) < 2:
        raise ValueError(f"{listing.path}: fewer than 2 training pictures are left; {notes[-2]}")
    notes += masks.notes() + depths.notes()
    notes += _size_notes([photo for _, photo in drafts], factor)
    viewmats = torch.from_numpy(np.stack([frame.viewmat for frame, _ in drafts]))
    centres = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    normalisation = Normalisation.of_cameras(centres[train])
    normal = normalisation.viewmats(viewmats).float()
    views = tuple(
        _view(frame, _with_unit(photo, normalisation.scale), normal[i]) for i, (frame, photo) in enumerate(drafts)
    )
    points = normalisation.points(torch.from_numpy(listing.points)).float()
    return Capture(
        path=listing.path,
        kind=listing.kind,
        views=views,
        train=tuple(train),
        test=tuple(test),
        points=points,
        colors=torch.from_numpy(listing.colors).float(),
        normalisation=normalisation,
        extent=1.0,
        has_alpha=has_alpha,
        notes=tuple(notes),
    )


def _existing(path: Path) -> Path:
    """The file itself, or one that differs in the suffix only (a data set may have been converted)."""
    if path.is_file():
        return path
    for suffix in PICTURES:
        for other in (path.with_suffix(suffix), path.with_suffix(suffix.upper()), path.with_name(path.name + suffix)):
            if other.is_file():
                return other
    return path


def _downscale(headers: list[Header], max_side: int) -> int:
    longest = max(max(h.width, h.height) for h in headers)
    factor = 1
    while round(longest / factor) > max_side:
        factor *= 2
    return factor


def _photo_file(frame: Frame, path: Path, header: Header, factor: int) -> PhotoFile:
    """Which file is read, and how its camera looks once the picture is shrunk."""
    upright, full = _turned(frame, path, header)
    wanted = max(1, round(full.width / factor)), max(1, round(full.height / factor))
    if factor > 1:
        smaller = _existing(frame.folder.with_name(f"{frame.folder.name}_{factor}") / frame.file)
        if smaller.is_file():
            header = read_header(smaller)
            size = (header.height, header.width) if upright and header.turned else (header.width, header.height)
            if _same_shape(full.width, full.height, *size):
                path, wanted = smaller, size
    return PhotoFile(path, upright, full.resized(*wanted))


def _turned(frame: Frame, path: Path, header: Header) -> tuple[bool, Lens]:
    """Whether to turn the picture as EXIF says, and its lens at the full size of the file."""
    stored = header.width, header.height
    turned = (header.height, header.width) if header.turned else stored
    if isinstance(frame.lens, FieldOfView):
        upright = bool(frame.upright)
        return upright, frame.lens.lens(*(turned if upright else stored))
    lens = frame.lens
    if frame.upright is None:
        upright = not _same_shape(lens.width, lens.height, *stored) and _same_shape(lens.width, lens.height, *turned)
    else:
        upright = frame.upright
    size = turned if upright else stored
    if not _same_shape(lens.width, lens.height, *size):
        raise BrokenPhoto(f"{path} has {size[0]} x {size[1]} pixels, its camera {lens.width} x {lens.height}")
    return upright, lens.resized(*size)


def _same_shape(width: int, height: int, other_width: int, other_height: int) -> bool:
    """Whether one size is the other times a factor, to the rounding of a pixel (of the smaller)."""
    sx, sy = other_width / width, other_height / height
    pixel = max(1 / min(width, other_width), 1 / min(height, other_height))
    return abs(sx / sy - 1) < 0.005 + 2 * pixel


def _split(frames: list[Frame], every: int) -> tuple[list[int], list[int]]:
    if any(frame.split for frame in frames):
        test = [i for i, frame in enumerate(frames) if frame.split == "test"]
    else:
        test = list(range(0, len(frames), every)) if every else []
    held = set(test)
    return [i for i in range(len(frames)) if i not in held], test


def _view(frame: Frame, photo: PhotoFile, viewmat: torch.Tensor) -> View:
    flat = undistorted(photo.lens)
    keypoints, rows = frame.keypoints, frame.point_rows
    if len(keypoints) and isinstance(frame.lens, Lens):
        small = photo.lens
        keypoints = keypoints * (small.width / frame.lens.width, small.height / frame.lens.height)
        if small.distorted:
            keypoints = small.unproject(keypoints) * flat.focal + flat.centre
        with np.errstate(invalid="ignore"):
            seen = ((keypoints >= 0) & (keypoints <= (flat.width, flat.height))).all(1)
        keypoints, rows = keypoints[seen], rows[seen]
    return View(
        name=frame.name,
        viewmat=viewmat,
        K=torch.from_numpy(flat.K).float(),
        width=flat.width,
        height=flat.height,
        photo=photo,
        keypoints=torch.from_numpy(keypoints).float(),
        point_rows=torch.from_numpy(rows),
    )


def _depth(path: Path | None, listing: Listing, options: DataOptions) -> DepthFile | None:
    """Still in world units."""
    if path is None:
        return None
    usual = 0.001 if path.suffix.lower() == ".png" else 1.0
    return DepthFile(path, options.depth_unit or listing.depth_unit or usual)


def _with_unit(photo: PhotoFile, scale: float) -> PhotoFile:
    if photo.depth is None:
        return photo
    return replace(photo, depth=replace(photo.depth, unit=photo.depth.unit * scale))


class _Beside:
    """Files that go with pictures: named by the data set, or of the same name in a folder of their own."""

    def __init__(self, what: str, given: Path | None, usual: str | None, suffixes: tuple[str, ...]) -> None:
        if given is not None and not given.is_dir():
            raise ValueError(f"{given}: no such folder (wanted the {what}s)")
        self._what, self._given, self._usual, self._suffixes = what, given, usual, suffixes
        self._found, self._missing = 0, list[str]()

    def find(self, frame: Frame, named: Path | None) -> Path | None:
        """None where there is no such file, which `notes` tells when others have one."""
        folder = self._given or (frame.folder.parent / self._usual if self._usual else None)
        places = [] if named is None else [named]
        if folder is not None:
            file = folder / frame.file
            for suffix in self._suffixes:
                places += [file.with_name(file.name + suffix), file.with_suffix(suffix)]
        for place in places:
            if place.is_file():
                self._found += 1
                return place
        self._missing.append(str(named or frame.name))
        return None

    def notes(self) -> list[str]:
        if self._given is not None and not self._found:
            raise ValueError(f"{self._given}: no {self._what} has the name of a picture (such as {self._missing[0]})")
        if self._found and self._missing:
            total = self._found + len(self._missing)
            return [f"{len(self._missing)} of {total} pictures have no {self._what}: {listed(self._missing)}"]
        return []


def _size_notes(photos: list[PhotoFile], factor: int) -> list[str]:
    notes = []
    sizes = {(photo.lens.width, photo.lens.height) for photo in photos}
    if len(sizes) > 1:
        notes.append(f"pictures have {len(sizes)} different sizes")
    if factor > 1:
        width, height = next(iter(sizes))
        notes.append(f"pictures are used at 1/{factor} of their size ({width} x {height})")
    bent = sum(photo.lens.distorted for photo in photos)
    if bent:
        notes.append(f"{bent} pictures are undistorted as they are loaded")
    return notes
