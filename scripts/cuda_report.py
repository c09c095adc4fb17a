"""What each CUDA kernel needs: registers, spills, stack, shared memory, and how many of its blocks an SM can hold.

    python scripts/cuda_report.py                # every file of cuda_ext/cuda, for sm_90; nvcc, but no GPU and no torch
    python scripts/cuda_report.py --arch 86 --all
    python scripts/cuda_report.py --check        # exit status 1 where a kernel of ours spills

The occupancy is the theoretical one, with all of an SM's shared memory at hand: what a launch reaches at best.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.resolve()
NVCC = os.environ.get("NVCC", "nvcc")
BLENDS = ("alpha", "sum", "topk")  # enum class Blend

USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


class Multiprocessor(NamedTuple):
    threads: int
    blocks: int
    shared_kb: int


# By architecture, from cuda_occupancy.h. All of them have 64 K registers in four parts.
MULTIPROCESSORS = {
    "80": Multiprocessor(2048, 32, 164),
    "86": Multiprocessor(1536, 16, 100),
    "89": Multiprocessor(1536, 24, 100),
    "90": Multiprocessor(2048, 32, 228),
    "100": Multiprocessor(2048, 32, 228),
    "120": Multiprocessor(1536, 24, 100),
}


@dataclass
class Kernel:
    symbol: str
    registers: int
    shared: int  # bytes, static: no launch of ours asks for more
    stack: int  # bytes, as are the next two; the functions that the kernel calls are counted with it
    spill_stores: int
    spill_loads: int
    bounds: int | None = None  # threads of a block, None without __launch_bounds__
    name: str = ""

    @property
    def threads(self) -> int:
        return self.bounds or 256

    @property
    def of_cub(self) -> bool:
        return self.symbol.startswith("_ZN3cub")

    @property
    def spill(self) -> int:
        return max(self.spill_stores, self.spill_loads)


def setup_constant(name: str) -> Any:
    """A literal of setup.py, which cannot be imported: it would build."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"setup.py has no {name}")


def parse_report(report: str) -> list[Kernel]:
    """The kernels of `ptxas -v`'s output."""
    kernels = []
    for part in report.split("Compiling entry function '")[1:]:
        symbol = part.partition("'")[0]
        used, frames = USED.search(part), FRAME.findall(part)
        if used is None or not frames:
            raise ValueError(f"ptxas says nothing of {symbol} that this script understands")
        stack, stores, loads = (sum(map(int, column)) for column in zip(*frames, strict=True))
        kernels.append(Kernel(symbol, int(used[1]), int(used[2] or 0), stack, stores, loads))
    return kernels


def parse_bounds(ptx: str) -> dict[str, int | None]:
    """Threads of a block for each kernel of a PTX file; ptxas does not print them."""
    bounds: dict[str, int | None] = {}
    for symbol, head in re.findall(r"\.entry\s+(\w+)\((.*?)\{", ptx, re.DOTALL):
        given = re.search(r"\.(?:max|req)ntid\s+([\d, ]+)", head)
        bounds[symbol] = math.prod(map(int, given[1].split(","))) if given else None
    return bounds


def short_name(demangled: str) -> str:
    """`void splat::cuda::(anonymous namespace)::f<(splat::Blend)0, 3>(Params)` -> `f<alpha, 3>`."""
    text = re.sub(r"\(anonymous namespace\)::|\w+::", "", demangled)
    text = re.sub(r"\(Blend\)([0-2])", lambda found: BLENDS[int(found[1])], text)
    found = re.match(r"(?:void )?(\w+)(<.*?>)?\(", text)
    if found is None:
        return text
    return found[1] + (found[2] or "")


def name_kernels(kernels: list[Kernel]) -> None:
    if not kernels:
        return
    symbols = "\n".join(k.symbol for k in kernels)
    names = subprocess.run(["c++filt"], input=symbols, capture_output=True, text=True, check=True).stdout.splitlines()
    for kernel, demangled in zip(kernels, names, strict=True):
        # What CUB's are instantiated with would fill lines.
        kernel.name = f"cub: {short_name(demangled).partition('<')[0]}" if kernel.of_cub else short_name(demangled)


