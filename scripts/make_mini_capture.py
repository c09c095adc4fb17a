"""Makes scenes/saharov from the full-size capture: photos at a quarter of the size, the COLMAP model scaled to them.

python scripts/make_mini_capture.py ../shared/data/saharov32 scenes/saharov
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from splat.scene.data.colmap_files import ColmapCamera, read_model, write_model
from splat.scene.data.pixels import resize_area


def scaled(camera: ColmapCamera, width: int) -> ColmapCamera:
    """A PINHOLE camera with pictures of another width."""
    if camera.model != "PINHOLE":
        raise ValueError(f"wanted a PINHOLE model, got {camera.model}")
    height = round(camera.height * width / camera.width)
    sx, sy = width / camera.width, height / camera.height
    fx, fy, cx, cy = camera.params
    return ColmapCamera("PINHOLE", width, height, (fx * sx, fy * sy, cx * sx, cy * sy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a COLMAP project: images/ and sparse/0/")
    parser.add_argument("target", type=Path)
    parser.add_argument("--width", type=int, default=277)
    args = parser.parse_args()
    model = read_model(args.source / "sparse" / "0")
    cameras = {camera_id: scaled(camera, args.width) for camera_id, camera in model.cameras.items()}
    (args.target / "images").mkdir(parents=True, exist_ok=True)
    images = []
    for image in model.images:
        camera, full = cameras[image.camera_id], model.cameras[image.camera_id]
        with Image.open(args.source / "images" / image.name) as photo:
            pixels = resize_area(np.asarray(photo.convert("RGB")), camera.width, camera.height)
        Image.fromarray(pixels).save(args.target / "images" / image.name, "JPEG", quality=90)
        factor = camera.width / full.width, camera.height / full.height
        images.append(replace(image, keypoints=image.keypoints * factor))
    write_model(args.target / "sparse" / "0", replace(model, cameras=cameras, images=tuple(images)))


if __name__ == "__main__":
    main()
