"""Measures scene training: one step and its parts, memory, what minutes buy, and gsplat's schedule beside ours.

    python scripts/bench_train.py step memory                          # on the bundled capture
    python scripts/bench_train.py scene --data saharov32 --downscale 2 --minutes 10 -o out/bench
    python scripts/bench_train.py schedule --data lego400 --downscale 2 --steps 2000     # wants gsplat 1.5.3

Process CPU seconds (user + system of all threads) stand beside wall seconds. On a shared machine compare ratios of one
run, not seconds of two.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from gsplat_schedule import train_with_gsplat

from splat import machine
from splat.core.ops import one_torch_thread
from splat.core.random import Purpose, normal
from splat.scene.config import ScheduleConfig, StartConfig, TrainConfig
from splat.scene.data import Capture, DataOptions, PhotoCache, load_capture
from splat.scene.evaluate import EvaluateOptions, evaluate
from splat.scene.profile import StepProfile
from splat.scene.results import ResultOptions, write_results
from splat.scene.run import Run, RunOptions, RunStatus
from splat.scene.train import Trainer

BUNDLED = Path(__file__).parent.parent / "scenes" / "saharov"


@contextmanager
def loaded(args: argparse.Namespace) -> Iterator[tuple[Capture, PhotoCache]]:
    capture = load_capture(args.data, DataOptions(downscale=args.downscale))
    with PhotoCache(capture.views) as photos:
        yield capture, photos


def resident() -> float:
    """Memory of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def bench_step(args: argparse.Namespace) -> None:
    """A step at 494 x 370 with 25,000 Gaussians, mid-run, by its parts."""
    capture = load_capture(args.data, DataOptions(downscale=1))
    width, height, count = 494, 370, 25_000
    views = []
    for view in capture.views:  # pictures of the wanted size: resampled cameras, and noise-free photographs of them
        scale = torch.tensor([width / view.width, height / view.height, 1.0])
        views.append(replace(view, K=scale[:, None] * view.K, width=width, height=height))
    sized = replace(capture, views=tuple(views))
    with PhotoCache(capture.views) as photos:
        resized = _Resized(photos, width, height)
        for strategy in ("mcmc", "default"):
            config = TrainConfig(
                steps=1000,
                strategy=strategy,
                max_gaussians=count,
                schedule=ScheduleConfig(coarse=0, harmonics_until=0.0, refine_every=10**9),
                start=StartConfig(dense=0),
            )
            trainer = Trainer(sized, resized, config, gaussians=_filled(sized, photos, config, count))
            trainer.images = 500
            with one_torch_thread():
                for _ in range(10):
                    trainer.step()
                cpu, wall = [], []
                for _ in range(100):
                    c, w = time.process_time(), time.perf_counter()
                    trainer.step()
                    cpu.append(time.process_time() - c)
                    wall.append(time.perf_counter() - w)
                profile = StepProfile()
                for _ in range(50):
                    with profile.step():
                        trainer.step()
            medians = [1e3 * statistics.median(times) for times in (cpu, wall)]
            print(f"step {width} x {height}, {count:,} Gaussians, {strategy}:")
            print("    median {:.1f} ms CPU, {:.1f} ms wall".format(*medians))
            whole = sum(profile.seconds().values())
            for stage, seconds in profile.seconds().items():
                print(f"    {stage:<26} {1e3 * seconds:6.2f} ms wall  {100 * seconds / whole:5.1f} %")


class _Resized:
    """Photographs stretched to one size."""

    def __init__(self, photos: PhotoCache, width: int, height: int) -> None:
        self.photos, self.size = photos, (height, width)
        self.kept: dict[int, object] = {}

    def expect(self, rows: object, halvings: int = 0) -> None:
        pass

    def get(self, row: int, halvings: int = 0) -> object:
        if row not in self.kept:
            photo = self.photos.get(row)
            pixels = photo.rgb.permute(2, 0, 1)[None].float()
            stretched = torch.nn.functional.interpolate(pixels, size=self.size, mode="bilinear")[0].permute(1, 2, 0)
            self.kept[row] = replace(photo, rgb=stretched.round().to(torch.uint8).contiguous())
        return self.kept[row]


def _filled(capture: Capture, photos: PhotoCache, config: TrainConfig, count: int):
    """`count` Gaussians: the dense start, drawn from as often as it takes, and moved a little."""
    from splat.scene.start import start

    first = start(capture, photos, replace(config, start=StartConfig(dense=0.8)))
    rows = torch.arange(count) % len(first)
    made = first.select(rows)
    again = (torch.arange(count) >= len(first))[:, None]
    return replace(made, means=made.means + again * made.scales * normal(0, 0, Purpose.NOISE, torch.arange(count), 3))


