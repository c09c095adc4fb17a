"""Gaussians, Cameras, render and the gsplat-style call, end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import splat
from splat import Cameras, Gaussians, rasterization, render
from tests.scenes import scene3d


def scene(count: int = 30, dtype: torch.dtype = torch.float32) -> tuple[Gaussians, Cameras]:
    s = scene3d(count, dtype=dtype)
    g = Gaussians(s.means, s.quats, s.scales.log(), s.opacities.logit(), s.sh0, s.shN[:, :8])
    return g, Cameras(s.viewmats, s.Ks, s.width, s.height)


def arguments(count: int = 30) -> dict[str, Any]:
    s = scene3d(count)
    return {
        "means": s.means,
        "quats": s.quats,
        "scales": s.scales,
        "opacities": s.opacities,
        "colors": torch.cat([s.sh0, s.shN], 1),
        "viewmats": s.viewmats,
        "Ks": s.Ks,
        "width": s.width,
        "height": s.height,
        "sh_degree": 2,
    }


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    g, _ = scene()
    g.save(tmp_path / "g.safetensors")
    again = Gaussians.load(tmp_path / "g.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(g.parameters().values(), again.parameters().values(), strict=True))
    (tmp_path / "g.safetensors").write_bytes(b"nonsense")
    for path in (tmp_path / "g.safetensors", tmp_path / "none"):
        with pytest.raises(ValueError, match=path.name):
            Gaussians.load(path)


def test_gaussians_are_selected_joined_and_made_from_points() -> None:
    g, _ = scene()
    left, right = g.select(torch.arange(10)), g.select(torch.arange(30) >= 10)
    joined = Gaussians.concat([left, replace(right, shN=right.shN[:, :3])])
    assert len(joined) == 30 and joined.sh_degree == 2
    assert torch.equal(joined.means, g.means) and (joined.shN[10:, 3:] == 0).all()
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    made = Gaussians.from_points(line, torch.full((4, 3), 0.25))
    want = [math.sqrt(14 / 3), math.sqrt(2), math.sqrt(2), math.sqrt(14 / 3)]
    torch.testing.assert_close(made.scales[:, 0], torch.tensor(want))
    torch.testing.assert_close(made.sh0[:, 0] * 0.28209479177387814 + 0.5, torch.full((4, 3), 0.25))
    torch.testing.assert_close(made.opacities, torch.full((4,), 0.1))
    with pytest.raises(ValueError, match=r"quats must have shape \[30, 4\], got \[30, 3\]"):
        replace(g, quats=g.means)
    with pytest.raises(ValueError, match="shN must have shape"):
        replace(g, shN=g.shN[:, :5])


def test_look_at_puts_the_target_in_the_middle_and_up_at_the_top() -> None:
    c = Cameras.look_at([3.0, -4.0, 2.0], [0.5, 0.5, 0.5], width=64, height=48, fov_y=40)
    torch.testing.assert_close(c.centers[0], torch.tensor([3.0, -4.0, 2.0]))

    def pixel(point: list[float]) -> Tensor:
        p = c.Ks[0] @ (c.viewmats[0] @ torch.tensor([*point, 1.0]))[:3]
        assert p[2] > 0
        return p[:2] / p[2]

    torch.testing.assert_close(pixel([0.5, 0.5, 0.5]), torch.tensor([32.0, 24.0]))
    assert pixel([0.5, 0.5, 0.7])[1] < 23
    torch.testing.assert_close(c.viewmats[0, :3, :3] @ c.viewmats[0, :3, :3].T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.linalg.det(c.viewmats[0, :3, :3]) > 0
    half = c.scaled(0.5)
    assert (half.width, half.height) == (32, 24) and half.Ks[0, 0, 2] == 16
    assert len(Cameras.orbit(7, radius=3, width=8, height=8)) == 7


def test_camera_conventions() -> None:
    K = torch.eye(3)[None]
    # A Blender camera at (0, 0, 5) with identity rotation looks down -z: the origin lies 5 in front of it.
    c2w = torch.eye(4)[None].clone()
    c2w[0, 2, 3] = 5
    blender = Cameras.from_opengl_c2w(c2w, K, width=4, height=4)
    torch.testing.assert_close(blender.viewmats[0] @ torch.tensor([0.0, 1, 0, 1]), torch.tensor([0.0, -1, 5, 1]))
    half = math.sqrt(0.5)  # a quarter turn about x
    colmap = Cameras.from_colmap(torch.tensor([[half, half, 0, 0]]), torch.tensor([[1.0, 2, 3]]), K, width=4, height=4)
    torch.testing.assert_close(colmap.viewmats[0] @ torch.tensor([0.0, 1, 0, 1]), torch.tensor([1.0, 2, 4, 1]))
    with pytest.raises(ValueError, match="viewmats must be finite"):
        Cameras(torch.full((1, 4, 4), torch.nan), K, 4, 4)
    with pytest.raises(ValueError, match="up must not be parallel"):
        Cameras.look_at([0.0, 0, 5], [0.0, 0, 0], width=4, height=4, fov_y=40)


def test_cpu_and_reference_draw_the_same() -> None:
    g, c = scene()
    r = render(g, c, background=torch.tensor([0.1, 0.2, 0.3]))
    want = render(g.to(torch.float64), c.to(torch.float64), background=torch.tensor([0.1, 0.2, 0.3]).double())
    assert r.color.shape == (2, 32, 40, 3) and r.depth.shape == (2, 32, 40, 1)
    for a, b in ((r.color, want.color), (r.alpha, want.alpha)):
        error = (a.double() - b).abs()
        assert error.median() < 1e-5 and error.max() < 0.02


def test_every_parameter_has_the_gradient_of_finite_differences() -> None:
    g, c = scene(6, torch.float64)
    weights = torch.sin(torch.arange(2 * 32 * 40 * 3, dtype=torch.float64)).view(2, 32, 40, 3)
    options = splat.RenderOptions(rasterize=splat.RasterizeOptions(cutoff=1e-9))

    def loss(*values: Tensor) -> Tensor:
        r = render(Gaussians(*values[:6]), Cameras(values[6], values[7], 40, 32), options=options, backend="reference")
        return (r.color * weights).sum()

    values = [v.clone().requires_grad_(True) for v in (*g.parameters().values(), c.viewmats, c.Ks)]
    analytic = torch.autograd.grad(loss(*values), values)
    generator = torch.Generator().manual_seed(0)
    for i, (value, grad) in enumerate(zip(values, analytic, strict=True)):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if i == 7:  # only the four entries of K that mean something
            direction *= torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]]).double()
        if i == 6:
            direction[:, 3] = 0

        def at(step: float, i: int = i, direction: Tensor = direction) -> Tensor:
            moved = [v.detach() + step * direction if j == i else v.detach() for j, v in enumerate(values)]
            return loss(*moved)

        numeric = (at(1e-6) - at(-1e-6)) / 2e-6
        torch.testing.assert_close((grad * direction).sum(), numeric, rtol=1e-3, atol=1e-4)
    single = [v.detach().float().requires_grad_(True) for v in values]
    r = render(Gaussians(*single[:6]), Cameras(single[6], single[7], 40, 32), options=options)
    for got, want in zip(torch.autograd.grad((r.color * weights.float()).sum(), single), analytic, strict=True):
        assert (got - want).norm() <= 1e-3 * want.norm() + 1e-5


def test_depth_is_that_of_an_opaque_splat_and_the_background_shows_beside_it() -> None:
    g = Gaussians(
        torch.tensor([[0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), -2.0),
        torch.tensor([9.0]),
        torch.zeros(1, 1, 3),
        torch.zeros(1, 0, 3),
    )
    c = Cameras.look_at([0.0, -3.0, 0.0], [0.0, 0.0, 0.0], width=41, height=41, fov_y=50)
    r = render(g, c, background=torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(r.depth[0, 20, 20, 0], torch.tensor(3.0))
    torch.testing.assert_close(r.color[0, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(r.color[0, 20, 20], torch.tensor([0.5, 0.5, 0.5]), atol=2e-3, rtol=0)


def test_broken_gaussians_are_culled_and_counted() -> None:
    g, c = scene()
    clean = render(g.select(torch.arange(30) >= 3), c)
    g.means[0, 1], g.quats[1], g.log_scales[2, 0] = torch.nan, 0.0, torch.nan
    r = render(g, c)
    assert r.info.invalid == 3
    assert torch.equal(r.color, clean.color)


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_to_see_is_differentiable(count: int) -> None:
    g, c = scene(count)
    g = g.map(lambda t: t.clone()).requires_grad_()
    away = Cameras.look_at([0.0, 50.0, 0.0], [0.0, 100.0, 0.0], width=20, height=10, fov_y=30)
    r = render(g, away)
    (r.color.sum() + r.depth.sum()).backward()
    assert (r.color == 0).all() and all((v.grad == 0).all() for v in g.parameters().values() if v.grad is not None)
    assert render(g, c[2:]).color.shape == (0, 32, 40, 3)


def test_torch_compile_draws_the_same() -> None:
    g, c = scene(8)
    g = g.map(lambda t: t.clone()).requires_grad_()

    def loss(means: Tensor) -> Tensor:
        return render(replace(g, means=means), c).color.square().sum()

    want = loss(g.means)
    got = torch.compile(loss, backend="aot_eager")(g.means)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, g.means)[0], torch.autograd.grad(want, g.means)[0])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("D", 1), ("ED", 1), ("RGB+D", 4), ("RGB+ED", 4)])
def test_render_modes(mode: Any, channels: int) -> None:
    colors, alphas, meta = rasterization(**arguments(), render_mode=mode)
    assert colors.shape == (2, 32, 40, channels) and alphas.shape == (2, 32, 40, 1)
    g, c = scene()
    r = render(g, c, sh_degree=2)
    torch.testing.assert_close(alphas, r.alpha)
    if "RGB" in mode:
        torch.testing.assert_close(colors[..., :3], r.color)
    if mode.endswith("ED"):
        torch.testing.assert_close(colors[..., -1:], r.depth, rtol=1e-4, atol=1e-4)  # alpha may be 1e-3
    elif mode.endswith("D"):
        torch.testing.assert_close(colors[..., -1:], r.depth * alphas, atol=1e-5, rtol=1e-5)
    assert meta["radii"].shape == (2, 30, 2) and meta["radii"].dtype == torch.int32


@pytest.mark.parametrize("batched", [False, True])
def test_means2d_keeps_its_gradient_and_absgrad(batched: bool) -> None:
    a = arguments()
    if batched:
        for name in ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks"):
            a[name] = torch.stack([a[name], a[name].flip(0) if name != "Ks" else a[name]])
    a["means"].requires_grad_(True)
    colors, _, meta = rasterization(**a, absgrad=True)
    meta["means2d"].retain_grad()
    colors.sum().backward()
    grad, absgrad = meta["means2d"].grad, meta["means2d"].absgrad
    assert grad.shape == absgrad.shape == meta["means2d"].shape == (*((2,) if batched else ()), 2, 30, 2)
    assert (absgrad >= grad.abs() - 1e-4).all() and (absgrad > 0).any() and (a["means"].grad != 0).any()


def test_batches_are_a_loop_and_colours_may_differ_by_view() -> None:
    a = arguments()
    b = {k: torch.stack([v, v]) if isinstance(v, Tensor) else v for k, v in a.items()}
    b["means"][1] += 0.1
    colors, alphas, _ = rasterization(**b, backgrounds=torch.ones(2, 2, 3))
    for i in range(2):
        one, one_alpha, _ = rasterization(**{**a, "means": b["means"][i]}, backgrounds=torch.ones(2, 3))
        assert torch.equal(colors[i], one) and torch.equal(alphas[i], one_alpha)
    plain = torch.rand(2, 30, 5, generator=torch.Generator().manual_seed(0))
    a |= {"sh_degree": None}
    by_view, _, _ = rasterization(**{**a, "colors": plain})
    shared, _, _ = rasterization(**{**a, "colors": plain[1]})
    assert torch.equal(by_view[1], shared[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_size": 8}, "tile_size must be 16, got 8"),
        ({"with_ut": True}, "with_ut=True is not supported yet"),
        ({"render_mode": "X"}, "render_mode must be one of RGB, D, ED"),
        ({"quats": torch.zeros(30, 3)}, r"quats must have shape \[N, 4\] = \[30, 4\], got \[30, 3\]"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterization(**(arguments() | change))
    with pytest.raises(TypeError, match="unexpected argument 'nonsense'"):
        rasterization(**arguments(), nonsense=1)
