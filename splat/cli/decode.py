"""splat decode"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Decode:
    """Draw a .s2d file as a picture, at any size.

    Examples:

      splat decode photo.s2d photo.png

      splat decode photo.s2d part.png --crop 100 50 200 150 --scale 4
    """

    source: tyro.conf.Positional[Path]
    """.s2d file."""
    target: tyro.conf.Positional[Path]
    """Picture to write; its suffix says the format."""
    scale: float | None = None
    """Output pixels per pixel of the coded picture."""
    height: int | None = None
    """Height in pixels; the width follows."""
    crop: tuple[float, float, float, float] | None = None
    """X Y W H in pixels of the coded picture: draw only this part. Of a file with chunks only those that reach into it
    are read."""
    layer: int | None = None
    """Read only so many layers."""
    max_bytes: int | None = None
    """Read only the layers that end within so many bytes."""

    def run(self) -> int:
        """Reads, renders and writes."""
        import warnings

        import torch

        from splat.image.codec.s2d import decode_image
        from splat.image.picture import check_written, write_picture

        for name, value in (("--layer", self.layer), ("--max-bytes", self.max_bytes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            decoded = decode_image(self.source, layers=self.layer, max_bytes=self.max_bytes, crop=self.crop)
        for warning in said:
            print(f"warning: {warning.message}")
        model = decoded.model
        layout = model.layout
        if layout.groups[0].bits == 16 and self.target.suffix.lower() in (".jpg", ".jpeg", ".webp"):
            layout = layout.with_bits(8)
        check_written(self.target, layout)
        with torch.no_grad():
            picture = model.render(height=self.height, scale=self.scale, crop=self.crop)
        for path in write_picture(self.target, picture, layout):
            print(f"{path}  {picture.shape[1]} x {picture.shape[0]}")
        print(f"read {decoded.bytes_read:,} of {decoded.bytes_total:,} bytes, {len(model):,} Gaussians")
        return 0
