"""Adam on the rows of small tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splat.core.adam import AdamRule
from splat.scene.small_adam import RowAdam

RATES = {"a": 0.1, "b": 0.02}


def tables(images: int = 4) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(images, 6, generator=g).requires_grad_(),
        "b": torch.randn(images, 3, 5, generator=g).requires_grad_(),
    }


def backward(params: dict[str, Tensor], rows: list[int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for table in params.values():
        for row in rows:
            (table[row] * torch.randn(table[row].shape, generator=g)).sum().backward()  # type: ignore[no-untyped-call]


def test_a_row_moves_as_if_it_were_alone() -> None:
    """Whatever other rows do, row 2 moves as torch's Adam moves it."""
    params = tables()
    adam = RowAdam(params, RATES, rule=AdamRule(epsilon=1e-8))
    alone = {name: t.detach()[2].clone().requires_grad_() for name, t in params.items()}
    theirs = torch.optim.Adam([{"params": [t], "lr": RATES[name]} for name, t in alone.items()], eps=1e-8)
    for k, rows in enumerate([[0], [2], [1, 2], [3, 0], [0], [2, 3], [2]]):
        backward(params, rows, k)
        if 2 in rows:
            for name, t in alone.items():
                grad = params[name].grad
                assert grad is not None
                t.grad = grad[2].clone()
            theirs.step()
        adam.step(rows)
    for name, t in alone.items():
        assert torch.allclose(params[name][2], t, rtol=1e-5, atol=1e-6)
    assert adam.steps.tolist() == [3, 1, 4, 2]


def test_rows_of_other_images_keep_every_bit() -> None:
    params = tables()
    adam = RowAdam(params, RATES)
    backward(params, [0, 1, 2, 3], 1)
    adam.step([0, 1, 2, 3])
    before = {name: t.detach().clone() for name, t in params.items()} | adam.state()
    backward(params, [1, 3], 2)  # row 3 has a gradient, but is not of this step
    adam.step([1])
    after = {name: t.detach() for name, t in params.items()} | adam.state()
    for name, t in after.items():
        changed = (t != before[name]).flatten(1).any(1) if t.dim() > 1 else t != before[name]
        assert changed.tolist() == [False, True, False, False], name


def test_gradients_do_not_outlive_the_step() -> None:
    params = tables()
    adam = RowAdam(params, RATES)
    backward(params, [0], 1)
    adam.step([0])
    assert all(t.grad is None and t.requires_grad for t in params.values())


def test_an_image_named_twice_moves_once() -> None:
    both = [tables(), tables()]
    for params, rows in zip(both, ([1, 1], [1]), strict=True):
        backward(params, [1], 1)
        RowAdam(params, RATES).step(rows)
    assert all(torch.equal(both[0][name], both[1][name]) for name in RATES)


def test_a_table_without_a_gradient_stays_at_first() -> None:
    params = tables()
    before = params["b"].detach().clone()
    params["a"][1].sum().backward()  # type: ignore[no-untyped-call]
    RowAdam(params, RATES).step([1])
    assert torch.equal(params["b"], before)


def test_the_first_step_is_as_long_as_its_rate() -> None:
    for scale in (1.0, 0.1, 0.0):
        params = tables()
        before = {name: t.detach().clone() for name, t in params.items()}
        backward(params, [1], 1)
        RowAdam(params, RATES).step([1], scale)
        for name, rate in RATES.items():
            moved = (params[name].detach() - before[name])[1].abs()
            assert torch.allclose(moved, torch.full_like(moved, rate * scale), atol=1e-6)


def test_a_run_that_is_resumed_goes_on_bit_for_bit() -> None:
    params = tables()
    adam = RowAdam(params, RATES)
    for k in range(3):
        backward(params, [k, 3], k)
        adam.step([k, 3])
    state = adam.state()
    again = {name: t.detach().clone().requires_grad_() for name, t in params.items()}
    resumed = RowAdam(again, RATES)
    resumed.load_state(state)
    for k in range(3):
        for each, optimiser in ((params, adam), (again, resumed)):
            backward(each, [3, k], 9 + k)
            optimiser.step([3, k])
    assert all(torch.equal(params[name], again[name]) for name in RATES)
    assert not any(torch.equal(t, adam.state()[name]) for name, t in state.items())  # a copy, not the moments


def test_what_does_not_fit_is_named() -> None:
    params = tables()
    with pytest.raises(ValueError, match="rates must be given for a, b, got a"):
        RowAdam(params, {"a": 1.0})
    with pytest.raises(ValueError, match=r"the rate of b must be a finite learning rate, not negative, got -1"):
        RowAdam(params, {"a": 1.0, "b": -1.0})
    with pytest.raises(ValueError, match=r"tables must have as many rows as each other, got \[4, 5\]"):
        RowAdam({"a": params["a"], "b": torch.zeros(5, 2)}, RATES)
    with pytest.raises(ValueError, match="at least one"):
        RowAdam({}, {})
    adam = RowAdam(params, RATES)
    with pytest.raises(ValueError, match=r"row must be in 0 \.\. 3, got 4"):
        adam.step([4])
    with pytest.raises(ValueError, match=r"a\.exp_avg must be torch\.float32 \[4, 6\], got torch.float32 \[5, 6\]"):
        adam.load_state(RowAdam(tables(5), RATES).state())
    with pytest.raises(ValueError, match=r"state must hold a\.exp_avg"):
        adam.load_state({})
