"""ImageGaussians: a picture as a sum of 2D Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor

from splat.core.binning import ALPHA_MIN
from splat.core.checks import Arguments, check_size
from splat.core.ops import Backend
from splat.core.project_image import project_image
from splat.core.reference.rasterize import splat_weights
from splat.files import load_tensors, save_tensors
from splat.image.draw import rasterize_image
from splat.image.picture import CHANNEL_COUNT, Channels

MAX_SIDE = 1 << 16
"""Longest side of a render, pixels."""
_FORMAT = "splat-image-gaussians"
_VERSION = "1"
_TENSORS = ("means", "log_scales", "angles", "colors")


@dataclass(frozen=True)
class ImageGaussians:
    """N 2D Gaussians whose weighted sum is a picture: I(p) = sum_n colors_n exp(-d^T Sigma_n^-1 d / 2), d = p - means_n
    (GaussianImage, Zhang et al. 2024, eq. 6). Values are sRGB in 0..1; a render may leave that range slightly."""

    means: Tensor
    """[N, 2] pixels of the fitted picture, x right, y down; the centre of the first pixel is 0.5."""
    log_scales: Tensor
    """[N, 2] logs of the standard deviations along the two axes, in pixels."""
    angles: Tensor
    """[N] radians, direction of the first axis, from x towards y."""
    colors: Tensor
    """[N, D], any sign. RGBA: colour premultiplied by alpha, then alpha."""
    width: int
    """Width in pixels of the picture that was fitted."""
    height: int
    channels: Channels = "RGB"
    """What the D channels are: L, RGB or RGBA."""

    def __post_init__(self) -> None:
        check = Arguments()
        check.floats("means", self.means, "N", 2)
        check.floats("log_scales", self.log_scales, "N", 2)
        check.floats("angles", self.angles, "N")
        if self.channels not in CHANNEL_COUNT:
            raise ValueError(f"channels must be one of {', '.join(CHANNEL_COUNT)}, got {self.channels!r}")
        check.floats("colors", self.colors, "N", CHANNEL_COUNT[self.channels])
        check_size(self.width, self.height)

    def __len__(self) -> int:
        return self.means.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The model with `change` applied to each of its tensors (select rows, move, detach, ...)."""
        means, log_scales, angles, colors = (change(getattr(self, name)) for name in _TENSORS)
        return replace(self, means=means, log_scales=log_scales, angles=angles, colors=colors)

    def joined(self, other: ImageGaussians) -> Self:
        """This model and the Gaussians of another one of the same picture."""
        tensors = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in _TENSORS}
        return replace(self, **tensors)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Self:
        """The model on another device."""
        return self.map(lambda t: t.to(device))

    def scaled(self, factor_x: float, factor_y: float) -> Self:
        """The same picture drawn factor_x times as wide and factor_y times as high (exact where the factors agree;
        otherwise each Gaussian's covariance is stretched)."""
        factor = torch.tensor([factor_x, factor_y], dtype=self.means.dtype, device=self.means.device)
        width, height = max(1, round(self.width * factor_x)), max(1, round(self.height * factor_y))
        means = self.means * factor
        if factor_x == factor_y:
            log_scales = self.log_scales + factor[0].log()
            return replace(self, means=means, log_scales=log_scales, width=width, height=height)
        cos, sin = self.angles.cos(), self.angles.sin()
        rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        root = factor[:, None] * rotation * self.log_scales.exp()[:, None, :]
        axes, scales, _ = torch.linalg.svd(root)
        angles = torch.atan2(axes[:, 1, 0], axes[:, 0, 0])
        log_scales = scales.clamp_min(1e-6).log()
        return replace(self, means=means, log_scales=log_scales, angles=angles, width=width, height=height)

    def render(
        self,
        *,
        height: int | None = None,
        width: int | None = None,
        scale: float | None = None,
        crop: tuple[float, float, float, float] | None = None,
        backend: Backend | None = None,
    ) -> Tensor:
        """Draws the picture at any size. Differentiable in the model's tensors.

        Args:
            height, width: size of the output in pixels; with one of them the other keeps the aspect ratio.
            scale: output pixels per model pixel, instead of a size.
            crop: (x, y, w, h) in model pixels: only this part is drawn (and sized as above).

        Returns:
            [H, W, D].
        """
        x, y, w, h = crop if crop is not None else (0.0, 0.0, float(self.width), float(self.height))
        if not all(math.isfinite(v) for v in (x, y, w, h)) or w <= 0 or h <= 0:
            raise ValueError(f"crop must be finite with a positive width and height, got {crop}")
        if scale is not None and (height is not None or width is not None):
            raise ValueError("give either scale or height/width, not both")
        for name, value in (("height", height), ("width", width), ("scale", scale)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if height is None and width is None:
            factor_x = factor_y = 1.0 if scale is None else float(scale)
        else:
            factor_y = height / h if height is not None else width / w  # type: ignore[operator]
            factor_x = width / w if width is not None else factor_y
        out_width, out_height = max(1, round(w * factor_x)), max(1, round(h * factor_y))
        if max(out_width, out_height) > MAX_SIDE:
            raise ValueError(
                f"the picture would be {out_width} x {out_height} pixels, at most {MAX_SIDE} a side; draw it in crops"
            )
        model = self
        if crop is not None:
            shift = torch.tensor([x, y], dtype=self.means.dtype, device=self.means.device)
            model = replace(self, means=self.means - shift)
        if factor_x != 1.0 or factor_y != 1.0:
            model = model.scaled(factor_x, factor_y)
        shapes = (model.log_scales, model.angles)
        return rasterize_image(model.means, shapes, model.colors, (out_width, out_height), backend=backend)[0]

    def query(self, points: Tensor) -> Tensor:
        """Values [P, D] at points [P, 2] in model pixels, anywhere (no pixel grid)."""
        check = Arguments()
        check.tensor("means", self.means, "N", 2)
        check.tensor("points", points, "P", 2)
        splats = project_image(self.means, self.log_scales, self.angles, width=self.width, height=self.height)
        values = []
        for chunk in torch.split(points.to(self.means.dtype), max(1, 4_000_000 // max(1, len(self)))):
            weights = splat_weights(chunk, self.means, splats.conics[0], splats.opacities[0])
            values.append(weights.where(weights >= ALPHA_MIN, 0.0) @ self.colors)
        return torch.cat(values) if values else self.colors.new_zeros(0, self.colors.shape[1])

    def save(self, path: str | Path) -> None:
        """Writes the model as .safetensors (to a temporary name, then renamed)."""
        about = {"width": str(self.width), "height": str(self.height), "channels": self.channels}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        save_tensors(path, tensors, {"format": _FORMAT, "version": _VERSION, **about})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote; ValueError for a missing, damaged or other file."""
        tensors, about = load_tensors(path, _TENSORS, format=_FORMAT, version=_VERSION)
        try:
            width, height, channels = int(about["width"]), int(about["height"]), cast(Channels, about["channels"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its header lacks width, height or channels ({error})") from error
        return cls(**tensors, width=width, height=height, channels=channels)
