"""What must hold of a backend on its device: its results against the CPU backend's, and against its own of another run.

Plain functions (torch and numpy alone), so that pytest and scripts/gpu_checks.py run the same ones. Each brings what it
computed back by `Target.back`: tests/test_cuda_device.py disturbs that and sees every check fail.

Bounds: a GPU rounds differently, so here and there a splat falls to the other side of the 1/255 cut-off at a pixel.
That moves the pixel by 0.4 % at most; a picture as a whole stays within 3e-4 and a gradient within 1e-3 of its norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import splat
from splat.core.adam import adam_step
from splat.core.binning import ListRoom, TileLists, bin_splats
from splat.core.project import Splats2D
from splat.core.project_image import project_image
from splat.core.rasterize import BLENDS, Blend, RasterizeOptions, rasterize
from splat.core.rasterize_l2 import rasterize_l2, to_tiles
from splat.core.ssim import l1_ssim
from splat.optim import GaussianAdam
from splat.rendering import Rendered
from tests.scenes import splats2d

PICTURE, GRADIENT = 3e-4, 1e-3


@dataclass(frozen=True)
class Target:
    """The device under test."""

    device: torch.device

    def to(self, *values: Tensor) -> list[Tensor]:
        return [v.detach().to(self.device) for v in values]

    def splats(self, splats: Splats2D) -> Splats2D:
        return Splats2D(*self.to(*vars(splats).values()))

    def back(self, value: Tensor) -> Tensor:
        """A result, on the CPU."""
        return value.detach().cpu()

    def close(self, name: str, got: Tensor, wanted: Tensor, bound: float) -> None:
        got = self.back(got)
        assert got.shape == wanted.shape and torch.isfinite(got.double()).all(), f"{name}: not finite, or {got.shape}"
        difference, size = (got.double() - wanted.double()).norm(), wanted.double().norm()
        assert difference <= bound * size + 1e-6, f"{name}: differs by {difference / size:.2e} of its norm"

    def same(self, name: str, got: Tensor, wanted: Tensor) -> None:
        assert torch.equal(self.back(got), wanted.detach().cpu()), f"{name}: not the same bits"


CHECKS: dict[str, Callable[[Target], None]] = {}
NEEDS_CUDA: set[str] = set()


def check(function: Callable[[Target], None]) -> Callable[[Target], None]:
    CHECKS[function.__name__] = function
    return function


def on_cuda(function: Callable[[Target], None]) -> Callable[[Target], None]:
    NEEDS_CUDA.add(function.__name__)
    return check(function)


def scene(count: int = 3000, cameras: int = 2, degree: int = 3) -> tuple[splat.Gaussians, splat.Cameras]:
    gaussians = splat.Gaussians.random(count, sh_degree=degree)
    return gaussians, splat.Cameras.orbit(cameras, radius=2.5, width=150, height=101)


def rendered(device: torch.device | str, options: splat.RenderOptions, model: str = "pinhole") -> dict[str, Tensor]:
    """What render returns, and the gradients of a loss on all of it."""
    gaussians, cameras = scene()
    gaussians, cameras = gaussians.to(device), replace(cameras.to(device), camera_model=model)
    gaussians.requires_grad_()
    viewmats, Ks = (t.clone().requires_grad_() for t in (cameras.viewmats, cameras.Ks))
    background = torch.tensor([0.2, 0.4, 0.1], device=device)
    view = splat.render(gaussians, replace(cameras, viewmats=viewmats, Ks=Ks), background=background, options=options)
    target = torch.linspace(0, 1, view.color.numel(), device=device).view_as(view.color)
    (splat.photometric_loss(view.color, target) + 0.1 * view.depth.mean() + view.alpha.mean()).backward()
    grads = {**gaussians.parameters(), "viewmats": viewmats, "Ks": Ks}
    pictures = {"color": view.color, "alpha": view.alpha, "depth": view.depth}
    return pictures | {f"dL/d{name}": t.grad for name, t in grads.items() if t.grad is not None}


@check
def renders_as_the_cpu(target: Target) -> None:
    cases = [("pinhole", "alpha", False), ("ortho", "alpha", True), ("fisheye", "alpha", False)]
    cases += [("pinhole", "sum", True), ("pinhole", "topk", False)]
    for model, blend, antialiased in cases:
        how = splat.RenderOptions(
            splat.ProjectOptions(antialiased=antialiased),
            RasterizeOptions(blend=blend),  # type: ignore[arg-type]
        )
        wanted = rendered("cpu", how, model)
        for name, value in rendered(target.device, how, model).items():
            bound = GRADIENT if name.startswith("dL") else PICTURE
            target.close(f"{model} {blend} {name}", value, wanted[name], bound)


def drawn(
    target: Target | None,
    splats: Splats2D,
    colors: Tensor,
    size: tuple[int, int],
    options: RasterizeOptions,
    room: ListRoom | None = None,
) -> list[Tensor]:
    """Picture, alpha and the gradients of a random loss, on the target's device or (None) by the CPU backend."""
    device = torch.device("cpu") if target is None else target.device
    g = torch.Generator().manual_seed(3)
    splats = Splats2D(*(t.to(device) for t in vars(splats).values()))
    leaves = [t.clone().requires_grad_() for t in (splats.means2d, splats.conics, splats.opacities, colors.to(device))]
    moved = replace(splats, means2d=leaves[0], conics=leaves[1], opacities=leaves[2])
    backgrounds = torch.rand(colors.shape[0], colors.shape[2], generator=g).to(device)
    tiles = bin_splats(moved, width=size[0], height=size[1], depth_order=options.blend == "alpha", room=room)
    image, alphas = rasterize(moved, leaves[3], tiles, backgrounds=backgrounds, options=options)
    v = [torch.randn(t.shape, generator=g).to(device) for t in (image, alphas)]
    torch.autograd.backward((image, alphas), v)
    absolute = [leaves[0].absgrad] if options.absgrad else []  # type: ignore[attr-defined]
    return [image, alphas, *(leaf.grad for leaf in leaves if leaf.grad is not None), *absolute]


