"""Large pictures: bands are the whole, tiles leave no seams, an end of any kind costs one tile."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from splat.cli import main
from splat.core.rasterize_l2 import from_tiles
from splat.image import fit, fitter, large
from splat.image.bands import judge, render_bands
from splat.image.figures import MAX_PANEL, ErrorMaps
from splat.image.fit import FitConfig, FitResult, fit_image
from splat.image.fitter import FitProgress, Plan
from splat.image.large import LargeFit, enlarged, reduced
from splat.image.layout import RGB, Layout
from splat.image.model import ImageGaussians
from splat.image.picture import Picture, TextureMap, read_picture, write_picture
from splat.image.tiles import Box, Place, TileFit, draw_box, own_rows, plan_tiles, share_out
from splat.metrics import psnr

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"
NAMES = ("means", "log_scales", "angles", "colors")


def photo(height: int = 96, width: int = 128) -> torch.Tensor:
    return read_picture(PHOTO).pixels[200 : 200 + height, 300 : 300 + width].clone()


def some_model(count: int = 300, width: int = 150, height: int = 600) -> ImageGaussians:
    g = torch.Generator().manual_seed(0)
    means = torch.rand(count, 2, generator=g) * torch.tensor([width, height])
    log_scales = torch.rand(count, 2, generator=g) * 3
    angles, colors = torch.rand(count, generator=g) * 3, torch.rand(count, 3, generator=g) * 0.2
    return ImageGaussians(means, log_scales, angles, colors, width, height)


def same(a: ImageGaussians, b: ImageGaussians) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def test_bands_are_the_whole_render_and_judge_it_alike(tmp_path: Path) -> None:
    model = some_model()
    whole = model.render()
    bands = list(render_bands(model))
    assert len(bands) == 3 and torch.equal(torch.cat(bands), whole)
    picture = Picture(
        torch.rand(600, 150, 3, generator=torch.Generator().manual_seed(1)), Layout.of("RGB", 16), "noise"
    )
    shares: list[float] = []
    judged = judge(model, picture, tmp_path / "bands.png", tell=shares.append)
    clamped = whole.clamp(0, 1)
    (path,) = judged.levels.write()
    (once,) = write_picture(tmp_path / "whole.png", clamped, picture.layout)
    assert path.read_bytes() == once.read_bytes() and shares[-1] == 1.0
    (levels,) = judged.levels.files.values()
    assert np.array_equal(levels, (clamped * 65535 + 0.5).floor().numpy().astype(np.uint16))
    assert judged.scores.psnr == pytest.approx(psnr(clamped, picture.pixels), rel=1e-9)
    difference = clamped - picture.pixels
    maps = torch.stack([difference.mean(2), difference.abs().mean(2)])
    torch.testing.assert_close(judged.errors.maps, maps)


def test_the_error_maps_of_a_large_picture_are_averages() -> None:
    error = torch.rand(10, MAX_PANEL * 2 + 3, 1, generator=torch.Generator().manual_seed(0))
    maps = ErrorMaps(10, error.shape[1])
    for rows in error.split(4):  # not a multiple of the three rows that are averaged
        maps.add(rows, torch.zeros_like(rows))
    want = F.avg_pool2d(error[None, ..., 0], 3, ceil_mode=True)[0]
    torch.testing.assert_close(maps.maps[1], want)


# Tiles


@pytest.mark.parametrize(("width", "height", "side"), [(1, 1, 64), (130, 65, 64), (100, 700, 48), (64, 64, 5)])
def test_tiles_cover_every_pixel_once(width: int, height: int, side: int) -> None:
    count = torch.zeros(height, width)
    for box in plan_tiles(width, height, side):
        assert box.left % 16 == box.top % 16 == 0
        assert 0 < box.width <= max(side, 16) and 0 < box.height <= max(side, 16)
        box.of(count).add_(1)
    assert (count == 1).all()


def test_a_part_is_drawn_as_in_the_whole() -> None:
    model = some_model()
    box = Box(48, 96, 112, 250)
    assert torch.equal(draw_box(model, box), box.of(model.render()))


def test_gaussians_are_shared_out_where_the_error_is() -> None:
    # By brute force: the shares that make sum e m / (m + x) least.
    errors, counts = [4.0, 1.0, 0.01], [10, 10, 10]
    got = share_out(errors, counts, 12)

    def cost(x: tuple[int, int, int]) -> float:
        return sum(e * m / (m + s) for e, m, s in zip(errors, counts, x, strict=True))

    best = min((cost((a, b, 12 - a - b)), (a, b, 12 - a - b)) for a in range(13) for b in range(13 - a))
    assert sum(got) == 12 and cost((got[0], got[1], got[2])) == pytest.approx(best[0], rel=1e-3)
    assert share_out([1.0, 1.0], [8, 8], 10) == [5, 5]
    assert sum(share_out([0.0, 0.0, 0.0], [1, 0, 2], 10)) == 10


def test_gaussians_that_reach_out_of_the_window_stay() -> None:
    core, window = Box(64, 0, 128, 64), Box(16, 0, 176, 112)
    means = torch.tensor([[100.0, 30.0], [100.0, 30.0], [90.0, 2.0], [20.0, 30.0], [100.0, -5.0]])
    scales = torch.tensor([[3.0, 3.0], [40.0, 1.0], [15.0, 2.0], [1.0, 1.0], [2.0, 2.0]])
    model = ImageGaussians(means, scales.log(), torch.zeros(5), torch.zeros(5, 3), 300, 300)
    # The third one leaves the window over the picture's own border only, the last lies outside of that.
    assert own_rows(model, Place(core, window)).tolist() == [True, False, True, False, True]


def test_a_tile_lowers_the_error_of_the_whole_picture_by_as_much_as_its_own() -> None:
    pixels = photo(160, 160)
    model = fit_image(pixels, FitConfig(n=300, preset="draft", tile=0)).model
    place = Place(Box(64, 48, 112, 112), Box(16, 0, 160, 160))
    own = own_rows(model, place)
    others, mine = model.map(lambda t: t[~own]), model.map(lambda t: t[own])
    assert 10 < len(mine) < 150
    fit = TileFit(place.window.of(pixels), others, mine, place, Plan(len(mine) + 20))
    births = from_tiles(fit._wanting(torch.ones_like(fit.objective.target_tiles)), 144, 160)
    assert births.sum() == births[48:112, 48:96].sum() == 64 * 48 * 3  # new Gaussians are for the core
    for step in range(40):
        fit.advance(step / 40)
    fit.solve(4)
    joined = others.joined(fit.at_place(fit.model(), others))
    assert len(joined) == len(model) + 20

    def error(drawn: ImageGaussians, box: Box) -> float:
        return float((box.of(drawn.render()) - box.of(pixels)).square().double().sum())

    whole = Box(0, 0, 160, 160)
    assert fit.error(fit.psnr) == pytest.approx(error(joined, place.window), rel=1e-4)
    gain = error(model, place.window) - fit.error(fit.psnr)
    assert gain > 0 and error(model, whole) - error(joined, whole) == pytest.approx(gain, rel=1e-2)


def test_a_coarse_model_becomes_one_of_the_picture() -> None:
    pixels = photo(90, 122)
    small = reduced(pixels, 4)
    assert small.shape == (23, 31, 3)
    torch.testing.assert_close(small[0, 0], pixels[:4, :4].mean((0, 1)))
    torch.testing.assert_close(small[22, 30], pixels[88:, 120:].mean((0, 1)))
    model = fit_image(small, FitConfig(n=100, preset="draft", tile=0)).model
    large = enlarged(model, 4, 122, 90)
    assert (large.width, large.height) == (122, 90)
    assert psnr(large.render().clamp(0, 1), pixels) > 20
    assert psnr(large.scaled(0.25, 0.25).render().clamp(0, 1)[:22, :30], small[:22, :30]) > 25


def by_tiles(pixels: torch.Tensor, work: Path | None = None, **fields: int) -> FitResult:
    return fit_image(pixels, FitConfig(preset="draft", **fields), work=work)  # type: ignore[arg-type]


def test_tiles_leave_no_seam_and_are_as_good_as_the_whole() -> None:
    """A smooth gradient above a photograph, tiles of 64: beside their borders the error is no larger than elsewhere, or
    below half a level of 8 bits, which nobody sees."""
    ramp = torch.linspace(0.2, 0.9, 128)[None, :, None] * torch.linspace(0.5, 1, 96)[:, None, None]
    pixels = torch.cat([ramp * torch.tensor([1.0, 0.8, 0.6]), photo(96, 128)])
    result = by_tiles(pixels, n=300, tile=64)
    assert len(result.model) == 300 and not result.interrupted
    error = (result.model.render().clamp(0, 1) - pixels).square().mean(2)
    assert -10 * math.log10(float(error.mean())) == pytest.approx(result.psnr, abs=1e-3)
    near_seam = torch.zeros(192, 128, dtype=torch.bool)
    near_seam[61:67] = near_seam[125:131] = True
    near_seam[:, 61:67] = True
    for part in (slice(0, 88), slice(104, 192)):  # the gradient and the photograph, without the edge between them
        beside, elsewhere = error[part][near_seam[part]], error[part][~near_seam[part]]
        assert float(beside.mean()) < max(1.25 * float(elsewhere.mean()), (0.5 / 255) ** 2)
    # Measured 0.5 dB below the whole with tiles this small; with tiles of 1024 it is above (docs/image-large.md).
    assert result.psnr > by_tiles(pixels, n=300, tile=0).psnr - 1


def test_progress_tells_the_tile_and_the_psnr_of_the_whole() -> None:
    pixels, seen = photo(), []

    def look(progress: FitProgress) -> None:
        seen.append(progress)

    result = fit_image(pixels, FitConfig(n=120, preset="draft", tile=64), callback=look)
    assert seen[0].phase == "coarse" and {p.tile for p in seen} == {0, 1, 2, 3, 4}
    tiles = [p for p in seen if p.phase == "tiles"]
    assert all(0 <= p.step <= p.steps and math.isfinite(p.eta) for p in tiles)
    assert tiles[-1].psnr == pytest.approx(result.psnr, abs=0.2) and tiles[-1].n == 120
    assert tiles[-1].psnr > tiles[0].psnr + 3
    assert len(result.history) == 5 and result.history[-1]["psnr"] == result.psnr


def test_ctrl_c_keeps_what_is_there_and_the_same_call_goes_on(tmp_path: Path) -> None:
    pixels, work = photo(), tmp_path / "work.safetensors"
    config = FitConfig(n=120, preset="draft", tile=64)
    whole = fit_image(pixels, config)

    def stop(progress: FitProgress) -> None:
        if progress.tile == 3 and progress.n > 100:
            raise KeyboardInterrupt

    cut = fit_image(pixels, config, work=work, callback=stop)
    assert cut.interrupted and work.exists()
    assert psnr(cut.model.render().clamp(0, 1), pixels) == pytest.approx(cut.psnr, abs=1e-3)
    assert cut.history[0]["psnr"] < cut.psnr < whole.psnr
    seen: list[int] = []
    rest = fit_image(pixels, config, work=work, callback=lambda p: seen.append(p.tile))
    assert same(rest.model, whole.model) and set(seen) == {3, 4}
    # Finished, it is only read.
    assert same(fit_image(pixels, config, work=work).model, whole.model)


def test_the_fingerprint_is_of_the_picture_and_of_what_the_result_depends_on() -> None:
    picture = Picture(photo(), RGB, "photo")
    job = LargeFit(picture, Plan(100), 200, 64)
    other = picture.pixels.clone()
    other[-1, -1, -1] += 1e-6
    jobs = [job, replace(job, steps=201), replace(job, side=65), replace(job, dilation=0.1)]
    jobs += [replace(job, plan=plan) for plan in (Plan(101), Plan(100, seed=1), Plan(100, least_scale=0.1))]
    jobs.append(replace(job, picture=replace(picture, pixels=other)))
    assert len({j.fingerprint(None) for j in jobs} | {job.fingerprint(1.0)}) == 9
    assert job.fingerprint(None) == replace(job, work=Path("elsewhere")).fingerprint(None)


def test_another_fits_tiles_are_not_taken(tmp_path: Path) -> None:
    work = tmp_path / "work.safetensors"
    config = FitConfig(n=20, preset="draft", tile=16)
    fit_image(photo(16, 32), config, work=work)
    seen: list[int] = []
    fit_image(photo(16, 32).flip(0), config, work=work, callback=lambda p: seen.append(p.tile))
    assert seen[0] == 0


def test_a_damaged_work_file_starts_anew(tmp_path: Path) -> None:
    work = tmp_path / "work.safetensors"
    work.write_bytes(b"half of a file")
    result = by_tiles(photo(16, 32), work, n=20, tile=16)
    assert same(result.model, by_tiles(photo(16, 32), n=20, tile=16).model)


def test_after_a_kill_the_same_command_ends_with_the_same_bits(tmp_path: Path) -> None:
    write_picture(tmp_path / "photo.png", photo(64, 96), RGB)
    command = [sys.executable, "-m", "splat", "fit-image", str(tmp_path / "photo.png"), "-n", "120"]
    command += ["--tile", "32", "--preset", "draft", "--json-lines"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if json.loads(line).get("tile") == 3:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "killed").iterdir() if not p.name.startswith(".")] == ["unfinished.safetensors"]
    went_on: list[int] = []
    for name in ("killed", "straight"):
        output = subprocess.run(
            [*command, "-o", str(tmp_path / name)], stdout=subprocess.PIPE, text=True, env=environment, check=True
        ).stdout
        went_on.append(min(json.loads(line).get("tile", 99) for line in output.splitlines()))
        assert not (tmp_path / name / "unfinished.safetensors").exists()
    assert went_on[0] >= 2 and went_on[1] == 0
    a, b = (ImageGaussians.load(tmp_path / name / "model.safetensors") for name in ("killed", "straight"))
    assert same(a, b)


def test_a_time_limit_is_shared_by_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.perf_counter()]

    def clock() -> float:  # one for which other processes are nothing
        now[0] += 0.0005
        return now[0]

    for module in (fitter, large):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    result = fit_image(photo(), FitConfig(n=120, time=2.0, tile=64))
    ends = [row["seconds"] for row in result.history]
    assert len(ends) == 5 and ends[0] == pytest.approx(0.3, abs=0.1)  # the coarse fit, then four tiles of equal size
    assert [b - a for a, b in pairwise(ends)] == pytest.approx([1.7 / 4] * 4, abs=0.1)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_is_fitted_by_tiles(channels: int) -> None:
    image = photo(50, 40).mean(2, keepdim=True).repeat(1, 1, channels) * torch.linspace(0.5, 1, channels)
    result = by_tiles(image, n=40, tile=32)
    drawn, fitted = result.model.render().clamp(0, 1), read_picture(image).pixels  # colours times alpha
    assert drawn.shape == image.shape and result.psnr == pytest.approx(psnr(drawn, fitted), abs=0.01)
    assert "tiles" in result.seconds and result.psnr > 24


def test_a_model_for_any_size_comes_of_tiles_too() -> None:
    config = FitConfig(n=250, preset="draft").for_any_size()
    tiled, whole = (fit_image(photo(), replace(config, tile=side)) for side in (48, 0))
    assert tiled.model.dilation == whole.model.dilation == pytest.approx(1 / 12)
    assert tiled.psnr == pytest.approx(psnr(tiled.model.render().clamp(0, 1), photo()), abs=0.01)
    assert tiled.psnr > whole.psnr - 0.5
    assert float(tiled.model.log_scales.min()) >= math.log(config.least_scale) - 1e-6


@pytest.mark.parametrize("n", [1, 7])
def test_no_more_gaussians_than_were_asked_for_where_most_tiles_are_blank(n: int) -> None:
    image = torch.zeros(64, 64, 3)
    image[10:14, 20:24] = 1.0
    assert 1 <= len(by_tiles(image, n=n, tile=16).model) <= n


def test_a_file_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    some_model().save(model)
    for work, message in (
        (model, "holds something else"),
        (tmp_path / "photo.png", "ends in .safetensors"),
        (tmp_path / "none" / "none" / "a.safetensors", "no such folder"),
    ):
        with pytest.raises(ValueError, match=f"work.*{message}"):
            fit_image(photo(16, 32), FitConfig(n=20, tile=16, preset="draft"), work=str(work))
    assert same(ImageGaussians.load(model), some_model())


def test_a_work_file_with_other_numbers_in_it_starts_anew(tmp_path: Path) -> None:
    work = tmp_path / "work.safetensors"

    def stop(progress: FitProgress) -> None:
        if progress.tile == 2:
            raise KeyboardInterrupt

    config = FitConfig(n=20, tile=16, preset="draft")
    assert fit_image(photo(16, 32), config, work=work, callback=stop).interrupted
    data = bytearray(work.read_bytes())
    data[-8:] = b"\xff" * 8
    work.write_bytes(data)
    tiles: list[int] = []
    again = fit_image(photo(16, 32), config, work=work, callback=lambda p: tiles.append(p.tile))
    assert tiles[0] == 0 and same(again.model, by_tiles(photo(16, 32), n=20, tile=16).model)


def test_a_full_disk_costs_the_work_file_and_not_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.warns(RuntimeWarning, match="cannot be kept: .*No space left"):
        result = by_tiles(photo(16, 32), tmp_path / "work.safetensors", n=20, tile=16)
    assert not result.interrupted and not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"a.safetensors: cannot be written \(No space"):
        result.model.save(tmp_path / "a.safetensors")


def test_an_ordinary_fit_leaves_the_work_of_a_large_one_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "photo.png", photo(32, 48), RGB)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unfinished.safetensors").write_bytes(b"of another fit")
    with pytest.raises(SystemExit) as ended:
        main(["fit-image", str(tmp_path / "photo.png"), "-n", "9", "--preset", "draft", "-o", str(tmp_path / "out")])
    assert not ended.value.code and "goes on from there" not in capsys.readouterr().out
    assert (tmp_path / "out" / "unfinished.safetensors").read_bytes() == b"of another fit"


def test_bad_tiles_are_named() -> None:
    with pytest.raises(ValueError, match="tile"):
        FitConfig(tile=-1)
    with pytest.raises(TypeError, match="tile"):
        FitConfig(tile=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tile goes with n"):
        FitConfig(tile=512, target_psnr=30.0)


def test_what_tiles_cannot_do_is_fitted_as_a_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, ones = photo(32, 48), torch.ones(32, 48)
    hole = torch.zeros(32, 48, dtype=torch.bool)
    hole[5:9, 5:9] = True
    plain = FitConfig(n=20, preset="draft")
    ways: list[tuple[str, Any, FitConfig, dict[str, torch.Tensor]]] = [
        ("stacks", [TextureMap(pixels, name="a"), TextureMap(pixels, name="b")], plain, {}),
        ("weights or a hole", pixels, plain, {"weights": ones}),
        ("weights or a hole", pixels, plain, {"hole": hole}),
        ("an importance", pixels, plain, {"importance": ones}),
        ("blend topk", pixels, replace(plain, blend="topk"), {}),
    ]
    monkeypatch.setattr(fit, "TILED_FROM", 1000)
    monkeypatch.setattr(fit, "AUTO_TILE", 16)
    assert "tiles" in fit_image(pixels, plain).seconds
    for message, image, config, more in ways:
        assert "tiles" not in fit_image(image, config, **more).seconds  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"tile must be 0 or left out with {message}"):
            fit_image(image, replace(config, tile=16), **more)  # type: ignore[arg-type]


def test_a_box_is_drawn_as_the_whole_is_whatever_the_compositor() -> None:
    model = replace(some_model(), blend="topk", dilation=0.3)
    box = Box(32, 64, 112, 160)
    assert torch.equal(draw_box(model, box), box.of(model.render()))
