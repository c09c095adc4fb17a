"""Rate-distortion curves of picture codecs on a folder of pictures: real files, their bytes, PSNR, MS-SSIM, times.

    python scripts/bench_rd.py                                    # every codec that is there, all pictures
    python scripts/bench_rd.py --codecs JPEG AVIF --limit 4 --rates .15 .5 --jobs 2
    python scripts/bench_rd.py --fresh -o out/rd

Each codec gets a budget of bytes for each picture and rate (bits per pixel), and comes as near to it as it can from
below. PSNR is over RGB of the decoded 8-bit picture. The rows go to rd.csv as they come: a run that is cut off goes on
from there, and a row is made again only with --fresh or where an encoder's fixed settings have changed. rd-psnr and
rd-ms-ssim (.png, .svg) show the means over the pictures; where those are all 24 of Kodak, with points that others have
published.

Times are of one encoding and one decoding: wall seconds, and CPU seconds of the process. Compare wall seconds only of
runs with --jobs 1. BD-rates are of the mean curves; those against GaussianImage++ use its two published points, between
which the log of the rate is taken to be a straight line in PSNR.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from rd_codecs import CODECS, read_rgb, timed
from rd_curves import PUBLISHED, bd_rate, mean_curve
from rd_plot import Series, plot

import splat
from splat import machine
from splat.cli.shared import progress
from splat.files import atomic_write
from splat.metrics import MAX_PSNR, ms_ssim, psnr
from splat.stop import deferred_stop

ROOT = Path(__file__).parent.parent
KODAK = ROOT.parent / "shared" / "data" / "kodak24"
KODAK_PICTURES = {f"kodim{i:02}.png" for i in range(1, 25)}
RATES = (0.15, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Task:
    """A picture to be coded."""

    path: Path
    codec: str
    rate: float
    """Bits per pixel."""

    @property
    def key(self) -> tuple[str, str, str, float]:
        """What a row is known by."""
        return self.path.name, self.codec, CODECS[self.codec].about, self.rate


@dataclass(frozen=True)
class Row:
    """What came of it; a line of the CSV."""

    picture: str
    codec: str
    encoder: str
    rate: float
    """Asked for, bits per pixel."""
    setting: str
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    encode_cpu_s: float
    decode_s: float
    decode_cpu_s: float

    @property
    def key(self) -> tuple[str, str, str, float]:
        """As Task's."""
        return self.picture, self.codec, self.encoder, self.rate


