"""A COLMAP project as a data set: finding the model and its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from splat.core.reference.project import rotation
from splat.scene.data.assemble import Frame, Listing
from splat.scene.data.capture import listed
from splat.scene.data.colmap_files import ColmapImage, ColmapModel, model_suffix, read_model
from splat.scene.data.distortion import Array, Lens
from splat.scene.data.options import DataOptions

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", ".")
"""Where a model is looked for."""


def find_models(path: Path) -> list[Path]:
    """Folders with a COLMAP model, below the first place of MODEL_FOLDERS that has any."""
    for place in MODEL_FOLDERS:
        folder = path / place
        if place.endswith("0"):
            folder = folder.parent
            found = sorted(f for f in folder.iterdir() if f.is_dir() and model_suffix(f)) if folder.is_dir() else []
        else:
            found = [folder] if model_suffix(folder) else []
        if found:
            return found
    return []


def read_colmap(path: Path, models: list[Path], options: DataOptions) -> Listing:
    """The largest of the models, with the pictures beside it."""
    notes = []
    sized = [(read_model(folder), folder) for folder in models]
    model, folder = max(sized, key=lambda pair: len(pair[0].images))  # the first of equals
    if len(models) > 1:
        rest = sum(len(m.images) for m, _ in sized) - len(model.images)
        notes.append(
            f"of {len(models)} models, {folder.name} is used ({len(model.images)} pictures; {rest} in the others)"
        )
    pictures = _picture_folder(path, options.images, model)
    frames, wrong = model_frames(model, pictures)
    if wrong:
        notes.append(f"{len(wrong)} of {len(model.images)} pictures are left out: {listed(wrong)}")
    points, colors = model_points(model)
    return Listing(path, "colmap", tuple(frames), points, colors, notes=tuple(notes))


def model_frames(model: ColmapModel, pictures: Path) -> tuple[list[Frame], list[str]]:
    """The posed pictures, and what is wrong with those that are not among them."""
    rows = {int(point): row for row, point in enumerate(model.point_ids)}
    lenses: dict[int, Lens | str] = {}
    for camera_id, camera in model.cameras.items():
        try:
            lenses[camera_id] = Lens.from_colmap(camera.model, camera.width, camera.height, camera.params)
        except ValueError as error:
            lenses[camera_id] = str(error)
    frames, wrong = [], []
    for image in model.images:
        lens = lenses.get(image.camera_id, f"there is no camera {image.camera_id}")
        viewmat = _viewmat(image)
        if isinstance(lens, str):
            wrong.append(f"{image.name}: {lens}")
        elif not np.isfinite(viewmat).all():
            wrong.append(f"{image.name}: its pose is not finite")
        else:
            known = np.array([rows.get(int(point), -1) for point in image.point_ids], np.int64)
            has_row = known >= 0
            keypoints = image.keypoints[has_row]
            frames.append(
                Frame(image.name, pictures, image.name, viewmat, lens, keypoints=keypoints, point_rows=known[has_row])
            )
    return frames, wrong


def model_points(model: ColmapModel) -> tuple[Array, Array]:
    """Points and their colours in 0..1."""
    return model.points, model.colors.astype(np.float64) / 255


def _viewmat(image: ColmapImage) -> Array:
    viewmat = np.eye(4)
    quat = torch.tensor(image.quat, dtype=torch.float64)
    viewmat[:3, :3] = rotation(quat).numpy() if bool(quat.any()) else np.nan
    viewmat[:3, 3] = image.translation
    return viewmat


def _picture_folder(path: Path, named: str | None, model: ColmapModel) -> Path:
    """Where the pictures are: the first place that has one of them."""
    places = [path / named] if named else [path / "images", path / "input", path, path.parent / "images"]
    for place in places:
        if any((place / image.name).is_file() for image in model.images):
            return place
    return places[0]
