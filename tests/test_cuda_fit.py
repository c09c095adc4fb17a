"""The CUDA kernels of losses and image fits, emulated on the host, against the CPU backend."""

from __future__ import annotations

import ctypes

import pytest
import torch

import splat.core.project_image
import splat.core.ssim  # noqa: F401  (registers the ops)
from tests.emu.emulator import Emulator, build


@pytest.fixture(scope="module", params=["forward", "reversed"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(build(), reverse=request.param == "reversed")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 19, 33, 3), (1, 40, 16, 2)])
@pytest.mark.parametrize("valid", [False, True])
def test_loss_and_gradient_are_those_of_the_cpu(emulator: Emulator, shape: tuple[int, ...], valid: bool) -> None:
    g = torch.Generator().manual_seed(shape[1])
    image, target = torch.rand(shape, generator=g), torch.rand(shape, generator=g)
    border = 10 if valid and min(shape[1:3]) > 10 else 0
    batch, height, width, channels = shape
    values, counted = image.numel(), batch * (height - border) * (width - border) * channels
    numbers = (*shape, int(valid), values, counted)
    blocks = emulator.call("ssim", [image, target, *[None] * 5], numbers, 0)
    sums, result, v = torch.full((blocks, 2), torch.nan), torch.full((2,), torch.nan), torch.tensor([0.8, -0.2])
    maps, v_image = torch.full((3, *shape), torch.nan), torch.full(shape, torch.nan)
    tensors = [image, target, sums, result, v, maps, v_image]
    emulator.call("ssim", tensors, numbers, 1)
    torch.testing.assert_close(result, torch.ops.splat.l1_ssim(image, target, valid), rtol=1e-5, atol=1e-6)
    emulator.call("ssim", tensors, numbers, 2)
    wanted = torch.ops.splat.l1_ssim_backward(image, target, valid, v)
    assert (v_image - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("dilation", [0.0, 1 / 12])
def test_2d_front_end_and_gradient_are_those_of_the_cpu(emulator: Emulator, dilation: float) -> None:
    g = torch.Generator().manual_seed(0)
    count, width, height = 300, 50, 40
    means, log_scales = 70 * torch.rand(count, 2, generator=g) - 10, 4 * torch.rand(count, 2, generator=g) - 2
    angles, opacities = 6 * torch.rand(count, generator=g), torch.rand(count, generator=g)
    inputs = [means, log_scales, angles, opacities]
    conics, peaks, radii = torch.ops.splat.project_image(*inputs, width, height, 1 / 255, dilation)
    got_conics, got_peaks, got_radii = (torch.full_like(t, torch.nan) for t in (conics, peaks, radii.float()))
    got_radii = got_radii.int()
    numbers, reals = (count, width, height), (ctypes.c_float * 2)(1 / 255, dilation)
    emulator.call("project_image", [*inputs, got_radii, got_conics, got_peaks, *[None] * 5], numbers, reals)
    torch.testing.assert_close(got_conics, conics, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_peaks, peaks, rtol=1e-5, atol=1e-6)
    assert (got_radii - radii).abs().max() <= 1  # ceil of two roundings
    v, v_peaks = torch.randn(conics.shape, generator=g), torch.randn(peaks.shape, generator=g)
    wanted = torch.ops.splat.project_image_backward(*inputs[1:], dilation, radii, v, v_peaks)
    got = [torch.full_like(t, torch.nan) for t in inputs[1:]]
    emulator.call("project_image", [*inputs, radii, None, None, v, v_peaks, *got], numbers, reals)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_adam_is_the_cpus(emulator: Emulator) -> None:
    g = torch.Generator().manual_seed(0)
    rows, columns = 300, 3
    tables = [torch.rand(rows, columns, generator=g) for _ in range(4)]  # param, grad, exp_avg, exp_avg_sq
    steps = torch.randint(1, 50, (rows,), dtype=torch.int32, generator=g)
    ours = [t.clone() for t in tables]
    torch.ops.splat.adam(*ours, steps, 0.01, 0.9, 0.99, 1e-15)
    emulator.call("adam", [*tables, steps], (rows, columns), (ctypes.c_float * 4)(0.01, 0.9, 0.99, 1e-15))
    for a, b in zip(tables, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
