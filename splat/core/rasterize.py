"""Stage 3: tile lists -> image, by one of the compositors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from splat.core import ops
from splat.core.binning import ALPHA_MIN, TILE, TileLists, check_splats, check_tiles
from splat.core.checks import check_int
from splat.core.ops import Backend, choose_backend
from splat.core.project import Splats2D
from splat.core.reference import rasterize as reference

Blend = Literal["alpha", "sum", "topk"]
BLENDS: tuple[Blend, ...] = ("alpha", "sum", "topk")
TOPK_EPSILON = 1e-4


@dataclass(frozen=True)
class RasterizeOptions:
    """How splats become pixels. w = opacity * exp(-sigma) is a splat's weight at a pixel."""

    blend: Blend = "alpha"
    """alpha: front-to-back compositing (3DGS). sum: sum of w c (GaussianImage). topk: the `topk` largest weights,
    normalised (Image-GS). sum and topk do not depend on the order of the splats."""
    topk: int = 10
    """Splats per pixel that count, for blend='topk'."""
    cutoff: float = ALPHA_MIN
    """Least weight that is drawn."""
    absgrad: bool = False
    """Sum the absolute per-pixel gradients of means2d too (AbsGS); they appear as `means2d.absgrad` after backward."""
    max_record_bytes: int = 4 << 30
    """Memory that the backward pass may take on a GPU to sum in a fixed order, which makes every run the same to the
    bit. Where it would take more, atomic additions do with less (`sums_by_splat` tells)."""

    def __post_init__(self) -> None:
        if self.blend not in BLENDS:
            raise ValueError(f"blend must be one of {', '.join(BLENDS)}, got {self.blend!r}")
        check_int("topk", self.topk, 1, 1024)
        if not 0 < self.cutoff < math.inf:
            raise ValueError(f"cutoff must be positive and finite, got {self.cutoff}")
        check_int("max_record_bytes", self.max_record_bytes, 0)


def sums_by_splat(tiles: TileLists, channels: int, options: RasterizeOptions) -> bool:
    """Whether the backward pass adds a splat's gradients up by atomic operations, in any order: on a GPU, where the
    records of all entries would take more than `options.max_record_bytes`."""
    if not tiles.entries.is_cuda:
        return False
    size = torch.ops.splat.record_size(channels, options.absgrad)
    return bool(4 * size * tiles.entries.shape[0] > options.max_record_bytes)


