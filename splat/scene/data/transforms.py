"""transforms.json as nerfstudio, instant-ngp and Blender's NeRF data sets write it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from splat.scene.data.assemble import PICTURES, FieldOfView, Frame, Listing
from splat.scene.data.capture import listed
from splat.scene.data.distortion import Array, Lens
from splat.scene.data.options import DataOptions
from splat.scene.data.points_ply import read_points_ply

_PARTS = ("train", "val", "test")
_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's axes (y up, z backward) to OpenCV's


class _Bad(ValueError):
    """What is wrong with one frame."""


def find_transforms(path: Path) -> list[Path]:
    """The transforms files of a folder (transforms.json, else transforms_train/val/test.json), or `path` itself."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    if (path / "transforms.json").is_file():
        return [path / "transforms.json"]
    return [file for part in _PARTS if (file := path / f"transforms_{part}.json").is_file()]


def read_transforms(path: Path, files: list[Path], options: DataOptions) -> Listing:
    """The frames of all files. Held out is what transforms_test.json (else transforms_val.json) or test_filenames (else
    val_filenames) says. `applied_transform` needs no undoing: points and poses lie in one and the same world.

    Raises:
        ValueError: a file is no JSON with frames; a frame that is wrong is left out with a note instead.
    """
    metas = {file: _read_json(file) for file in files}
    held_out = _held_out_file(files)
    frames: dict[str, Frame] = {}
    wrong: list[str] = []
    total = 0
    for file, meta in metas.items():
        if held_out is not None and file.stem == "transforms_val" and file != held_out:
            continue
        for number, entry in enumerate(meta["frames"]):
            total += 1
            try:
                frame = _frame(file.parent, meta, entry, options)
            except (_Bad, ValueError) as error:
                name = entry.get("file_path", "") if isinstance(entry, dict) else ""
                wrong.append(f"{file.name}, frame {number} {name}: {error}")
                continue
            if frame.name in frames:
                wrong.append(f"{frame.name} is listed twice")
                continue
            split = _listed_split(meta, frame.name)
            if held_out is not None:
                split = "test" if file == held_out else "train"
            frames[frame.name] = replace(frame, split=split)
    notes = [f"{len(wrong)} of {total} frames are left out: {listed(wrong)}"] if wrong else []
    points, colors = np.zeros((0, 3)), np.zeros((0, 3))
    unit = None
    for file, meta in metas.items():
        unit = unit or meta.get("depth_unit_scale_factor")
        if meta.get("ply_file_path") and not len(points):
            points, colors, note = _points(file.parent / str(meta["ply_file_path"]))
            notes += note
    if unit is not None and not (isinstance(unit, (int, float)) and 0 < unit < math.inf):
        raise ValueError(f"{path}: depth_unit_scale_factor must be a positive number, got {unit!r}")
    return Listing(path, "transforms", tuple(frames.values()), points, colors, unit, tuple(notes))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise ValueError(f'{file}: wanted an object with "frames", a list')
    return meta


def _held_out_file(files: list[Path]) -> Path | None:
    by_name = {file.stem: file for file in files}
    if "transforms_train" not in by_name:
        return None
    return by_name.get("transforms_test") or by_name.get("transforms_val")


def _listed_split(meta: dict[str, Any], name: str) -> str | None:
    """By nerfstudio's lists of file names."""
    lists = {part: {_clean(n) for n in meta.get(f"{part}_filenames") or []} for part in _PARTS}
    if not any(lists.values()):
        return None
    held_out = lists["test"] or lists["val"]
    return "test" if name in held_out else "train"


def _clean(name: Any) -> str:
    return Path(str(name)).as_posix()  # drops a leading ./


