"""A training run and its folder: history, checkpoints, and at the end files, measures, pictures and a report."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splat.core.checks import check_int
from splat.core.ops import one_torch_thread
from splat.files import atomic_write
from splat.scene.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from splat.scene.evaluate import EvaluateOptions, Evaluation, evaluate
from splat.scene.profile import StepProfile
from splat.scene.train import Trainer
from splat.stop import deferred_stop

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"
SHOW_EVERY = 10
"""Images from one status to the next, and over which it is averaged."""
GLIMPSE_VIEWS = 12
"""Held-out views that are measured while training, at most; at the end all are."""
PROFILED = (0.9, 10)
"""Progress from which, and for how many steps, the parts of a step are timed."""


@dataclass(frozen=True)
class RunOptions:
    """What is written while a run goes on."""

    checkpoint_every: int = 1_000
    """Images from one checkpoint to the next."""
    evaluate_every: float = 0.05
    """Share of the run from one look at held-out views to the next."""

    def __post_init__(self) -> None:
        check_int("checkpoint_every", self.checkpoint_every, 1)


@dataclass(frozen=True)
class RunStatus:
    """For a progress bar."""

    trainer: Trainer
    loss: float
    """Mean over the last steps."""
    psnr: float | None
    """Of the last look at held-out views."""
    images_per_second: float

    @property
    def seconds_left(self) -> float:
        """At the present speed."""
        t = self.trainer
        return t.seconds * (1 - t.progress) / t.progress if t.progress > 0 else 0.0


class Run:
    """Trains in a folder.

    A folder that holds a checkpoint is gone on with by `resume`; the history then is that of one run.
    """

    def __init__(self, trainer: Trainer, folder: str | Path, options: RunOptions = RunOptions()) -> None:
        self.trainer, self.folder, self.options = trainer, Path(folder), options
        self.history: list[dict[str, Any]] = []
        """Rows of images, seconds, progress, loss, n (Gaussians) and psnr (held out)."""
        self.profile = StepProfile()
        self._losses: list[torch.Tensor] = []

    def resume(self, checkpoint: Checkpoint | None = None) -> None:
        """Goes on from the folder's checkpoint, with the trainer's configuration."""
        (checkpoint or load_checkpoint(self.folder / CHECKPOINT)).restore(self.trainer)
        path = self.folder / HISTORY
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            self.history = [row for row in rows if row["images"] <= self.trainer.images]

    def train(self, show: Callable[[RunStatus], None] = lambda _: None) -> bool:
        """Trains to the end and writes checkpoints and history on the way; False where it was asked to stop before."""
        t, o = self.trainer, self.options
        self.folder.mkdir(parents=True, exist_ok=True)
        t.start_clock()
        recent: deque[torch.Tensor] = deque(maxlen=SHOW_EVERY)
        pace: deque[float] = deque(maxlen=SHOW_EVERY)
        with deferred_stop() as stop, one_torch_thread():
            while not t.done and not stop.requested:
                before, was = t.progress, t.seconds
                with self.profile.step(PROFILED[0] <= before and len(self.profile) < PROFILED[1]):
                    self._losses.append(t.step().loss)
                recent.append(self._losses[-1])
                pace.append(t.seconds - was)
                if t.images % SHOW_EVERY == 0:
                    psnr = self.history[-1]["psnr"] if self.history else None
                    show(RunStatus(t, float(torch.stack(list(recent)).mean()), psnr, len(pace) / max(1e-9, sum(pace))))
                if self._passed(o.evaluate_every, before):
                    self._look()
                if t.images % o.checkpoint_every == 0:
                    self.checkpoint()
            if t.done and not (self.history and self.history[-1]["images"] == t.images):
                self._look()
        if t.images:  # stopped before that, the dense start may have been cut short
            self.checkpoint()
        return t.done

    def _passed(self, share: float, before: float) -> bool:
        """Whether a multiple of a share of the run lies between then and now."""
        return share > 0 and int(self.trainer.progress / share + 1e-9) > int(before / share + 1e-9)

    def _look(self) -> None:
        """Measures some held-out views and adds a row to the history."""
        t = self.trainer
        rows = t.capture.test[:: -(-len(t.capture.test) // GLIMPSE_VIEWS) or 1]
        psnr = self.evaluate(rows, quick=True).psnr if rows else None
        loss = float(torch.stack(self._losses).mean()) if self._losses else None
        self._losses.clear()
        t.tick()
        row = {"images": t.images, "seconds": t.seconds, "progress": t.progress, "loss": loss}
        self.history.append(row | {"n": len(t.gaussians), "psnr": psnr})
        with atomic_write(self.folder / HISTORY) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))

    def evaluate(
        self, rows: tuple[int, ...], *, quick: bool = False, each: Callable[..., None] | None = None
    ) -> Evaluation:
        """Measures views, without what takes long if `quick`."""
        t = self.trainer
        return evaluate(
            t.gaussians,
            t.capture,
            rows,
            t.photos,
            background=t.objective.background.still(),
            correct=t.corrections.held_out,
            options=EvaluateOptions(flip=False if quick else None, lpips=False if quick else None, render=t.options),
            each=each,
        )

    def checkpoint(self) -> None:
        """Writes checkpoint.safetensors."""
        self.trainer.tick()
        save_checkpoint(self.folder / CHECKPOINT, self.trainer)
