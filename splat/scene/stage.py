"""Where someone who looks at a scene stands at first, and what is up there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.checks import check_int
from splat.gaussians import Gaussians
from splat.scene.paths import circle, look_point, up_direction


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

    def orbit(self, frames: int, width: int, height: int) -> Cameras:
        """Once around the target, from the position on."""
        check_int("frames", frames, 1)
        eyes = circle(self.target, self.position - self.target, self.up, frames)
        fov = math.degrees(self.fov)
        return Cameras.look_at(eyes, self.target, up=self.up, fov_y=fov, width=width, height=height)


def stage(gaussians: Gaussians, cameras: list[Cameras], up: Tensor | None = None) -> Stage:
    """Behind the first camera, upright; without cameras before the middle of the Gaussians, where -y is up as in most
    files, unless `up` (of length 1) says otherwise."""
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
