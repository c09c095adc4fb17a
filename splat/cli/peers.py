"""The part of splat convert that reads and writes checkpoints of GaussianImage and Image-GS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splat.cli.shared import refuse_given

_READ_ONLY = ("width", "height", "features", "inverse_scale")


@dataclass(frozen=True)
class PeerArguments:
    """Checkpoints of GaussianImage and Image-GS (.pth.tar, .pt)."""

    width: int | None = None
    """Width in pixels of the picture that a checkpoint was fitted to; it does not hold it."""
    height: int | None = None
    """Height of it."""
    features: tuple[int, int] | None = None
    """Of an Image-GS stack: first channel to take, and the one after the last."""
    inverse_scale: bool = True
    """The Image-GS run had inverse scales, its default."""
    to: Literal["gaussianimage", "gaussianimage-rs", "image-gs"] | None = None
    """Write a fitted picture as a checkpoint of this system."""

    def concerns(self, source: Path) -> bool:
        """Whether a checkpoint is read or written."""
        return self.to is not None or source.suffix.lower() in (".pt", ".pth", ".tar")

    def refuse(self, why: str) -> None:
        """ValueError where an option about a checkpoint to read is given."""
        refuse_given(self, _READ_ONLY, why)

    def convert(self, source: Path, target: Path) -> int:
        """Reads one, writes the other and says what became of it."""
        from splat.image.checkpoints import load_checkpoint, save_checkpoint
        from splat.image.export import load_image_model, save_image_model

        if self.to is not None:
            self.refuse("with --to a checkpoint is written, not read")
            model = load_image_model(source)
            written = save_checkpoint(target, model, self.to)
            print(f"{target}  {self.to}, {len(model):,} Gaussians, without the state of an optimiser")
            if written.moved:
                print(f"moved onto the border: {written.moved:,} Gaussians, by {written.farthest:.1f} pixels at most")
            return 0
        size = {"width": self.width, "height": self.height}
        model = load_checkpoint(source, **size, features=self.features, inverse_scale=self.inverse_scale)
        kind = save_image_model(model, target)
        about = f"{model.width} x {model.height}, {model.layout.mode} by {model.blend}"
        print(f"{target}  {kind.name}, {len(model):,} Gaussians, {about}")
        return 0
