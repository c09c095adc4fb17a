"""The synthetic scene for benchmarks: reproducible, sound, and within the statistics of trained scenes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import splat

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from scene_stats import screen_stats, show, world_stats
from trained_like import trained_like

COUNT = 20_000


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads() -> None:
    first, cameras = trained_like(COUNT, seed=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again, same = trained_like(COUNT, seed=3)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters().values(), again.parameters().values(), strict=True))
    assert torch.equal(cameras.viewmats, same.viewmats)
    assert not torch.equal(first.means, trained_like(COUNT, seed=4)[0].means)


def test_every_gaussian_can_be_drawn_and_order_is_only_order() -> None:
    for count in (1, 37, COUNT):
        g, cameras = trained_like(count, views=3)
        assert len(g) == count and g.sh_degree == 3 and bool(g.valid.all())
        assert bool((g.quats.norm(dim=1) > 1e-3).all())
        assert (len(cameras), cameras.width, cameras.height) == (3, 1920, 1080)
    shuffled = trained_like(COUNT, order="random")[0].means
    assert torch.equal(shuffled.sum(1).sort().values, trained_like(COUNT)[0].means.sum(1).sort().values)
    steps = [(m[1:] - m[:-1]).norm(dim=1).median() for m in (g.means, shuffled)]
    assert steps[0] < 0.1 * steps[1]
    with pytest.raises(ValueError, match="order must be morton or random, got 'hilbert'"):
        trained_like(COUNT, order="hilbert")  # type: ignore[arg-type]


def test_statistics_are_those_of_trained_scenes() -> None:
    """Fewer Gaussians are larger ones: 100,000 have 19 entries per visible splat, 20,000 have 46."""
    g, cameras = trained_like(COUNT)
    stats = world_stats(g) | screen_stats(g, cameras[:2], samples=60)
    ranges = {
        "opacity < 0.1": (0.15, 0.32),
        "opacity > 0.9": (0.2, 0.36),
        "log(largest axis / spacing) median": (0.1, 0.9),
        "middle / largest axis p50": (0.12, 0.3),
        "smallest / middle axis p50": (0.1, 0.3),
        "visible fraction": (0.5, 0.7),
        "entries per visible splat": (30, 65),
        "contributing splats per pixel": (25, 75),
        "entries reached": (0.6, 1),
        "coverage": (0.9, 1),
    }
    wrong = {name: stats[name] for name, (low, high) in ranges.items() if not low <= stats[name] <= high}
    assert not wrong, show({"all": stats})


def test_the_statistics_count_what_render_draws() -> None:
    g, cameras = trained_like(2000, views=2)
    small = cameras.scaled(0.1)
    tiles = 2 * 12 * 7
    stats = screen_stats(g, small, samples=tiles)  # all of them
    drawn = splat.render(g, small)
    assert stats["tile entries"] * 2 == len(drawn.info.tiles.entries)
    assert stats["visible"] * 2 == int((drawn.info.splats.radii > 0).all(-1).sum())
    # The last row of tiles holds fewer pixels and counts like the others.
    rows = torch.repeat_interleave(torch.tensor([1.0, 16 / 12]), torch.tensor([96, 12]))[:, None]
    coverage = float((drawn.alpha[..., 0] * rows).sum() / (2 * 192 * 112))
    assert stats["coverage"] == pytest.approx(coverage, abs=2e-4)
    assert stats["contributing splats per pixel"] <= stats["evaluated pairs per pixel, by 4x4 masks"]
    assert stats["evaluated pairs per pixel, by 4x4 masks"] <= stats["evaluated pairs per pixel, by box"]
