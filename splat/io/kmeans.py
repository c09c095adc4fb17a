"""Codebooks: k-means of numbers and of vectors. No chance is involved: the same input gives the same codebook."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splat.io.arrays import F32, U8

_BINS = 128  # of the density; more follow its noise, and the tails go without codes
_ROUNDS = 40
_SAMPLE = 1 << 18
_FAN = 256  # most children of a node of the tree
_BUDGET = 1 << 24  # distances held at a time
_PIECE = 1 << 16  # vectors summed at a time


def codebook_1d(values: F32, size: int = 256) -> tuple[F32, U8]:
    """At most `size` (<= 256) ascending numbers and, for each of `values` [...], which of them is nearest.

    Where there are at most `size` different values, they are the codebook, and nothing is lost. Else k-means, started
    at the density to the power 1/3, which is the best for the mean square error where codes are many.
    """
    flat = np.ascontiguousarray(values, np.float32).ravel()
    if not flat.size:
        return np.zeros(1, np.float32), np.zeros(values.shape, np.uint8)
    # The sample keeps the ends and is a sorted list's every n-th, so it stands for all.
    ordered = np.sort(flat)
    distinct = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    if len(distinct) <= size:
        book = distinct
    else:
        places = np.linspace(0, len(ordered) - 1, min(len(ordered), _SAMPLE)).round().astype(np.int64)
        book = _lloyd_1d(ordered[places].astype(np.float64), size)
    return book, np.searchsorted(_middles(book), flat).astype(np.uint8).reshape(values.shape)


def _middles(book: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """float64, in which the middle of two neighbouring float32 is neither of them."""
    middles: npt.NDArray[np.floating] = (book[1:].astype(np.float64) + book[:-1]) / 2
    return middles


def _lloyd_1d(ordered: npt.NDArray[np.float64], size: int) -> F32:
    counts, edges = np.histogram(ordered, _BINS)
    mass = np.concatenate([[0], np.cumsum(np.cbrt(counts))])
    book = np.interp((np.arange(size) + 0.5) / size * mass[-1], mass, edges)
    middle = ordered.mean()  # taken off, so that differences of sums of squares keep their digits
    sums, squares = (np.concatenate([[0], np.cumsum(terms)]) for terms in (ordered - middle, (ordered - middle) ** 2))
    for _ in range(_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, _middles(book)), [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        book = np.where(counts > 0, means + middle, book)
        if len(empty := np.flatnonzero(counts == 0)):
            # Entries that nothing is near help the worst: the cell is split at its standard deviation either way.
            error = np.maximum(np.diff(squares[ends]) - counts * means**2, 0)
            worst = np.argsort(-error, kind="stable")[: len(empty)]
            width = np.sqrt(error[worst] / np.maximum(counts[worst], 1))
            book[empty[: len(worst)]] = book[worst] - width
            book[worst] += width
            book.sort()
    found: F32 = book.astype(np.float32)
    return found


def palette(vectors: F32, size: int, iterations: int = 10) -> tuple[F32, npt.NDArray[np.int64]]:
    """`size` vectors (fewer where there are not as many different ones), and which of them each of `vectors` [N, D] is.

    Where there are at most `size` different vectors, they are the palette. Else k-means on a tree of two levels: at
    most 256 clusters of a sample, each split further in proportion to its share, so the work is N x (256 + size / 256)
    distances an iteration, not N x size.
    """
    table = torch.from_numpy(np.ascontiguousarray(vectors))
    if (found := _distinct(vectors, size)) is not None:
        return found
    if size <= _FAN:
        book, labels = _kmeans(table, size, iterations)
        return _compact(book, labels)
    fan = min(_FAN, round(size**0.5))
    parents = nearest(table, _kmeans(table[:: -(-len(table) // _SAMPLE)], fan, iterations)[0])
    members = torch.split(torch.argsort(parents, stable=True), torch.bincount(parents, minlength=fan).tolist())
    books, labels, start = [], torch.empty(len(table), dtype=torch.int64), 0
    for rows, share in zip(members, _shares([len(rows) for rows in members], size), strict=True):
        if share:
            book, inner = _kmeans(table[rows], share, iterations)
            books.append(book)
            labels[rows] = inner + start
            start += len(book)
    return _compact(torch.cat(books), labels)


def _distinct(vectors: F32, size: int) -> tuple[F32, npt.NDArray[np.int64]] | None:
    """The different vectors and which of them each is, if there are at most `size`."""
    bits = (np.ascontiguousarray(vectors, np.float32) + 0).view(np.uint32)  # + 0: -0 is 0
    keys = np.zeros(len(bits), np.uint64)
    for column in bits.T:  # a hash: sorting whole rows of millions would take longer than k-means
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    _, first, labels = np.unique(keys, return_index=True, return_inverse=True)
    entries = vectors[first]
    if len(entries) > size or not np.array_equal(entries[labels], vectors):  # not, should two hashes be equal
        return None
    return entries, labels


def _shares(counts: list[int], total: int) -> list[int]:
    """`total` split in proportion to `counts`: at least 1 where there is a member, at most the members."""
    shares = [min(count, max(1, total * count // max(1, sum(counts)))) if count else 0 for count in counts]
    # Rounded down, with a few rounded up to 1: what is over or missing is settled at the largest.
    by_size = sorted(range(len(counts)), key=lambda i: -counts[i])
    while (missing := total - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i in by_size if (shares[i] < counts[i] if step > 0 else shares[i] > 1)]
        if not movable:
            break
        for i in movable[: abs(missing)]:
            shares[i] += step
    return shares


def _kmeans(table: Tensor, size: int, iterations: int) -> tuple[Tensor, Tensor]:
    """[size, D] and int64 [N]; starts at vectors evenly spaced along the direction of the greatest spread."""
    count = len(table)
    start = (torch.arange(size, dtype=torch.float64) * count / size + count / (2 * size)).long()
    book = table[torch.argsort(table @ _spread(table), stable=True)[start]].clone()
    labels = nearest(table, book)
    if size == count:
        return book, labels
    for _ in range(iterations):
        # In float64: rounding in long sums must not move a centroid.
        sums = torch.zeros(size, table.shape[1], dtype=torch.float64)
        for rows, at in zip(torch.split(table, _PIECE), torch.split(labels, _PIECE), strict=True):
            sums.index_add_(0, at, rows.double())
        counts = torch.bincount(labels, minlength=size)
        means = (sums / counts.clamp_min(1)[:, None]).to(table.dtype)
        book = torch.where(counts[:, None] > 0, means, book)
        if not bool((counts > 0).all()):
            book = _refill(table, book, labels, counts)
        fresh = nearest(table, book)
        if torch.equal(fresh, labels):
            break
        labels = fresh
    return book, labels


def _spread(table: Tensor) -> Tensor:
    """[D] the direction of the greatest variance, by a few steps of the power method."""
    centred = table - table.mean(0)
    covariance = centred.T @ centred
    direction = covariance.diagonal().sqrt() + 1e-12
    for _ in range(8):
        direction = covariance @ direction
        direction = direction / direction.norm().clamp_min(1e-30)
    return direction


def _refill(table: Tensor, book: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """With the centroids that have no vector moved to the vectors worst served."""
    empty = torch.nonzero(counts == 0)[:, 0]
    distance = (table - book[labels]).square().sum(1)
    worst = torch.argsort(distance, descending=True, stable=True)[: len(empty)]
    book = book.clone()
    book[empty[: len(worst)]] = table[worst]
    return book


def nearest(table: Tensor, book: Tensor) -> Tensor:
    """int64 [N] the entry of the book nearest to each vector; the first of those equally near."""
    norms = book.square().sum(1)
    pieces = torch.split(table, max(1, _BUDGET // len(book)))
    return torch.cat([torch.addmm(norms, piece, book.T, alpha=-2).argmin(1) for piece in pieces])


def _compact(book: Tensor, labels: Tensor) -> tuple[F32, npt.NDArray[np.int64]]:
    """Without the entries that nothing refers to."""
    used, labels = torch.unique(labels, return_inverse=True)
    return book[used].numpy(), labels.numpy()
