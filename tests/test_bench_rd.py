"""scripts/bench_rd.py: BD-rates by known values, the search for a quality, files that come back, and a table that goes
on where it was cut off. No figure of it is judged."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splat.image.picture import read_picture

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import bench_rd
from rd_codecs import CODECS, Qualities, best_within
from rd_curves import PUBLISHED, bd_rate, mean_curve
from rd_plot import Series, plot

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"
X265 = [(1358.24, 34.851), (2486.44, 36.845), (4593.60, 38.615), (9487.76, 40.037)]


def curve(rates: list[float], quality: list[float]) -> list[tuple[float, float]]:
    return list(zip(rates, quality, strict=True))


@pytest.mark.parametrize(
    ("anchor", "test", "wanted"),
    [
        (
            X265,
            curve([9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987]),
            -4.417485350589045,
        ),
        (
            curve([82472.76, 26875.24, 9487.76, 4593.6, 3600, 2900], [43.825, 41.404, 40.037, 38.615, 36.5, 35.1]),
            curve([99896.96, 33952.04, 9787.8, 4469.0, 4040, 3300], [44.731, 41.875, 40.121, 38.651, 37, 36.5]),
            -2.9528024116427364,
        ),
        (
            curve([686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42]),
            curve([893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24]),
            31.379878202397656,
        ),
    ],
)
def test_bd_rate_is_that_of_the_reference_program(
    anchor: list[tuple[float, float]], test: list[tuple[float, float]], wanted: float
) -> None:
    # The curves of FAU-LMS/bjontegaard's examples; the values of its version 1.3.0, method "pchip", which agrees with
    # the JVET spreadsheet to ten digits.
    assert bd_rate(anchor, test) == pytest.approx(wanted, rel=1e-9)
    back = bd_rate(test, anchor)
    assert back is not None and (1 + back / 100) * (1 + wanted / 100) == pytest.approx(1)


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.25])
def test_a_constant_factor_in_rate_is_the_bd_rate(factor: float) -> None:
    scaled = [(factor * rate, quality) for rate, quality in X265]
    assert bd_rate(X265, scaled) == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_two_points_make_a_straight_line_in_the_log_of_the_rate() -> None:
    low, high = [(0.15, 25.0), (1.2, 31.0)], [(0.3, 25.0), (1.2, 29.0)]
    # Over 25 .. 29 dB log2 of the rates differs by 1 at one end and by log2(4) - 2 / 6 * 4 * 3 / 2 + 1 at the other.
    first = 1.0
    last = 3 - 3 * 4 / 6
    assert bd_rate(low, high) == pytest.approx(100 * (2 ** (0.5 * (first + last)) - 1))
    assert all(len(points) == 2 for points in PUBLISHED.values())


def test_only_shared_quality_counts() -> None:
    assert bd_rate(X265, [(1.0, 20.0), (2.0, 25.0)]) is None
    more = [(1.0, 10.0), (2.0, 11.0), *X265, (50_000.0, 45.0)]
    # The slopes at the ends of the shared part change, the points do not.
    assert bd_rate(X265, more) == pytest.approx(0, abs=2)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1.0, 30.0)], "two points or more, got 1"),
        ([(1.0, 30.0), (2.0, 29.0)], r"must rise with the rate, got \[30.0, 29.0\] at \[1.0, 2.0\]"),
        ([(1.0, 30.0), (1.0, 31.0)], r"must rise with the rate, got \[30.0, 31.0\]"),
        ([(0.0, 30.0), (2.0, 39.0)], "rates must be positive, got 0"),
    ],
)
def test_what_is_no_curve_is_refused(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate(X265, points)


def test_a_mean_curve_is_the_mean_at_each_rate() -> None:
    assert mean_curve([[(1.0, 30.0), (3.0, 35.0)], [(2.0, 32.0), (5.0, 37.0)]]) == [(1.5, 31.0), (4.0, 36.0)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=120), st.integers(0, 1100))
def test_the_search_finds_the_highest_quality_within_the_budget(sizes: list[int], budget: int) -> None:
    sizes.sort()
    calls = []

    def make(quality: float) -> bytes:
        calls.append(quality)
        return bytes(sizes[round(quality)])

    found = best_within(make, budget, Qualities(0, len(sizes) - 1, max(1, len(sizes) - 1)))
    within = [i for i, size in enumerate(sizes) if size <= budget]
    assert round(found) == (within[-1] if within else 0)
    assert len(calls) <= len(sizes).bit_length() + 1


@pytest.mark.parametrize("name", ["JPEG", "WebP", "AVIF"])
def test_files_keep_to_the_budget_and_come_back(name: str) -> None:
    if not CODECS[name].present():
        pytest.skip(f"Pillow has no {name} here")
    picture = read_picture(read_picture(PHOTO).pixels[100:228, 200:392].contiguous())
    last = 1e9
    for budget in (1500, 6000):
        coded = CODECS[name].encode(picture, budget)
        assert 0.6 * budget < len(coded.data) <= budget and coded.setting.startswith("quality ")
        decoded = CODECS[name].decode(coded.data)
        assert decoded.shape == picture.pixels.shape
        assert torch.equal(decoded, (decoded * 255).round() / 255)
        error = float((decoded - picture.pixels).square().mean())
        assert error < min(last, 0.01)
        last = error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with Image.open(PHOTO) as photo:
        for i in range(2):
            photo.crop((100 * i, 100, 100 * i + 96, 180)).save(pictures / f"kodim0{i}.png")
    return pictures


def run_main(monkeypatch: pytest.MonkeyPatch, pictures: Path, out: Path, *more: str) -> int:
    arguments = ["--pictures", str(pictures), "--codecs", "JPEG", "--rates", "2", "4", "-o", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["bench_rd.py", *arguments])
    return bench_rd.main()


def here(tasks: list[bench_rd.Task], *_: object) -> Iterator[bench_rd.Row]:
    """Instead of worker processes."""
    for task in tasks:
        yield bench_rd.measure(task)


def test_a_table_goes_on_where_it_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_main(monkeypatch, folder, out, "--limit", "1") == 0  # with a real worker
    monkeypatch.setattr(bench_rd, "run", here)
    first = (out / "rd.csv").read_text()
    assert first.count("\n") == 3
    assert run_main(monkeypatch, folder, out) == 0
    both = (out / "rd.csv").read_text()
    assert both.startswith(first) and both.count("\n") == 5
    rows = bench_rd.read_rows(out / "rd.csv")
    assert all(row.bpp <= row.rate and row.bytes == round(row.bpp * 96 * 80 / 8) for row in rows)
    assert all(20 < row.psnr < 60 and 0.5 < row.ms_ssim < 1 for row in rows)
    assert "| JPEG | 4 | 2 |" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} >= {"rd-psnr.png", "rd-psnr.svg", "rd-ms-ssim.png", "rd-ms-ssim.svg"}

    monkeypatch.setattr(bench_rd, "measure", lambda task: pytest.fail("made again"))
    assert run_main(monkeypatch, folder, out) == 0
    assert (out / "rd.csv").read_text() == both
    with pytest.raises(pytest.fail.Exception, match="made again"):
        run_main(monkeypatch, folder, out, "--fresh")
    (out / "rd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a table of this script"):
        run_main(monkeypatch, folder, out)


def test_stopping_leaves_no_worker_behind(folder: Path) -> None:
    tasks = [bench_rd.Task(path, "JPEG", 2.0) for path in sorted(folder.iterdir())] * 20
    assert list(bench_rd.run(tasks, 1, lambda: True)) == []
    assert not multiprocessing.active_children()


def test_charts_hold_every_series_and_its_name(tmp_path: Path) -> None:
    series = [Series("a & b", ((0.1, 30.0), (1.0, 38.0))), Series("points", ((0.5, 33.0),), line=False)]
    plot(series, ("bits per pixel", "PSNR, dB"), tmp_path / "chart")
    svg = (tmp_path / "chart.svg").read_text()
    assert "a &amp; b" in svg and svg.count("<circle") == 3 and svg.count("<rect") == 3  # with key and ground
    with Image.open(tmp_path / "chart.png") as image:
        assert image.getpixel((0, 0)) == (255, 255, 255) and len(image.convert("P").getcolors() or ()) > 3
    plot([], ("x", "y"), tmp_path / "none")
    assert not (tmp_path / "none.png").exists()
