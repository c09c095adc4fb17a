"""Adding, moving and removing Gaussians: counts, ids, moments, and that the picture stays what it should."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from splat.gaussians import Gaussians
from splat.optim import GaussianAdam
from splat.scene.config import DefaultConfig, McmcConfig
from splat.scene.densify import DefaultStrategy, McmcStrategy, View
from splat.scene.densify.base import Edit, Moment, keep_all, sigmoid
from splat.scene.densify.default import grown, opacity_reset
from splat.scene.densify.mcmc import covariance_times, moved_and_added, relocation
from splat.scene.densify.surgery import then
from splat.scene.state import SceneState


def moment(**changes) -> Moment:
    return replace(Moment(iteration=700, progress=0.2, share=0.01, images=100, seed=3, extent=1.0), **changes)


def scene(count: int = 50) -> Gaussians:
    g = torch.Generator().manual_seed(1)
    made = Gaussians.random(count, sh_degree=1, seed=1)
    return replace(
        made,
        log_scales=torch.randn(count, 3, generator=g) - 3,
        opacity_logits=torch.randn(count, generator=g),
        shN=torch.randn(count, 3, 3, generator=g),
    )


def state_of(gaussians: Gaussians, strategy) -> SceneState:
    optimizer = GaussianAdam(gaussians)
    for table in (*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()):
        table += 1 + torch.arange(len(gaussians)).view(-1, *[1] * (table.dim() - 1))
    optimizer.steps += 5
    return SceneState.start(optimizer, strategy.initial_statistics(len(gaussians), torch.device("cpu")))


def naive_relocation(o: float, n: int) -> tuple[float, float]:
    """Equation 9 of 3DGS-MCMC as it stands in the paper."""
    new = 1 - (1 - o) ** (1 / n)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1) for i in range(1, n + 1) for k in range(i)
    )
    return new, o / total


def test_relocation_is_equation_9() -> None:
    cases = [(o, n) for o in (0.01, 0.3, 0.7, 0.99) for n in (1, 2, 3, 7, 20, 51)]
    o, n = torch.tensor([c[0] for c in cases], dtype=torch.float64), torch.tensor([c[1] for c in cases])
    expected = torch.tensor([naive_relocation(*c) for c in cases], dtype=torch.float64)
    new, factor = relocation(o, n)
    torch.testing.assert_close(new, expected[:, 0], rtol=1e-9, atol=0)
    torch.testing.assert_close(factor, expected[:, 1], rtol=2e-4, atol=0)  # the naive sums cancel


def test_copies_cover_as_much_as_the_one_did() -> None:
    o = torch.tensor([0.2, 0.6, 0.95])
    n = torch.tensor([2, 5, 3])
    new, _ = relocation(o, n)
    torch.testing.assert_close(1 - (1 - new) ** n, o)


def test_an_edit_moves_every_table_alike() -> None:
    strategy = DefaultStrategy()
    state = state_of(scene(), strategy)
    state.statistics["grad2d"] += torch.arange(50)
    before = {k: v.clone() for k, v in state.tables().items()}
    rows = torch.tensor([7, 3, 3, 40])
    edit = Edit(rows, torch.tensor([0, 0, 1, 2]), torch.tensor([False, False, True, True]))
    state.edit(edit, 100)
    after = state.tables()
    for name, table in before.items():
        expected = table[rows].clone()
        if name.startswith("exp_avg"):
            expected[2:] = 0
        if name != "ids":
            assert torch.equal(after[name], expected), name
    assert state.ids[:2].tolist() == [7, 3]
    assert len(set(state.ids.tolist())) == 4


def test_tables_come_back_from_a_file_as_they_were() -> None:
    strategy = DefaultStrategy()
    a, b = state_of(scene(), strategy), state_of(scene(10), strategy)
    b.load_tables(a.tables())
    assert b.tables().keys() == a.tables().keys()
    for name, table in a.tables().items():
        assert torch.equal(b.tables()[name], table), name


def observed(gaussians: Gaussians, high: Tensor) -> dict[str, Tensor]:
    """Statistics after two views in which the Gaussians of a mask had a large gradient."""
    strategy = DefaultStrategy()
    statistics = strategy.initial_statistics(len(gaussians), torch.device("cpu"))
    gradients = torch.where(high[:, None], torch.tensor([4e-6, 3e-6]), torch.tensor([1e-7, 0.0]))
    radii = torch.full((len(gaussians), 2), 4, dtype=torch.int32)
    for _ in range(2):
        strategy.observe(statistics, View(gradients, radii, 200, 100))
    return statistics


def test_gradients_count_in_half_pictures() -> None:
    statistics = observed(scene(), torch.ones(50, dtype=torch.bool))
    length = math.hypot(4e-6 * 100, 3e-6 * 50)
    torch.testing.assert_close(statistics["grad2d"] / statistics["seen"], torch.full((50,), length))


def test_small_ones_with_a_large_gradient_are_cloned_and_large_ones_split() -> None:
    g = scene()
    small, high = torch.arange(50) < 25, torch.arange(50) % 5 == 0
    g = replace(g, log_scales=torch.where(small, -6.0, -3.0)[:, None].repeat(1, 3), opacity_logits=torch.zeros(50))
    edit, line = DefaultStrategy().refine(g, torch.arange(50), observed(g, high), moment(progress=0.05))
    assert edit is not None
    assert line == "+15 -5"  # 5 clones; 5 parents gave way to 10 halves
    counts = torch.bincount(edit.rows, minlength=50)
    assert torch.equal(counts == 2, high)
    clones = edit.rows[(edit.children > 0) & small[edit.rows]]
    assert torch.equal(torch.sort(clones).values, (small & high).nonzero()[:, 0])
    split_scales = edit.values["log_scales"][~small[edit.rows] & high[edit.rows]]
    torch.testing.assert_close(split_scales, torch.full_like(split_scales, -3 - math.log(1.6)))


def test_halves_are_drawn_from_their_parent() -> None:
    g = scene(1).map(lambda t: t.expand(4000, *t.shape[1:]).clone())
    everyone = torch.ones(4000, dtype=torch.bool)
    edit = grown(g, torch.arange(4000), ~everyone, everyone, moment())
    offsets = (edit.values["means"] - g.means[edit.rows]).double()
    expected = covariance_times(g.select(slice(0, 3)), torch.eye(3))  # rows of the covariance
    got = offsets.T @ offsets / len(offsets)
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.1 * float(expected.diagonal().max()))


def test_halves_do_not_depend_on_the_other_rows() -> None:
    g, ids = scene(), torch.arange(50) * 31
    split = torch.arange(50) % 3 == 0
    whole = grown(g, ids, ~split, split, moment())
    some = torch.arange(50) >= 20
    part = grown(g.select(some), ids[some], ~split[some], split[some], moment())

    def table(edit: Edit, ids: Tensor, means: Tensor) -> dict[int, list[float]]:
        return dict(zip(edit.ids(ids, 700).tolist(), means.tolist(), strict=True))

    every = table(whole, ids, whole.values["means"])
    for key, value in table(part, ids[some], part.values["means"]).items():
        assert every[key] == value


def test_the_budget_takes_the_largest_gradients() -> None:
    g = replace(scene(), opacity_logits=torch.zeros(50), log_scales=torch.full((50, 3), -6.0))
    statistics = observed(g, torch.ones(50, dtype=torch.bool))
    statistics["grad2d"] *= 1 + torch.arange(50) / 50
    edit, _ = DefaultStrategy(budget=57).refine(g, torch.arange(50), statistics, moment(progress=0.05))
    assert edit is not None
    assert len(edit.rows) == 57
    assert sorted(edit.rows[edit.children > 0].tolist()) == list(range(43, 50))


def test_faint_ones_go_and_large_ones_after_the_first_reset() -> None:
    g = replace(scene(), opacity_logits=torch.zeros(50), log_scales=torch.full((50, 3), -6.0))
    g.opacity_logits[3] = -6
    g.log_scales[9, 1] = math.log(0.2)
    for iteration, gone in ((700, {3}), (3100, {3, 9})):
        statistics = observed(g, torch.zeros(50, dtype=torch.bool))
        edit, _ = DefaultStrategy().refine(g, torch.arange(50), statistics, moment(iteration=iteration))
        assert edit is not None
        assert set(range(50)) - set(edit.rows.tolist()) == gone
        assert not statistics["grad2d"].any()


def test_nothing_grows_outside_its_time() -> None:
    g = scene()
    for strategy in (DefaultStrategy(), McmcStrategy(budget=100)):
        for progress in (0.0, 0.95):
            statistics = observed(g, torch.ones(50, dtype=torch.bool))
            assert strategy.refine(g, torch.arange(50), statistics, moment(progress=progress))[0] is None


def test_opacity_resets_come_every_so_many_images_while_growing() -> None:
    strategy = DefaultStrategy(DefaultConfig(reset_every=300, stop=0.5))
    moments = [moment(iteration=k, progress=k / 2000) for k in range(100, 2001, 100)]
    assert [m.iteration for m in moments if strategy.reset_due(m)] == [300, 600, 900]
    assert not strategy.reset_due(moment(iteration=900, progress=0.5))  # nothing would prune what stays faint
    odd = [moment(iteration=k, progress=k / 2000, images=70) for k in range(70, 2001, 70)]
    assert [m.iteration for m in odd if strategy.reset_due(m)] == [350, 630, 910]
    never = DefaultStrategy(DefaultConfig(reset_every=0))
    assert not any(never.reset_due(m) for m in moments)


def test_a_reset_lowers_opacities_and_their_moments_only() -> None:
    strategy = DefaultStrategy()
    state = state_of(scene(), strategy)
    before = state.tables()
    logits = strategy.reset(state.gaussians)
    state.edit(opacity_reset(keep_all(50, torch.device("cpu")), logits), 100)
    assert sigmoid(state.gaussians.opacity_logits).max() <= 0.01 + 1e-7
    for name, table in state.tables().items():
        if name.endswith("opacity_logits"):
            assert name.startswith("gaussians") or not table.any()
        else:
            assert torch.equal(table, before[name]), name


def test_the_dead_move_to_the_living_and_new_ones_join() -> None:
    g = scene()
    dead = torch.arange(50) < 8
    g.opacity_logits[dead] = -7
    edit = moved_and_added(g, dead, 12, moment(), min_opacity=0.005)
    assert len(edit.rows) == 62
    moved = edit.children > 0
    assert torch.equal(moved.nonzero()[:, 0], torch.cat([torch.arange(8), torch.arange(50, 62)]))
    assert (edit.rows[moved] >= 8).all()
    ids = edit.ids(torch.arange(50), 700)
    assert len(ids.unique()) == 62
    # whoever is copied shares its opacity and scale with its copies, by equation 9; the others stay as they are
    copies = torch.bincount(edit.rows, minlength=50)
    for row in range(8, 50):
        at = edit.rows == row
        new, factor = relocation(sigmoid(g.opacity_logits[row : row + 1]), copies[row : row + 1])
        assert torch.allclose(sigmoid(edit.values["opacity_logits"][at]), new.clamp_min(0.005))
        expected = (g.log_scales[row] + factor.log()).expand(int(copies[row]), 3)
        torch.testing.assert_close(edit.values["log_scales"][at], expected)
        assert bool(edit.fresh[at].all()) == (copies[row] > 1)


def test_what_is_not_finite_is_dead() -> None:
    g = scene()
    g.opacity_logits[4] = torch.nan
    g.means[7, 1] = torch.inf
    edit, line = McmcStrategy(budget=50).refine(g, torch.arange(50), {}, moment())
    assert edit is not None and line.startswith("2 moved")
    assert not {4, 7} & set(edit.rows.tolist())


def test_the_count_reaches_its_budget_in_time() -> None:
    strategy = McmcStrategy(McmcConfig(grow_until=0.5), budget=40_000)
    count, counts = 4_000, []
    for k in range(1, 100):
        count = strategy.target(count, moment(progress=k / 100))
        counts.append(count)
    assert counts[49] == counts[-1] == 40_000
    assert counts[40] < 40_000
    assert all(a <= b for a, b in itertools.pairwise(counts))


def test_noise_moves_faint_ones_along_their_shape_and_leaves_opaque_ones() -> None:
    g = replace(scene(4), quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1))
    g.log_scales[:] = torch.tensor([-1.0, -2.0, -9.0])
    g.opacity_logits[:] = torch.tensor([-9.0, -9.0, 6.0, 6.0])
    start = g.means.clone()
    strategy = McmcStrategy(McmcConfig(noise_every=5))
    strategy.add_noise(g, torch.arange(4), 7, 0, 1e-4)
    assert torch.equal(g.means, start)  # not one of its iterations
    strategy.add_noise(g, torch.arange(4), 10, 0, 1e-4)
    moved = (g.means - start).abs()
    assert (moved[:2, 0] > 1e-3).all()
    assert moved[:, 2].max() < 1e-5
    assert moved[2:].max() < 1e-5


def test_edits_can_be_ordered_and_thinned() -> None:
    first = moved_and_added(scene(), torch.arange(50) < 8, 3, moment(), 0.005)
    order = torch.arange(53).flip(0)[::2]
    second = then(first, order)
    assert torch.equal(second.rows, first.rows[order])
    assert torch.equal(second.values["log_scales"], first.values["log_scales"][order])
    assert torch.equal(second.ids(torch.arange(50), 9), first.ids(torch.arange(50), 9)[order])
