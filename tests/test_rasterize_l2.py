"""The fused step of an image fit against the stages that it fuses."""

from __future__ import annotations

import pytest
import torch

import splat
from splat.core.binning import TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import Blend, RasterizeOptions, rasterize
from splat.core.rasterize_l2 import from_tiles, rasterize_l2, to_tiles

WIDTH, HEIGHT = 67, 41


def scene(count: int, channels: int, largest: float = 1.5) -> tuple[Splats2D, torch.Tensor, TileLists, torch.Tensor]:
    g = torch.Generator().manual_seed(channels)
    means = torch.rand(count, 2, generator=g) * torch.tensor([WIDTH, HEIGHT])
    log_scales, angles = torch.rand(count, 2, generator=g) * largest, 6 * torch.rand(count, generator=g)
    splats = project_image(means, log_scales, angles, width=WIDTH, height=HEIGHT)
    tiles = bin_splats(splats, width=WIDTH, height=HEIGHT, depth_order=False)
    colors = torch.randn(1, count, channels, generator=g)
    return splats, colors, tiles, torch.rand(HEIGHT, WIDTH, channels, generator=g)


def weights_of(target: torch.Tensor, channels: int) -> torch.Tensor:
    """[H, W, channels] in 0..1, some of them 0."""
    g = torch.Generator().manual_seed(9)
    return (1.5 * torch.rand(*target.shape[:2], channels, generator=g) - 0.5).clamp_min(0)


# 8,000 Gaussians over most of the picture: more in a tile than the weights are kept of.
@pytest.mark.parametrize(
    ("channels", "count", "largest"), [(1, 400, 1.5), (3, 400, 1.5), (4, 400, 1.5), (7, 400, 1.5), (3, 8000, 3.0)]
)
def test_the_fused_step_equals_forward_loss_and_backward(channels: int, count: int, largest: float) -> None:
    splats, colors, tiles, target = scene(count, channels, largest)
    if count == 8000:
        assert int(tiles.offsets.diff().max()) > 2048
    step = rasterize_l2(splats, colors, tiles, to_tiles(target))
    leaves = [t.clone().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, colors)]
    drawn = Splats2D(leaves[0], splats.depths, leaves[1], leaves[2], splats.radii)
    image, _ = rasterize(drawn, leaves[3], tiles, options=RasterizeOptions(blend="sum"))
    residual = target - image[0]
    wanted = torch.autograd.grad(0.5 * residual.square().sum(), leaves)
    residual, image = residual.detach(), image.detach()
    torch.testing.assert_close(from_tiles(step.residual, WIDTH, HEIGHT), residual, rtol=0, atol=1e-4)
    assert step.squared_error == pytest.approx(float(residual.double().square().sum()), rel=1e-5)
    clamped = target - image[0].clamp(0, 1)
    assert step.clamped_error == pytest.approx(float(clamped.double().square().sum()), rel=1e-5)
    for got, want in zip((step.v_means2d, step.v_conics, step.v_opacities, step.v_colors), wanted, strict=True):
        assert (got - want).norm() <= 2e-6 * want.norm()


@pytest.mark.parametrize("blend", ["sum", "topk"])
@pytest.mark.parametrize("weighted", [0, 1, 3])
def test_the_gradients_are_those_of_the_weighted_squared_error(blend: Blend, weighted: int) -> None:
    splats, colors, tiles, target = scene(400, 3)
    options = RasterizeOptions(blend=blend, topk=4)
    weights = weights_of(target, weighted) if weighted else None
    step = rasterize_l2(
        splats,
        colors,
        tiles,
        to_tiles(target),
        weight_tiles=None if weights is None else to_tiles(weights),
        options=options,
    )
    leaves = [t.clone().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, colors)]
    drawn = Splats2D(leaves[0], splats.depths, leaves[1], leaves[2], splats.radii)
    image = rasterize(drawn, leaves[3], tiles, options=options)[0][0]
    factor = torch.ones_like(target) if weights is None else weights.expand_as(target)
    wanted = torch.autograd.grad((0.5 * factor * (target - image).square()).sum(), leaves)
    for got, want in zip((step.v_means2d, step.v_conics, step.v_opacities, step.v_colors), wanted, strict=True):
        assert (got - want).norm() <= 5e-6 * want.norm()
    image = image.detach()
    residual = factor * (target - image)
    torch.testing.assert_close(from_tiles(step.residual, WIDTH, HEIGHT), residual, rtol=0, atol=1e-4)
    for got_error, shown in ((step.squared_error, image), (step.clamped_error, image.clamp(0, 1))):
        assert got_error == pytest.approx(float((factor * (target - shown).square()).double().sum()), rel=1e-5)


