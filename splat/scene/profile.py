"""Where the time of a training step goes, by its stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

STAGES = {
    "project": ("splat.project", "splat.sh"),
    "bin": ("splat.bin",),
    "raster forward": ("splat.rasterize",),
    "raster backward": ("splat.rasterize_backward",),
    "loss": ("splat.l1_ssim", "splat.l1_ssim_backward"),
    "project backward and Adam": ("splat.step", "splat.project_backward", "splat.sh_backward", "splat.adam"),
}
"""Ops by stage; those of torch, and the time between ops, are "other"."""


class _Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the seconds of our own ops, by their names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        name = str(func).removesuffix(".default")
        if name.startswith("splat."):
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


class StepProfile:
    """Adds up the wall time of the ops of some steps, on the CPU (of a GPU: what it takes to launch them)."""

    def __init__(self) -> None:
        self._steps = 0
        self._seconds = dict.fromkeys((*STAGES, "other"), 0.0)

    def __len__(self) -> int:
        return self._steps

    @contextmanager
    def step(self, wanted: bool = True) -> Iterator[None]:
        """Times the step within, if it is wanted."""
        if not wanted:
            yield
            return
        if not self._steps:
            with _Ops():  # the first time, torch loads what it takes to look on
                torch.zeros(1)
        start = time.perf_counter()
        with _Ops() as ops:
            yield
        whole = time.perf_counter() - start
        self._steps += 1
        for stage, names in STAGES.items():
            self._seconds[stage] += sum(ops.seconds.get(name, 0.0) for name in names)
        self._seconds["other"] += whole - sum(ops.seconds.values())

    def seconds(self) -> dict[str, float]:
        """Mean seconds of a step by stage; empty if none was timed."""
        return {k: v / self._steps for k, v in self._seconds.items()} if self._steps else {}
