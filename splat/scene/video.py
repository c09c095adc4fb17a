"""Moving pictures: frames to MP4, to an animated WebP, or to a folder of PNG files, one frame in memory at a time."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from splat.figures import Pixels
from splat.files import atomic_write
from splat.optional import installed, need

VideoFormat = Literal["mp4", "webp", "png"]


def can_write_mp4() -> bool:
    """Whether imageio-ffmpeg is there."""
    return installed("imageio_ffmpeg")


def write_video(path: str | Path, frames: Iterable[Pixels], *, fps: float = 30, format: VideoFormat) -> int:
    """Writes uint8 frames [H, W, 3] of one size and says how many they were.

    A .mp4 (H.264; an odd side gains a pixel, which the codec wants) or .webp appears whole or not at all. For png
    `path` is a folder, where frame_00000.png and so on are written.

    Raises:
        ValueError: no frame, frames of different sizes, or mp4 without imageio-ffmpeg.
    """
    path = Path(path)
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must be over 0 and at most 1000, got {fps}")
    if format == "mp4":
        need("imageio_ffmpeg", "video", "writing mp4 (not webp or png)")
    supply = _of_one_size(frames)
    first = next(supply, None)
    if first is None:
        raise ValueError("frames must hold at least one frame")
    supply = chain([first], supply)
    if format == "png":
        path.mkdir(parents=True, exist_ok=True)
        return _write_pngs(path, supply)
    path.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Path, Iterator[Pixels], float], int]] = {"mp4": _write_mp4, "webp": _write_webp}
    with atomic_write(path) as temporary:
        return writers[format](temporary, supply, fps)


def _of_one_size(frames: Iterable[Pixels]) -> Iterator[Pixels]:
    shape: tuple[int, ...] | None = None
    for i, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"frames must agree in size: frame 0 is {list(shape)}, frame {i} is {list(frame.shape)}")
        yield frame


def _write_pngs(folder: Path, frames: Iterator[Pixels]) -> int:
    count = 0
    for frame in frames:
        with atomic_write(folder / f"frame_{count:05d}.png") as temporary:
            Image.fromarray(frame).save(temporary, compress_level=4)
        count += 1
    return count


def _write_mp4(path: Path, frames: Iterator[Pixels], fps: float) -> int:
    ffmpeg = need("imageio_ffmpeg", "video", "writing mp4")
    first = next(frames)
    height, width = first.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    writer = ffmpeg.write_frames(
        str(path),
        (width + width % 2, height + height % 2),
        fps=fps,
        codec="libx264",
        quality=None,
        macro_block_size=1,
        output_params=["-crf", "17", "-preset", "medium", "-movflags", "+faststart"],
    )
    count = 0
    try:
        writer.send(None)
        for frame in chain([first], frames):
            writer.send(np.ascontiguousarray(np.pad(frame, pad, mode="edge")))
            count += 1
    finally:
        writer.close()  # ends ffmpeg, also when a frame could not be made
    return count


# Animated WebP. Pillow writes one too, but wants all frames at once.


def _write_webp(path: Path, frames: Iterator[Pixels], fps: float) -> int:
    """The extended file format of WebP (RFC 9649): a header, then each frame's own picture in an ANMF chunk."""
    count, end = 0, 0.0
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBP")
        for frame in frames:
            height, width = frame.shape[:2]
            if count == 0:
                canvas = _uint24(width - 1) + _uint24(height - 1)
                _write_chunk(file, b"VP8X", struct.pack("<I", 0x02) + canvas)  # flag: animation
                _write_chunk(file, b"ANIM", struct.pack("<IH", 0, 0))  # no background, for ever
            still = io.BytesIO()
            Image.fromarray(frame).save(still, format="WEBP", quality=88, method=4)
            start, end = end, end + 1000 / fps
            # At 0, 0; its milliseconds are such that rounding does not add up; whole picture, not blended.
            header = bytes(6) + canvas + _uint24(round(end) - round(start)) + b"\x02"
            _write_chunk(file, b"ANMF", header + still.getvalue()[12:])
            count += 1
        size = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", size - 8))
    return count


def _uint24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2))
