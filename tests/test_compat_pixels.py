"""gsplat's tile lists and what is drawn from them, against gsplat 1.5.3's own torch functions."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from splat.compat.intersections import isect_offset_encode, isect_tiles
from splat.compat.pixels import accumulate, rasterize_to_indices_in_range, rasterize_to_pixels
from splat.compat.projection import fully_fused_projection
from splat.compat.rasterization import rasterization
from tests.scenes import scene3d

gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat (a dev extra) is the oracle here")

WIDTH, HEIGHT = 40, 32
GRID = (16, 3, 2)


def rand(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Projected:
    """Splats of two cameras, and of `batch` scenes of them, with gsplat's own lists."""

    def __init__(self, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, count: int = 20) -> None:
        s = scene3d(count, 2, dtype=torch.float64)
        means = s.means.expand(*batch, count, 3) + 0.05 * rand(*batch, count, 3)
        means[..., 7, 2] = -50  # not seen
        others = [v.expand(*batch, *v.shape) for v in (s.quats, s.scales, s.viewmats, s.Ks)]
        self.opacities3d = s.opacities.expand(*batch, count)
        self.radii, self.means2d, self.depths, self.conics, _ = fully_fused_projection(
            means, None, *others, WIDTH, HEIGHT, opacities=self.opacities3d
        )
        self.opacities = self.opacities3d[..., None, :].expand(self.depths.shape).clone()
        self.colors = rand(*self.depths.shape, 3, seed=2)
        for name in ("means2d", "depths", "conics", "opacities", "colors", "opacities3d"):
            setattr(self, name, getattr(self, name).to(dtype))
        _, self.isect_ids, self.flatten_ids = gsplat._isect_tiles(self.means2d, self.radii, self.depths, *GRID)
        images = self.depths.shape[:-1]
        offsets = gsplat._isect_offset_encode(self.isect_ids, images.numel(), *GRID[1:])
        self.offsets = offsets.view(*images, 2, 3)

    def splats(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("means2d", "conics", "colors", "opacities")}

    def lists(self) -> tuple[Any, ...]:
        return WIDTH, HEIGHT, 16, self.offsets, self.flatten_ids


