"""splat fit-image"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from splat.cli.fit_bar import FitBar
from splat.cli.shared import check_folder
from splat.files import atomic_write
from splat.stop import deferred_stop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from splat.image.bands import Judged
    from splat.image.fit import FitResult
    from splat.image.fitter import FitProgress
    from splat.image.model import ImageGaussians
    from splat.image.picture import Picture
    from splat.metrics import Scores

FRAMES = 48
WORK = "unfinished.safetensors"
"""In the output folder while a fit by tiles runs, and after one that was stopped."""


@dataclass
class FitImage:
    """Fit 2D Gaussians to a picture, or to a stack of pictures at once.

    Writes recon.png (.tif, .exr, ... where the picture was one), model.safetensors, metrics.json, error.png and
    ellipses.png to the output folder. Ctrl-C stops the fit and writes the best model so far (exit code 130). Large
    pictures are fitted by tiles; the same command goes on after Ctrl-C or a kill.

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
    blend: Annotated[str, tyro.conf.arg(metavar="sum|topk[:K]")] = "sum"
    """How Gaussians become pixels: their sum, or topk:K, the mean of the K strongest by weight (as in Image-GS; K is 10
    where it is left out)."""
    layers: int = 1
    """Fit so many layers: the Gaussians up to the end of each are a picture of its own, about four times as many as in
    the one before. splat encode keeps them."""
    pixel_kernel: bool = False
    """Fit the means over the pixels' squares, with no Gaussian much smaller than a pixel: a model to be drawn larger
    (see splat upscale). Costs some PSNR at the photo's own size."""
    tile: str = "auto"
    """Fit tiles of at most so many pixels a side one after the other, with memory for one; 0: the picture as a whole;
    auto: tiles for pictures of 20 megapixels and more."""
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
            from splat.metrics import check_mask

            blend, topk = _blend(self.blend)
            config = FitConfig(
                n=self.n,
                target_psnr=self.target_psnr,
                time=self.time,
                preset=self.preset,
                blend=blend,
                topk=topk,
                seed=self.seed,
                layers=self.layers,
                tile=_tile(self.tile),
            )
            if not self.stack and len(self.pictures) != 1:
                raise ValueError(f"give one picture, or several with --stack, got {len(self.pictures)}")
            textures = [TextureMap.parse(text) for text in self.pictures]
            if self.pixel_kernel:
                config = config.for_any_size()
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            check_folder(self.output)
            if stop.requested:
                return 130
            frames: list[npt.NDArray[np.uint8]] = []
            work = self.output / WORK
            with FitBar(self.quiet, self.json_lines) as show:
                show.stage("read")
                picture = read_picture(textures if self.stack else textures[0])
                like = picture.pixels
                weights = None if self.weights is None else read_grey(self.weights, like, "--weights")
                importance = None if self.importance is None else read_grey(self.importance, like, "--importance")
                hole = None if self.mask is None else read_grey(self.mask, like, "--mask") > 0.5
                known = None if hole is None else ~hole
                if known is not None:
                    check_mask(known)
                show.stage("init")

                def callback(progress: FitProgress) -> None:
                    show.fit(progress)
                    if self.anim and progress.step * FRAMES // max(1, progress.steps) >= len(frames):
                        frames.append(animation_frame(progress.model_fn()))

                fitted = fit_image(
                    picture, config, weights, hole=hole, importance=importance, work=work, callback=callback
                )
                written, metrics = self._write(fitted, picture, known, frames, show)
            if _by_tiles(fitted) and not fitted.interrupted:
                work.unlink(missing_ok=True)
            self._conclude(fitted, written, metrics)
        return 130 if fitted.interrupted else 0

    def _write(
        self,
        result: FitResult,
        picture: Picture,
        known: Tensor | None,
        frames: list[npt.NDArray[np.uint8]],
        show: FitBar,
    ) -> tuple[list[Path], dict[str, Any]]:
        from splat.figures import write_figure
        from splat.image import figures
        from splat.image.bands import judge

        out = self.output
        out.mkdir(parents=True, exist_ok=True)
        result.model.save(out / "model.safetensors")
        show.stage("compare")
        path = out / f"recon{picture.layout.groups[0].suffix}"
        judged = judge(result.model, picture, path, known, lambda share: show.stage("compare", share))
        show.stage("write")
        written = judged.levels.write()
        metrics = _metrics(result, picture, judged, known) | {
            "seed": self.seed,
            "blend": self.blend,
            "pixel_kernel": self.pixel_kernel,
            "preset": self.preset,
            "time": self.time,
            "target_psnr": self.target_psnr,
            "layers": _layers(result.model, picture, known),
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        show.stage("write", 0.8)
        write_figure(figures.error_sheet(judged.errors), out / "error.png")
        write_figure(figures.ellipses_figure(result.model), out / "ellipses.png")
        if frames:
            figures.write_animation([*frames, figures.animation_frame(result.model)], out / "fit.webp")
        return written, metrics

    def _conclude(self, result: FitResult, written: list[Path], metrics: dict[str, Any]) -> None:
        out = self.output
        if self.json_lines:
            told = [name for name in ("n", *_QUALITY, *(f"{name}_known" for name in _QUALITY)) if name in metrics]
            print(json.dumps({"event": "done", **{name: metrics[name] for name in told}}))
        elif not self.quiet:
            masked = "known" in metrics
            spent, of = sum(result.seconds.values()), "_known" if masked else ""
            where = " over the known pixels" if masked else ""
            psnr, ssim = metrics[f"psnr{of}"], metrics[f"ssim{of}"]
            print(f"{psnr:.2f} dB PSNR, {ssim:.4f} SSIM{where}, {metrics['n']:,} Gaussians, {spent:.1f} s")
            if self.target_psnr is not None and psnr < self.target_psnr:
                print(f"{self.target_psnr:g} dB was not reached; give it a longer --time or --preset best")
            for i, row in enumerate(metrics["layers"], 1):
                print(f"  layer {i}: {row['count']:,} Gaussians, {row['psnr']:.2f} dB PSNR")
            if len(metrics["groups"]) > 1:
                for group in metrics["groups"]:
                    angle = f", {group['mean_angle']:.2f} degrees" if "mean_angle" in group else ""
                    print(f"  {group['name']}: {group['psnr']:.2f} dB{angle}")
            names = "  ".join(path.name for path in written)
            print(f"{out}/  {names}  error.png  ellipses.png  model.safetensors  metrics.json")
            if result.interrupted and _by_tiles(result) and (out / WORK).exists():
                print(f"{out / WORK} holds the tiles that are done; the same command goes on from there")


_QUALITY = ("psnr", "ssim", "ms_ssim")


def _blend(text: str) -> tuple[Literal["sum", "topk"], int]:
    """The value of --blend: the compositor, and its K."""
    from splat.image.fit import FitConfig

    name, _, count = text.partition(":")
    if name == "sum" and not count:
        return "sum", FitConfig.topk
    if name != "topk" or (count and not count.isdecimal()):
        raise ValueError(f"blend must be sum, topk or topk:K, got {text!r}")
    return "topk", int(count) if count else FitConfig.topk


def _tile(text: str) -> int | None:
    """The value of --tile."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise ValueError(f"tile must be auto, 0 or a number of pixels, got {text!r}")
    return int(text)


def _quality(scores: Scores, known: Tensor | None) -> dict[str, float]:
    """How close the picture is; of the known pixels, where some are not (MS-SSIM takes whole pictures)."""
    from splat.metrics import MAX_PSNR

    psnr = min(MAX_PSNR, scores.psnr)
    if known is not None:
        return {"psnr_known": psnr, "ssim_known": scores.ssim, "known": float(known.float().mean())}
    return dict(zip(_QUALITY, (psnr, scores.ssim, scores.ms_ssim), strict=True))


def _by_tiles(result: FitResult) -> bool:
    return "coarse" in result.seconds


def _layers(model: ImageGaussians, picture: Picture, known: Tensor | None) -> list[dict[str, Any]]:
    """Gaussians and PSNR up to the end of each layer; empty where there is one."""
    from splat.image.levels import draw_levels, layer_sizes

    sizes = layer_sizes(model)
    return [vars(level) for level, _ in draw_levels(model, sizes, picture.pixels, known)] if len(sizes) > 1 else []


def _metrics(result: FitResult, picture: Picture, judged: Judged, known: Tensor | None) -> dict[str, Any]:
    from splat import machine

    return {
        "schema_version": 2,
        "picture": picture.name,
        "width": result.model.width,
        "height": result.model.height,
        "layout": picture.layout.records(),
        "groups": judged.groups.records,
        "n": len(result.model),
        **_quality(judged.scores, known),
        "interrupted": result.interrupted,
        "seconds": result.seconds,
        "history": result.history,
        "machine": machine.describe(),
    }
