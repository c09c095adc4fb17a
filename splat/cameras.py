"""Cameras: where pictures are taken from. OpenCV axes (x right, y down, z forward), world to camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import Arguments, check_device, check_int, check_size
from splat.core.project import CAMERA_MODELS, CameraModel
from splat.core.reference.project import rotation


def _vectors(name: str, value: Tensor | Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """[C, 3] float32."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers of shape [3] or [C, 3], got {value!r}") from error
    tensor = tensor[None] if tensor.dim() == 1 else tensor
    if tensor.dim() != 2 or tensor.shape[1] != 3:
        raise ValueError(f"{name} must have shape [3] or [C, 3], got {list(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def _intrinsics(width: int, height: int, fov_y: float | None, focal: float | None) -> Tensor:
    """[3, 3]."""
    check_size(width, height)
    if (fov_y is None) == (focal is None):
        raise ValueError("give either fov_y (degrees) or focal (pixels)")
    if focal is None:
        assert fov_y is not None
        if not 0 < fov_y < 180:
            raise ValueError(f"fov_y must be between 0 and 180 degrees, got {fov_y}")
        focal = 0.5 * height / math.tan(math.radians(fov_y) / 2)
    if not 0 < focal < math.inf:
        raise ValueError(f"focal must be positive and finite, got {focal}")
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _rigid(rotations: Tensor, translations: Tensor) -> Tensor:
    """[C, 3, 3] and [C, 3] -> [C, 4, 4]."""
    top = torch.cat([rotations, translations[..., None]], -1)
    return torch.cat([top, top.new_tensor([0, 0, 0, 1]).expand(len(top), 1, 4)], 1)


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
        check = Arguments()
        check.floats("viewmats", self.viewmats, "C", 4, 4)
        check.floats("Ks", self.Ks, "C", 3, 3)
        check_size(self.width, self.height)
        # These look at values, which would cut a graph that is traced and wait for a GPU, at every cameras[i] too.
        if not (torch.compiler.is_compiling() or self.viewmats.is_cuda):
            for name in ("viewmats", "Ks"):
                if not bool(torch.isfinite(getattr(self, name)).all()):
                    raise ValueError(f"{name} must be finite, got NaN or infinity")
            if not bool((self.Ks.diagonal(dim1=1, dim2=2)[:, :2] > 0).all()):
                raise ValueError("Ks must have positive focal lengths at [0, 0] and [1, 1]")
        if self.camera_model not in CAMERA_MODELS:
            raise ValueError(f"camera_model must be one of {', '.join(CAMERA_MODELS)}, got {self.camera_model!r}")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Self:
        """One camera (still with a leading dimension of 1) or several; a negative index counts from the end."""
        if not isinstance(index, (slice, Tensor, Sequence)):
            check_int("index", index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"index must be in {-len(self)} .. {len(self) - 1}, got {index}")
            index = slice(index % len(self), index % len(self) + 1)  # a list would be copied to a GPU, which waits
        rows = index[None] if isinstance(index, Tensor) and index.dim() == 0 else index
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
        if not 0 < factor < math.inf:
            raise ValueError(f"factor must be positive and finite, got {factor}")
        width, height = max(1, round(self.width * factor)), max(1, round(self.height * factor))
        stretch = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, Ks=stretch[:, None] * self.Ks, width=width, height=height)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All cameras of `parts`, which must agree in size and model."""
        if not parts:
            raise ValueError("parts must hold at least one Cameras")
        first = parts[0]
        for i, part in enumerate(parts):
            check_device(f"parts[{i}]", part.viewmats, "parts[0]", first.viewmats)
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
        eyes, to, upward = _vectors("eye", eye), _vectors("target", target), _vectors("up", up)
        to, upward, count = to.to(eyes.device), upward.to(eyes.device), len(eyes)
        for name, value in (("target", to), ("up", upward)):
            if len(value) not in (1, count):
                raise ValueError(f"{name} must have shape [3] or [C, 3] = [{count}, 3], got {list(value.shape)}")
        forward = to - eyes
        # Closer than float32 can tell at this distance from the origin, the direction would be rounding noise.
        if bool((forward.norm(dim=-1) <= 1e-6 * (eyes.norm(dim=-1) + to.norm(dim=-1))).any()):
            raise ValueError("eye and target must differ")
        forward = F.normalize(forward, dim=-1, eps=0.0)
        if bool((upward == 0).all(-1).any()):
            raise ValueError("up must not be zero")
        right = torch.linalg.cross(forward, F.normalize(upward, dim=-1, eps=0.0).expand_as(forward))
        if bool((right.norm(dim=-1) < 1e-6).any()):
            raise ValueError("up must not be parallel to the viewing direction")
        right = F.normalize(right, dim=-1)
        turn = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
        Ks = _intrinsics(width, height, fov_y, focal).to(eyes).repeat(count, 1, 1)
        return cls(_rigid(turn, -(turn @ eyes[..., None])[..., 0]), Ks, width, height)

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
        check_int("count", count, 0)
        turn = torch.arange(count) / max(count, 1) * 2 * math.pi
        e = math.radians(elevation)
        offsets = torch.stack(
            [turn.cos() * math.cos(e), turn.sin() * math.cos(e), torch.full_like(turn, math.sin(e))], -1
        )
        return cls.look_at(torch.tensor(target) + radius * offsets, target, width=width, height=height, fov_y=fov_y)

    @classmethod
    def from_colmap(cls, qvecs: Tensor, tvecs: Tensor, Ks: Tensor, *, width: int, height: int) -> Self:
        """From COLMAP's image poses: qvecs [C, 4] wxyz and tvecs [C, 3], world to camera."""
        check = Arguments()
        check.floats("qvecs", qvecs, "C", 4)
        check.floats("tvecs", tvecs, "C", 3)
        if bool((qvecs == 0).all(-1).any()):
            raise ValueError("qvecs must not hold a zero quaternion")
        return cls(_rigid(rotation(qvecs), tvecs), Ks, width, height)

    @classmethod
    def from_opengl_c2w(cls, c2w: Tensor, Ks: Tensor, *, width: int, height: int) -> Self:
        """From camera-to-world matrices [C, 4, 4] with OpenGL axes (y up, z backward): Blender's and nerfstudio's
        transforms.json."""
        Arguments().floats("c2w", c2w, "C", 4, 4)
        flip = torch.diag(c2w.new_tensor([1.0, -1.0, -1.0, 1.0]))
        viewmats, failed = torch.linalg.inv_ex(c2w @ flip)
        if bool((failed != 0).any()):
            raise ValueError("c2w must be invertible")
        return cls(viewmats, Ks, width, height)
