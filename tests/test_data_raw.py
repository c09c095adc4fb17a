"""Photos without poses and videos: structure from motion, sharp frames, what is kept, what is said when it fails."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.cameras import Cameras
from splat.scene.data import Capture, DataOptions, load_capture
from splat.scene.data import sfm as sfm_module
from splat.scene.data.cache_folder import cached_folder, key_of
from splat.scene.data.colmap_files import read_model
from splat.scene.data.video import sharpness, video_frames
from tests.captures import MINI, room_pictures, walk, write_noise
from tests.test_data_colmap import reprojection_errors


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def camera_errors(capture: Capture, truth: Cameras) -> tuple[float, float]:
    """Largest difference of turns between pictures, degrees, and of places relative to their spread: what does not
    depend on the world that the poses were found in. Row i of `truth` is the i-th name."""
    pairs = [(view.viewmat, truth.viewmats[int(view.name.split(".")[0])]) for view in capture.views]
    (first, true_first), turns = pairs[0], []
    for found, true in pairs[1:]:
        turn, true_turn = found[:3, :3] @ first[:3, :3].T, true[:3, :3] @ true_first[:3, :3].T
        turns.append(torch.arccos(((torch.trace(turn @ true_turn.T) - 1) / 2).clamp(-1, 1)))

    def places(mats: list[torch.Tensor]) -> torch.Tensor:
        """In the axes of the first camera, with a spread of 1."""
        centres = torch.stack([-mat[:3, :3].T @ mat[:3, 3] for mat in mats])
        centres = (centres - centres[0]) @ mats[0][:3, :3].T
        return centres / centres.norm(dim=1).max()

    off = places([found for found, _ in pairs]) - places([true for _, true in pairs])
    return math.degrees(max(turns)), float(off.norm(dim=1).max())


def test_photos_get_the_poses_they_were_taken_with(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap finds the poses")
    truth = walk(7)
    for number, picture in enumerate(room_pictures(truth)):
        Image.fromarray(picture).save(tmp_path / f"{number}. photo.png")  # names may hold spaces
    (tmp_path / "7.jpg").write_bytes(b"no picture")
    stages: list[tuple[str, int, int]] = []
    capture = load_capture(tmp_path, progress=lambda *stage: stages.append(stage))
    assert capture.kind == "photos"
    assert [view.name for view in capture.views] == [f"{i}. photo.png" for i in range(7)]
    assert capture.notes[0] == "no pose was found for 1 of 8 photos: 7.jpg"
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
        "preparing photos",
        "finding features",
        "matching photos",
        "finding poses",
    ]
    assert {("finding features", 7, 7), ("matching photos", 21, 21), ("finding poses", 7, 7)} <= set(stages)
    turns, places = camera_errors(capture, truth)
    assert turns < 0.3 and places < 0.02  # measured: 0.08 degrees, 0.0033
    assert reprojection_errors(capture).mean() < 0.6
    assert len(capture.points) > 600
    # The second time nothing is computed.
    stages.clear()
    again = load_capture(tmp_path, progress=lambda *stage: stages.append(stage))
    assert stages == [] and len(again.views) == 7
    torch.testing.assert_close(again.views[0].viewmat, capture.views[0].viewmat, rtol=0, atol=0)
    # The frames of a video are matched in their order.
    frames = [tmp_path / f"{i}. photo.png" for i in range(7)]
    assert len(read_model(sfm_module.find_poses(tmp_path, frames, sequence=True).model).images) == 7


def test_photos_in_sequence_are_matched_with_those_near_and_some_far() -> None:
    names = [f"{i:03d}" for i in range(100)]
    assert len(sfm_module._pairs(names, by_sequence=False)) == 4950
    pairs = sfm_module._pairs(names, by_sequence=True)
    assert len(set(pairs)) == len(pairs) < 1300
    assert [b for a, b in pairs if a == "020"] == [*(f"{20 + k:03d}" for k in range(1, 11)), "036", "052", "084"]


def test_photos_that_show_nothing_in_common_are_one_error_and_leave_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap looks for the poses")
    for i in range(3):
        Image.fromarray(np.full((64, 96, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="no camera poses could be found; the photos must show one scene"):
        load_capture(tmp_path)
    assert names(tmp_path) == ["0.png", "1.png", "2.png"]


def test_photos_are_posed_upright(tmp_path: Path) -> None:
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
    assert groups == {(30, 40, 30.0): ["000000.png"], (40, 30, 0.0): ["000001.png"]}
    with Image.open(tmp_path / "scratch" / "images" / "000000.png") as copy:
        assert copy.size == (30, 40)


def test_without_pycolmap_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write_noise(tmp_path / f"{name}.png", 40, 30)
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
    truth = walk(6)
    frames = [picture for picture in room_pictures(truth) for _ in range(4)]
    write_video(tmp_path / "walk.mp4", frames, fps=8)
    capture = load_capture(tmp_path / "walk.mp4", DataOptions(frames_per_second=2))
    assert capture.kind == "video"
    assert capture.notes[0] == "6 frames were taken from the video"
    assert len(capture.views) == 6
    turns, places = camera_errors(capture, truth)
    assert turns < 0.5 and places < 0.03
