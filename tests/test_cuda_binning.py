"""The CUDA tile lists, emulated on the host, against the CPU backend: the same bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from splat.core.binning import ListRoom, TileLists, bin_splats
from splat.core.project import Splats2D
from tests.emu.emulator import Emulator, build


@pytest.fixture(scope="module", params=["forward", "reversed"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(build(), reverse=request.param == "reversed")


def scene(width: int, height: int, count: int, cameras: int = 2) -> Splats2D:
    g = torch.Generator().manual_seed(count + width)
    means2d = (torch.rand(cameras, count, 2, generator=g) * 1.4 - 0.2) * torch.tensor([width, height])
    root = torch.randn(cameras, count, 2, 2, generator=g) * (
        0.5 + 12 * torch.rand(cameras, count, 1, 1, generator=g) ** 4
    )
    conics = torch.linalg.inv(root @ root.mT + 0.3 * torch.eye(2))
    packed = torch.stack([conics[..., 0, 0], conics[..., 0, 1], conics[..., 1, 1]], -1)
    radii = (torch.rand(cameras, count, 1, generator=g) > 0.1).to(torch.int32).expand(-1, -1, 2).contiguous()
    depths = (torch.rand(cameras, count, generator=g) * 10).round() - 3  # many ties, some negative
    return Splats2D(means2d, depths, packed, torch.rand(cameras, count, generator=g), radii)


@pytest.mark.parametrize(("width", "height", "count"), [(1, 1, 5), (64, 48, 0), (17, 33, 40), (200, 130, 600)])
@pytest.mark.parametrize("depth_order", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
def test_the_lists_are_the_cpus(
    emulator: Emulator, width: int, height: int, count: int, depth_order: bool, with_ids: bool
) -> None:
    splats = scene(width, height, count)
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(0)) - count // 2 if with_ids else None
    wanted = bin_splats(splats, width=width, height=height, depth_order=depth_order, ids=ids)
    got = emulator.bin(splats, width, height, ids, 1 / 255, depth_order)
    assert_same(got, wanted)


def assert_same(got: TileLists, wanted: TileLists) -> None:
    for name in ("offsets", "splat_offsets", "entries", "slots", "masks", "totals"):
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name


@pytest.mark.parametrize("depth_order", [False, True])
def test_splats_over_many_rows_of_tiles(emulator: Emulator, depth_order: bool) -> None:
    """They are shared by a warp, a row each; more than 32 rows take two rounds."""
    splats = scene(40, 700, 100, cameras=1)
    conics = splats.conics * torch.where(torch.arange(100) % 3 == 0, 1e-4, 1.0)[None, :, None]
    splats = replace(splats, conics=conics)
    wanted = bin_splats(splats, width=40, height=700, depth_order=depth_order)
    assert wanted.tiles_per_splat.max() > 100
    assert_same(emulator.bin(splats, 40, 700, None, 1 / 255, depth_order), wanted)


def test_more_tiles_than_16_bits_hold(emulator: Emulator) -> None:
    splats = scene(4200, 4200, 60, cameras=1)
    wanted = bin_splats(splats, width=4200, height=4200)
    assert len(wanted.offsets) > 1 << 16
    assert_same(emulator.bin(splats, 4200, 4200, None, 1 / 255, True), wanted)


def test_a_colour_that_is_not_finite_hides_its_splat(emulator: Emulator) -> None:
    splats, colors = scene(64, 48, 50), torch.rand(2, 50, 3)
    colors[0, 7, 1], colors[1, 9, 0] = torch.nan, torch.inf
    hidden = splats.radii.clone()
    hidden[0, 7] = hidden[1, 9] = 0
    wanted = bin_splats(replace(splats, radii=hidden), width=64, height=48)
    assert_same(bin_splats(splats, width=64, height=48, colors=colors), wanted)
    assert_same(bin_splats(splats, width=64, height=48, colors=colors, backend="reference"), wanted)
    assert_same(emulator.bin(splats, 64, 48, None, 1 / 255, True, colors), wanted)


@pytest.mark.parametrize("depth_order", [False, True])
@pytest.mark.parametrize(("more", "more_visible"), [(0, 0), (300, 20), (-1, 0), (0, -1), (-10_000, 5)])
def test_lists_of_a_given_length(emulator: Emulator, depth_order: bool, more: int, more_visible: int) -> None:
    """The same lists with an unused end; or none at all, where they do not fit, and the totals tell."""
    splats = scene(100, 70, 90)
    exact = bin_splats(splats, width=100, height=70, depth_order=depth_order)
    used, visible = exact.totals.tolist()
    room = ListRoom(max(0, used + more), visible + more_visible)
    got = emulator.bin(splats, 100, 70, None, 1 / 255, depth_order, room=(room.entries, room.visible))
    fits = more >= 0 and more_visible >= 0
    assert bool(got.overflowed(room)) != fits
    listed = used if fits else 0
    for name, unused in (("entries", -1), ("masks", 0), ("slots", -1)):
        assert torch.equal(getattr(got, name)[:listed], getattr(exact, name)[:listed])
        assert (getattr(got, name)[listed:] == unused).all()
    for name in ("offsets", "splat_offsets"):
        assert torch.equal(getattr(got, name), getattr(exact, name) if fits else 0 * getattr(exact, name))
    assert_same(bin_splats(splats, width=100, height=70, depth_order=depth_order, room=room), got)


def test_the_float_factor_of_a_conic_is_as_good_as_the_double_one(emulator: Emulator) -> None:
    """GPUs factor conics in float; for needles a plain float determinant has no digits left."""
    g = torch.Generator().manual_seed(0)
    angle, long = torch.rand(2000, generator=g, dtype=torch.float64) * 6, 10 ** (4 * torch.rand(2000, generator=g))
    p, q = 1 / long.double() ** 2, torch.tensor(1 / 0.3, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    conics = torch.stack([p * c * c + q * s * s, (p - q) * c * s, p * s * s + q * c * c], -1).float()
    kept = conics[:, 0].double() * conics[:, 2] - conics[:, 1].double() ** 2 > 1e-9
    assert kept.sum() > 1000
    worst = torch.zeros(3)
    for conic in conics[kept]:
        inputs, out = torch.tensor([3.0, 4.0, *conic.tolist(), 0.7]), torch.zeros(3)
        emulator.call("factor", [inputs, out], ())
        worst = worst.maximum(out)
    assert (worst < 5e-7).all(), worst
