"""Photos without poses, and videos, as data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splat.scene.data.assemble import PICTURES, Listing
from splat.scene.data.capture import Kind, Progress
from splat.scene.data.colmap import model_frames, model_points
from splat.scene.data.colmap_files import read_model
from splat.scene.data.options import DataOptions
from splat.scene.data.sfm import find_poses
from splat.scene.data.video import video_frames


def find_photos(path: Path, options: DataOptions) -> list[Path]:
    """Pictures in the folder that the options name, else in images/ or input/, else in the folder itself, by name."""
    places = [path / options.images] if options.images else [path / "images", path / "input", path]
    for place in places:
        files = place.iterdir() if place.is_dir() else []
        found = [f for f in files if f.suffix.lower() in PICTURES and not f.name.startswith(".") and f.is_file()]
        if found:
            return sorted(found, key=lambda f: f.name)
    return []


def read_photos(path: Path, photos: Sequence[Path], progress: Progress | None) -> Listing:
    """Photos, with the poses that structure from motion finds."""
    return _posed(path, "photos", photos, progress)


def read_video(path: Path, options: DataOptions, progress: Progress | None) -> Listing:
    """Sharp frames of a video, likewise."""
    frames = video_frames(path, options.frames_per_second, options.max_frames, progress)
    listing = _posed(path, "video", frames, progress)
    return replace(listing, notes=(f"{len(frames)} frames were taken from the video", *listing.notes))


def _posed(path: Path, kind: Kind, photos: Sequence[Path], progress: Progress | None) -> Listing:
    if len(photos) < 2:
        raise ValueError(f"{path}: 1 photo and no camera poses; at least 2 photos are needed")
    folder = photos[0].parent
    try:
        poses = find_poses(folder, photos, sequence=kind == "video", progress=progress)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model = read_model(poses.model)
    frames, wrong = model_frames(model, folder)
    upright = tuple(replace(frame, upright=True) for frame in frames)
    points, colors = model_points(model)
    return Listing(path, kind, upright, points, colors, notes=(*poses.notes, *wrong))
