"""Binning and the compositors: reference against the definition, CPU against the reference, and the peers' bugs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import splat
from splat.core.binning import ListRoom, TileLists, bin_splats
from splat.core.ops import Backend
from splat.core.project import Splats2D
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.reference import rasterize as reference
from tests.scenes import brute_force, splats2d

BLENDS = ["alpha", "sum", "topk"]
NAMES = ["means2d", "conics", "opacities", "colors", "backgrounds"]


def to(s: Splats2D, dtype: torch.dtype) -> Splats2D:
    return Splats2D(s.means2d.to(dtype), s.depths.to(dtype), s.conics.to(dtype), s.opacities.to(dtype), s.radii)


def draw(
    s: Splats2D, colors: Tensor, width: int, height: int, backend: Any, *, ids: Tensor | None = None, **how: Any
) -> tuple[Tensor, Tensor]:
    options = RasterizeOptions(**{k: v for k, v in how.items() if k != "backgrounds"})
    ordered = options.blend == "alpha"
    tiles = bin_splats(
        s, width=width, height=height, depth_order=ordered, ids=ids, cutoff=options.cutoff, backend=backend
    )
    return rasterize(s, colors, tiles, backgrounds=how.get("backgrounds"), options=options, backend=backend)


def gradients(
    s: Splats2D, colors: Tensor, background: Tensor | None, size: tuple[int, int], backend: str, **how: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image and the gradient of a fixed weighted sum of image and alphas."""
    dtype = torch.float64 if backend == "reference" else torch.float32
    s = to(s, dtype)
    leaves = {
        "means2d": s.means2d,
        "conics": s.conics,
        "opacities": s.opacities,
        "colors": colors.to(dtype),
    } | ({"backgrounds": background.to(dtype)} if background is not None else {})
    leaves = {k: v.clone().requires_grad_(True) for k, v in leaves.items()}
    s = replace(s, **{k: leaves[k] for k in NAMES[:3]})
    image, alphas = draw(s, leaves["colors"], *size, backend, backgrounds=leaves.get("backgrounds"), **how)
    weights = torch.sin(torch.arange(image.numel(), dtype=torch.float64) * 0.37).to(dtype).view_as(image)
    ((image * weights).sum() + (alphas * weights[..., 0]).sum()).backward()
    return image.detach(), {k: v.grad for k, v in leaves.items() if v.grad is not None}


def assert_same(
    s: Splats2D,
    colors: Tensor,
    size: tuple[int, int],
    *,
    background: Tensor | None = None,
    bound: float = 3e-5,
    **how: Any,
) -> None:
    """CPU in float32 against the reference in float64: image and every gradient."""
    image, grads = gradients(s, colors, background, size, "cpu", **how)
    want, want_grads = gradients(s, colors, background, size, "reference", **how)
    assert image.shape == want.shape
    # A weight within rounding of the cutoff may be drawn by one and not by the other: at most 1/255 of a colour, rare.
    error = (image - want).abs()
    assert error.numel() == 0 or (error.max() < 0.02 and (error > 1e-4).float().mean() < 2e-3), error.max()
    for name, w in want_grads.items():
        assert (grads[name] - w).norm() <= bound * w.norm() + 1e-6, (name, (grads[name] - w).norm(), w.norm())


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_picture_is_what_the_definition_says(blend: str, backend: str) -> None:
    s, colors = splats2d(60, 35, 21)
    background = torch.tensor([0.2, 0.5, 0.9])
    want, want_alphas = brute_force(s, colors, 35, 21, blend=blend, topk=5, background=background)
    dtype = torch.float64 if backend == "reference" else torch.float32
    image, alphas = draw(
        to(s, dtype), colors.to(dtype), 35, 21, backend, blend=blend, topk=5, backgrounds=background[None].to(dtype)
    )
    error = (image[0].double() - torch.from_numpy(want)).abs()
    assert error.median() < 1e-6 and error.max() < (1e-9 if backend == "reference" else 0.01)
    assert (alphas[0].double() - torch.from_numpy(want_alphas)).abs().median() < 1e-6


@pytest.mark.parametrize("blend", BLENDS)
def test_every_gradient_of_the_reference(blend: str) -> None:
    s, colors = splats2d(5, 9, 8, largest=3.0)
    s = to(s, torch.float64)
    tiles = bin_splats(s, width=9, height=8, backend="reference")
    background = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)
    inputs = [v.clone().requires_grad_(True) for v in (s.means2d, s.conics, s.opacities, colors.double(), background)]

    def image(*values: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rasterize(*values, tiles.offsets, tiles.entries, 9, 8, blend, 3, 1 / 255, smooth_cutoff=True)

    assert torch.autograd.gradcheck(image, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (16, 16), (50, 7)])
