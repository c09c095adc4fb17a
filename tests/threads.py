"""Whether results depend on the number of torch's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def same_bits_with_any_threads(compute: Callable[[], Sequence[Tensor]]) -> None:
    """Calls it with one and two threads, twice each."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results += [compute() for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for i, (got, wanted) in enumerate(zip(result, results[0], strict=True)):
            assert torch.equal(got, wanted), i
