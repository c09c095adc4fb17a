"""A capture: posed pictures of one scene, ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.scene.data.distortion import Lens

Kind = Literal["colmap", "transforms", "photos", "video"]
Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many there are (0: not known)."""


@dataclass(frozen=True)
class DepthFile:
    """A map of z-depths: .npy or .exr with float values, .png with 16-bit ones; 0 and NaN say "not known"."""

    path: Path
    unit: float
    """What one stored unit is in the capture's normalised world."""


@dataclass(frozen=True)
class PhotoFile:
    """What it takes to load one picture: decode, turn, shrink to `lens`'s size, undistort."""

    path: Path
    upright: bool
    """Whether the EXIF orientation is to be applied; else pixels are taken as stored."""
    lens: Lens
    """Of the picture after shrinking and before undistortion."""
    mask: Path | None = None
    """White where the picture counts."""
    depth: DepthFile | None = None


@dataclass(frozen=True)
class View:
    """One posed picture."""

    name: str
    """As the data set lists it; unique."""
    viewmat: Tensor
    """[4, 4] float32, world to camera, OpenCV axes, in the capture's normalised world."""
    K: Tensor
    """[3, 3] float32, pixels of the picture as it is loaded (after downscale, EXIF turn and undistortion)."""
    width: int
    """As it is loaded."""
    height: int
    photo: PhotoFile
    keypoints: Tensor
    """[S, 2] float32, pixels of the picture as it is loaded, where sparse points are seen (S may be 0)."""
    point_rows: Tensor
    """[S] int64, rows of Capture.points."""


@dataclass(frozen=True)
class Normalisation:
    """How the training world lies in that of the data set: x_train = scale (x_world + shift). There is no rotation, so
    that harmonics and quaternions stay as they are."""

    shift: Tensor
    """[3] float64, world units."""
    scale: float

    @classmethod
    def of_cameras(cls, centres: Tensor) -> Normalisation:
        """The mean of the centres [C, 3] comes to the origin and 1.1 x the largest distance from it becomes 1."""
        shift = -centres.double().mean(0)
        radius = 1.1 * float((centres.double() + shift).norm(dim=1).max())
        # Closer than that to each other, cameras stand at one point, and there is no scale to go by.
        return cls(shift, 1 / radius if radius > 1e-9 * (1 + float(shift.norm())) else 1.0)

    def points(self, world: Tensor) -> Tensor:
        """[..., 3] of the world to the training world; dtype and device stay."""
        return (self.scale * (world.double() + self.shift.to(world.device))).to(world.dtype)

    def points_to_world(self, points: Tensor) -> Tensor:
        """[..., 3] back to the world."""
        return (points.double() / self.scale - self.shift.to(points.device)).to(points.dtype)

    def gaussians(self, g: Gaussians) -> Gaussians:
        """From the world to the training world: means and log_scales change, nothing else."""
        return replace(g, means=self.points(g.means), log_scales=g.log_scales + float(np.log(self.scale)))

    def gaussians_to_world(self, g: Gaussians) -> Gaussians:
        """Back to the world: what is exported."""
        return replace(g, means=self.points_to_world(g.means), log_scales=g.log_scales - float(np.log(self.scale)))

    def cameras(self, c: Cameras) -> Cameras:
        """From the world to the training world."""
        return replace(c, viewmats=self.viewmats(c.viewmats))

    def cameras_to_world(self, c: Cameras) -> Cameras:
        """Back to the world."""
        mats = c.viewmats.double()
        moved = mats[:, :3, 3] / self.scale + (mats[:, :3, :3] @ self.shift.to(mats.device))
        return replace(c, viewmats=_with_translations(mats, moved).to(c.viewmats.dtype))

    def viewmats(self, world: Tensor) -> Tensor:
        """[C, 4, 4] world to camera to the same of the training world."""
        mats = world.double()
        moved = self.scale * (mats[:, :3, 3] - mats[:, :3, :3] @ self.shift.to(mats.device))
        return _with_translations(mats, moved).to(world.dtype)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"shift": [float(x) for x in self.shift], "scale": self.scale}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Normalisation:
        """What `to_dict` wrote; ValueError for anything else."""
        try:
            shift, scale = torch.tensor(value["shift"], dtype=torch.float64), float(value["scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'a normalisation is {{"shift": [x, y, z], "scale": s}}, got {value!r}') from error
        if shift.shape != (3,) or not bool(shift.isfinite().all()) or not 0 < scale < float("inf"):
            raise ValueError(f"a normalisation has 3 finite shifts and a positive scale, got {value!r}")
        return cls(shift, scale)


def _with_translations(viewmats: Tensor, translations: Tensor) -> Tensor:
    """A camera's own axes keep the units of the training world, so its rotation stays and only its place changes."""
    result = viewmats.clone()
    result[:, :3, 3] = translations
    return result


@dataclass(frozen=True)
class Capture:
    """Posed pictures of one scene, with the sparse points they came with."""

    path: Path
    kind: Kind
    views: tuple[View, ...]
    """Sorted by name."""
    train: tuple[int, ...]
    """Rows of `views` to learn from."""
    test: tuple[int, ...]
    """Rows of `views` that are held out (may be none)."""
    points: Tensor
    """[P, 3] float32, normalised world; P may be 0."""
    colors: Tensor
    """[P, 3] float32 in 0..1."""
    normalisation: Normalisation
    extent: float
    """1.1 x the largest distance of a training camera from the mean of all, in the normalised world: 1, and the unit of
    step sizes, also where all cameras stand at one point and there is nothing to measure."""
    has_alpha: bool
    """Whether pictures carry alpha, to be composited on a background that the trainer chooses."""
    notes: tuple[str, ...]
    """What a user should be told, one line each."""

    def camera(self, row: int) -> Cameras:
        """The camera of a view, with its picture's full size."""
        view = self.views[row]
        return Cameras(view.viewmat[None], view.K[None], view.width, view.height)

    def without(self, rows: Iterable[int], why: str) -> Capture:
        """Less these views, with a note that says why; the normalisation stays.

        Raises:
            ValueError: fewer than 2 training views would be left.
        """
        gone = {range(len(self.views))[row] for row in rows}
        if not gone:
            return self
        kept = [row for row in range(len(self.views)) if row not in gone]
        place = {row: i for i, row in enumerate(kept)}
        train, test = (tuple(place[r] for r in rows if r in place) for rows in (self.train, self.test))
        if len(train) < 2:
            raise ValueError(f"{self.path}: fewer than 2 training pictures are left ({why})")
        views = tuple(self.views[row] for row in kept)
        return replace(self, views=views, train=train, test=test, notes=(*self.notes, why))


def listed(names: Iterable[str], most: int = 3) -> str:
    """a.jpg, b.jpg, c.jpg and 5 more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
