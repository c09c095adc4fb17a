"""gsplat's meta: what a render went through, dense [..., C, N, ...] or packed [nnz, ...]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from splat.compat.intersections import list_keys
from splat.core.binning import TILE, TileLists
from splat.core.project import Splats2D


class Meta(dict[str, Any]):
    """A dict some of whose values are computed when they are first read: few callers want them, and they cost as much
    as a stage of the render. dict's own methods look past __getitem__, hence those of MutableMapping."""

    def __init__(self, values: dict[str, Any], later: dict[str, Callable[[], Any]]) -> None:
        super().__init__(values | dict.fromkeys(later))
        self._later = dict(later)

    def __getitem__(self, name: str) -> Any:
        if name in self._later:
            self[name] = self._later[name]()
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._later.pop(name, None)
        super().__setitem__(name, value)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # overridden so that dict(meta) and {**meta} go through __getitem__

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    get = MutableMapping.get  # type: ignore[assignment]
    pop = MutableMapping.pop
    items = MutableMapping.items  # type: ignore[assignment]
    values = MutableMapping.values  # type: ignore[assignment]
    update = MutableMapping.update


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

    def ids(self, step: int, size: int) -> Tensor | None:
        """int64 [nnz]: which of `size` things each packed splat belongs to, one coming every `step` splats of the dense
        layout. None when dense."""
        return None if self.rows is None else self.rows // max(1, step) % max(1, size)

    def strides(self) -> dict[str, tuple[int, int]]:
        """What `ids` takes for gsplat's names of them."""
        scenes = math.prod(self.batch)
        return {
            "batch_ids": (self.cameras * self.count, scenes),
            "camera_ids": (self.count, self.cameras),
            "gaussian_ids": (1, self.count),
        }


def make_meta(layout: Layout, splats: Splats2D, held: Tensor, tiles: TileLists) -> Meta:
    """gsplat's names and what they hold.

    Args:
        splats: [I, N].
        held: the tensor of 2D means whose gradient the caller reads, in the layout of meta.
    """
    columns, rows = -(-tiles.width // TILE), -(-tiles.height // TILE)
    scenes, cameras, count = math.prod(layout.batch), layout.cameras, layout.count

    def flatten_ids() -> Tensor:
        if layout.rows is None:
            return tiles.entries
        position = tiles.entries.new_zeros(scenes * cameras * count)
        position[layout.rows] = torch.arange(len(layout.rows), dtype=position.dtype, device=position.device)
        return position[tiles.entries.long()]

    def isect_ids() -> Tensor:
        lists = torch.arange(scenes * cameras * rows * columns, device=tiles.entries.device)
        lists = lists.repeat_interleave(tiles.offsets.diff())
        depths = splats.depths.flatten()[tiles.entries.long()]
        return list_keys(lists // (rows * columns), lists % (rows * columns), depths, rows * columns)

    values: dict[str, Any] = {
        "means2d": held,
        "tile_width": columns,
        "tile_height": rows,
        "width": tiles.width,
        "height": tiles.height,
        "tile_size": TILE,
        "n_batches": scenes,
        "n_cameras": cameras,
    }
    later: dict[str, Callable[[], Tensor | None]] = {
        **{name: partial(layout.ids, *stride) for name, stride in layout.strides().items()},
        "radii": lambda: layout.outward(splats.radii),
        "depths": lambda: layout.outward(splats.depths),
        "conics": lambda: layout.outward(splats.conics),
        "opacities": lambda: layout.outward(splats.opacities),
        "tiles_per_gauss": lambda: layout.outward(tiles.tiles_per_splat.view(scenes * cameras, count).int()),
        "isect_ids": isect_ids,
        "flatten_ids": flatten_ids,
        "isect_offsets": lambda: tiles.offsets[:-1].view(*layout.batch, cameras, rows, columns).int(),
    }
    return Meta(values, later)
