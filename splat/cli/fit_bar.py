"""The progress bar of commands that fit pictures."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from splat.image.fitter import FitProgress


class FitBar:
    """The progress bar, JSON lines or silence: stages (read, init, compare, write) and the steps of the fit."""

    WORDS: ClassVar[dict[str, str]] = {
        "read": "reading",
        "init": "preparing",
        "pilot": "looking for n",
        "coarse": "coarse fit",
        "code": "rounding",
        "compare": "comparing",
        "write": "writing",
    }

    def __init__(self, quiet: bool, json_lines: bool) -> None:
        self.quiet, self.json_lines = quiet, json_lines
        self.phase, self.step = "", 0
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> FitBar:
        if self.json_lines or self.quiet:
            return self
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[about]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            transient=True,
        )
        self.task = self.bar.add_task("reading", total=1.0, about="", left="")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def stage(self, phase: str, share: float = 0.0) -> None:
        """What is being done besides the fit, and how much of it is done."""
        if self.bar is not None:
            self.bar.update(self.task, description=self.WORDS[phase], completed=share, left="")
        if self.json_lines and phase != self.phase:
            print(json.dumps({"event": "progress", "phase": phase, "step": self.step}), flush=True)
        self.phase = phase

    def fit(self, p: FitProgress) -> None:
        """A step of the fit."""
        if self.bar is not None:
            what = f"tile {p.tile} of {p.tiles}" if p.tile else self.WORDS.get(p.phase, "fitting")
            self.bar.update(
                self.task,
                description=what,
                completed=min(1.0, p.step / max(1, p.steps)),
                about=f"{p.psnr:.2f} dB  {p.n:,} Gaussians  {p.its_per_second:.0f} it/s",
                left=f"ETA {p.eta:.0f} s",
            )
        if self.json_lines and (p.step % 25 == 0 or p.phase != self.phase):
            fields = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in vars(p).items()}
            del fields["model_fn"]
            print(json.dumps({"event": "progress", **fields}), flush=True)
        self.phase, self.step = p.phase, p.step
