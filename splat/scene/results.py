"""What a finished run leaves in its folder: scene files, metrics.json, pictures, a fly-through and report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splat import machine
from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import format_of, load_gaussians, save_gaussians
from splat.io.describe import size_of
from splat.scene.evaluate import EvaluateOptions, Evaluation, evaluate
from splat.scene.gallery import Gallery, write_fly_through
from splat.scene.report import FileRow, Report, write_report
from splat.scene.run import GLIMPSE_VIEWS, Run

FORMATS = ("ply", "compressed.ply", "splat", "spz", "sog")
Stage = Callable[[str], None]


@dataclass(frozen=True)
class ResultOptions:
    """What is written at the end of a run."""

    formats: Sequence[str] = FORMATS
    """Suffixes of the scene files; ply is always written."""
    video: bool = False
    """A fly-through too."""
    title: str = "scene"
    facts: Sequence[tuple[str, str]] = ()
    """More lines under the report's title."""


def write_scene(run: Run) -> Path:
    """Writes scene.ply, in the world units of the data set."""
    path = run.folder / "scene.ply"
    save_gaussians(path, _world(run))
    return path


def write_results(run: Run, options: ResultOptions = ResultOptions(), stage: Stage = lambda _: None) -> dict[str, Any]:
    """Writes all of it and returns what stands in metrics.json.

    Args:
        stage: is told what is being done.
    """
    t, folder = run.trainer, run.folder
    write_scene(run)  # before all that could fail
    stage("measuring held-out views")
    rows = t.capture.test or t.capture.train[:: -(-len(t.capture.train) // GLIMPSE_VIEWS)]
    gallery = Gallery(folder, rows)
    evaluation = run.evaluate(rows, each=gallery.add)
    gallery.write_sheet()
    world = _world(run)
    files, failed = [], []
    for suffix in dict.fromkeys(("ply", *options.formats)):
        stage(f"writing scene.{suffix}")
        try:
            files.append(_file(run, folder / f"scene.{suffix}", world))
        except (ValueError, OSError) as error:  # one format must not cost the others, nor the report
            failed.append(f"scene.{suffix} was not written: {error}")
    video = None
    if options.video:
        stage("flying")
        still = t.objective.background.still(t.device)
        video = write_fly_through(folder, world.to(t.device), t.capture, still, options=t.options)
    about = machine.describe()
    metrics = _metrics(run, evaluation, files) | {"failed": failed, "machine": about}
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    stage("writing report.html")
    held_out = bool(t.capture.test)
    report = Report(
        title=options.title,
        facts=_facts(run, options),
        gaussians=len(t.gaussians),
        evaluation=evaluation,
        views=gallery.views,
        worst=gallery.worst if len(rows) > len(gallery.views) else (),
        history=run.history,
        step_seconds=run.profile.seconds(),
        files=files,
        config=t.config.to_dict(),
        notes=(*t.capture.notes, *failed),
        machine=about,
        video=video,
        held_out=held_out,
    )
    write_report(folder, report)
    return metrics


def _world(run: Run) -> Gaussians:
    """The scene in the units of the data set."""
    return run.trainer.capture.normalisation.gaussians_to_world(run.trainer.gaussians.to("cpu"))


def _file(run: Run, path: Path, world: Gaussians) -> FileRow:
    """Writes a scene file, reads it back and measures what came back."""
    t = run.trainer
    save_gaussians(path, world)
    back = t.capture.normalisation.gaussians(load_gaussians(path)).to(t.device)
    rows = t.capture.test[:: -(-len(t.capture.test) // GLIMPSE_VIEWS) or 1]
    psnr = None
    if rows:
        psnr = evaluate(
            back,
            t.capture,
            rows,
            t.photos,
            background=t.objective.background.still(),
            correct=t.corrections.held_out,
            options=EvaluateOptions(flip=False, lpips=False, render=t.options),
        ).psnr
    return FileRow(format_of(path).name, size_of(path), len(back), psnr, path.name)


def _metrics(run: Run, evaluation: Evaluation, files: Sequence[FileRow]) -> dict[str, Any]:
    t = run.trainer
    return evaluation.to_dict() | {
        "held_out": bool(t.capture.test),
        "gaussians": len(t.gaussians),
        "images": t.images,
        "train_seconds": t.seconds,
        "done": t.done,
        "background": list(t.objective.background.color or (0.0, 0.0, 0.0)),
        "normalisation": t.capture.normalisation.to_dict(),
        "files": [{"name": f.note, "format": f.format, "bytes": f.bytes, "psnr": f.psnr} for f in files],
        "step_seconds": run.profile.seconds(),
        "history": run.history,
        "config": t.config.to_dict(),
        "data": {"kind": t.capture.kind, "train": len(t.capture.train), "test": len(t.capture.test)},
    }


def _facts(run: Run, options: ResultOptions) -> list[tuple[str, str]]:
    t = run.trainer
    minutes, seconds = divmod(round(t.seconds), 60)
    view = t.capture.views[t.capture.train[0]]
    return [
        ("data", f"{t.capture.kind}, {len(t.capture.train)} photos to learn from, {len(t.capture.test)} held out"),
        ("size", f"{view.width} x {view.height}"),
        ("strategy", t.config.strategy),
        ("images", f"{t.images:,}"),
        ("time", f"{minutes} min {seconds:02d} s"),
        *options.facts,
    ]