def compare(
    target: Target, splats: Splats2D, colors: Tensor, size: tuple[int, int], options: RasterizeOptions, what: str
) -> None:
    names = ("image", "alphas", "means2d", "conics", "opacities", "colors", "absgrad")
    got, wanted = (drawn(t, splats, colors, size, options) for t in (target, None))
    for name, a, b in zip(names, got, wanted, strict=False):
        target.close(f"{what} {name}", a, b, GRADIENT if a.shape != b.shape or name not in names[:2] else PICTURE)


@check
def odd_sizes(target: Target) -> None:
    for blend in BLENDS:
        for size in ((1, 1), (17, 33), (16, 16), (130, 75)):
            splats, colors = splats2d(60, *size, cameras=2)
            compare(target, splats, colors, size, RasterizeOptions(blend=blend, topk=4), f"{blend} {size}")


@check
def any_number_of_channels(target: Target) -> None:
    for blend in BLENDS:
        for channels in (1, 2, 4, 16, 17, 65):
            splats, _ = splats2d(40, 40, 33)
            colors = torch.randn(1, 40, channels, generator=torch.Generator().manual_seed(channels))
            compare(target, splats, colors, (40, 33), RasterizeOptions(blend=blend, topk=3), f"{blend} D={channels}")


@check
def absolute_gradients(target: Target) -> None:
    for channels in (3, 5):
        splats, _ = splats2d(80, 40, 33, cameras=2)
        colors = torch.rand(2, 80, channels, generator=torch.Generator().manual_seed(0))
        compare(target, splats, colors, (40, 33), RasterizeOptions(absgrad=True), f"absgrad D={channels}")


@check
def the_largest_weights(target: Target) -> None:
    for topk in (2, 4, 7, 10, 16, 33, 64):
        splats, colors = splats2d(300, 33, 20)
        compare(target, splats, colors, (33, 20), RasterizeOptions(blend="topk", topk=topk), f"K={topk}")


@check
def thousands_of_splats_on_one_tile(target: Target) -> None:
    for blend in ("alpha", "sum"):
        splats, colors = splats2d(5000, 16, 16)
        splats = replace(splats, opacities=splats.opacities * 0.05)
        compare(target, splats, colors, (16, 16), RasterizeOptions(blend=blend), blend)  # type: ignore[arg-type]


