"""L1 and SSIM of image pairs in one pass."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import Arguments
from splat.core.ops import Backend, choose_backend
from splat.core.reference.ssim import crop_border, ssim_maps


def l1_ssim(
    image: Tensor, target: Tensor, *, padding: Literal["same", "valid"] = "same", backend: Backend | None = None
) -> tuple[Tensor, Tensor]:
    """Mean |image - target| and mean SSIM (11-tap Gaussian window of sigma 1.5, values in 0..1). Differentiable in
    `image` only.

    Args:
        image, target: [B, H, W, D].
        padding: same: SSIM of every pixel, zeros outside the picture (3DGS, fused-ssim); valid: only of pixels whose
            window lies inside.
    """
    check = Arguments()
    check.floats("image", image, "B", "H", "W", "D")
    check.floats("target", target, "B", "H", "W", "D")
    if image.numel() == 0:
        raise ValueError(f"image and target must not be empty, got {list(image.shape)}")
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be same or valid, got {padding!r}")
    if target.requires_grad:
        raise ValueError("target must not require a gradient; swap the arguments or detach it")
    if choose_backend(image, backend) == "reference":
        similarity, _ = ssim_maps(image, target)
        if padding == "valid":
            similarity = crop_border(similarity)
        return (image - target).abs().mean(), similarity.mean()
    both: Tensor = torch.ops.splat.l1_ssim(image, target, padding == "valid")
    return both[0], both[1]


@ops.register_fake("splat::l1_ssim")
def _(image: Tensor, target: Tensor, valid: bool) -> Tensor:
    return image.new_empty(2)


@ops.register_fake("splat::l1_ssim_backward")
def _(image: Tensor, target: Tensor, valid: bool, v: Tensor) -> Tensor:
    return image.new_empty(image.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.valid = inputs[2]


def _backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.splat.l1_ssim_backward(*ctx.saved_tensors, ctx.valid, v), None, None


ops.register_autograd("splat::l1_ssim", _backward, _setup_context)