def test_a_pixel_without_weight_may_be_anything() -> None:
    splats, colors, tiles, target = scene(400, 3)
    weights = weights_of(target, 1)
    other = torch.where(weights > 0, target, target + 7)
    a, b = (rasterize_l2(splats, colors, tiles, to_tiles(t), weight_tiles=to_tiles(weights)) for t in (target, other))
    assert torch.equal(a.v_colors, b.v_colors) and a.squared_error == b.squared_error


@pytest.mark.parametrize("weighted", [False, True])
def test_the_reference_gives_the_same(weighted: bool) -> None:
    splats, colors, tiles, target = scene(300, 3)
    weights = to_tiles(weights_of(target, 3)) if weighted else None
    step, reference = (
        rasterize_l2(splats, colors, tiles, to_tiles(target), weight_tiles=weights, backend=b)
        for b in (None, "reference")
    )
    assert step.squared_error == pytest.approx(reference.squared_error, rel=1e-5)
    assert step.clamped_error == pytest.approx(reference.clamped_error, rel=1e-5)
    for name in ("residual", "v_means2d", "v_conics", "v_opacities", "v_colors"):
        got, want = getattr(step, name), getattr(reference, name)
        assert (got - want).norm() <= 2e-6 * want.norm(), name


def test_the_same_bits_for_any_number_of_threads() -> None:
    splats, colors, tiles, target = scene(500, 3)
    threads, steps = splat.get_num_threads(), []
    for n in (1, 3):
        splat.set_num_threads(n)
        steps.append(rasterize_l2(splats, colors, tiles, to_tiles(target)))
    splat.set_num_threads(threads)
    for name in ("residual", "v_means2d", "v_conics", "v_opacities", "v_colors"):
        assert torch.equal(getattr(steps[0], name), getattr(steps[1], name)), name
    assert steps[0].squared_error == steps[1].squared_error


def test_tiled_pictures_come_back_and_the_padding_is_zero() -> None:
    image = torch.rand(HEIGHT, WIDTH, 3)
    tiles = to_tiles(image)
    assert tiles.shape == (5 * 3, 3, 256)
    assert torch.equal(from_tiles(tiles, WIDTH, HEIGHT), image)
    assert float(tiles.sum()) == pytest.approx(float(image.sum()), rel=1e-5)


def test_opcheck_and_no_gaussians() -> None:
    splats, colors, tiles, target = scene(60, 2)
    lists = (tiles.offsets, tiles.entries, tiles.masks, tiles.splat_offsets, tiles.slots)
    arguments = (splats.means2d, splats.conics, splats.opacities, colors, *lists, WIDTH, HEIGHT, 1 / 255, False)
    for weights in (None, to_tiles(weights_of(target, 1)), to_tiles(weights_of(target, 2))):
        torch.library.opcheck(torch.ops.splat.rasterize_l2.default, (*arguments, to_tiles(target), weights))
    with pytest.raises(RuntimeError, match=r"weight_tiles must have shape \[C \* tiles, 1 or D, 256\]"):
        torch.ops.splat.rasterize_l2(*arguments, to_tiles(target), to_tiles(weights_of(target, 3)))
    with pytest.raises(RuntimeError, match=r"target_tiles must have shape \[C \* tiles, D, 256\], got \[15, 1, 256\]"):
        torch.ops.splat.rasterize_l2(*arguments, to_tiles(target[..., :1]), None)
    splats, colors, tiles, target = scene(0, 3)
    step = rasterize_l2(splats, colors, tiles, to_tiles(target))
    assert torch.equal(from_tiles(step.residual, WIDTH, HEIGHT), target)
    assert step.v_colors.shape == (1, 0, 3)
