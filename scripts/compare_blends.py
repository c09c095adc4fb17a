"""Sum against top-K at equal numbers of Gaussians and of steps: PSNR, SSIM, and the process's CPU seconds.

    python scripts/compare_blends.py PICTURE ... -n 2500 5000 --preset fast --max-side 512 --csv blends.csv

Pictures with a side longer than --max-side are reduced to it, by area. Prints a markdown table; every row is one fit of
each kind, one after the other, from the same seed.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import splat
from splat import machine
from splat.files import atomic_write
from splat.image.canvas import OrderFree
from splat.image.fit import STEPS, FitConfig, fit_image
from splat.image.picture import read_picture
from splat.metrics import ssim

BLENDS: tuple[OrderFree, ...] = ("sum", "topk")
Row = dict[str, str | int | float]


def reduced(pixels: Tensor, most: int) -> Tensor:
    """[H, W, D] with no side longer than `most`."""
    height, width, _ = pixels.shape
    factor = most / max(height, width)
    if factor >= 1:
        return pixels
    size = (round(height * factor), round(width * factor))
    return F.interpolate(pixels.permute(2, 0, 1)[None], size=size, mode="area")[0].permute(1, 2, 0).contiguous()


def measure(name: str, pixels: Tensor, blend: OrderFree, config: FitConfig) -> Row:
    """One fit."""
    began = time.process_time()
    result = fit_image(pixels, config)
    seconds = time.process_time() - began
    steps = int(result.history[-1]["step"])
    shown = result.model.render().clamp(0, 1)
    row: Row = {"picture": name, "n": len(result.model), "blend": blend, "psnr": result.psnr}
    return row | {"ssim": ssim(shown, pixels), "cpu_s": seconds, "steps": steps, "ms_a_step": 1000 * seconds / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-n", nargs="+", type=int, default=[2500, 5000])
    parser.add_argument("--preset", choices=STEPS, default="fast")
    parser.add_argument("--topk", type=int, default=10)
    parser.add_argument("--max-side", type=int, default=1 << 14)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    print(f"{machine.describe()['processor']}, {splat.get_num_threads()} threads, preset {args.preset}\n")
    print("| picture | n | sum dB | top-K dB | sum SSIM | top-K SSIM | sum CPU s | top-K CPU s | ms a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for path in args.pictures:
        pixels = reduced(read_picture(path).pixels, args.max_side)
        for n in args.n:
            both = []
            for blend in BLENDS:
                config = FitConfig(n=n, preset=args.preset, blend=blend, topk=args.topk)
                both.append(measure(path.stem, pixels, blend, config))
            rows += both
            print(line(path.stem, n, both), flush=True)
    for n in args.n:
        chosen = [[r for r in rows if r["blend"] == blend][args.n.index(n) :: len(args.n)] for blend in BLENDS]
        print(line("**mean**", n, [{key: mean(r, key) for key in r[0]} for r in chosen]))
    if args.csv:
        with atomic_write(args.csv) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def mean(rows: list[Row], key: str) -> float:
    values = [row[key] for row in rows]
    return math.fsum(v for v in values if not isinstance(v, str)) / len(values)


def line(name: str, n: int, both: list[Row] | list[dict[str, float]]) -> str:
    columns = [f"{row['psnr']:.2f}" for row in both] + [f"{row['ssim']:.4f}" for row in both]
    columns += [f"{row['cpu_s']:.0f}" for row in both] + [" / ".join(f"{row['ms_a_step']:.0f}" for row in both)]
    return f"| {name} | {n:,} | " + " | ".join(columns) + " |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
