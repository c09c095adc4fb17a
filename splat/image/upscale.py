"""Enlarging a picture: Gaussians are fitted to the means over its pixels and drawn on smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.core.checks import check_int
from splat.image.fit import FitConfig, FitResult, fit_image
from splat.image.fitter import FitProgress
from splat.image.picture import Picture, PictureError
from splat.metrics import MAX_PSNR, psnr

if TYPE_CHECKING:
    from PIL import Image

MAX_FACTOR = 8
PIXELS_PER_GAUSSIAN = 4
"""Many: what the fit leaves out of the small picture is missing in the large one."""
DRAFT = FitConfig(preset="draft")
LEAST_SIDE = 16
"""Pixels of the reduced picture of a held-out test."""

Watch = Callable[[FitProgress], None]


def upscale(
    picture: Picture, factor: int, config: FitConfig = DRAFT, *, callback: Watch | None = None
) -> tuple[Tensor, FitResult]:
    """The picture `factor` times as large, [factor H, factor W, D] in 0..1, and the fit that it was drawn from.

    Args:
        factor: 2 to 8.
        config: is taken `for_any_size`, and where it says neither n nor a target PSNR with one Gaussian for four
            pixels.
        callback: as of fit_image.
    """
    check_int("factor", factor, 2, MAX_FACTOR)
    config = config.for_any_size()
    if config.n is None and config.target_psnr is None:
        config = replace(config, n=max(1, picture.pixels[..., 0].numel() // PIXELS_PER_GAUSSIAN))
    result = fit_image(picture, config, callback=callback)
    with torch.no_grad():
        return result.model.render(scale=float(factor)).clamp(0, 1), result


@dataclass(frozen=True)
class HeldOut:
    """PSNR in dB of enlargements of a reduced picture against the picture."""

    gaussians: float
    bicubic: float
    lanczos: float


def held_out(
    picture: Picture, factor: int, config: FitConfig = DRAFT, *, callback: Watch | None = None
) -> HeldOut | None:
    """How well enlarging does on this picture: it is reduced by `factor` (means over squares of pixels, rounded to its
    bits), enlarged again, and compared with itself, beside Pillow's bicubic and Lanczos filters on the same reduced
    picture. The last pixels that do not make a full square are left out. None after Ctrl-C.

    Raises:
        PictureError: the picture is too small for that.
    """
    check_int("factor", factor, 2, MAX_FACTOR)
    height, width = (side // factor for side in picture.pixels.shape[:2])
    if min(height, width) < LEAST_SIDE:
        raise PictureError(
            f"a held-out test needs {LEAST_SIDE * factor} pixels a side for a factor of {factor}, "
            f"got {picture.pixels.shape[1]} x {picture.pixels.shape[0]}"
        )
    whole = picture.pixels[: height * factor, : width * factor]
    levels = 2**picture.bits - 1
    means = F.avg_pool2d(whole.permute(2, 0, 1), factor).permute(1, 2, 0)
    reduced = replace(picture, pixels=(means * levels).round() / levels)
    enlarged, result = upscale(reduced, factor, config, callback=callback)
    if result.interrupted:
        return None
    from PIL import Image

    filters = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    shown = [enlarged, *(_resized(reduced.pixels, factor, kind) for kind in filters)]
    return HeldOut(*(min(MAX_PSNR, psnr(image, whole)) for image in shown))


def _resized(pixels: Tensor, factor: int, kind: Image.Resampling) -> Tensor:
    import numpy as np
    from PIL import Image

    height, width, channels = pixels.shape
    size = (width * factor, height * factor)
    planes: list[Any] = [
        np.asarray(Image.fromarray(pixels[..., d].contiguous().numpy()).resize(size, kind)) for d in range(channels)
    ]
    return torch.from_numpy(np.stack(planes, -1)).clamp(0, 1)
