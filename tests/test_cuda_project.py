"""The CUDA projection and harmonics, emulated on the host, against the CPU backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import splat.core.project
import splat.core.sh  # noqa: F401  (registers the ops)
from tests.emu.emulator import Emulator, build

REALS = (0.3, 0.01, 1e10, 0.0)


@pytest.fixture(scope="module", params=["forward", "reversed"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(build(), reverse=request.param == "reversed")


def scene(count: int, covars: bool, cameras: int = 3) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(count)
    means = torch.randn(count, 3, generator=g) * torch.tensor([2.0, 2.0, 3.0])  # some behind the cameras
    quats, scales = torch.randn(count, 4, generator=g), 0.02 + 0.3 * torch.rand(count, 3, generator=g)
    if count > 4:
        quats[2], means[3, 0] = 0.0, torch.nan  # degenerate: culled, gradients of zero
    root = torch.randn(count, 3, 3, generator=g) * 0.2
    shape = [None, None, root @ root.mT] if covars else [quats, scales, None]
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, :3] = torch.linalg.qr(torch.eye(3) + 0.3 * torch.randn(cameras, 3, 3, generator=g)).Q
    viewmats[:, 2, 3] = 4.0
    Ks = torch.tensor([[50.0, 0, 30], [0, 55, 22], [0, 0, 1]]).repeat(cameras, 1, 1)
    return [means, *shape, torch.rand(count, generator=g), viewmats, Ks]


@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("model", [0, 1, 2])
@pytest.mark.parametrize(("count", "raw"), [(1, False), (300, False), (300, True)])
def test_splats_and_gradients_are_those_of_the_cpu(
    emulator: Emulator, count: int, raw: bool, model: int, covars: bool
) -> None:
    inputs, how = scene(count, covars), (64, 48, model, int(count > 1), int(raw))
    if raw:
        inputs[2] = None if inputs[2] is None else inputs[2].log()
        inputs[4] = inputs[4].logit()  # type: ignore[union-attr]
    arguments = (*how[:2], *REALS, model, bool(how[3]), raw)
    exact = [None if t is None else t.double() for t in inputs]
    wanted, true = (torch.ops.splat.project(*tensors, *arguments) for tensors in (inputs, exact))
    got = emulator.project(inputs, how, REALS)
    assert torch.equal(got[4], wanted[4])
    for name, *each in zip(("means2d", "depths", "conics", "opacities"), got, wanted, true, strict=False):
        assert_as_close(name, *each)
    g = torch.Generator().manual_seed(1)
    v = [torch.randn(t.shape, generator=g) for t in wanted[:4]]
    wanted_v = torch.ops.splat.project_backward(*inputs, *arguments, wanted[4], *v)
    true_v = torch.ops.splat.project_backward(*exact, *arguments, wanted[4], *(t.double() for t in v))
    got_v = emulator.project_backward(inputs, how, REALS, got, v)
    names = ("means", "quats", "scales", "covars", "opacities", "viewmats", "Ks")
    for name, a, b, c in zip(names, got_v, wanted_v, true_v, strict=True):
        if a is not None:
            assert_as_close(name, a, b, c)


def assert_as_close(name: str, got: Tensor, cpu: Tensor, true: Tensor) -> None:
    """About as close to the float64 result as the CPU's float32: thin Gaussians lose digits on both, by the luck of
    rounding some times more on one."""
    assert torch.isfinite(got).all(), name
    bound = 10 * (cpu.double() - true).norm() + 1e-6 * true.norm()
    assert (got.double() - true).norm() <= bound, name


def test_nothing_to_project(emulator: Emulator) -> None:
    inputs, how = scene(0, False), (64, 48, 0, 0, 0)
    got = emulator.project(inputs, how, REALS)
    v = emulator.project_backward(inputs, how, REALS, got, got[:4])
    assert (v[5] == 0).all() and (v[6] == 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(("degree", "channels"), [(0, 3), (1, 1), (3, 3), (4, 5)])
def test_harmonics_are_those_of_the_cpu(emulator: Emulator, degree: int, channels: int) -> None:
    g = torch.Generator().manual_seed(degree)
    means, _, _, _, _, viewmats, _ = scene(280, False)
    assert means is not None and viewmats is not None
    means = means.nan_to_num(0.0)
    sh0, shN = (torch.randn(280, n, channels, generator=g) for n in (1, (degree + 1) ** 2 + 1))
    radii = torch.randint(0, 3, (len(viewmats), 280, 2), dtype=torch.int32, generator=g)
    inputs = [means, viewmats, sh0, shN, radii]
    colors = torch.ops.splat.sh(*inputs, degree)
    torch.testing.assert_close(emulator.sh(inputs, degree), colors, rtol=1e-5, atol=1e-5)
    v = torch.randn(colors.shape, generator=g)
    wanted = torch.ops.splat.sh_backward(*inputs, degree, colors, v)
    for name, a, b in zip(
        ("means", "viewmats", "sh0", "shN"), emulator.sh_backward(inputs, degree, colors, v), wanted, strict=True
    ):
        assert torch.isfinite(a).all() and (a - b).norm() <= 1e-5 * b.norm() + 1e-6, name
