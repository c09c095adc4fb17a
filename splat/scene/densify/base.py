"""What a strategy is given and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from splat.core.random import child_ids
from splat.gaussians import Gaussians


@dataclass(frozen=True)
class Edit:
    """A new set of M Gaussians, said by the rows of the old one that each comes from."""

    rows: Tensor
    """int64 [M]: the old row whose values, moments and statistics each takes."""
    children: Tensor
    """int64 [M]: 0 where it is the old Gaussian itself, k where it is its k-th child of this edit (a new id)."""
    fresh: Tensor
    """bool [M]: its moments begin anew, the step count going on."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """[M, ...] by the names of `Gaussians`: values that take the place of the old ones."""
    restart: tuple[str, ...] = ()
    """Names whose moments begin anew for all, the step counts going on."""

    @property
    def counts(self) -> tuple[int, int]:
        """Gaussians that are new, and that were there and still are."""
        new = int((self.children > 0).sum())
        return new, len(self.children) - new

    def ids(self, old: Tensor, iteration: int) -> Tensor:
        """int64 [M], from those of the old set [N]."""
        parents = old[self.rows]
        return torch.where(self.children > 0, child_ids(parents, iteration, self.children), parents)


@dataclass(frozen=True)
class View:
    """What a strategy sees of one rendered view."""

    gradients: Tensor
    """[N, 2] gradient of the loss in the 2D means, per pixel (or the sum of its magnitudes, for absgrad)."""
    radii: Tensor
    """int32 [N, 2] pixels; 0 where it is not seen."""
    width: int
    height: int


@dataclass(frozen=True)
class Moment:
    """Where the training stands when a strategy is asked."""

    iteration: int
    """In images."""
    progress: float
    """0..1 of the whole run."""
    share: float
    """Of the whole run, what lies between this refinement and the one before."""
    images: int
    """Between this refinement and the one before."""
    seed: int
    extent: float
    """Size of the scene, world units: 1.1 x the largest distance of a camera from their middle."""


class Strategy(Protocol):
    """Adds, moves and removes Gaussians."""

    needs_gradients: bool
    """Whether `observe` wants the views."""

    def initial_statistics(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """What it remembers of each Gaussian, [N] by name."""
        ...

    def observe(self, statistics: dict[str, Tensor], view: View) -> None:
        """Adds one view to the statistics, in place."""
        ...

    def refine(
        self, gaussians: Gaussians, ids: Tensor, statistics: dict[str, Tensor], moment: Moment
    ) -> tuple[Edit | None, str]:
        """The change that is due, and a line that says what it is for the log. None: nothing."""
        ...


def logit(opacities: Tensor) -> Tensor:
    """Of values in 0..1; does not depend on how many there are (torch.sigmoid and its like do, in the last bit)."""
    return (opacities / (1 - opacities)).log()


def sigmoid(logits: Tensor) -> Tensor:
    """As above: 1 / (1 + exp(-x)) has the same bits for a row whatever its neighbours."""
    return 1 / (1 + (-logits).exp())


def keep_all(count: int, device: torch.device) -> Edit:
    """The edit that changes nothing."""
    return Edit(
        torch.arange(count, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
    )
