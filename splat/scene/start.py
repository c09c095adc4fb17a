"""Where training begins: a Gaussian for each sparse point, or random ones where there are none."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.random import Purpose, uniform
from splat.gaussians import Gaussians
from splat.scene.config import TrainConfig
from splat.scene.data.capture import Capture

RANDOM_POINTS = 10_000


def start(capture: Capture, config: TrainConfig) -> Gaussians:
    """[P] Gaussians of the capture's points, in its normalised world."""
    points, colors, opacity = capture.points, capture.colors, 0.1
    if not len(points):
        points = _random_points(capture, config.seed)
        colors = uniform(config.seed, 0, Purpose.POINTS, torch.arange(len(points)) + len(points), 3)
    if config.strategy == "mcmc":
        opacity = 0.5
    return Gaussians.from_points(points, colors, sh_degree=config.sh_degree, opacity=opacity)


def _random_points(capture: Capture, seed: int) -> Tensor:
    """[RANDOM_POINTS, 3] in a cube around what the cameras look at, a third of their mean distance to each side (for
    the synthetic scenes of NeRF, the cube of 1.3 to which 3DGS keeps)."""
    viewmats = torch.stack([capture.views[row].viewmat for row in capture.train]).double()
    directions, centers = viewmats[:, 2, :3], -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    # The point nearest to all optical axes: sum of (1 - d d^T) (x - c) = 0.
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]
    focus = torch.linalg.lstsq(across.sum(0), (across @ centers[..., None]).sum(0)).solution[:, 0]
    half = (centers - focus).norm(dim=-1).mean() / 3
    unit = uniform(seed, 0, Purpose.POINTS, torch.arange(RANDOM_POINTS), 3)
    return (focus + half * (2 * unit.double() - 1)).float()