def measure(task: Task) -> Row:
    """Encodes, decodes and compares."""
    picture, codec = read_rgb(task.path), CODECS[task.codec]
    pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
    encoded = codec.encode(picture, int(task.rate * pixels / 8))
    with timed() as decoding:
        decoded = codec.decode(encoded.data)
    return Row(
        *task.key,
        encoded.setting,
        len(encoded.data),
        round(8 * len(encoded.data) / pixels, 5),
        round(min(MAX_PSNR, psnr(decoded, picture.pixels)), 4),
        round(ms_ssim(decoded, picture.pixels), 6),
        *(round(s, 4) for spent in (encoded.seconds, decoding) for s in (spent.wall, spent.cpu)),
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that `write_rows` wrote; none where there is no file."""
    if not path.exists():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Row)}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise ValueError(f"{path}: not a table of this script, or of an older one; use --fresh or another folder")
        return [Row(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in reader]


def write_rows(path: Path, rows: list[Row]) -> None:
    """All rows, sorted."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.key))


def _start_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    splat.set_num_threads(threads)
    torch.set_num_threads(threads)


def run(tasks: list[Task], jobs: int, stopped: Callable[[], bool]) -> Iterator[Row]:
    """The rows of the tasks, as they come. A task that fails is told and left out."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (threads,)) as pool:
        names = {pool.submit(measure, task): task for task in tasks}
        waiting: set[Future[Row]] = set(names)
        try:
            while waiting and not stopped():
                done, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                for future in done:
                    if error := future.exception():
                        print(f"{' '.join(map(str, names[future].key))}: {error}", file=sys.stderr)
                    else:
                        yield future.result()
        finally:
            # Stopped, or whoever takes the rows has failed: no row is waited for. Without workers the pool gives up
            # what is left; cancelled futures would break its own clearing up (CPython 3.11).
            if waiting:
                for process in multiprocessing.active_children():
                    process.terminate()


def curves(rows: list[Row], measure: str) -> dict[str, list[tuple[float, float]]]:
    """The mean curve of each codec over the pictures that have all its rates; `measure` is psnr or ms_ssim."""
    found = {}
    for codec in dict.fromkeys(row.codec for row in rows):
        own = [row for row in rows if row.codec == codec]
        rates = sorted({row.rate for row in own})
        by_picture = {p: [r for r in own if r.picture == p] for p in dict.fromkeys(row.picture for row in own)}
        whole = [sorted(p, key=lambda r: r.rate) for p in by_picture.values() if len(p) == len(rates)]
        if whole:
            found[codec] = mean_curve([[(row.bpp, getattr(row, measure)) for row in p] for p in whole])
    return found


def show_table(rows: list[Row]) -> None:
    """A line for each codec and rate, Markdown."""
    print("| codec | rate | pictures | bpp | PSNR dB | MS-SSIM | over budget | encode s (CPU) | decode s (CPU) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for codec, rate in dict.fromkeys((row.codec, row.rate) for row in rows):
        own = [row for row in rows if (row.codec, row.rate) == (codec, rate)]
        mean = {
            name: sum(getattr(row, name) for row in own) / len(own)
            for name in ("bpp", "psnr", "ms_ssim", "encode_s", "encode_cpu_s", "decode_s", "decode_cpu_s")
        }
        over = sum(row.bpp > rate for row in own)
        print(
            f"| {codec} | {rate:g} | {len(own)} | {mean['bpp']:.4f} | {mean['psnr']:.2f} | {mean['ms_ssim']:.4f} "
            f"| {over or ''} | {mean['encode_s']:.3f} ({mean['encode_cpu_s']:.3f}) "
            f"| {mean['decode_s']:.3f} ({mean['decode_cpu_s']:.3f}) |"
        )
    for codec in dict.fromkeys(row.codec for row in rows):
        print(f"\n{codec}: {CODECS[codec].about}", end="")
    print()


def show_bd_rates(rows: list[Row], test: str) -> None:
    """BD-rates of a codec against all others on the same pictures, and against the published curves."""
    pictures = {row.picture for row in rows if row.codec == test}
    print(f"\n| {test} against | BD-rate, PSNR | BD-rate, MS-SSIM | pictures |\n|---|---|---|---|")
    for anchor in dict.fromkeys(row.codec for row in rows if row.codec != test):
        shared = pictures & {row.picture for row in rows if row.codec == anchor}
        both = [row for row in rows if row.codec in (test, anchor) and row.picture in shared]
        found = [(c.get(anchor, []), c.get(test, [])) for c in (curves(both, "psnr"), curves(both, "ms_ssim"))]
        print(f"| {anchor} | {' | '.join(_percent(*pair) for pair in found)} | {len(shared)} |")
    own = [row for row in rows if row.codec == test]
    for anchor, points in _published(own).items():
        by_psnr = _percent([(bpp, value) for bpp, value, _ in points], curves(rows, "psnr").get(test, []))
        print(f"| {anchor} | {by_psnr} | | {len(pictures)} |")


def _percent(anchor: list[tuple[float, float]], test: list[tuple[float, float]]) -> str:
    try:
        found = bd_rate(anchor, test)
    except ValueError as error:
        return str(error)
    return "no quality in common" if found is None else f"{found:+.1f} %"


def show_plots(rows: list[Row], folder: Path) -> None:
    """rd-psnr and rd-ms-ssim, .png and .svg."""
    for measure, label, place in (("psnr", "PSNR, dB", 1), ("ms_ssim", "MS-SSIM", 2)):
        series = [Series(codec, tuple(points)) for codec, points in curves(rows, measure).items()]
        for name, published in _published(rows).items():
            points = tuple((p[0], value) for p in published if (value := p[place]) is not None)
            if points:
                series.append(Series(name, points, line=False))
        plot(series, ("bits per pixel", label), folder / f"rd-{measure.replace('_', '-')}")


def _published(rows: list[Row]) -> dict[str, list[tuple[float, float, float | None]]]:
    """What others have published of these pictures, which must be all that they took: means of a few compare with
    nothing."""
    return PUBLISHED if {row.picture for row in rows} == KODAK_PICTURES else {}


def parse() -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = KODAK if KODAK.is_dir() else ROOT / "scenes" / "photos"
    parser.add_argument("--pictures", type=Path, default=default, help=f"folder (default: {default})")
    parser.add_argument("--limit", type=int, help="first pictures of the folder only")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="bits per pixel")
    parser.add_argument("--codecs", nargs="+", choices=CODECS, help="default: all that are there")
    parser.add_argument("--test", choices=CODECS, help="whose BD-rates are told (default: ours, else GaussianImage)")
    parser.add_argument("--jobs", type=int, default=1, help="pictures at a time")
    parser.add_argument("--fresh", action="store_true", help="make the rows asked for again")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/rd"))
    args = parser.parse_args()
    if not args.pictures.is_dir():
        parser.error(f"--pictures must be a folder, got {args.pictures}")
    args.paths = sorted(p for p in args.pictures.iterdir() if p.suffix.lower() in (".png", ".webp"))[: args.limit]
    if not args.paths:
        parser.error(f"--pictures must hold .png or .webp pictures, {args.pictures} has none")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be 1 or more, got {args.limit}")
    if not all(0 < rate <= 24 for rate in args.rates) or args.jobs < 1:
        parser.error(f"--rates must be in 0 .. 24 and --jobs 1 or more, got {args.rates} and {args.jobs}")
    for name in args.codecs or ():
        if not CODECS[name].present():
            parser.error(f"--codecs: {name} is not in this installation")
    return args


def main() -> int:
    """130 after Ctrl-C or SIGTERM, 1 where a task failed."""
    args = parse()
    print(json.dumps(machine.describe()) + "\n")
    codecs = args.codecs or [name for name, codec in CODECS.items() if codec.present()]
    tasks = [Task(path, codec, rate) for path in args.paths for codec in codecs for rate in args.rates]
    args.output.mkdir(parents=True, exist_ok=True)
    table = args.output / "rd.csv"
    asked = {task.key for task in tasks}
    rows = read_rows(table)
    if args.fresh:
        rows = [row for row in rows if row.key not in asked]
    made = {row.key for row in rows}
    missing = [task for task in tasks if task.key not in made]
    with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop, progress("coding", len(missing), quiet=False) as advance:
        for row in run(missing, args.jobs, lambda: stop.requested):
            rows.append(row)
            write_rows(table, rows)
            advance()
    shown = [row for name in CODECS for row in rows if row.codec == name and row.key in asked]
    if shown:
        shown.sort(key=lambda row: (list(CODECS).index(row.codec), row.rate, row.picture))
        show_table(shown)
        present = {row.codec for row in shown}
        test = args.test or next((name for name in ("ours", "GaussianImage profile") if name in present), None)
        if test in present:
            show_bd_rates(shown, test)
        show_plots(shown, args.output)
        print(f"\n{args.output}/  rd.csv  rd-psnr.png  rd-psnr.svg  rd-ms-ssim.png  rd-ms-ssim.svg")
    return 130 if stop.requested else int(len(shown) < len(tasks))


if __name__ == "__main__":
    sys.exit(main())
