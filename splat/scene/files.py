"""Scene files as the commands take them."""

from __future__ import annotations

from pathlib import Path

from splat.gaussians import Gaussians


def load_scene_file(path: str | Path) -> Gaussians:
    """Gaussians of a file (.safetensors as `Gaussians.save` writes it) in the units of the file's world.

    Raises:
        ValueError: missing, damaged, empty or unknown file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file (wanted a scene)")
    gaussians = Gaussians.load(path)
    if len(gaussians) == 0:
        raise ValueError(f"{path}: holds no Gaussians")
    return gaussians
