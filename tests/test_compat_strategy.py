"""The strategies for gsplat's training scripts against gsplat 1.5.3's own: the same decisions, and with the same random
numbers the same Gaussians, moments and statistics."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import splat.compat.gsplat as ours
from splat.compat.gsplat.relocation import compute_relocation
from splat.compat.gsplat.strategy import ops
from splat.core.random import Purpose, normal, weighted_samples
from splat.scene.densify import mcmc as our_mcmc
from splat.scene.densify.base import Moment
from tests.scenes import scene3d

theirs = pytest.importorskip("gsplat.strategy", reason="gsplat (a dev extra) is the oracle here")
their_default = pytest.importorskip("gsplat.strategy.default", reason="gsplat (a dev extra) is the oracle here")
their_ops = pytest.importorskip("gsplat.strategy.ops", reason="gsplat (a dev extra) is the oracle here")
kernels = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")

COUNT = 60
SEED = 12345
Gaussians = dict[str, torch.nn.Parameter]


def rand(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def relocated(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """What gsplat's kernel computes, a Gaussian at a time, in float64."""
    flat = opacities.double().flatten()
    new = 1 - (1 - flat) ** (1 / ratios.double())
    factors = []
    for o, p, n in zip(flat, new, ratios.tolist(), strict=True):
        terms = [
            binoms[i - 1, k].double() * (-1) ** k / (k + 1) ** 0.5 * p ** (k + 1)
            for i in range(1, min(n, 51) + 1)
            for k in range(i)
        ]
        factors.append(o / torch.stack(terms).sum())
    return new.float().view_as(opacities), (torch.stack(factors)[:, None] * scales).float()


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw what splat draws with one seed; gsplat's kernels are replaced by torch."""
    monkeypatch.setattr(ops, "_draw", lambda: Moment(0, 0.0, 0.0, 1, SEED, 1.0))
    chosen: list[Tensor] = []

    def split(params: Any, optimizers: Any, state: Any, mask: Tensor, revised_opacity: bool = False) -> None:
        chosen.append(mask.nonzero()[:, 0])
        their_ops.split(params, optimizers, state, mask, revised_opacity)

    monkeypatch.setattr(their_default, "split", split)
    monkeypatch.setattr(
        torch, "randn", lambda *_, device: normal(SEED, 0, Purpose.SPLIT, chosen[-1], 6).view(-1, 2, 3).transpose(0, 1)
    )
    monkeypatch.setattr(
        torch, "randn_like", lambda means: normal(SEED, 0, Purpose.NOISE, torch.arange(len(means)), 3).to(means)
    )

    def drawn(weights: Tensor, count: int) -> Tensor:  # whatever the last bits of the weights
        return weighted_samples(SEED, 0, (weights * 4096).round() / 4096, count)

    monkeypatch.setattr(their_ops, "_multinomial_sample", lambda weights, n, replacement: drawn(weights, n))
    monkeypatch.setattr(our_mcmc, "weighted_samples", lambda seed, iteration, weights, n: drawn(weights, n))
    monkeypatch.setattr(their_ops, "compute_relocation", relocated)
    monkeypatch.setattr(their_ops, "quat_scale_to_covar_preci", kernels._quat_scale_to_covar_preci)


def start(columns: tuple[int, ...] = ()) -> tuple[Gaussians, dict[str, torch.optim.Optimizer]]:
    """Gaussians of many sizes and opacities, one step of Adam old. columns: (1,) for opacities [N, 1]."""
    values = {
        "means": rand(COUNT, 3),
        "scales": rand(COUNT, 3, seed=1) * 6 - 6.5,
        "quats": rand(COUNT, 4, seed=2) - 0.4,
        "opacities": (rand(COUNT, *columns, seed=3) - 0.6) * 14,
        "sh0": rand(COUNT, 1, 3, seed=4),
        "features": rand(COUNT, 7, seed=6),
        "labels": torch.arange(COUNT).float(),
    }
    params = {k: torch.nn.Parameter(v, requires_grad=k != "labels") for k, v in values.items()}
    optimizers = {k: torch.optim.Adam([{"params": v}], lr=1e-3) for k, v in params.items() if k != "labels"}
    for name, optimizer in optimizers.items():
        params[name].grad = rand(*params[name].shape, seed=7) - 0.5
        optimizer.step()
    return params, optimizers


