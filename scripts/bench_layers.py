"""Layered fits against separate ones: the PSNR of each prefix, by how much the prefixes count in each other's training.

    python scripts/bench_layers.py photo.png ... --ends 500 2000 8000 --preset fast

Prints a Markdown table for each picture: separate fits of each size; layers of which each heeds its own prefix alone
(what comes later is fitted to what they leave); and joint training with the squared errors of the prefixes weighted by
their numbers of Gaussians to the power 0 (all alike), 1 (what `fit_image` takes) and 2.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from splat import machine
from splat.image import layered
from splat.image.fit import STEPS, FitConfig, fit_image
from splat.image.levels import draw_levels, layer_sizes
from splat.image.picture import Picture, read_picture

Weights = Callable[[Sequence[int]], list[float]]


def powers(exponent: float) -> Weights:
    """Weights of the prefixes by their sizes; -5 gives the earlier ones all the say over their Gaussians."""
    return lambda ends: [(end / ends[-1]) ** exponent for end in ends]


WAYS: dict[str, Weights | None] = {
    "separate fits": None,
    "each layer for its own prefix": powers(-5),
    "jointly, all prefixes alike": powers(0),
    "jointly, by the number of Gaussians": powers(1),
    "jointly, by its square": powers(2),
}


def psnrs_of(picture: Picture, config: FitConfig, ends: tuple[int, ...], weights: Weights | None) -> list[float]:
    """Of the prefixes of one fit with such weights; None: of separate fits of these sizes."""
    if weights is None:
        return [fit_image(picture, replace(config, n=n)).psnr for n in ends]
    with patch.object(layered, "term_weights", weights):
        model = fit_image(picture, replace(config, layers=ends)).model
    return [level.psnr or 0.0 for level, _ in draw_levels(model, layer_sizes(model), picture.pixels)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--ends", nargs="+", type=int, default=[500, 2000, 8000])
    parser.add_argument("--preset", choices=STEPS, default="fast")
    arguments = parser.parse_args()
    ends = tuple(arguments.ends)
    config = FitConfig(preset=arguments.preset)
    print(f"{machine.describe()}\n")
    for path in arguments.pictures:
        picture = read_picture(path)
        print(f"| {path.stem} | " + " | ".join(f"{end:,}" for end in ends) + " | CPU s |\n|" + "---|" * (len(ends) + 2))
        for name, weights in WAYS.items():
            began = time.process_time()
            psnrs = psnrs_of(picture, config, ends, weights)
            spent = time.process_time() - began
            print(f"| {name} | " + " | ".join(f"{psnr:.2f}" for psnr in psnrs) + f" | {spent:.0f} |", flush=True)
        print()


if __name__ == "__main__":
    main()
