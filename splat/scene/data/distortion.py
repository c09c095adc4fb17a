"""Lenses: from a direction to a pixel and back, for the camera models of COLMAP, OpenCV and nerfstudio.

One formula serves them all. A point (u, v) of the plane z = 1 is first bent onto the sphere by fisheye lenses
(its radius r becomes atan r), then moved by a polynomial in the squared radius s = u^2 + v^2:

    u' = u (1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4) / (1 + d1 s + d2 s^2 + d3 s^3) + 2 p1 u v + p2 (s + 2 u^2) + b1 s
    v' = v (the same factor)                                                    + 2 p2 u v + p1 (s + 2 v^2) + b2 s

and the pixel is (fx u' + cx, fy v' + cy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

# COLMAP's models: its number, the order of the parameters in its files ("f" stands for fx and fy, "_" is not used).
_COLMAP_MODELS: dict[str, tuple[int, str]] = {
    "SIMPLE_PINHOLE": (0, "f cx cy"),
    "PINHOLE": (1, "fx fy cx cy"),
    "SIMPLE_RADIAL": (2, "f cx cy k1"),
    "RADIAL": (3, "f cx cy k1 k2"),
    "OPENCV": (4, "fx fy cx cy k1 k2 p1 p2"),
    "OPENCV_FISHEYE": (5, "fx fy cx cy k1 k2 k3 k4"),
    "FULL_OPENCV": (6, "fx fy cx cy k1 k2 p1 p2 k3 d1 d2 d3"),
    "SIMPLE_RADIAL_FISHEYE": (8, "f cx cy k1"),
    "RADIAL_FISHEYE": (9, "f cx cy k1 k2"),
    "THIN_PRISM_FISHEYE": (10, "fx fy cx cy k1 k2 p1 p2 k3 k4 b1 b2"),
}
# Models that are read past (their length must be known) to say which picture has one.
_OTHER_MODELS = {"FOV": (7, 5), "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16)}
COLMAP_NAMES = {number: name for name, (number, _) in (_COLMAP_MODELS | _OTHER_MODELS).items()}
_STEP = 1e-20  # of the complex-step derivative, which loses no digits


def colmap_number(name: str) -> int:
    """The number of a model that we know in COLMAP's binary files."""
    return _COLMAP_MODELS[name][0]


