"""gsplat's functions over splat stay on the device of what they are given, and give the same on a GPU as on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import splat.compat.gsplat as gsplat
from splat.compat.gsplat.relocation import compute_relocation
from splat.compat.gsplat.strategy import ops
from splat.core.ops import cuda_archs
from splat.scene.densify import mcmc
from tests.scenes import scene3d

HAS_GPU = torch.cuda.is_available() and bool(cuda_archs())
SIZE = (40, 32)
Values = dict[str, Any]


def values() -> Values:
    """What the functions take, all on the CPU."""
    s = scene3d(20, 2)
    names = ("means", "quats", "scales", "opacities", "viewmats", "Ks")
    v: Values = {name: getattr(s, name) for name in names} | {"coeffs": torch.cat([s.sh0, s.shN], 1)}
    out = gsplat.fully_fused_projection(v["means"], None, v["quats"], v["scales"], v["viewmats"], v["Ks"], *SIZE)
    v |= dict(zip(("radii", "means2d", "depths", "conics"), out, strict=False))
    v["covars"] = gsplat.quat_scale_to_covar_preci(v["quats"], v["scales"], triu=True)[0]
    v["peaks"], v["colors"] = v["opacities"].expand(2, 20).contiguous(), v["coeffs"][:, :2, 0].expand(2, 20, 2)
    _, v["keys"], v["flat"] = gsplat.isect_tiles(v["means2d"], v["radii"], v["depths"], 16, 3, 2)
    v["offsets"] = gsplat.isect_offset_encode(v["keys"], 2, 3, 2)
    v["light"] = torch.ones(2, 32, 40)
    v["masks"] = torch.arange(12).view(2, 2, 3) != 4
    v["ids"] = torch.stack(gsplat.rasterize_to_indices_in_range(0, 9, v["light"], *(v[n] for n in GEOMETRY), *lists(v)))
    v["seen"] = torch.arange(20) % 3 != 0
    v["binoms"] = gsplat.MCMCStrategy().initialize_state()["binoms"]
    return v


GEOMETRY = ("means2d", "conics", "peaks")


def lists(v: Values) -> tuple[Any, ...]:
    return (*SIZE, 16, v["offsets"], v["flat"])


def projection(v: Values, **how: Any) -> Any:
    return gsplat.fully_fused_projection(
        v["means"], None, v["quats"], v["scales"], v["viewmats"], v["Ks"], *SIZE, opacities=v["opacities"], **how
    )


def optimised(v: Values) -> list[Tensor]:
    param = torch.nn.Parameter(v["means"].clone())
    optimizer = gsplat.SelectiveAdam([param], eps=1e-8, betas=(0.9, 0.999))
    param.grad = v["scales"].clone()
    optimizer.step(v["seen"])
    return [param.detach()]


def changed(v: Values) -> list[Tensor]:
    params = {n: torch.nn.Parameter(v[n].clone()) for n in ("means", "scales", "quats", "opacities")}
    optimizers = {n: torch.optim.Adam([p]) for n, p in params.items()}
    torch.manual_seed(3)
    ops.split(params, optimizers, {}, v["seen"])
    ops.relocate(params, optimizers, {}, params["opacities"] < 0.3, v["binoms"])
    ops.sample_add(params, optimizers, {}, 5, v["binoms"])
    ops.inject_noise_to_position(params, optimizers, {}, 1.0)
    ops.reset_opa(params, optimizers, {}, 0.6)
    return [p.detach() for p in params.values()]


def trained(v: Values) -> list[Tensor]:
    names = ("means", "scales", "quats", "opacities")
    params = {n: torch.nn.Parameter(v[n].log() if n == "scales" else v[n].clone()) for n in names}
    optimizers = {n: torch.optim.Adam([p]) for n, p in params.items()}
    strategy = gsplat.DefaultStrategy(refine_start_iter=0, refine_every=1, refine_scale2d_stop_iter=9, grow_grad2d=1e-4)
    state = strategy.initialize_state()
    shape = (params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid())
    image, _, info = gsplat.rasterization(*shape, v["coeffs"], v["viewmats"], v["Ks"], *SIZE, sh_degree=1, packed=True)
    strategy.step_pre_backward(params, optimizers, state, 1, info)
    image.square().mean().backward()
    torch.manual_seed(3)
    strategy.step_post_backward(params, optimizers, state, 1, info, packed=True)
    return [params["opacities"].detach(), state["count"], *(info[n] for n in ("isect_ids", "flatten_ids"))]


CALLS: dict[str, Callable[[Values], Any]] = {
    "covariances": lambda v: gsplat.quat_scale_to_covar_preci(v["quats"], v["scales"]),
    "projection": lambda v: projection(v, calc_compensations=True),
    "packed projection": lambda v: projection(v, packed=True),
    "projection of covars": lambda v: gsplat.fully_fused_projection(
        v["means"], v["covars"], None, None, v["viewmats"], v["Ks"], *SIZE
    ),
    "harmonics": lambda v: [gsplat.spherical_harmonics(2, v["means"], v["coeffs"], v["seen"])],
    "lists": lambda v: gsplat.isect_tiles(v["means2d"], v["radii"], v["depths"], 16, 3, 2),
    "offsets": lambda v: [gsplat.isect_offset_encode(v["keys"], 2, 3, 2)],
    "pixels": lambda v: gsplat.rasterize_to_pixels(
        v["means2d"], v["conics"], v["colors"], v["peaks"], *lists(v), masks=v["masks"]
    ),
    "listed splats": lambda v: gsplat.rasterize_to_indices_in_range(
        0, 9, v["light"], *(v[n] for n in GEOMETRY), *lists(v)
    ),
    "accumulation": lambda v: gsplat.accumulate(*(v[n] for n in GEOMETRY), v["colors"], *v["ids"], *SIZE),
    "relocation": lambda v: compute_relocation(v["opacities"], v["scales"], v["seen"] * 3 + 1, v["binoms"]),
    "optimiser": optimised,
    "changes": changed,
    "default strategy": trained,
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_made_on_another_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With torch's default device set to one that holds no values, which cannot be mixed with what is given."""
    v = values()
    table = mcmc._binomials(torch.device("cpu"))  # made on the default device, then copied
    monkeypatch.setattr(mcmc, "_binomials", lambda device: table)
    want = CALLS[name](v)
    with torch.device("meta"):
        got = CALLS[name](v)
    for x, y in zip(got, want, strict=True):
        assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU, a CUDA build of torch, and CUDA kernels in the build")
@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_gives_the_same(name: str) -> None:
    v = values()
    on_gpu = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in v.items()}
    for x, y in zip(CALLS[name](on_gpu), CALLS[name](v), strict=True):
        assert (x is None and y is None) or x.is_cuda
        if x is not None:
            torch.testing.assert_close(x.cpu(), y, rtol=1e-3, atol=1e-3)
