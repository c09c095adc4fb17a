"""What a browser is given of Gaussians and cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.reference.project import rotation
from splat.gaussians import SH_C0, Gaussians
from splat.scene.paths import look_point, quaternions, up_direction

UNITS = 30.0
"""What the radius of a scene is scaled to for the browser, which keeps covariances as float16: deviations from 1e-4 to
8 radii come through."""
_HALF_MAX = 65504.0
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Splats:
    """Gaussians as viser wants them, in units of radius / UNITS."""

    centers: Array
    """[N, 3]"""
    covariances: Array
    """[N, 3, 3]"""
    rgbs: Array
    """[N, 3] in 0..1, the colour without the view-dependent part."""
    opacities: Array
    """[N, 1] in 0..1"""


def browser_splats(gaussians: Gaussians, unit: float, most: int) -> Splats:
    """Those that can be seen at all, and of more than `most` the ones that cover most (area times opacity).

    Args:
        unit: of the browser's lengths, in world units.
    """
    g = gaussians.detach().to("cpu").to(torch.float32)
    rows = (g.valid & (g.opacities >= 1 / 255)).nonzero()[:, 0]
    if len(rows) > most:
        area = g.log_scales[rows].topk(2, dim=1).values.sum(1).exp()
        order = (area * g.opacities[rows]).argsort(descending=True, stable=True)[:most]
        rows = rows[order].sort().values
    g = g.select(rows)
    axes = rotation(g.quats) * (g.scales / unit)[:, None, :]
    covariances = (axes @ axes.mT).clamp(-_HALF_MAX, _HALF_MAX)
    rgbs = (g.sh0[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    return Splats(*(t.contiguous().numpy() for t in (g.means / unit, covariances, rgbs, g.opacities[:, None])))


@dataclass(frozen=True)
class Stage:
    """Where a visitor stands at first, world units."""

    position: Tensor
    """[3]"""
    target: Tensor
    """[3] that is turned around."""
    up: Tensor
    """[3]"""
    radius: float
    """Of what there is to see."""
    fov: float
    """Vertical, radians."""


def stage(gaussians: Gaussians, cameras: list[Cameras], up: Tensor | None = None) -> Stage:
    """Behind the first camera, upright; without cameras before the middle of the Gaussians, where -y is up unless `up` says
    otherwise, as in most files."""
    means = gaussians.means.detach()[gaussians.valid].float().cpu()
    if len(means) == 0:
        means = torch.zeros(1, 3)
    middle = means.median(0).values
    radius = float((means - middle)[:: -(-len(means) // 1_000_000)].norm(dim=1).quantile(0.9)) or 1.0
    if not cameras:
        up = torch.tensor([0.0, -1.0, 0.0]) if up is None else up
        ahead = torch.tensor([0.0, 0.0, 1.0]) if abs(float(up[2])) < 0.9 else torch.tensor([0.0, 1.0, 0.0])
        position = middle - 2.2 * radius * ahead + 0.6 * radius * up
        return Stage(position, middle, up, radius, math.radians(50))
    poses = torch.cat([c.viewmats for c in cameras]).cpu()
    together = Cameras(poses, torch.eye(3).expand(len(poses), 3, 3), 1, 1)
    centers, first = together.centers, cameras[0]
    target = look_point(together)
    if target is None:  # as far ahead as the Gaussians before the first camera are in the middle
        depths = (means @ poses[0, 2, :3]) + poses[0, 2, 3]
        ahead = depths[depths > 0]
        target = centers[0] + poses[0, 2, :3] * (ahead.median() if len(ahead) else radius)
    radius = max(float((centers - centers.mean(0)).norm(dim=1).max()), 1e-6 * radius) if len(centers) > 1 else radius
    fov = 2 * math.atan(first.height / 2 / float(first.Ks[0, 1, 1]))
    behind = target + 1.3 * (centers[0] - target)
    return Stage(behind, target, up_direction(together) if up is None else up, radius, fov)


def frustum_pose(camera: Cameras) -> tuple[Array, Array]:
    """(wxyz [4], position [3]) of a camera in the world, OpenCV axes."""
    return quaternions(camera.viewmats[:, :3, :3].mT)[0].cpu().numpy(), camera.centers[0].cpu().numpy()
