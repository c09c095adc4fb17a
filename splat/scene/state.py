"""The scene while it is trained: parameters, moments, ids and statistics, a row for each Gaussian, edited as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splat.gaussians import Gaussians
from splat.optim import GaussianAdam
from splat.scene.densify.base import Edit
from splat.scene.densify.surgery import edited, edited_moments

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class SceneState:
    """All that has a row for each Gaussian."""

    optimizer: GaussianAdam
    ids: Tensor
    """int64 [N], unique; keep through edits."""
    statistics: dict[str, Tensor]
    """[N] by name: what the strategy remembers."""

    def __len__(self) -> int:
        return len(self.optimizer.gaussians)

    @property
    def gaussians(self) -> Gaussians:
        """[N], without history."""
        return self.optimizer.gaussians

    @classmethod
    def start(cls, optimizer: GaussianAdam, statistics: dict[str, Tensor]) -> SceneState:
        """Ids count from 0."""
        count = len(optimizer.gaussians)
        return cls(optimizer, torch.arange(count, device=optimizer.gaussians.means.device), statistics)

    def edit(self, edit: Edit, iteration: int) -> None:
        """Applies an edit to every table."""
        o = self.optimizer
        self.ids = edit.ids(self.ids, iteration)
        o.gaussians = Gaussians(**edited(o.gaussians.parameters(), edit))
        for name in _MOMENTS:
            setattr(o, name, edited_moments(getattr(o, name), edit))
        # The count goes on although the moments begin anew, as with torch's Adam in 3DGS and gsplat: without a
        # correction of their bias, new Gaussians take 3 to 6 times as long steps for some hundred images.
        o.steps = o.steps[edit.rows]
        self.statistics = {name: table[edit.rows] for name, table in self.statistics.items()}

    def tables(self) -> dict[str, Tensor]:
        """Every tensor, by a name for a file."""
        o = self.optimizer
        result = {f"gaussians.{k}": v for k, v in o.gaussians.parameters().items()}
        for moment in _MOMENTS:
            result |= {f"{moment}.{k}": v for k, v in getattr(o, moment).items()}
        result |= {f"statistics.{k}": v for k, v in self.statistics.items()}
        return result | {"steps": o.steps, "ids": self.ids}

    def load_tables(self, tables: dict[str, Tensor]) -> None:
        """Takes what `tables` gave."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix + "."): v for k, v in tables.items() if k.startswith(prefix + ".")}

        o = self.optimizer
        device = o.gaussians.means.device
        o.gaussians = Gaussians(**part("gaussians")).to(device)
        for moment in _MOMENTS:
            setattr(o, moment, {k: v.to(device) for k, v in part(moment).items()})
        self.statistics = {k: v.to(device) for k, v in part("statistics").items()}
        o.steps, self.ids = tables["steps"].to(device), tables["ids"].to(device)
