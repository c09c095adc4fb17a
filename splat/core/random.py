"""Random numbers that depend on what they are for and on nothing else.

A number is a function of (seed, iteration, purpose, id, draw), by the counter-based generator Philox4x32-10 (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). No state is kept: the order of calls, the number of rows asked
for at once, the process that asks and a restart in between do not matter.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Purpose(IntEnum):
    """What a number is drawn for; part of its counter, so that two purposes never share numbers. Values are part of
    what a seed means: never change one."""

    CHILD_ID = 1
    VIEW_ORDER = 2
    SPLIT = 3
    NOISE = 4
    SAMPLE = 5
    BACKGROUND = 6
    POINTS = 7


def philox(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words of 32 bits, held in int64 tensors of one shape, in and out."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # the low 64 bits, which is all of the product
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, iteration: int, purpose: Purpose, ids: Tensor, draws: int) -> Tensor:
    """int64 [len(ids), draws]: numbers in 0 .. 2^32 - 1.

    Args:
        seed: 64 bits.
        iteration: 0 .. 2^32 - 1, in images.
        ids: int64 [R], what the numbers are for: Gaussians, views, samples.
        draws: numbers for each, at most 2^26.
    """
    rows = ids[:, None]
    block = torch.arange(-(-draws // 4), device=ids.device)[None] + (int(purpose) << 24)
    shape = (ids.shape[0], block.shape[1])
    counter = (
        (rows & _MASK).expand(shape),
        (rows >> 32 & _MASK).expand(shape),
        rows.new_full((1, 1), iteration & _MASK).expand(shape),
        block.expand(shape),
    )
    return torch.stack(philox(seed, counter), -1).flatten(1)[:, :draws]


def uniform(seed: int, iteration: int, purpose: Purpose, ids: Tensor, draws: int) -> Tensor:
    """float32 [len(ids), draws]: uniform in [0, 1), of 24 bits. Arguments as for `words`."""
    return (words(seed, iteration, purpose, ids, draws) >> 8).to(torch.float32) * 2.0**-24


def normal(seed: int, iteration: int, purpose: Purpose, ids: Tensor, draws: int) -> Tensor:
    """float32 [len(ids), draws]: standard normal (Box & Muller 1958). Arguments as for `words`."""
    half = -(-draws // 2)
    pairs = words(seed, iteration, purpose, ids, 2 * half).view(len(ids), half, 2).to(torch.float64)
    unit = (pairs + 0.5) * 2.0**-32  # never 0
    radius, angle = (-2 * unit[..., 0].log()).sqrt(), 2 * math.pi * unit[..., 1]
    both = torch.stack([radius * angle.sin(), radius * (angle + math.pi / 2).sin()], -1)
    return both.flatten(1)[:, :draws].to(torch.float32)


def child_ids(parents: Tensor, iteration: int, numbers: Tensor) -> Tensor:
    """int64 [R], not negative: the ids of children `numbers` [R] that Gaussians `parents` [R] got at `iteration`.

    63 bits of a hash: among 10 M Gaussians two are alike with a chance of 5 in a million, which would do no more than
    give them the same random numbers.
    """
    counter = (
        parents & _MASK,
        parents >> 32 & _MASK,
        torch.full_like(parents, iteration & _MASK),
        numbers + (int(Purpose.CHILD_ID) << 24),
    )
    low, high, _, _ = philox(0, counter)
    return (high & 0x7FFFFFFF) << 32 | low


def permutation(seed: int, iteration: int, purpose: Purpose, count: int) -> list[int]:
    """0 .. count - 1 in a random order."""
    keys = words(seed, iteration, purpose, torch.arange(count), 2)
    return (keys[:, 0] << 31 | keys[:, 1] >> 1).argsort(stable=True).tolist()


def weighted_samples(seed: int, iteration: int, weights: Tensor, samples: int) -> Tensor:
    """int64 [samples]: rows drawn with replacement, with chances in proportion to weights [N] in 0..1.

    The weights are summed as integers, whose sum does not depend on the order or on where the rows lie.
    """
    units = (weights.to(torch.float64).clamp(0, 1) * 2.0**30).round().to(torch.int64)
    ends = units.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        raise ValueError("weights must hold a positive one")
    keys = words(seed, iteration, Purpose.SAMPLE, torch.arange(samples, device=weights.device), 2)
    return torch.searchsorted(ends, (keys[:, 0] << 31 | keys[:, 1] >> 1) % total, right=True)
