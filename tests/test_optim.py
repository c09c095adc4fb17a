"""Training steps: fused, by stages, and on the emulated GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, replace

import pytest
import torch
from torch import Tensor

import splat
from splat.core.adam import AdamRule
from splat.core.project import Splats2D
from splat.core.sh import sh_colors
from splat.optim import GaussianAdam, LearningRates, Penalties, Step
from splat.rendering import Rendered, draw
from tests.emu.emulator import Emulator, build

RATES = LearningRates(0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
EXACT = AdamRule(epsilon=1e-8)  # with 1e-15 a gradient of rounding alone moves as far as any other


def scene(count: int = 200, degree: int = 3, cameras: int = 1) -> tuple[splat.Gaussians, splat.Cameras]:
    gaussians = splat.Gaussians.random(count, sh_degree=degree)
    return gaussians, splat.Cameras.orbit(cameras, radius=1.2, width=50, height=37)  # some are behind the camera


def loss_of(view: Rendered) -> Tensor:
    target = torch.linspace(0, 1, view.color.numel()).view_as(view.color)
    return 100 * (splat.photometric_loss(view.color, target) + 0.1 * view.depth.mean() + view.alpha.mean())


def tables(adam: GaussianAdam) -> dict[str, Tensor]:
    """Everything that a step changes."""
    parts = {"param": adam.gaussians.parameters(), "exp_avg": adam.exp_avg, "exp_avg_sq": adam.exp_avg_sq}
    return {f"{part} {name}": t.clone() for part, each in parts.items() for name, t in each.items()} | {
        "steps": adam.steps.clone()
    }


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Relative to how far the step moved each table."""
    for name, value in wanted.items():
        moved = (value - before[name]).double().norm()
        assert (got[name] - value).double().norm() <= 2e-4 * moved, name


PULLS = Penalties(opacity=0.3, scale=0.2)


@pytest.mark.parametrize("penalties", [Penalties(), PULLS], ids=["plain", "penalties"])
@pytest.mark.parametrize("visible_only", [False, True])
@pytest.mark.parametrize("degree", [0, 2, 3, 4])
def test_a_fused_step_is_the_step_by_stages(degree: int, visible_only: bool, penalties: Penalties) -> None:
    gaussians, cameras = scene(degree=degree)
    both = [
        GaussianAdam(gaussians, RATES, rule=EXACT, visible_only=visible_only, penalties=penalties) for _ in range(2)
    ]
    background = torch.tensor([0.2, 0.4, 0.1])
    for _ in range(3):
        before = tables(both[0])
        steps = [
            adam.step(cameras, loss_of, background=background, sh_degree=min(degree, 3), fused=fused)
            for adam, fused in zip(both, (True, False), strict=True)
        ]
        assert torch.equal(steps[0].loss, steps[1].loss)
        after = [tables(adam) for adam in both]
        assert_close(after[0], after[1], before)
        means2d = [s.rendered.info.splats.means2d.grad for s in steps]
        assert means2d[0] is not None and torch.equal(means2d[0], means2d[1])  # type: ignore[arg-type]
        for adam in both:  # so that differences of the next step are its own
            for name, value in after[0].items():
                table, _, key = name.partition(" ")
                target = adam.steps if name == "steps" else {**_parts(adam)}[table][key]
                target.copy_(value)
    hidden = (steps[0].rendered.info.splats.radii == 0).any(-1)[0]
    assert hidden.any() and not hidden.all()
    assert (both[0].steps[hidden] < 3).any() == visible_only


def _parts(adam: GaussianAdam) -> dict[str, dict[str, Tensor]]:
    return {"param": adam.gaussians.parameters(), "exp_avg": adam.exp_avg, "exp_avg_sq": adam.exp_avg_sq}


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_torchs_adam(fused: bool) -> None:
    gaussians, cameras = scene()
    ours = GaussianAdam(gaussians, RATES, rule=AdamRule(epsilon=1e-4))
    theirs = gaussians.map(lambda t: t.clone().requires_grad_())
    groups = [{"params": [t], "lr": r} for t, r in zip(theirs.parameters().values(), astuple(RATES), strict=True)]
    adam = torch.optim.Adam(groups, eps=1e-4)
    for k in range(4):
        before = ours.gaussians.map(torch.clone).parameters()
        adam.zero_grad()
        loss_of(splat.render(theirs, cameras)).backward()
        adam.step()
        ours.step(cameras, loss_of, fused=fused)
        for name, value in theirs.parameters().items():
            moved = (value - before[name]).norm()
            difference = (ours.gaussians.parameters()[name] - value).norm()
            assert difference <= 1e-3 * moved, (k, name)


