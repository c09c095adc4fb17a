"""ImageGaussians: a picture as a sum of 2D Gaussians."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor

from splat.core.checks import Arguments, check_size, check_type
from splat.core.ops import Backend
from splat.core.project_image import check_dilation
from splat.core.rasterize import RasterizeOptions
from splat.core.reference.rasterize import order_free, splat_weights
from splat.files import load_tensors, save_tensors
from splat.image.canvas import Canvas, OrderFree, order_free_options
from splat.image.draw import rasterize_image
from splat.image.layout import RGB, Layout

MAX_SIDE = 1 << 16
"""Longest side of a render, pixels."""
FORMAT = "splat-image-gaussians"
"""What files of fitted pictures call themselves."""
_VERSION = "2"
_OLD_VERSION = "1"
"""Had a mode, L, RGB or RGBA, where there is a layout now."""
TENSORS = ("means", "log_scales", "angles", "colors")
"""What a model has of each Gaussian."""


def scaled_axes(log_scales: Tensor, angles: Tensor) -> Tensor:
    """[N, 2, 2], in whose columns are a Gaussian's axes, each as long as its standard deviation."""
    first, second = log_scales.exp().unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos * first, -sin * second, sin * first, cos * second], -1).view(len(angles), 2, 2)


def axes_of_root(root: Tensor) -> tuple[Tensor, Tensor]:
    """log_scales [N, 2] and angles [N] of Gaussians with covariances root root^T, root [N, 2, 2]; the longer axis comes
    first. An axis shorter than 1e-6 pixels is lengthened to that."""
    axes, scales, _ = torch.linalg.svd(root)
    return scales.clamp_min(1e-6).log(), torch.atan2(axes[:, 1, 0], axes[:, 0, 0])


