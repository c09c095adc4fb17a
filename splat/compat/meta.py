"""gsplat's meta: what a render went through, dense [..., C, N, ...] or packed [nnz, ...]."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splat.core.binning import TILE, TileLists
from splat.core.project import Splats2D


class Meta(dict[str, Any]):
    """A dict some of whose values are computed when they are first read: few callers want them, and they cost as much
    as a stage of the render."""

    def __init__(self, values: dict[str, Any], later: dict[str, Callable[[], Any]]) -> None:
        super().__init__(values)
        self._later = dict(later)
        for name in later:
            super().__setitem__(name, None)

    def __getitem__(self, name: str) -> Any:
        if name in self._later:
            self[name] = self._later[name]()
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._later.pop(name, None)
        super().__setitem__(name, value)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # overridden so that dict(meta) and {**meta} go through __getitem__

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]

    def _all(self) -> dict[str, Any]:
        return {name: self[name] for name in self}

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._all().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._all().values()


@dataclass(frozen=True)
class Layout:
    """How the splats of I images ("batch" scenes x C cameras, N Gaussians each) lie in meta."""

    batch: tuple[int, ...]
    cameras: int
    count: int
    rows: Tensor | None
    """int64 [nnz]: image * N + Gaussian of the visible splats, in that order (packed); None: dense."""

    @property
    def images(self) -> int:
        return math.prod(self.batch) * self.cameras

    def outward(self, value: Tensor) -> Tensor:
        """[I, N, ...] as meta has it."""
        tail = value.shape[2:]
        if self.rows is None:
            return value.reshape(*self.batch, self.cameras, self.count, *tail)
        return value.reshape(self.images * self.count, *tail).index_select(0, self.rows)

    def inward(self, value: Tensor) -> Tensor:
        """What `outward` gave, as [I, N, ...], zeros where it was left out."""
        tail = value.shape[(1 if self.rows is not None else len(self.batch) + 2) :]
        if self.rows is not None:
            value = value.new_zeros(self.images * self.count, *tail).index_copy(0, self.rows, value)
        return value.reshape(self.images, self.count, *tail)

    def ids(self) -> dict[str, Tensor | None]:
        """batch_ids, camera_ids and gaussian_ids, each int64 [nnz]; None when dense."""
        if self.rows is None:
            return {"batch_ids": None, "camera_ids": None, "gaussian_ids": None}
        cameras, count = max(1, self.cameras), max(1, self.count)
        image, gaussian = self.rows // count, self.rows % count
        return {"batch_ids": image // cameras, "camera_ids": image % cameras, "gaussian_ids": gaussian}


def make_meta(layout: Layout, splats: Splats2D, held: Tensor, tiles: TileLists) -> Meta:
    """
    Args:
        splats: [I, N].
        held: the tensor of 2D means whose gradient the caller reads, in the layout of meta.
    """
    columns, rows = -(-tiles.width // TILE), -(-tiles.height // TILE)

    def flatten_ids() -> Tensor:
        if layout.rows is None:
            return tiles.entries
        position = tiles.entries.new_zeros(layout.images * layout.count)
        position[layout.rows] = torch.arange(len(layout.rows), dtype=position.dtype, device=position.device)
        return position[tiles.entries.long()]

    def isect_ids() -> Tensor:
        """image | tile | depth bits (32); the tile takes as many bits as the number of tiles."""
        lists = torch.arange(layout.images * rows * columns, device=tiles.entries.device)
        image, tile = lists // (rows * columns), lists % (rows * columns)
        high = ((image << (rows * columns).bit_length()) | tile) << 32
        depths = splats.depths.detach().float().flatten()[tiles.entries.long()]
        return high.repeat_interleave(tiles.offsets.diff()) | depths.view(torch.int32).long()  # depths: not negative

    values = layout.ids() | {
        "radii": layout.outward(splats.radii),
        "means2d": held,
        "tile_width": columns,
        "tile_height": rows,
        "width": tiles.width,
        "height": tiles.height,
        "tile_size": TILE,
        "n_batches": math.prod(layout.batch),
        "n_cameras": layout.cameras,
    }
    later: dict[str, Callable[[], Tensor]] = {
        "depths": lambda: layout.outward(splats.depths),
        "conics": lambda: layout.outward(splats.conics),
        "opacities": lambda: layout.outward(splats.opacities),
        "tiles_per_gauss": lambda: layout.outward(tiles.tiles_per_splat.view(layout.images, layout.count).int()),
        "isect_ids": isect_ids,
        "flatten_ids": flatten_ids,
        "isect_offsets": lambda: tiles.offsets[:-1].view(*layout.batch, layout.cameras, rows, columns).int(),
    }
    return Meta(values, later)