def test_cpu_and_reference_agree(blend: str, size: tuple[int, int]) -> None:
    # A low cutoff keeps jumps out of the comparison of gradients.
    s, colors = splats2d(40, *size, cameras=2, seed=size[0])
    background = torch.rand(2, 3, generator=torch.Generator().manual_seed(5))
    assert_same(s, colors, size, background=background, blend=blend, topk=4, cutoff=1e-5)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9, 65])
def test_any_number_of_channels(blend: str, channels: int) -> None:
    s, _ = splats2d(30, 20, 18)
    colors = torch.rand(1, 30, channels, generator=torch.Generator().manual_seed(2))
    assert_same(s, colors, (20, 18), blend=blend, topk=4, cutoff=1e-5)


@pytest.mark.parametrize("blend", BLENDS)
def test_more_than_a_thousand_splats_in_one_tile_are_all_drawn(blend: str) -> None:
    s, colors = splats2d(1500, 16, 16, largest=2.0)
    s = replace(s, opacities=s.opacities * 0.05 + 0.004)
    want, _ = brute_force(s, colors, 16, 16, blend=blend)
    image, _ = draw(s, colors, 16, 16, "cpu", blend=blend)
    assert (image[0].double() - torch.from_numpy(want)).abs().median() < 2e-6
    assert_same(s, colors, (16, 16), blend=blend, cutoff=1e-7)


def test_saturated_pixels_stop_as_the_definition_says() -> None:
    s, colors = splats2d(400, 24, 24, largest=9.0)
    s = replace(s, opacities=s.opacities.clamp_min(0.7))
    want, want_alphas = brute_force(s, colors, 24, 24)
    assert want_alphas.max() > 0.9995
    image, _ = draw(s, colors, 24, 24, "cpu")
    assert (image[0].double() - torch.from_numpy(want)).abs().median() < 1e-6
    assert_same(s, colors, (24, 24), cutoff=1e-6, bound=1e-4)


def test_huge_and_thin_splats() -> None:
    s, colors = splats2d(12, 40, 40)
    s.conics[0, :4] *= 1e-4  # hundreds of pixels wide
    angle, thin, long = torch.tensor(0.7), 1 / 0.6**2, 1 / 80.0**2
    c, sn = angle.cos(), angle.sin()
    s.conics[0, 4] = torch.stack([long * c * c + thin * sn * sn, (long - thin) * c * sn, long * sn * sn + thin * c * c])
    # The determinant of a float32 conic this thin has few digits: both sides get the same rounded conic.
    assert_same(s, colors, (40, 40), cutoff=1e-5, bound=2e-4)


def test_a_huge_image_with_ten_splats() -> None:
    s, colors = splats2d(10, 8192, 8192, largest=30.0)
    s.means2d[0, 0] = torch.tensor([8190.0, 8189.0])
    image, _ = draw(s, colors[..., :1].contiguous(), 8192, 8192, "cpu", blend="sum")
    shifted = replace(s, means2d=s.means2d - torch.tensor([8160.0, 8160.0]))
    crop, _ = draw(shifted, colors[..., :1].contiguous(), 32, 32, "cpu", blend="sum")
    torch.testing.assert_close(image[0, -32:, -32:], crop[0], rtol=1e-3, atol=1e-3)
    assert crop.max() > 0.05


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("count", "cameras"), [(0, 2), (4, 0)])
def test_nothing_to_draw_shows_the_background(backend: str, count: int, cameras: int) -> None:
    s, colors = splats2d(count, 20, 10, cameras=cameras)
    background = torch.rand(cameras, 3, requires_grad=True)
    colors.requires_grad_(True)
    for blend in ("alpha", "sum"):
        image, alphas = draw(s, colors, 20, 10, backend, backgrounds=background, blend=blend)
        assert image.shape == (cameras, 10, 20, 3)
        assert torch.equal(image, background[:, None, None].expand_as(image))
        (image.sum() + alphas.sum()).backward()
        leaves = [v.clone().requires_grad_(True) for v in (s.means2d, s.conics, s.opacities)]
        _, alphas = draw(replace(s, **dict(zip(NAMES, leaves, strict=False))), colors, 20, 10, backend, blend=blend)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(alphas.sum(), leaves))
    s, colors = splats2d(5, 20, 10)
    image, _ = draw(replace(s, radii=torch.zeros_like(s.radii)), colors.requires_grad_(True), 20, 10, backend)
    image.sum().backward()
    assert (image == 0).all() and (colors.grad == 0).all()  # type: ignore[union-attr]


