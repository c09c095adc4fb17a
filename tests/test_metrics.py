"""PSNR, SSIM, MS-SSIM and the fused loss."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

import splat
from splat.core.reference.ssim import crop_border, ssim_maps
from splat.core.ssim import l1_ssim
from splat.loss import photometric_loss
from splat.metrics import ms_ssim, psnr, ssim


def pair(height: int = 64, width: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(height, width, 3, generator=g)
    return a, (a + 0.1 * torch.randn(height, width, 3, generator=g)).clamp(0, 1)


def test_equal_pictures_score_best() -> None:
    a, b = pair()
    assert psnr(a, a) == math.inf and ssim(a, a) == pytest.approx(1) and ms_ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) < 0.99 and ms_ssim(a, b) < 1
    assert psnr(torch.zeros(4, 4, 1), torch.full((4, 4, 1), 0.1)) == pytest.approx(20)


def test_constant_pictures_have_the_closed_form() -> None:
    a, b = torch.full((20, 20, 1), 0.3), torch.full((20, 20, 1), 0.7)
    assert ssim(a, b) == pytest.approx((2 * 0.21 + 1e-4) / (0.09 + 0.49 + 1e-4), rel=1e-6)


def test_a_window_is_a_weighted_covariance() -> None:
    a, b = (v.double() for v in pair(11, 11))
    taps = torch.exp(-0.5 * ((torch.arange(11).double() - 5) / 1.5) ** 2)
    w = (taps[:, None] * taps / taps.sum() ** 2)[..., None]
    ma, mb = (w * a).sum((0, 1)), (w * b).sum((0, 1))
    va, vb = (w * (a - ma) ** 2).sum((0, 1)), (w * (b - mb) ** 2).sum((0, 1))
    cov = (w * (a - ma) * (b - mb)).sum((0, 1))
    want = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    torch.testing.assert_close(ssim_maps(a[None], b[None])[0][0, 5, 5], want)


@pytest.mark.parametrize("size", [(1, 1), (5, 30), (11, 11), (200, 180)])
def test_any_size_has_a_score(size: tuple[int, int]) -> None:
    a, b = pair(*size)
    assert 0 <= ms_ssim(a, b) <= 1 and -1 <= ssim(a, b) <= 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"same shape \[H, W, D\], got \[4, 4, 1\] and \[4, 5, 1\]"):
        psnr(torch.zeros(4, 4, 1), torch.zeros(4, 5, 1))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 3), (1, 17, 33, 4), (1, 40, 70, 3), (1, 1, 40, 2)])
def test_the_fused_loss_is_the_reference(shape: tuple[int, ...], padding: Literal["same", "valid"]) -> None:
    g = torch.Generator().manual_seed(1)
    target = torch.rand(shape, generator=g)
    image = (target + 0.2 * torch.randn(shape, generator=g)).requires_grad_(True)
    wide = image.detach().double().requires_grad_(True)
    l1, similarity = l1_ssim(image, target, padding=padding, backend="cpu")
    want_l1, want = l1_ssim(wide, target.double(), padding=padding, backend="reference")
    torch.testing.assert_close(l1.double(), want_l1, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(similarity.double(), want, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(0.8 * l1 - 0.2 * similarity, image)
    (want_grad,) = torch.autograd.grad(0.8 * want_l1 - 0.2 * want, wide)
    assert (grad - want_grad).norm() <= 1e-4 * want_grad.norm()


def test_the_reference_loss_has_the_gradient_of_finite_differences() -> None:
    g = torch.Generator().manual_seed(2)
    image = torch.rand(1, 6, 7, 2, generator=g, dtype=torch.float64).requires_grad_(True)
    target = torch.rand(1, 6, 7, 2, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: photometric_loss(x, target), [image])


def test_the_loss_op_follows_torchs_rules_and_has_fixed_bits() -> None:
    a, b = (v[None] for v in pair(70, 33))
    torch.library.opcheck(torch.ops.splat.l1_ssim.default, (a.clone().requires_grad_(True), b, False))
    threads, results = splat.get_num_threads(), []
    for n in (1, 3):
        splat.set_num_threads(n)
        x = a.clone().requires_grad_(True)
        loss = photometric_loss(x, b)
        loss.backward()
        results.append((loss.detach(), x.grad))
    splat.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])  # type: ignore[arg-type]


def test_the_loss_refuses_what_it_cannot_do() -> None:
    a, b = (v[None] for v in pair(8, 8))
    with pytest.raises(ValueError, match="target must not require a gradient"):
        l1_ssim(a, b.requires_grad_(True))
    with pytest.raises(ValueError, match=r"target must have shape \[B, H, W, D\] = \[1, 8, 8, 3\], got \[1, 4, 8, 3\]"):
        l1_ssim(a, b.detach()[:, :4])


def test_ssim_by_strips_is_that_of_the_whole_picture() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(600, 31, 3, generator=g) for _ in range(2))
    whole = crop_border(ssim_maps(a[None].double(), b[None].double())[0]).mean()
    assert ssim(a, b) == pytest.approx(float(whole), rel=1e-9)


def test_masked_pixels_do_not_count() -> None:
    a, b = pair()
    mask = torch.zeros(64, 80, dtype=torch.bool)
    mask[10:50, 20:70] = True
    noise = torch.where(mask[..., None], b, torch.rand(b.shape, generator=torch.Generator().manual_seed(1)))
    assert psnr(b, a, mask=mask) == psnr(noise, a, mask=mask) == pytest.approx(psnr(b[10:50, 20:70], a[10:50, 20:70]))
    assert ssim(b, a, mask) == ssim(noise, a, mask)
    assert ssim(a, a, mask) == pytest.approx(1)
    small = torch.zeros_like(mask)
    small[30:32, 40:42] = True
    by_hand = ssim_maps(torch.where(small[..., None], b, a)[None].double(), a[None].double())[0][0, 30:32, 40:42].mean()
    assert ssim(b, a, small) == pytest.approx(float(by_hand))
    assert ssim(b, a, torch.ones_like(mask)) == pytest.approx(ssim(b, a))


def test_a_mask_must_fit_and_leave_something() -> None:
    a, b = pair()
    with pytest.raises(ValueError, match=r"mask must be bool \[H, W\] = \[64, 80\], got torch.bool \[64, 8\]"):
        psnr(a, b, mask=torch.ones(64, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must leave at least one pixel"):
        psnr(a, b, mask=torch.zeros(64, 80, dtype=torch.bool))
    edge = torch.zeros(64, 80, dtype=torch.bool)
    edge[:3] = True
    with pytest.raises(ValueError, match="5 or more from the border"):
        ssim(a, b, edge)
