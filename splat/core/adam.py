"""Adam in place, with a step count per row."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import check_device


@dataclass(frozen=True)
class AdamRule:
    """The constants of Adam (Kingma & Ba 2015)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-15
    """As 3DGS has it: gradients of a Gaussian that covers few pixels are tiny."""


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: Tensor,
    learning_rate: float,
    rule: AdamRule = AdamRule(),
) -> None:
    """One Adam step in place; steps int32 [rows] counts from 1 for each row (its own bias correction)."""
    for name, value in (("grad", grad), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("steps", steps)):
        check_device(name, value, "param", param)
    native = param.device.type == "cpu" or (param.is_cuda and bool(ops.cuda_archs()))
    if ops.available and param.dtype == torch.float32 and native:
        torch.ops.splat.adam(param, grad, exp_avg, exp_avg_sq, steps, learning_rate, *astuple(rule))
        return
    exp_avg.lerp_(grad, 1 - rule.beta1)
    exp_avg_sq.lerp_(grad * grad, 1 - rule.beta2)
    t = steps.to(param.dtype).view(-1, *[1] * (param.dim() - 1))
    mean, square = exp_avg / (1 - rule.beta1**t), exp_avg_sq / (1 - rule.beta2**t)
    param.sub_(learning_rate * mean / (square.sqrt() + rule.epsilon))
