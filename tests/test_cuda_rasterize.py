"""The CUDA rasteriser, emulated on the host, against the CPU backend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from splat.core.binning import TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.rasterize import Blend, RasterizeOptions, rasterize
from splat.core.rasterize_l2 import rasterize_l2, to_tiles
from tests.emu.emulator import Emulator, build


@pytest.fixture(scope="module", params=["forward", "reversed"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(build(), reverse=request.param == "reversed")


def scene(
    size: tuple[int, int], count: int, channels: int, cameras: int = 2, spread: float = 4.0, seed: int = 0
) -> tuple[Splats2D, Tensor, TileLists, Tensor]:
    width, height = size
    g = torch.Generator().manual_seed(seed)
    means2d = torch.rand(cameras, count, 2, generator=g) * torch.tensor([width, height])
    root = torch.randn(cameras, count, 2, 2, generator=g) * spread * 0.7
    conics = torch.linalg.inv(root @ root.mT + 0.3 * torch.eye(2))
    packed = torch.stack([conics[..., 0, 0], conics[..., 0, 1], conics[..., 1, 1]], -1)
    opacities = torch.rand(cameras, count, generator=g)
    depths = torch.rand(cameras, count, generator=g)
    splats = Splats2D(means2d, depths, packed, opacities, torch.ones(cameras, count, 2, dtype=torch.int32))
    colors = torch.randn(cameras, count, channels, generator=g)
    tiles = bin_splats(splats, width=width, height=height)
    return splats, colors, tiles, torch.randn(cameras, channels, generator=g)


def check(
    emulator: Emulator,
    size: tuple[int, int],
    count: int,
    channels: int,
    options: RasterizeOptions,
    by_splat: bool = False,
) -> None:
    """Image, alpha and every gradient of the emulated kernels against the CPU backend's."""
    splats, colors, tiles, backgrounds = scene(size, count, channels)
    leaves = [t.clone().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, colors)]
    drawn = Splats2D(leaves[0], splats.depths, leaves[1], leaves[2], splats.radii)
    image, alphas = rasterize(drawn, leaves[3], tiles, backgrounds=backgrounds, options=options)
    got = emulator.forward(splats, colors, tiles, backgrounds, options)
    torch.testing.assert_close(got.image, image.detach(), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(got.alphas, alphas.detach(), rtol=1e-5, atol=1e-5)
    g = torch.Generator().manual_seed(1)
    v_image, v_alphas = torch.randn(image.shape, generator=g), torch.randn(alphas.shape, generator=g)
    torch.autograd.backward((image, alphas), (v_image, v_alphas))
    v = emulator.backward(splats, colors, tiles, backgrounds, options, got, v_image, v_alphas, by_splat)
    wanted = [leaf.grad for leaf in leaves]
    if options.absgrad:
        wanted.append(leaves[0].absgrad)  # type: ignore[attr-defined]
    for name, a, b in zip(("means2d", "conics", "opacities", "colors", "absgrad"), v, wanted, strict=False):
        assert b is not None and torch.isfinite(a).all(), name
        assert (a - b).norm() <= 2e-5 * b.norm() + 1e-6, name


@pytest.mark.parametrize("blend", ["alpha", "sum", "topk"])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (16, 16), (40, 21)])
def test_odd_sizes(emulator: Emulator, blend: Blend, size: tuple[int, int]) -> None:
    check(emulator, size, 60, 3, RasterizeOptions(blend=blend, topk=4))


@pytest.mark.parametrize("topk", [2, 4, 5, 10, 13, 16, 17, 64])
def test_any_number_of_largest_weights(emulator: Emulator, topk: int) -> None:
    """Not 1: the one weight is normalised away, and what is left of its gradient is rounding."""
    check(emulator, (18, 16), 90, 3, RasterizeOptions(blend="topk", topk=topk))


@pytest.mark.parametrize("blend", ["alpha", "sum", "topk"])
@pytest.mark.parametrize("channels", [1, 2, 4, 17, 65])
def test_any_number_of_channels(emulator: Emulator, blend: Blend, channels: int) -> None:
    check(emulator, (20, 18), 40, channels, RasterizeOptions(blend=blend, topk=3))


def test_absolute_gradients(emulator: Emulator) -> None:
    check(emulator, (23, 19), 50, 3, RasterizeOptions(absgrad=True))
    check(emulator, (23, 19), 50, 5, RasterizeOptions(absgrad=True))


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("channels", [3, 18])
def test_sums_by_splat(emulator: Emulator, channels: int, absgrad: bool) -> None:
    check(emulator, (40, 21), 60, channels, RasterizeOptions(absgrad=absgrad), by_splat=True)


