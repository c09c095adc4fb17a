"""Colour corrections of rendered pictures, one for each photo."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import splat
from splat.metrics import psnr
from splat.optim import GaussianAdam, LearningRates
from splat.rendering import Rendered
from splat.scene.exposure import AffineExposure, BilateralGrid, Exposure, fit_affine, psnr_cc
from splat.scene.slicing import LUMA, slice_grid
from splat.scene.small_adam import RowAdam
from tests.threads import same_bits_with_any_threads

KINDS: list[Callable[[int], AffineExposure | BilateralGrid]] = [AffineExposure, BilateralGrid]


def picture(height: int = 24, width: int = 33, seed: int = 0) -> Tensor:
    """Colours between and a little beyond 0 and 1."""
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1


def disturb(exposure: AffineExposure | BilateralGrid) -> None:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in exposure.parameters().values():
            table.copy_(torch.randn(table.shape, generator=g) * 0.1)


def fit(exposure: Exposure, rgb: Tensor, targets: list[Tensor], steps: int, weight: float = 0.0) -> float:
    """Root mean square error after learning the corrections of all targets."""
    adam = RowAdam(exposure.parameters(), {name: 5 * rate for name, rate in exposure.rates.items()})
    for k in range(steps):
        for row, target in enumerate(targets):
            loss = (exposure.correct(rgb, row) - target).square().mean() + weight * exposure.regulariser(row)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step([row], scale=0.01 ** (k / steps))
    with torch.no_grad():
        errors = [(exposure.correct(rgb, row) - target).square().mean() for row, target in enumerate(targets)]
    return math.sqrt(float(torch.stack(errors).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_changes_no_bit(kind: Callable[[int], AffineExposure | BilateralGrid]) -> None:
    exposure, rgb = kind(3), picture()
    for row in (0, 2, None):
        for rendered in (rgb, rgb[None]):
            assert torch.equal(exposure.correct(rendered, row), rendered)
    assert exposure.regulariser().item() == exposure.regulariser(1).item() == 0


def test_planted_matrices_are_found() -> None:
    exposure, rgb = AffineExposure(2), picture()
    gain = torch.tensor([[[1.3, 0.1, 0, 0.05], [0, 0.8, 0, -0.1], [0.2, 0, 1.1, 0]]])
    planted = torch.cat([gain, 2 * torch.eye(3, 4)[None] - gain])  # on average, none
    assert fit(exposure, rgb, [rgb @ m[:, :3].mT + m[:, 3] for m in planted], 300, weight=1e-3) < 1e-3
    assert torch.allclose(exposure.matrices(), planted, atol=5e-3)


def test_a_grid_follows_vignettes_and_tone_curves_that_a_matrix_cannot() -> None:
    rgb = picture().clamp(0, 1)
    x = torch.linspace(0, 1, rgb.shape[1])[:, None]
    luma = (rgb * rgb.new_tensor(LUMA)).sum(-1, keepdim=True)
    target = [rgb * (1 - 0.3 * x) * (1 + 0.4 * luma)]
    matrix, grid = fit(AffineExposure(1), rgb, target, 100), fit(BilateralGrid(1, (4, 4, 4)), rgb, target, 100)
    assert grid < 0.1 * matrix


def sampled(grid: Tensor, rgb: Tensor) -> Tensor:
    """The same by torch's grid_sample."""
    height, width, _ = rgb.shape
    x = ((torch.arange(width, dtype=rgb.dtype) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height, dtype=rgb.dtype) + 0.5) / height)[:, None].expand(height, width)
    place = torch.stack([x, y, (rgb * rgb.new_tensor(LUMA)).sum(-1)], -1) * 2 - 1
    nodes = grid.permute(2, 1, 0, 3)[None]
    at = F.grid_sample(nodes, place[None, None], align_corners=True, padding_mode="border")[0, :, 0]
    return torch.einsum("cdhw,hwd->hwc", at.view(3, 4, height, width), F.pad(rgb, (0, 1), value=1.0))


