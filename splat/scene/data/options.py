"""What a user can say about a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from splat.core.checks import check_int


@dataclass(frozen=True)
class DataOptions:
    """How a data set is read; everything has a default."""

    downscale: int | None = None
    """Pictures 1/N as large, from images_N where there is such a folder; default: 1, 2, 4, ... so that the longer side
    is at most max_side."""
    max_side: int = 1600
    """Longest side when `downscale` is not given, pixels."""
    test_every: int = 8
    """Every so-manieth picture by name is held out, from the first on; 0 for none."""
    images: str | None = None
    """Folder of the pictures, beside the model (default: images)."""
    masks: Path | None = None
    """Folder of masks, white where pictures count (default: masks, beside the pictures)."""
    depths: Path | None = None
    """Folder of depth maps, .npy, .exr or .png of the pictures' names (default: what transforms.json names)."""
    depth_unit: float | None = None
    """World units of one stored depth unit (default: 1 for .npy and .exr, 0.001 for .png)."""
    frames_per_second: float = 2.0
    """Of a video: the sharpest frame of each 1 / frames_per_second seconds is used."""
    max_frames: int = 300
    """Of a video."""

    def __post_init__(self) -> None:
        if self.downscale is not None:
            check_int("downscale", self.downscale, 1)
        check_int("max_side", self.max_side, 1)
        check_int("test_every", self.test_every, 0)
        check_int("max_frames", self.max_frames, 2)
        if not 0 < self.frames_per_second < math.inf:
            raise ValueError(f"frames_per_second must be positive, got {self.frames_per_second}")
        if self.depth_unit is not None and not self.depth_unit > 0:
            raise ValueError(f"depth_unit must be positive, got {self.depth_unit}")
