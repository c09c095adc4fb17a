"""Where training begins: Gaussians on the sparse points and on what the photographs show, or random ones."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from splat.core.random import Purpose, permutation, uniform
from splat.gaussians import SH_C0, Gaussians
from splat.scene.config import TrainConfig
from splat.scene.data.capture import Capture
from splat.scene.data.photos import PhotoCache
from splat.scene.stereo import DensePoints, dense_points

RANDOM_POINTS = 10_000
DENSE_POINTS = 50_000
OVERLAP = 0.6
"""Standard deviation of a dense point's Gaussian, in distances to the next."""


def start(capture: Capture, photos: PhotoCache, config: TrainConfig) -> Gaussians:
    """Gaussians to begin with, in the capture's normalised world; at most `max_gaussians`."""
    points, colors = capture.points, capture.colors
    opacity = 0.5 if config.strategy == "mcmc" else 0.1  # as the authors of each have it
    wanted = round(config.start.dense * (config.max_gaussians or DENSE_POINTS))
    dense = dense_points(capture, photos, wanted, config.seed) if config.start.dense > 0 else None
    if not len(points) and dense is None:
        points = _random_points(capture, config.seed)
        colors = uniform(config.seed, 0, Purpose.POINTS, torch.arange(len(points)) + len(points), 3)
    parts = []
    if len(points):
        parts.append(Gaussians.from_points(points, colors, sh_degree=config.sh_degree, opacity=opacity))
    if dense is not None:
        parts.append(_of_sizes(dense, config.sh_degree, opacity))
    made = Gaussians.concat(parts)
    most = config.max_gaussians
    if most is None or len(made) <= most:
        return made
    drawn = permutation(config.seed, 0, Purpose.POINTS, len(made))[:most]
    # Fewer ones stand for the same surface, so each is wider.
    wider = 0.5 * math.log(len(made) / most)
    kept = made.select(torch.tensor(sorted(drawn)))
    return replace(kept, log_scales=kept.log_scales + wider)


def _of_sizes(dense: DensePoints, sh_degree: int, opacity: float) -> Gaussians:
    """Round Gaussians that overlap as those of `Gaussians.from_points` do."""
    one = Gaussians.from_points(dense.points[:1], dense.colors[:1], sh_degree=sh_degree, opacity=opacity)
    made = one.map(lambda t: t.expand(len(dense.points), *t.shape[1:]).clone())
    sh0 = (dense.colors[:, None] - 0.5) / SH_C0
    return replace(made, means=dense.points, log_scales=(OVERLAP * dense.sizes).log()[:, None].repeat(1, 3), sh0=sh0)


def _random_points(capture: Capture, seed: int) -> Tensor:
    """[RANDOM_POINTS, 3] in a cube around what the cameras look at, a third of their mean distance to each side (for
    the synthetic scenes of NeRF, the cube of 1.3 to which 3DGS keeps)."""
    viewmats = torch.stack([capture.views[row].viewmat for row in capture.train]).double()
    directions, centers = viewmats[:, 2, :3], -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    # The point nearest to all optical axes: sum of (1 - d d^T) (x - c) = 0.
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]
    focus = torch.linalg.lstsq(across.sum(0), (across @ centers[..., None]).sum(0)).solution[:, 0]
    half = float((centers - focus).norm(dim=-1).mean()) / 3
    unit = uniform(seed, 0, Purpose.POINTS, torch.arange(RANDOM_POINTS), 3)
    points: Tensor = focus + half * (2 * unit.double() - 1)
    return points.float()
