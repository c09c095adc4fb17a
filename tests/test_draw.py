"""rasterize_image: its forms, what it refuses, and broken Gaussians."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from splat import ListRoom, RasterizeOptions, rasterize_image
from tests.scenes import brute_force, splats2d

SIZE = (24, 15)


def arguments(count: int = 20) -> dict[str, Tensor]:
    """Isotropic Gaussians, given in both forms."""
    s, colors = splats2d(count, *SIZE, largest=3.0)
    log_scales = torch.linspace(0, 1, count)[:, None].expand(-1, 2)
    return {
        "means": s.means2d[0],
        "colors": colors[0],
        "opacities": s.opacities[0],
        "covariances": torch.diag_embed((2 * log_scales).exp()),
        "log_scales": log_scales,
        "angles": torch.zeros(count),
    }


def draw(a: dict[str, Tensor], form: str, **options: Any) -> tuple[Tensor, Tensor]:
    shapes = a["covariances"] if form == "covariances" else (a["log_scales"], a["angles"])
    return rasterize_image(a["means"], shapes, a["colors"], SIZE, opacities=a["opacities"], **options)


@pytest.mark.parametrize("blend", ["sum", "alpha", "topk"])
def test_blend_names_the_compositor_and_size_is_width_and_height(blend: Any) -> None:
    a, background = arguments(), torch.tensor([0.1, 0.2, 0.3])
    inverse = torch.exp(-2 * a["log_scales"])
    s, _ = splats2d(20, *SIZE)
    conics = torch.stack([inverse[:, 0], torch.zeros(20), inverse[:, 1]], -1)[None]
    depths = torch.linspace(1, 2, 20).flip(0)
    s = replace(s, means2d=a["means"][None], conics=conics, opacities=a["opacities"][None], depths=depths[None])
    want, _ = brute_force(s, a["colors"][None], *SIZE, blend=blend, background=background)
    for form in ("covariances", "axes"):
        image, alphas = draw(a, form, blend=blend, depths=depths, background=background)
        assert image.shape == (15, 24, 3) and alphas.shape == (15, 24)
        assert (image.double() - torch.from_numpy(want)).abs().median() < 1e-6
        same, _ = draw(a, form, blend=RasterizeOptions(blend=blend), depths=depths, background=background)
        assert torch.equal(image, same)
    # With equal depths (the default) the order is the index.
    first, _ = draw(a, "axes", blend=blend)
    again, _ = draw(a, "axes", blend=blend, depths=torch.arange(20.0))
    assert torch.equal(first, again)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["means", "colors", "opacities", "covariances", "log_scales", "angles"])
def test_broken_gaussians_are_left_out_with_gradients_of_zero(name: str, value: float, backend: Any) -> None:
    a = arguments()
    form = "covariances" if name == "covariances" else "axes"
    rest = {k: torch.cat([v[:3], v[4:]]) for k, v in a.items()}
    a[name] = a[name].clone()
    a[name][3] = value
    a = {k: v.clone().requires_grad_(True) for k, v in a.items()}
    for blend in ("sum", "alpha", "topk"):
        image, _ = draw(a, form, blend=blend, backend=backend)
        torch.testing.assert_close(image, draw(rest, form, blend=blend, backend=backend)[0], rtol=1e-5, atol=1e-6)
        image.square().sum().backward()
    for v in a.values():
        assert v.grad is None or (torch.isfinite(v.grad).all() and (v.grad[3] == 0).all())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_gaussians_leave_the_background_and_gradients_of_zero(backend: Any) -> None:
    for form in ("covariances", "axes"):
        a = {k: v.requires_grad_(True) for k, v in arguments(0).items()}
        background = torch.rand(3, requires_grad=True)
        image, alphas = draw(a, form, background=background, backend=backend)
        assert torch.equal(image, background.expand(15, 24, 3))
        alphas.sum().backward()  # needs a graph, although nothing was drawn


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"colors": torch.zeros(3, 3)}, ValueError, r"colors must have shape \[N, D\] = \[20, D\], got \[3, 3\]"),
        ({"colors": torch.zeros(20, 0)}, ValueError, "colors must have at least one channel"),
        ({"colors": np.zeros((20, 3))}, TypeError, r"colors must be a torch\.Tensor, got ndarray"),
        ({"colors": torch.zeros(20, 3).half()}, ValueError, r"colors must be float32 or float64, got torch\.float16"),
        ({"colors": torch.zeros(20, 3).long()}, ValueError, r"colors must be float32 or float64, got torch\.int64"),
        (
            {"means": torch.zeros(20, 2).double()},
            ValueError,
            r"shapes must have the dtype of means, torch\.float64, got",
        ),
        (
            {"shapes": torch.zeros(20, 2)},
            ValueError,
            r"shapes must have shape \[N, 2, 2\] = \[20, 2, 2\], got \[20, 2\]",
        ),
        ({"shapes": (torch.zeros(20, 2),)}, ValueError, r"the pair \(log_scales, angles\), got 1 values"),
        ({"shapes": (torch.zeros(20, 2), torch.zeros(3))}, ValueError, r"angles must have shape \[N\] = \[20\], got"),
        ({"size": (0, 23)}, ValueError, "width and height must be at least 1 pixel, got 0 x 23"),
        ({"size": (24.0, 23)}, TypeError, r"width must be an int, got float 24\.0"),
        ({"size": 24}, TypeError, r"size must be \(width, height\), got 24"),
        ({"opacities": torch.ones(2)}, ValueError, r"opacities must have shape \[N\] = \[20\], got \[2\]"),
        ({"depths": torch.ones(2)}, ValueError, r"depths must have shape \[N\] = \[20\], got \[2\]"),
        ({"background": torch.ones(4)}, ValueError, r"background must have shape \[D\] = \[3\], got \[4\]"),
        ({"blend": "max"}, ValueError, "blend must be one of alpha, sum, topk, got 'max'"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    a = arguments()
    call: dict[str, Any] = {"means": a["means"], "shapes": a["covariances"], "colors": a["colors"], "size": SIZE}
    with pytest.raises(error, match=message):
        rasterize_image(**(call | change))


def test_a_picture_with_room_is_the_same_and_without_enough_of_it_is_empty() -> None:
    g = torch.Generator().manual_seed(0)
    means, log_scales = 30 * torch.rand(20, 2, generator=g), torch.rand(20, 2, generator=g)
    shapes, colors = (log_scales, torch.rand(20, generator=g)), torch.rand(20, 3, generator=g)
    wanted, _ = rasterize_image(means, shapes, colors, (33, 30))
    got, _ = rasterize_image(means, shapes, colors, (33, 30), room=ListRoom(500, 20))
    assert wanted.any() and torch.equal(got, wanted)
    empty, alphas = rasterize_image(means, shapes, colors, (33, 30), room=ListRoom(3, 20))
    assert not empty.any() and not alphas.any()
