"""Sharp frames of a video, as photos."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splat.scene.data.cache_folder import cached_folder, key_of
from splat.scene.data.capture import Progress
from splat.scene.data.pixels import resize_area

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
"""Suffixes of videos, in lower case."""
_SETTINGS = "1"

Frame = npt.NDArray[np.uint8]


def video_frames(video: Path, per_second: float, most: int, progress: Progress | None = None) -> list[Path]:
    """Files with the sharpest frame of each 1 / `per_second` seconds (longer where there would be more than `most`), in
    order; those of the same video are kept from one run to the next.

    Raises:
        ValueError: imageio-ffmpeg is missing, or the file is no video or cut off before its second frame.
    """
    report = progress or (lambda stage, done, total: None)
    key = key_of([video], f"video {_SETTINGS} {per_second} {most}")
    folder = cached_folder(video, "frames", key, lambda work: _write_frames(video, work, per_second, most, report))
    return sorted(folder.glob("*.jpg"))


def sharpness(frame: Frame) -> float:
    """Variance of the Laplacian of the brightness, of the frame at some 500 pixels: noise counts less there."""
    factor = max(1.0, max(frame.shape[:2]) / 512)
    height, width = (max(3, round(side / factor)) for side in frame.shape[:2])
    grey = resize_area(frame, width, height).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    centre = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def _write_frames(video: Path, folder: Path, per_second: float, most: int, report: Progress) -> None:
    from PIL import Image

    frames = _decoded(video)
    meta = next(frames)
    fps, seconds = float(meta.get("fps") or 0), float(meta.get("duration") or 0)
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"{video}: the number of frames per second is not known")
    total = round(fps * seconds)
    window = max(1.0, fps / per_second, total / most)  # frames
    best: tuple[float, Frame] | None = None
    number = kept = 0

    def keep() -> None:
        nonlocal kept, best
        if best is not None:
            Image.fromarray(best[1]).save(folder / f"{kept:05d}.jpg", quality=95)
            kept += 1
        best = None

    for number, frame in enumerate(frames):
        if number >= (kept + 1) * window:
            keep()
        score = sharpness(frame)
        if best is None or score > best[0]:
            best = score, frame
        if number % 10 == 0:
            report("choosing sharp frames", number, max(total, number))
    keep()
    if kept < 2:
        raise ValueError(f"{video}: only {number + 1 if kept else 0} frames can be read; too short, or damaged")


def _decoded(video: Path) -> Iterator[Any]:
    """What ffmpeg says about the video, then its frames uint8 [H, W, 3], upright."""
    try:
        ffmpeg: Any = import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ValueError("reading a video needs imageio-ffmpeg: pip install 'torchsplat[video]'") from error
    reader = ffmpeg.read_frames(str(video), pix_fmt="rgb24")
    try:
        meta = next(reader)
        width, height = meta["size"]
        yield meta
        for data in reader:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError, StopIteration) as error:
        what = str(error).strip().splitlines()
        raise ValueError(f"{video} cannot be read as a video{f': {what[-1]}' if what else ''}") from error
    finally:
        reader.close()
