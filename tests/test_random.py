"""Random numbers that depend on what they are for and on nothing else."""

from __future__ import annotations

import pytest
import torch

from splat.core.random import Purpose, child_ids, normal, permutation, philox, uniform, weighted_samples, words

IDS = torch.arange(1003) * 7919 + (5 << 40)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers that come with the authors' Random123
        (0x00000000, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, (1 << 64) - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_known_answers(counter: int, key: int, expected: tuple[int, ...]) -> None:
    word = torch.full((1,), counter)
    assert tuple(int(w) for w in philox(key, (word, word, word, word))) == expected


@pytest.mark.parametrize("draw", [uniform, normal])
def test_numbers_do_not_depend_on_who_asks_for_how_many(draw) -> None:
    whole = draw(3, 17, Purpose.NOISE, IDS, 5)
    for size in (1, 2, 7, 64, 333):
        assert torch.equal(torch.cat([draw(3, 17, Purpose.NOISE, part, 5) for part in IDS.split(size)]), whole)
    assert torch.equal(draw(3, 17, Purpose.NOISE, IDS, 3), whole[:, :3])


def test_no_ids_are_no_numbers() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert uniform(0, 0, Purpose.NOISE, none, 3).shape == normal(0, 0, Purpose.NOISE, none, 3).shape == (0, 3)


def test_seed_iteration_purpose_and_id_each_change_the_numbers() -> None:
    base = words(1, 2, Purpose.NOISE, IDS, 4)
    others = [
        words(2, 2, Purpose.NOISE, IDS, 4),
        words(1 + (1 << 32), 2, Purpose.NOISE, IDS, 4),
        words(1, 3, Purpose.NOISE, IDS, 4),
        words(1, 2, Purpose.SPLIT, IDS, 4),
        words(1, 2, Purpose.NOISE, IDS + 1, 4),
        words(1, 2, Purpose.NOISE, IDS + (1 << 33), 4),
    ]
    for other in others:
        assert (other == base).double().mean() < 1e-3


def test_numbers_are_distributed_as_they_should_be() -> None:
    ids = torch.arange(200_000)
    u = uniform(0, 0, Purpose.POINTS, ids, 1)[:, 0]
    counts = torch.histc(u, 20, 0, 1)
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 50  # chi^2 of 19: above once in 7,000
    assert float(u.min()) >= 0 and float(u.max()) < 1
    n = normal(0, 0, Purpose.NOISE, ids, 2).double()
    assert n.mean(0).abs().max() < 0.01
    assert (n.var(0) - 1).abs().max() < 0.015
    assert ((n**4).mean(0) - 3).abs().max() < 0.1
    assert abs(float((n[:, 0] * n[:, 1]).mean())) < 0.01


def test_children_have_ids_of_their_own() -> None:
    parents = torch.arange(20_000)
    made = [parents]
    for iteration in (100, 200):
        for number in (1, 2):
            made.append(child_ids(parents, iteration, torch.full_like(parents, number)))
    ids = torch.cat(made)
    assert len(ids.unique()) == len(ids)
    assert int(ids.min()) >= 0
    assert torch.equal(child_ids(parents[5:9], 100, torch.ones(4, dtype=torch.int64)), made[1][5:9])


def test_a_permutation_holds_each_once_and_changes_with_the_epoch() -> None:
    orders = [permutation(0, epoch, Purpose.VIEW_ORDER, 29) for epoch in range(20)]
    assert all(sorted(order) == list(range(29)) for order in orders)
    assert len({tuple(order) for order in orders}) == 20
    assert len({order[0] for order in orders}) > 8


def test_samples_come_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 0.1, 0.4, 0.0, 0.5])
    rows = weighted_samples(0, 1, weights, 50_000)
    counts = torch.bincount(rows, minlength=5).double() / 50_000
    assert counts[0] == counts[3] == 0
    assert (counts - weights).abs().max() < 0.01


def test_more_samples_begin_with_the_same_ones() -> None:
    weights = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_samples(4, 1, weights, 1000)[:10], weighted_samples(4, 1, weights, 10))


def test_weights_without_a_positive_one_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        weighted_samples(0, 0, torch.zeros(3), 1)
