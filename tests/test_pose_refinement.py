"""Refinement of camera poses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import splat
from splat.core.reference.project import rotation
from splat.scene.pose import ROTATIONS, TRANSLATIONS, PoseRefinement, moved
from splat.scene.small_adam import RowAdam


def cameras(count: int = 3) -> splat.Cameras:
    return splat.Cameras.orbit(count, radius=3.0, width=64, height=48)


def turn(axis: Tensor, degrees: float) -> Tensor:
    """[3, 3], by its definition."""
    x, y, z = (axis / axis.norm()).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.matrix_exp(math.radians(degrees) * skew)


def pose_error(viewmats: Tensor, truth: Tensor) -> tuple[float, float]:
    """Degrees, and distance of the centres."""
    difference = viewmats.double() @ truth.double().inverse()
    cosine = (difference[:3, :3].diagonal().sum() - 1) / 2
    centers = [-(m[:3, :3].mT @ m[:3, 3]) for m in (viewmats.double(), truth.double())]
    return math.degrees(math.acos(min(1.0, float(cosine)))), float((centers[0] - centers[1]).norm())


def test_the_start_changes_no_bit() -> None:
    poses, view = PoseRefinement(3), cameras()
    assert torch.equal(poses.apply(view.viewmats[1:2], 1), view.viewmats[1:2])
    assert torch.equal(poses.refined(view.viewmats), view.viewmats)
    assert poses.regulariser().item() == poses.regulariser(1).item() == 0


def test_a_camera_turns_about_its_centre_and_shifts_along_its_axes() -> None:
    poses, view = PoseRefinement(3), cameras()
    axis = torch.tensor([0.3, -0.5, 0.8])
    with torch.no_grad():
        poses.parameters()[ROTATIONS][1] = axis / axis.norm() * 2 * math.tan(math.radians(10) / 2)
    turned = poses.apply(view.viewmats[1:2], 1)
    assert torch.allclose(turned[0, :3, :3].double(), turn(axis, 10) @ view.viewmats[1, :3, :3].double(), atol=1e-6)
    assert torch.allclose(replace(view[1], viewmats=turned).centers, view[1].centers, atol=1e-6)
    with torch.no_grad():
        poses.parameters()[TRANSLATIONS][1] = torch.tensor([0.0, 0.0, 0.25])
    shifted = poses.apply(view.viewmats[1:2], 1)
    assert torch.equal(shifted[0, :3, :3], turned[0, :3, :3])
    assert torch.allclose(shifted[0, :3, 3] - turned[0, :3, 3], torch.tensor([0.0, 0.0, 0.25]), atol=1e-6)
    assert torch.equal(shifted[0, 3], torch.tensor([0.0, 0, 0, 1]))
    assert torch.allclose(poses.refined(view.viewmats)[1], shifted[0])
    assert torch.equal(poses.refined(view.viewmats)[0], view.viewmats[0])


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.3, 3.0])
def test_gradients_are_right_at_and_near_no_turn(size: float) -> None:
    g = torch.Generator().manual_seed(0)
    viewmats = cameras(2).viewmats.double()
    shifts, turns = (size * torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(2))
    for each in (viewmats, shifts, turns):
        each.requires_grad_()
    assert torch.autograd.gradcheck(moved, (viewmats, shifts, turns))
    assert torch.autograd.gradgradcheck(moved, (viewmats, shifts, turns))


def test_a_small_turn_is_its_axis_times_radians() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)[None]
    slopes = torch.autograd.functional.jacobian(lambda t: moved(eye, zero, t), zero)[0, :, :, 0]  # type: ignore[no-untyped-call]
    for k in range(3):
        step = torch.zeros(4, dtype=torch.float64)
        step[0], step[k + 1] = 1, 0.5e-6
        numeric = (rotation(step[None])[0] - torch.eye(3, dtype=torch.float64)) / 1e-6
        assert torch.allclose(slopes[:3, :3, k], numeric, atol=1e-5)
        assert torch.allclose(slopes[:3, :3, k], -slopes[:3, :3, k].mT)


def test_a_planted_pose_error_is_pulled_back() -> None:
    gaussians = splat.Gaussians.random(150, sh_degree=0, seed=3)
    gaussians = replace(gaussians, opacity_logits=torch.full((150,), 2.0))
    truth = cameras()
    pictures = [splat.render(gaussians, truth[c]).color for c in range(3)]
    wrong = truth.viewmats.clone()
    wrong[1, :3, :3] = turn(torch.tensor([0.5, 1.0, -0.4]), 1.0).float() @ wrong[1, :3, :3]
    wrong[1, :3, 3] += 0.03 * torch.tensor([0.6, -0.64, 0.48])  # 1 % of the distance
    poses = PoseRefinement(3)
    adam = RowAdam(poses.parameters(), poses.rates)
    assert min(pose_error(wrong[1], truth.viewmats[1])) > 0.02
    for k in range(300):
        row = 1 if k % 3 else k % 2 * 2  # the others are right as they are
        view = splat.render(gaussians, replace(truth[row], viewmats=poses.apply(wrong[row : row + 1], row)))
        loss = (view.color - pictures[row]).abs().mean() + 1e-4 * poses.regulariser(row)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step([row], scale=0.01 ** (k / 300))
    refined = poses.refined(wrong)
    degrees, distance = pose_error(refined[1], truth.viewmats[1])
    assert degrees < 0.01 and distance < 0.0003, (degrees, distance)
    for right in (0, 2):
        degrees, distance = pose_error(refined[right], truth.viewmats[right])
        assert degrees < 0.05 and distance < 0.001, (right, degrees, distance)


def test_the_regulariser_is_a_squared_length() -> None:
    poses = PoseRefinement(2)
    with torch.no_grad():
        poses.parameters()[ROTATIONS][1] = torch.tensor([0.0, 0.3, 0.0])
        poses.parameters()[TRANSLATIONS][1] = torch.tensor([0.4, 0.0, 0.0])
    assert poses.regulariser(0).item() == 0
    assert poses.regulariser(1).item() == pytest.approx(0.25)
    assert poses.regulariser().item() == pytest.approx(0.125)


def test_unfitting_poses_are_named() -> None:
    with pytest.raises(ValueError, match=r"viewmats must have shape \[C, 4, 4\]"):
        PoseRefinement(2).apply(torch.eye(4), 0)
    with pytest.raises(ValueError, match=r"viewmats must have shape \[2, 4, 4\], got \[3, 4, 4\]"):
        PoseRefinement(2).refined(torch.eye(4).repeat(3, 1, 1))
    with pytest.raises(ValueError, match=r"row must be in 0 \.\. 1, got -1"):
        PoseRefinement(2).apply(torch.eye(4)[None], -1)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        PoseRefinement(0)
