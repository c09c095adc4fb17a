"""Adam for tables with a row for each image, of which a step uses few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splat.core.adam import AdamRule, adam_step
from splat.core.checks import check_int
from splat.scene.image_tables import copy_tables


class RowAdam:
    """Moves the rows of the images of a step by their gradients. All other rows stay, moments and step counts too.

    An image is seen once in a pass over the capture. Adam on the whole tables (gsplat's and 3DGS's trainers) moves it
    on by its moments in between, by about sqrt(images) times the learning rate in all: rates given here are larger.
    """

    def __init__(
        self, tables: Mapping[str, Tensor], rates: Mapping[str, float], *, rule: AdamRule = AdamRule()
    ) -> None:
        """
        Args:
            tables: float32 [images, ...] by name; leaves that collect gradients. Moved in place.
            rates: the learning rate of each table.
        """
        if not tables:
            raise ValueError("tables must hold at least one tensor")
        if set(tables) != set(rates):
            raise ValueError(f"rates must be given for {', '.join(tables)}, got {', '.join(rates) or 'none'}")
        images = {len(table) for table in tables.values()}
        if len(images) > 1:
            raise ValueError(f"tables must have as many rows as each other, got {sorted(images)}")
        for name, rate in rates.items():
            if not 0 <= rate < float("inf"):
                raise ValueError(f"the rate of {name} must be a finite learning rate, not negative, got {rate}")
        self.tables, self.rates, self.rule = dict(tables), dict(rates), rule
        self.exp_avg = {name: torch.zeros_like(table, requires_grad=False) for name, table in tables.items()}
        self.exp_avg_sq = {name: torch.zeros_like(table, requires_grad=False) for name, table in tables.items()}
        first = next(iter(tables.values()))
        self.steps = torch.zeros(len(first), dtype=torch.int32, device=first.device)
        """int32 [images]: steps that each row has made."""

    @torch.no_grad()
    def step(self, rows: Sequence[int], scale: float = 1.0) -> None:
        """Moves these rows by the tables' gradients, and forgets all gradients.

        Args:
            rows: images of the step. One that is named twice moves once.
            scale: factor of the learning rates, for a schedule. A table that has no gradient counts as one of zeros.
        """
        for row in rows:
            check_int("row", row, 0, len(self.steps) - 1)
        for row in sorted(set(rows)):
            one = slice(row, row + 1)  # a view: what is stepped in place is the table
            self.steps[one] += 1
            for name, table in self.tables.items():
                param = table.detach()[one]
                grad = torch.zeros_like(param) if table.grad is None else table.grad[one].contiguous()
                moments = self.exp_avg[name][one], self.exp_avg_sq[name][one]
                adam_step(param, grad, *moments, self.steps[one], self.rates[name] * scale, self.rule)
        for table in self.tables.values():
            table.grad = None

    def _named(self) -> dict[str, Tensor]:
        moments = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {f"{name}.{kind}": t for kind, each in moments.items() for name, t in each.items()}

    def state(self) -> dict[str, Tensor]:
        """Copies of the moments and the step counts, for a checkpoint; not the tables, whose owner keeps them."""
        first = next(iter(self.tables))
        return {name: t.clone() for name, t in (self._named() | {f"{first}.steps": self.steps}).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes back to what `state` gave; ValueError where a tensor is missing or of another shape."""
        first = next(iter(self.tables))
        copy_tables(self._named() | {f"{first}.steps": self.steps}, state)
