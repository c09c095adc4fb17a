"""A fitted picture as SVG, for browsers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from splat.core.binning import ALPHA_MIN
from splat.files import atomic_write
from splat.image.layout import Layout
from splat.image.model import ImageGaussians

MAX_SVG = 10_000
"""Gaussians in an SVG file: a browser blends each on its own, by up to three ellipses, and that takes seconds."""
_STOPS = 24
_LEAST = 1 / 2048  # of a colour; less does not show in 8 bits
_PAINTS = {1: (("w", "#fff"),), 3: (("r", "#f00"), ("g", "#0f0"), ("b", "#00f"))}
Array = npt.NDArray[np.float64]


def export_svg(model: ImageGaussians, path: str | Path) -> None:
    """Writes the sum of Gaussians as ellipses, one for each channel of a Gaussian, filled by a radial gradient of the
    weights and added by `mix-blend-mode: plus-lighter`. SVG only adds, so the picture of the positive colours is
    inverted, the negative ones are added to that, and it is inverted back. Exact but for the 8 bits that a browser
    blends in (a few levels of noise) and the gradient's 24 straight pieces. Programs without plus-lighter (most but the
    browsers) show something else. RGBA is drawn over white.

    Raises:
        ValueError: more than MAX_SVG Gaussians; a blend or a dilation that SVG has no means for.
    """
    if model.blend != "sum" or model.dilation:
        raise ValueError(f"{path}: SVG can only show blend sum without dilation; write .ply, .json or .npz")
    if len(model) > MAX_SVG:
        raise ValueError(
            f"{path}: an SVG file takes at most {MAX_SVG:,} Gaussians, got {len(model):,}; "
            "keep fewer (splat convert --count)"
        )
    if model.layout.mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"{path}: SVG holds pictures that are L, RGB or RGBA; write .ply, .json or .npz")
    ground = 1.0 if model.layout.mode == "RGBA" else 0.0
    model = _over_white(model.map(lambda t: t.detach().cpu().float()))
    drawn = torch.cat([t.reshape(len(model), -1) for t in (model.means, model.log_scales, model.angles)], 1)
    finite = drawn.isfinite().all(1) & model.colors.isfinite().all(1)
    model = model.map(lambda t: t[finite])
    bright = _brightest(model, ground)
    paints = _PAINTS[model.colors.shape[1]]
    size = f'width="{model.width}" height="{model.height}"'
    level = f"{100 * ground / bright:.3f}%"
    white = f'<rect {size} fill="#fff" style="mix-blend-mode:difference"/>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {model.width} {model.height}">',
        f"<!-- {len(model)} Gaussians; written by splat -->",
        "<style>circle{mix-blend-mode:plus-lighter}"
        + "".join(f".{name}{{fill:url(#{name})}}" for name, _ in paints)
        + f".sum{{isolation:isolate;filter:brightness({bright:.4f})}}</style>",
        "<defs>",
        *(_gradient(name, color) for name, color in paints),
        "</defs>",
        '<g class="sum">',
        f'<rect {size} fill="rgb({level},{level},{level})"/>',
        *_circles(model, 1 / bright, paints),
        white,
        *_circles(model, -1 / bright, paints),
        white,
        "</g>",
        "</svg>",
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _over_white(model: ImageGaussians) -> ImageGaussians:
    """RGBA as RGB before white, of which a Gaussian takes away its alpha."""
    if model.layout.mode != "RGBA":
        return model
    return replace(model, colors=model.colors[:, :3] - model.colors[:, 3:], layout=Layout.of("RGB"))


def _brightest(model: ImageGaussians, ground: float) -> float:
    """What all is divided by so that the positive part does not reach the end of the scale, but for a pixel in 1000."""
    with torch.no_grad():
        positive = replace(model, colors=model.colors.clamp_min(0)).render(
            scale=min(1, 1024 / max(model.width, model.height))
        )
    return max(1.0, ground + float(np.quantile(positive.numpy(), 0.999)))


def _gradient(name: str, color: str) -> str:
    """Weights exp(-d^2 / 2) from the centre to the cut-off, as opacities."""
    rows = (
        f'<stop offset="{i / _STOPS:.4f}" stop-color="{color}" stop-opacity="{ALPHA_MIN ** ((i / _STOPS) ** 2):.4f}"/>'
        for i in range(_STOPS + 1)
    )
    return f'<radialGradient id="{name}">{"".join(rows)}</radialGradient>'


def _circles(model: ImageGaussians, factor: float, paints: tuple[tuple[str, str], ...]) -> list[str]:
    """Those of the channels whose value times `factor` is positive. An opacity beyond 1 takes several."""
    reach = math.sqrt(-2 * math.log(ALPHA_MIN))
    radii: Array = model.log_scales.double().exp().numpy() * reach
    cos, sin = model.angles.double().cos().numpy(), model.angles.double().sin().numpy()
    matrices = np.stack([cos * radii[:, 0], sin * radii[:, 0], -sin * radii[:, 1], cos * radii[:, 1]], 1)
    places: Array = np.concatenate([matrices, model.means.double().numpy()], 1)
    opacities: Array = model.colors.double().numpy() * factor
    lines = []
    for row, channel in np.argwhere(opacities > _LEAST):
        place = " ".join(f"{v:.4g}" for v in places[row, :4]) + " " + " ".join(f"{v:.2f}" for v in places[row, 4:])
        left = opacities[row, channel]
        while left > _LEAST:
            now = min(left, 1.0)
            lines.append(
                f'<circle r="1" class="{paints[channel][0]}" transform="matrix({place})" fill-opacity="{now:.4f}"/>'
            )
            left -= now
    return lines
