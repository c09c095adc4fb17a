"""splat train-scene"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from splat.cli.shared import DataArguments, check_folder, progress
from splat.scene.config import PRESETS, Preset, TrainConfig, preset
from splat.stop import deferred_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from splat.scene.checkpoint import Checkpoint
    from splat.scene.data import Capture
    from splat.scene.run import RunStatus
    from splat.scene.train import Trainer


@dataclass
class TrainScene:
    """Train a 3D scene from photographs.

    DATA is a folder with a COLMAP model or a transforms.json (nerfstudio, Blender), a folder of photographs whose poses
    are not known yet (extra [sfm]), or a video (extras [sfm], [video]).

    Writes to the output folder: scene.ply and the same scene in smaller formats, report.html, metrics.json, pictures of
    the held-out views, checkpoint.safetensors. Ctrl-C writes a checkpoint and scene.ply (exit code 130); --resume goes
    on from it, to the same bits as if nothing had happened.

    Examples:

      splat train-scene capture/                              # 7,000 images

      splat train-scene capture/ -o out/ --time 10m           # the best that ten minutes buy

      splat train-scene capture/ -o out/ --resume --steps 30000      # farther than it first was to go

      splat train-scene capture/ --preset best --strategy default --correct.exposure affine
    """

    data: tyro.conf.Positional[Path]
    """Folder, transforms file or video."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """Folder for the results."""
    preset: Preset = "standard"
    """draft, standard or best: 2,000, 7,000 or 30,000 images. What is given besides takes precedence."""
    resume: bool = False
    """Go on from the checkpoint in the output folder, with its configuration; what is given besides changes it."""
    view: bool = False
    """Show the scene in a browser while it is trained (extra [viewer])."""
    port: int = 8080
    """Of --view."""
    video: bool = False
    """Also write a fly-through: fly.mp4, or fly.webp without the extra [video]."""
    formats: tuple[str, ...] = ("ply", "compressed.ply", "splat", "spz", "sog")
    """Files to write the scene to."""
    checkpoint_every: int = 1_000
    """Images from one checkpoint to the next."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where splat can use one."""
    threads: int | None = None
    """CPU threads (default: all that this process may use)."""
    quiet: bool = False
    """Print errors only."""
    json_lines: bool = False
    """Print one JSON object a line instead of the progress bar."""
    reading: Annotated[DataArguments, tyro.conf.arg(name="")] = field(default_factory=DataArguments)
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    words: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The command's words, which tell what was given from what is a default."""

    def run(self) -> int:
        """Trains and writes; 130 after Ctrl-C."""
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            import splat
            from splat.io import format_to_write
            from splat.scene.data import PhotoCache
            from splat.scene.run import Run, RunOptions
            from splat.scene.train import Trainer

            def asked() -> bool:
                return stop.requested

            if self.threads is not None:
                splat.set_num_threads(self.threads)
            check_folder(self.output)
            for suffix in self.formats:
                format_to_write(f"scene.{suffix}")
            device = self._device()
            config, checkpoint = self._config()
            with ExitStack() as stack:
                capture = self.reading.load(self.data, self._tell)
                photos = stack.enter_context(PhotoCache(capture.views))
                checked = self._checked(capture, photos)
                if checked is not capture:
                    photos = stack.enter_context(PhotoCache(checked.views))  # rows have moved up
                self._say_notes(checked)
                if asked():
                    return 130
                begin = None if checkpoint is None else checkpoint.gaussians
                trainer = Trainer(checked, photos, config, device=device, gaussians=begin)
                if asked():
                    return 130
                run = Run(trainer, self.output, RunOptions(checkpoint_every=self.checkpoint_every))
                if checkpoint is not None:
                    run.resume(checkpoint)
                with _Progress(self, trainer) as show:
                    done = run.train(show)
                return self._finish(run, done)

    def _config(self) -> tuple[TrainConfig, Checkpoint | None]:
        """The run's configuration, and where it goes on from."""
        from splat.scene.checkpoint import load_checkpoint
        from splat.scene.run import CHECKPOINT

        path, given = self.output / CHECKPOINT, named(self.config, self.words)
        if {"steps", "time"} <= set(given):
            raise ValueError("give either --steps or --time")
        if not self.resume:
            if path.exists():
                raise ValueError(
                    f"{self.output}: holds a run already; go on with it by --resume, or give another folder with -o"
                )
            return self.config, None
        if any(word.partition("=")[0] == "--preset" for word in self.words):
            raise ValueError("--preset is for a new run; with --resume, --steps says how long the run is to be")
        if "steps" in given:
            given["time"] = None  # of a run that went by the clock
        checkpoint = load_checkpoint(path)
        return merged(checkpoint.config, given), checkpoint

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.json_lines:
            print(json.dumps({"event": "data", "what": what, "done": done, "total": total}), flush=True)
        elif not self.quiet and sys.stderr.isatty():
            count = f" {done}/{total}" if total else ""
            print(f"\r\033[K{what}{count}", end="", file=sys.stderr, flush=True)

    def _checked(self, capture: Capture, photos: Any) -> Capture:
        from splat.scene.data import check_photos

        with progress("reading photographs", len(capture.views), self.quiet or self.json_lines) as advance:
            return check_photos(capture, photos, lambda *_: advance())

    def _say_notes(self, capture: Capture) -> None:
        if not (self.quiet or self.json_lines):
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)
            for note in capture.notes:
                print(note)

    def _device(self) -> str:
        import torch

        from splat.core.devices import cuda_problem

        if self.device != "auto":
            try:
                device = torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}") from error
            problem = cuda_problem(device) if device.type == "cuda" else None
            if device.type not in ("cpu", "cuda") or problem:
                raise ValueError(f"device {self.device}: {problem or 'splat runs on cpu and cuda'}")
            return self.device
        usable = torch.cuda.is_available() and cuda_problem(torch.device("cuda", 0)) is None
        return "cuda" if usable else "cpu"

    def _finish(self, run: Any, done: bool) -> int:
        from splat.scene.results import ResultOptions, write_results, write_scene

        if not done:
            if not run.trainer.images:
                return 130
            write_scene(run)
            if not (self.quiet or self.json_lines):
                where = f"{run.trainer.images:,} images, {100 * run.trainer.progress:.0f} %"
                print(f"stopped after {where}; go on with: splat train-scene {self.data} -o {self.output} --resume")
            return 130
        options = ResultOptions(
            self.formats, self.video, title=self.data.resolve().name, facts=[("preset", self.preset)]
        )
        metrics = write_results(run, options, lambda what: self._tell(what, 0, 0))
        if self.json_lines:
            for line in metrics["failed"]:
                print(json.dumps({"event": "warning", "what": line}))
            keys = ("psnr", "ssim", "gaussians", "images", "train_seconds")
            print(json.dumps({"event": "done", **{k: metrics[k] for k in keys}}))
        elif not self.quiet:
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)
            for line in metrics["failed"]:
                print(line)
            kind = "held-out" if metrics["held_out"] else "training"
            print(
                f"{metrics['psnr']:.2f} dB PSNR, {metrics['ssim']:.4f} SSIM on {metrics['views']} {kind} views; "
                f"{metrics['gaussians']:,} Gaussians, {metrics['images']:,} images, {metrics['train_seconds']:.0f} s"
            )
            print(f"{self.output}/  report.html  scene.ply  metrics.json  sheet.jpg  pictures/")
            print(f"look at it: {self.output}/report.html in a browser, or splat view {self.output}/scene.ply")
        return 0