@pytest.mark.parametrize("tile_size", [16, 8])
@pytest.mark.parametrize("batch", [(), (2, 2)])
@pytest.mark.parametrize("sort", [True, False])
def test_lists_are_gsplats(sort: bool, batch: tuple[int, ...], tile_size: int) -> None:
    p = Projected(batch, torch.float32)
    grid = (tile_size, -(-WIDTH // tile_size), -(-HEIGHT // tile_size))
    got = isect_tiles(p.means2d, p.radii, p.depths, *grid, sort=sort)
    want = gsplat._isect_tiles(p.means2d, p.radii, p.depths, *grid, sort=sort)
    assert len(want[1]) > 100 and (want[0] == 0).any()
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y) and x.dtype == y.dtype
    if sort:
        images = p.depths.shape[:-1].numel()
        offsets = isect_offset_encode(got[1], images, *grid[1:])
        wanted = gsplat._isect_offset_encode(want[1], images, *grid[1:])
        assert torch.equal(offsets, wanted) and offsets.dtype == torch.int32


def test_packed_lists_are_the_dense_ones_of_what_is_seen() -> None:
    p = Projected((2,))
    seen = (p.radii > 0).all(-1)
    rows = seen.flatten().nonzero()[:, 0]
    counts, keys, splat = isect_tiles(
        p.means2d[seen],
        p.radii[seen],
        p.depths[seen],
        *GRID,
        packed=True,
        n_images=4,
        image_ids=rows // 20,
        gaussian_ids=rows % 20,
    )
    assert torch.equal(keys, p.isect_ids) and torch.equal(rows[splat.long()], p.flatten_ids.long())
    assert counts.sum() == len(keys)
    with pytest.raises(ValueError, match="n_images and image_ids must be given with packed"):
        isect_tiles(p.means2d[seen], p.radii[seen], p.depths[seen], *GRID, packed=True)


def test_garbage_of_what_is_not_seen_is_not_listed() -> None:
    p = Projected()
    p.radii[:, 3] = 0
    counts, keys, _ = isect_tiles(p.means2d, p.radii, p.depths, *GRID)
    p.means2d[:, 3] = torch.nan
    for got, want in zip(isect_tiles(p.means2d, p.radii, p.depths, *GRID), (counts, keys), strict=False):
        assert torch.equal(got, want)
    assert isect_tiles(p.means2d[:0], p.radii[:0], p.depths[:0], *GRID)[1].shape == (0,)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_the_stages_together_are_rasterization(batch: tuple[int, ...], packed: bool) -> None:
    """The calls that gsplat's rasterization makes, one by one."""
    s = scene3d(30, 2)
    values = {k: getattr(s, k).expand(*batch, *getattr(s, k).shape).clone() for k in ("means", "quats", "scales")}
    opacities, viewmats, Ks = (v.expand(*batch, *v.shape) for v in (s.opacities, s.viewmats, s.Ks))
    colors = rand(30, 5).float().expand(*batch, 30, 5)
    behind = rand(*batch, 2, 5).float()
    images = 2 * (batch[0] if batch else 1)
    results = []
    for step_by_step in (True, False):
        leaves = {k: v.clone().requires_grad_(True) for k, v in values.items()}
        if step_by_step:
            out = fully_fused_projection(
                leaves["means"],
                None,
                leaves["quats"],
                leaves["scales"],
                viewmats,
                Ks,
                WIDTH,
                HEIGHT,
                packed=packed,
                opacities=opacities,
            )
            radii, means2d, depths, conics, _ = out[-5:]
            rows: dict[str, Any] = {}
            dims = (*batch, 2, 30)
            by_view, peaks = colors[..., None, :, :].expand(*dims, 5), opacities[..., None, :].expand(dims)
            if packed:
                ids = out[:3]
                rows = {"packed": True, "n_images": images, "image_ids": ids[0] * 2 + ids[1], "gaussian_ids": ids[2]}
                by_view, peaks = (v.reshape(images, 30, *v.shape[len(dims) :]) for v in (by_view, peaks))
                by_view, peaks = (v[rows["image_ids"], ids[2]] for v in (by_view, peaks))
            _, keys, flat = isect_tiles(means2d, radii, depths, *GRID, **rows)
            offsets = isect_offset_encode(keys, images, *GRID[1:]).view(*batch, 2, 2, 3)
            image, alphas = rasterize_to_pixels(
                means2d, conics, by_view, peaks, WIDTH, HEIGHT, 16, offsets, flat, backgrounds=behind, packed=packed
            )
        else:
            image, alphas, _ = rasterization(
                *leaves.values(), opacities, colors, viewmats, Ks, WIDTH, HEIGHT, backgrounds=behind, packed=packed
            )
        loss = (image * rand(*image.shape, seed=1).float()).sum() + alphas.sum()
        results.append([image, alphas, *torch.autograd.grad(loss, list(leaves.values()))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_pixels_are_those_of_a_sum_over_listed_splats(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    """Image and gradients of the fast way against the two slow functions."""
    p = Projected(batch, dtype)
    behind = rand(*p.depths.shape[:-1], 3, seed=4).to(dtype)
    results = []
    for fast in (True, False):
        leaves = {name: v.clone().requires_grad_(True) for name, v in p.splats().items()}
        if fast:
            image, alphas = rasterize_to_pixels(
                **leaves, **dict(zip(LISTS, p.lists(), strict=True)), backgrounds=behind
            )
        else:
            light = torch.ones(*p.depths.shape[:-1], HEIGHT, WIDTH, dtype=dtype)
            ids = rasterize_to_indices_in_range(0, 10**9, light, p.means2d, p.conics, p.opacities, *p.lists())
            image, alphas = accumulate(
                leaves["means2d"], leaves["conics"], leaves["opacities"], leaves["colors"], *ids, WIDTH, HEIGHT
            )
            image = image + behind[..., None, None, :] * (1 - alphas)
        loss = (image * rand(*image.shape, seed=1)).sum() + (alphas * rand(*alphas.shape, seed=2)).sum()
        results.append([image, alphas, *torch.autograd.grad(loss, list(leaves.values()))])
    for got, want in zip(*results, strict=True):
        assert got.dtype == dtype
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.detach().abs().max()))


LISTS = ("image_width", "image_height", "tile_size", "isect_offsets", "flatten_ids")


def slow_indices(p: Projected, light: Tensor, start: int, end: int, size: int) -> list[tuple[int, int, int]]:
    """What gsplat's kernel does, a pixel and a splat at a time, for images [I, N]."""
    found = []
    bounds = [*p.offsets.flatten().tolist(), len(p.flatten_ids)]
    rows, columns = p.offsets.shape[-2:]
    count = p.depths.shape[-1]
    flat = [v.reshape(-1, *v.shape[2:]) for v in (p.means2d, p.conics, p.opacities)]
    for image in range(len(light)):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                tile = (image * rows + y // size) * columns + x // size
                trans = float(light[image, y, x])
                first = bounds[tile] + start * size * size
                for g in p.flatten_ids[first : min(bounds[tile + 1], bounds[tile] + end * size * size)].tolist():
                    (mx, my), (a, b, c), opacity = (v[g].tolist() if v.dim() > 1 else float(v[g]) for v in flat)
                    dx, dy = mx - x - 0.5, my - y - 0.5
                    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                    alpha = min(0.999, opacity * float(torch.tensor(-sigma, dtype=torch.float64).exp()))
                    if alpha < 1 / 255:
                        continue
                    if trans * (1 - alpha) <= 1e-4:
                        break
                    trans *= 1 - alpha
                    found.append((g % count, y * WIDTH + x, image))
    return found


@pytest.mark.parametrize("size", [16, 4])
def test_listed_splats_are_those_of_gsplats_kernel(size: int) -> None:
    p = Projected(count=12)
    p.opacities.clamp_min_(0.99)  # so that some pixels are closed
    grid = (size, -(-WIDTH // size), -(-HEIGHT // size))
    _, keys, p.flatten_ids = isect_tiles(p.means2d, p.radii, p.depths, *grid)
    p.offsets = isect_offset_encode(keys, 2, *grid[1:])
    light = 0.001 + rand(2, HEIGHT, WIDTH).pow(4)
    for start, end in ((0, 10**9), (0, 1), (1, 2)):
        got = rasterize_to_indices_in_range(
            start, end, light, p.means2d, p.conics, p.opacities, WIDTH, HEIGHT, size, p.offsets, p.flatten_ids
        )
        assert list(zip(*(v.tolist() for v in got), strict=True)) == slow_indices(p, light, start, end, size)
        assert all(v.dtype == torch.int64 for v in got)
        assert len(got[0]) > 0 or start > 0


@pytest.fixture
def nerfacc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two functions of nerfacc that gsplat's `accumulate` calls, a ray at a time."""
    module = ModuleType("nerfacc")

    def render_weight_from_alpha(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, None]:
        weights = []
        for ray in ray_indices.unique_consecutive():
            own = alphas[ray_indices == ray]
            weights.append(own * torch.cat([own.new_ones(1), (1 - own).cumprod(0)[:-1]]))
        return torch.cat(weights), None

    def accumulate_along_rays(weights: Tensor, values: Any, ray_indices: Tensor, n_rays: int) -> Tensor:
        terms = weights[:, None] if values is None else weights[:, None] * values
        return terms.new_zeros(n_rays, terms.shape[1]).index_add(0, ray_indices, terms)

    module.render_weight_from_alpha = render_weight_from_alpha  # type: ignore[attr-defined]
    module.accumulate_along_rays = accumulate_along_rays  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nerfacc", module)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_accumulation_is_gsplats(nerfacc: None, batch: tuple[int, ...]) -> None:
    p = Projected(batch)
    light = torch.ones(*p.depths.shape[:-1], HEIGHT, WIDTH)
    # gsplat's indexes [I, N] by the ids of one image, so its batch is flattened first.
    ids = rasterize_to_indices_in_range(0, 9, light.double(), p.means2d, p.conics, p.opacities, *p.lists())
    results = []
    for function in (accumulate, gsplat.accumulate):
        leaves = [v.clone().requires_grad_(True) for v in (p.means2d, p.conics, p.opacities, p.colors)]
        image, alphas = function(*leaves, *ids, WIDTH, HEIGHT)
        loss = (image * rand(*image.shape, seed=1)).sum() + (alphas * rand(*alphas.shape, seed=2)).sum()
        results.append([image, alphas, *torch.autograd.grad(loss, leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_gsplats_torch_rasterizer_runs_over_these(nerfacc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat's `_rasterize_to_pixels`, in parts of one block, each beginning at the light that is left."""
    wrapper = pytest.importorskip("gsplat.cuda._wrapper", reason="gsplat (a dev extra) is the oracle here")
    p = Projected(dtype=torch.float32, count=40)
    monkeypatch.setattr(wrapper, "rasterize_to_indices_in_range", rasterize_to_indices_in_range)
    behind = rand(2, 3).float()
    want = gsplat._rasterize_to_pixels(*p.splats().values(), *p.lists(), backgrounds=behind, batch_per_iter=1)
    got = rasterize_to_pixels(*p.splats().values(), *p.lists(), backgrounds=behind)
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_masked_tiles_show_the_background() -> None:
    p = Projected((2,), torch.float32)
    masks = torch.arange(2 * 2 * 6).view(2, 2, 2, 3) % 3 != 0
    behind = rand(2, 2, 3).float()
    whole, whole_alphas = rasterize_to_pixels(*p.splats().values(), *p.lists(), backgrounds=behind)
    image, alphas = rasterize_to_pixels(*p.splats().values(), *p.lists(), backgrounds=behind, masks=masks)
    shown = masks.repeat_interleave(16, -1).repeat_interleave(16, -2)[..., :HEIGHT, :WIDTH]
    assert torch.equal(image[shown], whole[shown]) and torch.equal(alphas[shown], whole_alphas[shown])
    assert (alphas[~shown] == 0).all() and (whole_alphas[~shown] > 0).any()
    assert torch.equal(image, torch.where(shown[..., None], whole, behind[..., None, None, :].expand_as(whole)))


@pytest.mark.parametrize("tile_size", [4, 8, 12, 16, 20, 32, 64])
def test_tiles_of_any_size_draw_the_same(tile_size: int) -> None:
    """Also where there are more of them than the picture needs."""
    p = Projected((2,), torch.float32)
    want = rasterize_to_pixels(*p.splats().values(), *p.lists())
    for more in (0, 2):
        grid = (tile_size, -(-WIDTH // tile_size) + more, -(-HEIGHT // tile_size) + more)
        _, keys, flat = isect_tiles(p.means2d, p.radii, p.depths, *grid)
        offsets = isect_offset_encode(keys, 4, *grid[1:]).view(2, 2, grid[2], grid[1])
        splats = {name: v.clone().requires_grad_(True) for name, v in p.splats().items()}
        got = rasterize_to_pixels(*splats.values(), WIDTH, HEIGHT, tile_size, offsets, flat)
        for x, y in zip(got, want, strict=True):
            assert torch.equal(x, y)
        got[0].square().sum().backward()
        assert all((v.grad != 0).any() for v in splats.values())


@pytest.mark.parametrize("packed", [False, True])
def test_absgrad_is_left_on_means2d(packed: bool) -> None:
    p = Projected((2,), torch.float32)
    splats, lists = p.splats(), p.lists()
    rows = (p.radii > 0).all(-1).flatten().nonzero()[:, 0]
    if packed:
        splats = {name: v.reshape(80, *v.shape[3:])[rows] for name, v in splats.items()}
        place = torch.zeros(80, dtype=torch.int32)
        place[rows] = torch.arange(len(rows), dtype=torch.int32)
        lists = (*lists[:4], place[p.flatten_ids.long()])
    splats["means2d"].requires_grad_(True)
    image, _ = rasterize_to_pixels(*splats.values(), *lists, packed=packed, absgrad=True)
    sums, parts = [], []
    for pixels in (image[..., :20, 15, :], image[..., 3, 15, :], image[..., 4, 15, :]):
        splats["means2d"].grad = None
        pixels.square().sum().backward(retain_graph=True)
        grad, absgrad = splats["means2d"].grad, splats["means2d"].absgrad  # type: ignore[attr-defined]
        assert grad is not None and absgrad.shape == grad.shape
        sums.append(absgrad)
        parts.append(grad.abs())
    torch.testing.assert_close(sums[1:], parts[1:])  # of one pixel
    assert (sums[0] >= parts[0]).all() and (sums[0] > 1.01 * parts[0]).any()
    assert (sums[0] + 1e-6 >= parts[1] + parts[2]).all()


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_to_draw_is_the_background(packed: bool) -> None:
    shape = (0,) if packed else (2, 0)
    splats = [torch.zeros(*shape, 2), torch.zeros(*shape, 3), torch.zeros(*shape, 3), torch.zeros(shape)]
    none = torch.zeros(0, dtype=torch.int32)
    image, alphas = rasterize_to_pixels(
        *splats, WIDTH, HEIGHT, 16, torch.zeros(2, 2, 3, dtype=torch.int32), none, torch.ones(2, 3), packed=packed
    )
    assert (image == 1).all() and image.shape == (2, HEIGHT, WIDTH, 3) and (alphas == 0).all()
    ids = rasterize_to_indices_in_range(
        0, 9, torch.ones(2, HEIGHT, WIDTH), *(torch.zeros(2, 0, n) for n in (2, 3)), torch.zeros(2, 0), WIDTH, HEIGHT,
        16, torch.zeros(2, 2, 3, dtype=torch.int32), none,
    )  # fmt: skip
    assert all(v.shape == (0,) for v in ids)
    image, alphas = accumulate(
        *(torch.zeros(2, 0, n) for n in (2, 3)), torch.zeros(2, 0), torch.zeros(2, 0, 3), *ids, WIDTH, HEIGHT
    )
    assert (image == 0).all() and image.shape == (2, HEIGHT, WIDTH, 3) and alphas.shape == (2, HEIGHT, WIDTH, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_size": 30}, "tile_size must be a multiple of 4, got 30"),
        ({"tile_size": 8}, "isect_offsets must cover 40 x 32 pixels, got 3 x 2 tiles of 8"),
        ({"flatten_ids": torch.full((9,), 3, dtype=torch.int32)}, "isect_offsets must rise from 0"),
        ({"backgrounds": torch.ones(3)}, r"backgrounds must have shape \[2, D\] = \[2, 3\], got \[3\]"),
        ({"masks": torch.ones(2, 3)}, r"masks must have shape \[2, 2, 3\], got \[2, 3\]"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], message: str) -> None:
    p = Projected(dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        rasterize_to_pixels(**(p.splats() | dict(zip(LISTS, p.lists(), strict=True)) | change))


def test_lists_of_splats_that_are_not_there_are_refused() -> None:
    p = Projected(dtype=torch.float32)
    p.flatten_ids[0] = 40
    with pytest.raises(ValueError, match=r"flatten_ids must be in 0 .. 39, got 0 .. 40"):
        rasterize_to_pixels(*p.splats().values(), *p.lists())
