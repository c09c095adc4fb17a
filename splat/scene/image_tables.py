"""Numbers that are learnt for each picture of a capture: what exposure and pose corrections are made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from splat.core.checks import check_int


class ImageTables:
    """Tensors with a row for each image, zeros at the start, which is where nothing is corrected.

    They are leaves that gradients are collected in: `small_adam.RowAdam` moves the rows of the images of a step.
    """

    def __init__(self, images: int, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str | None) -> None:
        """shapes: of one row, by the name of the table."""
        check_int("images", images, 1)
        self.images = images
        self._tables = {
            name: torch.zeros(images, *shape, device=device, requires_grad=True) for name, shape in shapes.items()
        }

    def parameters(self) -> dict[str, Tensor]:
        """The tables by name."""
        return dict(self._tables)

    def row(self, name: str, row: int) -> Tensor:
        """What is learnt for one image, with its gradient."""
        check_int("row", row, 0, self.images - 1)
        return self._tables[name][row]

    def state(self) -> dict[str, Tensor]:
        """Copies of the tables, for a checkpoint."""
        return {name: table.detach().clone() for name, table in self._tables.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes back to what `state` gave; ValueError where a table is missing or of another shape."""
        copy_tables(self._tables, state)


def copy_tables(tables: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copies the tensors of a checkpoint over `tables`, all or none; other entries of `state` are left alone."""
    for name, table in tables.items():
        if name not in state:
            raise ValueError(f"state must hold {name} {list(table.shape)}, got {', '.join(state) or 'nothing'}")
        value = state[name]
        if value.shape != table.shape or value.dtype != table.dtype:
            raise ValueError(
                f"{name} must be {table.dtype} {list(table.shape)}, got {value.dtype} {list(value.shape)}: "
                "the checkpoint is of another set of images, or made with other options"
            )
    with torch.no_grad():
        for name, table in tables.items():
            table.copy_(state[name])
