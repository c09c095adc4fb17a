"""Measures the CPU backend against what a torch user can do today, and prints the machine beside it.

    python scripts/bench.py                       # all sections that need no data from outside
    python scripts/bench.py garden --garden FILE  # gsplat's test scene (assets/test_garden.npz of gsplat's repository)
    python scripts/bench.py fit --kodak FOLDER --n 10000 --time 20

Times are process CPU milliseconds (user + system of all threads) beside wall milliseconds, medians. On a shared machine
compare ratios of one run, not milliseconds of two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peers import gsplat_reference, patch_step
from torch import Tensor

import splat
import splat.image.picture
from splat import machine
from splat.core.binning import bin_splats
from splat.core.ops import one_torch_thread
from splat.core.project import project
from splat.core.rasterize import rasterize
from splat.core.reference.ssim import ssim_maps
from splat.core.sh import sh_colors
from splat.image.codec.range_coder import RangeDecoder, RangeEncoder
from splat.image.fit import FitConfig, fit_image
from splat.image.fitter import Fit, Plan
from splat.image.init import structure_tensor
from splat.image.layout import RGB
from splat.image.objective import Objective
from splat.loss import photometric_loss
from splat.metrics import ms_ssim, psnr
from splat.rendering import Rendered

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim05.png"


def measure(function: Callable[[], object], repeats: int = 21) -> tuple[float, float]:
    """Median CPU and wall milliseconds, after a few calls that bring memory in."""
    for _ in range(min(repeats, 5)):
        function()
    cpu, wall = [], []
    for _ in range(repeats):
        c, w = time.process_time(), time.perf_counter()
        function()
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    return 1e3 * statistics.median(cpu), 1e3 * statistics.median(wall)


def show(name: str, times: tuple[float, float], note: str = "") -> None:
    print(f"  {name:<52} {times[0]:8.2f} ms CPU {times[1]:8.2f} ms wall  {note}", flush=True)


def show_machine() -> None:
    about = machine.describe()
    print(", ".join(f"{name} {value}" for name, value in about.items()) + f", load {os.getloadavg()[0]:.1f}\n")


def garden(path: Path) -> None:
    """gsplat's test scene by its recipe: means within [-2, 2]^3, random shapes, camera 0."""
    data = np.load(path)
    inside = (np.abs(data["means3d"]) <= 2).all(1)
    means = torch.from_numpy(data["means3d"][inside]).float()
    g = torch.Generator().manual_seed(42)
    count = len(means)
    scales = torch.rand(count, 3, generator=g) * (0.02 - 1e-4) + 1e-4
    quats = F.normalize(torch.randn(count, 4, generator=g), dim=1)
    opacities = torch.rand(count, generator=g)
    colors = torch.from_numpy(data["colors"][inside]).float() / 255
    viewmat, K = (torch.from_numpy(data[k][:1]).float() for k in ("viewmats", "Ks"))
    width, height = int(data["width"]), int(data["height"])
    sh0, shN = ((colors - 0.5) / 0.2820948)[:, None], 0.05 * torch.randn(count, 15, 3, generator=g)

    def raster(leaves: list[Tensor]) -> Tensor:
        splats = project(*leaves[:4], viewmat, K, width=width, height=height)
        features = sh_colors(leaves[0], viewmat, leaves[4], leaves[5], splats.radii, 3)
        tiles = bin_splats(splats, width=width, height=height)
        return rasterize(splats, features, tiles)[0]

    leaves = [t.requires_grad_(True) for t in (means, quats, scales, opacities, sh0, shN)]
    weights = torch.randn(1, height, width, 3, generator=g)
    with torch.no_grad():
        splats = project(*leaves[:4], viewmat, K, width=width, height=height)
        features = sh_colors(means, viewmat, sh0, shN, splats.radii, 3)
        tiles = bin_splats(splats, width=width, height=height)
    visible = int((splats.radii > 0).all(-1).sum())
    print(f"garden: {count:,} Gaussians, {visible:,} visible, {width} x {height}, {len(tiles.entries):,} tile entries")
    geometry = [t.clone().requires_grad_(True) for t in (splats.means2d, splats.conics, splats.opacities, features)]
    held = type(splats)(geometry[0], splats.depths, geometry[1], geometry[2], splats.radii)

    def step() -> None:
        lists = bin_splats(held, width=width, height=height)
        torch.autograd.grad(rasterize(held, geometry[3], lists)[0], geometry, weights)

    times = measure(step)
    show("bin + rasterize, forward + backward", times)
    full = measure(lambda: torch.autograd.grad(raster(leaves), leaves, weights))
    show("project + SH 3 + bin + rasterize, forward + backward", full)
    with torch.no_grad():
        show("the same, forward", measure(lambda: raster(leaves)))
        show("  project", measure(lambda: project(*leaves[:4], viewmat, K, width=width, height=height)))
        show("  SH 3", measure(lambda: sh_colors(means, viewmat, sh0, shN, splats.radii, 3)))
        show("  bin", measure(lambda: bin_splats(splats, width=width, height=height)))
        show("  rasterize", measure(lambda: rasterize(splats, features, tiles)))
    one_thread(step)
    values = (means, quats, scales.log(), opacities.logit(), sh0, shN)
    training(splat.Gaussians(*(t.detach() for t in values)), splat.Cameras(viewmat, K, width, height))
    peer = gsplat_reference(tuple(t.detach() for t in geometry), tiles, weights)
    if peer is None:
        print("  gsplat is not installed: no comparison\n")
        return
    difference = float((peer() - rasterize(held, geometry[3], tiles)[0].detach()).abs().max())
    theirs = measure(peer, 3)
    note = f"{theirs[0] / times[0]:.0f}x the CPU time of ours with its binning; largest difference {difference:.1e}"
    show("gsplat's torch reference, tile lists for free", theirs, note + "\n")


