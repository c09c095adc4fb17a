"""What all figures are drawn with: pixels, colour maps and their scales. Pillow alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from splat.files import atomic_write

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3]"""

HEAT = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], np.float32)
SIGNED = np.array([[30, 80, 200], [150, 180, 235], [245, 245, 245], [240, 160, 140], [190, 30, 40]], np.float32)


def rgb(pixels: Tensor) -> Pixels:
    """[H, W, 1|3] in 0..1 as 8-bit RGB."""
    values = pixels.detach().float().clamp(0, 1)
    levels: Pixels = (values.expand(-1, -1, 3) * 255 + 0.5).to(torch.uint8).cpu().numpy()
    return levels


def color_map(values: npt.NDArray[np.float32], stops: npt.NDArray[np.float32]) -> Pixels:
    """Values in 0..1 (clamped) along the colours of `stops` (HEAT or SIGNED)."""
    at = np.clip(values, 0, 1) * (len(stops) - 1)
    low = np.minimum(at.astype(int), len(stops) - 2)
    part = (at - low)[..., None]
    blended: Pixels = (stops[low] * (1 - part) + stops[low + 1] * part).astype(np.uint8)
    return blended


def scale_bar(width: int, stops: npt.NDArray[np.float32], labels: tuple[str, str, str], title: str) -> Image.Image:
    """A colour bar with its two ends and middle named."""
    bar = Image.new("RGB", (width, 56), "white")
    ramp = color_map(
        np.broadcast_to(np.linspace(0, 1, max(2, width - 40), dtype=np.float32), (12, max(2, width - 40))), stops
    )
    bar.paste(Image.fromarray(ramp), (20, 24))
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(12)
    draw.text((20, 6), title, fill="black", font=font)
    for x, label, anchor in ((20, labels[0], "la"), (width // 2, labels[1], "ma"), (width - 20, labels[2], "ra")):
        draw.text((x, 39), label, fill="black", font=font, anchor=anchor)
    return bar


def write_figure(figure: Image.Image, path: Path) -> None:
    """Writes a figure (format by the suffix)."""
    with atomic_write(path) as temporary:
        figure.save(temporary)