def test_depth_ties_break_by_index_or_by_ids() -> None:
    s, colors = splats2d(30, 20, 20)
    s = replace(s, depths=torch.ones_like(s.depths))
    by_index, _ = draw(s, colors, 20, 20, "cpu")
    want, _ = brute_force(s, colors, 20, 20)
    assert (by_index[0].double() - torch.from_numpy(want)).abs().median() < 1e-6
    shuffle = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    mixed = Splats2D(*(v[:, shuffle] for v in (s.means2d, s.depths, s.conics, s.opacities, s.radii)))
    for backend in ("cpu", "reference"):
        by_ids, _ = draw(mixed, colors[:, shuffle], 20, 20, backend, ids=shuffle)
        torch.testing.assert_close(by_ids, by_index, rtol=1e-5, atol=1e-6)
    same_bits, _ = draw(mixed, colors[:, shuffle], 20, 20, "cpu", ids=shuffle)
    assert torch.equal(same_bits, by_index)
    other, _ = draw(mixed, colors[:, shuffle], 20, 20, "cpu")
    assert (other - by_index).abs().max() > 0.01


@pytest.mark.parametrize("blend", ["sum", "topk"])
def test_order_free_blends_do_not_depend_on_the_order(blend: str) -> None:
    s, colors = splats2d(50, 30, 20)
    flipped = Splats2D(*(v.flip(1) for v in (s.means2d, s.depths, s.conics, s.opacities, s.radii)))
    a, _ = draw(s, colors, 30, 20, "cpu", blend=blend)
    b, _ = draw(flipped, colors.flip(1), 30, 20, "cpu", blend=blend)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_hidden_splats_do_not_change_the_picture() -> None:
    s, colors = splats2d(20, 20, 20, largest=4.0)
    wall = Splats2D(
        torch.full((1, 3, 2), 10.0),
        torch.full((1, 3), 0.5),
        torch.tensor([1e-6, 0.0, 1e-6]).expand(1, 3, 3),
        torch.full((1, 3), 1.0),
        torch.full((1, 3, 2), 200, dtype=torch.int32),
    )
    both = Splats2D(
        *(
            torch.cat([getattr(wall, n), getattr(s, n)], 1)
            for n in ("means2d", "depths", "conics", "opacities", "radii")
        )
    )
    alone, _ = draw(wall, torch.ones(1, 3, 3), 20, 20, "cpu")
    hidden, _ = draw(both, torch.cat([torch.ones(1, 3, 3), colors], 1), 20, 20, "cpu")
    assert torch.equal(alone, hidden)


@pytest.mark.parametrize("blend", BLENDS)
def test_expanded_gradients_and_strided_inputs(blend: str) -> None:
    s, colors = splats2d(30, 20, 18)
    strided = torch.cat([colors, colors], -1)[..., ::2][..., :3].requires_grad_(True)
    image, _ = draw(s, strided, 20, 18, "cpu", blend=blend)
    (grad,) = torch.autograd.grad(image.sum(), strided)  # a gradient of stride 0
    dense = strided.detach().contiguous().requires_grad_(True)
    image, _ = draw(s, dense, 20, 18, "cpu", blend=blend)
    (want,) = torch.autograd.grad(image, dense, torch.ones_like(image))
    assert torch.equal(grad, want) and (grad != 0).any()


