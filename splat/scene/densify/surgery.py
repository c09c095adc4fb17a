"""Applying an edit to tables: tensors that have a row for each Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.scene.densify.base import Edit


def edited(values: dict[str, Tensor], edit: Edit) -> dict[str, Tensor]:
    """The parameters [N, ...] by name after the edit, [M, ...]."""
    return {name: edit.values[name] if name in edit.values else value[edit.rows] for name, value in values.items()}


def edited_moments(moments: dict[str, Tensor], edit: Edit) -> dict[str, Tensor]:
    """Moments of an optimiser [N, ...] by parameter name after the edit, with zeros where they begin anew."""
    return {
        name: torch.zeros_like(value[edit.rows]) if name in edit.restart else zero_rows(value[edit.rows], edit.fresh)
        for name, value in moments.items()
    }


def zero_rows(table: Tensor, rows: Tensor) -> Tensor:
    """The table [M, ...] with zeros in the rows of a mask [M], in place."""
    return table.masked_fill_(rows.view(-1, *[1] * (table.dim() - 1)), 0)


def then(first: Edit, rows: Tensor) -> Edit:
    """The edit, and of its result only these rows (indices or mask), in this order."""
    return Edit(
        first.rows[rows],
        first.children[rows],
        first.fresh[rows],
        {name: value[rows] for name, value in first.values.items()},
        first.restart,
    )
