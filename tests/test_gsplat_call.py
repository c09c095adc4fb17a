"""splat.rasterization against gsplat 1.5.3: its own Python code over torch kernels, its strategy, its signature."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from splat import Cameras, Gaussians, rasterization, render
from splat.core.reference import rasterize as reference
from tests.scenes import scene3d

MODES = [("RGB", 3), ("D", 1), ("ED", 1), ("RGB+D", 4), ("RGB+ED", 4)]
BY_GAUSSIAN = ("means", "quats", "scales", "opacities", "colors")


def arguments(count: int = 30, dtype: torch.dtype = torch.float32, cameras: int = 2) -> dict[str, Any]:
    s = scene3d(count, cameras, dtype=dtype)
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


def batched(a: dict[str, Any], size: int = 2) -> dict[str, Any]:
    """`size` scenes; the means move a little from one to the next."""
    b = {k: v.expand(size, *v.shape).clone() if isinstance(v, Tensor) else v for k, v in a.items()}
    b["means"] += 0.1 * torch.arange(size, dtype=b["means"].dtype)[:, None, None]
    return b


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.fixture
def gsplat_rasterization(monkeypatch: pytest.MonkeyPatch) -> Any:
    """gsplat's function, with its CUDA kernels replaced by its own torch ones, and the last by our reference."""
    rendering = pytest.importorskip("gsplat.rendering", reason="gsplat (a dev extra) is the oracle here")
    kernels = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")

    def fully_fused_projection(
        means: Tensor, covars: Any, quats: Tensor, scales: Tensor, *args: Any, packed: bool, **options: Any
    ) -> Any:
        covars, _ = kernels._quat_scale_to_covar_preci(quats, scales, True, False)
        names = ("eps2d", "near_plane", "far_plane", "calc_compensations", "camera_model")
        radii, *rest = kernels._fully_fused_projection(means, covars, *args, **{k: options[k] for k in names})
        if not packed:
            return radii, *rest
        seen = (radii > 0).all(-1)
        batch, camera, gaussian = seen.view(-1, *seen.shape[-2:]).nonzero(as_tuple=True)
        return batch, camera, gaussian, radii[seen], *(None if v is None else v[seen] for v in rest)

    def isect_tiles(means2d: Tensor, radii: Tensor, depths: Tensor, *grid: int, packed: bool, **how: Any) -> Any:
        if packed:  # gsplat's torch kernel knows no packed splats; the lists are compared dense
            return None, torch.zeros(0, dtype=torch.int64), None
        return kernels._isect_tiles(means2d, radii, depths, *grid)

    def rasterize_to_pixels(
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        width: int,
        height: int,
        tile_size: int,
        offsets: Tensor,
        ids: Tensor,
        *,
        backgrounds: Tensor | None,
        packed: bool,
        absgrad: bool,
    ) -> Any:
        images = offsets.shape[:-2]
        if packed:
            return torch.zeros(*images, height, width, 1), torch.zeros(*images, height, width, 1)
        flat = [v.reshape(-1, *v.shape[len(images) :]) for v in (means2d, conics, opacities, colors)]
        behind = None if backgrounds is None else backgrounds.reshape(-1, backgrounds.shape[-1])
        ends = torch.cat([offsets.flatten().long(), torch.tensor([len(ids)])])
        image, alphas = reference.rasterize(*flat, behind, ends, ids, width, height, "alpha", 10, 1 / 255)
        return image.view(*images, height, width, -1), alphas.view(*images, height, width, 1)

    monkeypatch.setattr(rendering, "fully_fused_projection", fully_fused_projection)
    monkeypatch.setattr(rendering, "isect_tiles", isect_tiles)
    monkeypatch.setattr(rendering, "isect_offset_encode", kernels._isect_offset_encode)
    monkeypatch.setattr(rendering, "rasterize_to_pixels", rasterize_to_pixels)
    monkeypatch.setattr(rendering, "spherical_harmonics", lambda n, d, c, masks: kernels._spherical_harmonics(n, d, c))
    return rendering.rasterization


