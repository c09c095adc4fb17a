"""What scripts/bench_gpu.py measures with: a time budget, timers by CUDA events, graphs, peak memory, host waits."""

from __future__ import annotations

import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splat.files import atomic_write

T = TypeVar("T")
Figures = dict[str, Any]

SHARE = 0.04
"""Of the time that is left, what one figure may take at most."""
FEWEST = 3
"""Timed calls, however little time is left."""


@dataclass(frozen=True)
class Timing:
    """Of one call."""

    ms: float
    """Median, by CUDA events: from where the GPU reaches the call's first work to where it has done the last, with the
    gaps in between that the host leaves. On the CPU: wall time."""
    low: float
    """First quartile, ms."""
    high: float
    """Third quartile, ms."""
    calls: int
    wall_ms: float
    """Of all calls together, divided by their number. More than `ms` where the host is what takes the time."""


def summary(samples: list[float], calls: int, wall_ms: float) -> Timing:
    """Of milliseconds."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else 3 * samples
    return Timing(middle, low, high, calls, wall_ms)


@dataclass
class Run:
    """A run of the script: its device, its time and what it has found so far."""

    device: torch.device
    seconds: float
    repeats: int
    file: Path | None = None
    figures: Figures = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, text: str = "") -> None:
        """At once, so that a run that is cut off has said all it knows."""
        print(text, flush=True)

    def save(self) -> None:
        """The whole file each time, as `say`."""
        self.figures["seconds"] = time.monotonic() - self.began
        if self.file is None:
            return
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(self.figures, indent=1) + "\n")

    def missing(self, name: str, why: str) -> None:
        self.figures.setdefault("missing", []).append(f"{name}: {why}")
        self.say(f"  {name:<38} {why}")

    def attempt(self, name: str, function: Callable[[], T], *, gpu: bool = False) -> T | None:
        """The function's result. None where there is no time left, no GPU though it needs one, or where it fails: the
        other figures are still worth having."""
        if gpu and not self.cuda:
            self.missing(name, "needs a GPU")
            return None
        if self.left <= 0:
            self.missing(name, "skipped, the time is up")
            return None
        try:
            return function()
        except Exception as error:
            self.missing(name, f"failed: {first_line(error)}")
        tidy(self.device)  # out here, where the error no longer keeps its tensors
        return None

    def time(
        self,
        into: Figures,
        name: str,
        function: Callable[[int], object],
        *,
        views: int = 1,
        inner: int = 1,
        gpu: bool = False,
    ) -> None:
        """Times function(view), whose results are dropped, and files it under `name`."""
        timing = self.attempt(name, lambda: self.measure(function, views, inner), gpu=gpu)
        if timing is None:
            return
        into[name] = asdict(timing)
        spread = f"quartiles {timing.low:.3f} to {timing.high:.3f}, {timing.calls} calls, wall {timing.wall_ms:.3f}"
        self.say(f"  {name:<38} {timing.ms:9.3f} ms   {spread}")

    def measure(self, function: Callable[[int], object], views: int, inner: int = 1) -> Timing:
        """`repeats` samples of `inner` calls, in turn of all views."""
        # Every view once at least: memory comes in, and the sizes of the lists differ between views.
        rounds = max(views, 5) if self.cuda else min(views, 2)
        for view in range(rounds):
            function(view % views)
        wait(self.device)
        began = time.perf_counter()
        for view in range(views if self.cuda else 1):
            function(view)
        wait(self.device)
        one = inner * (time.perf_counter() - began) / (views if self.cuda else 1)
        samples = min(self.repeats, max(FEWEST, int(SHARE * self.left / max(one, 1e-6))))
        return (
            self._by_events(function, samples, views, inner) if self.cuda else self._by_clock(function, samples, views)
        )

    def _by_events(self, function: Callable[[int], object], samples: int, views: int, inner: int) -> Timing:
        # Nothing waits between the samples, as nothing does in a training loop.
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(samples)]
        began = time.perf_counter()
        for sample, (start, end) in enumerate(pairs):
            start.record()
            for _ in range(inner):
                function(sample % views)
            end.record()
        wait(self.device)
        wall = 1e3 * (time.perf_counter() - began)
        calls = samples * inner
        return summary([start.elapsed_time(end) / inner for start, end in pairs], calls, wall / calls)

    def _by_clock(self, function: Callable[[int], object], samples: int, views: int) -> Timing:
        times = []
        for sample in range(samples):
            began = time.perf_counter()
            function(sample % views)
            times.append(1e3 * (time.perf_counter() - began))
        return summary(times, samples, statistics.mean(times))


def first_line(error: BaseException) -> str:
    """And of the error that it came up from: a CUDA graph says that its capture failed, not what failed in it."""
    text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return text if error.__context__ is None else f"{text} (first: {first_line(error.__context__)})"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tidy(device: torch.device) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def capture(function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """The function as a CUDA graph, and what it returned: tensors that every replay writes again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # torch asks for warm-up calls on a stream of their own
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = function()
    return graph, made


def peak_gb(function: Callable[[int], object], views: int, device: torch.device, without: int) -> float:
    """The most memory that torch's allocator has given out during a call, all that is resident included but `without`
    bytes, in GB (1e9 bytes)."""
    for view in range(views):
        function(view)
    tidy(device)
    torch.cuda.reset_peak_memory_stats(device)
    for view in range(views):
        function(view)
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - without) / 1e9


def host_waits(function: Callable[[], object]) -> int | str:
    """0 where torch sees no call that makes the host wait for the GPU, else what it says of the first. It sees its own
    calls; one of splat's library would be an error in a CUDA graph."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function()
    except RuntimeError as error:
        return first_line(error)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return 0


class OpRecorder(TorchDispatchMode):
    """While it is entered, notes the last call of each splat op, those of the backward pass too. A stage is then timed
    by making that call again: exactly what the step does, whatever the order of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Callable[[], object]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "splat":
            self.calls[func._schema.name.partition("::")[2]] = lambda: func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def psnr_between(a: torch.Tensor, b: torch.Tensor) -> float:
    """dB, at most 200, so that it stays a number in the file."""
    error = float((a - b).square().double().mean())
    return min(200.0, -10 * math.log10(error)) if error > 0 else 200.0