@pytest.mark.parametrize("blend", BLENDS)
def test_the_bits_do_not_depend_on_the_number_of_threads(blend: str) -> None:
    s, colors = splats2d(3000, 200, 150)
    threads, results = splat.get_num_threads(), []
    for n in (1, 2, 3):
        splat.set_num_threads(n)
        image, grads = gradients(s, colors, None, (200, 150), "cpu", blend=blend)
        results.append([image, *grads.values()])
    splat.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_lists_are_the_references() -> None:
    s, _ = splats2d(200, 130, 75, cameras=2)
    got, want = (
        bin_splats(s, width=130, height=75, backend="cpu"),
        bin_splats(s, width=130, height=75, backend="reference"),
    )

    def by_key(t: TileLists) -> dict[tuple[int, int], int]:
        tile = torch.repeat_interleave(torch.arange(len(t.offsets) - 1), t.offsets.diff())
        return {(a, b): m & 0xFFFF for a, b, m in zip(tile.tolist(), t.entries.tolist(), t.masks.tolist(), strict=True)}

    ours, theirs = by_key(got), by_key(want)
    for key, mask in theirs.items():  # nothing that can be drawn is missed
        assert mask & ~ours.get(key, 0) == 0
    extra = sum((m & ~theirs.get(k, 0)).bit_count() for k, m in ours.items())
    assert extra <= 0.001 * sum(m.bit_count() for m in theirs.values()) + 1
    assert torch.equal(got.slots.sort().values, torch.arange(len(got.slots), dtype=torch.int32))
    owner = torch.searchsorted(got.splat_offsets, got.slots.long(), right=True) - 1
    assert torch.equal(owner.int(), got.entries)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_lists_with_room_draw_the_same_picture_or_nothing(backend: Backend) -> None:
    s, colors = splats2d(40, 50, 33)
    exact = bin_splats(s, width=50, height=33, backend=backend)
    picture, _ = rasterize(s, colors, exact, backend=backend)
    needed = exact.room(1.0)
    assert needed.entries == len(exact.entries) and needed.visible == int((exact.tiles_per_splat > 0).sum())
    for room, fits in (
        (needed, True),
        (exact.room(1.5), True),
        (ListRoom(needed.entries - 1, needed.visible), False),
        (ListRoom(needed.entries, needed.visible - 1), False),
    ):
        lists = bin_splats(s, width=50, height=33, room=room, backend=backend)
        assert len(lists.entries) == room.entries and bool(lists.overflowed(room)) != fits
        drawn, alphas = rasterize(s, colors, lists, backend=backend)
        assert torch.equal(drawn, picture) if fits else not alphas.any()
        assert lists.room(1.0) == needed


def test_absgrad_sums_absolute_gradients_of_the_pixels() -> None:
    s, colors = splats2d(6, 8, 8, largest=3.0)
    s = replace(s, means2d=s.means2d.requires_grad_(True))
    image, _ = draw(s, colors, 8, 8, "cpu", absgrad=True, cutoff=1e-5)
    image.sum().backward()
    want = torch.zeros_like(s.means2d)
    double = to(replace(s, means2d=s.means2d.detach()), torch.float64)
    means = double.means2d.requires_grad_(True)
    pixels, _ = draw(replace(double, means2d=means), colors.double(), 8, 8, "reference", cutoff=1e-5)
    for value in pixels.sum(-1).flatten():
        want += torch.autograd.grad(value, means, retain_graph=True)[0].abs().float()
    torch.testing.assert_close(s.means2d.absgrad, want, rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]
    assert (s.means2d.absgrad >= s.means2d.grad.abs() - 1e-5).all()  # type: ignore[attr-defined, union-attr]


def test_the_ops_follow_torchs_rules() -> None:
    s, colors = splats2d(10, 20, 18)
    torch.library.opcheck(
        torch.ops.splat.bin.default,
        (s.means2d, s.conics, s.opacities, s.radii, s.depths, None, None, 20, 18, 1 / 255, -1, -1),
    )
    t = bin_splats(s, width=20, height=18)
    leaves = [v.requires_grad_(True) for v in (s.means2d, s.conics, s.opacities, colors, torch.rand(1, 3))]
    for blend in range(3):
        lists = (t.offsets, t.entries, t.masks, t.splat_offsets, t.slots)
        torch.library.opcheck(torch.ops.splat.rasterize.default, (*leaves, *lists, 20, 18, blend, 4, 1 / 255, False))


def test_bad_input_names_the_argument() -> None:
    s, colors = splats2d(10, 20, 18)
    tiles = bin_splats(s, width=20, height=18)
    with pytest.raises(ValueError, match=r"colors must have shape \[C, N, D\] = \[1, 10, D\], got \[1, 9, 3\]"):
        rasterize(s, colors[:, :9], tiles)
    with pytest.raises(ValueError, match=r"backgrounds must have shape \[C, D\] = \[1, 3\], got \[1, 4\]"):
        rasterize(s, colors, tiles, backgrounds=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="blend must be one of alpha, sum, topk, got 'max'"):
        RasterizeOptions(blend="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ids must be torch\.int64, got torch\.float32"):
        bin_splats(s, width=20, height=18, ids=torch.zeros(10))
    with pytest.raises(ValueError, match="width and height must be at least 1 pixel, got 20 x 0"):
        bin_splats(s, width=20, height=0)