def test_every_argument_has_gsplats_name_place_and_default() -> None:
    gsplat = pytest.importorskip("gsplat.rendering", reason="gsplat (a dev extra) is the oracle here")
    ours, theirs = (inspect.signature(f).parameters for f in (rasterization, gsplat.rasterization))
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        if name != "rolling_shutter":  # an enum of gsplat's
            assert ours[name].default == parameter.default, name
    a = arguments(4)
    rasterization(**a, rolling_shutter=theirs["rolling_shutter"].default, channel_chunk=2, segmented=True)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("colored", ["sh", "sh by view", "plain", "plain by view"])
def test_every_mode_gives_gsplats_picture(
    gsplat_rasterization: Any, colored: str, batch: bool, background: bool
) -> None:
    a = arguments(12, torch.float64)
    if colored == "sh by view":
        a["colors"] = torch.stack([a["colors"], a["colors"].flip(0)])
    if "plain" in colored:
        a |= {"sh_degree": None, "colors": rand(*((2,) if "view" in colored else ()), 12, 3)}
    if background:
        a["backgrounds"] = rand(2, 3)
    a = batched(a) if batch else a
    for mode, channels in MODES:
        want = gsplat_rasterization(**a, packed=False, render_mode=mode)
        for packed in (False, True):
            got = rasterization(**a, packed=packed, render_mode=mode)  # type: ignore[arg-type]
            assert got[0].shape == (*((2,) if batch else ()), 2, 32, 40, channels)
            torch.testing.assert_close(got[0], want[0], rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(got[1], want[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_meta_is_gsplats(gsplat_rasterization: Any, mode: Any) -> None:
    a = batched(arguments(20, torch.float64), 3)
    a["opacities"][:] = 1.0  # gsplat's torch projection knows no opacity
    a["means"][:, 4] = 50.0  # out of sight
    for packed in (False, True):
        _, _, want = gsplat_rasterization(**a, packed=packed, rasterize_mode=mode)
        _, _, got = rasterization(**a, packed=packed, rasterize_mode=mode)
        assert set(got) == set(want)
        for name in ("tile_width", "tile_height", "width", "height", "tile_size", "n_batches", "n_cameras"):
            assert got[name] == want[name], name
        for name in ("batch_ids", "camera_ids", "gaussian_ids"):
            assert (got[name] is None and want[name] is None) or torch.equal(got[name], want[name].long())
        seen = (want["radii"] > 0).all(-1)
        assert torch.equal((got["radii"] > 0).all(-1), seen) and seen.any() and packed != bool((~seen).any())
        for name in ("means2d", "depths", "conics", "opacities"):
            assert got[name].shape == want[name].shape, name
            torch.testing.assert_close(got[name][seen], want[name][seen], rtol=1e-7, atol=1e-7)
        assert got["tiles_per_gauss"].shape == seen.shape and got["tiles_per_gauss"].dtype == torch.int32


def test_tile_lists_are_a_part_of_gsplats_and_index_its_layout(gsplat_rasterization: Any) -> None:
    a = batched(arguments(20, torch.float64))
    _, _, want = gsplat_rasterization(**a, packed=False)
    _, _, dense = rasterization(**a, packed=False)
    _, _, packed = rasterization(**a, packed=True)
    assert dense["isect_offsets"].shape == want["isect_offsets"].shape == (2, 2, 2, 3)
    assert (dense["isect_ids"].diff() >= 0).all()  # sorted by image, tile and depth

    def pairs(meta: dict[str, Any]) -> set[tuple[int, int]]:
        return set(zip((meta["isect_ids"] >> 32).tolist(), meta["flatten_ids"].tolist(), strict=True))

    assert pairs(dense) <= pairs(want) and 0 < len(dense["flatten_ids"]) == len(pairs(dense))
    assert torch.equal(dense["isect_ids"], packed["isect_ids"])
    assert torch.equal(dense["isect_offsets"], packed["isect_offsets"])
    flat = packed["batch_ids"] * 2 * 20 + packed["camera_ids"] * 20 + packed["gaussian_ids"]
    assert torch.equal(flat[packed["flatten_ids"].long()], dense["flatten_ids"].long())
    depth = (dense["isect_ids"] & 0xFFFFFFFF).int().view(torch.float32)
    torch.testing.assert_close(depth, dense["depths"].flatten()[dense["flatten_ids"].long()].float())
    assert dense["tiles_per_gauss"].sum() == len(dense["flatten_ids"])


def test_meta_is_a_whole_dict_although_some_of_it_comes_late() -> None:
    def fresh() -> dict[str, Any]:
        return rasterization(**arguments(5))[2]

    names = ("isect_ids", "flatten_ids", "conics")
    copies = (dict(fresh()), {**fresh()}, dict(fresh().items()), {} | fresh(), fresh() | {}, fresh().copy())
    for copy in (*copies, deepcopy(fresh()), {k: fresh().pop(k) for k in names}):
        assert all(isinstance(copy[name], Tensor) for name in names)
    assert all(v is not None for v in fresh().values())
    assert isinstance(fresh().get("isect_ids"), Tensor) and fresh().get("none", 3) == 3 and "isect_ids" in fresh()
    meta = fresh()
    meta["conics"] = 7
    meta.update(depths=8)
    assert (
        meta["conics"] == 7
        and meta["depths"] == 8
        and isinstance(meta, dict)
        and meta["isect_ids"] is meta["isect_ids"]
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [None, 2])
def test_means2d_keeps_its_gradient_and_absgrad(size: int | None, packed: bool) -> None:
    a = arguments() if size is None else batched(arguments(), size)
    a["means"].requires_grad_(True)
    colors, _, meta = rasterization(**a, absgrad=True, packed=packed)
    meta["means2d"].retain_grad()
    colors.sum().backward()
    grad, absgrad = meta["means2d"].grad, meta["means2d"].absgrad
    assert grad.shape == absgrad.shape == meta["means2d"].shape
    assert packed or grad.shape == (*(() if size is None else (size,)), 2, 30, 2)
    assert (absgrad >= grad.abs() - 1e-4).all() and (absgrad > 0).any() and (a["means"].grad != 0).any()


@pytest.mark.parametrize("packed", [False, True])
def test_absgrad_is_there_when_only_the_colours_are_learned(packed: bool) -> None:
    a = batched(arguments())
    a["colors"].requires_grad_(True)
    colors, _, meta = rasterization(**a, absgrad=True, packed=packed)
    colors.sum().backward()
    assert meta["means2d"].absgrad.shape == meta["means2d"].shape and (meta["means2d"].absgrad > 0).any()


def test_packing_changes_no_bit_of_the_picture_nor_of_the_gradients() -> None:
    results = []
    for packed in (False, True):
        a = batched(arguments())
        leaves = [a[name].requires_grad_(True) for name in (*BY_GAUSSIAN, "viewmats", "Ks")]
        colors, alphas, _ = rasterization(**a, packed=packed, render_mode="RGB+ED")
        results.append([colors, alphas, *torch.autograd.grad(colors.square().sum() + alphas.sum(), leaves)])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_sparse_gradients_are_the_dense_ones_of_what_is_seen() -> None:
    results = []
    for sparse_grad in (False, True):
        a = arguments()
        a["means"][:5] = 50.0  # out of sight
        leaves = [a[name].requires_grad_(True) for name in ("means", "quats", "scales", "opacities")]
        rasterization(**a, sparse_grad=sparse_grad)[0].square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for dense, sparse in zip(*results, strict=True):
        assert torch.equal(dense, sparse.to_dense())
    assert [g.is_sparse for g in results[1]] == [True, True, True, False]
    assert results[1][0].coalesce().indices().min() == 5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_default_strategy_grows_and_prunes(packed: bool, absgrad: bool) -> None:
    strategies = pytest.importorskip("gsplat.strategy", reason="gsplat (a dev extra) is the oracle here")
    a = arguments(40)
    values = {name: a[name] for name in BY_GAUSSIAN} | {
        "scales": a["scales"].log(),
        "opacities": a["opacities"].logit(),
    }
    values["opacities"][0] = -8.0  # to be pruned
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in values.items()})
    optimizers = {k: torch.optim.Adam([{"params": v, "name": k}], lr=1e-3) for k, v in params.items()}
    strategy = strategies.DefaultStrategy(
        refine_start_iter=0, refine_every=2, grow_grad2d=1e-7, absgrad=absgrad, refine_scale2d_stop_iter=100
    )
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(3):
        colors, _, info = rasterization(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            params["colors"],
            *(a[name] for name in ("viewmats", "Ks", "width", "height")),
            sh_degree=2,
            packed=packed,
            absgrad=absgrad,
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        (colors - 0.5).square().mean().backward()
        if step == 1:
            assert (state["count"] > 0).sum() > 20 and (state["grad2d"] > 0).sum() > 20
        strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    assert len(params["means"]) > 40 and params["opacities"].min() > -8


def test_both_layouts_tell_the_strategy_the_same() -> None:
    strategies = pytest.importorskip("gsplat.strategy", reason="gsplat (a dev extra) is the oracle here")
    states = []
    for packed in (False, True):
        a = arguments(30)
        a["means"].requires_grad_(True)
        strategy = strategies.DefaultStrategy()
        state = strategy.initialize_state()
        colors, _, info = rasterization(**a, packed=packed)
        strategy.step_pre_backward({}, {}, state, 0, info)
        colors.square().sum().backward()
        strategy.step_post_backward({"means": a["means"]}, {}, state, 1, info, packed=packed)
        states.append(state)
    assert torch.equal(states[0]["grad2d"], states[1]["grad2d"]) and (states[0]["grad2d"] > 0).any()
    assert torch.equal(states[0]["count"], states[1]["count"])


def test_render_draws_the_same() -> None:
    s = scene3d(30)
    a = arguments()
    colors, alphas, _ = rasterization(**a, render_mode="RGB+ED")
    g = Gaussians(s.means, s.quats, s.scales.log(), s.opacities.logit(), s.sh0, s.shN)
    r = render(g, Cameras(s.viewmats, s.Ks, s.width, s.height), sh_degree=2)
    torch.testing.assert_close(alphas, r.alpha)
    torch.testing.assert_close(colors[..., :3], r.color)
    torch.testing.assert_close(colors[..., 3:], r.depth, rtol=1e-4, atol=1e-4)  # alpha may be 1e-3


def test_batches_are_a_loop_over_scenes() -> None:
    b = batched(arguments())
    colors, alphas, _ = rasterization(**b, backgrounds=torch.ones(2, 2, 3))
    for i in range(2):
        one = {k: v[i] if isinstance(v, Tensor) else v for k, v in b.items()}
        want, want_alphas, _ = rasterization(**one, backgrounds=torch.ones(2, 3))
        assert torch.equal(colors[i], want) and torch.equal(alphas[i], want_alphas)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "cameras", "batch"), [(0, 2, None), (5, 0, None), (0, 2, 2), (5, 0, 2), (5, 2, 0)])