def parameter_count(name: str) -> int:
    """How many parameters a model has in COLMAP's files."""
    return _OTHER_MODELS[name][1] if name in _OTHER_MODELS else len(_COLMAP_MODELS[name][1].split())


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a camera, in pixels of pictures of one size (the centre of the first pixel is 0.5)."""

    width: int
    height: int
    focal: tuple[float, float]
    centre: tuple[float, float]
    radial: tuple[float, ...] = ()
    """k1 .. k4, fewer where the rest is 0."""
    divisor: tuple[float, ...] = ()
    """d1 .. d3."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """p1, p2."""
    prism: tuple[float, float] = (0.0, 0.0)
    """b1, b2."""
    fisheye: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.focal, *self.centre, *self.radial, *self.divisor, *self.tangential, *self.prism)
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a camera's picture must have at least 1 x 1 pixel, got {self.width} x {self.height}")
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a camera's parameters must be finite")
        if min(self.focal) <= 0:
            raise ValueError(f"a focal length must be positive, got {min(self.focal):g}")

    @classmethod
    def from_colmap(cls, model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
        """From COLMAP's model name and its parameters in the order of its files.

        Raises:
            ValueError: a model we do not know, another number of parameters, values that cannot be.
        """
        if model not in _COLMAP_MODELS:
            known = ", ".join(_COLMAP_MODELS)
            raise ValueError(f"camera model {model} is not supported; undistort with COLMAP first (known: {known})")
        names = _COLMAP_MODELS[model][1].split()
        if len(params) != len(names):
            raise ValueError(f"camera model {model} has {len(names)} parameters ({' '.join(names)}), got {len(params)}")
        value = dict(zip(names, params, strict=True))

        def some(*wanted: str) -> tuple[float, ...]:
            return tuple(value[name] for name in wanted if name in value)

        return cls(
            width,
            height,
            focal=(value.get("fx", value.get("f", 0.0)), value.get("fy", value.get("f", 0.0))),
            centre=(value["cx"], value["cy"]),
            radial=some("k1", "k2", "k3", "k4"),
            divisor=some("d1", "d2", "d3"),
            tangential=(value.get("p1", 0.0), value.get("p2", 0.0)),
            prism=(value.get("b1", 0.0), value.get("b2", 0.0)),
            fisheye="FISHEYE" in model,
        )

    @property
    def K(self) -> Array:
        """[3, 3] as if there were no distortion."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    @property
    def distorted(self) -> bool:
        """Whether straight lines come out bent."""
        return self.fisheye or any((*self.radial, *self.divisor, *self.tangential, *self.prism))

    def resized(self, width: int, height: int) -> Lens:
        """The same lens with pictures of another size."""
        sx, sy = width / self.width, height / self.height
        (fx, fy), (cx, cy) = self.focal, self.centre
        return replace(self, width=width, height=height, focal=(fx * sx, fy * sy), centre=(cx * sx, cy * sy))

    def project(self, plane: Array) -> Array:
        """Pixels [N, 2] of points [N, 2] of the plane z = 1."""
        pixels: Array = self._polynomial(self._bend(plane)) * self.focal + self.centre
        return pixels

    def unproject(self, pixels: Array) -> Array:
        """Points [N, 2] of the plane z = 1 that are seen at `pixels` [N, 2]; NaN where there are none (past the range
        in which the model can be inverted, or behind the plane of a fisheye's equator)."""
        target = (np.asarray(pixels, np.float64) - self.centre) / self.focal
        bent = self._invert_polynomial(target) if self.distorted else target
        if not self.fisheye:
            return bent
        angle = np.linalg.norm(bent, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            stretch = np.where(angle > 1e-9, np.tan(angle) / angle, 1.0)
            plane: Array = np.where(angle < math.pi / 2 - 1e-6, bent * stretch, np.nan)
        return plane

    def fold(self, limit: float) -> float:
        """The radius on the plane z = 1, up to `limit`, from where on pixels move back to the centre; else infinity."""
        radius = np.linspace(0, limit, 4097)
        ray = self._bend(np.stack([radius, np.zeros_like(radius)], -1))[:, 0]
        moved = ray * _series(self.radial, ray * ray) / _series(self.divisor, ray * ray)
        back = np.flatnonzero(np.diff(moved) <= 0)
        return float(radius[back[0]]) if len(back) else math.inf

    def _bend(self, plane: Any) -> Any:
        if not self.fisheye:
            return plane
        radius = np.linalg.norm(plane, axis=-1, keepdims=True)
        return plane * np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)

    def _polynomial(self, point: Any) -> Any:
        """Of real or complex points [N, 2]."""
        u, v = point[..., 0], point[..., 1]
        s = u * u + v * v
        factor = _series(self.radial, s) / _series(self.divisor, s)
        (p1, p2), (b1, b2) = self.tangential, self.prism
        x = u * factor + 2 * p1 * u * v + p2 * (s + 2 * u * u) + b1 * s
        y = v * factor + 2 * p2 * u * v + p1 * (s + 2 * v * v) + b2 * s
        return np.stack([x, y], -1)

    def _invert_polynomial(self, target: Array) -> Array:
        """By Newton's method, from the target itself: it then walks along the branch that holds the centre."""
        point = target.copy()
        for _ in range(30):
            by_u = self._polynomial(point + np.array([_STEP * 1j, 0])).imag / _STEP
            by_v = self._polynomial(point + np.array([0, _STEP * 1j])).imag / _STEP
            miss = target - self._polynomial(point)
            det = by_u[..., 0] * by_v[..., 1] - by_u[..., 1] * by_v[..., 0]
            # Where the mapping folds back (det <= 0) nothing is seen; NaN stays NaN.
            det = np.where(det > 1e-6, det, np.nan)
            step = np.stack(
                [
                    miss[..., 0] * by_v[..., 1] - miss[..., 1] * by_v[..., 0],
                    miss[..., 1] * by_u[..., 0] - miss[..., 0] * by_u[..., 1],
                ],
                -1,
            )
            step /= det[..., None]
            point += step
            if np.nanmax(np.abs(step), initial=0.0) < 1e-13:
                break
        with np.errstate(invalid="ignore"):
            found = np.abs(self._polynomial(point) - target).max(-1, keepdims=True) < 1e-9
        return np.where(found, point, np.nan)


