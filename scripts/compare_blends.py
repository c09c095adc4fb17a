"""Sum against top-K, at equal numbers of Gaussians and at equal bytes of .s2d: PSNR, SSIM, the process's CPU seconds.

    python scripts/compare_blends.py PICTURE ... -n 2500 5000 --bpp 0.3 0.6 --max-side 512 --csv blends.csv

Pictures with a side longer than --max-side are reduced to it, by area. Prints a Markdown table; every row is one fit of
each kind, one after the other, of as many steps, from the same seed.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import splat
from splat import machine
from splat.files import atomic_write
from splat.image.canvas import OrderFree
from splat.image.codec.encode import EncodeConfig, encode_image
from splat.image.fit import STEPS, FitConfig, fit_image
from splat.image.picture import read_picture
from splat.metrics import ssim

BLENDS: tuple[OrderFree, ...] = ("sum", "topk")


@dataclass(frozen=True)
class Row:
    """One fit."""

    picture: str
    budget: str
    """N Gaussians, or bits a pixel."""
    blend: str
    n: int
    psnr: float
    ssim: float
    cpu_s: float


def reduced(pixels: Tensor, most: int) -> Tensor:
    """[H, W, D] with no side longer than `most`."""
    height, width, _ = pixels.shape
    factor = most / max(height, width)
    if factor >= 1:
        return pixels
    size = (round(height * factor), round(width * factor))
    return F.interpolate(pixels.permute(2, 0, 1)[None], size=size, mode="area")[0].permute(1, 2, 0).contiguous()


def measure(picture: str, pixels: Tensor, config: FitConfig, bpp: float | None) -> Row:
    """A fit of config.n Gaussians, or a file of `bpp` bits a pixel."""
    began = time.process_time()
    if bpp is None:
        budget, model = f"{config.n:,}", fit_image(pixels, config).model
    else:
        limit = EncodeConfig(max_bytes=int(bpp * pixels[..., 0].numel() / 8))
        budget, model = f"{bpp:g} bpp", encode_image(pixels, limit, config).model
    seconds = time.process_time() - began
    shown = model.render().clamp(0, 1)
    return Row(
        picture, budget, config.blend, len(model), splat.metrics.psnr(shown, pixels), ssim(shown, pixels), seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-n", nargs="*", type=int, default=[2500, 5000], help="Gaussians")
    parser.add_argument("--bpp", nargs="*", type=float, default=[], help="bits a pixel of .s2d files")
    parser.add_argument("--preset", choices=STEPS, default="fast")
    parser.add_argument("--topk", type=int, default=10)
    parser.add_argument("--max-side", type=int, default=1 << 14)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    print(f"{machine.describe()['processor']}, {splat.get_num_threads()} threads, preset {args.preset}\n")
    print("| picture | n or bits | sum dB | top-K dB | sum SSIM | top-K SSIM | sum CPU s | top-K CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    budgets: list[tuple[int | None, float | None]] = [(n, None) for n in args.n] + [(None, bpp) for bpp in args.bpp]
    pairs: list[list[Row]] = []
    for path in args.pictures:
        pixels = reduced(read_picture(path).pixels, args.max_side)
        for n, bpp in budgets:
            configs = [FitConfig(n=n, preset=args.preset, blend=blend, topk=args.topk) for blend in BLENDS]
            pairs.append([measure(path.stem, pixels, config, bpp) for config in configs])
            print(line(path.stem, pairs[-1:]), flush=True)
    for i in range(len(budgets)):
        print(line("**mean**", pairs[i :: len(budgets)]))
    if args.csv:
        with atomic_write(args.csv) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(pairs[0][0])))
            writer.writeheader()
            writer.writerows([asdict(row) for pair in pairs for row in pair])


def line(name: str, pairs: list[list[Row]]) -> str:
    """A row of the table, of means where there are several pairs."""
    columns = []
    for field, form in (("psnr", ".2f"), ("ssim", ".4f"), ("cpu_s", ".0f")):
        columns += [format(statistics.fmean(getattr(pair[i], field) for pair in pairs), form) for i in range(2)]
    return f"| {name} | {pairs[0][0].budget} | " + " | ".join(columns) + " |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
