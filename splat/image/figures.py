"""Pictures about a fit: where it errs, and where its Gaussians lie. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from splat.figures import HEAT, SIGNED, Pixels, color_map, rgb, scale_bar
from splat.files import atomic_write
from splat.image.levels import draw_levels, growing_counts, in_growing_order
from splat.image.model import ImageGaussians

MAX_ELLIPSES = 20_000
MAX_PANEL = 2048
"""Longest side of a panel of the error figure, pixels."""


class ErrorMaps:
    """Signed error (mean of the channels) and absolute error of previews [H, W, 1|3] that come as strips of rows. Of a
    picture larger than MAX_PANEL averages are kept."""

    def __init__(self, height: int, width: int) -> None:
        self.shrink = -(-max(height, width) // MAX_PANEL)
        self.rows = 0
        self.sums = torch.zeros(2, -(-height // self.shrink), -(-width // self.shrink))
        self.counts = torch.zeros(self.sums.shape[1])

    def add(self, recon: Tensor, target: Tensor) -> None:
        """The next rows of the fit and of the picture, both clamped to 0..1."""
        difference = (recon.detach().clamp(0, 1) - target.clamp(0, 1)).float()
        both = torch.stack([difference.mean(2), difference.abs().mean(2)])
        if self.shrink > 1:
            both = F.avg_pool2d(both, (1, self.shrink), ceil_mode=True)
        rows = torch.arange(self.rows, self.rows + both.shape[1]) // self.shrink
        self.sums.index_add_(1, rows, both)
        self.counts.index_add_(0, rows, torch.ones(len(rows)))
        self.rows += len(rows)

    @property
    def maps(self) -> Tensor:
        """[2, height, width]: signed and absolute."""
        return self.sums / self.counts[:, None]


def error_sheet(errors: ErrorMaps) -> Image.Image:
    """Signed error (left) and absolute error (right) with their scales, which end at the 99.5th percentile, so that a
    few pixels do not turn the rest black."""
    signed, absolute = errors.maps.numpy()
    limit = max(float(np.quantile(absolute, 0.995)), 1 / 255)
    height, width = signed.shape
    panel = max(width, 260)
    sheet = Image.new("RGB", (2 * panel + 12, height + 56), "white")
    mean = float(absolute.mean()) * 255
    panels = (
        (
            color_map(signed / (2 * limit) + 0.5, SIGNED),
            SIGNED,
            f"{-limit * 255:.1f}",
            "0",
            f"+{limit * 255:.1f}",
            "fit - picture, 8-bit levels",
        ),
        (
            color_map(absolute / limit, HEAT),
            HEAT,
            "0",
            f"{limit * 127.5:.1f}",
            f"{limit * 255:.1f}",
            f"|fit - picture|, mean {mean:.2f} levels",
        ),
    )
    for i, (values, stops, low, middle, high, title) in enumerate(panels):
        sheet.paste(Image.fromarray(values), (i * (panel + 12) + (panel - width) // 2, 0))
        sheet.paste(scale_bar(panel, stops, (low, middle, high), title), (i * (panel + 12), height))
    return sheet


def ellipses_figure(model: ImageGaussians, scale: float = 2.0, seed: int = 0) -> Image.Image:
    """One-sigma ellipses in the Gaussians' own colours (of the first group of channels) on a dark ground. Beyond 20,000
    a random part of them is drawn and the caption says so."""
    scale = min(scale, 4096 / max(model.width, model.height))
    width, height = max(1, round(model.width * scale)), max(1, round(model.height * scale))
    sheet = Image.new("RGB", (max(width, 200), height + 22), (16, 16, 20))
    draw = ImageDraw.Draw(sheet)
    count = len(model)
    rows = np.arange(count)
    if count > MAX_ELLIPSES:
        rows = np.sort(np.random.default_rng(seed).choice(count, MAX_ELLIPSES, replace=False))
    angle = np.linspace(0, 2 * np.pi, 17)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    means, axes = model.means.detach().numpy() * scale, model.log_scales.detach().exp().numpy() * scale
    cos, sin = np.cos(model.angles.detach().numpy()), np.sin(model.angles.detach().numpy())
    colors = model.layout.split(model.colors.detach())[0]
    colors = colors[:, :3] if colors.shape[1] > 2 else colors[:, :1]
    shown = (colors.abs() / colors.abs().amax(1, keepdim=True).clamp_min(1e-6) * 0.75 + 0.25).expand(-1, 3).numpy()
    for i in rows:
        p = circle * axes[i]
        outline = np.stack([p[:, 0] * cos[i] - p[:, 1] * sin[i], p[:, 0] * sin[i] + p[:, 1] * cos[i]], -1) + means[i]
        draw.line([tuple(q) for q in outline.tolist()], fill=tuple(int(v * 255) for v in shown[i]))
    draw.rectangle((0, height, sheet.width, sheet.height), fill=(16, 16, 20))
    part = "" if len(rows) == count else f", {len(rows):,} drawn"
    draw.text(
        (6, height + 4), f"{count:,} Gaussians{part}; one sigma", fill=(220, 220, 220), font=ImageFont.load_default(12)
    )
    return sheet


def levels_figure(
    model: ImageGaussians, layers: Sequence[int] = (), target: Tensor | None = None, longest: int = 480
) -> Image.Image:
    """The picture from its first Gaussians, level by level, side by side; captions say how many, and the PSNR.

    Args:
        model: in the order of its levels (`by_importance`, or a model with layers).
        layers: sizes of the layers; empty: a part in 64, 16, 4 and all.
        target: [H, W, D], what the PSNR is against.
        longest: longest side of a panel, pixels.
    """
    panels, captions = [], []
    for level, picture in draw_levels(model, layers, target):
        panel = Image.fromarray(rgb(model.layout.preview(picture)))
        panel.thumbnail((longest, longest))
        panels.append(panel)
        captions.append(f"{level.count:,}" + ("" if level.psnr is None else f", {level.psnr:.2f} dB"))
    width = max(150, panels[0].width)  # room for the caption
    sheet = Image.new("RGB", (len(panels) * (width + 8) - 8, panels[0].height + 22), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        sheet.paste(panel, (i * (width + 8), 0))
        draw.text((i * (width + 8) + 4, panel.height + 4), caption, fill="black", font=ImageFont.load_default(12))
    return sheet


def animation_frame(model: ImageGaussians, longest: int = 768) -> Pixels:
    """The picture as 8-bit RGB of at most `longest` pixels a side: drawn at no more than four times that, then made
    smaller by averages."""
    with torch.no_grad():
        drawn = model.render(scale=min(1.0, 4 * longest / max(model.width, model.height)))
    image = Image.fromarray(rgb(model.layout.preview(drawn)))
    image.thumbnail((longest, longest))
    return np.asarray(image)


def levels_animation(model: ImageGaussians, path: Path) -> int:
    """Writes the picture as its Gaussians become more, layer by layer and within a layer by importance, which stays for
    a second at the end of each. Returns the number of frames."""
    _check_animation(path)
    model = in_growing_order(model)
    counts = growing_counts(model)
    frames = [animation_frame(model.map(lambda t, n=n: t[:n])) for n in counts]  # type: ignore[misc]
    write_animation(frames, path, stops={counts.index(end): 1000 for end in model.layers[:-1]})
    return len(frames)


def _check_animation(path: Path) -> None:
    if path.suffix.lower() not in (".webp", ".png"):
        raise ValueError(f"{path}: an animation is written as .webp or .png")


def write_animation(
    frames: list[Pixels], path: Path, milliseconds: int = 80, stops: Mapping[int, int] | None = None
) -> None:
    """8-bit RGB frames as an animated WebP or PNG, by the suffix; the last one stays for two seconds.

    Args:
        stops: milliseconds of frames that stay longer, by their number from 0.
    """
    _check_animation(path)
    images = [Image.fromarray(frame) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [2000]
    for frame, longer in (stops or {}).items():
        durations[frame] = longer
    how: dict[str, Any] = {"quality": 85} if path.suffix.lower() == ".webp" else {}
    with atomic_write(path) as temporary:
        images[0].save(temporary, save_all=True, append_images=images[1:], duration=durations, loop=0, **how)
