"""splat.io: what is written comes back, whatever the format; how the format is chosen; what a file is said to hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import splat
from splat.gaussians import Gaussians
from splat.io import load_gaussians, save_gaussians
from splat.io.arrays import Arrays
from splat.io.describe import describe
from splat.io.quantise import of_smallest_three, smallest_three
from tests.io_models import HIGHEST, Differences, matched, model, name_of, with_extremes

# Half a step of each format's numbers, for the ranges of `model`: positions within 4, log scales within 8 (or the range
# of a chunk), colours within 8 in 255 steps. Angles: three components each wrong by half a step, seen from the fourth.
HALF = 0.5 + 1e-3
BOUNDS = {
    ".compressed.ply": Differences(
        means=4 / 1023 * HALF,
        angle=4 * math.sqrt(2) / 1023,
        log_scales=8 / 1023 * HALF,
        opacities=HALF / 255,
        sh0=8 / 255 * HALF,
        shN=8 / 256 * HALF,
    ),
    ".spz": Differences(
        means=2.0**-12 * HALF,
        angle=2 * math.sqrt(2) / 511,
        log_scales=HALF / 16,
        opacities=HALF / 255,
        sh0=HALF / 255 / 0.15,
        shN=8.5 / 128 + 1e-4,
    ),
    ".splat": Differences(means=0, angle=4 / 128, log_scales=1e-5, opacities=HALF / 255, sh0=2.4, shN=0),
    ".sog": Differences(
        means=3 * 2 * math.log(3) / 65535 * HALF,
        angle=4 * math.sqrt(2) / 255,
        log_scales=0.03,
        opacities=HALF / 255,
        sh0=0.03,
        shN=0.03,
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ply"])
@pytest.mark.parametrize("degree", range(5))
def test_lossless_formats_return_the_same_bits(tmp_path: Path, suffix: str, degree: int) -> None:
    wanted = model(50, degree)
    save_gaussians(tmp_path / f"m{suffix}", wanted)
    got = load_gaussians(tmp_path / f"m{suffix}")
    for name, value in wanted.parameters().items():
        assert torch.equal(getattr(got, name), value), name


@pytest.mark.parametrize("suffix", BOUNDS)
def test_packed_formats_return_the_model_to_half_a_step(tmp_path: Path, suffix: str) -> None:
    degree = HIGHEST[suffix]
    wanted = model(300, degree)
    # A palette as large as the model loses only what its codebook does.
    save_gaussians(tmp_path / f"m{suffix}", wanted, **({"palette_size": 300} if suffix == ".sog" else {}))
    got = matched(load_gaussians(tmp_path / f"m{suffix}"), wanted)
    differences = Differences.between(got, wanted)
    assert differences.within(BOUNDS[suffix]), differences


def test_glb_returns_the_model(tmp_path: Path) -> None:
    wanted = model(100, 3)
    save_gaussians(tmp_path / "m.glb", wanted)
    got = load_gaussians(tmp_path / "m.glb")
    assert torch.equal(got.means, wanted.means) and torch.equal(got.shN, wanted.shN)
    # The rest is stored activated: an opacity near 1 has fewer bits than its logit.
    assert Differences.between(got, wanted).within(Differences(0, 1e-6, 2e-6, 1e-6, 0, 0))


@pytest.mark.parametrize("suffix", HIGHEST)
@pytest.mark.parametrize("count", [1, 2, 5, 257])
def test_every_format_holds_any_number(tmp_path: Path, suffix: str, count: int) -> None:
    path = name_of(suffix, tmp_path)
    for degree in (0, min(1, HIGHEST[suffix]), HIGHEST[suffix]):
        save_gaussians(path, model(count, degree))
        got = load_gaussians(path)
        assert (len(got), got.sh_degree) == (count, degree)
        assert all(value.dtype == torch.float32 for value in got.parameters().values())


@pytest.mark.parametrize("suffix", [s for s in HIGHEST if s != ".safetensors"])  # that library's order varies
def test_the_same_model_gives_the_same_bytes_and_no_temporary_file(tmp_path: Path, suffix: str) -> None:
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        save_gaussians(name_of(suffix, folder), model(70, min(2, HIGHEST[suffix])))
        folders.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert folders[0] == folders[1]
    assert not any(name.startswith(".") for name in folders[0])


@pytest.mark.parametrize("suffix", HIGHEST)
def test_extreme_values_survive_and_what_cannot_be_drawn_is_left_out(tmp_path: Path, suffix: str) -> None:
    path = name_of(suffix, tmp_path)
    wanted = with_extremes(model(40, min(1, HIGHEST[suffix])))
    save_gaussians(path, wanted)
    got = load_gaussians(path)
    if suffix in (".ply", ".safetensors"):
        assert len(got) == 40 and torch.equal(got.valid, wanted.valid)
    else:
        assert len(got) == 35 and bool(got.valid.all())
    drawn = matched(got.select(got.valid), wanted.select(wanted.valid))
    assert drawn.opacities[0] > 0.999 and drawn.opacities[1] < 1e-3
    assert drawn.scales[2, 1] < 1e-4
    seen = wanted.sh0[1].clamp(-1.77, 1.77) if suffix == ".splat" else wanted.sh0[1]  # the colours 0 .. 1
    torch.testing.assert_close(drawn.sh0[1], seen, atol=0.02, rtol=0)  # no alpha of 0 has eaten the colour
    assert suffix == ".safetensors" or bool(drawn.opacity_logits.isfinite().all())


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".spz"])
def test_a_model_without_gaussians_is_a_file(tmp_path: Path, suffix: str) -> None:
    save_gaussians(tmp_path / f"m{suffix}", model(0, 1))
    got = load_gaussians(tmp_path / f"m{suffix}")
    assert len(got) == 0 and got.sh_degree == 1


@pytest.mark.parametrize("suffix", [".splat", ".sog", ".glb"])
def test_formats_that_cannot_be_empty_say_so(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=f"m{suffix}"):
        save_gaussians(tmp_path / f"m{suffix}", model(0))
    assert not list(tmp_path.iterdir())


def test_gradients_other_dtypes_and_views_are_written(tmp_path: Path) -> None:
    wanted = model(20, 1)
    save_gaussians(tmp_path / "a.ply", wanted.to(torch.float64).map(lambda t: t.clone()).requires_grad_())
    save_gaussians(tmp_path / "b.ply", wanted.map(lambda t: t.repeat_interleave(2, 0)[::2]))
    save_gaussians(tmp_path / "c.ply", wanted)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes() == (tmp_path / "c.ply").read_bytes()


@pytest.mark.parametrize("axes", [(1, -1, -1), (-1, -1, 1), (-1, 1, -1)])
def test_a_turned_model_looks_the_same_to_a_turned_camera(axes: tuple[int, int, int]) -> None:
    gaussians = model(60, 4)
    cameras = splat.Cameras.look_at((3.0, 2.0, -4.0), (0.0, 0.0, 0.0), width=48, height=40, fov_y=50.0)
    turned = Arrays.of(gaussians, drawable=True).turned(*axes).gaussians()
    flip = torch.diag(torch.tensor([*axes, 1.0]))
    seen = splat.render(gaussians, cameras).color
    again = splat.render(turned, replace(cameras, viewmats=cameras.viewmats @ flip)).color
    assert seen.std() > 0.05
    torch.testing.assert_close(again, seen, atol=2e-5, rtol=0)


@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), st.sampled_from([1e-22, 1e-3, 1, 1e3, 1e18]))
@settings(max_examples=200, deadline=None)
def test_smallest_three_gives_the_rotation_back(values: list[float], length: float) -> None:
    quat = np.array([values], np.float32)
    if np.abs(quat).max() < 1e-6:
        return
    unit = quat / np.linalg.norm(quat)
    largest, rest = smallest_three(quat * np.float32(length))
    assert np.abs(rest).max() <= 1 + 1e-6
    assert abs(abs(float((of_smallest_three(largest, rest) * unit).sum())) - 1) < 1e-5


# --- choosing the format


def test_the_first_bytes_decide_over_a_wrong_suffix(tmp_path: Path) -> None:
    for suffix in (".compressed.ply", ".spz", ".sog", ".glb"):
        save_gaussians(tmp_path / f"m{suffix}", model(4))
        renamed = (tmp_path / f"m{suffix}").rename(tmp_path / f"{suffix[1:]}.ply")
        assert len(load_gaussians(renamed)) == 4
    save_gaussians(tmp_path / "m.ply", model(4))
    assert len(load_gaussians((tmp_path / "m.ply").rename(tmp_path / "unknown"))) == 4


def test_unknown_files_and_options_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    for path, message in ((tmp_path / "x.txt", "not a file of Gaussians"), (tmp_path / "y.ply", "no such file")):
        with pytest.raises(ValueError, match=message):
            load_gaussians(path)
    with pytest.raises(ValueError, match=r"without meta\.json"):
        load_gaussians(tmp_path)
    for name in ("m.obj", "m.ksplat", "lod-meta.json"):
        with pytest.raises(ValueError, match=r"ends in \.safetensors, \.compressed\.ply"):
            save_gaussians(tmp_path / name, model(2))
    with pytest.raises(TypeError, match="unknown option version: PLY has normals"):
        save_gaussians(tmp_path / "m.ply", model(2), version=3)
    with pytest.raises(ValueError, match="no such folder"):
        save_gaussians(tmp_path / "none" / "m.ply", model(2))
    for suffix in (".compressed.ply", ".sog", ".glb"):
        with pytest.raises(ValueError, match="up to degree 3, got 4"):
            save_gaussians(tmp_path / f"m{suffix}", model(2, 4))


@pytest.mark.parametrize("suffix", HIGHEST)
def test_a_description_says_what_is_in_the_file(tmp_path: Path, suffix: str) -> None:
    path = name_of(suffix, tmp_path)
    save_gaussians(path, model(60, min(1, HIGHEST[suffix])))
    got = describe(path)
    assert (got.count, got.sh_degree, got.invalid) == (60, min(1, HIGHEST[suffix]), 0)
    assert got.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    np.testing.assert_allclose(got.low, model(60).means.amin(0), atol=5e-3)
    assert got.opacities[2] == pytest.approx(float(model(60).opacities.quantile(0.5)), abs=0.01)
    assert "60" in "\n".join(got.lines())


def test_a_model_with_nothing_to_draw_is_described(tmp_path: Path) -> None:
    bad = replace(model(3), quats=torch.zeros(3, 4))
    save_gaussians(tmp_path / "m.ply", bad)
    got = describe(tmp_path / "m.ply")
    assert got.invalid == 3 and got.low == () and "3 cannot be drawn" in "\n".join(got.lines())


def test_import_splat_brings_no_format_in() -> None:
    import subprocess
    import sys

    code = "import splat, sys; print([m for m in ('splat.io', 'PIL', 'zstandard', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_gaussians_is_what_a_reader_returns(tmp_path: Path) -> None:
    save_gaussians(str(tmp_path / "m.ply"), model(2))
    assert type(load_gaussians(str(tmp_path / "m.ply"))) is Gaussians
