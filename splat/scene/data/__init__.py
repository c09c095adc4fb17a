"""Data in: COLMAP models, transforms.json, folders of photos and videos to one `Capture`."""

from __future__ import annotations

from pathlib import Path

from splat.scene.data.assemble import PICTURES, Listing, assemble
from splat.scene.data.capture import Capture as Capture
from splat.scene.data.capture import Normalisation as Normalisation
from splat.scene.data.capture import Progress as Progress
from splat.scene.data.capture import View as View
from splat.scene.data.options import DataOptions as DataOptions
from splat.scene.data.photos import BrokenPhoto as BrokenPhoto
from splat.scene.data.photos import Photo as Photo
from splat.scene.data.photos import PhotoCache as PhotoCache
from splat.scene.data.photos import check_photos as check_photos


def load_capture(path: str | Path, options: DataOptions | None = None, progress: Progress | None = None) -> Capture:
    """Reads a data set of any kind; which, is found out.

    Args:
        path: folder with a COLMAP model, with transforms.json (or such a file itself), or with photos; or a video.
            Photos and videos get their camera poses here, which takes minutes; the result is kept for the next time.
        progress: is told what is being done.

    Raises:
        ValueError: there is nothing useful, or not enough of it.
    """
    path, options = Path(path), options or DataOptions()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    return assemble(_listing(path, options, progress), options)


def _listing(path: Path, options: DataOptions, progress: Progress | None) -> Listing:
    from splat.scene.data.colmap import MODEL_FOLDERS, find_models, read_colmap
    from splat.scene.data.raw import find_photos, read_photos, read_video
    from splat.scene.data.transforms import find_transforms, read_transforms
    from splat.scene.data.video import VIDEOS

    if path.is_file() and path.suffix.lower() in VIDEOS:
        return read_video(path, options, progress)
    if files := find_transforms(path):
        return read_transforms(path, files, options)
    if path.is_dir():
        if models := find_models(path):
            return read_colmap(path, models, options)
        if photos := find_photos(path, options):
            return read_photos(path, photos, progress)
        videos = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEOS)
        if videos:
            raise ValueError(f"{path}: no photos, but a video; give it itself: {videos[0]}")
    raise ValueError(
        f"{path}: nothing to train on. Wanted: a COLMAP model (cameras and images, .bin or .txt, in "
        f"{', '.join(MODEL_FOLDERS)}), transforms.json or transforms_train.json, photos ({', '.join(PICTURES)}) in the "
        f"folder or in images/, or a video ({', '.join(VIDEOS)})"
    )