@pytest.mark.parametrize("shape", [(16, 16, 8), (5, 3, 2), (2, 2, 2)])
@pytest.mark.parametrize("size", [(24, 33), (1, 1), (3, 100), (150, 64)])
def test_slicing_is_trilinear(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    across, down, levels = shape
    grid = torch.randn(down, levels, 12, across, generator=g, dtype=torch.float64).requires_grad_()
    rgb = (torch.rand(*size, 3, generator=g, dtype=torch.float64) * 1.6 - 0.3).requires_grad_()
    grad = torch.randn(*size, 3, generator=g, dtype=torch.float64)
    got, wanted = slice_grid(grid, rgb), sampled(grid, rgb)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(v, (grid, rgb), grad) for v in (got, wanted)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_slicings_gradients_are_right() -> None:
    g = torch.Generator().manual_seed(0)
    grid = torch.randn(2, 3, 12, 3, generator=g, dtype=torch.float64).requires_grad_()
    rgb = (torch.rand(5, 7, 3, generator=g, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    assert torch.autograd.gradcheck(slice_grid, (grid, rgb))


@pytest.mark.parametrize("kind", [AffineExposure, lambda images: BilateralGrid(images, (4, 4, 4))])
def test_a_scene_is_learnt_from_photos_of_different_exposure(kind: Callable[[int], Exposure]) -> None:
    gains = torch.tensor([0.6, 1.4, 0.8, 1.2])  # 1 on average
    truth = splat.Gaussians.random(80, seed=1)
    cameras = splat.Cameras.orbit(8, radius=3.0, width=48, height=36)
    background = torch.full((3,), 0.5)
    views = [splat.render(truth, cameras[c], background=background).color for c in range(8)]
    photos = [gain * views[2 * row] for row, gain in enumerate(gains)]  # the odd views are held out

    def held_out(exposure: Exposure | None) -> tuple[float, float]:
        """PSNR plain and after `fit_affine`."""
        adam = GaussianAdam(replace(truth, sh0=torch.zeros_like(truth.sh0)), LearningRates(sh0=0.02))
        rows = RowAdam(exposure.parameters(), exposure.rates) if exposure else None
        for k in range(120):
            row = k % 4

            def loss_of(view: Rendered, row: int = row) -> Tensor:
                color = exposure.correct(view.color, row) if exposure else view.color
                extra = 0.1 * exposure.regulariser(row) if exposure else 0
                return (color - photos[row]).abs().mean() + extra

            adam.step(cameras[2 * row], loss_of, background=background)
            if rows:
                rows.step([row])
        scores = []
        for c in (1, 3, 5, 7):
            color = splat.render(adam.gaussians, cameras[c], background=background).color[0]
            if exposure:
                color = exposure.correct(color, None).detach()
            scores.append(torch.tensor([psnr(color, views[c][0]), psnr_cc(color, views[c][0])]))
        plain, corrected = torch.stack(scores).mean(0).tolist()
        return plain, corrected

    without, compensated = held_out(None), held_out(kind(4))
    assert compensated[0] > without[0] + 3 and compensated[1] > without[1] + 3


def test_a_broken_colour_breaks_its_own_pixel_only() -> None:
    exposure, rgb = BilateralGrid(1), picture()
    disturb(exposure)
    broken = rgb.clone()
    broken[3, 4, 1] = math.nan
    both = [exposure.correct(p, 0).detach() for p in (rgb, broken)]
    differs = (both[0] != both[1]).any(-1)
    assert differs[3, 4] and int(differs.sum()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(97, 131), (1, 3000), (250, 333)])
def test_bits_do_not_depend_on_threads(
    kind: Callable[[int], AffineExposure | BilateralGrid], size: tuple[int, int]
) -> None:
    rgb, grad = picture(*size), picture(*size, seed=2)

    def everything() -> list[Tensor]:
        exposure, rendered = kind(2), rgb.clone().requires_grad_()
        disturb(exposure)
        out = exposure.correct(rendered, 1)
        loss = exposure.regulariser(1)
        torch.autograd.backward((out, loss), (grad, torch.ones(())))
        assert rendered.grad is not None
        tables = [t.grad for t in exposure.parameters().values() if t.grad is not None]
        assert len(tables) == 1
        return [out.detach(), loss.detach(), rendered.grad, *tables]

    same_bits_with_any_threads(everything)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_exposure_is_the_average(kind: Callable[[int], AffineExposure | BilateralGrid]) -> None:
    exposure, rgb = kind(4), picture().clamp(0.1, 0.9)
    disturb(exposure)
    each = torch.stack([exposure.correct(rgb, row) for row in range(4)])
    assert torch.allclose(exposure.correct(rgb, None), each.mean(0), atol=1e-6)


def test_total_variation_of_a_ramp() -> None:
    exposure = BilateralGrid(2, (5, 4, 3))
    table = exposure.parameters()["exposure_grid"]
    with torch.no_grad():
        table[0] = 7.0
        table[1] = 0.5 * torch.arange(5.0)
    assert exposure.regulariser(0).item() == 0
    assert exposure.regulariser(1).item() == pytest.approx(0.25)
    assert exposure.regulariser().item() == pytest.approx(0.125)
    with torch.no_grad():
        table[1] = 0.5 * torch.arange(3.0)[:, None, None] + 2 * torch.arange(4.0)[:, None, None, None]
    assert exposure.regulariser(1).item() == pytest.approx(0.25 + 4)


def test_matrices_may_differ_but_not_drift_together() -> None:
    exposure = AffineExposure(2)
    table = exposure.parameters()["exposure_affine"]
    with torch.no_grad():
        table[0], table[1] = 0.3, -0.3
    assert exposure.regulariser().item() == 0
    with torch.no_grad():
        table[1] = 0.3
    assert exposure.regulariser().item() == pytest.approx(2 * 12 * 0.09)


def test_planted_gains_and_offsets_are_taken_out() -> None:
    truth = picture().clamp(0, 1)
    rendered = truth * torch.tensor([0.7, 1.2, 0.9]) + torch.tensor([0.1, -0.05, 0.02])
    assert torch.allclose(fit_affine(rendered, truth), truth, atol=1e-6)
    assert psnr(rendered, truth) < 22 and psnr_cc(rendered, truth) > 110
    assert bool(torch.isfinite(fit_affine(torch.zeros_like(truth), truth)).all())  # nothing to go by
    assert bool(torch.isfinite(fit_affine(truth, torch.ones_like(truth))).all())


def test_unfitting_pictures_and_checkpoints_are_named() -> None:
    exposure = AffineExposure(2)
    with pytest.raises(ValueError, match=r"rendered must have shape .*, got \[2, 4, 4, 3\]"):
        exposure.correct(torch.zeros(2, 4, 4, 3), 0)
    with pytest.raises(ValueError, match=r"row must be in 0 \.\. 1, got 2"):
        exposure.correct(torch.zeros(4, 4, 3), 2)
    with pytest.raises(ValueError, match="shape must be three numbers of nodes"):
        BilateralGrid(2, (16, 16, 1))
    with pytest.raises(ValueError, match="the same shape"):
        fit_affine(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match=r"exposure_affine must be torch.float32 \[2, 3, 4\], got .* \[3, 3, 4\]"):
        exposure.load_state(AffineExposure(3).state())
    with pytest.raises(ValueError, match=r"state must hold exposure_affine .*, got exposure_grid"):
        exposure.load_state(BilateralGrid(2).state())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_brings_the_corrections_back(kind: Callable[[int], AffineExposure | BilateralGrid]) -> None:
    first, second, rgb = kind(2), kind(2), picture()
    disturb(first)
    second.load_state(first.state())
    assert torch.equal(first.correct(rgb, 1), second.correct(rgb, 1))
    assert not torch.equal(first.correct(rgb, 1), rgb)
