"""splat fit-image"""

from __future__ import annotations

import json
import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from splat.cli.shared import check_folder
from splat.files import atomic_write
from splat.stop import deferred_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from splat.image.fit import FitResult
    from splat.image.fitter import FitProgress
    from splat.image.picture import Picture

FRAMES = 48


@dataclass
class FitImage:
    """Fit 2D Gaussians to a picture.

    Writes recon.png, model.safetensors, metrics.json, error.png and ellipses.png to the output folder. Ctrl-C stops the
    fit and writes the best model so far (exit code 130).

    Examples:

      splat fit-image photo.jpg                            # a sensible number of Gaussians, half a minute or less

      splat fit-image photo.jpg -o out/ -n 10000 --time 20

      splat fit-image photo.jpg --target-psnr 35 --preset best
    """

    photo: tyro.conf.Positional[Path]
    """PNG (8 or 16 bits), JPEG, WebP or another still picture; grey, RGB or RGBA."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """Folder for the results."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """Number of Gaussians, at most (default: by the picture's size and detail)."""
    target_psnr: float | None = None
    """Look for the number of Gaussians that reaches this PSNR in dB (instead of -n)."""
    time: float | None = None
    """Seconds to spend, instead of the preset's number of steps."""
    preset: Literal["draft", "fast", "best"] = "fast"
    """draft, fast or best: 200, 600 or 3,000 steps (fewer where the PSNR stops rising)."""
    importance: Path | None = None
    """Grey picture of the photo's size: where it is bright more of the Gaussians go."""
    seed: int = 0
    """The same seed gives the same model, bit for bit (with --time: as far as the clock allows)."""
    threads: int | None = None
    """CPU threads (default: all that this process may use)."""
    anim: bool = False
    """Also write fit.webp, an animation of the fit."""
    quiet: bool = False
    """Print errors only."""
    json_lines: bool = False
    """Print one JSON object a line instead of the progress bar."""

    def run(self) -> int:
        """Fits and writes; 130 after Ctrl-C."""
        # Deferred throughout, so that a signal neither breaks an import nor cuts the writing short.
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            import splat
            from splat.image.figures import animation_frame
            from splat.image.fit import FitConfig, fit_image
            from splat.image.picture import read_picture

            config = FitConfig(
                n=self.n, target_psnr=self.target_psnr, time=self.time, preset=self.preset, seed=self.seed
            )
            picture = read_picture(self.photo)
            importance = None if self.importance is None else read_picture(self.importance)
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            check_folder(self.output)
            if stop.requested:
                return 130
            frames: list[npt.NDArray[np.uint8]] = []
            with _Progress(self) as show:

                def callback(progress: FitProgress) -> None:
                    show(progress)
                    if self.anim and progress.step * FRAMES // max(1, progress.steps) >= len(frames):
                        frames.append(animation_frame(progress.model_fn().render()))

                result = fit_image(picture, config, importance=importance, callback=callback)
            self._write(result, picture, frames)
        return 130 if result.interrupted else 0

    def _write(self, result: FitResult, picture: Picture, frames: list[npt.NDArray[np.uint8]]) -> None:
        import torch

        from splat.figures import write_figure
        from splat.image import figures
        from splat.image.picture import write_picture

        out = self.output
        out.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            recon = result.model.render().clamp(0, 1)
        result.model.save(out / "model.safetensors")
        write_picture(out / "recon.png", recon, picture.channels, picture.bits)
        metrics = _metrics(result, picture, recon) | {
            "seed": self.seed,
            "preset": self.preset,
            "time": self.time,
            "target_psnr": self.target_psnr,
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        write_figure(figures.error_figure(recon, picture.pixels), out / "error.png")
        write_figure(figures.ellipses_figure(result.model), out / "ellipses.png")
        if frames:
            figures.write_animation([*frames, figures.animation_frame(recon)], out / "fit.webp")
        if self.json_lines:
            print(json.dumps({"event": "done", **{k: metrics[k] for k in ("n", "psnr", "ssim", "ms_ssim")}}))
        elif not self.quiet:
            spent = sum(result.seconds.values())
            print(
                f"{metrics['psnr']:.2f} dB PSNR, {metrics['ssim']:.4f} SSIM, {metrics['n']:,} Gaussians, {spent:.1f} s"
            )
            if self.target_psnr is not None and metrics["psnr"] < self.target_psnr:
                print(f"{self.target_psnr:g} dB was not reached; give it a longer --time or --preset best")
            print(f"{out}/  recon.png  error.png  ellipses.png  model.safetensors  metrics.json")


def _metrics(result: FitResult, picture: Picture, recon: Tensor) -> dict[str, Any]:
    from splat import machine
    from splat.metrics import MAX_PSNR, ms_ssim, psnr, ssim

    return {
        "schema_version": 1,
        "picture": picture.name,
        "width": result.model.width,
        "height": result.model.height,
        "channels": picture.channels,
        "bits": picture.bits,
        "n": len(result.model),
        "psnr": min(MAX_PSNR, psnr(recon, picture.pixels)),
        "ssim": ssim(recon, picture.pixels),
        "ms_ssim": ms_ssim(recon, picture.pixels),
        "interrupted": result.interrupted,
        "seconds": result.seconds,
        "history": result.history,
        "machine": machine.describe(),
    }


class _Progress:
    """The progress bar, JSON lines or silence."""

    def __init__(self, command: FitImage) -> None:
        self.command = command
        self.phase = ""
        self.bar: Any = None

    def __enter__(self) -> Callable[[FitProgress], None]:
        if self.command.json_lines:
            return self._print
        if self.command.quiet:
            return lambda _: None
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[psnr]:.2f} dB  {task.fields[n]:,} Gaussians  {task.fields[rate]:.0f} it/s"),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]:.0f} s"),
            transient=True,
        )
        task = self.bar.add_task("fitting", total=1.0, psnr=0.0, n=0, rate=0.0, eta=0.0)
        self.bar.start()

        def show(p: FitProgress) -> None:
            share = min(1.0, p.step / max(1, p.steps))
            what = "looking for n" if p.phase == "pilot" else "fitting"
            self.bar.update(
                task, description=what, completed=share, psnr=p.psnr, n=p.n, rate=p.its_per_second, eta=p.eta
            )

        return show

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _print(self, p: FitProgress) -> None:
        if p.step % 25 == 0 or p.phase != self.phase:
            self.phase = p.phase
            fields = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in vars(p).items()}
            del fields["model_fn"]
            print(json.dumps({"event": "progress", **fields}), flush=True)
