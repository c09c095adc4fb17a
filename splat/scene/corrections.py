"""What is learnt for each photograph besides the scene: exposures and poses, their optimiser and their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.scene.config import CorrectionConfig
from splat.scene.exposure import AffineExposure, BilateralGrid, Exposure
from splat.scene.pose import PoseRefinement
from splat.scene.small_adam import RowAdam

AFFINE_WEIGHT = 0.1
GRID_WEIGHT = 10.0
"""Of the total variation, as in gsplat's trainer."""
POSE_WEIGHT = 1e-3
FINAL_RATE = 0.01
"""Rates fall exponentially to this share of themselves."""


class Corrections:
    """All that is corrected for the images of a capture; nothing, if so configured."""

    def __init__(self, config: CorrectionConfig, rows: Sequence[int], device: torch.device) -> None:
        """rows: of the views that are trained on; the others have nothing to learn from."""
        self._place = {row: place for place, row in enumerate(rows)}
        images = len(rows)
        self.exposure: Exposure | None = None
        self.poses = PoseRefinement(images, device=device) if config.poses else None
        self.weight = 0.0
        if config.exposure == "affine":
            self.exposure, self.weight = AffineExposure(images, device=device), AFFINE_WEIGHT
        elif config.exposure == "grid":
            self.exposure, self.weight = BilateralGrid(images, device=device), GRID_WEIGHT
        self._parts = [part for part in (self.exposure, self.poses) if part is not None]
        tables = {name: table for part in self._parts for name, table in part.parameters().items()}
        rates = {name: rate for part in self._parts for name, rate in part.rates.items()}
        self.optimizer = RowAdam(tables, rates) if tables else None

    def camera(self, camera: Cameras, row: int) -> Cameras:
        """The camera of a view where it is thought to have stood; its viewmats may have a gradient."""
        return (
            camera
            if self.poses is None
            else replace(camera, viewmats=self.poses.apply(camera.viewmats, self._place[row]))
        )

    def color(self, image: Tensor, row: int | None) -> Tensor:
        """[H, W, 3] as that photograph would have shown it. None: as an average one would, for a view held out."""
        return (
            image if self.exposure is None else self.exposure.correct(image, None if row is None else self._place[row])
        )

    def held_out(self, row: int, image: Tensor) -> Tensor:
        """For `evaluate`."""
        return self.color(image, None)

    def penalty(self, row: int) -> Tensor | None:
        """[] what keeps the corrections small, or None."""
        terms = []
        if self.exposure is not None:
            terms.append(self.weight * self.exposure.regulariser(self._place[row]))
        if self.poses is not None:
            terms.append(POSE_WEIGHT * self.poses.regulariser(self._place[row]))
        return sum(terms[1:], terms[0]) if terms else None

    def step(self, rows: Sequence[int], progress: float) -> None:
        """Moves what belongs to these images by the gradients that were collected."""
        if self.optimizer is not None:
            self.optimizer.step([self._place[row] for row in rows], FINAL_RATE**progress)

    def tables(self) -> dict[str, Tensor]:
        """Every tensor, by a name for a file."""
        result: dict[str, Tensor] = {}
        for part in self._parts:
            result |= part.state()
        return result | (self.optimizer.state() if self.optimizer is not None else {})

    def load_tables(self, tables: dict[str, Tensor]) -> None:
        """Takes what `tables` gave."""
        for part in self._parts:
            part.load_state(tables)
        if self.optimizer is not None:
            self.optimizer.load_state(tables)
