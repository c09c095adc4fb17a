"""COLMAP's model files, binary and text: cameras, images, points3D. Rigs and frames, which COLMAP 4 writes beside them,
are not needed: images hold their poses as before."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat.files import atomic_write
from splat.scene.data.distortion import COLMAP_NAMES, Array, colmap_number, parameter_count

NAMES = ("cameras", "images", "points3D")
_NO_POINT = (1 << 64) - 1  # how the files say "-1"


@dataclass(frozen=True)
class ColmapCamera:
    """A camera as stored."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """An image as stored."""

    name: str
    camera_id: int
    quat: tuple[float, float, float, float]
    """wxyz, world to camera."""
    translation: tuple[float, float, float]
    keypoints: Array
    """[S, 2] pixels, those that belong to a point."""
    point_ids: npt.NDArray[np.int64]
    """[S]"""


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model."""

    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    point_ids: npt.NDArray[np.int64]
    """[P]"""
    points: Array
    """[P, 3]"""
    colors: npt.NDArray[np.uint8]
    """[P, 3]"""


def model_suffix(folder: Path) -> str | None:
    """ ".bin" or ".txt" when the folder holds a model (binary first), else None."""
    for suffix in (".bin", ".txt"):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            return suffix
    return None


def read_model(folder: Path) -> ColmapModel:
    """Reads a model; points may be missing.

    Raises:
        ValueError: a file is missing, cut off or not what its name says; the message names it.
    """
    suffix = model_suffix(folder)
    if suffix is None:
        raise ValueError(f"{folder}: no cameras and images, .bin or .txt")
    files = [folder / f"{name}{suffix}" for name in NAMES]
    if suffix == ".bin":
        cameras, images = _binary_cameras(_Bytes(files[0])), _binary_images(_Bytes(files[1]))
        points = _binary_points(_Bytes(files[2])) if files[2].is_file() else _no_points()
    else:
        cameras, images = _text_cameras(files[0]), _text_images(files[1])
        points = _text_points(files[2]) if files[2].is_file() else _no_points()
    return ColmapModel(cameras, tuple(images), *points)


_Points = tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.uint8]]


def _no_points() -> _Points:
    return np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3), np.uint8)


# Binary