def rasterize(
    splats: Splats2D,
    colors: Tensor,
    tiles: TileLists,
    *,
    backgrounds: Tensor | None = None,
    options: RasterizeOptions = RasterizeOptions(),
    backend: Backend | None = None,
    absgrad_to: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the splats of each tile. Differentiable in means2d, conics, opacities, colors and backgrounds.

    Args:
        splats: the splats that `tiles` was made from.
        colors: [C, N, D], any number of channels.
        backgrounds: [C, D], what shows where the splats are transparent.
        absgrad_to: takes the absolute gradient [C, N, 2] in the backward pass (default: it is left on means2d).

    Returns:
        image [C, H, W, D] and alphas [C, H, W]: 1 - transmittance (alpha), the sum of the weights (sum), or
        W / (W + 1e-4) with W the sum of the K largest weights (topk).
    """
    check = check_splats(splats)
    check.floats("colors", colors, "C", "N", "D")
    if colors.shape[2] < 1:
        raise ValueError(f"colors must have at least one channel, got shape {list(colors.shape)}")
    if backgrounds is not None:
        check.floats("backgrounds", backgrounds, "C", "D")
    check_tiles(tiles, splats)
    cameras, count = splats.opacities.shape
    grid = cameras * (-(-tiles.height // TILE)) * (-(-tiles.width // TILE))
    if (tiles.offsets.shape[0], tiles.splat_offsets.shape[0]) != (grid + 1, cameras * count + 1):
        raise ValueError(f"tiles must come from bin_splats with these splats, {cameras} cameras x {count} Gaussians")
    geometry = (splats.means2d, splats.conics, splats.opacities, colors, backgrounds)
    if choose_backend(splats.means2d, backend) == "reference":
        if options.absgrad:
            raise ValueError("absgrad needs the cpu or cuda backend; the reference backend has no per-pixel gradients")
        return reference.rasterize(
            *geometry,
            tiles.offsets,
            tiles.entries,
            tiles.width,
            tiles.height,
            options.blend,
            options.topk,
            options.cutoff,
        )
    lists = (tiles.offsets, tiles.entries, tiles.masks, tiles.splat_offsets, tiles.slots)
    by_splat = sums_by_splat(tiles, colors.shape[2], options)
    how = (tiles.width, tiles.height, BLENDS.index(options.blend), options.topk, options.cutoff, by_splat)
    if options.absgrad:
        image, alphas = _RasterizeAbsgrad.apply(absgrad_to, *geometry, *lists, *how)  # type: ignore[no-untyped-call]
        return image, alphas
    image, alphas, _, _ = torch.ops.splat.rasterize(*geometry, *lists, *how)
    return image, alphas


def _gradients(
    inputs: tuple[Any, ...], outputs: tuple[Any, ...], v_image: Tensor | None, v_alphas: Tensor | None, absgrad: bool
) -> tuple[list[Tensor | None], Tensor]:
    """Gradients of the five differentiable inputs, and the absolute gradient of means2d."""
    image, alphas, last, norm = outputs
    v: list[Tensor]
    *v, v_abs = torch.ops.splat.rasterize_backward(*inputs, image, last, norm, v_image, v_alphas, absgrad)
    backgrounds, blend = inputs[4], inputs[12]
    if backgrounds is None or v_image is None or not backgrounds.requires_grad:
        return [*v, None], v_abs
    if BLENDS[blend] == "sum":
        behind = torch.ones_like(alphas)
    elif BLENDS[blend] == "alpha":
        behind = norm[:, 0]
    else:
        behind = TOPK_EPSILON * norm[:, 1]
    return [*v, (v_image * behind[..., None]).sum((1, 2))], v_abs


class _RasterizeAbsgrad(torch.autograd.Function):
    """The op with the absolute gradient left on the means2d tensor, as users of gsplat expect it. A side effect cannot
    live in a registered autograd formula, hence this wrapper."""

    @staticmethod
    def forward(ctx: Any, absgrad_to: Callable[[Tensor], None] | None, *inputs: Any) -> tuple[Tensor, Tensor]:
        image, alphas, last, norm = torch.ops.splat.rasterize(*inputs)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:10], image, alphas, last, norm)
        ctx.absgrad_to, ctx.how = absgrad_to, inputs[10:]
        return image, alphas

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        v, v_abs = _gradients((*saved[:10], *ctx.how), saved[10:], grads[0], grads[1], True)
        if ctx.absgrad_to is None:
            saved[0].absgrad = v_abs
        else:
            ctx.absgrad_to(v_abs)
        return (None, *v, *[None] * 11)


@ops.register_fake("splat::rasterize")
def _(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    tile_offsets: Tensor,
    entries: Tensor,
    masks: Tensor,
    splat_offsets: Tensor,
    slots: Tensor,
    width: int,
    height: int,
    blend: int,
    topk: int,
    cutoff: float,
    by_splat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cameras, _, channels = colors.shape
    kept = 0 if BLENDS[blend] == "sum" else cameras
    return (
        means2d.new_empty(cameras, height, width, channels),
        means2d.new_empty(cameras, height, width),
        means2d.new_empty(kept, height, width, dtype=torch.int32),
        means2d.new_empty(kept, 2 if BLENDS[blend] == "topk" else 1, height, width),
    )


@ops.register_fake("splat::rasterize_backward")
def _(means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    absgrad = rest[-1]
    cameras, count, _ = means2d.shape
    return (
        torch.empty_like(means2d, memory_format=torch.contiguous_format),
        torch.empty_like(conics, memory_format=torch.contiguous_format),
        torch.empty_like(opacities, memory_format=torch.contiguous_format),
        torch.empty_like(colors, memory_format=torch.contiguous_format),
        means2d.new_empty(cameras if absgrad else 0, count, 2),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2], output[3])
    ctx.set_materialize_grads(False)  # a picture of zeros for an output that is not used would cost as much as a pass
    ctx.save_for_backward(*inputs[:10], *output)
    ctx.how = inputs[10:]


def _backward(ctx: Any, v_image: Tensor | None, v_alphas: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    v, _ = _gradients((*saved[:10], *ctx.how), saved[10:], v_image, v_alphas, False)
    return (*v, *[None] * 11)


ops.register_autograd("splat::rasterize", _backward, _setup_context)
