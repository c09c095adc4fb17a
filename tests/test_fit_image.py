"""fit_image: quality floors on real and synthetic pictures, and the behaviour around the loop."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import splat
from splat.core.rasterize_l2 import to_tiles
from splat.image import fit, fitter
from splat.image.fit import FitConfig, auto_count, fit_image
from splat.image.fitter import Fit, FitProgress, Plan
from splat.image.grow import SPACING, best_births, removal_cost
from splat.image.init import Structure, importance_of, initial_shapes, sample_positions, structure_tensor
from splat.image.layout import RGB
from splat.image.model import ImageGaussians
from splat.image.objective import Objective
from splat.image.optimizer import LearningRates, ShapeOptimizer
from splat.image.picture import read_grey, read_picture
from splat.image.solve import ColorSystem

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"


SHAPES = {"means": (2,), "log_scales": (2,), "angles": (), "colors": (3,)}


def crop(size: int = 96) -> torch.Tensor:
    return read_picture(PHOTO).pixels[200 : 200 + size, 300 : 300 + size].clone()


def test_a_photo_is_fitted_well_and_colours_alone_are_not_enough() -> None:
    photo = crop()
    result = fit_image(photo, FitConfig(n=300, preset="draft"))
    assert len(result.model) == 300
    first = result.history[0]["psnr"]
    # Measured 34.9 dB on this crop (600 steps: 36.4); a broken gradient of any parameter falls below the floor.
    assert result.psnr > max(32.0, first + 5)
    error = (result.model.render().clamp(0, 1) - photo).square().mean()
    assert abs(-10 * torch.log10(error) - result.psnr) < 0.01


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads() -> None:
    photo, models = crop(48), []
    threads = splat.get_num_threads()
    for n in (1, 3):
        splat.set_num_threads(n)
        models.append(fit_image(photo, FitConfig(n=60, preset="draft")).model)
    splat.set_num_threads(threads)
    for name in ("means", "log_scales", "angles", "colors"):
        assert torch.equal(getattr(models[0], name), getattr(models[1], name)), name


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 1), (5, 3, 4), (17, 33, 3)])
def test_any_size_and_channel_count_is_fitted(shape: tuple[int, int, int]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    result = fit_image(image, FitConfig(preset="draft"))
    assert result.model.render().shape == shape
    assert torch.isfinite(result.model.colors).all()


def test_a_constant_picture_is_no_trouble() -> None:
    result = fit_image(np.full((24, 32, 3), 0.4, dtype=np.float32), FitConfig(n=20, preset="draft"))
    assert result.psnr > 30


@pytest.mark.parametrize("target", [30.0, 46.0])
def test_a_target_psnr_is_reached_with_few_or_many_gaussians(target: float) -> None:
    photo = crop(64)
    usual = auto_count(structure_tensor(photo))
    result = fit_image(photo, FitConfig(target_psnr=target, preset="draft"))
    assert result.psnr >= target
    assert (len(result.model) > usual) == (target > 40)
    if target < 40:
        assert result.psnr < target + 3  # no more Gaussians than it takes
    steps = [row["step"] for row in result.history]
    assert steps == sorted(steps)


def test_a_target_psnr_within_a_time_limit_uses_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.perf_counter()]

    def clock() -> float:  # one for which other processes are nothing
        now[0] += 0.0003
        return now[0]

    monkeypatch.setattr(fitter.time, "perf_counter", clock)
    monkeypatch.setattr(fit, "perf_counter", clock)
    left: dict[str, float] = {}

    def first_of_phase(progress: FitProgress) -> None:
        left.setdefault(progress.phase, progress.eta)

    result = fit_image(crop(64), FitConfig(target_psnr=90.0, time=1.0), callback=first_of_phase)
    assert result.psnr > 30
    assert result.history[-1]["seconds"] == pytest.approx(1.0, abs=0.05)
    assert sum(result.seconds.values()) == pytest.approx(1.0, abs=0.05)
    assert 0.5 < left["fit"] < left["pilot"]  # pilots leave most of it to a full run


def test_a_search_returns_the_smallest_model_that_reaches_the_target() -> None:
    photo = crop(64)
    result = fit_image(photo, FitConfig(target_psnr=38.0, preset="draft"))
    assert result.psnr >= 38.0
    again = fit_image(photo, FitConfig(n=max(1, round(0.6 * len(result.model))), preset="draft"))
    assert again.psnr < 38.0


def test_a_stop_during_the_search_keeps_the_best_model() -> None:
    seen: list[float] = []

    def stop(progress: FitProgress) -> None:
        seen.append(progress.psnr)
        if progress.step == 200:  # the end of the first pilot
            raise KeyboardInterrupt

    result = fit_image(crop(64), FitConfig(target_psnr=60.0), callback=stop)
    assert result.interrupted and result.psnr >= max(seen) - 0.05  # states are kept every 25 steps


def test_a_fit_in_another_thread_is_not_stopped() -> None:
    results: list[bool] = []

    def other() -> None:
        results.append(fit_image(crop(48), FitConfig(n=80, preset="draft")).interrupted)

    def stop(progress: FitProgress) -> None:
        if progress.step == 1:
            thread.start()
        if progress.step == 5:
            raise KeyboardInterrupt

    thread = threading.Thread(target=other)
    assert fit_image(crop(48), FitConfig(n=80, preset="draft"), callback=stop).interrupted
    thread.join()
    assert results == [False]


def test_a_draft_runs_all_its_steps() -> None:
    result = fit_image(crop(64), FitConfig(n=150, preset="draft"))
    assert result.history[-1]["step"] == 200
    assert result.history[-1]["psnr"] == pytest.approx(result.psnr, abs=1e-6)


def test_a_fit_that_stops_rising_ends_early() -> None:
    noise = torch.rand(40, 32, 3, generator=torch.Generator().manual_seed(0))  # nothing to win for 20 Gaussians
    result = fit_image(noise, FitConfig(n=20, preset="best"))
    assert result.history[-1]["step"] < 2900
    assert fit_image(torch.zeros(16, 16, 3), FitConfig(n=4)).psnr == 100.0


def test_ctrl_c_returns_the_model_so_far() -> None:
    def stop(progress: FitProgress) -> None:
        if progress.step == 40:
            raise KeyboardInterrupt

    result = fit_image(crop(48), FitConfig(n=80, preset="draft"), callback=stop)
    assert result.interrupted
    assert result.history[-1]["step"] == 40
    assert result.psnr == max(row["psnr"] for row in result.history) > 20
    assert isinstance(result.model, ImageGaussians)


def test_a_time_limit_ends_the_fit() -> None:
    result = fit_image(crop(48), FitConfig(n=80, time=0.5))
    assert 0.4 < result.history[-1]["seconds"] < 5


def test_positions_follow_the_density() -> None:
    probability = torch.zeros(40, 60)
    probability[10:20, 30:50] = 1.0
    positions = sample_positions(probability, 500, torch.Generator().manual_seed(0))
    assert ((positions[:, 0] >= 30) & (positions[:, 0] <= 50)).all()
    assert ((positions[:, 1] >= 10) & (positions[:, 1] <= 20)).all()
    left = (positions[:, 0] < 40).sum()
    assert 230 < left < 270  # stratified: far closer to 250 than independent draws


def test_new_gaussians_lie_along_the_edge() -> None:
    image = torch.zeros(64, 64, 3)
    for y in range(64):
        image[y, : max(0, min(64, int(16 + 0.5 * y)))] = 1.0  # an edge with direction (0.5, 1)
    shapes = initial_shapes(structure_tensor(image), 200, torch.Generator().manual_seed(0), 0.9)
    on_edge = (shapes.means[:, 0] - 16 - 0.5 * shapes.means[:, 1]).abs() < 1.5
    on_edge &= ((shapes.means > 6) & (shapes.means < 58)).all(-1)
    assert on_edge.sum() > 20
    wanted = torch.atan2(torch.tensor(1.0), torch.tensor(0.5))
    difference = torch.remainder(shapes.angles[on_edge] - wanted + torch.pi / 2, torch.pi) - torch.pi / 2
    assert difference.abs().median() < 0.15
    assert (shapes.log_scales[on_edge, 0] > shapes.log_scales[on_edge, 1] + 0.3).float().mean() > 0.9


def test_the_removal_cost_is_the_rise_of_the_squared_error() -> None:
    photo = crop(64)
    objective = Objective.of(photo)
    fit = Fit(objective, RGB, structure_tensor(photo), Plan(1200))
    p = fit.optimizer.params
    system = objective.color_system(p)
    step = system.step(p["colors"], objective.target_tiles)
    cost = removal_cost(objective, p, step)
    inside = ((p["means"] > 14) & (p["means"] < 50)).all(-1) & (p["log_scales"].exp() < 4).all(-1)
    index = int(inside.nonzero()[0])
    without = p["colors"].clone()
    without[index] = 0
    rise = system.step(without, objective.target_tiles).squared_error - step.squared_error
    assert float(cost[index]) == pytest.approx(rise, rel=0.05, abs=1e-3)


def test_births_land_on_the_largest_residuals_and_explain_them() -> None:
    residual = torch.zeros(40, 50, 3)
    residual[11:14, 32:35] = 1.0
    residual[29:32, 7:10] = -0.7
    structure = structure_tensor(torch.zeros(40, 50, 3))
    objective = Objective.of(residual)
    nothing = {name: torch.zeros(0, *shape) for name, shape in SHAPES.items()}
    step, _ = objective.step(nothing)
    born = best_births(objective, nothing, step, 2, 1.0, structure, torch.Generator().manual_seed(0))
    assert (born.shapes.means[0] - torch.tensor([33.5, 12.5])).abs().max() < SPACING
    assert (born.shapes.means[1] - torch.tensor([8.5, 30.5])).abs().max() < SPACING
    assert (born.colors[0] > 0).all() and (born.colors[1] < 0).all()
    system = ColorSystem(objective.canvas, born.shapes.means, born.shapes.log_scales, born.shapes.angles)
    left = system.step(born.colors, to_tiles(residual)).squared_error
    taken = float((born.colors.square() * system.energy).sum())
    # Not exact: energies are integrals, the squares are pixels.
    assert float(residual.square().sum()) - left == pytest.approx(taken, rel=0.2) and taken > 10


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"n": 2.5},
        {"time": -1.0},
        {"time": float("inf")},
        {"target_psnr": 0.0},
        {"target_psnr": 30.0, "n": 5},
        {"preset": "slow"},
    ],
)
def test_bad_configurations_name_the_field(fields: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(fields))):
        FitConfig(**fields)  # type: ignore[arg-type]


def test_steps_of_the_means_turn_and_scale_with_the_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    names = ("means", "log_scales", "angles", "colors")
    params = dict(
        zip(names, (torch.randn(shape, generator=g) for shape in ((9, 2), (9, 2), (9,), (9, 3))), strict=True)
    )
    factor, turn = 3.0, torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    angle = torch.atan2(turn[1, 0], turn[0, 0])
    zoomed = {name: p.clone() for name, p in params.items()}
    zoomed["means"], zoomed["angles"] = factor * params["means"] @ turn.T, params["angles"] + angle
    zoomed["log_scales"] = params["log_scales"] + torch.tensor(factor).log()
    plain, other = ShapeOptimizer(params, LearningRates()), ShapeOptimizer(zoomed, LearningRates())
    for _ in range(3):
        v_means, v_colors = torch.randn(9, 2, generator=g), torch.randn(9, 3, generator=g)
        rest = {"log_scales": torch.zeros(9, 2), "angles": torch.zeros(9), "colors": v_colors}
        plain.step({"means": v_means, **rest}, 1.0)
        other.step({"means": v_means @ turn.T / factor, **rest}, 1.0)
    torch.testing.assert_close(other.params["means"], factor * plain.params["means"] @ turn.T)


def test_more_gaussians_land_where_the_importance_is_bright_and_the_psnr_there_rises() -> None:
    photo, bright = crop(), torch.zeros(96, 96)
    bright[24:72, 48:80] = 1.0

    def measured(importance: torch.Tensor | None) -> tuple[int, float, float]:
        model = fit_image(photo, FitConfig(n=250, preset="draft"), importance=importance).model
        x, y = model.means.long().clamp(0, 95).unbind(1)
        error = (model.render().clamp(0, 1) - photo).square().mean(2)
        inside, outside = (float(-10 * error[where].mean().log10()) for where in (bright > 0, bright == 0))
        return int((bright[y, x] > 0).sum()), inside, outside

    plain, asked, even = measured(None), measured(bright), measured(torch.full((96, 96), 0.3))
    assert asked[0] > 1.5 * plain[0]
    assert asked[1] > plain[1] + 0.5  # measured + 1.2 dB
    assert plain[2] - 3 < asked[2] < plain[2]  # the rest is not left bare
    assert even == pytest.approx(plain, rel=0.02)  # an even map asks for nothing


def test_an_importance_of_another_size_or_black_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"importance must have shape \[H, W\] = \[48, 48\], got \[20, 30\]"):
        fit_image(crop(48), importance=torch.ones(20, 30))
    with pytest.raises(ValueError, match="not all 0"):
        fit_image(crop(48), importance=torch.zeros(48, 48))


def test_the_alpha_of_a_grey_map_is_not_taken_for_brightness() -> None:
    black = torch.tensor([0.0, 1.0]).expand(4, 4, 2)  # opaque
    assert read_grey(black, torch.zeros(4, 4, 3), "importance").max() == 0


def test_first_gaussians_follow_the_importance() -> None:
    wanted = torch.ones(96, 96)
    wanted[:, 48:] = 3.0
    structure = structure_tensor(torch.zeros(96, 96, 3))  # no detail: the map alone decides
    important = replace(structure, importance=importance_of(wanted, torch.zeros(96, 96, 3)))
    means = initial_shapes(important, 1000, torch.Generator().manual_seed(0), 0.9).means
    # The map is 1 to 3, by a mean of 2: 0.7 / 2 + 0.3 on the left, 0.7 * 3 / 2 + 0.3 on the right.
    assert float((means[:, 0] > 48).float().mean()) == pytest.approx(1.35 / 2, abs=0.01)


def test_an_exchange_spares_gaussians_where_the_importance_is_bright() -> None:
    photo, bright = crop(), torch.zeros(96, 96)
    bright[:, 48:] = 1.0
    plain = structure_tensor(photo)
    fit = Fit(Objective.of(photo), RGB, plain, Plan(1000, seed=0))
    while fit.step % fit.schedule.exchange_every != fit.schedule.exchange_every - 1:
        fit.advance(0.5)
    fit.solve(30)  # with other colours some Gaussians do harm, and go the sooner the more important their place

    def removed(structure: Structure) -> int:
        """Gaussians on the right that the exchange takes away."""
        again = copy.deepcopy(fit)
        again.structure = structure
        kept: list[torch.Tensor] = []
        again.optimizer.keep = kept.append  # type: ignore[method-assign]
        again.advance(0.5)
        on_the_right = again.optimizer.params["means"][: len(fit), 0] > 48
        return int(on_the_right.sum() - on_the_right[kept[0]].sum())

    assert removed(replace(plain, importance=importance_of(bright, photo))) < removed(plain)
