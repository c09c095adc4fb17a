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

from splat.core.binning import TileLists
from splat.core.project import Splats2D
from splat.core.rasterize import BLENDS, RasterizeOptions

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
# -U_FORTIFY_SOURCE: its longjmp refuses to change stacks, which is what the fibers do.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-ffp-contract=fast", "-pthread", "-Wall"]


def build(sources: Sequence[Path], folder: Path, edits: Sequence[tuple[str, str]] = ()) -> Path:
    """The shared library of the emulated kernels, built once per state of the sources. edits: text to replace in the
    kernels, to show that a test notices."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("the CUDA emulator needs a C++ compiler")
    headers = [*(ROOT / "cuda_ext").rglob("*.h"), *(ROOT / "cuda_ext").rglob("*.cuh"), HERE / "emu.h"]
    digest = hashlib.sha256(repr((FLAGS, edits)).encode())
    for path in sorted([*sources, *headers, HERE / "entry.cpp"]):
        digest.update(path.read_bytes())
    library = folder / f"emu_{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    work = folder / f"{library.stem}.{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    replaced = 0
    for source in sources:
        text = source.read_text()
        for old, new in edits:
            replaced += text.count(old)
            text = text.replace(old, new)
        (work / f"{source.stem}.cpp").write_text(text)
    assert not edits or replaced, "nothing to edit: the kernel's text has changed"
    include = [f"-I{p}" for p in (HERE, ROOT / "cuda_ext" / "include", ROOT / "cuda_ext" / "cuda")]
    made = [str(work / f"{s.stem}.cpp") for s in sources]
    partial = work / "partial.so"
    subprocess.run([compiler, *FLAGS, *include, *made, str(HERE / "entry.cpp"), "-o", str(partial)], check=True)
    partial.replace(library)
    shutil.rmtree(work)
    return library


class Forward(NamedTuple):
    """Outputs of the op `rasterize`, and the kernel's scratch."""

    image: Tensor
    alphas: Tensor
    last: Tensor
    norm: Tensor
    splats: Tensor


class Emulator:
    """The kernels of one library."""

    def __init__(self, library: Path, reverse: bool = False) -> None:
        self._library = ctypes.CDLL(str(library))
        self._reverse = reverse

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
    ) -> list[Tensor]:
        """v_means2d, v_conics, v_opacities, v_colors and, with absgrad, the absolute gradient of means2d."""
        cameras, count, channels = colors.shape
        grads = [torch.full((cameras, count, n), torch.nan) for n in (2, 3, 1, channels)]
        absolute = torch.full((cameras, count, 2), torch.nan) if options.absgrad else None
        size = 6 + channels + (2 if options.absgrad else 0)
        records = torch.full((len(tiles.entries), size), torch.nan)
        inputs = self._inputs(splats, colors, tiles, backgrounds)
        self._library.emu_rasterize_backward(
            self._pointers([*inputs, *forward[:4]]),
            self._numbers(colors, tiles, options),
            ctypes.c_float(options.cutoff),
            ctypes.c_void_p(forward.splats.data_ptr()),
            self._pointers([v_image, v_alphas, *grads, absolute]),
            ctypes.c_void_p(records.data_ptr()),
        )
        grads[2] = grads[2][..., 0]
        return grads if absolute is None else [*grads, absolute]
