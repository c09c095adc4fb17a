"""splat.io.kmeans: codebooks of numbers and palettes of vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from splat.io.kmeans import _shares, codebook_1d, palette


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(got.astype(np.float64) - wanted).mean()))


def test_few_different_numbers_are_their_own_codebook() -> None:
    step = np.float32(2.0**-23)
    values = np.array([[3, 1, 1 + step], [1 + 2 * step, 3, -7]], np.float32)  # also neighbours in float32
    book, codes = codebook_1d(values)
    assert np.array_equal(book[codes], values) and len(book) == 5 and codes.dtype == np.uint8


def test_each_number_gets_the_nearest_entry() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    book, codes = codebook_1d(values, 16)
    assert np.array_equal(np.abs(values[:, None] - book).argmin(1), codes)


def test_a_codebook_is_near_the_best_for_a_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(size=200_000).astype(np.float32)
    book, codes = codebook_1d(values)
    # Panter and Dite: the least mean square error of n codes tends to sqrt(3) pi / 2 / n^2.
    best = np.sqrt(np.sqrt(3) * np.pi / 2) / 256
    assert best * 0.95 < _error(book[codes], values) < best * 1.05
    assert np.abs(book[codes] - values).max() < 0.3


def test_outliers_do_not_spoil_a_codebook() -> None:
    values = np.random.default_rng(2).normal(size=100_000).astype(np.float32)
    spoilt = np.concatenate([values, [1000, -1000]]).astype(np.float32)
    errors = [_error(book[codes], v) for v in (values, spoilt) for book, codes in [codebook_1d(v)]]
    assert errors[1] < 2.5 * errors[0]


def _clusters(count: int, centers: int, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    places = rng.normal(size=(centers, width)).astype(np.float32)
    return places, places[rng.integers(0, centers, count)] + rng.normal(size=(count, width)).astype(np.float32) * 0.01


def test_a_palette_finds_clusters() -> None:
    places, vectors = _clusters(4000, 40)
    entries, labels = palette(vectors, 64)
    assert _error(entries[labels], vectors) < 0.02
    assert all(np.abs(entries - place).max(1).min() < 0.03 for place in places)


@pytest.mark.parametrize("size", [1, 7, 256, 300, 1000, 5000])
def test_a_palette_has_at_most_its_size_and_all_entries_are_used(size: int) -> None:
    _, vectors = _clusters(2000, 100)
    entries, labels = palette(vectors, size)
    assert len(entries) <= size and np.array_equal(np.unique(labels), np.arange(len(entries)))
    assert len(entries) > 0.9 * min(size, 2000)


def test_a_larger_palette_is_better_and_a_full_one_exact() -> None:
    vectors = np.random.default_rng(4).normal(size=(3000, 9)).astype(np.float32)
    errors = [
        _error(entries[labels], vectors) for size in (4, 64, 512, 3000) for entries, labels in [palette(vectors, size)]
    ]
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2] and errors[3] < 1e-6


def test_the_tree_is_not_far_from_plain_k_means() -> None:
    from splat.io.kmeans import _kmeans

    vectors = np.random.default_rng(5).normal(size=(8000, 9)).astype(np.float32)
    book, labels = _kmeans(torch.from_numpy(vectors), 512, 10)
    plain = _error(book[labels].numpy(), vectors)
    entries, codes = palette(vectors, 512)
    assert _error(entries[codes], vectors) < 1.12 * plain


def test_equal_vectors_make_one_entry() -> None:
    entries, labels = palette(np.ones((500, 9), np.float32), 300)
    assert np.array_equal(entries[labels], np.ones((500, 9))) and len(entries) == 1


@pytest.mark.parametrize("size", [50, 60, 5000])
def test_few_different_vectors_are_their_own_palette(size: int) -> None:
    places, _ = _clusters(1, 50)
    places[0, 3], places[1] = -0.0, places[0]
    places[1, 3] = 0.0  # the same vector
    vectors = places[np.random.default_rng(6).integers(0, 50, 4000)]
    entries, labels = palette(vectors, size)
    assert len(entries) == 49 and np.array_equal(entries[labels], vectors)


def test_the_same_vectors_give_the_same_palette() -> None:
    _, vectors = _clusters(3000, 50)
    a, b = palette(vectors, 400), palette(vectors.copy(), 400)
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


@pytest.mark.parametrize("counts", [[5, 0, 3], [1000, 1, 1, 1], [1] * 300, [10, 10, 10]])
@pytest.mark.parametrize("total", [3, 8, 25, 301])
def test_shares_add_up_and_fit(counts: list[int], total: int) -> None:
    shares = _shares(counts, total)
    used = sum(count > 0 for count in counts)
    assert all((count > 0) <= share <= count for share, count in zip(shares, counts, strict=True))
    assert sum(shares) == max(used, min(total, sum(counts)))
