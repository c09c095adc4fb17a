"""Small deterministic scenes, and a renderer so plain that it cannot be wrong in the same way as ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splat.core.project import Splats2D


def splats2d(
    count: int, width: int, height: int, *, cameras: int = 1, seed: int = 0, largest: float = 6.0
) -> tuple[Splats2D, Tensor]:
    """Random splats that reach a little over the picture's border, and their colours [C, N, 3] (float32)."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    means = (torch.rand(cameras, count, 2, generator=g) * 1.2 - 0.1) * size
    scales = torch.rand(cameras, count, 2, generator=g) * (largest - 0.7) + 0.7
    angle = torch.rand(cameras, count, generator=g) * math.pi
    p, q = 1 / scales[..., 0] ** 2, 1 / scales[..., 1] ** 2
    c, s = angle.cos(), angle.sin()
    conics = torch.stack([p * c * c + q * s * s, (p - q) * c * s, p * s * s + q * c * c], -1)
    opacities = torch.rand(cameras, count, generator=g) * 0.9 + 0.08
    depths = torch.rand(cameras, count, generator=g) + 1
    radii = torch.full((cameras, count, 2), 30, dtype=torch.int32)
    return Splats2D(means, depths, conics, opacities, radii), torch.rand(cameras, count, 3, generator=g)


def brute_force(
    splats: Splats2D,
    colors: Tensor,
    width: int,
    height: int,
    *,
    blend: str = "alpha",
    topk: int = 10,
    background: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Camera 0 by the definition, pixel by pixel, in float64: no tiles, no extents, no vectors."""
    mean, conic = splats.means2d[0].double().numpy(), splats.conics[0].double().numpy()
    opacity, color = splats.opacities[0].double().numpy(), colors[0].double().numpy()
    visible = (splats.radii[0] > 0).all(-1).numpy()
    order = np.argsort(splats.depths[0].numpy(), kind="stable")
    image, alphas = np.zeros((height, width, color.shape[1])), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            T, drawn = 1.0, []
            for n in order:
                dx, dy = x + 0.5 - mean[n, 0], y + 0.5 - mean[n, 1]
                sigma = 0.5 * (conic[n, 0] * dx * dx + conic[n, 2] * dy * dy) + conic[n, 1] * dx * dy
                w = opacity[n] * math.exp(-sigma)
                if not visible[n] or w < 1 / 255:
                    continue
                if blend != "alpha":
                    drawn.append((w, n))
                    continue
                a = min(0.999, w)
                if T * (1 - a) <= 1e-4:
                    break
                image[y, x] += T * a * color[n]
                T *= 1 - a
            if blend == "topk":
                drawn = sorted(drawn, key=lambda e: -e[0])[:topk]
            total = sum(w for w, _ in drawn)
            scale = 1 / (total + 1e-4) if blend == "topk" else 1.0
            for w, n in drawn:
                image[y, x] += w * scale * color[n]
            behind = {"alpha": T, "sum": 1.0, "topk": 1e-4 * scale}[blend]
            alphas[y, x] = 1 - T if blend == "alpha" else total * scale
            if background is not None:
                image[y, x] += behind * background.double().numpy()
    return image, alphas


@dataclass
class Scene:
    """A few 3D Gaussians (activated values) before some cameras."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int


def scene3d(count: int = 20, cameras: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Scene:
    """Gaussians well inside the view of cameras at different places, some near the field-of-view clamp."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    for c in range(cameras):
        axis = torch.nn.functional.normalize(rand(3) - 0.5, dim=0)
        skew = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        viewmats[c, :3, :3] = torch.matrix_exp(0.3 * skew.double())
        viewmats[c, :3, 3] = torch.tensor([0.1 * c, -0.2, 4.0])
    K = torch.tensor([[40.0, 0, 21], [0, 44, 15], [0, 0, 1]], dtype=torch.float64).repeat(cameras, 1, 1)
    values = Scene(
        (rand(count, 3) - 0.5) * torch.tensor([3.0, 2.2, 2.0], dtype=torch.float64),
        rand(count, 4) * 2 - 1,
        rand(count, 3) * 0.3 + 0.05,
        rand(count) * 0.7 + 0.2,
        rand(count, 1, 3) * 0.6,
        (rand(count, 24, 3) - 0.5) * 0.4,
        viewmats,
        K,
        40,
        32,
    )
    for name in ("means", "quats", "scales", "opacities", "sh0", "shN", "viewmats", "Ks"):
        setattr(values, name, getattr(values, name).to(dtype))
    return values
