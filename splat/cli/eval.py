"""splat eval"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from splat.cli.data import Color, DataArguments, background_tensor
from splat.cli.render import progress, rendered, world_cameras
from splat.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from splat.gaussians import Gaussians
    from splat.scene.data import Capture
    from splat.scene.evaluate import Evaluation
    from splat.scene.report import Compared

SHOWN, WORST = 6, 5
"""Views in the report."""


@dataclass
class Eval:
    """Measure a scene on the photos that are held out of its data set.

    Writes metrics.json, report.html (opens offline), a picture of photo, render and error for every view in pictures/,
    and sheet.jpg.

    Example: splat eval out/scene.ply capture/ -o out/eval
    """

    scene: tyro.conf.Positional[Path]
    """Scene file, in world units."""
    data: tyro.conf.Positional[Path]
    """Data set."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("eval")
    """Folder for the results."""
    views: Literal["test", "train", "all"] = "test"
    """Which photos: those held out, those trained on, or all."""
    background: Color = (0.0, 0.0, 0.0)
    """What shows where nothing covers, and behind photos with alpha, R G B in 0..1; give what the training had."""
    no_flip: bool = False
    """Leave FLIP out, which is measured where flip-evaluator (extra [metrics]) is installed."""
    video: bool = False
    """Also write a fly-through: fly.mp4, or fly.webp without the extra [video]."""
    reading: DataArguments = field(default_factory=DataArguments)
    quiet: bool = False
    """Print errors only."""

    def run(self) -> int:
        """Measures and writes."""
        from splat.scene.data import PhotoCache
        from splat.scene.evaluate import EvaluateOptions, ViewPair, ViewScore, evaluate
        from splat.scene.figures import comparison, contact_sheet
        from splat.scene.files import load_scene_file
        from splat.scene.report import Compared

        background = background_tensor(self.background)
        gaussians = load_scene_file(self.scene)
        capture = self.reading.load(self.data)
        rows = self._rows(capture)
        pictures = self.output / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        normal = capture.normalisation.gaussians(gaussians)
        shown = {rows[round(i * (len(rows) - 1) / max(1, SHOWN - 1))] for i in range(SHOWN)}
        kept: list[Compared] = []
        worst: list[Compared] = []

        with PhotoCache(capture.views) as photos, progress("measuring", len(rows), self.quiet) as advance:

            def each(pair: ViewPair, score: ViewScore) -> None:
                stem = re.sub(r"[^\w.-]+", "_", Path(score.name).with_suffix("").as_posix())
                with atomic_write(pictures / f"{score.row:04d}_{stem}.jpg") as temporary:
                    comparison(pair, score).save(temporary, quality=92)
                small = Compared.of(pair, score)
                if score.row in shown:
                    kept.append(small)
                worst.append(small)
                worst.sort(key=lambda c: c.score.psnr)
                del worst[WORST:]
                advance()

            result = evaluate(
                normal,
                capture,
                rows,
                photos,
                background=background,
                options=EvaluateOptions(flip=False if self.no_flip else None),
                each=each,
            )
        tiles = [(c.image, f"{c.score.psnr:.2f} dB  {c.score.name}") for c in kept]
        with atomic_write(self.output / "sheet.jpg") as temporary:
            contact_sheet(tiles, columns=3).save(temporary, quality=92)
        video = self._fly(gaussians, capture, background) if self.video else None
        self._write(result, kept, worst, gaussians, capture, video)
        return 0

    def _rows(self, capture: Capture) -> list[int]:
        rows = {"test": list(capture.test), "train": list(capture.train), "all": list(range(len(capture.views)))}
        if not rows[self.views]:
            raise ValueError(f"{self.data}: no photo is held out; give --views train or another --test-every")
        return rows[self.views]

    def _fly(self, gaussians: Gaussians, capture: Capture, background: Tensor) -> str:
        from splat.scene.paths import fly_through
        from splat.scene.video import can_write_mp4, write_video

        format: Literal["mp4", "webp"] = "mp4" if can_write_mp4() else "webp"
        path = fly_through(world_cameras(capture), 240)
        with progress("flying", len(path), self.quiet) as advance:
            frames = rendered(gaussians, path, background, advance)
            write_video(self.output / f"fly.{format}", frames, format=format)
        return f"fly.{format}"

    def _write(
        self,
        result: Evaluation,
        kept: list[Compared],
        worst: list[Compared],
        gaussians: Gaussians,
        capture: Capture,
        video: str | None,
    ) -> None:
        from splat import machine
        from splat.io import format_of
        from splat.io.describe import size_of
        from splat.scene.report import FileRow, Report, write_report

        about = machine.describe()
        scene: dict[str, Any] = {
            "scene": self.scene.name,
            "data": self.data.name or str(self.data),
            "split": self.views,
            "gaussians": len(gaussians),
            "background": list(self.background),
        }
        metrics = result.to_dict() | scene | {"machine": about}
        with atomic_write(self.output / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        file = FileRow(format_of(self.scene).name, size_of(self.scene), len(gaussians), result.psnr)
        what = {"test": "held-out", "train": "training", "all": "all"}[self.views]
        report = Report(
            title=f"{self.scene.name} on {scene['data']}",
            facts=[("data", f"{capture.kind}, {len(capture.views)} photos"), ("measured", f"{what} photos")],
            gaussians=len(gaussians),
            evaluation=result,
            views=kept,
            worst=worst if len(result.views) > len(kept) else (),
            files=[file],
            notes=capture.notes,
            machine=about,
            video=video,
            held_out=self.views == "test",
        )
        write_report(self.output, report)
        if not self.quiet:
            measures = "  ".join(f"{result.mean(m):.4f} {m.upper()}" for m in result.measures if m != "psnr")
            counts = f"{len(result.views)} {what} photos, {len(gaussians):,} Gaussians"
            print(f"{result.psnr:.2f} dB PSNR  {measures}  ({counts})")
            print(f"{self.output}/  report.html  metrics.json  sheet.jpg  pictures/{'  ' + video if video else ''}")
