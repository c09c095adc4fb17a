"""The CUDA backend on a real GPU (tests/device_checks.py). The emulator (test_cuda_*.py) proves the kernels without
one; this proves what it cannot: the glue, the launch, the hardware. Without a GPU the checks themselves are checked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splat.core.ops import cuda_archs
from tests.device_checks import CHECKS, NEEDS_CUDA, Target

HAS_GPU = torch.cuda.is_available() and bool(cuda_archs())


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU, a CUDA build of torch, and CUDA kernels in the build")
@pytest.mark.parametrize("name", CHECKS)
def test_on_the_gpu(name: str) -> None:
    CHECKS[name](Target(torch.device("cuda")))


class Disturbed(Target):
    """Brings back something a little wrong."""

    def back(self, value: Tensor) -> Tensor:
        value = super().back(value)
        if value.numel() == 0:
            return value
        return 1.02 * value + 0.01 if value.is_floating_point() else value.roll(1, 0)


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - NEEDS_CUDA))
def test_a_check_passes_on_the_cpu_and_notices_what_is_wrong(name: str) -> None:
    cpu = torch.device("cpu")
    CHECKS[name](Target(cpu))
    with pytest.raises(AssertionError):
        CHECKS[name](Disturbed(cpu))