def seen(step: int, count: int, packed: bool, cameras: int = 2) -> dict[str, Any]:
    """What `rasterization` might tell."""
    radii = (rand(cameras, count, 2, seed=step) * 14 - 2).clamp_min(0).int()
    means2d = torch.zeros(cameras, count, 2)
    grads = (rand(cameras, count, 2, seed=100 + step) - 0.5) * 2e-3 * rand(count, 1, seed=200 + step)
    where = (radii > 0).all(-1)
    info = {"width": 40, "height": 32, "n_cameras": cameras, "gaussian_ids": None}
    if packed:
        means2d, grads, radii = means2d[where], grads[where], radii[where]
        info["gaussian_ids"] = where.nonzero()[:, 1]
    means2d.requires_grad_(True)
    means2d.grad, means2d.absgrad = grads, grads.abs() * 1.5  # type: ignore[attr-defined]
    return info | {"means2d": means2d, "radii": radii}


def assert_same(mine: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Parameters, optimisers and state."""
    (params, optimizers, state), (their_params, their_optimizers, their_state) = mine, other
    assert list(params) == list(their_params) and set(optimizers) == set(their_optimizers)
    for name, param in params.items():
        assert isinstance(param, torch.nn.Parameter) and param.requires_grad == their_params[name].requires_grad
        torch.testing.assert_close(param, their_params[name], rtol=2e-5, atol=2e-6, msg=name)
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["params"] == [params[name]] and list(optimizer.state) == [params[name]]
        own, their_own = optimizer.state[params[name]], their_optimizers[name].state[their_params[name]]
        assert set(own) == set(their_own) == {"step", "exp_avg", "exp_avg_sq"}
        for entry in own:
            torch.testing.assert_close(own[entry], their_own[entry], rtol=0, atol=0, msg=f"{name}.{entry}")
    assert set(state) == set(their_state)
    for name, value in state.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, their_state[name], msg=name)


def with_fields(changes: dict[str, Any]) -> list[Any]:
    """Both default strategies, refining at every other step."""
    fields = {"refine_start_iter": 8, "refine_every": 2, "reset_every": 8, "prune_opa": 0.002, "prune_scale3d": 0.2}
    return [s.DefaultStrategy(**(fields | changes)) for s in (ours, theirs)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"absgrad": True},
        {"revised_opacity": True},
        {"refine_scale2d_stop_iter": 14, "grow_scale2d": 0.24, "prune_scale2d": 0.28},
        {"pause_refine_after_reset": 3},
        {"refine_stop_iter": 11},
        {"reset_every": 1000},
    ],
)
def test_default_decides_as_gsplat(
    same_numbers: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], packed: bool
) -> None:
    results, decisions = [], []
    # gsplat keeps the radius of the last camera, not the largest.
    cameras = 1 if "refine_scale2d_stop_iter" in changes else 2
    for strategy in with_fields(changes):
        params, optimizers = start()
        strategy.check_sanity(params, optimizers)
        state = strategy.initialize_state(scene_scale=1.7)
        decided: list[Any] = []
        for name in ("_grow_gs", "_prune_gs"):
            monkeypatch.setattr(strategy, name, spied(getattr(strategy, name), decided))
        for step in range(9, 16):  # between two resets, which gsplat 1.5.3 forgets
            info = seen(step, len(params["means"]), packed, cameras)
            strategy.step_pre_backward(params, optimizers, state, step, info)
            strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        results.append((params, optimizers, state))
        decisions.append(decided)
        assert decided[0][0] > 0 and decided[0][1] > 0 and decided[1] > 0
    assert decisions[0] == decisions[1]
    assert_same(*results)


def spied(function: Callable[..., Any], log: list[Any]) -> Callable[..., Any]:
    """The function, with what it returns noted."""

    def call(*args: Any) -> Any:
        log.append(function(*args))
        return log[-1]

    return call


def test_opacities_are_reset_at_the_steps_said() -> None:
    """gsplat 1.5.3 does not: `step % self.reset_every == 0 & step > 0` never holds (its pull request 776)."""
    strategy = with_fields({})[0]
    params, optimizers = start()
    state = strategy.initialize_state()
    for step, capped in ((0, False), (7, False), (8, True), (12, False), (16, True)):
        before = deepcopy(params)
        strategy.step_post_backward(params, optimizers, state, step, seen(step, len(params["means"]), False))
        if len(params["means"]) == len(before["means"]):
            assert torch.equal(params["means"], before["means"])
            wanted = before["opacities"].clamp_max(torch.logit(torch.tensor(0.004)).item())
            assert torch.equal(params["opacities"], wanted if capped else before["opacities"])
            moments = optimizers["opacities"].state[params["opacities"]]["exp_avg"]
            assert bool((moments == 0).all()) == capped or step > 8
        else:
            assert not capped or params["opacities"].sigmoid().max() <= 0.00401


def test_largest_radius_of_several_cameras_counts() -> None:
    strategy = ours.DefaultStrategy(refine_scale2d_stop_iter=100)
    params, optimizers = start()
    state = strategy.initialize_state()
    info = seen(3, COUNT, False)
    strategy.step_post_backward(params, optimizers, state, 1, info)
    both = (info["radii"] > 0).all(-1, keepdim=True) * info["radii"]
    torch.testing.assert_close(state["radii"], both.amax((0, 2)) / 40)


@pytest.mark.parametrize("columns", [(), (1,)])
def test_mcmc_decides_as_gsplat(same_numbers: None, columns: tuple[int, ...]) -> None:
    results = []
    for module in (ours, theirs):
        strategy = module.MCMCStrategy(cap_max=64, refine_start_iter=2, refine_every=2, noise_lr=50, min_opacity=0.02)
        params, optimizers = start(columns)
        strategy.check_sanity(params, optimizers)
        state = strategy.initialize_state()
        counts = []
        for step in range(7):
            strategy.step_post_backward(params, optimizers, state, step, {}, lr=0.01)
            counts.append(len(params["means"]))
        assert counts == [60, 60, 60, 60, 63, 63, 64] and params["opacities"].sigmoid().min() > 0.0199
        assert params["opacities"].shape == (64, *columns)
        results.append((params, optimizers, state))
    assert_same(*results)


def test_noise_moves_faint_gaussians_by_their_covariance() -> None:
    params, optimizers = start()
    before = params["means"].detach().clone()
    ops.inject_noise_to_position(params, optimizers, {}, scaler=1.0)
    moved = (params["means"] - before).norm(dim=-1)
    opacities = params["opacities"].sigmoid()
    assert moved[opacities < 0.001].min() > 0 and moved[opacities > 0.5].max() < 1e-6
    ops.inject_noise_to_position(params, optimizers, {}, scaler=0.0)


BINOMS = ours.MCMCStrategy().initialize_state()["binoms"]
MASK = rand(COUNT, seed=9) < 0.3
OPS: dict[str, Callable[..., None]] = {
    "duplicate": lambda o, *a: o.duplicate(*a, mask=MASK),
    "split": lambda o, *a: o.split(*a, mask=MASK),
    "remove": lambda o, *a: o.remove(*a, mask=MASK),
    "reset_opa": lambda o, *a: o.reset_opa(*a, value=0.01),
    "relocate": lambda o, *a: o.relocate(*a, mask=MASK, binoms=BINOMS, min_opacity=0.01),
    "sample_add": lambda o, *a: o.sample_add(*a, n=20, binoms=BINOMS),
    "inject_noise_to_position": lambda o, *a: o.inject_noise_to_position(*a, scaler=0.3),
}


@pytest.mark.parametrize("name", OPS)
def test_each_change_is_gsplats(same_numbers: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = MASK.nonzero()[:, 0]
    halves = normal(SEED, 0, Purpose.SPLIT, rows, 6).view(-1, 2, 3).transpose(0, 1)
    monkeypatch.setattr(torch, "randn", lambda *_, device: halves)
    results = []
    for module in (ops, their_ops):
        params, optimizers = start()
        if name == "reset_opa":
            params = {k: v for k, v in params.items() if k == "opacities"}
            optimizers = {k: v for k, v in optimizers.items() if k == "opacities"}
        state = {"grad2d": rand(COUNT, seed=8), "scene_scale": 2.0}
        if name == "sample_add":
            state.pop("scene_scale")  # gsplat wants tensors only here
        OPS[name](module, params, optimizers, state)
        results.append((params, optimizers, state))
    assert_same(*results)


def test_the_binomials_are_gsplats() -> None:
    assert torch.equal(BINOMS, theirs.MCMCStrategy().initialize_state()["binoms"])


def test_relocation_is_that_of_gsplats_kernel_and_keeps_its_ratios() -> None:
    opacities, scales = rand(COUNT) * 0.98 + 0.01, rand(COUNT, 3, seed=1)
    ratios = torch.arange(COUNT)
    new, grown = compute_relocation(opacities, scales, ratios, BINOMS)
    want, want_scales = relocated(opacities, scales, ratios.clamp(1, 51), BINOMS)
    torch.testing.assert_close(new, want)
    few = ratios < 12  # float64 loses digits beyond: the sum alternates
    torch.testing.assert_close(grown[few], want_scales[few])
    assert torch.equal(ratios, torch.arange(COUNT))


def test_a_seed_repeats_a_run_and_another_does_not() -> None:
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        params, optimizers = start()
        ops.split(params, optimizers, {}, MASK)
        ops.relocate(params, optimizers, {}, params["opacities"].flatten() < -4, BINOMS)
        runs.append(params["means"])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_optimisers_without_state_stay_without() -> None:
    params, _ = start()
    optimizers = {k: torch.optim.Adam([v]) for k, v in params.items() if k != "labels"}
    ops.duplicate(params, optimizers, {}, MASK)
    assert all(not o.state and len(o.param_groups[0]["params"][0]) == COUNT + MASK.sum() for o in optimizers.values())


def test_both_strategies_refuse_parameters_without_an_optimiser() -> None:
    params, optimizers = start()
    for strategy in (ours.DefaultStrategy(), ours.MCMCStrategy()):
        with pytest.raises(ValueError, match=r"optimizers must be of .*'means'.* which require gradients"):
            strategy.check_sanity(params, {k: v for k, v in optimizers.items() if k != "means"})
        with pytest.raises(ValueError, match="params must hold quats"):
            some = {k: v for k, v in params.items() if k != "quats"}
            strategy.check_sanity(some, {k: v for k, v in optimizers.items() if k != "quats"})
    strategy = ours.DefaultStrategy()
    info = {**seen(1, COUNT, False), "means2d": torch.zeros(2, COUNT, 2)}
    with pytest.raises(ValueError, match=r"info\['means2d'\] has no gradient; call step_pre_backward before"):
        strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 1, info)
    with pytest.raises(ValueError, match="info must hold 'width'"):
        strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 1, {})


def train(gsplat: Any, mcmc: bool, steps: int = 13) -> tuple[dict[str, Tensor], list[int]]:
    """A training script as gsplat's users write it."""
    s = scene3d(COUNT, 3)
    target, _, _ = gsplat.rasterization(
        s.means, s.quats, s.scales, s.opacities, torch.cat([s.sh0, s.shN], 1), s.viewmats, s.Ks, 40, 32, sh_degree=2
    )
    params = torch.nn.ParameterDict(
        {
            "means": torch.nn.Parameter(s.means + 0.1 * (rand(COUNT, 3) - 0.5)),
            "scales": torch.nn.Parameter(s.scales.log()),
            "quats": torch.nn.Parameter(s.quats),
            "opacities": torch.nn.Parameter(torch.linspace(-7, 3, COUNT)),
            "sh0": torch.nn.Parameter(torch.zeros(COUNT, 1, 3)),
            "shN": torch.nn.Parameter(torch.zeros(COUNT, 8, 3)),
        }
    )
    optimizers = {
        name: torch.optim.Adam([{"params": value, "lr": 1e-3, "name": name}], eps=1e-15)
        for name, value in params.items()
    }
    if mcmc:
        strategy = gsplat.MCMCStrategy(cap_max=70, refine_start_iter=1, refine_every=4, noise_lr=100.0)
        state = strategy.initialize_state()
    else:
        strategy = gsplat.DefaultStrategy(refine_start_iter=1, refine_every=4, grow_grad2d=2e-3)
        state = strategy.initialize_state(scene_scale=10.0)
    strategy.check_sanity(params, optimizers)
    counts = []
    for step in range(steps):
        view = slice(step % 3, step % 3 + 1)
        renders, _, info = gsplat.rasterization(
            means=params["means"],
            quats=params["quats"],
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]),
            colors=torch.cat([params["sh0"], params["shN"]], 1),
            viewmats=s.viewmats[view],
            Ks=s.Ks[view],
            width=40,
            height=32,
            packed=False,
            sh_degree=min(step // 4, 2),
        )
        strategy.step_pre_backward(params=params, optimizers=optimizers, state=state, step=step, info=info)
        loss = torch.nn.functional.l1_loss(renders, target[view])
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        own = {"lr": 1e-3} if mcmc else {"packed": False}
        strategy.step_post_backward(params=params, optimizers=optimizers, state=state, step=step, info=info, **own)
        counts.append(len(params["means"]))
    return {k: v.detach() for k, v in params.items()}, counts


@pytest.mark.parametrize("mcmc", [False, True])
def test_a_training_script_runs_unchanged(same_numbers: None, mcmc: bool) -> None:
    """As it is with our strategies and with gsplat's own."""
    params, counts = train(ours, mcmc)
    mixed = SimpleNamespace(
        rasterization=ours.rasterization, DefaultStrategy=theirs.DefaultStrategy, MCMCStrategy=theirs.MCMCStrategy
    )
    their_params, their_counts = train(mixed, mcmc)
    assert counts == their_counts and len(set(counts)) > 1
    for name, value in params.items():
        torch.testing.assert_close(value, their_params[name], rtol=1e-3, atol=1e-4)
