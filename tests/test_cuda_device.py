"""The CUDA backend on a real GPU against the CPU backend. The emulator (test_cuda_*.py) proves the kernels without one;
this proves what it cannot: the glue, the launch, the hardware."""

from __future__ import annotations

import pytest
import torch

import splat
from splat.core.ops import cuda_archs

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and cuda_archs()),
    reason="needs a GPU, a CUDA build of torch, and CUDA kernels in the build",
)


def scene(count: int = 3000) -> tuple[splat.Gaussians, splat.Cameras]:
    return splat.Gaussians.random(count, sh_degree=3), splat.Cameras.orbit(2, radius=4, width=150, height=101)


def gradients(device: str, **how: object) -> list[torch.Tensor]:
    """Pictures and gradients of a loss on everything that render returns."""
    gaussians, cameras = scene()
    gaussians, cameras = gaussians.to(device), cameras.to(device)
    gaussians.requires_grad_()
    viewmats = cameras.viewmats.requires_grad_()
    background = torch.tensor([0.2, 0.4, 0.1], device=device)
    view = splat.render(gaussians, cameras, background=background, **how)  # type: ignore[arg-type]
    target = torch.linspace(0, 1, view.color.numel(), device=device).view_as(view.color)
    (splat.photometric_loss(view.color, target) + 0.1 * view.depth.mean() + view.alpha.mean()).backward()
    tensors = [view.color, view.alpha, view.depth, viewmats.grad]
    tensors += [
        getattr(gaussians, name).grad for name in ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")
    ]
    return [t.detach().cpu() for t in tensors if t is not None]


@pytest.mark.parametrize("blend", ["alpha", "sum", "topk"])
def test_pictures_and_gradients_are_the_cpus(blend: splat.RasterizeOptions) -> None:
    options = splat.RenderOptions(rasterize=splat.RasterizeOptions(blend=blend))  # type: ignore[arg-type]
    for gpu, cpu in zip(gradients("cuda", options=options), gradients("cpu", options=options), strict=True):
        assert (gpu - cpu).norm() <= 1e-4 * cpu.norm() + 1e-6


def test_two_runs_give_the_same_bits() -> None:
    for a, b in zip(gradients("cuda"), gradients("cuda"), strict=True):
        assert torch.equal(a, b)
