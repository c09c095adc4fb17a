"""Fits a large picture with the command line and reports quality, time by phase and peak memory.

    python scripts/bench_large.py                                 # 8192 x 4096, 200,000 Gaussians, 60 s
    python scripts/bench_large.py --size 4096 2048 --n 50000 --preset draft --tile 0

The picture is made of pieces of the bundled photographs: cut, turned, mirrored, enlarged and tinted, with a fine grain,
the same every time. The fit runs in a process of its own, watched from here: wall and CPU seconds (user + system of all
threads) of each phase, and the peak of the resident memory up to its end. On a shared machine look at the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from splat import machine

PHOTOS = Path(__file__).parent.parent / "scenes" / "photos"
ENLARGE = (1.0, 2.5)
"""Least and most enlargement of a piece."""
ROW = 700
"""Height of a row of pieces, pixels; not a divisor of any tile's side."""


def large_picture(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """[height, width, 3]: rows of pieces of the photographs."""
    rng = np.random.default_rng(seed)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.png"))]
    sheet = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROW):
        left = 0
        while left < width:
            piece = _piece(photos[rng.integers(len(photos))], rng)[: height - top, : width - left]
            sheet[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
            left += piece.shape[1]
    return sheet


def _piece(photo: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A part of a photograph, ROW pixels high."""
    scale = rng.uniform(*ENLARGE)
    turned = photo.transpose(Image.Transpose(rng.integers(7)))
    high = min(ROW / scale, turned.height)
    wide = min(high * rng.uniform(0.8, 1.6), turned.width)
    x, y = rng.uniform(0, turned.width - wide), rng.uniform(0, turned.height - high)
    size = (round(wide * ROW / high), ROW)
    part = turned.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + wide, y + high))
    values = np.asarray(part, np.float32) * rng.uniform(0.85, 1.1, 3).astype(np.float32)
    grain = rng.normal(0, 1.0, values.shape[:2]).astype(np.float32)
    return (values + grain[..., None] + 0.5).clip(0, 255).astype(np.uint8)


@dataclass
class Reading:
    """What a process has used up to a moment."""

    wall: float
    cpu: float
    peak: float
    """GiB resident."""


def read_process(pid: int) -> Reading:
    """From /proc, so that the program watched needs no part in it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Reading(time.perf_counter(), cpu, int(status["VmHWM"].split()[0]) / 2**20)


def watch(command: list[str]) -> list[tuple[str, Reading]]:
    """Runs `splat ... --json-lines`: what it had used when each phase ended, in order."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    phases, phase, last = [("", Reading(time.perf_counter(), 0.0, 0.0))], "start", time.perf_counter()
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        name = event.get("phase", phase)
        now = read_process(process.pid)
        if name != phase or event["event"] == "done":
            phases.append((phase, now))
            phase = name
        if time.perf_counter() - last > 20:
            last = time.perf_counter()
            print(f"  ... {phase} {event.get('psnr') or 0:.2f} dB", file=sys.stderr, flush=True)
    if process.wait() != 0:
        raise SystemExit(f"the fit ended with exit code {process.returncode}")
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(8192, 4096), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--n", type=int, default=200_000, help="Gaussians")
    parser.add_argument("--time", type=float, default=60.0, help="seconds of the fit")
    parser.add_argument("--preset", help="instead of --time: draft, fast or best")
    parser.add_argument("--tile", default="auto", help="auto, 0 (the picture as a whole) or pixels")
    parser.add_argument("--keep", type=Path, help="folder that keeps the picture and the results")
    arguments = parser.parse_args()
    about = machine.describe()
    print(", ".join(f"{name} {value}" for name, value in about.items()) + f", load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        width, height = arguments.size
        Image.fromarray(large_picture(width, height)).save(folder / "large.png", compress_level=1)
        limit = ["--preset", arguments.preset] if arguments.preset else ["--time", str(arguments.time)]
        print(f"{width} x {height}, n = {arguments.n:,}, {' '.join(limit)}, --tile {arguments.tile}", flush=True)
        command = [sys.executable, "-m", "splat", "fit-image", str(folder / "large.png"), "-o", str(folder / "out")]
        phases = watch([*command, "-n", str(arguments.n), *limit, "--tile", arguments.tile, "--json-lines"])
        for (_, before), (name, after) in pairwise(phases):
            wall, cpu = after.wall - before.wall, after.cpu - before.cpu
            print(f"  {name:<12} {wall:7.1f} s wall {cpu:7.1f} s CPU   peak so far {after.peak:5.2f} GiB")
        first, last = phases[0][1], phases[-1][1]
        print(f"  {'in all':<12} {last.wall - first.wall:7.1f} s wall {last.cpu:7.1f} s CPU")
        metrics = json.loads((folder / "out" / "metrics.json").read_text())
        shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("psnr", "ssim", "ms_ssim"))
        print(f"  {metrics['n']:,} Gaussians, {int(metrics['history'][-1]['step'])} steps, {shown}", flush=True)


if __name__ == "__main__":
    main()
