"""Data in: COLMAP models, transforms.json, folders of photos and videos to one `Capture`."""

from __future__ import annotations

from pathlib import Path

from splat.scene.data.assemble import assemble
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
    """Reads a data set of any kind: a folder with a COLMAP model or with transforms.json, a transforms file itself.

    Args:
        path: what kind it is, is found out.
        progress: is told what is being done.

    Raises:
        ValueError: there is nothing useful, or not enough of it.
    """
    from splat.scene.data.colmap import MODEL_FOLDERS, find_models, read_colmap
    from splat.scene.data.transforms import find_transforms, read_transforms

    path, options = Path(path), options or DataOptions()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    files = find_transforms(path)
    if files:
        return assemble(read_transforms(path, files, options), options)
    models = find_models(path)
    if models:
        return assemble(read_colmap(path, models, options), options)
    raise ValueError(
        f"{path}: nothing to train on; looked for a COLMAP model (cameras and images, .bin or .txt, in "
        f"{', '.join(MODEL_FOLDERS)}) and for transforms.json or transforms_train.json"
    )
