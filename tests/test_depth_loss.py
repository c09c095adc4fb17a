"""Losses on the rendered depth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import splat
from splat.scene.depth import depth_map_loss, sparse_depth_loss
from tests.threads import same_bits_with_any_threads


def depths(height: int = 12, width: int = 17, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """1 .. 3"""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(height, width, generator=g, dtype=dtype) * 2 + 1


def keypoints(count: int = 40, height: int = 12, width: int = 17, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.rand(count, 2, generator=g, dtype=dtype) * torch.tensor([width, height], dtype=dtype)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_keypoint_reads_the_pixels_around_it() -> None:
    depth = depths()
    for x, y, wanted in [
        (3.5, 2.5, depth[2, 3]),
        (0.5, 11.5, depth[11, 0]),
        (4.0, 2.5, (depth[2, 3] + depth[2, 4]) / 2),
        (4.0, 3.0, depth[2:4, 3:5].mean()),
        (3.75, 2.5, 0.75 * depth[2, 3] + 0.25 * depth[2, 4]),
        (0.0, 0.2, depth[0, 0]),
        (17.0, 12.0, depth[11, 16]),
    ]:
        loss = sparse_depth_loss(depth, numbers(x, y)[None], numbers(5.0))
        assert loss.item() == pytest.approx(abs(1 / float(wanted) - 1 / 5))


def test_losses_are_mean_differences_of_disparity() -> None:
    depth = torch.full((6, 8), 2.0)
    assert float(sparse_depth_loss(depth, torch.full((2, 2), 3.0), torch.tensor([4.0, 1.0]))) == pytest.approx(0.375)
    assert float(depth_map_loss(depth, torch.ones(6, 8), torch.full((6, 8), 4.0))) == pytest.approx(0.25)
    alpha = torch.ones(6, 8)
    alpha[:, 4:] = 0.5
    target = torch.full((6, 8), 2.0)
    target[:, 4:] = 1.0
    assert float(depth_map_loss(depth, alpha, target)) == pytest.approx(0.5 / 3)
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[:, 4:] = True
    assert float(depth_map_loss(depth, alpha, target, mask)) == pytest.approx(0.5)


def test_unknown_sparse_depths_count_for_nothing() -> None:
    depth, points, target = depths(), keypoints(), depths(1, 40, seed=1)[0]
    depth[3:6, 4:9] = 0
    holes = depth == 0
    keep = ~holes[points[:, 1].floor().long(), points[:, 0].floor().long()]  # these see at least one known pixel
    wanted = sparse_depth_loss(depth, points[keep], target[keep])
    inside = numbers(6.6, 4.5)[None]  # all four around it are unknown
    more = torch.cat([points[keep], inside, numbers(-0.1, 3.0)[None], numbers(5.0, 12.1)[None], points[:5]])
    unknown = numbers(0.0, -1.0, math.nan, math.inf, 0.0)
    got = sparse_depth_loss(depth, more, torch.cat([target[keep], numbers(2.0, 2.0, 2.0), unknown]))
    assert float(got) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_hole_beside_a_keypoint_does_not_bend_its_depth(value: float) -> None:
    depth = torch.full((4, 4), 2.0)
    depth[:, 2] = value
    assert float(sparse_depth_loss(depth, torch.tensor([[1.9, 2.0]]), torch.tensor([4.0]))) == 0.25


def test_unknown_depths_of_a_map_count_for_nothing() -> None:
    depth, alpha, target = depths(), depths(seed=1) / 3, depths(seed=2)
    wanted = depth_map_loss(depth[2:], alpha[2:], target[2:])
    target[0, :4] = numbers(0.0, -2.0, math.nan, math.inf)
    target[0, 4:] = 0
    depth[1] = 0
    assert float(depth_map_loss(depth, alpha, target)) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e-30, math.nan, math.inf])
def test_gradients_are_finite_where_nothing_is_rendered(value: float) -> None:
    depth = depths(dtype=torch.float32)
    depth[4:8] = value
    depth.requires_grad_()
    points = keypoints(dtype=torch.float32)
    losses = [
        sparse_depth_loss(depth, points, torch.ones(40)),
        depth_map_loss(depth, torch.ones(12, 17), torch.ones(12, 17)),
        depth_map_loss(depth, torch.ones(12, 17), depths(seed=1, dtype=torch.float32), align=True),
    ]
    for loss in losses:
        (grad,) = torch.autograd.grad(loss, depth)
        assert bool(torch.isfinite(loss)) and bool(torch.isfinite(grad).all())
        assert not grad[5].any() and grad[:3].any()


def test_no_known_depth_is_no_loss() -> None:
    depth = torch.zeros(5, 6, requires_grad=True)
    losses = [
        sparse_depth_loss(depth, torch.zeros(0, 2), torch.zeros(0)),
        sparse_depth_loss(depth, torch.ones(3, 2), torch.ones(3)),
        depth_map_loss(depth, torch.ones(5, 6), torch.ones(5, 6)),
        depth_map_loss(depth, torch.ones(5, 6), torch.zeros(5, 6), align=True),
    ]
    for loss in losses:
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, depth)[0].any()


def test_gradients_are_right() -> None:
    depth, target = depths(5, 6).requires_grad_(), depths(5, 6, seed=1)
    points = keypoints(20, 5, 6)
    assert torch.autograd.gradcheck(lambda d: sparse_depth_loss(d, points, target.flatten()[:20]), depth)
    assert torch.autograd.gradcheck(lambda d: depth_map_loss(d, torch.ones_like(target), target), depth)


def test_coverage_is_a_weight_and_is_not_pulled() -> None:
    depth, alpha = depths().requires_grad_(), depths(seed=1).requires_grad_()
    for align in (False, True):
        loss = depth_map_loss(depth, alpha, depths(seed=2), align=align)
        to_depth, to_alpha = torch.autograd.grad(loss, (depth, alpha), allow_unused=True)
        assert to_alpha is None and to_depth.any()


def test_alignment_takes_out_scale_and_shift_and_has_no_gradient() -> None:
    depth, alpha = depths().requires_grad_(), depths(seed=1) / 3
    target = 1 / (0.4 / depth.detach() + 0.3)
    assert depth_map_loss(depth, alpha, target).item() > 0.05
    assert depth_map_loss(depth, alpha, target, align=True).item() < 1e-12
    # With noise: the residual of the line that numpy-style least squares finds, weighted.
    target = 1 / (1 / target + 0.1 * (depths(seed=4) - 2)).detach()
    weight = alpha.sqrt().flatten()[:, None]
    columns = torch.stack([1 / target, torch.ones_like(target)], -1).view(-1, 2)
    line = torch.linalg.lstsq(weight * columns, weight * (1 / depth.detach()).view(-1, 1)).solution
    residual = 1 / depth - (columns @ line).view(target.shape)
    loss = depth_map_loss(depth, alpha, target, align=True)
    wanted = (residual.abs() * alpha).sum() / alpha.sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    ours, theirs = (torch.autograd.grad(v, depth)[0] for v in (loss, wanted))  # `line` is a constant in the second
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-14)


def test_an_upside_down_map_counts_as_flat() -> None:
    depth, alpha = depths(), torch.ones(12, 17, dtype=torch.float64)
    flat = torch.full_like(depth, float(1 / (1 / depth).mean()))
    turned = depth_map_loss(depth, alpha, 1 / (2 - 1 / depth), align=True)
    assert float(turned) == pytest.approx(float(depth_map_loss(depth, alpha, flat)))


def test_bits_do_not_depend_on_threads() -> None:
    """A hundred thousand keypoints on a few pixels: many share one."""
    height, width, count = 300, 200, 100_000
    points = keypoints(count, 30, 20, torch.float32)
    target = depths(1, count, dtype=torch.float32)[0]

    def everything() -> list[Tensor]:
        depth = depths(height, width, seed=1, dtype=torch.float32).requires_grad_()
        losses = [
            sparse_depth_loss(depth, points, target),
            depth_map_loss(depth, torch.ones_like(depth), depths(height, width, dtype=torch.float32), align=True),
        ]
        return [*(v.detach() for v in losses), *(torch.autograd.grad(v, depth)[0] for v in losses)]

    same_bits_with_any_threads(everything)


def test_supervision_brings_a_scene_to_its_depth() -> None:
    g = torch.Generator().manual_seed(0)
    points = torch.rand(60, 3, generator=g) * torch.tensor([2.0, 1.5, 0.3]) - torch.tensor([1.0, 0.75, 0.15])
    scene = splat.Gaussians.from_points(points, torch.full((60, 3), 0.5), sh_degree=0, opacity=0.9)
    view = splat.Cameras.look_at([0, -3.0, 0], [0, 0, 0], width=32, height=24, fov_y=40)
    truth = splat.render(scene, view).depth[0, ..., 0].detach()
    offset = torch.zeros(60, 1, requires_grad=True)
    adam = torch.optim.Adam([offset], lr=0.02)
    places = keypoints(200, 24, 32, torch.float32)
    target = truth[places[:, 1].floor().long(), places[:, 0].floor().long()]
    places = places.floor() + 0.5
    start = replace(scene, means=scene.means * torch.tensor([1.0, 1.0, 1.0]) - torch.tensor([0.0, 0.4, 0.0]))
    losses = []
    for _ in range(60):
        moved = replace(start, means=start.means + offset * torch.tensor([[0.0, 1.0, 0.0]]))
        loss = sparse_depth_loss(splat.render(moved, view).depth[0, ..., 0], places, target)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    assert losses[-1] < 0.15 * losses[0]
    assert float(offset.detach().median()) == pytest.approx(0.4, abs=0.1)


def test_unfitting_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"keypoints must have shape \[S, 2\]"):
        sparse_depth_loss(torch.ones(4, 4), torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"target_depth must have shape \[S\] = \[3\], got \[2\]"):
        sparse_depth_loss(torch.ones(4, 4), torch.ones(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match=r"target must have shape \[H, W\] = \[4, 4\], got \[4, 5\]"):
        depth_map_loss(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 5))
    with pytest.raises(ValueError, match=r"mask must be torch.bool"):
        depth_map_loss(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4))
