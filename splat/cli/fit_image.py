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
    """Fit 2D Gaussians to a picture, or to a stack of pictures at once.

    Writes recon.png (.tif, .exr, ... where the picture was one), model.safetensors, metrics.json, error.png and
    ellipses.png to the output folder. Ctrl-C stops the fit and writes the best model so far (exit code 130).

    A picture is FILE[:KIND][:CURVE][:WEIGHT]:

      FILE    PNG, JPEG, WebP, TIFF (8, 16 bits, floats), OpenEXR, .npy, .npz (one array)

      KIND    grey, grey-alpha, rgb, rgba (default: by the number of channels); normal: unit normals as three channels;
              octa: unit normals as two octahedral coordinates; data: scalars, floats of any range

      CURVE   log or pq (SMPTE ST 2084): floats of linear light (default: log for OpenEXR), or stored

      WEIGHT  how much the squared errors of its channels count in a stack

    For example:

      splat fit-image photo.jpg                            # a sensible number of Gaussians, half a minute or less

      splat fit-image photo.jpg -o out/ -n 10000 --time 20

      splat fit-image photo.jpg --target-psnr 35 --preset best

      splat fit-image sky.exr:pq

      splat fit-image --stack albedo.png normal.png:octa:0.5 roughness.png

      splat fit-image scan.png --mask scratches.png        # repaired in out/recon.png
    """

    pictures: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="PICTURE [PICTURE ...]")]
    """FILE[:KIND][:CURVE][:WEIGHT], see above; several with --stack."""
    stack: bool = False
    """Fit all pictures with the same Gaussians; they must have one size. Writes recon-NAME for each."""
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
    weights: Path | None = None
    """Grey picture of the photo's size: how much the error of each pixel counts, white most. For a region of interest
    (dark grey, not black, elsewhere)."""
    mask: Path | None = None
    """Picture of the photo's size, white where the photo is unknown (scratches, text, a stamp). The fit goes around it,
    and its surroundings are continued into it. That repairs thin damage; a large hole becomes a smooth patch, because
    what was in it takes a generative model. The metrics are of the known pixels."""
    importance: Path | None = None
    """Grey picture of the photo's size: where it is bright more of the Gaussians go."""
    blend: Literal["sum", "topk"] = "sum"
    """How Gaussians become pixels: their sum, or the mean of the --topk strongest, by weight (as in Image-GS)."""
    topk: int = 10
    """Gaussians per pixel that count with --blend topk."""
    pixel_kernel: bool = False
    """Fit the means over the pixels' squares, with no Gaussian much smaller than a pixel: a model to be drawn larger
    (see splat upscale). Costs some PSNR at the photo's own size."""
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
            from splat.image.picture import TextureMap, read_grey, read_picture

            config = FitConfig(
                n=self.n,
                target_psnr=self.target_psnr,
                time=self.time,
                preset=self.preset,
                blend=self.blend,
                topk=self.topk,
                seed=self.seed,
            )
            if not self.stack and len(self.pictures) != 1:
                raise ValueError(f"give one picture, or several with --stack, got {len(self.pictures)}")
            textures = [TextureMap.parse(text) for text in self.pictures]
            picture = read_picture(textures if self.stack else textures[0])
            if self.pixel_kernel:
                config = config.for_any_size()
            like = picture.pixels
            weights = None if self.weights is None else read_grey(self.weights, like, "--weights")
            importance = None if self.importance is None else read_grey(self.importance, like, "--importance")
            hole = None if self.mask is None else read_grey(self.mask, like, "--mask") > 0.5
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            check_folder(self.output)
            if stop.requested:
                return 130
            frames: list[npt.NDArray[np.uint8]] = []
            with FitBar(self.quiet, self.json_lines) as show:

                def callback(progress: FitProgress) -> None:
                    show(progress)
                    if self.anim and progress.step * FRAMES // max(1, progress.steps) >= len(frames):
                        frames.append(animation_frame(picture.layout.preview(progress.model_fn().render())))

                result = fit_image(picture, config, weights, hole=hole, importance=importance, callback=callback)
            self._write(result, picture, None if hole is None else ~hole, frames)
        return 130 if result.interrupted else 0

    def _write(
        self, result: FitResult, picture: Picture, known: Tensor | None, frames: list[npt.NDArray[np.uint8]]
    ) -> None:
        import torch

        from splat.figures import write_figure
        from splat.image import figures
        from splat.image.picture import write_picture

        out = self.output
        out.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            recon = result.model.render().clamp(0, 1)
        result.model.save(out / "model.safetensors")
        written = write_picture(out / f"recon{picture.layout.groups[0].suffix}", recon, picture.layout)
        metrics = _metrics(result, picture, recon, known) | {
            "seed": self.seed,
            "blend": self.blend,
            "pixel_kernel": self.pixel_kernel,
            "preset": self.preset,
            "time": self.time,
            "target_psnr": self.target_psnr,
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        view, wanted = picture.layout.preview(recon), picture.layout.preview(picture.pixels)
        if known is not None:
            wanted = torch.where(known[..., None], wanted, view)
        write_figure(figures.error_figure(view, wanted), out / "error.png")
        write_figure(figures.ellipses_figure(result.model), out / "ellipses.png")
        if frames:
            figures.write_animation([*frames, figures.animation_frame(view)], out / "fit.webp")
        if self.json_lines:
            told = [name for name in ("n", *_QUALITY, *(f"{name}_known" for name in _QUALITY)) if name in metrics]
            print(json.dumps({"event": "done", **{name: metrics[name] for name in told}}))
        elif not self.quiet:
            spent, of = sum(result.seconds.values()), "" if known is None else "_known"
            where = "" if known is None else " over the known pixels"
            psnr, ssim = metrics[f"psnr{of}"], metrics[f"ssim{of}"]
            print(f"{psnr:.2f} dB PSNR, {ssim:.4f} SSIM{where}, {metrics['n']:,} Gaussians, {spent:.1f} s")
            if self.target_psnr is not None and psnr < self.target_psnr:
                print(f"{self.target_psnr:g} dB was not reached; give it a longer --time or --preset best")
            if len(metrics["groups"]) > 1:
                for group in metrics["groups"]:
                    angle = f", {group['mean_angle']:.2f} degrees" if "mean_angle" in group else ""
                    print(f"  {group['name']}: {group['psnr']:.2f} dB{angle}")
            names = "  ".join(path.name for path in written)
            print(f"{out}/  {names}  error.png  ellipses.png  model.safetensors  metrics.json")


_QUALITY = ("psnr", "ssim", "ms_ssim")


def _quality(recon: Tensor, pixels: Tensor, known: Tensor | None) -> dict[str, float]:
    """How close the picture is; of the known pixels, where some are not (MS-SSIM takes whole pictures)."""
    from splat.metrics import MAX_PSNR, ms_ssim, psnr, ssim

    if known is not None:
        close = {"psnr": psnr(recon, pixels, mask=known), "ssim": ssim(recon, pixels, mask=known)}
        shares = {"known": float(known.float().mean())}
        return {f"{name}_known": min(MAX_PSNR, value) for name, value in close.items()} | shares
    values = (min(MAX_PSNR, psnr(recon, pixels)), ssim(recon, pixels), ms_ssim(recon, pixels))
    return dict(zip(_QUALITY, values, strict=True))


def _metrics(result: FitResult, picture: Picture, recon: Tensor, known: Tensor | None) -> dict[str, Any]:
    from splat import machine
    from splat.image.scores import group_scores

    return {
        "schema_version": 2,
        "picture": picture.name,
        "width": result.model.width,
        "height": result.model.height,
        "layout": picture.layout.records(),
        "groups": group_scores(recon, picture.pixels, picture.layout),
        "n": len(result.model),
        **_quality(recon, picture.pixels, known),
        "interrupted": result.interrupted,
        "seconds": result.seconds,
        "history": result.history,
        "machine": machine.describe(),
    }


class FitBar:
    """The progress bar of a fit, JSON lines or silence."""

    def __init__(self, quiet: bool, json_lines: bool) -> None:
        self.quiet, self.json_lines = quiet, json_lines
        self.phase = ""
        self.bar: Any = None

    def __enter__(self) -> Callable[[FitProgress], None]:
        if self.json_lines:
            return self._print
        if self.quiet:
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