@check
def splats_over_the_whole_picture(target: Target) -> None:
    splats, colors = splats2d(50, 700, 1300)
    splats = replace(splats, conics=splats.conics * 1e-5)
    compare(target, splats, colors, (700, 1300), RasterizeOptions(), "huge")


@check
def nothing_to_draw(target: Target) -> None:
    for count in (0, 5):
        splats, colors = splats2d(count, 40, 33)
        splats = replace(splats, means2d=splats.means2d + 1e4)
        compare(target, splats, colors, (40, 33), RasterizeOptions(), f"{count} splats")


def pairs(tiles: TileLists) -> set[tuple[int, int]]:
    """Tile and splat of every entry."""
    counts = tiles.offsets.diff()
    assert (counts >= 0).all(), "the tiles' offsets fall"
    tile = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return set(zip(tile.tolist(), tiles.entries[: len(tile)].tolist(), strict=True))


def lists_back(target: Target, tiles: TileLists) -> TileLists:
    names = ("offsets", "entries", "masks", "splat_offsets", "slots", "totals")
    return replace(tiles, **{name: target.back(getattr(tiles, name)) for name in names})


@check
def tile_lists(target: Target) -> None:
    """The CPU's, but for splats that touch a tile within rounding; sorted by depth, then by id."""
    for size, ids in (((300, 200), False), ((300, 200), True), ((4200, 4200), False)):
        splats, colors = splats2d(2000, *size, cameras=2, largest=12)
        splats = replace(splats, depths=(splats.depths * 20).round())  # many ties
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(1)) if ids else None
        width, height = size
        wanted = bin_splats(splats, width=width, height=height, ids=order, colors=colors)
        there = {"ids": None if order is None else order.to(target.device), "colors": colors.to(target.device)}
        made = bin_splats(target.splats(splats), width=width, height=height, **there)
        got = lists_back(target, made)
        a, b = pairs(got), pairs(wanted)
        assert len(a ^ b) <= 1e-3 * len(b), f"{len(a ^ b)} of {len(b)} entries differ"
        depth = splats.depths.flatten()[got.entries.long()]
        rank = torch.arange(4000) if order is None else order.repeat(2) + 2000 * torch.arange(2).repeat_interleave(2000)
        key = depth.double() * 1e5 + rank[got.entries.long()]
        inner = torch.ones(len(key), dtype=torch.bool)
        inner[got.offsets[:-1][got.offsets[:-1] < len(key)]] = False  # the first of each tile
        assert (key.diff()[inner[1:]] > 0).all(), "not in drawing order"
        by_slot = torch.empty_like(got.entries)
        by_slot[got.slots.long()] = got.entries
        assert (by_slot.diff() >= 0).all() and int(got.totals[0]) == len(got.entries), "slots do not group by splat"


@check
def lists_of_a_given_length(target: Target) -> None:
    """As the exact ones, with an unused end; empty where they do not fit, and then nothing is drawn."""
    splats, colors = splats2d(500, 130, 75, cameras=2)
    there = target.splats(splats)
    exact = lists_back(target, bin_splats(there, width=130, height=75))
    needed = exact.room(1.0)
    wide = exact.room(1.5)
    roomy = lists_back(target, bin_splats(there, width=130, height=75, room=wide))
    for name in ("entries", "masks", "slots"):
        assert torch.equal(getattr(roomy, name)[: needed.entries], getattr(exact, name)), name
    assert torch.equal(roomy.offsets, exact.offsets) and not bool(roomy.overflowed(wide))
    for tight in (replace(needed, entries=needed.entries - 1), replace(needed, visible=needed.visible - 1)):
        lists = lists_back(target, bin_splats(there, width=130, height=75, room=tight))
        assert bool(lists.overflowed(tight)) and not lists.offsets.any() and not lists.splat_offsets.any()
        _, alphas, *v = drawn(target, splats, colors, (130, 75), RasterizeOptions(), tight)
        for value in (alphas, *v):
            target.same("overflow", value, torch.zeros(value.shape))


