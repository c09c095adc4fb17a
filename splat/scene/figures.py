"""Pictures about a scene: photo, render and error side by side, and sheets of many views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from splat.figures import HEAT, Pixels, color_map, rgb, scale_bar
from splat.scene.evaluate import ViewPair, ViewScore

ERROR_LIMITS = (4, 8, 16, 32, 64, 128)
"""8-bit levels that the scale of an error map may end at: few, so that maps can be compared."""
_GAP = 8


def shrink(pixels: Pixels, longest: int) -> Pixels:
    """At most `longest` pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)


def error_limit(error: Tensor) -> int:
    """The level of ERROR_LIMITS that the 99th percentile of an error [H, W] (0..1) lies under."""
    top = float(np.quantile(error.numpy(), 0.99)) * 255
    return next((limit for limit in ERROR_LIMITS if limit >= top), ERROR_LIMITS[-1])


def error_map(error: Tensor, limit: int, longest: int | None = None) -> Pixels:
    """An error [H, W] (0..1) as a heat map of 0 .. limit 8-bit levels; made smaller by averages."""
    parts = 1 if longest is None else -(-max(error.shape) // longest)
    if parts > 1:
        error = torch.nn.functional.avg_pool2d(error[None], parts, ceil_mode=True, count_include_pad=False)[0]
    return color_map((error * (255 / limit)).numpy(), HEAT)


def comparison(pair: ViewPair, score: ViewScore, longest: int = 1024) -> Image.Image:
    """Photo, render and error map with its scale, and the measures below."""
    limit = error_limit(pair.error)
    truth, image = (shrink(rgb(t), longest) for t in (pair.truth, pair.image))
    height, width = truth.shape[:2]
    error = Image.fromarray(error_map(pair.error, limit, longest)).resize((width, height))
    panel = max(width, 260)
    sheet = Image.new("RGB", (3 * panel + 2 * _GAP, height + 56), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    measures = f"{score.psnr:.2f} dB PSNR   {score.ssim:.4f} SSIM"
    if score.flip is not None:
        measures += f"   {score.flip:.4f} FLIP"
    panels = ((Image.fromarray(truth), f"photo: {pair.name}"), (Image.fromarray(image), f"render: {measures}"))
    for i, (picture, caption) in enumerate(panels):
        sheet.paste(picture, (i * (panel + _GAP) + (panel - width) // 2, 0))
        draw.text((i * (panel + _GAP) + 4, height + 6), caption, fill="black", font=font)
    sheet.paste(error, (2 * (panel + _GAP) + (panel - width) // 2, 0))
    title = f"|render - photo|, mean {float(pair.error.mean()) * 255:.2f} levels"
    sheet.paste(scale_bar(panel, HEAT, ("0", f"{limit // 2}", f"{limit}"), title), (2 * (panel + _GAP), height))
    return sheet


def contact_sheet(tiles: Sequence[tuple[Pixels, str]], columns: int = 4, tile: int = 320) -> Image.Image:
    """Many pictures in a grid, each with a caption; `tile` is their longest side in pixels."""
    if not tiles:
        raise ValueError("tiles must hold at least one picture")
    small = [(shrink(pixels, tile), caption) for pixels, caption in tiles]
    columns = min(columns, len(small))
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    tops = [0]
    for row in rows:
        tops.append(tops[-1] + max(p.shape[0] for p, _ in row) + 22 + _GAP)
    sheet = Image.new("RGB", (columns * (tile + _GAP) - _GAP, tops[-1] - _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (top, bottom) in zip(rows, pairwise(tops), strict=True):
        for i, (pixels, caption) in enumerate(row):
            x = i * (tile + _GAP)
            sheet.paste(Image.fromarray(pixels), (x + (tile - pixels.shape[1]) // 2, top))
            draw.text((x + 2, bottom - 22 - _GAP + 4), _fitted(caption, tile - 4, font), fill="black", font=font)
    return sheet


def _fitted(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a text that is too wide is what tells names apart."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