@pytest.mark.parametrize("colored", ["sh", "sh by view", "plain"])
def test_nothing_to_draw_is_fine_and_differentiable(
    colored: str, count: int, cameras: int, batch: int | None, dtype: torch.dtype, packed: bool
) -> None:
    a = arguments(count, dtype, cameras)
    if colored == "sh by view":
        a["colors"] = a["colors"].expand(cameras, *a["colors"].shape)
    if colored == "plain":
        a |= {"colors": rand(count, 3, dtype=dtype), "sh_degree": None}
    a["backgrounds"] = torch.ones(cameras, 3, dtype=dtype)
    a = a if batch is None else batched(a, batch)
    for mode, channels in MODES:
        leaves = {k: v.clone().requires_grad_(True) for k, v in a.items() if isinstance(v, Tensor)}
        colors, alphas, meta = rasterization(**(a | leaves), render_mode=mode, packed=packed)  # type: ignore[arg-type]
        images = (*(() if batch is None else (batch,)), cameras)
        assert colors.shape == (*images, 32, 40, channels) and alphas.shape == (*images, 32, 40, 1)
        assert all(v is not None for k, v in meta.items() if "_ids" not in k)
        (colors.sum() + alphas.sum()).backward()
        for name, leaf in leaves.items():
            if "RGB" in mode or name not in ("colors", "backgrounds"):
                assert leaf.grad is not None, name
                assert torch.isfinite(leaf.grad).all() and (name == "backgrounds" or (leaf.grad == 0).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [*BY_GAUSSIAN, "colors by view", "covars"])