@check
def least_squares(target: Target) -> None:
    for channels in (1, 3, 5):
        splats, _ = splats2d(200, 61, 37)
        g = torch.Generator().manual_seed(channels)
        colors, picture = torch.randn(1, 200, channels, generator=g), torch.rand(37, 61, channels, generator=g)
        tiled = to_tiles(picture)
        for weights in (None, to_tiles(torch.rand(37, 61, 1, generator=g)), torch.rand(tiled.shape, generator=g)):
            steps = []
            for on_device in (False, True):
                drawn = target.splats(splats) if on_device else splats
                tensors = (colors, tiled) if weights is None else (colors, tiled, weights)
                moved = target.to(*tensors) if on_device else tensors
                tiles = bin_splats(drawn, width=61, height=37, depth_order=False)
                given = moved[2] if weights is not None else None
                steps.append(rasterize_l2(drawn, moved[0], tiles, moved[1], weight_tiles=given))
            kind = "unweighted" if weights is None else f"weights of {weights.shape[1]}"
            for name in ("residual", "v_means2d", "v_conics", "v_opacities", "v_colors"):
                values = [getattr(step, name) for step in steps]
                target.close(f"D={channels} {kind} {name}", values[1], values[0], GRADIENT)
            errors = [torch.tensor([step.squared_error, step.clamped_error]) for step in steps]
            target.close(f"D={channels} {kind} errors", errors[1], errors[0], 1e-4)


@check
def image_front_end(target: Target) -> None:
    g = torch.Generator().manual_seed(0)
    values = [
        70 * torch.rand(300, 2, generator=g) - 10,
        2 * torch.rand(300, 2, generator=g),
        6 * torch.rand(300, generator=g),
    ]
    for dilation in (0.0, 1 / 12):
        results = []
        for device in (torch.device("cpu"), target.device):
            means, *leaves = (v.to(device).requires_grad_() for v in values)
            made = project_image(means, *leaves, width=50, height=40, dilation=dilation)
            (made.conics.square().sum() + made.opacities.square().sum()).backward()
            results.append([made.conics, made.opacities, *(leaf.grad for leaf in leaves)])
        for name, a, b in zip(("conics", "opacities", "log_scales", "angles"), results[1], results[0], strict=True):
            target.close(f"dilation {dilation:.2g} {name}", a, b.detach(), 1e-4)


@check
def losses(target: Target) -> None:
    for shape in ((1, 1, 1, 1), (2, 19, 33, 3), (1, 300, 200, 4)):
        for padding in ("same", "valid"):
            g = torch.Generator().manual_seed(shape[1])
            image, other = torch.rand(shape, generator=g), torch.rand(shape, generator=g)
            results = []
            for device in (torch.device("cpu"), target.device):
                leaf = image.to(device).requires_grad_()
                both = torch.stack(l1_ssim(leaf, other.to(device), padding=padding))  # type: ignore[arg-type]
                both[0].mul(0.8).sub(both[1].mul(0.2)).backward()
                results.append((both, leaf.grad))
            for name, a, b in zip(("values", "gradient"), results[1], results[0], strict=True):
                assert a is not None and b is not None
                target.close(f"{shape} {padding} {name}", a, b.detach(), 1e-4)


@check
def adam_steps(target: Target) -> None:
    g = torch.Generator().manual_seed(0)
    tables = [torch.rand(300, 3, generator=g) for _ in range(4)]
    steps = torch.randint(1, 50, (300,), dtype=torch.int32, generator=g)
    there = target.to(*(t.clone() for t in tables), steps)
    adam_step(*tables, steps, 0.01)
    adam_step(*there[:4], there[4], 0.01)
    for a, b in zip(there[:4], tables, strict=True):
        target.close("adam", a, b, 1e-5)


def loss_of(view: Rendered) -> Tensor:
    target = torch.linspace(0, 1, view.color.numel(), device=view.color.device).view_as(view.color)
    return splat.photometric_loss(view.color, target) + 0.1 * view.depth.mean()


def trained(device: torch.device | str, steps: int, fused: bool | None = None, rate: float = 1e-3) -> list[Tensor]:
    gaussians, cameras = scene(cameras=1)
    rates = splat.LearningRates(*[rate] * 6)
    adam = GaussianAdam(gaussians.to(device), rates, rule=splat.core.adam.AdamRule(epsilon=1e-4))
    for _ in range(steps):
        adam.step(cameras.to(device), loss_of, fused=fused)
    return [*adam.gaussians.parameters().values(), *adam.exp_avg.values(), *adam.exp_avg_sq.values()]


