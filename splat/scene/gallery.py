"""What an evaluation leaves to look at: a picture of every view, a sheet, those of the report, a fly-through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.figures import Pixels, rgb
from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.rendering import RenderOptions, render
from splat.scene.evaluate import ViewPair, ViewScore
from splat.scene.figures import comparison, contact_sheet
from splat.scene.paths import fly_through, one_size
from splat.scene.report import Compared
from splat.scene.video import VideoFormat, can_write_mp4, write_video

if TYPE_CHECKING:
    from splat.scene.data.capture import Capture

SHOWN, WORST = 6, 5
"""Views that are kept for the report: an even choice, and those of lowest PSNR."""
FLY_FRAMES = 240


class Gallery:
    """Takes views as `evaluate` makes them: evaluate(..., each=gallery.add).

    Args:
        folder: where pictures/ and sheet.jpg are written.
        rows: the views that will come.
    """

    def __init__(self, folder: Path, rows: Sequence[int]) -> None:
        self.folder = folder
        self.views: list[Compared] = []
        """An even choice of the views."""
        self.worst: list[Compared] = []
        """Those of lowest PSNR, the worst first."""
        self._shown = {rows[round(i * (len(rows) - 1) / max(1, SHOWN - 1))] for i in range(SHOWN)} if rows else set()

    def add(self, pair: ViewPair, score: ViewScore) -> None:
        """Draws photo, render and error side by side."""
        pictures = self.folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w.-]+", "_", Path(score.name).with_suffix("").as_posix())
        with atomic_write(pictures / f"{score.row:04d}_{stem}.jpg") as temporary:
            comparison(pair, score).save(temporary, quality=92)
        small = Compared.of(pair, score)
        if score.row in self._shown:
            self.views.append(small)
        self.worst = sorted([*self.worst, small], key=lambda c: (c.score.psnr, c.score.row))[:WORST]

    def write_sheet(self) -> None:
        """Writes sheet.jpg: photo and render of the views that are kept, side by side."""
        tiles = []
        for c in self.views:
            tiles += [(c.truth, c.score.name), (c.image, f"{c.score.psnr:.2f} dB")]
        with atomic_write(self.folder / "sheet.jpg") as temporary:
            contact_sheet(tiles, columns=4).save(temporary, quality=92)


def training_cameras(capture: Capture) -> Cameras:
    """In world units, with pictures of one size."""
    return capture.normalisation.cameras_to_world(one_size([capture.camera(row) for row in capture.train]))


def rendered_frames(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor,
    advance: Callable[[], None] = lambda: None,
    options: RenderOptions = RenderOptions(),
) -> Iterator[Pixels]:
    """8-bit pictures of a path, one after the other; `advance` is called after each."""
    for i in range(len(cameras)):
        with torch.no_grad():
            picture = render(gaussians, cameras[i], background=background, options=options).color[0]
        yield rgb(picture)
        advance()


def write_fly_through(
    folder: Path,
    gaussians: Gaussians,
    capture: Capture,
    background: Tensor,
    frames: int = FLY_FRAMES,
    advance: Callable[[], None] = lambda: None,
    options: RenderOptions = RenderOptions(),
) -> str:
    """Writes fly.mp4 (fly.webp where imageio-ffmpeg is missing) and returns its name.

    Args:
        gaussians: in world units.
    """
    format: VideoFormat = "mp4" if can_write_mp4() else "webp"
    path = fly_through(training_cameras(capture), frames).to(gaussians.means.device)
    write_video(folder / f"fly.{format}", rendered_frames(gaussians, path, background, advance, options), format=format)
    return f"fly.{format}"
