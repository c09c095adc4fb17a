"""transforms.json: axes, intrinsics, splits, points, and frames that are wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import splat
from splat.scene.data import Capture, DataOptions, PhotoCache, load_capture
from splat.scene.data.points_ply import read_points_ply
from tests.captures import SHARED, write_noise

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not beside this checkout")


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, angle: float = 0.0) -> list[list[float]]:
    """Camera to world with OpenGL's axes: at (x, y, z), turned about y; without turn it looks along -z, y is up."""
    c, s = math.cos(angle), math.sin(angle)
    return [[c, 0, s, x], [0, 1, 0, y], [-s, 0, c, z], [0, 0, 0, 1]]


def write(root: Path, frames: list[dict[str, Any]], name: str = "transforms.json", **head: Any) -> None:
    (root / name).write_text(json.dumps({**head, "frames": frames}))


def simple(root: Path, count: int = 4, **head: Any) -> list[dict[str, Any]]:
    """Frames with pictures of 40 x 30 in images/, and a file that lists them."""
    frames = []
    for i in range(count):
        write_noise(root / "images" / f"{i}.png", 40, 30, seed=i)
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose(i - 1.5, 0.5, 4, 0.1 * i)})
    write(root, frames, **({"w": 40, "h": 30, "fl_x": 50.0} | head))
    return frames


def brightest(capture: Capture, row: int, place: tuple[float, float, float]) -> tuple[float, float]:
    """Where a small Gaussian at `place` in the world is drawn: x and y of its centre of brightness, pixels."""
    point = capture.normalisation.points(torch.tensor([place]))
    g = splat.Gaussians.from_points(point, torch.ones(1, 3), sh_degree=0, opacity=0.9)
    g.log_scales.fill_(math.log(0.01 * capture.normalisation.scale))
    light = splat.render(g, capture.camera(row)).color[0, ..., 0]
    assert light.sum() > 0.1
    y, x = torch.meshgrid(torch.arange(light.shape[0]) + 0.5, torch.arange(light.shape[1]) + 0.5, indexing="ij")
    return float((x * light).sum() / light.sum()), float((y * light).sum() / light.sum())


def test_opengl_axes_put_a_point_where_it_belongs(tmp_path: Path) -> None:
    simple(tmp_path, cx=22.0, cy=13.0, fl_y=60.0)
    capture = load_capture(tmp_path)
    # By hand: camera 0 at (-1.5, 0.5, 4) looks along -z; the point is 0.3 right of it, 0.2 above and 5 before it.
    x, y = brightest(capture, 0, (-1.2, 0.7, -1.0))
    assert abs(x - (22 + 50 * 0.3 / 5)) < 0.05
    assert abs(y - (13 - 60 * 0.2 / 5)) < 0.05
    # Camera 2 is turned by 0.2 about y (to the left), so that what lay straight ahead is to the right.
    ahead = (0.5 - 3 * math.sin(0.2), 0.5, 4 - 3 * math.cos(0.2))
    x, y = brightest(capture, 2, ahead)
    assert abs(x - 22) < 0.05 and abs(y - 13) < 0.05
    x, _ = brightest(capture, 2, (0.5, 0.5, 1.0))
    assert abs(x - (22 + 50 * math.tan(0.2))) < 0.05


@needs_shared
def test_blenders_data_set_loads_with_alpha_and_its_own_split() -> None:
    capture = load_capture(SHARED / "lego400")
    assert (len(capture.train), len(capture.test)) == (100, 50)
    assert all(capture.views[row].name.startswith("test/") for row in capture.test)
    assert capture.has_alpha and len(capture.points) == 0
    focal = 200 / math.tan(0.6911112070083618 / 2)
    torch.testing.assert_close(capture.views[0].K[0], torch.tensor([focal, 0, 200.0]))
    # The model stands at the origin, which all cameras look at.
    for row in (0, 50, 149):
        x, y = brightest(capture, row, (0.0, 0.0, 0.0))
        assert abs(x - 200) < 1 and abs(y - 200) < 1
    with PhotoCache(capture.views) as cache:
        photo = cache.get(0)
    assert photo.alpha is not None and 0.05 < (photo.alpha > 0).float().mean() < 0.9


