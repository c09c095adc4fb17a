"""The tensors of a Gaussians as numpy arrays, which is what the formats are read into and written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from splat.gaussians import NAMES, Gaussians

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
BANDS = (0, 3, 8, 15, 24)
"""Coefficients a channel beyond the constant one, by degree."""


@dataclass(frozen=True)
class Arrays:
    """N Gaussians, float32, unactivated (see `Gaussians`)."""

    means: F32
    """[N, 3] world."""
    quats: F32
    """[N, 4] wxyz."""
    log_scales: F32
    """[N, 3]."""
    opacity_logits: F32
    """[N]."""
    sh0: F32
    """[N, 1, 3]."""
    shN: F32
    """[N, K - 1, 3]."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Highest degree of the harmonics."""
        return BANDS.index(self.shN.shape[1])

    @classmethod
    def empty(cls, count: int, sh_degree: int) -> Self:
        """Room for `count` Gaussians."""
        shapes = ((3,), (4,), (3,), (), (1, 3), (BANDS[sh_degree], 3))
        return cls(*(np.empty((count, *shape), np.float32) for shape in shapes))

    @classmethod
    def of(cls, gaussians: Gaussians, *, drawable: bool) -> Self:
        """The tensors themselves where they are float32 on the CPU, else copies; with `drawable`, without the Gaussians
        that are not `Gaussians.valid` and so are in no picture."""
        gaussians = gaussians.detach().to("cpu").to(torch.float32)
        if drawable and not bool((valid := gaussians.valid).all()):
            gaussians = gaussians.select(valid)
        return cls(*(gaussians.parameters()[name].numpy() for name in NAMES))

    def select(self, rows: npt.NDArray[np.int64]) -> Self:
        """The Gaussians of these indices."""
        return type(self)(*(getattr(self, name)[rows] for name in NAMES))

    def gaussians(self) -> Gaussians:
        """As tensors, which share the memory."""
        return Gaussians(**{name: torch.from_numpy(getattr(self, name)) for name in NAMES})

    def turned(self, x: int, y: int, z: int) -> Self:
        """In axes of these signs, an even number of them -1: half a turn about the remaining axis."""
        if x * y * z != 1:
            raise ValueError(f"the signs must make a rotation, got {x}, {y}, {z}")
        signs = np.array([x, y, z], np.float32)
        quats = self.quats * np.array([1, x, y, z], np.float32)
        shN = self.shN * _harmonic_signs(x, y, z)[: self.shN.shape[1], None]
        return type(self)(self.means * signs, quats, self.log_scales, self.opacity_logits, self.sh0, shN)


def _harmonic_signs(x: int, y: int, z: int) -> F32:
    """[24] by how the real harmonics of degrees 1 .. 4 change when the direction's coordinates change signs."""
    signs = []
    for degree in range(1, 5):
        for order in range(-degree, degree + 1):
            odd_x = order % 2 == (0 if order < 0 else 1)
            odd_y = order < 0
            odd_z = (degree + order) % 2 == 1
            signs.append(x**odd_x * y**odd_y * z**odd_z)
    return np.array(signs, np.float32)
