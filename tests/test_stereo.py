"""The dense start: points lie on what was photographed, in its colours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import splat
from splat.cameras import Cameras
from splat.core.random import Purpose, uniform
from splat.gaussians import SH_C0, Gaussians
from splat.scene.config import StartConfig, TrainConfig
from splat.scene.data import PhotoCache, load_capture
from splat.scene.start import start
from splat.scene.stereo import DensePoints, dense_points
from tests.rendered_captures import write_data_set
from tests.threads import same_bits_with_any_threads

SIGMA = 0.02
SURFACE = 1 + 1.5 * SIGMA
"""Radius at which a ball of Gaussians on a sphere of 1 is seen: they stand out."""


def textured_sphere(radius: float = 1.0, count: int = 8000) -> Gaussians:
    """Small opaque Gaussians of random colours on a sphere."""
    k = torch.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, math.pi * (1 + 5**0.5) * k
    flat = (1 - z * z).sqrt()
    points = radius * torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)
    colors = uniform(0, 0, Purpose.POINTS, torch.arange(count), 3)
    # Patches of one colour, a few pixels large.
    cells = (points * 5).floor().long()
    colors = uniform(0, 0, Purpose.POINTS, cells[:, 0] * 10_007 + cells[:, 1] * 101 + cells[:, 2] + (1 << 20), 3)
    made = Gaussians.from_points(points, colors, sh_degree=0, opacity=0.98)
    return replace(made, log_scales=torch.full((count, 3), math.log(SIGMA)))


@pytest.fixture(scope="module")
def sphere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cameras = Cameras.orbit(20, radius=3.0, width=72, height=72, fov_y=45)
    seen = splat.render(textured_sphere(), cameras)
    rgb = seen.color / seen.alpha.clamp_min(1e-6)
    folder = tmp_path_factory.mktemp("data") / "sphere"
    return write_data_set(folder, list(torch.cat([rgb, seen.alpha], -1)), cameras)


def points_of(folder: Path, count: int = 2000, seed: int = 0) -> tuple[DensePoints, float]:
    capture = load_capture(folder)
    with PhotoCache(capture.views) as photos:
        dense = dense_points(capture, photos, count, seed)
    assert dense is not None
    return replace(dense, points=capture.normalisation.points_to_world(dense.points)), capture.normalisation.scale


def test_points_lie_on_the_surface(sphere: Path) -> None:
    dense, _ = points_of(sphere)
    distance = (dense.points.norm(dim=1) - SURFACE).abs()
    assert float(distance.median()) < 0.03
    assert float((distance < 0.1).float().mean()) > 0.8


def test_points_have_the_colours_of_the_surface(sphere: Path) -> None:
    dense, _ = points_of(sphere)
    truth = textured_sphere()
    on = (dense.points.norm(dim=1) - SURFACE).abs() < 0.05
    nearest = torch.cdist(dense.points[on], truth.means).argmin(1)
    colors = truth.sh0[nearest, 0] * SH_C0 + 0.5
    assert float((dense.colors[on] - colors).abs().mean()) < 0.15
    shuffled = colors[torch.randperm(len(colors), generator=torch.Generator().manual_seed(0))]
    assert float((dense.colors[on] - shuffled).abs().mean()) > 0.25


def test_there_are_about_as_many_as_wanted_and_their_sizes_follow(sphere: Path) -> None:
    few, _ = points_of(sphere, 500)
    many, _ = points_of(sphere, 4000)
    assert 400 < len(few.points) < 600
    assert 3600 < len(many.points) < 4400
    ratio = float(few.sizes.median() / many.sizes.median())
    assert ratio == pytest.approx(8**0.5, rel=0.1)


def test_points_do_not_depend_on_threads(sphere: Path) -> None:
    def compute() -> list[torch.Tensor]:
        dense, _ = points_of(sphere)
        return [dense.points, dense.colors, dense.sizes]

    same_bits_with_any_threads(compute)


def test_another_seed_takes_other_pixels(sphere: Path) -> None:
    a, b = points_of(sphere, seed=0)[0], points_of(sphere, seed=1)[0]
    assert a.points.shape != b.points.shape or not torch.equal(a.points, b.points)


def test_training_begins_with_them_and_with_random_ones_without(sphere: Path) -> None:
    capture = load_capture(sphere)
    config = TrainConfig(max_gaussians=1000, sh_degree=1)
    with PhotoCache(capture.views) as photos:
        dense = start(capture, photos, replace(config, start=StartConfig(dense=0.5)))
        without = start(capture, photos, replace(config, start=StartConfig(dense=0)))
    assert 400 < len(dense) < 600
    assert len(without) == 1000
    world = capture.normalisation.points_to_world(dense.means)
    assert float((world.norm(dim=1) - SURFACE).abs().median()) < 0.03
    side = capture.normalisation.points_to_world(without.means).abs()
    assert float(side.max()) == pytest.approx(1.0, abs=0.02)  # a third of the cameras' distance


def test_two_views_are_too_few(sphere: Path) -> None:
    capture = load_capture(sphere)
    capture = capture.without(capture.train[2:], "for the test")
    with PhotoCache(capture.views) as photos:
        assert dense_points(capture, photos, 100) is None
