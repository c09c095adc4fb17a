"""The CUDA kernels on the host: cuda_ext/cuda/*.cu compiled by g++ with emu.h, called with CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from splat.core.binning import TILE, TileLists
from splat.core.project import Splats2D
from splat.core.rasterize import BLENDS, RasterizeOptions

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
BUILD = HERE / "build"
# -U_FORTIFY_SOURCE: its longjmp refuses to change stacks, which is what the fibers do.
FLAGS = [
    "-std=c++20",
    "-DSPLAT_EMULATED",
    "-O1",
    "-fPIC",
    "-U_FORTIFY_SOURCE",
    "-ffp-contract=fast",
    "-pthread",
    "-Wall",
]


KERNELS = sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))


def build(edits: Sequence[tuple[str, str]] = ()) -> Path:
    """The shared library of the emulated kernels; each source is compiled once per state of it and of the headers.
    edits: text to replace in the kernels, to show that a test notices."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("the CUDA emulator needs a C++ compiler")
    headers = [p for end in ("*.h", "*.cuh") for folder in (ROOT / "cuda_ext", HERE) for p in folder.rglob(end)]
    common = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted(headers):
        common.update(path.read_bytes())
    BUILD.mkdir(exist_ok=True)
    objects, replaced = [], 0
    for source in [*KERNELS, HERE / "entry.cpp"]:
        text = source.read_text()
        for old, new in edits:
            replaced += text.count(old)
            text = text.replace(old, new)
        digest = common.copy()
        digest.update(text.encode())
        made = BUILD / f"{source.stem}_{digest.hexdigest()[:16]}.o"
        objects.append(made)
        if not made.exists():
            copy = made.with_suffix(f".{os.getpid()}.cpp")
            copy.write_text(text)
            include = [f"-I{p}" for p in (HERE, ROOT / "cuda_ext" / "include", ROOT / "cuda_ext" / "cuda")]
            _run_to(made, [compiler, *FLAGS, *include, "-c", str(copy)])
            copy.unlink()
    assert not edits or replaced, "nothing to edit: the kernels' text has changed"
    names = hashlib.sha256("".join(o.name for o in objects).encode()).hexdigest()[:16]
    library = BUILD / f"emu_{names}.so"
    if not library.exists():
        _run_to(library, [compiler, "-shared", "-pthread", *map(str, objects)])
    return library


def _run_to(output: Path, command: list[str]) -> None:
    """Runs a compiler; the output appears whole, also where two test processes make it at once."""
    partial = output.with_suffix(f".{os.getpid()}{output.suffix}")
    subprocess.run([*command, "-o", str(partial)], check=True)
    partial.replace(output)


class Forward(NamedTuple):
    """Outputs of the op `rasterize`, and the kernel's scratch."""

    image: Tensor
    alphas: Tensor
    last: Tensor
    norm: Tensor
    splats: Tensor