def bench_memory(args: argparse.Namespace) -> None:
    """Resident memory over 2,000 steps with densification to a fixed count."""
    with loaded(args) as (capture, photos):
        config = TrainConfig(steps=2_400, max_gaussians=15_000, schedule=ScheduleConfig(coarse=0))
        trainer = Trainer(capture, photos, config)
        trace = []
        while trainer.images < 2_400:
            trainer.step()
            if trainer.images in (400, 1_400) or trainer.images == 2_400:
                gc.collect()
                trace.append((trainer.images, len(trainer.gaussians), resident()))
        for images, count, megabytes in trace:
            print(f"after {images:5,} images: {count:,} Gaussians, {megabytes:.0f} MiB resident")


def bench_scene(args: argparse.Namespace) -> None:
    """What some minutes buy on a capture, with everything that a run leaves in the folder."""
    config = TrainConfig(time=60 * args.minutes, strategy=args.strategy, max_gaussians=args.max_gaussians)
    with loaded(args) as (capture, photos):
        cpu, wall = time.process_time(), time.perf_counter()
        trainer = Trainer(capture, photos, config)
        begun = time.perf_counter() - wall
        run = Run(trainer, args.output, RunOptions(checkpoint_every=10**9))
        run.train(_tell)
        spent = time.perf_counter() - wall
        cpu = time.process_time() - cpu
        metrics = write_results(run, ResultOptions(formats=("ply", "spz", "sog"), title=Path(args.data).name))
    print(
        f"{Path(args.data).name}: {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f} on {metrics['views']} views; "
        f"{metrics['gaussians']:,} Gaussians, {trainer.images:,} images, {spent:.0f} s wall (start {begun:.1f} s), "
        f"{cpu:.0f} s CPU, {trainer.images / spent:.1f} images/s"
    )
    for row in run.history:
        print(f"    {row['seconds']:6.0f} s  {row['images']:7,} images  {row['n']:7,} Gaussians  {row['psnr']:.2f} dB")
    print("    step: " + ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in metrics["step_seconds"].items()))


def _tell(status: RunStatus) -> None:
    t = status.trainer
    if t.images % 500 == 0:
        print(f"    {t.images:,} images, {t.seconds:.0f} s, loss {status.loss:.4f}", flush=True)


def bench_schedule(args: argparse.Namespace) -> None:
    """gsplat's strategy classes and torch's Adam beside our trainer: same start, same steps, same schedule."""
    with loaded(args) as (capture, photos):
        background = torch.ones(3) if capture.has_alpha else torch.zeros(3)
        for strategy in ("default", "mcmc"):
            config = TrainConfig(
                steps=args.steps,
                strategy=strategy,
                max_gaussians=args.max_gaussians or 30_000,
                schedule=ScheduleConfig(coarse=0, harmonics_until=0.15),
                start=StartConfig(dense=0),
                loss=replace(TrainConfig().loss, background="white" if capture.has_alpha else "black"),
            )
            trainer = Trainer(capture, photos, config)
            start = trainer.gaussians.map(torch.clone)  # training moves them in place
            clock = time.process_time()
            while not trainer.done:
                trainer.step()
            ours = trainer.gaussians, time.process_time() - clock
            clock = time.process_time()
            theirs = train_with_gsplat(start, capture, photos, config, background), time.process_time() - clock
            for name, (gaussians, cpu) in {"splat": ours, "gsplat's classes": theirs}.items():
                score = evaluate(
                    gaussians,
                    capture,
                    capture.test,
                    photos,
                    background=background,
                    options=EvaluateOptions(flip=False, lpips=False),
                )
                what = f"{score.psnr:.2f} dB  SSIM {score.ssim:.4f}  {len(gaussians):,} Gaussians"
                print(f"{strategy:<8} {name:<18} {what}  {args.steps:,} images  {cpu:.0f} s CPU", flush=True)


SECTIONS = {"step": bench_step, "memory": bench_memory, "scene": bench_scene, "schedule": bench_schedule}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], default=["step", "memory"], metavar="section")
    parser.add_argument("--data", type=Path, default=BUNDLED, help="a data set (default: the bundled capture)")
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10, help="of the section scene")
    parser.add_argument("--steps", type=int, default=2_000, help="of the section schedule")
    parser.add_argument("--strategy", choices=("mcmc", "default"), default="mcmc")
    parser.add_argument("--max-gaussians", type=int)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/bench-train"))
    args = parser.parse_args()
    print(json.dumps(machine.describe()))
    for name in args.sections:
        SECTIONS[name](args)


if __name__ == "__main__":
    main()