def training(gaussians: splat.Gaussians, camera: splat.Cameras) -> None:
    """A training step, rendering and loss included: fused, by stages with our Adam, and with torch's."""
    target = torch.rand(1, camera.height, camera.width, 3, generator=torch.Generator().manual_seed(0))

    def loss_of(view: Rendered) -> Tensor:
        return photometric_loss(view.color, target)

    still = splat.LearningRates(*[0.0] * 6)  # nothing moves: every step is the same work
    adam = splat.GaussianAdam(gaussians, still)
    show("training step, fused", measure(lambda: adam.step(camera, loss_of)))
    show("training step, by stages", measure(lambda: adam.step(camera, loss_of, fused=False)))
    leaves = gaussians.map(lambda t: t.clone().requires_grad_())
    theirs = torch.optim.Adam(list(leaves.parameters().values()), lr=0.0, fused=True)

    def step() -> None:
        theirs.zero_grad()
        loss_of(splat.render(leaves, camera)).backward()  # type: ignore[no-untyped-call]
        theirs.step()

    show("training step, torch.optim.Adam(fused=True)", measure(step))


def one_thread(step: Callable[[], object]) -> None:
    """Wall time of one thread against all."""
    threads = splat.get_num_threads()
    many = measure(step)[1]
    splat.set_num_threads(1)
    one = measure(step)[1]
    splat.set_num_threads(threads)
    print(f"  1 thread {one:.1f} ms, {threads} threads {many:.1f} ms wall: {one / many:.2f}x")


def ssim() -> None:
    """The training loss on 512 x 512 x 3, against depthwise convolutions in torch."""
    g = torch.Generator().manual_seed(0)
    image, target = (torch.rand(1, 512, 512, 3, generator=g) for _ in range(2))
    image.requires_grad_(True)
    print("L1 + SSIM, 512 x 512 x 3, forward + backward")
    ours = measure(lambda: torch.autograd.grad(photometric_loss(image, target), image))
    show("splat", ours)

    def in_torch() -> None:
        similarity = ssim_maps(image, target)[0].mean()
        torch.autograd.grad(0.8 * (image - target).abs().mean() + 0.2 * (1 - similarity), image)

    peer = measure(in_torch, 5)
    show("torch, separable convolutions", peer, f"{peer[0] / ours[0]:.0f}x the CPU time\n")