def test_broken_gaussians_are_left_out_with_gradients_of_zero(name: str, value: float) -> None:
    a = batched(arguments(12))
    if name == "covars":
        a["covars"] = torch.eye(3).mul(0.05).expand(2, 12, 3, 3).clone()
    if name == "colors by view":
        name, a["colors"] = "colors", torch.stack([a["colors"]] * 2, 1)
    rows = a[name] if name != "colors" or a[name].dim() == 4 else a[name][:, 1]
    rows[1, 3] = value
    hidden = a | {"opacities": a["opacities"].clone(), name: torch.where(torch.isfinite(a[name]), a[name], 1.0)}
    hidden["opacities"][1, 3] = 0
    leaves = {k: v.clone().requires_grad_(True) for k, v in a.items() if isinstance(v, Tensor)}
    colors, _, meta = rasterization(**(a | leaves), packed=False)
    assert torch.equal(colors, rasterization(**hidden)[0])
    assert (meta["radii"][1, :, 3] == 0).all()
    colors.square().sum().backward()
    for leaf in leaves.values():
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()
    assert (leaves["means"].grad[1, 3] == 0).all() and (leaves["means"].grad[0, 3] != 0).any()  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tile_size": 0}, ValueError, "tile_size must be at least 1, got 0"),
        ({"with_ut": True}, NotImplementedError, "with_ut: the unscented transform .* are not supported; undistort"),
        ({"sparse_grad": True, "packed": False}, ValueError, "sparse_grad needs packed and no batch, got packed=False"),
        ({"distributed": True}, NotImplementedError, "distributed: Gaussians over several processes"),
        ({"radial_coeffs": torch.zeros(2, 6)}, NotImplementedError, "radial_coeffs: cameras with lens distortion"),
        ({"viewmats_rs": torch.zeros(2, 4, 4)}, NotImplementedError, "viewmats_rs: cameras that read their picture"),
        ({"rolling_shutter": 1}, NotImplementedError, "rolling_shutter: cameras that read their picture"),
        ({"camera_model": "ftheta"}, NotImplementedError, "camera_model 'ftheta': cameras with lens distortion"),
        ({"camera_model": "f"}, ValueError, "camera_model must be one of pinhole, ortho, fisheye, got 'f'"),
        ({"render_mode": "X"}, ValueError, r"render_mode must be one of RGB, D, ED, RGB\+D, RGB\+ED, got 'X'"),
        ({"rasterize_mode": "mip"}, ValueError, "rasterize_mode must be one of classic, antialiased, got 'mip'"),
        ({"quats": torch.zeros(30, 3)}, ValueError, r"quats must have shape \[N, 4\] = \[30, 4\], got \[30, 3\]"),
        ({"quats": None}, TypeError, "quats must be a torch.Tensor, got NoneType"),
        ({"means": [[0.0, 0, 0]]}, TypeError, "means must be a torch.Tensor, got list"),
        ({"means": torch.zeros(3)}, ValueError, r"means must have shape \[..., N, 3\], got \[3\]"),
        (
            {"backgrounds": torch.zeros(1, 3)},
            ValueError,
            r"backgrounds must have shape \[C, 3\] = \[2, 3\], got \[1, 3\]",
        ),
        (
            {"colors": torch.zeros(30, 3)},
            ValueError,
            r"colors must have shape \[N, K, 3\] = \[30, K, 3\], got \[30, 3\]",
        ),
        ({"sh_degree": 1.0}, TypeError, "sh_degree must be an int, got float 1.0"),
        ({"sh_degree": 5}, ValueError, "sh_degree must be in 0 .. 4, got 5"),
        ({"colors": torch.zeros(30, 4, 3)}, ValueError, "colors must hold 9 coefficients for sh_degree 2, got 4"),
        ({"width": 40.0}, TypeError, "width must be an int, got float 40.0"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rasterization(**(arguments() | change))


def test_a_background_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backgrounds must have shape \[2, C, 3\] = \[2, 2, 3\], got \[2, 3\]"):
        rasterization(**batched(arguments()), backgrounds=torch.zeros(2, 3))
