"""Sharp frames of a video, as photos."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

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

    ffmpeg = _ffmpeg()
    fps, seconds = _rate_and_length(ffmpeg, video)
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

    for number, frame in enumerate(_decoded(ffmpeg, video, fps), 1):
        if number > (kept + 1) * window:
            keep()
        score = sharpness(frame)
        if best is None or score > best[0]:
            best = score, frame
        if number % 10 == 0:
            report("choosing sharp frames", number, max(total, number))
    keep()
    if kept < 2:
        raise ValueError(f"{video}: {number} frames can be read, which is too few; too short, or damaged")


def _ffmpeg() -> str:
    """The program that imageio-ffmpeg brings along."""
    try:
        return str(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except ImportError as error:
        raise ValueError("reading a video needs imageio-ffmpeg: pip install 'torchsplat[video]'") from error


def _rate_and_length(ffmpeg: str, video: Path) -> tuple[float, float]:
    """Frames per second and seconds (0 where they are not known), from what ffmpeg says about the file."""
    command = [ffmpeg, "-nostdin", "-hide_banner", "-i", _argument(video)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stderr.decode(
        "utf-8", "replace"
    )
    rate = re.search(r"Video:.*?([\d.]+) (?:fps|tbr)", said)
    if rate is None or not float(rate[1]) > 0:
        lines = said.strip().splitlines()
        raise ValueError(f"{video} cannot be read as a video{f': {lines[-1].strip()}' if lines else ''}")
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
    seconds = 0.0 if length is None else int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3])
    return float(rate[1]), seconds


def _decoded(ffmpeg: str, video: Path, fps: float) -> Iterator[Frame]:
    """The frames [H, W, 3], upright, at an even rate."""
    command = [ffmpeg, "-nostdin", "-loglevel", "error", "-i", _argument(video), "-vf", f"fps={fps}", "-an"]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-"]  # each with its size, which a turn may swap
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while process.stdout.readline() == b"P6\n":
            width, height = map(int, process.stdout.readline().split())
            process.stdout.readline()  # the largest value, 255
            data = process.stdout.read(width * height * 3)
            if len(data) < width * height * 3:
                break
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _argument(video: Path) -> str:
    """A path that is not taken for an option or a protocol."""
    return f"file:{video}"
