"""The pictures of scripts/bench_gpu.py: blend "sum", drawn and differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from gpu_scene import list_statistics
from gpu_timing import Figures, Run, capture
from torch import Tensor

import splat
from splat.core.binning import ListRoom, TileLists, bin_splats
from splat.core.project_image import project_image
from splat.core.rasterize import RasterizeOptions, rasterize
from splat.core.rasterize_l2 import rasterize_l2, to_tiles

SIZE, SIZE_SPREAD = -0.33, 0.75
"""Mean and standard deviation of log(geometric mean of the axes / r); `count` circles of radius r fill the picture."""
RATIO, RATIO_SPREAD = 1.3, 0.8
"""Of log(longer / shorter axis)."""
INNER = 10
"""Frames of one sample: one alone would leave out what the host does between frames."""


def fit_like(count: int, width: int, height: int, seed: int = 0) -> splat.ImageGaussians:
    """Random Gaussians with the sizes of a fit. fit_image of scenes/photos/kodim05.png (768 x 512) has, with 10,000 and
    70,000 Gaussians, means of -0.53 and -0.35 for SIZE, 0.75 for its spread and 1.37 and 1.16 for RATIO; 6.9 and 2.7
    tile entries per Gaussian and 25 and 45 pairs per pixel. The largest of a fit are larger than these normal
    distributions have them, so SIZE is chosen for the entries and pairs: 7.0 and 2.6, 25 and 42."""
    g = torch.Generator().manual_seed(seed)
    size = (
        math.log(math.sqrt(width * height / (math.pi * count))) + SIZE + SIZE_SPREAD * torch.randn(count, generator=g)
    )
    half = 0.5 * (RATIO + RATIO_SPREAD * torch.randn(count, generator=g)).abs()
    return splat.ImageGaussians(
        means=torch.rand(count, 2, generator=g) * torch.tensor([width, height]),
        log_scales=torch.stack([size + half, size - half], 1),
        angles=2 * math.pi * torch.rand(count, generator=g),
        colors=0.2 * torch.randn(count, 3, generator=g),
        width=width,
        height=height,
    )


class Picture:
    """A model on the device, and its calls. None of them takes a view, but that is what the timers pass."""

    def __init__(self, run: Run, count: int, width: int, height: int) -> None:
        self.model = fit_like(count, width, height).to(run.device)
        self.shape = {"width": width, "height": height}
        tiles = self._draw(None)[1]
        self.room = tiles.room()
        radii = project_image(self.model.means, self.model.log_scales, self.model.angles, **self.shape).radii
        self.statistics = list_statistics(tiles, radii)
        g = torch.Generator(run.device).manual_seed(1)
        self.target = to_tiles(torch.rand(height, width, 3, generator=g, device=run.device))

    @torch.no_grad()
    def _draw(self, room: ListRoom | None) -> tuple[Tensor, TileLists]:
        m = self.model
        splats = project_image(m.means, m.log_scales, m.angles, **self.shape)
        tiles = bin_splats(splats, **self.shape, depth_order=False, colors=m.colors[None], room=room)
        return rasterize(splats, m.colors[None], tiles, options=RasterizeOptions(blend="sum"))[0][0], tiles

    @torch.no_grad()
    def draw(self, view: int = 0) -> Tensor:
        """The public call."""
        m = self.model
        size = (m.width, m.height)
        return splat.rasterize_image(m.means, (m.log_scales, m.angles), m.colors, size)[0]

    def draw_in_room(self, view: int = 0) -> Tensor:
        """Its stages, which do not wait for the GPU."""
        return self._draw(self.room)[0]

    def captured(self) -> Callable[[int], None]:
        graph, (image, tiles) = capture(lambda: self._draw(self.room))
        graph.replay()
        if bool(tiles.overflowed(self.room)) or float((image - self.draw()).abs().max()) > 1e-5:
            raise RuntimeError("the picture of the graph is not that without it")
        return lambda view: graph.replay()

    def fit_step(self, view: int = 0) -> None:
        """As fit_image's, without its optimizer, which is of the CPU. It waits for the GPU: for the lengths of the
        lists, and for the error."""
        m = self.model
        shapes = [t.detach().requires_grad_(True) for t in (m.means, m.log_scales, m.angles)]
        splats = project_image(*shapes, **self.shape)
        tiles = bin_splats(splats, **self.shape, depth_order=False)
        step = rasterize_l2(splats, m.colors[None], tiles, self.target)
        torch.autograd.grad((splats.means2d, splats.conics), shapes, (step.v_means2d, step.v_conics))


def measure_picture(run: Run, picture: Picture, into: Figures) -> None:
    into["statistics"] = picture.statistics
    for name in ("entries per visible splat", "pairs per pixel"):
        run.say(f"  {name:<38} {picture.statistics[name]:13,.1f}")
    times: Figures = into.setdefault("ms", {})
    inner = INNER if run.cuda else 1
    run.time(times, "draw", picture.draw, inner=inner)
    run.time(times, "draw, with room", picture.draw_in_room, inner=inner)
    name = "draw, CUDA graph"
    replay = run.attempt(name, picture.captured, gpu=True)
    if replay is not None:
        run.time(times, name, replay, inner=inner)
    run.time(times, "fit step", picture.fit_step, inner=inner)
    into["frames per second"] = {
        name: 1e3 / timing["ms"] for name, timing in times.items() if name.startswith("draw") and timing["ms"] > 0
    }
    for name, frames in into["frames per second"].items():
        run.say(f"  {name:<38} {frames:9,.0f} frames/s")
