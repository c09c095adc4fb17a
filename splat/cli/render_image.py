"""splat render-image"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class RenderImage:
    """Draw a fitted picture at any size. With none of the size options it is drawn at the size it was fitted at.

    Example: splat render-image out/model.safetensors -o big.png --scale 4 --crop 100 50 200 150
    """

    model: tyro.conf.Positional[Path]
    """model.safetensors, as fit-image writes it."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Picture to write; its suffix says the format (default: render, in the format of what was fitted). Of a stack,
    out.png is written as out-NAME for each picture, in its own format."""
    height: int | None = None
    """Height in pixels; the width follows unless it is given too."""
    width: int | None = None
    """Width in pixels."""
    scale: float | None = None
    """Output pixels per pixel of the fitted picture."""
    crop: tuple[float, float, float, float] | None = None
    """X Y W H in pixels of the fitted picture: draw only this part."""
    bits: Literal[8, 16, 32] | None = None
    """Bits per channel of what is written (default: those of the picture that was fitted)."""

    def run(self) -> int:
        """Renders and writes."""
        import torch

        from splat.image.model import ImageGaussians
        from splat.image.picture import write_picture

        model = ImageGaussians.load(self.model)
        with torch.no_grad():
            picture = model.render(height=self.height, width=self.width, scale=self.scale, crop=self.crop)
        layout = model.layout if self.bits is None else model.layout.with_bits(self.bits)
        output = self.output or Path(f"render{layout.groups[0].suffix}")
        for path in write_picture(output, picture, layout):
            print(f"{path}  {picture.shape[1]} x {picture.shape[0]}")
        return 0
