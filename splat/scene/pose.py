"""Refinement of the cameras' poses together with the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from splat.core.checks import Arguments
from splat.core.reference.project import rotation
from splat.scene.image_tables import ImageTables

TRANSLATIONS, ROTATIONS = "pose_translations", "pose_rotations"


class PoseRefinement(ImageTables):
    """A small rigid motion of each camera, in its own frame: first a turn about its centre, then a shift.

    A shift is in world units. A turn is a vector along its axis, of length 2 tan(angle / 2): radians, for the angles
    that matter here, without the case distinctions that an angle needs near 0. Zeros, the start, change no bit of a
    pose.

    Moving all cameras and the scene by one rigid motion (and scaling them) changes no picture: nothing in the pictures
    holds that freedom. `regulariser` keeps the cameras near where they were. Held-out cameras are not refined, so that
    a drift of the others costs quality there.
    """

    def __init__(self, images: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(images, {TRANSLATIONS: (3,), ROTATIONS: (3,)}, device)
        self.rates = {TRANSLATIONS: 1e-3, ROTATIONS: 1e-3}
        """Learning rates at the start, for `small_adam.RowAdam` and a world in which the cameras' extent is 1."""

    def apply(self, viewmats: Tensor, row: int) -> Tensor:
        """The viewmats [C, 4, 4] of image `row`, refined; with gradients."""
        Arguments().floats("viewmats", viewmats, "C", 4, 4)
        return moved(viewmats, self.row(TRANSLATIONS, row)[None], self.row(ROTATIONS, row)[None])

    @torch.no_grad()
    def refined(self, viewmats: Tensor) -> Tensor:
        """The viewmats [images, 4, 4] of all images, refined; without gradients."""
        Arguments().floats("viewmats", viewmats, self.images, 4, 4)
        return moved(viewmats, self._tables[TRANSLATIONS], self._tables[ROTATIONS])

    def regulariser(self, row: int | None = None) -> Tensor:
        """[]: squared length of the shift and of the turn, of one image or on average."""
        names = (TRANSLATIONS, ROTATIONS)
        moves = torch.cat([self._tables[n] if row is None else self.row(n, row)[None] for n in names], 1)
        return moves.square().sum(1).mean()


def moved(viewmats: Tensor, shifts: Tensor, turns: Tensor) -> Tensor:
    """The cameras [C, 4, 4] turned by `turns`, then shifted by `shifts`, both [C, 3] or [1, 3] (see PoseRefinement)."""
    quats = torch.cat([torch.ones_like(turns[:, :1]), turns / 2], 1)
    top = rotation(quats).to(viewmats.dtype) @ viewmats[:, :3]
    place = top[..., 3] + shifts.to(viewmats.dtype)
    return torch.cat([torch.cat([top[..., :3], place[..., None]], -1), viewmats[:, 3:]], 1)
