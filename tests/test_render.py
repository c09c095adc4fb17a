"""Gaussians, Cameras and render, end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import splat
from splat import Cameras, Gaussians, render
from tests.scenes import scene3d


def scene(count: int = 30, dtype: torch.dtype = torch.float32) -> tuple[Gaussians, Cameras]:
    s = scene3d(count, dtype=dtype)
    g = Gaussians(s.means, s.quats, s.scales.log(), s.opacities.logit(), s.sh0, s.shN[:, :8])
    return g, Cameras(s.viewmats, s.Ks, s.width, s.height)


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
    with pytest.raises(ValueError, match=r"quats must have shape \[N, 4\] = \[30, 4\], got \[30, 3\]"):
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


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("means", [torch.nan, torch.inf]),
        ("quats", [torch.nan, torch.inf, 0.0, 1e-30, 1e30]),
        ("log_scales", [torch.nan, torch.inf, 1e3]),
        ("opacity_logits", [torch.nan]),
        ("sh0", [torch.nan, torch.inf, -torch.inf]),
        ("shN", [torch.nan, -torch.inf]),
    ],
)
def test_broken_gaussians_are_culled_and_counted_and_poison_nothing(
    name: str, values: list[float], backend: Any
) -> None:
    clean, c = scene(12)
    want = render(clean.select(torch.arange(12) >= len(values)), c, backend=backend).color
    g = clean.map(lambda t: t.clone())
    for i, value in enumerate(values):
        getattr(g, name)[i] = value
    g.requires_grad_()
    c = replace(c, viewmats=c.viewmats.clone().requires_grad_(), Ks=c.Ks.clone().requires_grad_())
    r = render(g, c, backend=backend)
    assert r.info.invalid == len(values) and not r.info.visible[:, : len(values)].any()
    torch.testing.assert_close(r.color, want, rtol=1e-6, atol=1e-6)
    (r.color.square().sum() + r.depth.sum() + r.alpha.sum()).backward()
    for v in (*g.parameters().values(), c.viewmats, c.Ks):
        assert v.grad is not None and torch.isfinite(v.grad).all() and (v.grad != 0).any()
    for v in g.parameters().values():
        assert (v.grad[: len(values)] == 0).all()  # type: ignore[index]


def test_extreme_but_meaningful_values_are_drawn() -> None:
    g, c = scene(12)
    g.opacity_logits[0] = torch.inf  # opaque: what an 8-bit opacity of 255 becomes
    g.log_scales[1, 2] = -torch.inf  # flat
    g.quats[2] *= 1e-6
    r = render(g, c)
    assert r.info.invalid == 0 and r.info.visible[:, :3].all() and torch.isfinite(r.color).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("count", "cameras"), [(0, 2), (4, 2), (4, 0)])
@pytest.mark.parametrize("output", ["color", "alpha", "depth"])
def test_nothing_to_see_is_differentiable(output: str, count: int, cameras: int, backend: Any) -> None:
    g = scene(count)[0].map(lambda t: t.clone()).requires_grad_()
    away = Cameras.look_at([0.0, 50.0, 0.0], [0.0, 100.0, 0.0], width=20, height=10, fov_y=30)
    away = Cameras.concat([away, away])[:cameras]
    away = replace(away, viewmats=away.viewmats.requires_grad_(), Ks=away.Ks.requires_grad_())
    value = getattr(render(g, away, backend=backend), output)
    assert value.shape[:3] == (cameras, 10, 20) and (value == 0).all()
    value.sum().backward()
    colored = ("sh0", "shN") if output == "color" else ()
    for name, v in g.parameters().items():
        if name in ("means", "quats", "log_scales", "opacity_logits", *colored):
            assert v.grad is not None and (v.grad == 0).all(), name
    assert all(v.grad is not None and (v.grad == 0).all() for v in (away.viewmats, away.Ks))


def test_the_reference_makes_its_tensors_where_its_inputs_are() -> None:
    g, c = scene(6, torch.float64)
    image = render(g, c, backend="reference").color.detach()
    by_axes = (torch.rand(6, 2) * 30, (torch.ones(6, 2), torch.ones(6)), torch.rand(6, 3), (40, 32))
    drawn, _ = splat.rasterize_image(*by_axes, backend="reference")
    loss = splat.photometric_loss(image, image * 0.9, backend="reference")
    # What is made without naming a device lands on meta, and mixing the two is an error.
    with torch.device("meta"):
        assert torch.equal(render(g, c, backend="reference").color, image)
        assert torch.equal(splat.rasterize_image(*by_axes, backend="reference")[0], drawn)
        assert torch.equal(splat.photometric_loss(image, image * 0.9, backend="reference"), loss)
        assert not g.select(torch.arange(0, device="cpu")).means.is_meta
        assert render(g, c[:0], backend="reference").color.device.type == "cpu"


def test_torch_compile_draws_the_same() -> None:
    g, c = scene(8)
    g = g.map(lambda t: t.clone()).requires_grad_()

    def loss(means: Tensor) -> Tensor:
        return render(replace(g, means=means), c).color.square().sum()

    want = loss(g.means)
    got = torch.compile(loss, backend="aot_eager")(g.means)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, g.means)[0], torch.autograd.grad(want, g.means)[0])
    broken = torch.where(torch.arange(8)[:, None] == 2, torch.nan, g.means.detach())
    assert torch.equal(torch.compile(loss, backend="aot_eager")(broken), loss(broken))
