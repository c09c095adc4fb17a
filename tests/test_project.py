"""The 3D front end: the compiled op and the reference, both against finite differences, each other and gsplat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import splat
from splat.core.project import ProjectOptions, project
from splat.core.sh import sh_colors
from tests.scenes import Scene, scene3d

MODELS = ["pinhole", "ortho", "fisheye"]


def run(s: Scene, backend: str, *, covars: Tensor | None = None, raw: bool = False, **options: Any) -> Any:
    return project(
        s.means,
        None if covars is not None else s.quats,
        None if covars is not None else s.scales,
        s.opacities,
        s.viewmats,
        s.Ks,
        width=s.width,
        height=s.height,
        options=ProjectOptions(**options),
        covars=covars,
        raw=raw,
        backend=backend,  # type: ignore[arg-type]
    )


def ortho_scale(s: Scene, model: str) -> Scene:
    if model == "ortho":
        s.Ks[:, :2, :2] /= 4  # an orthographic picture is not divided by the depth
    return s


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("backend", "raw"), [("cpu", False), ("cpu", True), ("reference", False)])
def test_every_gradient_of_the_projection(model: str, antialiased: bool, backend: str, raw: bool) -> None:
    s = ortho_scale(scene3d(5, dtype=torch.float64), model)
    if raw:
        s.scales, s.opacities = s.scales.log(), s.opacities.logit()
    names = ["means", "quats", "scales", "opacities", "viewmats", "Ks"]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        for name, value in zip(names, values, strict=True):
            setattr(s, name, value)
        r = run(s, backend, camera_model=model, antialiased=antialiased, raw=raw)
        return r.means2d, r.depths, r.conics, r.opacities

    inputs = [getattr(s, name).clone().requires_grad_(True) for name in names]
    assert (outputs(*inputs)[3] > 0).any()
    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_gradient_of_given_covariances(backend: str) -> None:
    s = scene3d(4, cameras=1, dtype=torch.float64)
    root = torch.rand(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.3
    covars = (root @ root.mT + 0.02 * torch.eye(3, dtype=torch.float64)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: run(s, backend, covars=v).conics, [covars], eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_stored_values_project_like_activated_ones(backend: str) -> None:
    s = scene3d(50, dtype=torch.float64)
    stored = replace(s, scales=s.scales.log(), opacities=s.opacities.logit())
    for name, value in vars(run(s, backend)).items():
        torch.testing.assert_close(getattr(run(stored, backend, raw=True), name), value)


@pytest.mark.parametrize("model", MODELS)
def test_the_op_agrees_with_the_reference(model: str) -> None:
    s32 = ortho_scale(scene3d(200), model)
    s64 = ortho_scale(scene3d(200, dtype=torch.float64), model)
    got, want = run(s32, "cpu", camera_model=model), run(s64, "reference", camera_model=model)
    assert (want.radii > 0).any() and (got.radii - want.radii).abs().max() <= 1
    for name in ("means2d", "depths", "conics", "opacities"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_projection_is_gsplats(model: str) -> None:
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")
    s = ortho_scale(scene3d(100, dtype=torch.float64), model)
    s.opacities[:] = 1.0  # gsplat's torch function knows no opacity
    covars, _ = gsplat._quat_scale_to_covar_preci(s.quats, s.scales, True, False)
    radii, means2d, depths, conics, compensations = gsplat._fully_fused_projection(
        s.means, covars, s.viewmats, s.Ks, s.width, s.height, calc_compensations=True, camera_model=model
    )
    ours = run(s, "cpu", camera_model=model, antialiased=True)
    plain = run(s, "cpu", camera_model=model)
    seen = (ours.radii > 0).all(-1) & (radii > 0).all(-1)
    assert seen.sum() > 20
    assert ((plain.radii > 0).all(-1) == (radii > 0).all(-1)).all()
    # gsplat adds 1e-7 to the radius and the depth in its fisheye formula.
    bound = {"rtol": 2e-5, "atol": 2e-6} if model == "fisheye" else {"rtol": 1e-9, "atol": 1e-9}
    wanted = {"means2d": means2d, "depths": depths, "conics": conics, "opacities": compensations}
    for name, want in wanted.items():
        torch.testing.assert_close(getattr(ours, name)[seen], want[seen], **bound)


def test_degenerate_gaussians_are_culled_and_poison_nothing() -> None:
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        s = scene3d(12, dtype=dtype)
        s.means.clamp_(-0.5, 0.5)
        clean = run(s, backend)
        s.quats[0] = 0
        s.quats[1, 2] = torch.nan
        s.means[2, 0] = torch.inf
        s.scales[3, 1] = torch.nan
        s.opacities[4] = torch.nan
        s.opacities[5] = 0.001
        s.means[6] = torch.tensor([0.0, 0.0, -100.0])
        leaves = [
            getattr(s, n).requires_grad_(True) for n in ("means", "quats", "scales", "opacities", "viewmats", "Ks")
        ]
        r = run(s, backend)
        assert (r.radii[:, :7] == 0).all() and (r.radii[:, 7:] > 0).all(), backend
        for name in ("means2d", "depths", "conics", "opacities"):
            value = getattr(r, name)
            assert (value[:, :7] == 0).all()
            assert torch.equal(value[:, 7:], getattr(clean, name)[:, 7:])
        grads = torch.autograd.grad(r.means2d.sum() + r.conics.sum() + r.opacities.sum() + r.depths.sum(), leaves)
        for grad in grads[:4]:
            assert torch.isfinite(grad).all() and (grad[:7] == 0).all()
        assert all(torch.isfinite(g).all() and (g != 0).any() for g in grads[4:])


@pytest.mark.parametrize(("count", "cameras"), [(0, 2), (5, 0), (0, 0)])
def test_nothing_to_project_is_fine_and_differentiable(count: int, cameras: int) -> None:
    for backend in ("cpu", "reference"):
        s = scene3d(count, cameras)
        s.means.requires_grad_(True)
        r = run(s, backend)
        assert r.means2d.shape == (cameras, count, 2)
        r.means2d.sum().backward()
        assert s.means.grad is not None and (s.means.grad == 0).all()


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    threads, results = splat.get_num_threads(), []
    for n in (1, 3):
        splat.set_num_threads(n)
        s = scene3d(5000)
        leaves = [
            getattr(s, n).requires_grad_(True) for n in ("means", "quats", "scales", "sh0", "shN", "viewmats", "Ks")
        ]
        r = run(s, "cpu")
        colors = sh_colors(s.means, s.viewmats, s.sh0, s.shN, r.radii, 4)
        total = r.means2d.sum() + r.conics.sum() + (colors * colors).sum()
        results.append([r.means2d, colors, *torch.autograd.grad(total, leaves)])
    splat.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_gradient_of_the_harmonics(degree: int, backend: str) -> None:
    s = scene3d(3, dtype=torch.float64)
    radii = torch.ones(2, 3, 2, dtype=torch.int32)
    radii[0, 1] = 0
    inputs = [t.requires_grad_(True) for t in (s.means, s.viewmats, s.sh0, s.shN)]

    def colors(*values: Tensor) -> Tensor:
        return sh_colors(*values, radii, degree, backend=backend)  # type: ignore[call-arg, misc, arg-type]

    assert (colors(*inputs)[0, 1] == 0).all()
    assert torch.autograd.gradcheck(colors, inputs, eps=1e-6, atol=1e-6)


def test_dark_colours_are_zero_and_broken_ones_stay_so_on_both_backends() -> None:
    s = scene3d(20)
    s.sh0 -= 2
    s.sh0[1], s.shN[2, 0] = torch.nan, torch.nan
    radii = torch.ones(2, 20, 2, dtype=torch.int32)
    a, b = (sh_colors(s.means, s.viewmats, s.sh0, s.shN, radii, 1, backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(a, b, equal_nan=True)
    assert a[:, 1:3].isnan().any(-1).all() and (a == 0).any() and (a > 0).any()


def test_the_harmonics_are_gsplats() -> None:
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")
    s = scene3d(50, cameras=1, dtype=torch.float64)
    centre = -s.viewmats[0, :3, :3].T @ s.viewmats[0, :3, 3]
    radii = torch.ones(1, 50, 2, dtype=torch.int32)
    for degree in range(5):
        want = gsplat._spherical_harmonics(degree, s.means - centre, torch.cat([s.sh0, s.shN], 1))
        got = sh_colors(s.means, s.viewmats, s.sh0, s.shN, radii, degree, backend="cpu")[0]
        torch.testing.assert_close(got, (want + 0.5).clamp_min(0))


def test_the_ops_follow_torchs_rules() -> None:
    s = scene3d(6)
    leaves = [t.requires_grad_(True) for t in (s.means, s.quats, s.scales, s.opacities, s.viewmats, s.Ks)]
    how = (s.width, s.height, 0.3, 0.01, 1e10, 0.0, 0, True)
    for raw in (False, True):
        torch.library.opcheck(torch.ops.splat.project.default, (*leaves[:3], None, *leaves[3:], *how, raw))
    radii = torch.ones(2, 6, 2, dtype=torch.int32)
    sh = [t.requires_grad_(True) for t in (s.sh0, s.shN)]
    torch.library.opcheck(torch.ops.splat.sh.default, (leaves[0], leaves[4], *sh, radii, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quats": torch.zeros(6, 3)}, r"quats must have shape \[N, 4\] = \[6, 4\], got \[6, 3\]"),
        ({"opacities": torch.zeros(6, dtype=torch.float64)}, "opacities must have the dtype of means, torch.float32"),
        ({"viewmats": torch.full((2, 4, 4), torch.nan)}, "viewmats must be finite, got NaN or infinity"),
        ({"Ks": torch.zeros(1, 3, 3)}, r"Ks must have shape \[C, 3, 3\] = \[2, 3, 3\], got \[1, 3, 3\]"),
        ({"width": -4}, "width and height must be at least 1 pixel, got -4 x 32"),
        ({"means": torch.zeros(6, 2)}, r"means must have shape \[N, 3\], got \[6, 2\]"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], message: str) -> None:
    s = scene3d(6)
    for name, value in change.items():
        setattr(s, name, value)
    with pytest.raises(ValueError, match=message):
        run(s, "cpu")
