"""gsplat's projection functions against gsplat 1.5.3's own torch ones, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from splat.compat.projection import (
    fully_fused_projection,
    proj,
    quat_scale_to_covar_preci,
    spherical_harmonics,
    world_to_cam,
)
from tests.scenes import scene3d

gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")

SIZE = (40, 32)
MODELS = ("pinhole", "ortho", "fisheye")


def rand(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """With the last Gaussian behind the cameras and the one before far aside."""
    s = scene3d(20, 2, dtype=torch.float64)
    names = ("means", "quats", "scales", "opacities", "viewmats", "Ks")
    values = {name: getattr(s, name).expand(*batch, *getattr(s, name).shape).clone() for name in names}
    values["means"] += 0.05 * rand(*values["means"].shape)
    values["means"][..., -1, 2] = -50.0
    values["means"][..., -2, 0] = 90.0
    return values


def assert_same(
    ours: Callable[..., Any], theirs: Callable[..., Any], leaves: dict[str, Tensor], tolerance: float = 1e-10
) -> None:
    """Equal outputs, and equal gradients of a random sum of them in all leaves."""
    results = []
    for function in (ours, theirs):
        inputs = {k: v.clone().requires_grad_(True) for k, v in leaves.items()}
        outputs = [v for v in function(**inputs) if v is not None and v.is_floating_point()]
        loss = torch.stack([(v * rand(*v.shape, seed=i)).sum() for i, v in enumerate(outputs)]).sum()
        results.append((outputs, torch.autograd.grad(loss, list(inputs.values()))))
    for got, want in zip(*(r[0] for r in results), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    for name, got, want in zip(leaves, *(r[1] for r in results), strict=True):
        assert want.abs().sum() > 0, name
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()), msg=name)


@pytest.mark.parametrize("triu", [False, True])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_covariances_are_gsplats(batch: tuple[int, ...], triu: bool) -> None:
    s = scene(batch)
    leaves = {"quats": s["quats"], "scales": s["scales"]}

    def ours(**a: Tensor) -> Any:
        return quat_scale_to_covar_preci(**a, triu=triu)

    def theirs(**a: Tensor) -> Any:
        return gsplat._quat_scale_to_covar_preci(**a, triu=triu)

    assert_same(ours, theirs, leaves)
    assert ours(**leaves)[0].shape == (*batch, 20, *((6,) if triu else (3, 3)))
    assert quat_scale_to_covar_preci(**leaves, compute_covar=False)[0] is None
    assert quat_scale_to_covar_preci(**leaves, compute_preci=False)[1] is None


def test_a_zero_quaternion_turns_nothing() -> None:
    covars, precis = quat_scale_to_covar_preci(torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 4.0]]))
    assert covars is not None and precis is not None
    assert torch.equal(covars[0], torch.diag(torch.tensor([1.0, 4.0, 16.0])))
    assert torch.equal(precis[0], torch.diag(torch.tensor([1.0, 0.25, 0.0625])))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_camera_axes_are_gsplats(batch: tuple[int, ...]) -> None:
    s = scene(batch)
    covars, _ = quat_scale_to_covar_preci(s["quats"], s["scales"])
    assert covars is not None
    leaves = {"means": s["means"], "covars": covars, "viewmats": s["viewmats"]}
    assert_same(world_to_cam, gsplat._world_to_cam, leaves)
    assert world_to_cam(**leaves)[1].shape == (*batch, 2, 20, 3, 3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_image_plane_is_gsplats(batch: tuple[int, ...], model: Any) -> None:
    s = scene(batch)
    s["means"][..., -1, 2] = 1.0
    covars, _ = quat_scale_to_covar_preci(s["quats"], s["scales"])
    assert covars is not None
    means, covars = world_to_cam(s["means"], covars, s["viewmats"])
    theirs = {"pinhole": gsplat._persp_proj, "ortho": gsplat._ortho_proj, "fisheye": gsplat._fisheye_proj}[model]
    # gsplat adds 1e-7 to the fisheye's distances.
    assert_same(
        lambda **a: proj(**a, Ks=s["Ks"], width=SIZE[0], height=SIZE[1], camera_model=model),
        lambda **a: theirs(**a, Ks=s["Ks"], width=SIZE[0], height=SIZE[1]),
        {"means": means, "covars": covars},
        1e-5 if model == "fisheye" else 1e-10,
    )


def projected(s: dict[str, Tensor], **how: Any) -> Any:
    """Ours, by covars where `s` has them."""
    six = s.get("covars")
    shape = (None, s["quats"], s["scales"]) if six is None else (six, None, None)
    return fully_fused_projection(s["means"], *shape, s["viewmats"], s["Ks"], *SIZE, **how)


def oracle(s: dict[str, Tensor], **how: Any) -> Any:
    covars, _ = gsplat._quat_scale_to_covar_preci(s["quats"], s["scales"], True, False)
    return gsplat._fully_fused_projection(s["means"], covars, s["viewmats"], s["Ks"], *SIZE, **how)


@pytest.mark.parametrize("compensations", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_the_projection_is_gsplats(batch: tuple[int, ...], model: Any, compensations: bool) -> None:
    s = scene(batch)
    how = {"camera_model": model, "calc_compensations": compensations, "eps2d": 0.5, "near_plane": 0.1}
    want = oracle(s, **how)
    seen = (want[0] > 0).all(-1)
    assert seen.any() and not seen.all()
    assert torch.equal(projected(s, **how)[0], want[0])
    assert (projected(s, **how)[4] is None) == (not compensations)

    def visible(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **a: [None if v is None else v[seen] for v in function({**s, **a}, **how)]

    leaves = {name: s[name] for name in ("means", "quats", "scales", "viewmats")}
    assert_same(visible(projected), visible(oracle), leaves, 1e-5 if model == "fisheye" else 1e-8)
    assert all((v[~seen] == 0).all() for v in projected(s, **how) if v is not None)


def test_float32_kernels_keep_full_extents_without_opacities() -> None:
    """gsplat's radii are 3.33 sigma where no opacity is given; 1 would give 3.329."""
    s = {name: v.float() for name, v in scene().items()}
    for how in ({}, {"calc_compensations": True}):
        radii, means2d, *_, compensations = projected(s, **how)
        want = oracle(s, **how)
        assert torch.equal(radii, want[0])
        seen = (radii > 0).all(-1)
        torch.testing.assert_close(means2d[seen], want[1][seen])
        if how:
            torch.testing.assert_close(compensations[seen], want[4][seen])


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("by_covars", [False, True])
def test_packed_is_what_is_seen_of_dense(by_covars: bool, batch: tuple[int, ...]) -> None:
    s = scene(batch)
    if by_covars:
        covars, _ = quat_scale_to_covar_preci(s["quats"], s["scales"], triu=True)
        assert covars is not None
        s["covars"] = covars
    how = {"opacities": s["opacities"], "calc_compensations": True}
    dense = projected(s, **how)
    batch_ids, camera_ids, gaussian_ids, *rest = projected(s, **how, packed=True)
    seen = (dense[0] > 0).all(-1)
    where = seen.view(-1, 2, 20).nonzero(as_tuple=True)
    for got, want in zip((batch_ids, camera_ids, gaussian_ids), where, strict=True):
        assert torch.equal(got, want) and got.dtype == torch.int64
    for got, want in zip(rest, dense, strict=True):
        assert torch.equal(got, want[seen])
    assert rest[0].dtype == torch.int32


