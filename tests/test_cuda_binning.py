"""The CUDA tile lists, emulated on the host, against the CPU backend: the same bits."""

from __future__ import annotations

import pytest
import torch

from splat.core.binning import bin_splats
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
    for name in ("offsets", "splat_offsets", "entries", "slots", "masks"):
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name
