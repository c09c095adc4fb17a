"""splat eval"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from splat.cli.shared import Color, DataArguments, background_tensor, progress
from splat.files import atomic_write

if TYPE_CHECKING:
    from splat.scene.data import Capture
    from splat.scene.evaluate import Evaluation
    from splat.scene.gallery import Gallery


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
    reading: Annotated[DataArguments, tyro.conf.arg(name="")] = field(default_factory=DataArguments)
    quiet: bool = False
    """Print errors only."""

    def run(self) -> int:
        """Measures and writes."""
        from splat.scene.data import PhotoCache
        from splat.scene.evaluate import EvaluateOptions, ViewPair, ViewScore, evaluate
        from splat.scene.files import load_scene_file
        from splat.scene.gallery import FLY_FRAMES, Gallery, write_fly_through

        background = background_tensor(self.background)
        gaussians = load_scene_file(self.scene)
        capture = self.reading.load(self.data)
        rows = self._rows(capture)
        gallery = Gallery(self.output, rows)
        options = EvaluateOptions(flip=False if self.no_flip else None)
        normal = capture.normalisation.gaussians(gaussians)
        with PhotoCache(capture.views) as photos, progress("measuring", len(rows), self.quiet) as advance:

            def each(pair: ViewPair, score: ViewScore) -> None:
                gallery.add(pair, score)
                advance()

            result = evaluate(normal, capture, rows, photos, background=background, options=options, each=each)
        gallery.write_sheet()
        video = None
        if self.video:
            with progress("flying", FLY_FRAMES, self.quiet) as advance:
                video = write_fly_through(self.output, gaussians, capture, background, advance=advance)
        self._write(result, gallery, len(gaussians), capture, video)
        return 0

    def _rows(self, capture: Capture) -> list[int]:
        rows = {"test": list(capture.test), "train": list(capture.train), "all": list(range(len(capture.views)))}
        if not rows[self.views]:
            raise ValueError(f"{self.data}: no photo is held out; give --views train or another --test-every")
        return rows[self.views]

    def _write(self, result: Evaluation, gallery: Gallery, count: int, capture: Capture, video: str | None) -> None:
        from splat import machine
        from splat.io import format_of
        from splat.io.describe import size_of
        from splat.scene.report import FileRow, Report, write_report

        about = machine.describe()
        scene: dict[str, Any] = {
            "scene": self.scene.name,
            "data": self.data.name or str(self.data),
            "split": self.views,
            "gaussians": count,
            "background": list(self.background),
        }
        metrics = result.to_dict() | scene | {"machine": about}
        with atomic_write(self.output / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        file = FileRow(format_of(self.scene).name, size_of(self.scene), count, result.psnr)
        what = {"test": "held-out", "train": "training", "all": "all"}[self.views]
        report = Report(
            title=f"{self.scene.name} on {scene['data']}",
            facts=[("data", f"{capture.kind}, {len(capture.views)} photos"), ("measured", f"{what} photos")],
            gaussians=count,
            evaluation=result,
            views=gallery.views,
            worst=gallery.worst if len(result.views) > len(gallery.views) else (),
            files=[file],
            notes=capture.notes,
            machine=about,
            video=video,
            held_out=self.views == "test",
        )
        write_report(self.output, report)
        if not self.quiet:
            measures = "  ".join(f"{result.mean(m):.4f} {m.upper()}" for m in result.measures if m != "psnr")
            counts = f"{len(result.views)} {what} photos, {count:,} Gaussians"
            print(f"{result.psnr:.2f} dB PSNR  {measures}  ({counts})")
            print(f"{self.output}/  report.html  metrics.json  sheet.jpg  pictures/{'  ' + video if video else ''}")
