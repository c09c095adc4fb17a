"""What a fit minimises: weights, compositor and dilation, through gradients, the colour solve, births and removals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splat.core.rasterize import RasterizeOptions
from splat.core.rasterize_l2 import from_tiles, to_tiles
from splat.image.canvas import Canvas, OrderFree
from splat.image.draw import rasterize_image
from splat.image.fit import FitConfig, fit_image
from splat.image.grow import best_births, removal_cost
from splat.image.init import structure_tensor
from splat.image.objective import Objective
from splat.image.picture import read_picture
from splat.image.solve import ColorSystem, solve_colors

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"
WIDTH, HEIGHT = 37, 23
Params = dict[str, torch.Tensor]


def random_params(count: int = 60) -> Params:
    g = torch.Generator().manual_seed(1)
    return {
        "means": torch.rand(count, 2, generator=g) * torch.tensor([WIDTH, HEIGHT]),
        "log_scales": torch.rand(count, 2, generator=g) * 0.9 + 0.3,
        "angles": 6 * torch.rand(count, generator=g),
        "colors": torch.rand(count, 3, generator=g),
    }


def make_objective(
    blend: OrderFree = "sum",
    weighted: int = 0,
    dilation: float = 0.0,
    target: torch.Tensor | None = None,
    topk: int = 4,
) -> Objective:
    g = torch.Generator().manual_seed(2)
    target = torch.rand(HEIGHT, WIDTH, 3, generator=g) if target is None else target
    weights = (2 * torch.rand(HEIGHT, WIDTH, weighted, generator=g) - 0.5).clamp_min(0) if weighted else None
    return Objective.of(target, weights, options=RasterizeOptions(blend=blend, topk=topk), dilation=dilation)


def drawn(objective: Objective, params: Params) -> torch.Tensor:
    """By the public call."""
    canvas = objective.canvas
    shapes = (params["log_scales"], params["angles"])
    size = (canvas.width, canvas.height)
    how = {"blend": canvas.options, "dilation": canvas.dilation}
    return rasterize_image(params["means"], shapes, params["colors"], size, **how)[0]  # type: ignore[arg-type]


def error_of(objective: Objective, params: Params) -> torch.Tensor:
    squared = (drawn(objective, params) - objective.target).square()
    return (from_tiles(objective.weights_or_ones, WIDTH, HEIGHT) * squared).sum()


def dense(system: ColorSystem, count: int) -> torch.Tensor:
    """[pixels, N] the matrix A, column by column."""
    nothing = torch.zeros(len(system.tiles.offsets) - 1, 1, 256)
    columns = [
        -from_tiles(
            replace_weights(system).step(row[:, None], nothing).residual, system.canvas.width, system.canvas.height
        ).flatten()
        for row in torch.eye(count)
    ]
    return torch.stack(columns, 1)


def replace_weights(system: ColorSystem) -> ColorSystem:
    """The system with all pixels alike."""
    other = ColorSystem.__new__(ColorSystem)
    other.__dict__.update(system.__dict__ | {"weight_tiles": None})
    return other


CASES = [("sum", 0, 0.0), ("sum", 1, 0.2), ("sum", 3, 0.0), ("topk", 0, 0.0), ("topk", 1, 0.2), ("topk", 3, 0.0)]


@pytest.mark.parametrize(("blend", "weighted", "dilation"), CASES)
def test_the_step_is_the_gradient_of_what_is_drawn(blend: OrderFree, weighted: int, dilation: float) -> None:
    objective, params = make_objective(blend, weighted, dilation), random_params()
    leaves = {name: p.clone().requires_grad_(True) for name, p in params.items()}
    loss = 0.5 * error_of(objective, leaves)
    wanted = torch.autograd.grad(loss, list(leaves.values()))
    step, grads = objective.step(params)
    assert 0.5 * step.squared_error == pytest.approx(float(loss.detach()), rel=1e-5)
    assert list(grads) == list(params)
    for (name, got), want in zip(grads.items(), wanted, strict=True):
        assert (got - want).norm() <= 2e-5 * want.norm(), name
    known = from_tiles(objective.weights_or_ones.expand_as(objective.target_tiles), WIDTH, HEIGHT) > 0
    image = from_tiles(objective.image(step), WIDTH, HEIGHT)
    torch.testing.assert_close(image[known], drawn(objective, params)[known], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("blend", "weighted", "dilation"), CASES)
def test_the_system_is_its_matrix(blend: OrderFree, weighted: int, dilation: float) -> None:
    objective, params = make_objective(blend, weighted, dilation), random_params(25)
    system = objective.color_system(params)
    matrix = dense(system, 25)
    field = torch.rand(HEIGHT, WIDTH, 2, generator=torch.Generator().manual_seed(4))
    flat = field.view(-1, 2)
    torch.testing.assert_close(system.gather(to_tiles(field)), matrix.T @ flat, rtol=1e-4, atol=1e-4)
    weights = from_tiles(objective.weights_or_ones, WIDTH, HEIGHT).reshape(WIDTH * HEIGHT, -1)
    energy, wanted = system.energy, matrix.square().T @ weights
    inside = ((params["means"] > 8) & (params["means"] < torch.tensor([WIDTH - 8, HEIGHT - 8]))).all(-1)
    assert inside.sum() > 3
    # Sums over pixels for integrals; and of topk more than the four largest.
    torch.testing.assert_close(energy[inside], wanted[inside], rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("blend", "weighted", "dilation"), CASES)
def test_the_solve_is_least_squares(blend: OrderFree, weighted: int, dilation: float) -> None:
    objective, params = make_objective(blend, weighted, dilation), random_params(25)
    system = objective.color_system(params)
    solved = solve_colors(system, objective.target_tiles, torch.zeros(25, 3), iterations=300, ridge=0.0)
    matrix = dense(system, 25).double()
    weights = from_tiles(objective.weights_or_ones, WIDTH, HEIGHT).reshape(WIDTH * HEIGHT, -1).double()
    target = objective.target.reshape(-1, 3).double()
    for d in range(3):
        root = weights[:, min(d, weights.shape[1] - 1), None].sqrt()
        wanted = torch.linalg.lstsq(root * matrix, root * target[:, d, None]).solution[:, 0]
        torch.testing.assert_close(solved[:, d].double(), wanted, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("blend", "weighted", "agreement"), [("sum", 0, 0.98), ("sum", 3, 0.999), ("topk", 0, 0.85), ("topk", 1, 0.85)]
)
def test_the_removal_cost_orders_gaussians_by_the_rise_of_the_error(
    blend: OrderFree, weighted: int, agreement: float
) -> None:
    target = read_picture(PHOTO).pixels[200 : 200 + HEIGHT, 300 : 300 + WIDTH].clone()
    objective, params = make_objective(blend, weighted, target=target), random_params(80)
    system = objective.color_system(params)
    params["colors"] = solve_colors(system, objective.target_tiles, params["colors"], 30)
    step, _ = objective.step(params)
    cost = removal_cost(objective, params, step)
    rises = []
    for n in range(80):
        without = {name: torch.cat([p[:n], p[n + 1 :]]) for name, p in params.items()}
        rises.append(objective.step(without)[0].squared_error - step.squared_error)
    ranks = [values.argsort().argsort().double() for values in (cost, torch.tensor(rises))]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > agreement


@pytest.mark.parametrize("blend", ["sum", "topk"])
@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_births_have_about_the_best_colour(blend: OrderFree, contrast: float) -> None:
    params = random_params(90) | {"colors": torch.full((90, 3), 0.5)}
    target = drawn(make_objective(blend, topk=10), params)
    target[8:13, 20:25] += contrast * torch.tensor([0.5, -0.3, 0.1])
    objective = make_objective(blend, target=target, topk=10)
    step, _ = objective.step(params)
    g = torch.Generator().manual_seed(0)
    born = best_births(objective, params, step, 1, 1.5, structure_tensor(target), g)
    assert (born.shapes.means[0] - torch.tensor([22.5, 10.5])).abs().max() < 3.5
    new = {"means": born.shapes.means, "log_scales": born.shapes.log_scales, "angles": born.shapes.angles}
    new["colors"] = born.colors
    more = {name: torch.cat([p, new[name]]) for name, p in params.items()}
    after, grads = objective.step(more)
    # The error is a parabola in each channel of the colour, with curvature 2 energy.
    energy = objective.color_system(more).energy[-1]
    least = after.squared_error - float((grads["colors"][-1].square() / energy).sum())
    assert step.squared_error - after.squared_error > 0.85 * (step.squared_error - least) > 0


def test_no_births_where_nothing_counts() -> None:
    weights = torch.ones(HEIGHT, WIDTH)
    weights[:, 15:] = 0
    objective = Objective.of(torch.rand(HEIGHT, WIDTH, 3), weights)
    params = {name: p[:0] for name, p in random_params().items()}
    step, _ = objective.step(params)
    structure = structure_tensor(objective.target)
    born = best_births(objective, params, step, 12, 1.0, structure, torch.Generator().manual_seed(0))
    assert len(born.colors) == 12 and born.shapes.means[:, 0].max() < 18


@pytest.mark.parametrize("blend", ["sum", "topk"])
def test_a_fit_goes_where_the_weights_are(blend: OrderFree) -> None:
    photo = read_picture(PHOTO.with_name("kodim05.png")).pixels[200:240, 300:340].clone()
    weights = torch.full((40, 40), 0.02)
    weights[:, 20:] = 1.0
    config = FitConfig(n=40, preset="draft", blend=blend)
    errors = [
        (fit_image(photo, config, w).model.render().clamp(0, 1) - photo).square().mean((0, 2)) for w in (None, weights)
    ]
    assert errors[1][21:].mean() < 0.7 * errors[0][21:].mean()
    assert errors[1][:19].mean() > errors[0][:19].mean()


@pytest.mark.parametrize("how", [{"dilation": 1 / 12}, {"blend": "topk", "dilation": 1 / 12}])
def test_a_fit_reports_the_psnr_of_its_models_render(how: dict[str, object]) -> None:
    photo = read_picture(PHOTO).pixels[200:240, 300:340].clone()
    plain = fit_image(photo, FitConfig(n=80, preset="draft"))
    result = fit_image(photo, FitConfig(n=80, preset="draft", **how))  # type: ignore[arg-type]
    for name, value in how.items():
        assert getattr(result.model, name) == value
    error = (result.model.render().clamp(0, 1) - photo).square().mean()
    assert abs(-10 * torch.log10(error) - result.psnr) < 0.01
    assert result.psnr > plain.psnr - 1.0


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (torch.ones(3, 4), r"weights must have shape \[H, W, 1\]"),
        (torch.full((HEIGHT, WIDTH), -1.0), "weights must be finite, at least 0 and not all 0"),
        (torch.full((HEIGHT, WIDTH), torch.nan), "weights must be finite"),
        (torch.zeros(HEIGHT, WIDTH), "not all 0"),
        (torch.ones(HEIGHT, WIDTH, 2), r"weights must have shape \[H, W, D\]"),
    ],
)
def test_bad_weights_are_named(weights: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Objective.of(torch.rand(HEIGHT, WIDTH, 3), weights)


@pytest.mark.parametrize("fields", [{"blend": "alpha"}, {"topk": 0}, {"dilation": -1.0}])
def test_bad_configurations_name_the_field(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        FitConfig(**fields)  # type: ignore[arg-type]


def test_only_the_ratios_of_weights_matter() -> None:
    weights = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    target = torch.rand(HEIGHT, WIDTH, 3)
    a, b = (Objective.of(target, factor * weights) for factor in (1.0, 64.0))
    assert torch.equal(a.weight_tiles, b.weight_tiles)  # type: ignore[arg-type]
    assert replace(a, canvas=Canvas(WIDTH, HEIGHT)).values == WIDTH * HEIGHT * 3