def _series(coefficients: tuple[float, ...], s: Any) -> Any:
    """1 + c1 s + c2 s^2 + ..."""
    total = np.zeros_like(s)
    for c in reversed(coefficients):
        total = (total + c) * s
    return 1 + total


@lru_cache(maxsize=64)
def undistorted(lens: Lens) -> Lens:
    """The pinhole camera whose picture is made from the lens's: same focal lengths, so that the middle keeps its
    sharpness, and the largest upright frame that holds no pixel from outside (at most twice as large; beyond that, and
    in corners that a strong lens still leaves empty, `sampling` says so). Frame and pixels stay aligned: the principal
    point moves by whole pixels."""
    if not lens.distorted:
        return lens
    w, h = lens.width, lens.height
    x, y = np.linspace(0.5, w - 0.5, 129), np.linspace(0.5, h - 0.5, 129)

    def edge(xs: Array | float, ys: Array | float, axis: int) -> Array:
        seen = lens.unproject(np.stack(np.broadcast_arrays(xs, ys), -1).astype(np.float64))[:, axis]
        return (seen * lens.focal[axis] + lens.centre[axis])[np.isfinite(seen)]

    left = math.ceil(edge(0.5, y, 0).max(initial=-w / 2) - 0.5 - 1e-6)
    right = math.floor(edge(w - 0.5, y, 0).min(initial=1.5 * w) + 0.5 + 1e-6)
    top = math.ceil(edge(x, 0.5, 1).max(initial=-h / 2) - 0.5 - 1e-6)
    bottom = math.floor(edge(x, h - 0.5, 1).min(initial=1.5 * h) + 0.5 + 1e-6)
    left, top, right, bottom = max(left, -w // 2), max(top, -h // 2), min(right, w + w // 2), min(bottom, h + h // 2)
    if right - left < w / 8 or bottom - top < h / 8:
        raise ValueError("the distortion is so strong that no pinhole picture is left; undistort with COLMAP first")
    cx, cy = lens.centre
    return Lens(right - left, bottom - top, lens.focal, (cx - left, cy - top))


@lru_cache(maxsize=8)
def sampling(lens: Lens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Where the pixels of `undistorted(lens)` are found in the lens's picture: [H, W, 2] pixels, and bool [H, W], false
    where the lens does not see."""
    flat = undistorted(lens)
    y, x = np.meshgrid(np.arange(flat.height) + 0.5, np.arange(flat.width) + 0.5, indexing="ij")
    plane = (np.stack([x, y], -1).reshape(-1, 2) - flat.centre) / flat.focal
    pixels = lens.project(plane)
    # Half a pixel of the border is filled up by its nearest pixel, as everywhere in sampling.
    inside = (pixels > -1e-3).all(-1) & (pixels < np.array([lens.width, lens.height]) + 1e-3).all(-1)
    # A polynomial that folds back would show the picture a second time, far outside.
    radius = np.linalg.norm(plane, axis=-1)
    inside &= radius < lens.fold(float(radius.max()))
    shape = (flat.height, flat.width)
    return pixels.reshape(*shape, 2).astype(np.float32), inside.reshape(shape)
