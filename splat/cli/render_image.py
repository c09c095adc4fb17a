"""splat render-image"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from splat.cli.shared import read_photo, refuse_given

_SIZE = ("height", "width", "scale", "crop", "bits")


@dataclass
class RenderImage:
    """Draw a fitted picture at any size. With none of the size options it is drawn at the size it was fitted at.

    Examples:

      splat render-image out/model.safetensors -o big.png --scale 4 --crop 100 50 200 150

      splat render-image out/model.safetensors -o lod.png --lod --photo photo.png

      splat render-image photo.s2d -o levels.webp --anim
    """

    model: tyro.conf.Positional[Path]
    """Fitted picture (.s2d, .safetensors, .ply, .json, .npz)."""
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
    lod: bool = False
    """Draw a strip instead: the picture from a part of its Gaussians in 64, 16 and 4, and from all."""
    anim: bool = False
    """Write an animation instead (.webp, .png): the picture as its Gaussians become more, layer by layer."""
    photo: Path | None = None
    """With --lod: the photograph that was fitted; the strip then says PSNRs."""

    def run(self) -> int:
        """Renders and writes."""
        import torch

        from splat.image.export import load_image_model
        from splat.image.picture import write_picture

        if self.lod:
            refuse_given(self, (*_SIZE, "anim"), "a strip of levels has its own size")
            return self._write_strip()
        refuse_given(self, ("photo",), "it is for --lod")
        if self.anim:
            refuse_given(self, _SIZE, "an animation has the picture's own size")
            return self._write_animation()
        model = load_image_model(self.model)
        with torch.no_grad():
            picture = model.render(height=self.height, width=self.width, scale=self.scale, crop=self.crop)
        layout = model.layout if self.bits is None else model.layout.with_bits(self.bits)
        output = self.output or Path(f"render{layout.groups[0].suffix}")
        for path in write_picture(output, picture, layout):
            print(f"{path}  {picture.shape[1]} x {picture.shape[0]}")
        return 0

    def _write_strip(self) -> int:
        from splat.figures import write_figure
        from splat.image.export import load_image_model
        from splat.image.figures import levels_figure
        from splat.image.levels import by_importance, layer_sizes

        model = load_image_model(self.model)
        layers = layer_sizes(model)
        model = model if layers else by_importance(model)
        target = None if self.photo is None else read_photo(self.photo, model)
        strip = levels_figure(model, layers, target)
        output = self.output or Path("lod.png")
        write_figure(strip, output)
        print(f"{output}  {strip.width} x {strip.height}")
        return 0

    def _write_animation(self) -> int:
        from splat.image.export import load_image_model
        from splat.image.figures import levels_animation

        output = self.output or Path("levels.webp")
        frames = levels_animation(load_image_model(self.model), output)
        print(f"{output}  {frames} frames")
        return 0
