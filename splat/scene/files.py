"""Scene files as the commands take them."""

from __future__ import annotations

from pathlib import Path

from splat.gaussians import Gaussians


def load_scene_file(path: str | Path) -> Gaussians:
    """Gaussians of a file of any format that `splat.io` reads, in the units of the file's world.

    Raises:
        ValueError: missing, damaged, empty or unknown file; nothing in it that can be drawn.
    """
    from splat.io import load_gaussians

    gaussians = load_gaussians(path)
    if not bool(gaussians.valid.any()):
        raise ValueError(f"{path}: holds no Gaussians that can be drawn")
    return gaussians
