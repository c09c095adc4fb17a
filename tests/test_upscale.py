"""Enlarging pictures: the fit for any size, the floor under the scales, the held-out test."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from splat.cli import main
from splat.image.fit import PIXEL_SCALE, FitConfig, fit_image
from splat.image.fitter import FitProgress
from splat.image.model import ImageGaussians
from splat.image.picture import Picture, PictureError, read_picture
from splat.image.upscale import held_out, upscale
from splat.metrics import psnr

PHOTOS = Path(__file__).parent.parent / "scenes" / "photos"


def crop(size: int, name: str = "kodim05") -> Picture:
    picture = read_picture(PHOTOS / f"{name}.png")
    return replace(picture, pixels=picture.pixels[60 : 60 + size, 200 : 200 + size].clone())


def test_gaussians_enlarge_a_detailed_photo_better_than_pillows_filters() -> None:
    test = held_out(crop(128), 2)
    assert test is not None
    assert test.gaussians > test.lanczos + 0.4 > test.bicubic + 0.4 > 20


def test_on_a_smooth_grainy_photo_they_lose_a_little() -> None:
    test = held_out(crop(128, "kodim23"), 2)
    assert test is not None
    assert test.gaussians > test.lanczos - 1.5 > 38


def test_the_held_out_test_is_what_it_says() -> None:
    whole = replace(crop(67), name="odd")
    test = held_out(whole, 2)
    assert test is not None
    used = whole.pixels[:66, :66]
    small = F.avg_pool2d(used.permute(2, 0, 1), 2).permute(1, 2, 0).mul(255).round().byte().numpy()
    for kind, got in ((Image.Resampling.BICUBIC, test.bicubic), (Image.Resampling.LANCZOS, test.lanczos)):
        large = np.asarray(Image.fromarray(small).resize((66, 66), kind)).copy()
        assert got == pytest.approx(psnr(torch.from_numpy(large).float() / 255, used), abs=0.05)
    enlarged, result = upscale(replace(whole, pixels=torch.from_numpy(small).float() / 255), 2)
    assert test.gaussians == pytest.approx(psnr(enlarged, used), abs=1e-6)
    assert len(result.model) <= 33 * 33 // 4


def test_the_enlarged_picture_has_the_pictures_means() -> None:
    """Each square of small pixels averages to the pixel that it came from, as far as the fit goes."""
    picture = crop(64)
    enlarged, result = upscale(picture, 4)
    assert enlarged.shape == (256, 256, 3) and enlarged.min() >= 0 and enlarged.max() <= 1
    fitted = result.model.render()
    off = []
    for dilation in (1 / 12, 16 / 12):  # of the small pixels; of the large ones, a second time
        large = replace(result.model, dilation=dilation).render(scale=4.0)
        off.append((F.avg_pool2d(large.permute(2, 0, 1), 4).permute(1, 2, 0) - fitted).norm())
    assert psnr(fitted, picture.pixels) > 36
    assert off[0] < 0.01 * (fitted - fitted.mean()).norm() and off[0] < 0.2 * off[1]


def test_no_gaussian_is_narrower_than_the_floor() -> None:
    picture = crop(48)
    config = FitConfig(n=400, preset="draft").for_any_size()
    assert fit_image(picture, config).model.log_scales.min() >= math.log(PIXEL_SCALE) - 1e-6
    free = fit_image(picture, replace(config, least_scale=0.0))
    assert free.model.log_scales.min() < math.log(0.5 * PIXEL_SCALE)
    assert free.model.dilation == pytest.approx(1 / 12)


def test_a_stop_ends_the_test() -> None:
    def stop(progress: FitProgress) -> None:
        raise KeyboardInterrupt

    assert held_out(crop(40), 2, callback=stop) is None


@pytest.mark.parametrize("factor", [1, 9])
def test_a_bad_factor_is_named(factor: int) -> None:
    for call in (upscale, held_out):
        with pytest.raises(ValueError, match=r"factor must be in 2 \.\. 8"):
            call(crop(40), factor)


def test_a_picture_too_small_for_the_test() -> None:
    with pytest.raises(PictureError, match="needs 48 pixels a side for a factor of 3, got 40 x 40"):
        held_out(crop(40), 3)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_the_command_writes_the_picture_and_prints_the_test(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(PHOTOS / "kodim23.png") as photo:
        photo.crop((200, 60, 236, 92)).convert(mode).save(tmp_path / "small.png")
    arguments = ["upscale", tmp_path / "small.png", "-o", tmp_path / "big.png", "--model", tmp_path / "m.safetensors"]
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments), "--quiet"])
    assert not end.value.code
    with Image.open(tmp_path / "big.png") as big:
        assert big.size == (72, 64) and big.mode == mode
    said = capsys.readouterr().out
    assert "72 x 64, 288 Gaussians" in said
    assert "held out" in said and "bicubic" in said and "Lanczos" in said
    model = ImageGaussians.load(tmp_path / "m.safetensors")
    shown = model.render(scale=2.0).clamp(0, 1)
    assert psnr(shown, read_picture(tmp_path / "big.png").pixels) > 50


def test_a_name_that_cannot_be_written_is_found_before_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["upscale", str(PHOTOS / "kodim23.png"), "-o", str(tmp_path / "big.gif")])
    assert end.value.code == 2
    assert "must end in .png" in capsys.readouterr().err
