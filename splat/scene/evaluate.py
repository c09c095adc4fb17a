"""How close a scene comes to photos that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splat.core.checks import Arguments, check_int
from splat.gaussians import Gaussians
from splat.metrics import MAX_PSNR, psnr, ssim
from splat.optional import installed, need
from splat.rendering import RenderOptions, render
from splat.scene.background import composite

if TYPE_CHECKING:
    from splat.scene.data.capture import Capture
    from splat.scene.data.photos import PhotoCache

SCHEMA_VERSION = 1
LPIPS_TRUNK = "alexnet-owt-7be5be79.pth"
"""The weights that LPIPS (alex) stands on, as torchvision names them in torch.hub's folder."""
Correct = Callable[[int, Tensor], Tensor]
"""Changes the colours [H, W, 3] rendered for a row of the views, such as by its exposure."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and at what size."""

    halvings: int = 0
    """Times the pictures are halved."""
    flip: bool | None = None
    """FLIP too (default: where flip-evaluator is installed)."""
    lpips: bool | None = None
    """LPIPS too (default: where lpips, torchvision and the weights are there already; nothing is fetched)."""
    render: RenderOptions = RenderOptions()


@dataclass(frozen=True)
class ViewScore:
    """One view's measures."""

    name: str
    row: int
    """Of `Capture.views`."""
    psnr: float
    """dB, at most MAX_PSNR."""
    ssim: float
    flip: float | None
    """0 (equal) .. 1; None where it was not measured."""
    lpips: float | None
    seconds: float
    """For rendering."""


@dataclass(frozen=True)
class ViewPair:
    """A photo and what the scene shows in its place."""

    name: str
    row: int
    truth: Tensor
    """[H, W, 3] in 0..1, over the background where the photo has alpha."""
    image: Tensor
    """[H, W, 3] in 0..1."""
    mask: Tensor | None
    """bool [H, W], True = counts."""
    seconds: float

    @property
    def error(self) -> Tensor:
        """[H, W] mean absolute difference of the channels, 0 where masked."""
        difference = (self.image - self.truth).abs().mean(2)
        return difference if self.mask is None else difference * self.mask


@dataclass(frozen=True)
class Evaluation:
    """The measures of some views."""

    views: tuple[ViewScore, ...]

    def mean(self, measure: str) -> float | None:
        """Mean of a field of ViewScore over the views; None where one was not measured."""
        values = [getattr(view, measure) for view in self.views]
        return sum(values) / len(values) if values and all(v is not None for v in values) else None

    @property
    def psnr(self) -> float:
        """Mean of the views' PSNR, dB."""
        return self.mean("psnr") or 0.0

    @property
    def ssim(self) -> float:
        """Mean of the views' SSIM."""
        return self.mean("ssim") or 0.0

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that were taken."""
        return tuple(m for m in ("psnr", "ssim", "flip", "lpips") if self.mean(m) is not None)

    def worst(self, count: int = 5) -> tuple[ViewScore, ...]:
        """The views of lowest PSNR, the worst first."""
        return tuple(sorted(self.views, key=lambda view: (view.psnr, view.row))[:count])

    def to_dict(self) -> dict[str, Any]:
        """For metrics.json; measures that were not taken are absent."""
        rows = [
            {"name": view.name, **{m: getattr(view, m) for m in self.measures}, "seconds": view.seconds}
            for view in self.views
        ]
        means = {m: self.mean(m) for m in (*self.measures, "seconds")}
        trunk = {"lpips_net": "alex"} if "lpips" in self.measures else {}
        return {"schema_version": SCHEMA_VERSION, "views": len(rows), **means, **trunk, "per_view": rows}


def view_pair(
    gaussians: Gaussians,
    capture: Capture,
    row: int,
    photos: PhotoCache,
    *,
    background: Tensor,
    correct: Correct | None = None,
    options: EvaluateOptions = EvaluateOptions(),
) -> ViewPair:
    """A view's photo beside its render, both on the CPU; see `evaluate`."""
    photo = photos.get(row, options.halvings)
    truth = _unit(photo.rgb)
    if photo.alpha is not None:
        truth = composite(truth, _unit(photo.alpha), background.detach().to(truth))
    camera = capture.camera(row)
    if options.halvings:
        camera = camera.scaled(0.5**options.halvings)
    start = time.perf_counter()
    with torch.no_grad():
        drawn = render(
            gaussians,
            camera.to(gaussians.means.device),
            background=background.to(gaussians.means),
            options=options.render,
        )
        color = drawn.color[0] if correct is None else correct(row, drawn.color[0])
        image = color.clamp(0, 1).float().cpu()
    seconds = time.perf_counter() - start
    return ViewPair(capture.views[row].name, row, truth, image, photo.mask, seconds)


