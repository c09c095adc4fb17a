"""Measures the CUDA backend on an NVIDIA GPU, with gsplat beside it where it can be had.

    python scripts/bench_gpu.py --json gpu.json                     # everything, 200 s at most
    python scripts/bench_gpu.py --gsplat FOLDER --counts 3          # FOLDER holds the package gsplat
    python scripts/bench_gpu.py --table gpu.json                    # the tables of an earlier run
    python scripts/bench_gpu.py --device cpu --counts 0.01 --size 320x180 --repeats 2 --pictures 1000   # a dry run

Scenes are those of scripts/trained_like.py with harmonics of degree 3; a timed call draws one of its cameras, and a
figure is the median over cameras and repeats. The first count is measured first, then the pictures, then the other
counts. Every figure is printed at once and the file written after each part, so that a run that is cut off leaves what
it has. A CUDA graph, memory and host waits need a GPU; the rest runs on the CPU too, which says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gpu_peers
import torch
from gpu_image import Picture, measure_picture
from gpu_scene import Scene, measure_scene
from gpu_tables import all_table, picture_table, target_table
from gpu_timing import Figures, Run, tidy

from splat import machine
from splat.core import ops
from splat.core.devices import cuda_problem, cuda_versions, version_text

PICTURE_SIZE = (768, 512)
SECONDS_PER_MILLION = 2.0
"""That it takes to make a scene, on the CPU."""


def parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, got {text!r}")
    return int(width), int(height)


def parse_count(text: str) -> int:
    """Millions."""
    try:
        count = round(1e6 * float(text))
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"must be a number of millions, got {text!r}") from error
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least one Gaussian, got {text!r} million")
    return count


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda", choices=["cuda", "cpu"], help="default: %(default)s")
    millions = [3_000_000, 1_000_000, 100_000, 6_000_000]
    add("--counts", type=parse_count, nargs="*", default=millions, help="millions of Gaussians; default: 3 1 0.1 6")
    add("--size", type=parse_size, default=(1920, 1080), help="of a scene's pictures; default: 1920x1080")
    add("--views", type=int, default=4, help="cameras of a scene; default: %(default)s")
    add("--pictures", type=int, nargs="*", default=[10_000, 70_000], help="2D Gaussians; default: 10000 70000")
    add("--repeats", type=int, default=40, help="timed calls of a figure, fewer where time is short; default: 40")
    add("--budget", type=float, default=200.0, help="seconds; what has not begun by then is left out; default: 200")
    add("--json", type=Path, help="file for all figures")
    add("--gsplat", type=Path, help="folder that holds the package gsplat; default: the installed one, if any")
    add("--gsplat-wait", type=float, help="seconds to wait for gsplat to compile, else it comes last; default: half")
    add("--no-gsplat", action="store_true", help="without it")
    add("--table", type=Path, metavar="FILE", help="measure nothing, print the tables of an earlier run's file")
    arguments = parser.parse_args(argv)
    for name in ("views", "repeats", *(["pictures"] if arguments.pictures else [])):
        given = getattr(arguments, name)
        if min(given if isinstance(given, list) else [given]) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.device == "cuda" and arguments.table is None:
        problem = cuda_problem(torch.device("cuda", 0))
        if problem is not None:
            parser.error(f"{problem}; or --device cpu for a dry run")
    return arguments


def describe_gpu() -> Figures:
    """What nvidia-smi says where it is there; torch knows the name."""
    properties = torch.cuda.get_device_properties(0)
    about: Figures = {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
    }
    fields = {"driver_version": "driver", "clocks.max.sm": "max_sm_clock", "power.limit": "power_limit"}
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return about
    return about | dict(zip(fields.values(), (cell.strip() for cell in said.split(",")), strict=False))


def describe(device: torch.device) -> Figures:
    built, driver = cuda_versions()
    about: Figures = dict(machine.describe())
    about |= {
        "torch_cuda": torch.version.cuda,
        "kernels_cuda": version_text(built) if built else None,
        "driver_cuda": version_text(driver) if driver else None,
        "cuda_archs": ops.cuda_archs(),
    }
    return about | (describe_gpu() if device.type == "cuda" else {})


def run_scene(run: Run, peers: gpu_peers.Peers, count: int, arguments: argparse.Namespace) -> bool:
    """Our figures of a scene, if there are none yet, and the peers'. False: those must be measured later."""
    title = f"{count:,}"
    if run.left < 2 + SECONDS_PER_MILLION * count / 1e6:
        run.missing(title, "skipped, too little time is left to make the scene")
        return True
    scenes: Figures = run.figures["scenes"]
    run.say(f"{title} Gaussians, {arguments.size[0]} x {arguments.size[1]}, {run.left:.0f} s left")
    scene = run.attempt(title, lambda: Scene(run, count, arguments.size, arguments.views))
    if scene is None:
        return True
    if title not in scenes:
        into: Figures = scenes.setdefault(title, {})
        into["while gsplat was compiled"] = not peers.ready()
        measure_scene(run, scene, into)
        run.save()
    if not peers.ready():
        return False
    scene.release_optimizer()
    for peer in peers.found:
        tidy(run.device)
        measure_into: Figures = scenes[title].setdefault("peers", {}).setdefault(peer.name, {})
        gpu_peers.measure_peer(run, scene, peer, measure_into)
        run.save()
    return True


def run_pictures(run: Run, counts: list[int]) -> None:
    for count in counts:
        title = f"{count:,}"
        run.say(f'\n{title} 2D Gaussians, {PICTURE_SIZE[0]} x {PICTURE_SIZE[1]}, blend "sum", {run.left:.0f} s left')

        def build(count: int = count) -> Picture:
            return Picture(run, count, *PICTURE_SIZE)

        picture = run.attempt(title, build)
        if picture is not None:
            measure_picture(run, picture, run.figures["pictures"].setdefault(title, {}))
            run.save()


def show_tables(figures: Figures) -> None:
    print(f"\n{target_table(figures)}\n\n{all_table(figures)}\n\n{picture_table(figures)}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.table is not None:
        show_tables(json.loads(arguments.table.read_text()))
        return
    run = Run(torch.device(arguments.device), arguments.budget, arguments.repeats, arguments.json)
    about = describe(run.device)
    run.figures |= {"machine": about, "device": arguments.device, "size": list(arguments.size), "scenes": {}}
    run.figures |= {"views": arguments.views, "repeats": arguments.repeats, "budget": arguments.budget, "pictures": {}}
    run.say(", ".join(f"{name} {value}" for name, value in about.items()))
    run.save()
    patience = arguments.budget / 2 if arguments.gsplat_wait is None else arguments.gsplat_wait
    peers = gpu_peers.Peers(run, arguments.gsplat, not arguments.no_gsplat, patience)
    try:
        counts: list[int] = arguments.counts
        later = [count for count in counts[:1] if not run_scene(run, peers, count, arguments)]
        tidy(run.device)
        run_pictures(run, arguments.pictures)
        if len(counts) > 1:
            run.say(f"\n{target_table(run.figures)}\n")
        for count in counts[1:]:
            if not run_scene(run, peers, count, arguments):
                later.append(count)
            tidy(run.device)
        peers.patience = max(run.left - 20, 0)
        if later and peers.ready():
            for count in later:
                run_scene(run, peers, count, arguments)
                tidy(run.device)
    finally:
        peers.close()
        run.save()
    show_tables(run.figures)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` stops gsplat's compilers
    main()
