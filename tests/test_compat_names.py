"""`import splat.compat.gsplat as gsplat`: names, places, signatures; what is not supported; the optimiser."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import splat.compat.gsplat as gsplat
from splat.compat.adam import adam
from splat.compat.gsplat.cuda import _wrapper
from splat.compat.gsplat.distributed import cli
from splat.compat.gsplat.optimizers import SelectiveAdam
from tests.scenes import scene3d

real = pytest.importorskip("gsplat", reason="gsplat (a dev extra) is the oracle here")

MODULES = ["cuda._wrapper", "rendering", "strategy.ops", "exporter", "relocation", "optimizers", "compression", "utils"]
UNSUPPORTED = [
    "accumulate_2dgs",
    "fully_fused_projection_2dgs",
    "fully_fused_projection_with_ut",
    "rasterization_2dgs",
    "rasterization_2dgs_inria_wrapper",
    "rasterization_inria_wrapper",
    "rasterize_to_indices_in_range_2dgs",
    "rasterize_to_pixels_2dgs",
    "rasterize_to_pixels_eval3d",
]


def test_every_public_name_is_there() -> None:
    wanted = set(real.all) | {"SelectiveAdam"}
    assert wanted == set(gsplat.__all__)
    assert all(hasattr(gsplat, name) for name in wanted) and gsplat.__version__ == real.__version__


@pytest.mark.parametrize("name", ["", *MODULES])
def test_functions_have_gsplats_arguments(name: str) -> None:
    """Names, order and defaults of every function that both have."""
    ours = import_module(f"splat.compat.gsplat.{name}".rstrip("."))
    theirs = import_module(f"gsplat.{name}".rstrip("."))
    compared = 0
    for attribute, function in vars(theirs).items():
        mine = getattr(ours, attribute, None)
        if attribute in UNSUPPORTED or attribute.startswith("_") or not inspect.isfunction(function) or mine is None:
            continue
        wanted, got = (inspect.signature(f).parameters for f in (function, mine))
        assert list(got) == list(wanted), attribute
        for parameter, value in wanted.items():
            if parameter != "rolling_shutter":  # an enum of gsplat's
                assert got[parameter].default == value.default, f"{attribute}: {parameter}"
        compared += 1
    assert compared or name in ("optimizers", "compression")


@pytest.mark.parametrize("name", ["DefaultStrategy", "MCMCStrategy", "PngCompression", "Strategy", "SelectiveAdam"])
def test_classes_have_gsplats_fields_and_methods(name: str) -> None:
    ours, theirs = getattr(gsplat, name), getattr(real, name)
    wanted, got = (list(inspect.signature(c).parameters.values()) for c in (theirs, ours))
    assert [(p.name, p.default) for p in got] == [(p.name, p.default) for p in wanted]
    for method, function in inspect.getmembers(theirs, inspect.isfunction):
        if method in vars(theirs) and not method.startswith("_") and name != "Strategy":
            assert list(inspect.signature(getattr(ours, method)).parameters) == list(
                inspect.signature(function).parameters
            ), method


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_says_so_and_what_instead(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name}: .*(; | are not supported)"):
        getattr(gsplat, name)(1, 2, three=3)


def test_the_shutter_that_is_supported_is_taken_and_others_are_not() -> None:
    s = scene3d(3)
    a = (s.means, s.quats, s.scales, s.opacities, torch.rand(3, 3), s.viewmats, s.Ks, 40, 32)
    gsplat.rasterization(*a, rolling_shutter=gsplat.RollingShutterType.GLOBAL)
    assert [m.name for m in gsplat.RollingShutterType] == [m.name for m in real.RollingShutterType]
    with pytest.raises(NotImplementedError, match="rolling_shutter: cameras that read"):
        gsplat.rasterization(*a, rolling_shutter=gsplat.RollingShutterType.ROLLING_TOP_TO_BOTTOM)


SCRIPT = """
import sys
import splat.compat.gsplat
{before}
splat.compat.gsplat.stand_in()
import gsplat
from gsplat import DefaultStrategy
from gsplat.cuda._wrapper import isect_tiles
from gsplat.strategy import DefaultStrategy as same
from gsplat.strategy.ops import remove
import gsplat.rendering
assert DefaultStrategy is same is splat.compat.gsplat.DefaultStrategy and gsplat is splat.compat.gsplat
assert gsplat.rendering.rasterization is splat.rasterization and remove.__module__.startswith("splat.")
splat.compat.gsplat.stand_in()
assert "imageio" not in sys.modules
"""


def test_it_can_stand_in_for_gsplat_in_a_process() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT.format(before="")], check=True)
    late = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before="sys.modules['gsplat'] = sys")], capture_output=True, text=True
    )
    assert "RuntimeError: gsplat has been imported; call stand_in() before anything imports it" in late.stderr


def test_a_script_is_started_as_the_only_process() -> None:
    calls: list[Any] = []
    assert cli(lambda *a: calls.append(a), "args") and calls == [(0, 0, 1, "args")]


def rand(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_adam(param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, seen: Tensor, how: tuple[float, ...]) -> None:
    """gsplat's kernel in float64."""
    lr, b1, b2, eps = how
    for i in seen.nonzero()[:, 0].tolist():
        mean[i] = b1 * mean[i] + (1 - b1) * grad[i]
        square[i] = b2 * square[i] + (1 - b2) * grad[i] * grad[i]
        param[i] -= lr * mean[i] / (square[i].sqrt() + eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tail", [(), (3,), (15, 3)])
def test_the_optimiser_moves_what_is_seen_as_gsplats_kernel(tail: tuple[int, ...], dtype: torch.dtype) -> None:
    param = torch.nn.Parameter(rand(20, *tail).to(dtype))
    optimizer = SelectiveAdam([{"params": param, "lr": 0.01, "name": "x"}], eps=1e-8, betas=(0.8, 0.95))
    want = param.detach().double().clone()
    mean, square = torch.zeros_like(want), torch.zeros_like(want)
    for step in range(5):
        seen = rand(20, seed=step) < 0.5
        param.grad = (rand(20, *tail, seed=10 + step) - 0.5).to(dtype)
        optimizer.step(seen if step % 2 else seen.float())
        slow_adam(want, param.grad.double(), mean, square, seen, (0.01, 0.8, 0.95, 1e-8))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    state = optimizer.state[param]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    for got, wanted in ((param.detach(), want), (state["exp_avg"], mean), (state["exp_avg_sq"], square)):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_the_optimiser_survives_a_strategy() -> None:
    param = torch.nn.Parameter(rand(6, 3))
    params = {"means": param}
    optimizers = {"means": SelectiveAdam([{"params": param, "lr": 0.01}], eps=1e-15, betas=(0.9, 0.999))}
    param.grad = torch.ones_like(param)
    optimizers["means"].step(torch.ones(6, dtype=torch.bool))
    params |= {
        n: torch.nn.Parameter(rand(6, *t), False) for n, t in (("scales", (3,)), ("quats", (4,)), ("opacities", ()))
    }
    import_module("splat.compat.gsplat.strategy.ops").remove(params, optimizers, {}, torch.arange(6) < 2)
    params["means"].grad = torch.ones(4, 3)
    before = params["means"].detach().clone()
    optimizers["means"].step(torch.tensor([True, False, True, True]))
    assert ((params["means"] != before).any(1) == torch.tensor([True, False, True, True])).all()


def test_the_kernels_call_takes_no_mask_for_all() -> None:
    tables = [rand(7, 2, seed=i) for i in range(4)]
    wanted = [t.clone().double() for t in tables]
    adam(*tables, None, 0.1, 0.9, 0.999, 1e-8)
    slow_adam(*wanted, torch.ones(7), (0.1, 0.9, 0.999, 1e-8))
    for got, want in zip(tables, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"valid must have shape \[7\], got \[6\]"):
        adam(*tables, torch.ones(6), 0.1, 0.9, 0.999, 1e-8)


def test_the_optimiser_wants_a_tensor_for_each_group() -> None:
    both = SelectiveAdam([rand(3).requires_grad_(), rand(3).requires_grad_()], eps=1e-8, betas=(0.9, 0.999))
    with pytest.raises(ValueError, match="params must be one tensor for each group, got 2"):
        both.step(torch.ones(3))


def test_the_wrapper_has_the_functions_of_the_package() -> None:
    functions: list[Callable[..., Any]] = [getattr(_wrapper, n) for n in _wrapper.__all__ if hasattr(gsplat, n)]
    assert all(getattr(gsplat, f.__name__) is f for f in functions) and len(functions) > 10


def test_the_documentation_has_every_name() -> None:
    text = (Path(__file__).parent.parent / "docs" / "gsplat.md").read_text()
    assert [n for n in (*gsplat.__all__, *UNSUPPORTED, "stand_in") if n not in text and n != "__version__"] == []