def _frame(root: Path, meta: dict[str, Any], entry: Any, options: DataOptions) -> Frame:
    if not isinstance(entry, dict) or "file_path" not in entry:
        raise _Bad("no file_path")
    name = _clean(entry["file_path"])
    file = Path(name)
    if file.suffix.lower() not in PICTURES:
        file = _with_suffix(root, file)
    folder = root / file.parts[0] if len(file.parts) > 1 else root
    inner = Path(*file.parts[1:]) if len(file.parts) > 1 else file
    if options.images is not None and len(file.parts) > 1:
        folder = root / options.images
    mask, depth = entry.get("mask_path"), entry.get("depth_file_path")
    return Frame(
        name=name,
        folder=folder,
        file=inner.as_posix(),
        viewmat=_viewmat(entry.get("transform_matrix")),
        lens=_lens({**meta, **entry}),
        mask=root / mask if mask else None,
        depth=root / depth if depth else None,
    )


def _with_suffix(root: Path, file: Path) -> Path:
    """Blender's files are listed without their suffix."""
    for suffix in (".png", *PICTURES):
        candidate = file.with_name(file.name + suffix)
        if (root / candidate).is_file():
            return candidate
    return file.with_name(file.name + ".png")


def _viewmat(matrix: Any) -> Array:
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        raise _Bad("transform_matrix is no matrix of numbers") from None
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise _Bad("transform_matrix must be 4 x 4 finite numbers")
    pose = np.concatenate([pose[:3], [[0, 0, 0, 1]]])
    # Stored with few digits it is a little off a rotation; scaled or mirrored it is something else.
    left, stretch, right = np.linalg.svd(pose[:3, :3])
    if np.abs(stretch - 1).max() > 0.01 or np.linalg.det(pose[:3, :3]) < 0:
        raise _Bad("transform_matrix is no rotation and translation")
    pose[:3, :3] = left @ right
    pose = pose @ _FLIP
    viewmat = np.eye(4)
    viewmat[:3, :3] = pose[:3, :3].T
    viewmat[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return viewmat


def _lens(values: dict[str, Any]) -> Lens | FieldOfView:
    """Of a frame; what it does not say itself is taken from the file's head."""

    def number(*names: str, default: float | None = None) -> float | None:
        for name in names:
            if (value := values.get(name)) is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise _Bad(f"{name} must be a number, got {value!r}")
                return float(value)
        return default

    model = str(values.get("camera_model") or "OPENCV")
    if model not in _MODELS:
        raise _Bad(f"camera_model {model} is not supported (known: {', '.join(_MODELS)})")
    width, height = number("w"), number("h")
    focal_x, focal_y = number("fl_x"), number("fl_y")
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    if width is None or height is None:
        if focal_x is not None:
            raise _Bad("fl_x is given without w and h, the size it goes with")
        if angle_x is None or not 0 < angle_x < math.pi:
            raise _Bad("no intrinsics: wanted fl_x, w and h, or camera_angle_x")
        return FieldOfView(angle_x)
    if focal_x is None and angle_x is not None and 0 < angle_x < math.pi:
        focal_x = width / 2 / math.tan(angle_x / 2)
    if focal_y is None and angle_y is not None and 0 < angle_y < math.pi and values.get("fl_x") is None:
        focal_y = height / 2 / math.tan(angle_y / 2)
    focal_x, focal_y = focal_x or focal_y, focal_y or focal_x
    if focal_x is None or focal_y is None:
        raise _Bad("no intrinsics: wanted fl_x or camera_angle_x")
    return Lens(
        int(width),
        int(height),
        focal=(focal_x, focal_y),
        centre=(number("cx", default=width / 2) or 0.0, number("cy", default=height / 2) or 0.0),
        radial=() if model.endswith("PINHOLE") else tuple(number(f"k{i}", default=0.0) or 0.0 for i in range(1, 5)),
        tangential=(number("p1", default=0.0) or 0.0, number("p2", default=0.0) or 0.0),
        fisheye=model == "OPENCV_FISHEYE" or values.get("is_fisheye") is True,
    )


def _points(file: Path) -> tuple[Array, Array, list[str]]:
    try:
        return (*read_points_ply(file), [])
    except ValueError as error:
        return np.zeros((0, 3)), np.zeros((0, 3)), [f"no points: {error}"]