@dataclass(frozen=True)
class ImageGaussians:
    """N 2D Gaussians whose weighted sum is a picture: I(p) = sum_n colors_n w_n, w_n = exp(-d^T Sigma_n^-1 d / 2),
    d = p - means_n (GaussianImage, Zhang et al. 2024, eq. 6); with blend topk the sum over the largest w_n at p,
    divided by the sum of these (Image-GS, Zhang et al. 2025). Values are those of its layout, in 0..1
    (of an ordinary picture sRGB); a render may leave that range slightly."""

    means: Tensor
    """[N, 2] pixels of the fitted picture, x right, y down; the centre of the first pixel is 0.5."""
    log_scales: Tensor
    """[N, 2] logs of the standard deviations along the two axes, in pixels."""
    angles: Tensor
    """[N] radians, direction of the first axis, from x towards y."""
    colors: Tensor
    """[N, D], any sign; D channels as the layout says."""
    width: int
    """Width in pixels of the picture that was fitted."""
    height: int
    layout: Layout = RGB
    """What the D channels are."""
    blend: OrderFree = "sum"
    """The compositor, see `splat.RasterizeOptions`."""
    topk: int = 10
    """Gaussians per pixel that count, for blend topk."""
    dilation: float = 0.0
    """Pixels^2 of the drawn picture, whatever its size, that the covariances grow by (`project_image`). 1/12 draws the
    mean over a pixel's square: the model stands for the picture before it was cut into pixels."""
    layers: tuple[int, ...] = ()
    """Levels of detail: after so many Gaussians, counted from the first, the picture is whole at a coarser level. The
    last is N; empty: the order means nothing."""

    def __post_init__(self) -> None:
        check = Arguments()
        check.floats("means", self.means, "N", 2)
        check.floats("log_scales", self.log_scales, "N", 2)
        check.floats("angles", self.angles, "N")
        check_type("layout", self.layout, Layout)
        check.floats("colors", self.colors, "N", self.layout.channels)
        check_size(self.width, self.height)
        check_dilation(self.dilation)
        order_free_options(self.blend, self.topk)
        if self.layers and (any(b < a for a, b in pairwise((0, *self.layers))) or self.layers[-1] != len(self)):
            raise ValueError(f"layers must rise from 0 or above to N = {len(self)}, got {self.layers}")

    @property
    def options(self) -> RasterizeOptions:
        """How the Gaussians become pixels."""
        return order_free_options(self.blend, self.topk)

    def __len__(self) -> int:
        return self.means.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The model with `change` applied to each of its tensors (select rows, move, detach, ...). With another
        number of Gaussians the levels are gone."""
        means, log_scales, angles, colors = (change(getattr(self, name)) for name in TENSORS)
        layers = self.layers if len(means) == len(self) else ()
        return replace(self, means=means, log_scales=log_scales, angles=angles, colors=colors, layers=layers)

    def joined(self, other: ImageGaussians) -> Self:
        """This model and the Gaussians of another one of the same picture. The levels are gone."""
        tensors = (torch.cat([getattr(self, name), getattr(other, name)]) for name in TENSORS)
        means, log_scales, angles, colors = tensors
        return replace(self, means=means, log_scales=log_scales, angles=angles, colors=colors, layers=())

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
        log_scales, angles = axes_of_root(factor[:, None] * scaled_axes(self.log_scales, self.angles))
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
            # The part's size, for the whole picture's may be too large once it is scaled.
            model = replace(self, means=self.means - shift, width=max(1, round(w)), height=max(1, round(h)))
        if factor_x != 1.0 or factor_y != 1.0:
            model = model.scaled(factor_x, factor_y)
        image, _ = rasterize_image(
            model.means,
            (model.log_scales, model.angles),
            model.colors,
            (out_width, out_height),
            blend=self.options,
            dilation=self.dilation,
            backend=backend,
        )
        return image

    def query(self, points: Tensor) -> Tensor:
        """Values [P, D] at points [P, 2] in model pixels, anywhere (no pixel grid). With a dilation they are those of a
        pixel of the fitted picture's size around each point."""
        check = Arguments()
        check.tensor("means", self.means, "N", 2)
        check.tensor("points", points, "P", 2)
        canvas = Canvas(self.width, self.height, self.options, self.dilation)
        splats = canvas.project(self.means, self.log_scales, self.angles)
        topk = self.topk if self.blend == "topk" else None
        values = []
        for chunk in torch.split(points.to(self.means.dtype), max(1, 4_000_000 // max(1, len(self)))):
            weights = splat_weights(chunk, self.means, splats.conics[0], splats.opacities[0])
            values.append(order_free(weights, self.colors, self.options.cutoff, False, topk)[0])
        return torch.cat(values) if values else self.colors.new_zeros(0, self.colors.shape[1])

    def save(self, path: str | Path) -> None:
        """Writes the model as .safetensors (to a temporary name, then renamed)."""
        about = {"width": str(self.width), "height": str(self.height), "layout": json.dumps(self.layout.records())}
        about |= {"blend": self.blend, "topk": str(self.topk), "dilation": repr(float(self.dilation))}
        about |= {"layers": json.dumps(self.layers)} if self.layers else {}
        tensors = {name: getattr(self, name) for name in TENSORS}
        save_tensors(path, tensors, {"format": FORMAT, "version": _VERSION, **about})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote; ValueError for a missing, damaged or other file."""
        tensors, about = load_tensors(path, TENSORS, format=FORMAT, version=(_OLD_VERSION, _VERSION))
        try:
            width, height = int(about["width"]), int(about["height"])
            old = about["version"] == _OLD_VERSION
            layout = Layout.of(about["channels"]) if old else Layout.from_records(json.loads(about["layout"]))  # type: ignore[arg-type]
            # Files from before these fields lack them.
            blend, topk = cast(OrderFree, about.get("blend", "sum")), int(about.get("topk", "10"))
            dilation = float(about.get("dilation", "0"))
            layers = tuple(int(end) for end in json.loads(about.get("layers", "[]")))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: its header lacks width, height or layout, or is damaged ({error})") from error
        means, log_scales, angles, colors = (tensors[name] for name in TENSORS)
        try:
            return cls(means, log_scales, angles, colors, width, height, layout, blend, topk, dilation, layers)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
