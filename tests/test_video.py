"""Moving pictures: what is written can be read back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageSequence

from splat import optional
from splat.scene.video import VideoFormat, can_write_mp4, write_video

Pixels = npt.NDArray[np.uint8]
mp4_only = pytest.mark.skipif(not can_write_mp4(), reason="imageio-ffmpeg (extra [video]) is not installed")


def frames(count: int, width: int = 33, height: int = 21) -> Iterator[Pixels]:
    """Smooth pictures whose brightness says which frame it is."""
    ramp = np.linspace(0, 60, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None] + np.zeros(3)
    for i in range(count):
        yield (ramp + 12 * i).astype(np.uint8)


def close(got: Pixels, want: Pixels) -> bool:
    return bool(np.abs(got.astype(float) - want).mean() < 2.5)


def test_a_webp_has_every_frame_for_its_time(tmp_path: Path) -> None:
    assert write_video(tmp_path / "a.webp", frames(13), fps=30, format="webp") == 13
    with Image.open(tmp_path / "a.webp") as animation:
        shown = list(ImageSequence.Iterator(animation))
        assert len(shown) == 13 and animation.size == (33, 21)
        total = 0
        for i, want in enumerate(frames(13)):
            animation.seek(i)
            assert close(np.asarray(animation.convert("RGB")), want)
            total += animation.info["duration"]
    assert total == round(13 * 1000 / 30)


@mp4_only
def test_an_mp4_has_every_frame_and_even_sides(tmp_path: Path) -> None:
    import imageio_ffmpeg

    assert write_video(tmp_path / "a.mp4", frames(13), fps=25, format="mp4") == 13
    decode = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        str(tmp_path / "a.mp4"),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    done = subprocess.run(decode, capture_output=True, check=True)
    got = np.frombuffer(done.stdout, np.uint8).reshape(-1, 22, 34, 3)
    about = done.stderr.decode()
    assert "h264" in about and "34x22" in about and "25 fps" in about and "yuv420p" in about
    assert len(got) == 13
    assert all(close(g[:21, :33], want) for g, want in zip(got, frames(13), strict=True))


def test_png_frames_are_exact(tmp_path: Path) -> None:
    assert write_video(tmp_path / "a", frames(3), format="png") == 3
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == [f"frame_0000{i}.png" for i in range(3)]
    for path, want in zip(sorted((tmp_path / "a").iterdir()), frames(3), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), want)


@pytest.mark.parametrize("format", ["webp", pytest.param("mp4", marks=mp4_only)])
def test_what_fails_half_way_leaves_the_old_file(format: VideoFormat, tmp_path: Path) -> None:
    path = tmp_path / f"a.{format}"
    path.write_text("old")

    def broken() -> Iterator[Pixels]:
        yield from frames(5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(path, broken(), format=format)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_frames_are_taken_one_by_one(tmp_path: Path) -> None:
    written: list[int] = []

    def counted() -> Iterator[Pixels]:
        for frame in frames(6):
            written.append(len(list((tmp_path / "b").iterdir())) if (tmp_path / "b").exists() else 0)
            yield frame

    write_video(tmp_path / "b", counted(), format="png")
    assert written == [0, 1, 2, 3, 4, 5]


def test_bad_frames_and_a_missing_encoder_are_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.webp", [], format="webp")
    with pytest.raises(ValueError, match=r"frame 0 is \[21, 33, 3\], frame 1 is \[4, 4, 3\]"):
        write_video(tmp_path / "a.webp", [next(frames(1)), next(frames(1, 4, 4))], format="webp")
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64"):
        write_video(tmp_path / "a.webp", [np.zeros((2, 2, 3))], format="webp")
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"mp4 \(not webp or png\) needs imageio-ffmpeg.*torchsplat\[video\]"):
        write_video(tmp_path / "a.mp4", frames(2), format="mp4")
    assert list(tmp_path.iterdir()) == []
