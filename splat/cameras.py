"""Cameras: where pictures are taken from. OpenCV axes (x right, y down, z forward), world to camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from splat.core.project import CAMERA_MODELS, CameraModel
from splat.core.reference.project import rotation


def _vectors(value: Tensor | Sequence[float] | Sequence[Sequence[float]], name: str) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float32)
    tensor = tensor[None] if tensor.dim() == 1 else tensor
    if tensor.dim() != 2 or tensor.shape[1] != 3:
        raise ValueError(f"{name} must have shape [3] or [C, 3], got {list(tensor.shape)}")
    return tensor


def _intrinsics(width: int, height: int, fov_y: float | None, focal: float | None, count: int) -> Tensor:
    if (fov_y is None) == (focal is None):
        raise ValueError("give either fov_y (degrees) or focal (pixels)")
    if fov_y is not None and not 0 < fov_y < 180:
        raise ValueError(f"fov_y must be between 0 and 180 degrees, got {fov_y}")
    f = focal if focal is not None else 0.5 * height / math.tan(math.radians(fov_y or 0) / 2)
    return torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]).repeat(count, 1, 1)


@dataclass(frozen=True)
class Cameras:
    """C cameras with pictures of one size."""

    viewmats: Tensor
    """[C, 4, 4] world to camera, acting on column vectors."""
    Ks: Tensor
    """[C, 3, 3] pixels; the centre of the first pixel is 0.5."""
    width: int
    height: int
    camera_model: CameraModel = "pinhole"

    def __post_init__(self) -> None:
        count = self.viewmats.shape[0] if self.viewmats.dim() == 3 else -1
        for name, size in (("viewmats", 4), ("Ks", 3)):
            value = getattr(self, name)
            if tuple(value.shape) != (count, size, size):
                raise ValueError(f"{name} must have shape [C, {size}, {size}], got {list(value.shape)}")
            if not torch.compiler.is_compiling() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite, got NaN or infinity")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width and height must be at least 1 pixel, got {self.width} x {self.height}")
        if self.camera_model not in CAMERA_MODELS:
            raise ValueError(f"camera_model must be one of {', '.join(CAMERA_MODELS)}, got {self.camera_model!r}")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """One camera (still with a leading dimension of 1) or several."""
        rows = slice(index, index + 1 or None) if isinstance(index, int) else index
        return replace(self, viewmats=self.viewmats[rows], Ks=self.Ks[rows])

    @property
    def centers(self) -> Tensor:
        """[C, 3] positions in the world."""
        return -(self.viewmats[:, :3, :3].mT @ self.viewmats[:, :3, 3:])[..., 0]

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """On another device or in another dtype."""
        return replace(self, viewmats=self.viewmats.to(target), Ks=self.Ks.to(target))

    def scaled(self, factor: float) -> Self:
        """The same views with pictures `factor` times as large."""
        width, height = max(1, round(self.width * factor)), max(1, round(self.height * factor))
        stretch = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, Ks=stretch[:, None] * self.Ks, width=width, height=height)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All cameras of `parts`, which must agree in size and model."""
        first = parts[0]
        for part in parts:
            if (part.width, part.height, part.camera_model) != (first.width, first.height, first.camera_model):
                raise ValueError("cameras must agree in width, height and camera_model to be joined")
        return replace(first, viewmats=torch.cat([p.viewmats for p in parts]), Ks=torch.cat([p.Ks for p in parts]))

    @classmethod
    def look_at(
        cls,
        eye: Tensor | Sequence[float] | Sequence[Sequence[float]],
        target: Tensor | Sequence[float],
        *,
        width: int,
        height: int,
        up: Tensor | Sequence[float] = (0.0, 0.0, 1.0),
        fov_y: float | None = None,
        focal: float | None = None,
    ) -> Self:
        """Cameras at `eye` ([3] or [C, 3]) that look at `target`, with `up` towards the top of the picture."""
        eyes, to, upward = _vectors(eye, "eye"), _vectors(target, "target"), _vectors(up, "up")
        forward = to - eyes
        if bool((forward.norm(dim=-1) == 0).any()):
            raise ValueError("eye and target must differ")
        forward = torch.nn.functional.normalize(forward, dim=-1)
        right = torch.linalg.cross(forward, upward.expand_as(forward))
        if bool((right.norm(dim=-1) < 1e-6).any()):
            raise ValueError("up must not be parallel to the viewing direction")
        right = torch.nn.functional.normalize(right, dim=-1)
        viewmats = torch.eye(4).repeat(len(eyes), 1, 1)
        viewmats[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
        viewmats[:, :3, 3:] = -viewmats[:, :3, :3] @ eyes[..., None]
        return cls(viewmats, _intrinsics(width, height, fov_y, focal, len(eyes)), width, height)

    @classmethod
    def orbit(
        cls,
        count: int,
        *,
        radius: float,
        width: int,
        height: int,
        target: Sequence[float] = (0.0, 0.0, 0.0),
        elevation: float = 20.0,
        fov_y: float = 50.0,
    ) -> Self:
        """`count` cameras on a circle around the z axis through `target`, `elevation` degrees above it."""
        turn = torch.arange(count) / max(count, 1) * 2 * math.pi
        e = math.radians(elevation)
        offsets = torch.stack(
            [turn.cos() * math.cos(e), turn.sin() * math.cos(e), torch.full_like(turn, math.sin(e))], -1
        )
        return cls.look_at(torch.tensor(target) + radius * offsets, target, width=width, height=height, fov_y=fov_y)

    @classmethod
    def from_colmap(cls, qvecs: Tensor, tvecs: Tensor, Ks: Tensor, *, width: int, height: int) -> Self:
        """From COLMAP's image poses: qvecs [C, 4] wxyz and tvecs [C, 3], world to camera."""
        viewmats = torch.eye(4, dtype=qvecs.dtype).repeat(len(qvecs), 1, 1)
        viewmats[:, :3, :3] = rotation(qvecs)
        viewmats[:, :3, 3] = tvecs
        return cls(viewmats, Ks, width, height)

    @classmethod
    def from_opengl_c2w(cls, c2w: Tensor, Ks: Tensor, *, width: int, height: int) -> Self:
        """From camera-to-world matrices [C, 4, 4] with OpenGL axes (y up, z backward): Blender's and nerfstudio's
        transforms.json."""
        flip = torch.diag(c2w.new_tensor([1.0, -1.0, -1.0, 1.0]))
        return cls(torch.linalg.inv(c2w @ flip), Ks, width, height)