def test_per_frame_intrinsics_and_sizes_win_over_the_head(tmp_path: Path) -> None:
    frames = simple(tmp_path)
    write_noise(tmp_path / "images" / "1.png", 20, 30)
    frames[1] |= {"w": 20, "h": 30, "fl_x": 33.0, "fl_y": 34.0, "cx": 9.0, "cy": 16.0}
    write(tmp_path, frames, w=40, h=30, fl_x=50.0)
    capture = load_capture(tmp_path)
    torch.testing.assert_close(capture.views[0].K, torch.tensor([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]))
    torch.testing.assert_close(capture.views[1].K, torch.tensor([[33.0, 0, 9], [0, 34, 16], [0, 0, 1]]))


def test_an_angle_alone_is_enough(tmp_path: Path) -> None:
    frames = simple(tmp_path)
    write(tmp_path, [{**f, "file_path": f["file_path"][:-4]} for f in frames], camera_angle_x=math.radians(90))
    capture = load_capture(tmp_path)
    torch.testing.assert_close(capture.views[0].K, torch.tensor([[20.0, 0, 20], [0, 20, 15], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("head", "fisheye"),
    [
        ({"k1": -0.1, "k2": 0.01, "p1": 0.001}, False),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.01}, True),
        ({"is_fisheye": True}, True),
    ],
)
def test_distorted_cameras_are_undistorted(head: dict[str, Any], fisheye: bool, tmp_path: Path) -> None:
    simple(tmp_path, **head)
    capture = load_capture(tmp_path)
    lens = capture.views[0].photo.lens
    assert lens.fisheye == fisheye and lens.distorted
    assert lens.radial == (head.get("k1", 0), head.get("k2", 0), 0, 0)
    assert "4 pictures are undistorted as they are loaded" in capture.notes
    with PhotoCache(capture.views) as cache:
        assert cache.get(0).rgb.shape[:2] == (capture.views[0].height, capture.views[0].width)


def test_frames_that_are_wrong_are_named_and_left_out(tmp_path: Path) -> None:
    frames = simple(tmp_path, 11)
    scaled = (np.array(pose()) * 2).tolist()
    frames[1]["transform_matrix"] = scaled
    frames[2].pop("transform_matrix")
    frames[3]["transform_matrix"] = [[math.nan] * 4] * 4
    frames[4]["file_path"] = "images/absent.png"
    frames[5]["fl_x"] = "fifty"
    frames[6]["camera_model"] = "EQUIRECTANGULAR"
    frames[7].pop("file_path")
    frames[8] = dict(frames[9])
    write(tmp_path, frames, w=40, h=30, fl_x=50.0)
    capture = load_capture(tmp_path)
    assert [view.name for view in capture.views] == ["images/0.png", "images/10.png", "images/9.png"]
    notes = " ".join(capture.notes)
    assert "7 of 11 frames are left out" in notes
    assert "transforms.json, frame 1 images/1.png: transform_matrix is no rotation" in notes
    assert "absent.png: no such file" in notes


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not readable JSON"), ("[]", 'wanted an object with "frames"'), ('{"frames": 3}', "a list")],
)
def test_a_file_that_is_no_transforms_file_is_one_error(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=rf"transforms\.json.*{says}"):
        load_capture(tmp_path)


def test_unposed_frames_only_are_one_error(tmp_path: Path) -> None:
    frames = simple(tmp_path)
    write(tmp_path, [{"file_path": frame["file_path"]} for frame in frames], w=40, h=30, fl_x=50.0)
    with pytest.raises(ValueError, match=r"0 posed pictures can be read.*transform_matrix"):
        load_capture(tmp_path)


