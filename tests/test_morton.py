"""splat.core.morton: the order along a Z-curve."""

import pytest
import torch

from splat.core.morton import morton_order


def test_the_corners_of_a_cube_come_in_z_order() -> None:
    corners = torch.tensor([[x, y, z] for z in (0.0, 1) for y in (0.0, 1) for x in (0.0, 1)])
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corners[shuffled][morton_order(corners[shuffled])], corners)


def test_keys_equal_bits_interleaved_one_by_one() -> None:
    g = torch.Generator().manual_seed(1)
    cells = torch.randint(0, 1 << 21, (500, 3), generator=g)
    cells[0], cells[1] = 0, (1 << 21) - 1  # the whole cube, so that a cell's number is its coordinate
    points = (cells.double() + 0.5) / (1 << 21)
    points[0], points[1] = 0, 1

    def key(i: int) -> int:
        return sum((int(cells[i, axis]) >> bit & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3))

    assert morton_order(points).tolist() == sorted(range(500), key=key)


def test_points_of_one_cell_keep_their_order() -> None:
    assert morton_order(torch.ones(100, 3)).tolist() == list(range(100))
    points = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert morton_order(points).tolist() == [1, 3, 0, 2]


def test_points_that_are_not_finite_come_last() -> None:
    points = torch.tensor([[torch.nan, 0, 0], [2.0, 0, 0], [0, torch.inf, 0], [1, 0, 0]])
    assert morton_order(points).tolist() == [3, 1, 0, 2]
    assert morton_order(points[[0, 2]]).tolist() == [0, 1]
    assert morton_order(torch.empty(0, 3)).tolist() == []


def test_neighbours_in_the_order_are_near() -> None:
    points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(2))
    steps = (points[morton_order(points)].diff(dim=0)).norm(dim=1)
    assert steps.mean() < 0.25 * points.diff(dim=0).norm(dim=1).mean()


def test_the_whole_range_of_floats_has_an_order() -> None:
    top = torch.finfo(torch.float32).max
    assert morton_order(torch.tensor([[top, top, top], [-top, -top, -top], [0, 0, 0]])).tolist() == [1, 2, 0]


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="points must have shape"):
        morton_order(torch.zeros(4, 2))