def with_preset(arguments: Sequence[str]) -> TrainScene:
    """The command's defaults, which depend on the preset that the arguments name."""
    name: str = "standard"
    for i, word in enumerate(arguments):
        if word == "--preset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
    # What is no preset is left to tyro, which says so.
    known: Preset = next((each for each in PRESETS if each == name), "standard")
    return TrainScene(data=tyro.MISSING, preset=known, config=preset(known), words=tuple(arguments))


def named(value: Any, words: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """The fields of a nested dataclass whose flags stand among the words of a command."""
    flags = {word.partition("=")[0].replace("_", "-") for word in words}
    result: dict[str, Any] = {}
    for f in fields(value):
        mine, name = getattr(value, f.name), prefix + f.name.replace("_", "-")
        if is_dataclass(mine):
            if inner := named(mine, words, f"{name}."):
                result[f.name] = inner
        elif {f"--{name}", f"--no-{name}"} & flags:
            result[f.name] = mine
    return result


def merged(value: Any, given: dict[str, Any]) -> Any:
    """A nested dataclass with some fields replaced."""
    return replace(value, **{k: merged(getattr(value, k), v) if isinstance(v, dict) else v for k, v in given.items()})


class _Progress:
    """The bar, JSON lines or silence; and the live view."""

    def __init__(self, command: TrainScene, trainer: Trainer) -> None:
        self.command, self.trainer = command, trainer
        self.bar: Any = None
        self.server: Any = None
        self.printed = 0

    def __enter__(self) -> Callable[[RunStatus], None]:
        command = self.command
        if command.view:
            self._serve()
        if not (command.quiet or command.json_lines):
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("ETA {task.fields[eta]}"),
                transient=True,
            )
            self.task = self.bar.add_task("training", total=1.0, text="", eta="?")
            self.bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.server is not None:
            self.server.stop()

    def _serve(self) -> None:
        from splat.viewer import ViewerOptions, ViewerServer

        t = self.trainer
        background = t.objective.background.color or (0.0, 0.0, 0.0)
        self.server = ViewerServer(
            t.gaussians,
            cameras=[t.capture.camera(row) for row in t.capture.train],
            port=self.command.port,
            options=ViewerOptions(background=background),
        )
        quiet = self.command.quiet or self.command.json_lines
        print(f"live at {self.server.url}", file=sys.stderr if quiet else sys.stdout, flush=True)

    def _show(self, status: RunStatus) -> None:
        t = status.trainer
        if self.server is not None:
            self.server.update(t.gaussians, f"{t.images:,} images, {100 * t.progress:.0f} %")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        if self.bar is not None:
            psnr = "" if status.psnr is None else f"{status.psnr:.2f} dB  "
            text = (
                f"{t.images:,} images  loss {status.loss:.4f}  {psnr}{len(t.gaussians):,} Gaussians  "
                f"{status.images_per_second:.0f} it/s  {memory:.1f} GiB"
            )
            left = divmod(math.ceil(status.seconds_left), 60)
            self.bar.update(self.task, completed=t.progress, text=text, eta=f"{left[0]}:{left[1]:02d}")
        elif self.command.json_lines and t.images - self.printed >= 100:
            self.printed = t.images
            row = {"images": t.images, "progress": t.progress, "seconds": t.seconds, "loss": status.loss}
            more = {"psnr": status.psnr, "gaussians": len(t.gaussians), "images_per_second": status.images_per_second}
            print(json.dumps({"event": "progress", **row, **more, "memory_gib": memory}), flush=True)
