"""How close a picture is to another: PSNR, SSIM and MS-SSIM of [H, W, D] tensors with values in 0..1.

A mask (bool [H, W]) says which pixels count."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_device
from splat.core.ops import one_torch_thread
from splat.core.reference.ssim import TAPS, crop_border, inner_ssim_maps, ssim_maps
from splat.core.separable import STRIP_VALUES

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, fine to coarse (Wang, Simoncelli & Bovik 2003)."""
MAX_PSNR = 100.0
"""dB, what reports say of equal pictures: JSON has no infinity."""


def _pair(image: Tensor, target: Tensor) -> None:
    if image.dim() != 3 or image.shape != target.shape:
        raise ValueError(
            f"image and target must have the same shape [H, W, D], got {list(image.shape)} and {list(target.shape)}"
        )
    check_device("target", target, "image", image)


def error_of_psnr(psnr: float) -> float:
    """The inverse of psnr_of_error."""
    return float(10 ** (-psnr / 10))


def psnr_of_error(mean_squared_error: float) -> float:
    """PSNR in dB of values in 0..1; infinity for no error."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else math.inf


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal pictures."""
    _pair(image, target)
    counted = None if mask is None else _checked(mask, image)
    total, count = 0.0, image.numel() if mask is None else int(mask.sum()) * image.shape[2]
    rows = max(1, STRIP_VALUES // image.shape[1])
    for top in range(0, image.shape[0], rows):
        squared = (image[top : top + rows] - target[top : top + rows]).square()
        if counted is not None:
            squared = squared[counted[top : top + rows]]
        total += float(squared.double().sum())
    return psnr_of_error(total / count / data_range**2)


# PU21 "banding + glare" (Mantiuk & Azimi, "PU21: A novel perceptually uniform encoding for adapting existing quality
# metrics for HDR", PCS 2021, eq. 2 and table 1).
_PU21 = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
_PU21_RANGE = (0.005, 10_000.0)
PU21_PEAK = 256.0
"""What 100 cd/m^2 is encoded as, about: the peak of PU21's PSNR, so that it reads like that of an ordinary display."""


def pu21(luminance: Tensor) -> Tensor:
    """cd/m^2, clamped to 0.005 .. 10,000, to perceptually uniform values 0 .. 596. Computed in float64."""
    p1, p2, p3, p4, p5, p6, p7 = _PU21
    power = luminance.double().clamp(*_PU21_RANGE) ** p4
    encoded: Tensor = p7 * (((p1 + p2 * power) / (1 + p3 * power)) ** p5 - p6)
    return encoded.clamp_min(0)


def pu21_psnr(image: Tensor, target: Tensor, white: float = 100.0) -> float:
    """PSNR in dB of the PU21 encodings of linear light [H, W, D], of which 1 is `white` cd/m^2; infinity for equal
    pictures."""
    return psnr(pu21(image * white), pu21(target * white), PU21_PEAK)


def _fitting(mask: Tensor, image: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != image.shape[:2]:
        raise ValueError(f"mask must be bool [H, W] = {list(image.shape[:2])}, got {mask.dtype} {list(mask.shape)}")
    return mask


def _checked(mask: Tensor, image: Tensor) -> Tensor:
    if not bool(_fitting(mask, image).any()):
        raise ValueError("mask must leave at least one pixel")
    return mask


_TOO_NARROW = f"mask must leave a pixel that is {TAPS // 2} or more from the border"


def check_mask(mask: Tensor) -> None:
    """ValueError where SSIM cannot be told of a mask [H, W]: no pixel that it leaves has its window in the picture."""
    if not bool((mask if min(mask.shape) < TAPS else crop_border(mask[None])).any()):
        raise ValueError(_TOO_NARROW)


class _Scale:
    """Sums of the SSIM maps of a pair of pictures that comes as strips of rows, from the top: over the pixels (of the
    mask) whose window lies inside. `coarser` gets the pair at half the size."""

    def __init__(self, height: int, width: int, scales: int = 1) -> None:
        self.whole = min(height, width) < TAPS  # smaller than a window: all pixels count, zeros outside
        self.sums, self.count = [0.0, 0.0], 0
        self.carried: list[Tensor] = []
        self.odd: list[Tensor] = []
        self.coarser = _Scale(-(-height // 2), -(-width // 2), scales - 1) if scales > 1 else None

    def add(self, image: Tensor, target: Tensor, *, last: bool, mask: Tensor | None = None) -> None:
        """The next rows [h, W, D] of both."""
        self._count([image, target] if mask is None else [image, target, mask], last)
        if self.coarser is None:
            return
        rows = _after(self.odd, [image, target])
        even = len(rows[0]) if last else len(rows[0]) // 2 * 2
        self.odd = [v[even:] for v in rows]
        if even:
            halves = [F.avg_pool2d(v[:even].permute(2, 0, 1), 2, ceil_mode=True).permute(1, 2, 0) for v in rows]
            self.coarser.add(halves[0], halves[1], last=last)

    def _count(self, rows: list[Tensor], last: bool) -> None:
        rows = _after(self.carried, rows)
        height, width = rows[0].shape[:2]
        if self.whole:
            self.carried = rows
            if last:
                self._sum([m[0] for m in ssim_maps(rows[0][None].double(), rows[1][None].double())], rows[2:])
            return
        windows, strip = max(0, height - TAPS + 1), max(32, STRIP_VALUES // width)
        for top in range(0, windows, strip):
            part = [v[top : min(top + strip, windows) + TAPS - 1] for v in rows]
            maps = inner_ssim_maps(part[0][None].double(), part[1][None].double())
            self._sum([m[0] for m in maps], [crop_border(mask[None])[0] for mask in part[2:]])
        self.carried = [v[windows:].clone() for v in rows]

    def _sum(self, maps: list[Tensor], masks: list[Tensor]) -> None:
        maps = [m[masks[0]] for m in maps] if masks else maps
        self.sums = [total + float(m.sum()) for total, m in zip(self.sums, maps, strict=True)]
        self.count += maps[0].numel()

    @property
    def means(self) -> tuple[float, float]:
        """SSIM and its contrast-structure factor."""
        if not self.count:
            raise ValueError(_TOO_NARROW)
        return self.sums[0] / self.count, self.sums[1] / self.count


def _after(carried: list[Tensor], rows: list[Tensor]) -> list[Tensor]:
    """Rows with those that were kept before them."""
    if not carried or not len(carried[0]):
        return rows
    return [torch.cat(both) for both in zip(carried, rows, strict=True)]


class Scores:
    """PSNR, SSIM and MS-SSIM of a pair of pictures that comes as strips of rows, from the top; memory for a strip. With
    a mask only PSNR and SSIM mean something."""

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.rows, self.values, self.squared = 0, 0, 0.0
        scales = max(1, min(5, 1 + math.floor(math.log2(min(height, width) / TAPS))))
        self.finest = _Scale(height, width, scales)
        self.weights = [w / sum(MS_WEIGHTS[:scales]) for w in MS_WEIGHTS[:scales]]

    def add(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """The next rows [h, W, D] of both, values in 0..1; mask: bool [h, W], the pixels that count."""
        _pair(image, target)
        if mask is not None:
            image = torch.where(_fitting(mask, image)[..., None], image, target)
        if self.rows + len(image) > self.height:
            raise ValueError(f"image must have {self.height - self.rows} rows or fewer that are left, got {len(image)}")
        self.rows += len(image)
        with one_torch_thread():  # many small operations
            self.squared += float((image - target).square().double().sum())
            self.values += image.numel() if mask is None else int(mask.sum()) * image.shape[2]
            self.finest.add(image, target, last=self.rows == self.height, mask=mask)

    @property
    def psnr(self) -> float:
        """In dB, as the function."""
        return psnr_of_error(self.squared / self.values)

    @property
    def ssim(self) -> float:
        """As the function."""
        return self.finest.means[0]

    @property
    def ms_ssim(self) -> float:
        """As the function."""
        scale, result = self.finest, 1.0
        for weight in self.weights:
            full, structure = scale.means
            result *= max(0.0, structure if scale.coarser is not None else full) ** weight
            scale = scale.coarser or scale
        return result


def ssim(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Mean SSIM over the pixels whose window lies inside the picture (Wang et al. 2004). Where the mask is False the
    pictures are taken for equal, and not counted."""
    _pair(image, target)
    scale = _Scale(*image.shape[:2])
    if mask is not None:
        image = torch.where(_checked(mask, image)[..., None], image, target)
    with one_torch_thread():
        scale.add(image, target, last=True, mask=mask)
    return scale.means[0]


def ms_ssim(image: Tensor, target: Tensor) -> float:
    """Multi-scale SSIM. A picture too small for five scales uses those it has room for, their weights scaled to 1."""
    _pair(image, target)
    scores = Scores(*image.shape[:2])
    scores.add(image, target)
    return scores.ms_ssim
