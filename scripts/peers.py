"""What a user without a GPU can run today, for scripts/bench.py to measure in the same run."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor

from splat.core.binning import TILE, TileLists


def patch_step(size: int, count: int, image: Tensor) -> Callable[[], None]:
    """2D fitting in torch: each Gaussian on its own K x K patch, scattered by index_add, Adam on L2."""
    g = torch.Generator().manual_seed(0)
    s = 0.6 * size / count**0.5
    means = (torch.rand(count, 2, generator=g) * size).requires_grad_(True)
    factor = torch.tensor([1 / s, 0.0, 1 / s]).repeat(count, 1).requires_grad_(True)
    colors = (0.4 * torch.rand(count, 3, generator=g)).requires_grad_(True)
    optimizer = torch.optim.Adam([means, factor, colors], 1e-2)
    reach = torch.arange(math.ceil(2 * 3.33 * s))

    def step() -> None:
        base = (means.detach() - len(reach) / 2 + 0.5).long()
        ix, iy = base[:, :1] + reach, base[:, 1:] + reach
        u = (
            factor[:, :1, None] * (ix + 0.5 - means[:, :1])[:, None]
            + factor[:, 1:2, None] * (iy + 0.5 - means[:, 1:])[..., None]
        )
        v = factor[:, 2:, None] * (iy + 0.5 - means[:, 1:])[..., None]
        weight = torch.exp(-0.5 * (u * u + v * v))
        inside = ((ix >= 0) & (ix < size))[:, None] & ((iy >= 0) & (iy < size))[..., None]
        index = (iy.clamp(0, size - 1)[..., None] * size + ix.clamp(0, size - 1)[:, None]).flatten()
        values = ((weight * inside)[..., None] * colors[:, None, None]).reshape(-1, 3)
        picture = torch.zeros(size * size, 3).index_add(0, index, values).view(size, size, 3)
        optimizer.zero_grad()
        (picture - image).square().mean().backward()
        optimizer.step()

    return step


def _stand_in_for_nerfacc() -> None:
    """gsplat's `accumulate` composites with nerfacc, which is CUDA only; this is the shortest torch equivalent."""

    def render_weight_from_alpha(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
        logs = torch.log1p(-alphas).double()
        before = logs.cumsum(0) - logs
        new_ray = torch.ones_like(ray_indices, dtype=torch.bool)
        new_ray[1:] = ray_indices[1:] != ray_indices[:-1]
        start = before[new_ray][new_ray.cumsum(0) - 1]
        transmittance = torch.exp(before - start).float()
        return alphas * transmittance, transmittance

    def accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
        rows = weights[:, None] if values is None else weights[:, None] * values
        return torch.zeros(n_rays, rows.shape[-1]).index_add(0, ray_indices, rows)

    module = types.ModuleType("nerfacc")
    module.render_weight_from_alpha = render_weight_from_alpha  # type: ignore[attr-defined]
    module.accumulate_along_rays = accumulate_along_rays  # type: ignore[attr-defined]
    sys.modules["nerfacc"] = module


@torch.no_grad()
def _pairs(means2d: Tensor, conics: Tensor, opacities: Tensor, tiles: TileLists) -> tuple[Tensor, Tensor]:
    """(Gaussian, pixel) pairs that are drawn, by pixel and front to back: what gsplat's CUDA op
    rasterize_to_indices_in_range lists for its torch reference."""
    columns = -(-tiles.width // TILE)
    inner_y, inner_x = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
    gaussians, pixels = [], []
    for tile, (begin, end) in enumerate(zip(tiles.offsets[:-1].tolist(), tiles.offsets[1:].tolist(), strict=True)):
        if begin == end:
            continue
        ids = tiles.entries[begin:end].long()
        x, y = (inner_x + tile % columns * TILE).flatten(), (inner_y + tile // columns * TILE).flatten()
        d = torch.stack([x, y], -1)[:, None] + 0.5 - means2d[ids]
        c = conics[ids]
        sigma = 0.5 * (c[:, 0] * d[..., 0] ** 2 + c[:, 2] * d[..., 1] ** 2) + c[:, 1] * d[..., 0] * d[..., 1]
        alpha = (opacities[ids] * torch.exp(-sigma)).clamp_max(0.999)
        alpha = torch.where((alpha < 1 / 255) | (sigma < 0), 0.0, alpha)
        drawn = (alpha > 0) & (torch.cumprod(1 - alpha, 1) > 1e-4) & ((x < tiles.width) & (y < tiles.height))[:, None]
        pixel, place = drawn.nonzero(as_tuple=True)
        gaussians.append(ids[place])
        pixels.append((y * tiles.width + x)[pixel])
    return torch.cat(gaussians), torch.cat(pixels)


def gsplat_reference(
    geometry: tuple[Tensor, Tensor, Tensor, Tensor], tiles: TileLists, v_image: Tensor
) -> Callable[[], Tensor] | None:
    """gsplat's own torch reference (`accumulate`), forward and backward, with projection and tile lists given for free;
    None where gsplat is not installed. Returns the picture."""
    try:
        from torch.utils import cpp_extension

        cpp_extension._find_cuda_home = lambda: None  # else its import tries to compile where there is a CUDA toolkit
        from gsplat.cuda._torch_impl import accumulate
    except ImportError:
        return None
    _stand_in_for_nerfacc()
    leaves = [t.detach().clone().requires_grad_(True) for t in geometry]

    def step() -> Tensor:
        gaussians, pixels = _pairs(leaves[0].detach()[0], leaves[1].detach()[0], leaves[2].detach()[0], tiles)
        image, _ = accumulate(*leaves, gaussians, pixels, torch.zeros_like(gaussians), tiles.width, tiles.height)
        torch.autograd.grad(image, leaves, v_image)
        return image.detach()

    return step
