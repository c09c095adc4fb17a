"""splat upscale"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from splat.cli.fit_bar import FitBar
from splat.cli.shared import check_folder
from splat.stop import deferred_stop


@dataclass
class Upscale:
    """Enlarge a picture: fit Gaussians to it, and draw them on smaller pixels.

    Nothing is invented: edges stay sharp, but detail that the picture does not hold takes a generative model. A test
    beside it says how well it went: the picture is reduced, enlarged again and compared with itself, and so it is with
    Pillow's bicubic and Lanczos filters. Use theirs where they win.

    Example: splat upscale photo.png -o big.png --scale 2
    """

    photo: tyro.conf.Positional[Path]
    """PNG (8 or 16 bits), JPEG, WebP or another still picture; grey, RGB or RGBA."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("upscaled.png")
    """Picture to write (PNG, JPEG or WebP by its suffix)."""
    scale: int = 2
    """2 to 8."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """Number of Gaussians (default: one for four pixels). The test takes the default of its smaller picture."""
    preset: Literal["draft", "fast", "best"] = "draft"
    """draft, fast or best: 200, 600 or 3,000 steps. More fit the picture better, and the larger one hardly."""
    seed: int = 0
    """The same seed gives the same picture."""
    threads: int | None = None
    """CPU threads (default: all that this process may use)."""
    model: Path | None = None
    """Also save the Gaussians here (.safetensors), for splat render-image."""
    quiet: bool = False
    """No progress bar."""

    def run(self) -> int:
        """Fits, writes and tests; 130 after Ctrl-C."""
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            from dataclasses import replace

            import splat
            from splat.image.fit import FitConfig
            from splat.image.picture import check_written, read_picture, write_picture
            from splat.image.upscale import held_out, upscale

            config = FitConfig(n=self.n, preset=self.preset, seed=self.seed)
            picture = read_picture(self.photo)
            layout = picture.layout
            if layout.groups[0].bits == 16 and self.output.suffix.lower() in (".jpg", ".jpeg", ".webp"):
                layout = layout.with_bits(8)
            check_written(self.output, layout)
            for path in (self.output, self.model):
                if path is not None:
                    check_folder(path.parent)
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            if stop.requested:
                return 130
            with FitBar(self.quiet, json_lines=False) as show:
                enlarged, result = upscale(picture, self.scale, config, callback=show.fit)
            write_picture(self.output, enlarged, layout)
            if self.model is not None:
                result.model.save(self.model)
            print(f"{self.output}  {enlarged.shape[1]} x {enlarged.shape[0]}, {len(result.model):,} Gaussians")
            if result.interrupted:
                print("stopped early; not tested")
                return 130
            with FitBar(self.quiet, json_lines=False) as show:
                test = held_out(picture, self.scale, replace(config, n=None), callback=show.fit)
        if test is None:
            print("the test was stopped")
            return 130
        print(
            f"held out, the picture reduced by {self.scale} and enlarged again: {test.gaussians:.2f} dB PSNR with "
            f"Gaussians, {test.bicubic:.2f} bicubic, {test.lanczos:.2f} Lanczos"
        )
        return 0