def evaluate(
    gaussians: Gaussians,
    capture: Capture,
    rows: Sequence[int],
    photos: PhotoCache,
    *,
    background: Tensor,
    correct: Correct | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    each: Callable[[ViewPair, ViewScore], None] | None = None,
) -> Evaluation:
    """Measures a scene against the photos of some views; the same numbers on every run (but for the seconds).

    Args:
        gaussians: in the capture's normalised world.
        rows: of `capture.views`.
        background: [3], shown where nothing covers, and behind photos with alpha.
        correct: changes the rendered colours before they are compared.
        each: is given every view's pictures and measures as they are made.

    Pixels that a photo's mask leaves out are not counted, nor views of which nothing is left.

    Raises:
        ValueError: no rows; a measure that was asked for and is not there.
    """
    check_int("halvings", options.halvings, 0)
    Arguments().floats("background", background, 3)
    if not rows:
        raise ValueError("rows must hold at least one view")
    flip = _flip(options.flip)
    lpips = _lpips(options.lpips)
    photos.expect(rows, options.halvings)
    scores = []
    for row in rows:
        pair = view_pair(gaussians, capture, row, photos, background=background, correct=correct, options=options)
        if pair.mask is not None and not bool(pair.mask.any()):
            continue  # nothing of it counts
        scores.append(_score(pair, flip, lpips))
        if each is not None:
            each(pair, scores[-1])
    if not scores:
        raise ValueError(f"{capture.path}: the masks of the measured views leave no pixel that counts")
    return Evaluation(tuple(scores))


def _unit(levels: Tensor) -> Tensor:
    """uint8 to float32 in 0..1."""
    return levels.float() / 255


_Measure = Callable[[Tensor, Tensor, Tensor | None], float]


def _score(pair: ViewPair, flip: _Measure | None, lpips: _Measure | None) -> ViewScore:
    image, truth, mask = pair.image, pair.truth, pair.mask
    filled = image if mask is None else torch.where(mask[..., None], image, truth)
    return ViewScore(
        name=pair.name,
        row=pair.row,
        psnr=min(MAX_PSNR, psnr(image, truth, mask=mask)),
        ssim=ssim(image, truth, mask),
        flip=None if flip is None else flip(filled, truth, mask),
        lpips=None if lpips is None else lpips(filled, truth, mask),
        seconds=pair.seconds,
    )


def _flip(wanted: bool | None) -> _Measure | None:
    """FLIP (LDR, 67 pixels per degree): mean of its map over the pixels that count."""
    if wanted is False or (wanted is None and not installed("flip_evaluator")):
        return None
    module = need("flip_evaluator", "metrics", "FLIP")

    def measure(image: Tensor, truth: Tensor, mask: Tensor | None) -> float:
        pictures = (t.contiguous().numpy() for t in (truth, image))
        values = torch.from_numpy(module.evaluate(*pictures, "LDR", applyMagma=False, computeMeanError=False)[0])
        return float((values if mask is None else values[mask]).double().mean())

    return measure


def _lpips(wanted: bool | None) -> _Measure | None:
    """LPIPS (alex), where all it stands on is on this machine already; nothing else goes under that name."""
    trunk = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_TRUNK
    there = installed("lpips") and installed("torchvision") and trunk.is_file()
    if wanted is False or (wanted is None and not there):
        return None
    if not there:
        raise ValueError(f"LPIPS needs the packages lpips and torchvision, and the weights {trunk}")
    net = need("lpips", "metrics", "LPIPS").LPIPS(net="alex", verbose=False).eval()

    def measure(image: Tensor, truth: Tensor, _: Tensor | None) -> float:
        with torch.no_grad():
            return float(net(*(t.permute(2, 0, 1)[None] * 2 - 1 for t in (image, truth))))

    return measure
