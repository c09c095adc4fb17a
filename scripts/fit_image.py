"""Fits a picture with the library's API: python scripts/fit_image.py photo.jpg 10000 fitted.png"""

from __future__ import annotations

import sys
from pathlib import Path

import splat
from splat.image.picture import read_picture, write_picture


def show(progress: splat.FitProgress) -> None:
    if progress.step % 50 == 0:
        print(f"step {progress.step:5d}  {progress.n:,} Gaussians  {progress.psnr:.2f} dB", flush=True)


def main(photo: str, count: str, output: str) -> None:
    picture = read_picture(Path(photo))
    result = splat.fit_image(picture, splat.FitConfig(n=int(count)), callback=show)
    print(f"{result.psnr:.2f} dB")
    write_picture(output, result.model.render(), picture.layout)
    result.model.save(Path(output).with_suffix(".safetensors"))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