def test_covariances_project_like_what_they_are_of() -> None:
    s = scene()
    covars, _ = quat_scale_to_covar_preci(s["quats"], s["scales"], triu=True)
    assert covars is not None
    for got, want in zip(projected(s | {"covars": covars})[:4], projected(s)[:4], strict=True):
        torch.testing.assert_close(got, want)


def test_opacities_narrow_radii_and_get_no_gradient() -> None:
    s = scene()
    faint = torch.full_like(s["opacities"], 0.02).requires_grad_(True)
    s["means"].requires_grad_(True)
    wide, narrow = projected(s), projected(s, opacities=faint, calc_compensations=True)
    both = ((narrow[0] > 0) & (wide[0] > 0)).all(-1)
    assert both.any() and (narrow[0][both] < wide[0][both]).any() and (narrow[0][both] <= wide[0][both]).all()
    narrow[4].sum().backward()
    assert faint.grad is None and (s["means"].grad != 0).any()
    assert (projected(s, opacities=torch.zeros(20, dtype=torch.float64))[0] == 0).all()


@pytest.mark.parametrize("by_covars", [False, True])
def test_sparse_gradients_are_the_dense_ones_of_what_is_seen(by_covars: bool) -> None:
    s = scene()
    if by_covars:
        covars, _ = quat_scale_to_covar_preci(s["quats"], s["scales"], triu=True)
        assert covars is not None
        s["covars"] = covars
    names = ("means", "covars") if by_covars else ("means", "quats", "scales")
    grads = []
    for sparse in (False, True):
        leaves = {name: s[name].clone().requires_grad_(True) for name in names}
        out = projected(s | leaves, packed=True, sparse_grad=sparse)
        torch.stack([out[i].sum() for i in (4, 5, 6)]).sum().backward()
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    for name in names:
        dense, sparse_one = grads[0][name], grads[1][name]
        assert dense is not None and sparse_one is not None and sparse_one.is_sparse
        assert torch.equal(sparse_one.to_dense(), dense)
        assert 0 < sparse_one.coalesce().indices().shape[1] < 20
    with pytest.raises(ValueError, match="sparse_grad needs packed and no batch, got packed=False"):
        projected(s, sparse_grad=True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("batch", "count"), [((0,), 20), ((), 0), ((2, 0), 0)])
