"""gsplat.distributed: what starts a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from splat.compat.unsupported import RANKS, unsupported

all_gather_int32 = unsupported("all_gather_int32", RANKS)
all_to_all_int32 = unsupported("all_to_all_int32", RANKS)
all_gather_tensor_list = unsupported("all_gather_tensor_list", RANKS)
all_to_all_tensor_list = unsupported("all_to_all_tensor_list", RANKS)


def cli(fn: Callable[[int, int, int, Any], None], args: Any, verbose: bool = False) -> bool:
    """Calls fn(local_rank, world_rank, world_size, args) once, as rank 0 of 1: gsplat starts a process for each GPU,
    splat draws a scene on one device."""
    fn(0, 0, 1, args)
    if verbose:
        print("done")
    return True