def test_the_split_can_be_listed_or_in_files(tmp_path: Path) -> None:
    frames = simple(tmp_path, 5, test_filenames=["./images/3.png"], train_filenames=["images/0.png"])
    assert load_capture(tmp_path).test == (3,)
    (tmp_path / "transforms.json").unlink()
    head = {"w": 40, "h": 30, "fl_x": 50.0}
    write(tmp_path, frames[:2], "transforms_train.json", **head)
    write(tmp_path, frames[2:3], "transforms_val.json", **head)
    capture = load_capture(tmp_path)
    assert (capture.train, capture.test) == ((0, 1), (2,))
    write(tmp_path, frames[3:], "transforms_test.json", **head)
    capture = load_capture(tmp_path)
    assert [view.name for view in capture.views] == [f"images/{i}.png" for i in (0, 1, 3, 4)]
    assert (capture.train, capture.test) == ((0, 1), (2, 3))
    assert load_capture(tmp_path, DataOptions(test_every=2)).test == (2, 3)
    assert load_capture(tmp_path / "transforms_test.json").test == ()


def test_masks_and_depths_are_found_where_the_file_says(tmp_path: Path) -> None:
    frames = simple(tmp_path)
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(tmp_path / "m.png")
    millimetres = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    Image.fromarray(millimetres).save(tmp_path / "d.png")
    frames[1] |= {"mask_path": "m.png", "depth_file_path": "d.png"}
    write(tmp_path, frames, w=40, h=30, fl_x=50.0)
    for unit, given in ((0.001, {}), (0.01, {"depth_unit_scale_factor": 0.01})):
        write(tmp_path, frames, w=40, h=30, fl_x=50.0, **given)
        capture = load_capture(tmp_path)
        with PhotoCache(capture.views) as cache:
            photo = cache.get(1)
        assert photo.mask is not None and photo.mask.all()
        truth = torch.from_numpy(millimetres.astype(np.float32)) * unit * capture.normalisation.scale
        torch.testing.assert_close(photo.depth, truth)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_points_come_from_the_ply_file(form: str, tmp_path: Path) -> None:
    simple(tmp_path, ply_file_path="points.ply", applied_transform=[[1, 0, 0, 5], [0, 1, 0, 5], [0, 0, 1, 5]])
    properties = "property float x\nproperty float y\nproperty double z\nproperty float nx\n"
    colors = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    rows = [(1.0, 2.0, 3.0, 9.0, 255, 0, 51), (0.5, -1.0, 2.0, 9.0, 0, 102, 0), (math.nan, 0.0, 0.0, 0.0, 1, 1, 1)]
    head = f"ply\nformat {form} 1.0\ncomment made here\nelement vertex 3\n{properties}{colors}end_header\n"
    if form == "ascii":
        body = "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
    else:
        order = "<" if "little" in form else ">"
        kinds = [
            (name, order + kind)
            for name, kind in zip("abcdefg", ["f4", "f4", "f8", "f4", "u1", "u1", "u1"], strict=True)
        ]
        body = np.array(rows, np.dtype(kinds)).tobytes()
    file = tmp_path / "points.ply"
    file.write_bytes(head.encode() + body)
    capture = load_capture(tmp_path)
    world = capture.normalisation.points_to_world(capture.points)
    torch.testing.assert_close(world, torch.tensor([[1.0, 2, 3], [0.5, -1, 2]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(capture.colors, torch.tensor([[1, 0, 0.2], [0, 0.4, 0]]))
    file.write_bytes(head.encode() + body[: len(body) // 2])
    with pytest.raises(ValueError, match=r"points\.ply is .*cut off"):
        read_points_ply(file)
    capture = load_capture(tmp_path)
    assert len(capture.points) == 0 and "points.ply" in capture.notes[0]
