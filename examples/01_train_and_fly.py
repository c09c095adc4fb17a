"""Trains the bundled capture with a loop of your own and flies through it.

python examples/01_train_and_fly.py out/fly.webp 1500
"""

from __future__ import annotations

import sys
from pathlib import Path

import splat
from splat.scene.data import PhotoCache
from splat.scene.gallery import rendered_frames, training_cameras
from splat.scene.paths import fly_through
from splat.scene.video import write_video

CAPTURE = Path(__file__).parents[1] / "scenes" / "saharov"


def main(video: str = "out/fly.webp", steps: str = "1500") -> None:
    capture = splat.load_capture(CAPTURE)
    with PhotoCache(capture.views) as photos:
        trainer = splat.Trainer(capture, photos, splat.TrainConfig(steps=int(steps), max_gaussians=15_000))
        while not trainer.done:
            step = trainer.step()
            if trainer.images % 100 == 0:
                print(f"{trainer.images:5d} images  loss {float(step.loss):.4f}  {len(trainer.gaussians):,} Gaussians")
    world = capture.normalisation.gaussians_to_world(trainer.gaussians)
    path = fly_through(training_cameras(capture), 120)
    Path(video).parent.mkdir(parents=True, exist_ok=True)
    write_video(video, rendered_frames(world, path, trainer.objective.background.still()), format="webp")
    print(f"see {video}")


if __name__ == "__main__":
    main(*sys.argv[1:])
