"""Exposure, pose refinement and depth losses on each device: the CPU's results, and the same bits on every run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import splat
from splat.scene.depth import depth_map_loss, sparse_depth_loss
from splat.scene.exposure import AffineExposure, BilateralGrid
from splat.scene.pose import PoseRefinement
from splat.scene.small_adam import RowAdam

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def stepped(device: str) -> dict[str, Tensor]:
    """Everything that two steps with all of them compute, on the CPU."""
    g = torch.Generator().manual_seed(0)
    rgb, depth = torch.rand(150, 201, 3, generator=g).to(device), (torch.rand(150, 201, generator=g) + 1).to(device)
    points = (torch.rand(20_000, 2, generator=g) * 20).to(device)  # many on each pixel
    target = (torch.rand(20_000, generator=g) + 1).to(device)
    poses = PoseRefinement(2, device=device)
    exposures = (AffineExposure(2, device=device), BilateralGrid(2, device=device))
    viewmats = splat.Cameras.orbit(2, radius=2.0, width=8, height=8).viewmats.to(device)
    out: dict[str, Tensor] = {}
    for module in (*exposures, poses):
        adam = RowAdam(module.parameters(), module.rates)
        for k in range(2):
            if isinstance(module, PoseRefinement):
                loss = module.apply(viewmats[1:], 1).square().sum()
            else:
                loss = (module.correct(rgb, 1) - 0.5).square().mean()
            (loss + module.regulariser(1)).backward()  # type: ignore[no-untyped-call]
            out |= {f"{name} gradient {k}": t.grad for name, t in module.parameters().items() if t.grad is not None}
            adam.step([1])
        out |= module.state()
    depth.requires_grad_()
    loss = sparse_depth_loss(depth, points, target) + depth_map_loss(depth, rgb[..., 0], rgb[..., 1] + 1, align=True)
    (out["depth gradient"],) = torch.autograd.grad(loss, depth)
    return {name: t.detach().cpu() for name, t in (out | {"loss": loss}).items()}


@pytest.mark.parametrize("device", DEVICES)
def test_results_are_those_of_the_cpu_and_the_same_in_every_run(device: str) -> None:
    wanted, first, second = stepped("cpu"), stepped(device), stepped(device)
    assert {"exposure_affine gradient 1", "exposure_grid", "pose_rotations gradient 0", "loss"} <= set(wanted)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if "gradient" in name or name == "loss":
            assert (value - wanted[name]).double().norm() <= 1e-3 * wanted[name].double().norm(), name