def test_nothing_to_project_is_fine(batch: tuple[int, ...], count: int, packed: bool) -> None:
    s = {name: v[..., :count, :] if name in ("means", "quats", "scales") else v for name, v in scene(batch).items()}
    s["means"] = s["means"].requires_grad_(True)
    out = projected(s, packed=packed)
    assert out[-4].shape == ((0, 2) if packed else (*batch, 2, count, 2))
    out[-4].sum().backward()
    assert s["means"].grad is not None and s["means"].grad.shape == s["means"].shape


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_harmonics_are_gsplats(degree: int) -> None:
    leaves = {"dirs": rand(2, 7, 3) - 0.5, "coeffs": rand(2, 7, 25, 3, seed=1) - 0.5}
    leaves = leaves if degree else {"coeffs": leaves["coeffs"]}
    dirs = rand(2, 7, 3) - 0.5
    assert_same(
        lambda **a: [spherical_harmonics(degree, **{"dirs": dirs, **a})],
        lambda **a: [gsplat._spherical_harmonics(degree, **{"dirs": dirs, **a})],
        leaves,
    )


def test_masked_harmonics_are_zero_and_have_no_gradients() -> None:
    dirs, coeffs = rand(9, 3) - 0.5, rand(9, 16, 3)
    dirs[4] = torch.nan
    masks = torch.arange(9) % 4 != 0
    dirs.requires_grad_(True), coeffs.requires_grad_(True)
    colors = spherical_harmonics(3, dirs, coeffs, masks)
    assert torch.equal(colors[masks], spherical_harmonics(3, dirs[masks], coeffs[masks]))
    assert (colors[~masks] == 0).all()
    colors.square().sum().backward()
    for leaf in (dirs, coeffs):
        assert leaf.grad is not None
        assert (leaf.grad[~masks] == 0).all() and (leaf.grad[masks] != 0).any()


def test_bad_input_names_the_argument() -> None:
    s = scene()
    with pytest.raises(NotImplementedError, match="camera_model 'ftheta': cameras with lens distortion are not"):
        projected(s, camera_model="ftheta")
    with pytest.raises(ValueError, match=r"quats must have shape \[20, 4\], got \[20, 3\]|quats must have shape"):
        projected(s | {"quats": s["scales"]})
    with pytest.raises(ValueError, match="coeffs must hold 16 for degrees_to_use 3, got 9"):
        spherical_harmonics(3, rand(4, 3), rand(4, 9, 3))
    with pytest.raises(TypeError, match=r"means must be a torch.Tensor, got list"):
        world_to_cam([[0, 0, 0]], s["means"], s["viewmats"])  # type: ignore[arg-type]