def codec() -> None:
    """The entropy coder on a million residuals in 16 contexts, without and with the value before as a context."""
    random = np.random.default_rng(0)
    values = np.rint(random.laplace(0, 6, 1_000_000)).astype(np.int32)
    contexts = random.integers(0, 16, len(values)).astype(np.int32)
    print("entropy coder, 1,000,000 signed values (Laplace, scale 6), one thread")

    def encode(memory: int) -> bytes:
        encoder = RangeEncoder()
        encoder.signed(values, contexts, memory=memory)
        return encoder.finish()

    for memory in (0, 8):
        data = encode(memory)
        bits = 8 * len(data) / len(values)
        show(f"encode, memory {memory}", measure(partial(encode, memory), 5), f"{bits:.3f} bits a value")
        decode = partial(RangeDecoder.signed, contexts=contexts, memory=memory)
        times = measure(lambda data=data, decode=decode: decode(RangeDecoder(data)), 5)  # type: ignore[misc]
        show(f"decode, memory {memory}", times, f"{len(values) / times[0] / 1e3:.1f} M values/s of CPU time")
    print()


def image2d() -> None:
    """Drawing a fitted photograph, and one step of the fit."""
    picture = splat.image.picture.read_picture(PHOTO).pixels
    model = fit_image(picture, FitConfig(n=10_000, preset="draft")).model
    print(f"2D, {model.width} x {model.height}, 10,000 Gaussians fitted to {PHOTO.name}")
    with torch.no_grad():
        times = measure(model.render, 31)
    show("render", times, f"{1e3 / times[1]:.0f} frames/s")
    square = picture[:512, :512].contiguous()
    fit = Fit(Objective.of(square), RGB, structure_tensor(square), Plan(10_000))
    with one_torch_thread():  # as fit_image runs it
        for _ in range(60):  # past all growth and exchange
            fit.advance(0.99)
        ours = measure(lambda: fit.advance(0.99), 31)
    show(f"fit step, 512 x 512, {len(fit.optimizer):,} Gaussians", ours)
    peer = measure(patch_step(512, 10_000, square), 7)
    show("torch, patches + index_add + Adam", peer, f"{peer[0] / ours[0]:.1f}x the CPU time\n")


def fits(folder: Path, n: int, seconds: float, limit: int | None) -> None:
    """fit-image over a folder of pictures."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".webp"))[:limit]
    print(f"fit-image, n = {n:,}, {seconds:g} s of wall time each")
    scores = []
    for path in files:
        began = time.process_time()
        result = fit_image(path, FitConfig(n=n, time=seconds))
        spent = time.process_time() - began
        target = splat.image.picture.read_picture(path).pixels
        recon = result.model.render().clamp(0, 1)
        scores.append(psnr(recon, target))
        steps = int(result.history[-1]["step"])
        print(
            f"  {path.stem:<12} {scores[-1]:6.2f} dB  MS-SSIM {ms_ssim(recon, target):.4f}  {steps:5d} steps  "
            f"{spent:5.1f} s CPU",
            flush=True,
        )
    print(f"  mean of {len(scores)}: {statistics.mean(scores):.2f} dB, worst {min(scores):.2f} dB\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", choices=["garden", "ssim", "image2d", "codec", "fit", []], help="default: ssim image2d"
    )
    parser.add_argument("--garden", type=Path, help="test_garden.npz")
    parser.add_argument("--kodak", type=Path, help="folder of pictures")
    parser.add_argument("--n", type=int, default=10_000, help="Gaussians of a fit")
    parser.add_argument("--time", type=float, default=20.0, help="seconds of a fit")
    parser.add_argument("--limit", type=int, help="first pictures of the folder only")
    parser.add_argument("--threads", type=int, help="CPU threads")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.threads:
        splat.set_num_threads(arguments.threads)
        torch.set_num_threads(arguments.threads)
    show_machine()
    sections = arguments.sections or ["ssim", "image2d"]
    if "garden" in sections or arguments.garden:
        if arguments.garden is None:
            parser.error("garden needs --garden FILE")
        garden(arguments.garden)
    if "ssim" in sections:
        ssim()
    if "image2d" in sections:
        image2d()
    if "codec" in sections:
        codec()
    if "fit" in sections:
        fits(arguments.kodak or PHOTO.parent, arguments.n, arguments.time, arguments.limit)


if __name__ == "__main__":
    main()