def compile_file(source: Path, arch: str, folder: Path) -> list[Kernel]:
    flags = [*setup_constant("NVCC_FLAGS"), *setup_constant("NVCC_EXTRA").get(source.name, [])]
    flags += [f"-arch=sm_{arch}", "-Xptxas", "-v", "--keep", "--keep-dir", str(folder)]
    command = [NVCC, *flags, "-cubin", "-o", str(folder / f"{source.stem}.cubin"), str(source)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    said = [line for line in done.stderr.splitlines() if not (line.startswith("ptxas info") or FRAME.search(line))]
    if said:
        print("\n".join(said), file=sys.stderr)  # warnings
    kernels = parse_report(done.stderr)
    bounds = parse_bounds((folder / f"{source.stem}.ptx").read_text())
    if {k.symbol for k in kernels} != bounds.keys():  # else a new wording of ptxas would pass every check
        raise ValueError(f"{source.name}: ptxas reports {len(kernels)} kernels, the PTX has {len(bounds)}")
    for kernel in kernels:
        kernel.bounds = bounds[kernel.symbol]
    name_kernels(kernels)
    return sorted(kernels, key=lambda k: k.name)


def round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step


def resident_blocks(kernel: Kernel, sm: Multiprocessor) -> tuple[int, str]:
    """Blocks that fit an SM, and what allows no more; the rules of cuda_occupancy.h."""
    warps = (kernel.threads + 31) // 32
    limits = {
        "threads": sm.threads // 32 // warps,
        "blocks": sm.blocks,
        "registers": 4 * (16384 // round_up(32 * kernel.registers, 256)) // warps,
        "shared": 1024 * sm.shared_kb // round_up(kernel.shared + 1024, 128),  # 1 KB of each block is the driver's
    }
    limit = min(limits, key=lambda name: limits[name])
    return limits[limit], limit


def spilling(kernels: list[Kernel]) -> list[Kernel]:
    """Those of ours. CUB's are what they are."""
    return [k for k in kernels if k.spill and not k.of_cub]


def row(kernel: Kernel, sm: Multiprocessor) -> str:
    blocks, limit = resident_blocks(kernel, sm)
    occupancy = 100 * blocks * round_up(kernel.threads, 32) // sm.threads
    spill = f"{kernel.spill_stores}/{kernel.spill_loads}" if kernel.spill else "-"
    threads = f"{kernel.threads}{' ' if kernel.bounds else '?'}"
    mark = "  SPILLS" if kernel.spill else ""
    return (
        f"  {kernel.name:<38} {kernel.registers:>5} {kernel.stack or '-':>6} {spill:>7} {kernel.shared or '-':>7}"
        f" {threads:>8} {blocks:>7} {occupancy:>5} %  {limit:<9}{mark}"
    ).rstrip()


def show(files: dict[str, list[Kernel]], arch: str, everything: bool) -> None:
    sm = MULTIPROCESSORS[arch]
    limits = f"{sm.threads} threads, {sm.blocks} blocks, 64 K registers, {sm.shared_kb} KB shared memory"
    print(f"An SM of sm_{arch} has {limits}.\n")
    heads = f"{'regs':>5} {'stack':>6} {'spill':>7} {'shared':>7} {'threads':>8} {'blocks':>7} {'occup.':>7}  limit"
    print(f"  {'':<38} {heads}")
    for file, kernels in files.items():
        if not kernels:
            continue
        print(file)
        for kernel in kernels:
            if everything or not kernel.of_cub:
                print(row(kernel, sm))
        cub = [k for k in kernels if k.of_cub]
        if cub and not everything:
            most, spilling = max(k.registers for k in cub), sum(k.spill > 0 for k in cub)
            print(f"  {len(cub)} kernels of CUB: up to {most} registers, {spilling or 'none'} spilling (see --all)")
    print(
        "\nSizes are in bytes. spill: stored/loaded, each instruction counted once. ?: no launch bounds, 256 assumed."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", choices=MULTIPROCESSORS, help="architecture, default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files at a time, default: %(default)s")
    parser.add_argument("--all", action="store_true", help="CUB's kernels one by one too")
    parser.add_argument("--check", action="store_true", help="fail where a kernel of ours spills")
    return parser.parse_args()


def main() -> int:
    a = arguments()
    for tool in (NVCC, "c++filt"):
        if shutil.which(tool) is None:
            hint = " (NVCC=... names another)" if tool == NVCC else ""
            print(f"cuda_report: {tool} not found{hint}", file=sys.stderr)
            return 2
    sources = sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))
    try:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(a.jobs, 1)) as pool:
            reports = list(pool.map(lambda source: compile_file(source, a.arch, Path(folder)), sources))
    except (RuntimeError, ValueError) as error:
        print(f"cuda_report: {error}", file=sys.stderr)
        return 1
    show({s.name: kernels for s, kernels in zip(sources, reports, strict=True)}, a.arch, a.all)
    bad = spilling([k for kernels in reports for k in kernels]) if a.check else []
    for k in bad:
        print(f"cuda_report: {k.name} spills {k.spill} bytes", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
