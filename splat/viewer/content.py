"""What a browser is given of Gaussians and cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from splat.cameras import Cameras
from splat.core.reference.project import rotation
from splat.gaussians import SH_C0, Gaussians
from splat.scene.paths import quaternions

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


def frustum_pose(camera: Cameras) -> tuple[Array, Array]:
    """(wxyz [4], position [3]) of a camera in the world, OpenCV axes."""
    return quaternions(camera.viewmats[:, :3, :3].mT)[0].cpu().numpy(), camera.centers[0].cpu().numpy()