class Emulator:
    """The kernels of one library."""

    def __init__(self, library: Path, reverse: bool = False, longest: int = 0, by_length: bool = False) -> None:
        """longest, by_length: how tiles are shared out to blocks (cuda/work.h)."""
        self._library = ctypes.CDLL(str(library))
        self._reverse = reverse
        self._sharing = (longest, int(by_length))

    @staticmethod
    def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
        assert all(t is None or t.is_contiguous() for t in tensors)
        return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))

    def _numbers(self, colors: Tensor, tiles: TileLists, options: RasterizeOptions) -> ctypes.Array[ctypes.c_int64]:
        cameras, count, channels = colors.shape
        blend = BLENDS.index(options.blend)
        values = (
            tiles.width,
            tiles.height,
            cameras,
            channels,
            blend,
            options.topk,
            cameras * count,
            len(tiles.entries),
        )
        self._library.emu_set_reversed(int(self._reverse))
        return (ctypes.c_int64 * len(values))(*values)

    @staticmethod
    def _inputs(splats: Splats2D, colors: Tensor, tiles: TileLists, backgrounds: Tensor | None) -> list[Tensor | None]:
        lists = [tiles.offsets, tiles.entries, tiles.masks, tiles.splat_offsets, tiles.slots]
        geometry = [t.detach().contiguous() for t in (splats.means2d, splats.conics, splats.opacities, colors)]
        return [*geometry, backgrounds, *lists]

    def forward(
        self,
        splats: Splats2D,
        colors: Tensor,
        tiles: TileLists,
        backgrounds: Tensor | None,
        options: RasterizeOptions,
    ) -> Forward:
        """As the op `rasterize`. Outputs start as NaN: what the kernel does not write is seen."""
        cameras, count, channels = colors.shape
        shape = (cameras, tiles.height, tiles.width)
        out = Forward(
            torch.full((*shape, channels), torch.nan),
            torch.full(shape, torch.nan),
            torch.full(shape, -7, dtype=torch.int32),
            torch.full((cameras, 2 if options.blend == "topk" else 1, *shape[1:]), torch.nan),
            torch.full((cameras * count, 6), torch.nan),
        )
        inputs = self._inputs(splats, colors, tiles, backgrounds)
        self._library.emu_rasterize_forward(
            self._pointers([*inputs, *out[:4]]),
            self._numbers(colors, tiles, options),
            ctypes.c_float(options.cutoff),
            ctypes.c_void_p(out.splats.data_ptr()),
            *self._sharing,
        )
        return out

    def backward(
        self,
        splats: Splats2D,
        colors: Tensor,
        tiles: TileLists,
        backgrounds: Tensor | None,
        options: RasterizeOptions,
        forward: Forward,
        v_image: Tensor | None,
        v_alphas: Tensor | None,
        by_splat: bool = False,
    ) -> list[Tensor]:
        """v_means2d, v_conics, v_opacities, v_colors and, with absgrad, the absolute gradient of means2d."""
        cameras, count, channels = colors.shape
        grads = [torch.full((cameras, count, n), torch.nan) for n in (2, 3, 1, channels)]
        absolute = torch.full((cameras, count, 2), torch.nan) if options.absgrad else None
        size = 6 + channels + (2 if options.absgrad else 0)
        sums = torch.full((cameras * count if by_splat else len(tiles.entries), size), torch.nan)
        inputs = self._inputs(splats, colors, tiles, backgrounds)
        self._library.emu_rasterize_backward(
            self._pointers([*inputs, *forward[:4]]),
            self._numbers(colors, tiles, options),
            ctypes.c_float(options.cutoff),
            ctypes.c_void_p(forward.splats.data_ptr()),
            self._pointers([v_image, v_alphas, *grads, absolute]),
            ctypes.c_void_p(sums.data_ptr()),
            int(by_splat),
            *self._sharing,
        )
        grads[2] = grads[2][..., 0]
        return grads if absolute is None else [*grads, absolute]

    def residual(
        self, colors: Tensor, tiles: TileLists, forward: Forward, target_tiles: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one picture drawn with blend "sum": residual and squared errors as the op `rasterize_l2`, and v_image."""
        residual, errors = torch.full_like(target_tiles, torch.nan), torch.full((len(target_tiles), 2), torch.nan)
        errors, v_image = errors.double(), torch.full_like(forward.image, torch.nan)
        numbers = self._numbers(colors, tiles, RasterizeOptions(blend="sum"))
        tensors = [*[None] * 10, *forward[:4], target_tiles, weights, residual, errors, v_image]
        channels = 1 if weights is None else weights.shape[1]
        self._library.emu_image_residual(self._pointers(tensors), numbers, channels)
        return residual, errors, v_image

    def project(self, inputs: Sequence[Tensor | None], how: Sequence[int], reals: Sequence[float]) -> list[Tensor]:
        """As the op `project`: means2d, depths, conics, opacities2d, radii.

        Args:
            inputs: means, quats, scales, covars, opacities, viewmats, Ks.
            how: width, height, camera model, antialiased, raw.
            reals: eps2d, near plane, far plane, radius_clip.
        """
        (count, _), cameras = inputs[0].shape, inputs[5].shape[0]  # type: ignore[union-attr]
        out = [torch.full((cameras, count, n), torch.nan) for n in (2, 1, 3, 1)]
        out.append(torch.full((cameras, count, 2), -7, dtype=torch.int32))
        out[1], out[3] = out[1][..., 0], out[3][..., 0]
        self._library.emu_set_reversed(int(self._reverse))
        self._library.emu_project(self._pointers([*inputs, *out]), *_numbers_of(count, cameras, how, reals))
        return out

    def project_backward(
        self,
        inputs: Sequence[Tensor | None],
        how: Sequence[int],
        reals: Sequence[float],
        forward: list[Tensor],
        v: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """As the op `project_backward`: gradients of `inputs`, in their order."""
        (count, _), cameras = inputs[0].shape, inputs[5].shape[0]  # type: ignore[union-attr]
        grads = [None if t is None else torch.full_like(t, torch.nan) for t in inputs]
        partial = self._partial_sums(count, cameras)
        self._library.emu_set_reversed(int(self._reverse))
        self._library.emu_project_backward(
            self._pointers([*inputs, *forward]),
            *_numbers_of(count, cameras, how, reals),
            self._pointers([*v, *grads]),
            ctypes.c_void_p(partial.data_ptr()),
        )
        return grads

    def bin(
        self,
        splats: Splats2D,
        width: int,
        height: int,
        ids: Tensor | None,
        cutoff: float,
        depth_order: bool,
        colors: Tensor | None = None,
        room: tuple[int, int] | None = None,
    ) -> TileLists:
        """As the op `bin`."""
        cameras, count = splats.opacities.shape
        tiles = cameras * (-(-width // TILE)) * (-(-height // TILE))
        depths = splats.depths.contiguous() if depth_order else None
        inputs = [splats.means2d, splats.conics, splats.opacities, splats.radii, depths, ids, colors]
        splat_offsets, tile_offsets = torch.full((cameras * count + 1,), -7), torch.full((tiles + 1,), -7)
        totals = torch.full((2,), -7)

        def call(lists: list[Tensor | None], room: Sequence[int]) -> None:
            numbers = (cameras * count, cameras, 0 if colors is None else colors.shape[2], width, height, *room)
            tensors = [*inputs, splat_offsets, totals, tile_offsets, *lists]
            self.call("bin", tensors, numbers, ctypes.c_float(cutoff))

        if room is None:
            call([None, None, None], (0, 0))
            room = tuple(totals.tolist())
        entries, slots = (torch.full((max(1, room[0]),), -7, dtype=torch.int32) for _ in range(2))
        masks = torch.full((max(1, room[0]),), -7, dtype=torch.int16)
        call([entries, masks, slots], room)
        lists = [tile_offsets, entries[: room[0]], masks[: room[0]], splat_offsets, slots[: room[0]], totals]
        return TileLists(*lists, width=width, height=height)

    def call(self, name: str, tensors: Sequence[Tensor | None], numbers: Sequence[int], *rest: object) -> int:
        """emu_<name> of entry.cpp: pointers, whole numbers, then what else it takes."""
        self._library.emu_set_reversed(int(self._reverse))
        function = self._library[f"emu_{name}"]
        function.restype = ctypes.c_int64
        return int(function(self._pointers(tensors), (ctypes.c_int64 * len(numbers))(*numbers), *rest))

    def _partial_sums(self, count: int, cameras: int) -> Tensor:
        self._library.emu_sum_blocks.restype = ctypes.c_int64
        return torch.full((self._library.emu_sum_blocks(ctypes.c_int64(count)), cameras, 16), torch.nan)

    def sh(self, inputs: Sequence[Tensor], degree: int) -> Tensor:
        """As the op `sh`: colors. inputs: means, viewmats, sh0, shN, radii."""
        colors = torch.full((len(inputs[1]), len(inputs[0]), inputs[2].shape[2]), torch.nan)
        self._sh([*inputs, colors], degree, None)
        return colors

    def sh_backward(self, inputs: Sequence[Tensor], degree: int, colors: Tensor, v_colors: Tensor) -> list[Tensor]:
        """As the op `sh_backward`: v_means, v_viewmats, v_sh0, v_shN."""
        grads = [torch.full_like(t, torch.nan) for t in inputs[:4]]
        self._sh([*inputs, colors, v_colors, *grads], degree, self._partial_sums(len(inputs[0]), len(inputs[1])))
        return grads

    def _sh(self, tensors: Sequence[Tensor], degree: int, partial: Tensor | None) -> None:
        means, viewmats, sh0, shN = tensors[:4]
        numbers = (len(means), shN[0].numel() if len(shN) else 0, len(viewmats), sh0.shape[2], degree)
        scratch = ctypes.c_void_p(None if partial is None else partial.data_ptr())
        self.call("sh", tensors, numbers, int(partial is not None), scratch)


def _numbers_of(
    count: int, cameras: int, how: Sequence[int], reals: Sequence[float]
) -> tuple[ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_float]]:
    return (ctypes.c_int64 * 7)(count, cameras, *how), (ctypes.c_float * 4)(*reals)