def test_several_cameras_and_posed_ones_are_stepped_by_stages() -> None:
    gaussians, cameras = scene(cameras=3)
    adam = GaussianAdam(gaussians, RATES)
    losses = [float(adam.step(cameras, loss_of).loss) for _ in range(15)]
    assert losses[-1] < 0.8 * losses[0]
    _, one = scene()
    posed = replace(one, viewmats=one.viewmats.clone().requires_grad_())
    adam.step(posed, loss_of)
    assert posed.viewmats.grad is not None and posed.viewmats.grad.any()
    for wrong in (cameras, posed):
        with pytest.raises(ValueError, match="fused needs one camera"):
            adam.step(wrong, loss_of, fused=True)


def test_a_loss_on_the_stored_tensors_themselves() -> None:
    gaussians, cameras = scene()
    adam = GaussianAdam(gaussians, RATES)
    before = adam.gaussians.opacity_logits.clone()
    for _ in range(3):
        adam.step(cameras, lambda view: 0 * view.color.sum() + adam.gaussians.opacity_logits.sum(), fused=False)
    assert (adam.gaussians.opacity_logits < before).all()
    assert not any(t.requires_grad for t in adam.gaussians.parameters().values())


def test_the_reference_steps_too() -> None:
    gaussians, cameras = scene(60)
    results = []
    for backend in ("cpu", "reference"):
        adam = GaussianAdam(gaussians, RATES, rule=EXACT)
        before = tables(adam)
        adam.step(cameras, loss_of, backend=backend)  # type: ignore[arg-type]
        results.append(tables(adam))
    for name in ("exp_avg means", "exp_avg shN", "exp_avg opacity_logits"):
        moved = (results[1][name] - before[name]).norm()
        assert (results[0][name] - results[1][name]).norm() <= 1e-3 * moved, name


@pytest.mark.parametrize("fused", [True, False])
def test_nothing_moves_where_the_lists_did_not_fit(fused: bool) -> None:
    gaussians, cameras = scene()
    adam, plain = GaussianAdam(gaussians, RATES), GaussianAdam(gaussians, RATES)

    def step(adam: GaussianAdam, room: splat.ListRoom | None) -> Step:
        return adam.step(cameras, loss_of, options=splat.RenderOptions(room=room), fused=fused)

    tiles = step(plain, None).rendered.info.tiles
    assert tiles is not None
    needed = tiles.room(1.0)
    before = tables(adam)
    tight = splat.ListRoom(needed.entries - 1, needed.visible)
    missed = step(adam, tight)
    assert missed.rendered.info.tiles is not None and missed.rendered.info.tiles.overflowed(tight)
    assert all(torch.equal(v, before[name]) for name, v in tables(adam).items())
    step(adam, missed.rendered.info.tiles.room())  # the next one is as if nothing had happened
    assert all(torch.equal(v, tables(plain)[name]) for name, v in tables(adam).items())


def test_broken_gaussians_stay_where_they_are() -> None:
    gaussians, cameras = scene()
    for k, name in enumerate(("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")):
        getattr(gaussians, name)[k] = torch.nan
    adam = GaussianAdam(gaussians, RATES)
    for _ in range(2):
        assert adam.step(cameras, loss_of).loss.isfinite()
    for name, value in adam.gaussians.parameters().items():
        assert int(value.isnan().flatten(1).any(1).sum() if value.dim() > 1 else value.isnan().sum()) == 1, name


