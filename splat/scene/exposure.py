"""Corrections of a rendered picture's colours for one photo's exposure and white balance, before the loss.

What a correction adds to a colour is linear in what is learnt, so zeros, the start, change no bit. A scene and its
corrections share a freedom: a brighter scene and darker corrections give the same pictures. A picture whose correction
is not known (`row=None`) therefore gets the average one.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.metrics import psnr
from splat.scene.image_tables import ImageTables
from splat.scene.slicing import slice_grid
from splat.scene.sums import total


class Exposure(Protocol):
    """Colour corrections of the photos of a capture."""

    rates: dict[str, float]
    """Learning rates of the tables at the start, for `small_adam.RowAdam`."""

    def correct(self, rendered: Tensor, row: int | None) -> Tensor:
        """The picture as the camera of image `row` would have it; None: as the average camera would.

        Args:
            rendered: [H, W, 3] or [1, H, W, 3], the whole picture, at any resolution.
        """
        ...

    def regulariser(self, row: int | None = None) -> Tensor:
        """[]: how far the corrections are from what is plausible, that of one image or of all."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The tables by name."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies of the tables, for a checkpoint."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes back to what `state` gave."""
        ...


class _Corrections(ImageTables):
    """One table, and the picture as rows of pixels."""

    name: str

    def _learnt(self, row: int | None) -> Tensor:
        return self._tables[self.name].mean(0) if row is None else self.row(self.name, row)

    @staticmethod
    def _picture(rendered: Tensor) -> Tensor:
        """[H, W, 3]."""
        shape = list(rendered.shape)
        if shape[-1:] != [3] or len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
            raise ValueError(f"rendered must have shape [H, W, 3] or [1, H, W, 3], got {shape}")
        return rendered.reshape(shape[-3:])


class AffineExposure(_Corrections):
    """A 3x4 matrix for each image: gains, mixing of the channels, and an offset.

    Its table holds how far the matrix is from the identity.
    """

    name = "exposure_affine"

    def __init__(self, images: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(images, {self.name: (3, 4)}, device)
        self.rates = {self.name: 1e-2}

    def matrices(self) -> Tensor:
        """[images, 3, 4], acting on (r, g, b, 1)."""
        table = self._tables[self.name].detach()
        return torch.eye(3, 4, dtype=table.dtype, device=table.device) + table

    def correct(self, rendered: Tensor, row: int | None) -> Tensor:
        """See Exposure."""
        rgb = self._picture(rendered)
        matrix = self._learnt(row).mT.expand(len(rgb), 4, 3)  # one for each line: gradients are summed in a fixed order
        return (rgb + torch.bmm(F.pad(rgb, (0, 1), value=1.0), matrix)).view(rendered.shape)

    def regulariser(self, row: int | None = None) -> Tensor:
        """images times the squared distance of the average correction from none. It holds the freedom that scene and
        corrections share, and leaves the corrections free to differ; the row does not matter."""
        return self.images * self._tables[self.name].mean(0).square().sum()


class BilateralGrid(_Corrections):
    """A 3x4 matrix for each image, place and brightness: what a phone's local tone mapping does (Wang et al. 2024,
    "Bilateral Guided Radiance Field Processing").

    Its table holds, at the nodes of a grid, how far the matrices are from the identity.
    """

    name = "exposure_grid"

    def __init__(
        self, images: int, shape: tuple[int, int, int] = (16, 16, 8), *, device: torch.device | str | None = None
    ) -> None:
        """shape: nodes in x, y and brightness."""
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(f"shape must be three numbers of nodes, of at least 2 each, got {shape}")
        across, down, levels = shape
        super().__init__(images, {self.name: (down, levels, 12, across)}, device)
        self.rates = {self.name: 1e-2}

    def correct(self, rendered: Tensor, row: int | None) -> Tensor:
        """See Exposure."""
        rgb = self._picture(rendered)
        return (rgb + slice_grid(self._learnt(row), rgb)).view(rendered.shape)

    def regulariser(self, row: int | None = None) -> Tensor:
        """Total variation: mean squared difference of neighbours, summed over the three directions (gsplat weighs it
        by 10). The freedom that scene and corrections share is not held."""
        table = self._tables[self.name] if row is None else self.row(self.name, row)[None]
        steps = [table.diff(dim=d).square() for d in (1, 2, 4)]
        return torch.stack([total(s) / s.numel() for s in steps]).sum()


def fit_affine(rendered: Tensor, truth: Tensor) -> Tensor:
    """The rendered picture [H, W, 3] with a gain and an offset for each channel, so that its colours are those of the
    truth, clamped to 0..1: for views whose exposure is not known.

    As gsplat's trainer, to compare with: the line is fitted from truth to rendered, and then inverted. That is exact
    for planted gains and offsets, and overshoots where the pictures agree little: it may score below the plain picture.
    """
    if rendered.dim() != 3 or rendered.shape != truth.shape:
        raise ValueError(
            f"rendered and truth must have the same shape [H, W, D], got {list(rendered.shape)}, {list(truth.shape)}"
        )
    x, y = (picture.double().flatten(0, 1) for picture in (truth, rendered))
    mean_x, mean_y = x.mean(0), y.mean(0)
    variance = (x - mean_x).square().mean(0).clamp_min(1e-8)
    gain = ((x - mean_x) * (y - mean_y)).mean(0) / variance
    offset = mean_y - gain * mean_x
    gain = torch.where(gain.abs() < 1e-8, torch.ones_like(gain), gain)
    return ((rendered - offset) / gain).clamp(0, 1).to(rendered.dtype)


def psnr_cc(rendered: Tensor, truth: Tensor) -> float:
    """PSNR in dB after `fit_affine`: never to be mixed with plain PSNR."""
    return psnr(fit_affine(rendered, truth), truth)