@pytest.mark.parametrize(("channels", "weighted"), [(1, 0), (3, 0), (5, 0), (3, 1), (3, 3)])
def test_least_squares_is_the_cpus(emulator: Emulator, channels: int, weighted: int) -> None:
    splats, colors, tiles, _ = scene((41, 21), 60, channels, cameras=1)
    g = torch.Generator().manual_seed(2)
    target = to_tiles(torch.rand(21, 41, channels, generator=g))
    weights = to_tiles(torch.rand(21, 41, weighted, generator=g)) if weighted else None
    wanted = rasterize_l2(splats, colors, tiles, target, weight_tiles=weights)
    options = RasterizeOptions(blend="sum")
    drawn = emulator.forward(splats, colors, tiles, None, options)
    residual, errors, v_image = emulator.residual(colors, tiles, drawn, target, weights)
    torch.testing.assert_close(residual, wanted.residual, rtol=1e-5, atol=2e-5)
    assert errors.sum(0).tolist() == pytest.approx([wanted.squared_error, wanted.clamped_error], rel=1e-5)
    v = emulator.backward(splats, colors, tiles, None, options, drawn, v_image, None)
    for a, b in zip(v, (wanted.v_means2d, wanted.v_conics, wanted.v_opacities, wanted.v_colors), strict=True):
        assert (a - b).norm() <= 2e-5 * b.norm() + 1e-6


def test_more_than_a_thousand_splats_in_one_tile(emulator: Emulator) -> None:
    check(emulator, (16, 16), 1100, 3, RasterizeOptions(blend="sum"))
    check(emulator, (16, 16), 1100, 3, RasterizeOptions(blend="alpha"))


@pytest.mark.parametrize("blend", ["alpha", "sum"])
@pytest.mark.parametrize("channels", [3, 18])
@pytest.mark.parametrize(("longest", "by_length"), [(0, True), (7, False), (40, True), (1000, True)])
def test_long_lists_in_parts_and_the_longest_first(blend: Blend, channels: int, longest: int, by_length: bool) -> None:
    """A part's transmittance is a product, taken in another order: pixels stop within rounding of where they did."""
    for reverse in (False, True):
        emulator = Emulator(build(), reverse, longest, by_length)
        check(emulator, (40, 21), 150, channels, RasterizeOptions(blend=blend))


def test_parts_behind_an_opaque_one_are_not_seen() -> None:
    splats, colors, _, backgrounds = scene((33, 20), 200, 3, spread=20.0)
    splats = replace(splats, opacities=0.9 + 0.1 * splats.opacities)
    tiles = bin_splats(splats, width=33, height=20)
    assert (tiles.offsets.diff() > 60).any()
    options = RasterizeOptions()
    plain, parts = Emulator(build()), Emulator(build(), longest=5)
    wanted, got = (e.forward(splats, colors, tiles, backgrounds, options) for e in (plain, parts))
    assert (wanted.last < 40).float().mean() > 0.9 and wanted.norm.median() < 1e-3  # most parts are hidden
    torch.testing.assert_close(got.image, wanted.image, rtol=1e-5, atol=1e-5)
    assert torch.equal(got.last, wanted.last)
    v = torch.randn(got.image.shape, generator=torch.Generator().manual_seed(0))
    grads = [
        e.backward(splats, colors, tiles, backgrounds, options, f, v, None) for e, f in ((plain, wanted), (parts, got))
    ]
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 2e-5 * a.norm()


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_to_draw(emulator: Emulator, count: int) -> None:
    splats, colors, tiles, backgrounds = scene((20, 17), count, 3)
    splats = Splats2D(splats.means2d + 1e4, splats.depths, splats.conics, splats.opacities, splats.radii)
    tiles = bin_splats(splats, width=20, height=17)
    got = emulator.forward(splats, colors, tiles, backgrounds, RasterizeOptions())
    assert torch.equal(got.image, backgrounds[:, None, None].expand(2, 17, 20, 3))
    v = emulator.backward(splats, colors, tiles, backgrounds, RasterizeOptions(), got, got.image, None)
    assert all((t == 0).all() for t in v)


def test_the_bits_do_not_depend_on_the_order_of_the_threads() -> None:
    library = build()
    splats, colors, tiles, backgrounds = scene((40, 21), 80, 3)
    results = []
    for reverse in (False, True):
        emulator, options = Emulator(library, reverse), RasterizeOptions()
        forward = emulator.forward(splats, colors, tiles, backgrounds, options)
        v_image = torch.ones_like(forward.image)
        grads = emulator.backward(splats, colors, tiles, backgrounds, options, forward, v_image, None)
        results.append([forward.image, forward.alphas, *grads])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "    batch.load(p, splats, s, first, count);\n    __syncthreads();",
            "    batch.load(p, splats, s, first, count);",
        ),
        ("    __syncthreads();\n    for (int at =", "    for (int at ="),
        ("(2u << over) - 1u", "(1u << over) - 1u"),
        ("summed[w] >> k & 1u", "true"),
        ("hits ^= 1u << k;", "hits &= hits - 1;"),
    ],
)
def test_a_missing_barrier_or_a_wrong_walk_is_noticed(old: str, new: str) -> None:
    library = build([(old, new)])
    with pytest.raises(AssertionError):
        for reverse in (False, True):
            check(Emulator(library, reverse), (40, 21), 150, 3, RasterizeOptions())
