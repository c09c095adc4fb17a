"""splat fit-image"""

from __future__ import annotations

import json
import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from splat.cli.shared import check_folder
from splat.files import atomic_write
from splat.stop import deferred_stop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from splat.image.fit import FitResult
    from splat.image.fitter import FitProgress
    from splat.image.picture import Picture
    from splat.metrics import Scores

FRAMES = 48
WORK = "unfinished.safetensors"
"""In the output folder while a fit by tiles runs, and after one that was stopped."""


@dataclass
class FitImage:
    """Fit 2D Gaussians to a picture.

    Writes recon.png, model.safetensors, metrics.json, error.png and ellipses.png to the output folder. Ctrl-C stops the
    fit and writes the best model so far (exit code 130). Large pictures are fitted by tiles; the same command goes on
    after Ctrl-C or a kill.

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
    tile: str = "auto"
    """Fit tiles of at most so many pixels a side one after the other, with memory for one; 0: the picture as a whole;
    auto: tiles for pictures of 8 megapixels and more."""
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
                n=self.n,
                target_psnr=self.target_psnr,
                time=self.time,
                preset=self.preset,
                seed=self.seed,
                tile=_tile(self.tile),
            )
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            check_folder(self.output)
            if stop.requested:
                return 130
            frames: list[npt.NDArray[np.uint8]] = []
            work = self.output / WORK
            with _Progress(self) as show:
                show.stage("read")
                picture = read_picture(self.photo)
                show.stage("init")

                def callback(progress: FitProgress) -> None:
                    show.fit(progress)
                    if self.anim and progress.step * FRAMES // max(1, progress.steps) >= len(frames):
                        frames.append(animation_frame(progress.model_fn()))

                result = fit_image(picture, config, work=work, callback=callback)
                metrics = self._write(result, picture, frames, show)
            if not result.interrupted:
                work.unlink(missing_ok=True)
            self._conclude(result, metrics)
        return 130 if result.interrupted else 0

    def _write(
        self, result: FitResult, picture: Picture, frames: list[npt.NDArray[np.uint8]], show: _Progress
    ) -> dict[str, Any]:
        from splat.figures import write_figure
        from splat.image import figures
        from splat.image.bands import judge
        from splat.image.picture import write_levels

        out = self.output
        out.mkdir(parents=True, exist_ok=True)
        result.model.save(out / "model.safetensors")
        show.stage("compare")
        judged = judge(result.model, picture, lambda share: show.stage("compare", share))
        show.stage("write")
        write_levels(out / "recon.png", judged.levels, picture.channels)
        metrics = _metrics(result, picture, judged.scores) | {
            "seed": self.seed,
            "preset": self.preset,
            "time": self.time,
            "target_psnr": self.target_psnr,
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        show.stage("write", 0.8)
        write_figure(figures.error_sheet(judged.errors), out / "error.png")
        write_figure(figures.ellipses_figure(result.model), out / "ellipses.png")
        if frames:
            figures.write_animation([*frames, figures.animation_frame(result.model)], out / "fit.webp")
        return metrics

    def _conclude(self, result: FitResult, metrics: dict[str, Any]) -> None:
        out = self.output
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
            if result.interrupted and (out / WORK).exists():
                print(f"{out / WORK} holds the tiles that are done; the same command goes on from there")


def _tile(text: str) -> int | None:
    """The value of --tile."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise ValueError(f"tile must be auto, 0 or a number of pixels, got {text!r}")
    return int(text)


def _metrics(result: FitResult, picture: Picture, scores: Scores) -> dict[str, Any]:
    from splat import machine
    from splat.metrics import MAX_PSNR

    return {
        "schema_version": 1,
        "picture": picture.name,
        "width": result.model.width,
        "height": result.model.height,
        "channels": picture.channels,
        "bits": picture.bits,
        "n": len(result.model),
        "psnr": min(MAX_PSNR, scores.psnr),
        "ssim": scores.ssim,
        "ms_ssim": scores.ms_ssim,
        "interrupted": result.interrupted,
        "seconds": result.seconds,
        "history": result.history,
        "machine": machine.describe(),
    }


class _Progress:
    """The progress bar, JSON lines or silence: stages (read, init, compare, write) and the steps of the fit."""

    WORDS: ClassVar[dict[str, str]] = {
        "read": "reading",
        "init": "preparing",
        "pilot": "looking for n",
        "coarse": "coarse fit",
        "compare": "comparing",
        "write": "writing",
    }

    def __init__(self, command: FitImage) -> None:
        self.json_lines, self.silent = command.json_lines, command.quiet
        self.phase, self.step = "", 0
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> _Progress:
        if self.json_lines or self.silent:
            return self
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[about]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            transient=True,
        )
        self.task = self.bar.add_task("reading", total=1.0, about="", left="")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def stage(self, phase: str, share: float = 0.0) -> None:
        """What is being done besides the fit, and how much of it is done."""
        if self.bar is not None:
            self.bar.update(self.task, description=self.WORDS[phase], completed=share, left="")
        if self.json_lines and phase != self.phase:
            print(json.dumps({"event": "progress", "phase": phase, "step": self.step}), flush=True)
        self.phase = phase

    def fit(self, p: FitProgress) -> None:
        """A step of the fit."""
        if self.bar is not None:
            what = f"tile {p.tile} of {p.tiles}" if p.tile else self.WORDS.get(p.phase, "fitting")
            self.bar.update(
                self.task,
                description=what,
                completed=min(1.0, p.step / max(1, p.steps)),
                about=f"{p.psnr:.2f} dB  {p.n:,} Gaussians  {p.its_per_second:.0f} it/s",
                left=f"ETA {p.eta:.0f} s",
            )
        if self.json_lines and (p.step % 25 == 0 or p.phase != self.phase):
            fields = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in vars(p).items()}
            del fields["model_fn"]
            print(json.dumps({"event": "progress", **fields}), flush=True)
        self.phase, self.step = p.phase, p.step
