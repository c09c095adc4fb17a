"""ImageGaussians, rasterize_image and the colour solve."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from splat.core.project_image import project_image
from splat.core.rasterize import RasterizeOptions
from splat.core.rasterize_l2 import from_tiles, to_tiles
from splat.image import init
from splat.image.canvas import Canvas
from splat.image.draw import rasterize_image
from splat.image.model import ImageGaussians
from splat.image.solve import ColorSystem, solve_colors


def make_model(count: int = 40, width: int = 37, height: int = 23, seed: int = 0) -> ImageGaussians:
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    return ImageGaussians(
        means=torch.rand(count, 2, generator=g) * size,
        log_scales=torch.rand(count, 2, generator=g) * 1.2 + 0.2,
        angles=torch.rand(count, generator=g) * 6.3,
        colors=torch.rand(count, 3, generator=g) - 0.3,
        width=width,
        height=height,
    )


def covariances_of(model: ImageGaussians) -> torch.Tensor:
    cos, sin = model.angles.cos(), model.angles.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return rotation @ torch.diag_embed((2 * model.log_scales).exp()) @ rotation.mT


def test_axes_and_covariances_draw_the_same_picture() -> None:
    model = make_model()
    by_axes, _ = rasterize_image(model.means, (model.log_scales, model.angles), model.colors, (37, 23))
    by_covariance, _ = rasterize_image(model.means, covariances_of(model), model.colors, (37, 23))
    torch.testing.assert_close(by_axes, by_covariance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"dilation": 0.5}, {"blend": "topk", "topk": 3, "dilation": 0.1}])
def test_query_at_the_pixel_centres_is_the_render(how: dict[str, Any]) -> None:
    model = replace(make_model(), **how)
    y, x = torch.meshgrid(torch.arange(23) + 0.5, torch.arange(37) + 0.5, indexing="ij")
    values = model.query(torch.stack([x, y], -1).reshape(-1, 2)).reshape(23, 37, 3)
    # A weight within rounding of the cut-off 1/255 may fall on either side of it.
    assert (values - model.render()).abs().median() < 1e-6
    if model.blend == "sum":
        torch.testing.assert_close(values, model.render(), rtol=0, atol=1 / 255)


def test_the_blend_and_the_dilation_change_the_picture() -> None:
    model = make_model()
    plain, topk = model.render(), replace(model, blend="topk", topk=3)
    assert (replace(model, dilation=0.5).render() - plain).abs().max() > 0.05
    coverage = rasterize_image(model.means, (model.log_scales, model.angles), model.colors, (37, 23))[1]
    inside = coverage > 1
    # Normalised: no pixel leaves the range of the colours.
    assert topk.render()[inside].max() <= model.colors.max() and plain[inside].max() > model.colors.max()


def test_a_dilation_is_of_the_drawn_pixels() -> None:
    """At four times the size the small pixels are integrated over, and their means are the large ones."""
    model = replace(make_model(), dilation=1 / 12)
    large = F.avg_pool2d(model.render(scale=4.0).permute(2, 0, 1), 4).permute(1, 2, 0)
    off = [(replace(model, dilation=d).render() - large).norm() for d in (1 / 12, 0.0)]
    assert off[0] < 0.2 * off[1]


def test_a_crop_is_part_of_the_whole_and_scale_samples_between() -> None:
    model = make_model()
    whole = model.render()
    torch.testing.assert_close(model.render(crop=(5, 4, 12, 9)), whole[4:13, 5:17], rtol=1e-4, atol=1e-5)
    # At three times the size the middle pixel of each 3x3 lies on the original pixel's centre.
    torch.testing.assert_close(model.render(scale=3.0)[1::3, 1::3], whole, rtol=1e-4, atol=1e-5)
    assert model.render(height=46).shape == (46, 74, 3)
    stretched = model.render(width=111, height=23)
    torch.testing.assert_close(stretched[:, 1::3], whole, rtol=1e-3, atol=1e-4)


def test_a_crop_may_be_magnified_beyond_the_largest_whole_picture() -> None:
    model = make_model(40, 400, 23)
    model = replace(model, means=model.means * torch.tensor([0.1, 1.0]))
    near = model.render(crop=(12.0, 9.0, 0.01, 0.01), scale=4000.0)  # all 400 pixels would be 1.6 million
    assert near.shape == (40, 40, 3)
    at = torch.tensor([[12 + 20.5 / 4000, 9 + 20.5 / 4000]])
    assert model.query(at).abs().max() > 0.1
    torch.testing.assert_close(near[20, 20], model.query(at)[0], rtol=0, atol=1e-3)


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    model = replace(make_model(), blend="topk", topk=7, dilation=1 / 12)
    model.save(tmp_path / "m.safetensors")
    again = ImageGaussians.load(tmp_path / "m.safetensors")
    for name in ("means", "log_scales", "angles", "colors"):
        assert torch.equal(getattr(model, name), getattr(again, name))
    assert (again.width, again.height, again.layout) == (37, 23, model.layout)
    assert (again.blend, again.topk, again.dilation) == ("topk", 7, 1 / 12)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("field", "value"), [("blend", "alpha"), ("topk", 0), ("dilation", -1.0), ("dilation", math.nan)]
)
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        replace(make_model(), **{field: value})


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_bad_model_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    if damage == "cut":
        make_model().save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"m\.safetensors: ") as error:
        ImageGaussians.load(path)
    assert "\n" not in str(error.value)


def test_the_solve_recovers_the_colours_that_made_a_picture() -> None:
    model = make_model(count=25)
    system = ColorSystem(Canvas(37, 23), model.means, model.log_scales, model.angles)
    solved = solve_colors(system, to_tiles(model.render()), torch.zeros(25, 3), iterations=200, ridge=0.0)
    torch.testing.assert_close(solved, model.colors, rtol=0, atol=2e-3)


def test_render_and_gather_are_adjoint() -> None:
    model = make_model()
    system = ColorSystem(Canvas(37, 23), model.means, model.log_scales, model.angles)
    g = torch.Generator().manual_seed(3)
    c, r = torch.randn(40, 3, generator=g), torch.randn(23, 37, 3, generator=g)
    render = -from_tiles(system.step(c, torch.zeros_like(to_tiles(r))).residual, 37, 23)
    gathered = -system.step(torch.zeros_like(c), to_tiles(r)).v_colors[0]
    torch.testing.assert_close((render * r).sum(), (c * gathered).sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("blend", ["sum", "topk", "alpha"])
@pytest.mark.parametrize(("by", "dilation"), [("axes", 0.0), ("axes", 0.4), ("covariance", 0.0)])
def test_gradients_agree_with_the_reference(blend: str, by: str, dilation: float) -> None:
    model = make_model(count=12, width=20, height=18)
    gradients = {}
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        leaf = {
            "means": model.means.to(dtype),
            "colors": model.colors.to(dtype),
            "opacities": torch.linspace(0.3, 0.9, 12, dtype=dtype),
        }
        if by == "axes":
            leaf |= {"log_scales": model.log_scales.to(dtype), "angles": model.angles.to(dtype)}
        else:
            leaf["covariances"] = covariances_of(model).to(dtype)
        leaf = {k: v.clone().requires_grad_(True) for k, v in leaf.items()}
        how = RasterizeOptions(blend=blend, topk=4, cutoff=1e-6)  # type: ignore[arg-type]  # low: no pixel near the cut
        shapes = (leaf["log_scales"], leaf["angles"]) if by == "axes" else leaf["covariances"]
        image, alphas = rasterize_image(
            leaf["means"],
            shapes,
            leaf["colors"],
            (20, 18),
            blend=how,
            opacities=leaf["opacities"],
            dilation=dilation,
            backend=backend,  # type: ignore[arg-type]
        )
        weights = torch.sin(torch.arange(image.numel(), dtype=torch.float64)).to(dtype).view_as(image)
        ((image * weights).sum() + (alphas * weights[..., 0]).sum()).backward()
        gradients[backend] = {k: v.grad.double() for k, v in leaf.items() if v.grad is not None}
        assert gradients[backend].keys() == leaf.keys()
    for name, wanted in gradients["reference"].items():
        got = gradients["cpu"][name]
        assert (got - wanted).norm() <= 2e-4 * wanted.norm() + 1e-6, name


def test_a_dilated_gaussian_is_the_blurred_one() -> None:
    """Sigma + dilation I and the peak: the convolution of two Gaussians, sampled at the pixels."""
    means, log_scales, angles = torch.tensor([[20.3, 17.8]]), torch.tensor([[2.0, 1.2]]), torch.tensor([0.7])
    size, how = (41, 37), RasterizeOptions(blend="sum", cutoff=1e-6)
    drawn = [
        rasterize_image(means, (log_scales, angles), torch.ones(1, 1), size, blend=how, dilation=d)[0][..., 0]
        for d in (0.0, 2.25)
    ]
    blurred = init._blurred(drawn[0][None], 0, drawn[0].shape[0], 1.5)[0]
    torch.testing.assert_close(drawn[1], blurred, rtol=0, atol=2e-3)
    assert (drawn[1] - drawn[0]).abs().max() > 0.1


def test_a_pixels_square_is_what_a_small_gaussian_is_averaged_over() -> None:
    means, log_scales, angles = torch.tensor([[20.6, 17.7]]), torch.tensor([[0.3, -0.7]]), torch.tensor([0.4])
    fine, _ = rasterize_image(means * 8, (log_scales + math.log(8), angles), torch.ones(1, 1), (320, 320))
    wanted = F.avg_pool2d(fine[..., 0][None], 8)[0]
    off = [
        rasterize_image(means, (log_scales, angles), torch.ones(1, 1), (40, 40), dilation=d)[0][..., 0] - wanted
        for d in (0.0, 1 / 12)
    ]
    assert off[1].norm() < 0.25 * off[0].norm()


def test_the_sum_over_the_picture_does_not_depend_on_the_dilation() -> None:
    model = make_model()
    how = {"width": 37, "height": 23}
    # Widths of a tenth of a pixel and up: none so small that the compensation is at its floor.
    for log_scales in (model.log_scales, model.log_scales - 2.5):
        mass = []
        for dilation in (0.0, 1 / 12, 0.5):
            splats = project_image(model.means, log_scales, model.angles, dilation=dilation, **how)
            a, b, c = splats.conics[0].double().unbind(-1)
            mass.append(splats.opacities[0].double() / (a * c - b * b).sqrt())
        torch.testing.assert_close(mass[1], mass[0], rtol=1e-3, atol=0)
        torch.testing.assert_close(mass[2], mass[0], rtol=1e-3, atol=0)


def test_tiny_and_huge_gaussians_stay_finite_under_a_dilation() -> None:
    log_scales = torch.tensor([[-40.0, -40.0], [-40.0, 3.0], [-3.0, -40.0], [30.0, 30.0], [8.0, -5.0], [45.0, 0.0]])
    leaves = [torch.full((6, 2), 10.3), log_scales.requires_grad_(True), torch.full((6,), 0.3, requires_grad=True)]
    leaves[0].requires_grad_(True)
    image, _ = rasterize_image(leaves[0], (leaves[1], leaves[2]), torch.ones(6, 3), (20, 20), dilation=1 / 12)
    assert torch.isfinite(image).all() and float(image.detach().max()) > 0
    image.square().sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)  # type: ignore[arg-type]


@pytest.mark.parametrize("dilation", [0.0, 0.3])
def test_the_front_end_passes_gradcheck(dilation: float) -> None:
    model = make_model(count=7)
    means, shapes = model.means.double(), [model.log_scales.double() - 0.7, model.angles.double()]
    leaves = [t.requires_grad_(True) for t in (*shapes, torch.linspace(0.2, 1, 7, dtype=torch.float64))]

    def front(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        splats = project_image(means, *leaves, width=37, height=23, dilation=dilation)
        return splats.conics, splats.opacities

    assert torch.autograd.gradcheck(front, leaves)


@pytest.mark.parametrize("dilation", [-0.1, float("nan"), float("inf")])
def test_a_bad_dilation_is_named(dilation: float) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="dilation must be at least 0 and finite"):
        project_image(model.means, model.log_scales, model.angles, width=9, height=9, dilation=dilation)
    with pytest.raises(ValueError, match="dilation needs"):
        rasterize_image(model.means, covariances_of(model), model.colors, (9, 9), dilation=0.1)


def test_the_ops_of_the_fit_follow_torchs_rules() -> None:
    model = make_model(count=6)
    leaves = [model.means, model.log_scales.requires_grad_(True), model.angles.requires_grad_(True), torch.ones(6)]
    torch.library.opcheck(torch.ops.splat.project_image.default, (*leaves, 37, 23, 1 / 255, 0.1))
    state = [torch.rand(6, 2) for _ in range(4)]
    steps = torch.ones(6, dtype=torch.int32)
    torch.library.opcheck(torch.ops.splat.adam.default, (*state, steps, 0.1, 0.9, 0.99, 1e-15))


def test_a_faint_gaussian_that_is_alone_colours_its_pixels_with_blend_topk() -> None:
    one = torch.tensor([[8.5, 8.5]])
    model = ImageGaussians(one, torch.full((1, 2), 0.5).log(), torch.zeros(1), torch.ones(1, 3), 17, 17, blend="topk")
    weight = math.exp(-(2.0**2) / (2 * 0.5**2))  # two pixels away: a tenth of 1/255
    expected = torch.full((3,), weight / (weight + 1e-4))
    torch.testing.assert_close(model.render()[8, 10], expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(model.query(one + torch.tensor([2.0, 0.0]))[0], expected, rtol=1e-3, atol=0)
    assert (model.render()[8, 14] == 0).all()
