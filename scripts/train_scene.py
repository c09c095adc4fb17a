"""Trains a scene with the library's API: python scripts/train_scene.py scenes/saharov out 2000"""

from __future__ import annotations

import sys

import splat
from splat.scene.data import PhotoCache, load_capture
from splat.scene.results import write_results
from splat.scene.run import Run, RunStatus


def show(status: RunStatus) -> None:
    t = status.trainer
    if t.images % 100 == 0:
        print(f"{t.images:6,} images  loss {status.loss:.4f}  {len(t.gaussians):,} Gaussians", flush=True)


def main(data: str, output: str, steps: str) -> None:
    capture = load_capture(data)
    with PhotoCache(capture.views) as photos:
        trainer = splat.Trainer(capture, photos, splat.TrainConfig(steps=int(steps)))
        run = Run(trainer, output)
        run.train(show)
        metrics = write_results(run)
    print(f"{metrics['psnr']:.2f} dB on {metrics['views']} views; see {output}/report.html")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
