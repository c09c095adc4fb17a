"""The oracle: each stage in plain torch, differentiable by autograd, on any device, in any float dtype."""

from __future__ import annotations

from torch import Tensor


def tie(output: Tensor, *inputs: Tensor | None) -> Tensor:
    """`output`, with zero gradients for those inputs that it does not depend on (nothing was drawn), where autograd
    would give none or refuse. An empty piece of each input is added: exactly 0, even if the input holds NaN."""
    for value in inputs:
        if value is not None:
            output = output + value.flatten()[:0].sum()
    return output