@pytest.mark.parametrize("fused", [True, False])
def test_penalties_move_also_what_no_camera_sees(fused: bool) -> None:
    gaussians, cameras = scene()
    plain, pulled = (GaussianAdam(gaussians, RATES, rule=EXACT, penalties=p) for p in (Penalties(), PULLS))
    for adam in (plain, pulled):
        seen = adam.step(cameras, loss_of, fused=fused).rendered.info.splats.radii[0, :, 0] > 0
    assert not seen.all()
    hidden = ~seen
    assert torch.equal(plain.gaussians.log_scales[hidden], gaussians.log_scales[hidden])
    assert (pulled.gaussians.log_scales[hidden] < gaussians.log_scales[hidden]).all()
    assert (pulled.gaussians.opacity_logits[hidden] < gaussians.opacity_logits[hidden]).all()
    with pytest.raises(ValueError, match="scale must be a finite weight, not negative, got -1"):
        Penalties(scale=-1)


def test_rates_can_change_and_must_be_rates() -> None:
    gaussians, cameras = scene()
    adam = GaussianAdam(gaussians)
    adam.set_rates(LearningRates(*[0.0] * 6))
    before = adam.gaussians.map(torch.clone).parameters()
    adam.step(cameras, loss_of)
    assert all(torch.equal(v, before[name]) for name, v in adam.gaussians.parameters().items())
    with pytest.raises(ValueError, match="quats must be a finite learning rate, not negative, got -1"):
        LearningRates(quats=-1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("stored", "degree", "visible_only", "skip"),
    [
        (0, 0, False, None),
        (2, 2, True, None),
        (3, 1, False, None),
        (3, 3, False, False),
        (4, 2, False, None),
        (4, 4, True, None),
        (3, 3, False, True),
    ],
)
def test_the_emulated_step_is_the_cpus(
    reverse: bool, stored: int, degree: int, visible_only: bool, skip: bool | None
) -> None:
    gaussians, cameras = scene(degree=stored)
    penalties = PULLS if degree == 2 else Penalties()
    ours, theirs = (
        GaussianAdam(gaussians, RATES, rule=EXACT, visible_only=visible_only, penalties=penalties) for _ in range(2)
    )
    for adam in (ours, theirs):
        g = torch.Generator().manual_seed(0)
        adam.steps.copy_(torch.randint(0, 9, (len(gaussians),), generator=g))
        for name in adam.exp_avg:
            adam.exp_avg[name].copy_(1e-2 * torch.randn(adam.exp_avg[name].shape, generator=g))
            adam.exp_avg_sq[name].copy_(1e-3 * torch.rand(adam.exp_avg[name].shape, generator=g))
    before = tables(ours)
    done = ours.step(cameras, loss_of, sh_degree=degree)
    made = done.rendered.info.splats
    harmonics = (gaussians.sh0, gaussians.shN, made.radii, degree)
    colors = sh_colors(gaussians.means, cameras.viewmats, *harmonics).requires_grad_(True)
    leaves = [t.detach().requires_grad_(True) for t in (made.means2d, made.depths, made.conics, made.opacities)]
    drawn = Splats2D(*leaves, made.radii)
    view = draw(gaussians, cameras, drawn, colors, background=None, options=splat.RenderOptions())
    loss_of(view).backward()
    emulate(Emulator(build(), reverse), theirs, cameras, made.radii, colors, [*leaves, colors], degree, skip)
    if skip:
        assert all(torch.equal(v, before[name]) for name, v in tables(theirs).items())
    else:
        assert_close(tables(theirs), tables(ours), before)


def emulate(
    emulator: Emulator,
    adam: GaussianAdam,
    cameras: splat.Cameras,
    radii: Tensor,
    colors: Tensor,
    leaves: Sequence[Tensor],
    degree: int,
    skip: bool | None,
) -> None:
    params = adam.gaussians.parameters()
    tensors = [*params.values(), *adam.exp_avg.values(), *adam.exp_avg_sq.values(), adam.steps, adam.rates]
    tensors += [cameras.viewmats, cameras.Ks, radii, colors.detach(), *(leaf.grad for leaf in leaves)]
    flag = None if skip is None else torch.tensor([skip])
    numbers = (len(adam.steps), 1, cameras.width, cameras.height, 0, 0, 1, 3, params["shN"][0].numel(), degree)
    pulls = adam.penalties.pulls(len(adam.steps))
    reals = (ctypes.c_float * 9)(0.3, 0.01, 1e10, 0.0, *astuple(adam.rule), *pulls)
    emulator.call("step", [*tensors, flag], (*numbers, int(adam.visible_only)), reals)
