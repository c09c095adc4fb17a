"""Photos without poses and videos: structure from motion, sharp frames, what is kept, what is said when it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.scene.data import DataOptions, load_capture
from splat.scene.data import sfm as sfm_module
from splat.scene.data.cache_folder import cached_folder, key_of
from splat.scene.data.video import sharpness, video_frames
from tests.captures import MINI, write_noise
from tests.test_data_colmap import reprojection_errors

NAMES = [f"IMG_{n}.JPG" for n in range(3023, 3031)]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def some_photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        shutil.copy(MINI / "images" / name, folder / name)


def test_photos_get_poses_that_agree_with_those_of_the_capture(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap finds the poses")
    some_photos(tmp_path)
    (tmp_path / "IMG_9999.JPG").write_bytes(b"no picture")
    stages: list[tuple[str, int, int]] = []
    capture = load_capture(tmp_path, progress=lambda *stage: stages.append(stage))
    assert capture.kind == "photos"
    assert len(capture.views) >= 6
    assert any("no pose was found for" in note and "IMG_9999.JPG" in note for note in capture.notes)
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
        "preparing photos",
        "finding features",
        "matching photos",
        "finding poses",
    ]
    assert ("finding features", 8, 8) in stages
    assert len(capture.points) > 80
    assert reprojection_errors(capture).mean() < 1
    # Turns between pictures do not depend on the world that the model was made in.
    truth = {view.name: view.viewmat[:3, :3] for view in load_capture(MINI).views}
    first = capture.views[0]
    for view in capture.views[1:]:
        turn = view.viewmat[:3, :3] @ first.viewmat[:3, :3].T
        true = truth[view.name] @ truth[first.name].T
        angle = torch.rad2deg(torch.arccos(((torch.trace(turn @ true.T) - 1) / 2).clamp(-1, 1)))
        assert angle < 3  # of tiny pictures, of which the full-size model took four times as many pixels
    # The second time nothing is computed.
    stages.clear()
    again = load_capture(tmp_path, progress=lambda *stage: stages.append(stage))
    assert stages == [] and len(again.views) == len(capture.views)
    torch.testing.assert_close(again.views[0].viewmat, first.viewmat, rtol=0, atol=0)


def test_photos_that_show_nothing_in_common_are_one_error_and_leave_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap looks for the poses")
    for i in range(3):
        Image.fromarray(np.full((64, 96, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="no camera poses could be found; the photos must show one scene"):
        load_capture(tmp_path)
    assert names(tmp_path) == ["0.png", "1.png", "2.png"]


def test_photos_are_posed_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As EXIF says they are to be looked at, unlike those of a COLMAP project."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 27
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    (tmp_path / "scratch").mkdir()
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    groups = sfm_module._copies(photos, tmp_path / "scratch" / "images", lambda *stage: None)
    assert groups == {(30, 40, 30.0): ["a.jpg"], (40, 30, 0.0): ["b.jpg"]}
    with Image.open(tmp_path / "scratch" / "images" / "a.jpg") as copy:
        assert copy.size == (30, 40)


def test_without_pycolmap_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_photos(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ValueError, match=r"needs pycolmap: pip install 'torchsplat\[sfm\]'"):
        load_capture(tmp_path)
    assert not (tmp_path / ".splat-sfm").exists()


def test_a_folder_with_nothing_useful_is_one_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"nothing to train on\. Wanted: a COLMAP model .* transforms\.json .*photos"):
        load_capture(tmp_path)
    with pytest.raises(ValueError, match="nothing to train on"):
        load_capture(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no such file or folder"):
        load_capture(tmp_path / "absent")
    write_noise(tmp_path / "one.png", 40, 30)
    with pytest.raises(ValueError, match="1 photo and no camera poses"):
        load_capture(tmp_path)
    (tmp_path / "one.png").unlink()
    (tmp_path / "walk.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a video; give it itself: .*walk\.mp4"):
        load_capture(tmp_path)


# What is kept


def test_kept_results_are_whole_or_absent_and_go_by_the_files(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"1")
    key = key_of([file], "x")
    assert key_of([file], "y") != key

    def fails(work: Path) -> None:
        (work / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path, "sfm", key, fails)
    assert names(tmp_path) == ["a.png"]
    made = cached_folder(tmp_path, "sfm", key, lambda work: (work / "whole").write_text("1") and None)
    assert made == tmp_path / ".splat-sfm" / key and (made / "whole").read_text() == "1"
    assert cached_folder(tmp_path, "sfm", key, fails) == made
    file.write_bytes(b"22")
    other = key_of([file], "x")
    assert other != key
    cached_folder(tmp_path, "sfm", other, lambda work: None)
    assert names(tmp_path / ".splat-sfm") == [other]  # what is out of date is gone


def test_where_the_folder_cannot_be_written_results_are_kept_beside_it(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    (data / ".splat-sfm").write_text("in the way, as a folder without rights would be (root may write those)")
    made = cached_folder(data, "sfm", "key", lambda work: None)
    assert made == tmp_path / "photos.splat-sfm" / "key"


# Videos


def test_sharpness_falls_as_a_picture_is_blurred() -> None:
    photo = np.asarray(opened(MINI / "images" / "IMG_3030.JPG"))
    values = [sharpness(photo)]
    for size in (2, 4, 8):
        small = Image.fromarray(photo).resize((277 // size, 183 // size), Image.Resampling.BOX)
        values.append(sharpness(np.asarray(small.resize((277, 183), Image.Resampling.BICUBIC))))
    assert values == sorted(values, reverse=True)
    assert values[1] < values[0] / 2


def write_video(path: Path, frames: list[np.ndarray], fps: int, *options: str) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg reads and writes videos").get_ffmpeg_exe()
    height, width = frames[0].shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    command = [ffmpeg, "-loglevel", "error", *raw, "-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True)


def test_of_each_stretch_of_a_video_the_sharpest_frame_is_taken(tmp_path: Path) -> None:
    photo = opened(MINI / "images" / "IMG_3030.JPG").crop((0, 0, 272, 176))
    blurred = photo.resize((34, 22), Image.Resampling.BOX).resize((272, 176), Image.Resampling.BICUBIC)
    sharp_at = {3, 5, 14, 29}  # of 10 frames each: two, one, one
    frames = []
    for number in range(30):
        frame = np.asarray(photo if number in sharp_at else blurred).copy()
        if number == 5:
            frame = np.asarray(Image.blend(photo, blurred, 0.5)).copy()
        frame[:16, :16] = number * 8  # says which frame it is
        frames.append(frame)
    video = tmp_path / "walk.mp4"
    write_video(video, frames, fps=20)
    stages: list[tuple[str, int, int]] = []
    files = video_frames(video, 2.0, 300, lambda *stage: stages.append(stage))
    assert [round(float(np.asarray(opened(f))[:16, :16].mean()) / 8) for f in files] == [3, 14, 29]
    assert stages[-1][0] == "choosing sharp frames" and stages[-1][2] == 30
    assert files[0].parent.parent == tmp_path / "walk.mp4.splat-frames"
    stages.clear()
    assert video_frames(video, 2.0, 300, lambda *stage: stages.append(stage)) == files
    assert stages == []
    assert len(video_frames(video, 20.0, 5)) == 5  # longer stretches where there would be too many


def test_a_file_that_is_no_video_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg reads videos")
    (tmp_path / "walk.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"walk\.mp4 cannot be read as a video"):
        load_capture(tmp_path / "walk.mp4")
    assert names(tmp_path) == ["walk.mp4"]


def test_a_video_becomes_a_capture(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap finds the poses")
    frames = []
    for name in NAMES[:6]:
        photo = np.asarray(opened(MINI / "images" / name))[:182, :276]
        frames += [photo] * 4
    write_video(tmp_path / "walk.mp4", frames, fps=8)
    capture = load_capture(tmp_path / "walk.mp4", DataOptions(frames_per_second=2))
    assert capture.kind == "video"
    assert capture.notes[0] == "6 frames were taken from the video"
    assert len(capture.views) >= 4
    assert reprojection_errors(capture).mean() < 1