@check
def training_steps(target: Target) -> None:
    """Fused, by stages, and on the CPU: the same moments."""
    wanted, start = trained("cpu", 2), trained("cpu", 0)
    for fused in (True, False):
        for a, b, first in zip(trained(target.device, 2, fused), wanted, start, strict=True):
            target.close(f"fused={fused}", a - first.to(target.device), b - first, 2e-3)


@check
def two_runs_give_the_same_bits(target: Target) -> None:
    for blend in BLENDS:
        how = splat.RenderOptions(rasterize=RasterizeOptions(blend=blend))
        first, second = rendered(target.device, how), rendered(target.device, how)
        for name, value in first.items():
            target.same(f"{blend} {name}", value, second[name])
    for a, b in zip(trained(target.device, 10), trained(target.device, 10), strict=True):
        target.same("after 10 steps", a, b)


@on_cuda
def atomic_sums(target: Target) -> None:
    splats, colors = splats2d(500, 130, 75, cameras=2)
    blend: Blend
    for blend in BLENDS:
        for absgrad in (False, True):
            options = RasterizeOptions(blend=blend, absgrad=absgrad)
            records = drawn(target, splats, colors, (130, 75), options)
            atomics = drawn(target, splats, colors, (130, 75), replace(options, max_record_bytes=0))
            for a, b in zip(atomics, records, strict=True):
                target.close(f"{blend}", a, b.cpu(), 1e-5)


@on_cuda
def on_another_stream(target: Target) -> None:
    how = splat.RenderOptions()
    wanted = rendered(target.device, how)
    stream = torch.cuda.Stream(target.device)
    stream.wait_stream(torch.cuda.current_stream(target.device))
    with torch.cuda.stream(stream):
        got = rendered(target.device, how)
    stream.synchronize()
    for name, value in got.items():
        target.same(name, value, wanted[name])


def captured_training(target: Target, steps: int, replays: int) -> tuple[list[Tensor], bool]:
    """The tensors after `steps` steps the last `replays` of them replays of a CUDA graph; whether lists overflowed."""
    gaussians, cameras = scene(cameras=1)
    adam, cameras = GaussianAdam(gaussians.to(target.device)), cameras.to(target.device)
    tiles = splat.render(adam.gaussians, cameras).info.tiles
    assert tiles is not None
    options = splat.RenderOptions(room=tiles.room(1.5))
    stream = torch.cuda.Stream(target.device)
    stream.wait_stream(torch.cuda.current_stream(target.device))
    with torch.cuda.stream(stream):  # warm-up, as torch.cuda.graph asks for
        for _ in range(steps - replays):
            adam.step(cameras, loss_of, options=options)
    torch.cuda.current_stream(target.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records, does not run
        view = adam.step(cameras, loss_of, options=options).rendered
    for _ in range(replays):
        graph.replay()
    torch.cuda.synchronize(target.device)
    assert view.info.tiles is not None and options.room is not None
    return list(adam.gaussians.parameters().values()), bool(view.info.tiles.overflowed(options.room))


@on_cuda
def a_captured_step_replays(target: Target) -> None:
    """Eight steps, five of them replays of a graph, end at the same bits as eight eager ones."""
    got, overflowed = captured_training(target, 8, 5)
    wanted, _ = captured_training(target, 8, 0)  # captures too, but does not replay
    assert not overflowed
    for a, b in zip(got, wanted, strict=True):
        target.same("after 8 steps", a, b)


@on_cuda
def a_step_waits_for_nothing(target: Target) -> None:
    gaussians, cameras = scene(cameras=1)
    adam, cameras = GaussianAdam(gaussians.to(target.device)), cameras.to(target.device)
    tiles = adam.step(cameras, loss_of).rendered.info.tiles
    assert tiles is not None
    options = splat.RenderOptions(room=tiles.room(1.5))
    before = [t.clone() for t in adam.gaussians.parameters().values()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        adam.step(cameras, loss_of, options=options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(target.back(adam.gaussians.means), before[0].cpu()), "the step did not move the means"
