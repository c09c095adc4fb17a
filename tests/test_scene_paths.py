"""Camera paths: what a tour, an orbit and the files keep."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.reference.project import rotation
from splat.scene.paths import (
    _round_trip,
    fly_through,
    look_point,
    orbit,
    quaternions,
    read_path,
    up_direction,
    with_size,
    write_path,
)


def ring(count: int = 12, elevation: float = 25.0, **how: float) -> Cameras:
    return Cameras.orbit(count, radius=3, width=64, height=48, elevation=elevation, target=(0.5, -1, 2), **how)


def rolled(cameras: Cameras, degrees: float) -> Cameras:
    a = math.radians(degrees)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    return Cameras(turn @ cameras.viewmats, cameras.Ks, cameras.width, cameras.height)


def walk() -> Cameras:
    """A walk along a wall that bends: no common point is looked at."""
    x = torch.linspace(0, 4, 9)
    eyes = torch.stack([x, 0.3 * (x * 2).sin(), torch.zeros(9)], -1)
    forward = torch.stack([0.2 * torch.linspace(-1, 1, 9), torch.ones(9), torch.zeros(9)], -1)
    return Cameras.concat(
        [Cameras.look_at(e, e + f, width=64, height=48, fov_y=50) for e, f in zip(eyes, forward, strict=True)]
    )


def nearest(path: Cameras, pose: Tensor) -> float:
    return float((path.viewmats - pose).abs().amax((1, 2)).min())


def angles(path: Cameras) -> Tensor:
    """Degrees between each frame and the next, the last and the first."""
    turn = path.viewmats[:, :3, :3]
    trace = (turn * turn.roll(-1, 0)).sum((1, 2))
    return ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()


def test_quaternions_are_the_inverse_of_rotation() -> None:
    q = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q[:4] = torch.eye(4, dtype=torch.float64)  # half turns, and none
    R = rotation(q)
    torch.testing.assert_close(rotation(quaternions(R)), R)


@pytest.mark.parametrize("cameras", [ring(), walk(), rolled(ring(), 90)], ids=["ring", "walk", "rolled"])
def test_a_tour_passes_through_the_poses_in_even_steps_and_closes(cameras: Cameras) -> None:
    g = torch.Generator().manual_seed(1)
    shuffled = cameras[torch.randperm(len(cameras), generator=g).tolist()]
    path = fly_through(shuffled, 240)
    assert len(path) == 240 and (path.width, path.height) == (64, 48)
    assert max(nearest(path, pose) for pose in cameras.viewmats) < 1e-5
    steps = (path.centers - path.centers.roll(-1, 0)).norm(dim=1)
    assert float(steps.max()) < 4 * float(steps.mean())
    assert float(angles(path).max()) < 12
    torch.testing.assert_close(path.Ks, cameras.Ks[:1].expand(240, 3, 3))


def test_a_tour_around_an_object_stays_at_its_distance_and_looks_at_it() -> None:
    path = fly_through(ring(6), 120)
    target = torch.tensor([0.5, -1, 2])
    distance = (path.centers - target).norm(dim=1)
    assert float((distance - 3).abs().max()) < 0.02
    seen = path.viewmats[:, :3, :3] @ target + path.viewmats[:, :3, 3]
    assert float((seen[:, :2].norm(dim=1) / seen[:, 2]).max()) < 0.05


def test_rings_are_gone_around_one_after_the_other() -> None:
    low, high = ring(14, 10.0), ring(14, 30.0)
    both = Cameras.concat([low, high])[torch.randperm(28, generator=torch.Generator().manual_seed(2)).tolist()]
    height = fly_through(both, 280).centers[:, 2]
    above = height > (low.centers[0, 2] + high.centers[0, 2]) / 2
    assert int((above != above.roll(1)).sum()) == 2  # up once and down once


def test_no_two_legs_of_a_round_can_be_exchanged_for_shorter_ones() -> None:
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    distance = torch.cdist(points, points)
    tour = _round_trip(distance).tolist()
    assert sorted(tour) == list(range(40))
    for i in range(40):
        for j in range(i + 2, 40):
            a, b, c, d = tour[i], tour[i + 1], tour[j], tour[(j + 1) % 40]
            assert distance[a, c] + distance[b, d] >= distance[a, b] + distance[c, d] - 1e-9


def test_a_tour_keeps_the_roll_of_the_pictures() -> None:
    path = fly_through(rolled(ring(), 90), 96)
    up = torch.tensor([0.0, 0, 1])
    # On their side: what is up lies along the pictures' x axis.
    assert float((path.viewmats[:, 1, :3] @ up).abs().max()) < 0.05


def test_a_tour_of_too_many_poses_takes_an_even_choice() -> None:
    path = fly_through(ring(60), 80)
    gaps = (path.centers - path.centers.roll(-1, 0)).norm(dim=1)
    assert len(path) == 80 and float(gaps.max()) < 1.5 * float(gaps.min())


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 50])
def test_a_tour_has_the_frames_asked_for(frames: int) -> None:
    assert len(fly_through(ring(), frames)) == frames
    assert len(fly_through(ring(2), frames)) == frames
    same = ring()[[0, 0, 0]]
    torch.testing.assert_close(fly_through(same, frames).viewmats, same.viewmats[:1].expand(frames, 4, 4))


def test_one_pose_is_no_tour() -> None:
    with pytest.raises(ValueError, match="at least 2 poses to fly through, got 1"):
        fly_through(ring(1), 10)


def test_where_cameras_look_and_what_is_up() -> None:
    torch.testing.assert_close(look_point(ring()), torch.tensor([0.5, -1, 2]), atol=1e-5, rtol=0)
    assert look_point(walk()) is None
    for cameras in (ring(), walk(), rolled(ring(), 90), rolled(ring(), -90)):
        assert float(up_direction(cameras) @ torch.tensor([0.0, 0, 1])) > 0.95
    g = torch.Generator().manual_seed(0)
    dome = torch.nn.functional.normalize(torch.randn(30, 3, generator=g), dim=1).abs() * torch.tensor([1.0, -1, 1])
    level = Cameras.look_at(3 * dome, (0, 0, 0), width=64, height=48, fov_y=50)  # all from one side, yet none is rolled
    torch.testing.assert_close(up_direction(level), torch.tensor([0.0, 0, 1]), atol=1e-4, rtol=0)


def test_an_orbit_goes_around_the_point_at_the_cameras_height() -> None:
    path = orbit(rolled(ring(), 90), 36)
    offset = path.centers - torch.tensor([0.5, -1, 2])
    torch.testing.assert_close(offset.norm(dim=1), torch.full((36,), 3.0))
    torch.testing.assert_close(offset[:, 2], torch.full((36,), 3 * math.sin(math.radians(25))))
    assert float((path.viewmats[:, 1, 2]).max()) < -0.5  # upright
    with pytest.raises(ValueError, match="do not look at one point"):
        orbit(walk(), 36)


def test_another_size_keeps_the_vertical_field_of_view() -> None:
    wide = with_size(ring(), 200, 96)
    K, L = ring().Ks[0], wide.Ks[0]
    assert (wide.width, wide.height) == (200, 96)
    assert float(L[1, 1] / 96) == pytest.approx(float(K[1, 1] / 48)) and float(L[0, 0]) == float(L[1, 1])
    assert (float(L[0, 2]), float(L[1, 2])) == (100, 48)
    half = with_size(ring(), 32, None)
    assert (half.width, half.height) == (32, 24)


def test_a_path_is_read_back_as_written(tmp_path: Path) -> None:
    cameras = fly_through(ring(), 20)
    write_path(tmp_path / "path.json", cameras)
    again = read_path(tmp_path / "path.json")
    assert torch.equal(again.viewmats, cameras.viewmats) and torch.equal(again.Ks, cameras.Ks)
    assert (again.width, again.height, again.camera_model) == (64, 48, "pinhole")
    assert read_path(tmp_path / "path.json", width=32, height=24).width == 32


def opengl(cameras: Cameras) -> list[list[list[float]]]:
    c2w: Tensor = torch.linalg.inv(cameras.viewmats) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    rows: list[list[list[float]]] = c2w.tolist()
    return rows


def test_nerfstudio_and_blender_files_are_the_same_cameras(tmp_path: Path) -> None:
    cameras = ring(5, fov_y=40.0)
    matrices = opengl(cameras)
    nerfstudio = {
        "camera_type": "perspective",
        "render_width": 64,
        "render_height": 48,
        "camera_path": [
            {"camera_to_world": [v for row in m for v in row], "fov": 40, "aspect": 64 / 48} for m in matrices
        ],
        "fps": 24,
    }
    angle_x = 2 * math.atan(32 / float(cameras.Ks[0, 0, 0]))
    frames = [{"file_path": f"r_{i}", "transform_matrix": m} for i, m in enumerate(matrices)]
    (tmp_path / "camera_path.json").write_text(json.dumps(nerfstudio))
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": angle_x, "frames": frames}))
    for path in (
        read_path(tmp_path / "camera_path.json"),
        read_path(tmp_path / "transforms.json", width=64, height=48),
    ):
        torch.testing.assert_close(path.viewmats, cameras.viewmats, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(path.Ks, cameras.Ks)
    with pytest.raises(ValueError, match=r"transforms.json: has no picture size \(w, h\)"):
        read_path(tmp_path / "transforms.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "wanted a camera path"),
        ('{"frames": [], "w": 3, "h": 3}', "holds no frame"),
        ('{"frames": [{}], "w": 3, "h": 3}', "lacks 'transform_matrix'"),
        ('{"format": "splat-camera-path", "version": 9}', "version 1, got 9"),
        ('{"camera_path": [{}], "camera_type": "fisheye"}', "camera_type must be perspective, got fisheye"),
    ],
)
def test_a_file_that_is_no_path_is_one_clear_error(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "path.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_path(file)
    assert str(file) in str(error.value)