class _Bytes:
    """A file that is read from front to back and never past its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self._at = 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        """The next little-endian values."""
        size = struct.calcsize("<" + layout)
        return struct.unpack("<" + layout, self._part(size))

    def integer(self, layout: str) -> int:
        return int(self.take(layout)[0])

    def count(self, each: int) -> int:
        """The next uint64, which says how many records of at least `each` bytes follow."""
        number = self.integer("Q")
        if number * each > len(self._data) - self._at:
            raise self.error(f"says {number} records follow where {len(self._data) - self._at} bytes are left")
        return number

    def text(self) -> str:
        """Up to the next zero byte."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise self.error("ends within a name")
        text = self._data[self._at : end]
        self._at = end + 1
        return text.decode("utf-8", "surrogateescape")

    def table(self, dtype: np.dtype[np.void], rows: int) -> npt.NDArray[np.void]:
        return np.frombuffer(self._part(dtype.itemsize * rows), dtype)

    def skip(self, size: int) -> None:
        self._part(size)

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged or cut off: it {what}")

    def _part(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise self.error(f"ends after {len(self._data)} bytes, within a record")
        part = self._data[self._at : self._at + size]
        self._at += size
        return part


def _binary_cameras(file: _Bytes) -> dict[int, ColmapCamera]:
    cameras = {}
    for _ in range(file.count(24)):
        camera_id, number, width, height = (int(x) for x in file.take("IiQQ"))
        if number not in COLMAP_NAMES:
            raise ValueError(f"{file.path}: camera {camera_id} has a model of number {number}, which is not supported")
        model = COLMAP_NAMES[number]
        params = tuple(float(p) for p in file.take(f"{parameter_count(model)}d"))
        cameras[camera_id] = ColmapCamera(model, width, height, params)
    return cameras


_POINT2D = np.dtype([("xy", "<f8", 2), ("point", "<u8")])


def _binary_images(file: _Bytes) -> Iterator[ColmapImage]:
    for _ in range(file.count(73)):
        file.skip(4)
        pose = [float(x) for x in file.take("7d")]
        camera_id, name = file.integer("I"), file.text()
        table = file.table(_POINT2D, file.count(_POINT2D.itemsize))
        table = table[table["point"] != _NO_POINT]
        keypoints, ids = table["xy"].astype(np.float64), table["point"].astype(np.int64)
        yield ColmapImage(name, camera_id, (*pose[:4],), (*pose[4:],), keypoints, ids)  # type: ignore[arg-type]


def _binary_points(file: _Bytes) -> _Points:
    count = file.count(51)
    ids, points, colors = np.zeros(count, np.int64), np.zeros((count, 3)), np.zeros((count, 3), np.uint8)
    for i in range(count):
        ids[i], *xyz, red, green, blue, _ = file.take("Q3d3Bd")
        points[i], colors[i] = xyz, (red, green, blue)
        file.skip(8 * file.count(8))
    return ids, points, colors


def write_model(folder: Path, model: ColmapModel) -> None:
    """Writes a model as COLMAP's binary files; images are numbered from 1, reprojection errors are not known (-1)."""
    cameras = [struct.pack("<Q", len(model.cameras))]
    for camera_id, camera in model.cameras.items():
        cameras.append(struct.pack("<IiQQ", camera_id, colmap_number(camera.model), camera.width, camera.height))
        cameras.append(struct.pack(f"<{len(camera.params)}d", *camera.params))
    images = [struct.pack("<Q", len(model.images))]
    tracks: dict[int, list[int]] = {int(point): [] for point in model.point_ids}
    for number, image in enumerate(model.images, 1):
        images.append(struct.pack("<I7dI", number, *image.quat, *image.translation, image.camera_id))
        images.append(image.name.encode("utf-8", "surrogateescape") + b"\0" + struct.pack("<Q", len(image.keypoints)))
        table = np.empty(len(image.keypoints), _POINT2D)
        table["xy"], table["point"] = image.keypoints, image.point_ids
        images.append(table.tobytes())
        for index, point in enumerate(image.point_ids):
            tracks[int(point)] += [number, index]
    points = [struct.pack("<Q", len(model.points))]
    for point, xyz, color in zip(model.point_ids, model.points, model.colors, strict=True):
        track = tracks[int(point)]
        points.append(struct.pack("<Q3d3BdQ", point, *xyz, *color, -1.0, len(track) // 2))
        points.append(struct.pack(f"<{len(track)}I", *track))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in zip(NAMES, (cameras, images, points), strict=True):
        with atomic_write(folder / f"{name}.bin") as temporary:
            temporary.write_bytes(b"".join(parts))


# Text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are no comments."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("#"):
                    yield number, line.strip()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            cameras[int(camera_id)] = ColmapCamera(model, int(width), int(height), tuple(map(float, params)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: wanted ID MODEL WIDTH HEIGHT PARAMS..., got {line!r}") from error
    return cameras


def _text_images(path: Path) -> Iterator[ColmapImage]:
    """Two lines each; the second may be empty."""
    lines = _lines(path)
    for number, line in lines:
        if not line:
            continue
        _, second = next(lines, (0, ""))
        try:
            fields = line.split(maxsplit=9)
            w, x, y, z, a, b, c = map(float, fields[1:8])
            camera_id, name = int(fields[8]), fields[9]
            table = np.array(second.split(), np.float64).reshape(-1, 3)
        except (ValueError, IndexError) as error:
            wanted = "ID QW QX QY QZ TX TY TZ CAMERA_ID NAME and a line of X Y POINT3D_ID"
            raise ValueError(f"{path}, line {number}: wanted {wanted}, got {line[:80]!r}") from error
        table = table[table[:, 2] >= 0]
        yield ColmapImage(name, camera_id, (w, x, y, z), (a, b, c), table[:, :2], table[:, 2].astype(np.int64))


def _text_points(path: Path) -> _Points:
    rows = []
    for number, line in _lines(path):
        if not line:
            continue
        try:
            rows.append([float(value) for value in line.split(maxsplit=8)[:7]])
            if len(rows[-1]) != 7:
                raise ValueError
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: wanted ID X Y Z R G B ERROR TRACK..., got {line[:80]!r}"
            ) from error
    table = np.array(rows, np.float64).reshape(-1, 7)
    return table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4:].clip(0, 255).astype(np.uint8)
