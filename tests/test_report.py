"""report.html: what it says, that it needs nothing else, and that it looks right in a browser."""

from __future__ import annotations

import html
import math
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.scene.charts import Axis, duration, line_chart, number, thinned, ticks, time_ticks
from splat.scene.evaluate import Evaluation, ViewPair, ViewScore
from splat.scene.figures import comparison, contact_sheet, error_limit
from splat.scene.report import Compared, FileRow, Report, page, write_report
from tests.browser import chromium, needs_chromium

NASTY = "<script>alert(\"1\")</script>&'x'.jpg"


def pair(name: str, row: int, noise: float = 0.05) -> tuple[ViewPair, ViewScore]:
    g = torch.Generator().manual_seed(row)
    truth = torch.rand(30, 40, 3, generator=g)
    image = (truth + noise).clamp(0, 1)
    return ViewPair(name, row, truth, image, None, 0.01), ViewScore(name, row, 20.0 + row, 0.9, 0.1, None, 0.01)


def report() -> Report:
    pairs = [pair(NASTY if i == 0 else f"view{i}.jpg", i) for i in range(6)]
    views = [Compared.of(*p) for p in pairs]
    history = [
        {
            "images": i * 100,
            "seconds": i * 2.5,
            "loss": 0.3 / (i + 1),
            "n": 1000 + i,
            "psnr": 20 + i if i % 5 == 0 else None,
        }
        for i in range(100)
    ]
    return Report(
        title=f"scene {NASTY}",
        facts=[("data", NASTY), ("preset", "fast")],
        gaussians=1234,
        evaluation=Evaluation(tuple(score for _, score in pairs)),
        views=views[:3],
        worst=views[:2],
        history=history,
        step_seconds={"project": 0.01, NASTY: 0.03},
        files=[FileRow("ply", 2_480_000, 1234, 27.5), FileRow("spz", 24_800, 1234, 27.1, NASTY)],
        config={"name": NASTY, "steps": 30000},
        notes=[NASTY],
        machine={"processor": NASTY},
        video="fly.mp4",
    )


class Reader(HTMLParser):
    """Elements must be closed in order; collects attributes and text."""

    VOID = frozenset({"meta", "img", "input", "br", "line", "polyline", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    path = write_report(tmp_path / "out", report())
    text = path.read_text()
    assert path == tmp_path / "out" / "report.html" and [p.name for p in path.parent.iterdir()] == ["report.html"]
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing is fetched from
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", without_namespace))
    read = Reader(text)
    sources = [a["src"] for tag, a in read.tags if "src" in a]
    assert len(sources) == 2 + 3 * 3 + 2 * 3 + 1
    assert all(s and (s.startswith("data:image/webp;base64,") or s == "fly.mp4") for s in sources)
    assert not any(tag == "link" for tag, _ in read.tags)


def test_names_from_outside_are_text_never_markup() -> None:
    text = page(report())
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    read = Reader(text)
    assert sum(tag == "script" for tag, _ in read.tags) == 1
    said = " ".join(read.text)
    assert said.count(NASTY) >= 8  # title twice, fact, view, table, step, file's note, note, machine


def test_every_picture_and_curve_is_told_in_words() -> None:
    read = Reader(page(report()))
    for tag, attributes in read.tags:
        if tag == "img":
            assert attributes.get("alt") and attributes.get("width") and attributes.get("height")
        if tag == "svg" or attributes.get("type") == "range":
            assert attributes.get("aria-label")
    curves = [a["aria-label"] or "" for tag, a in read.tags if tag == "svg"]
    assert len(curves) == 8  # four, over images and over time
    assert "held-out PSNR over images: from 20 to 115 dB, 20 points" in curves


def test_the_page_says_the_numbers() -> None:
    said = " ".join(Reader(page(report())).text)
    for what in (
        "22.50 dB",
        "1,234",
        "2.48 MB",
        "24.8 kB",
        "27.50",
        "20.1",
        "4:08 min",
        "held-out",
        "project 10 ms (25%)",
    ):
        assert what in said, what


def test_empty_parts_are_left_out() -> None:
    text = page(Report(title="nothing yet"))
    assert "<h2>" not in text and "<svg" not in text.split("<script>")[0]
    Reader(text)
    Reader(page(replace(report(), history=[{"images": 1, "loss": float("nan")}, {"images": 2, "seconds": None}])))


def test_curves_keep_extremes_and_leave_out_what_is_not_a_number() -> None:
    points = [(float(i), 1.0) for i in range(5000)]
    points[2345] = (2345.0, 9.0)
    points[17] = (17.0, -3.0)
    kept = thinned(points)
    assert len(kept) <= 400 and (2345.0, 9.0) in kept and (17.0, -3.0) in kept and kept == sorted(kept)
    svg = line_chart([(0, 1), (1, math.nan), (2, math.inf), (3, 2)], Axis("x"), Axis("y"))
    assert "2 points" in svg and "nan" not in svg and "inf" not in svg
    assert line_chart([(0, math.nan)], Axis("x"), Axis("y")) == ""
    assert "1 points" in line_chart([(0, 5.0)], Axis("x"), Axis("y"))
    assert "2 points" in line_chart([(0, 0.0), (1, 0.1), (2, 10)], Axis("x"), Axis("y", log=True))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 30000), (19.2, 27.9), (-3, 5), (0.001, 0.0034), (100, 101)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])


def test_numbers_and_times_are_short() -> None:
    assert [number(v) for v in (0, 0.0312, 27.9, 1500, 30000, 1.25e6)] == [
        "0",
        "0.0312",
        "27.9",
        "1,500",
        "30k",
        "1.25M",
    ]
    times = {0: "0 s", 0.0312: "31.2 ms", 12: "12 s", 185: "3:05 min", 1800: "30 min", 3599.7: "1 h", 3720: "1:02 h"}
    assert [duration(v) for v in times] == list(times.values())


@pytest.mark.parametrize("high", [0.3, 3, 7, 61, 250, 1000, 5000, 30000, 200000, 5e6])
def test_times_have_ticks_that_a_clock_has(high: float) -> None:
    found = time_ticks(high)
    assert found[0] == 0 and 2 <= len(found) <= 7 and found[-1] <= high * (1 + 1e-12)
    if 2 <= high <= 28800:
        assert (3600 % found[1] == 0 or found[1] % 3600 == 0) and len(found) >= 3


def test_figures_have_three_panels_and_the_error_its_place() -> None:
    view, score = pair("a.jpg", 0)
    view = replace(view, image=view.truth.clone())
    assert error_limit(view.error) == 4
    view.image[5:10, 5:10] = (view.image[5:10, 5:10] + 0.5) % 1
    assert error_limit(view.error) == 128
    figure = comparison(view, score)
    panel = 260
    assert figure.size == (3 * panel + 16, 30 + 56)
    shown = np.asarray(figure)[:30, 2 * (panel + 8) + (panel - 40) // 2 :][:, :40]
    assert shown[12:, 12:].max() <= 4 and shown[5:10, 5:10].max() > 100  # black is no error
    truth = np.asarray(figure)[:30, (panel - 40) // 2 :][:, :40]
    assert np.abs(truth / 255 - view.truth.numpy()).max() < 0.01


def test_a_sheet_shows_every_tile() -> None:
    tiles = [
        (np.full((20 + i, 30, 3), 40 * i + 20, np.uint8), f"a very long name of a picture {i}.jpg") for i in range(5)
    ]
    sheet = contact_sheet(tiles, columns=2, tile=30)
    values = np.asarray(sheet)
    for i in range(5):
        assert (values == 40 * i + 20).all(-1).sum() >= 20 * 30
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_a_browser_shows_it_in_light_and_dark_without_scrolling_sideways(
    tmp_path: Path, width: int, dark: bool
) -> None:
    path = write_report(tmp_path, report())
    probe = "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth</script></body>"
    path.write_text(path.read_text().replace("</body>", probe))
    flags = ["--disable-gpu", "--virtual-time-budget=2000", f"--window-size={width},900", *["--force-dark-mode"] * dark]

    def browse(*more: str) -> str:
        command = chromium(tmp_path / "profile", *flags, *more, path.as_uri())
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()

    title = re.search(r"<title>(\d+) (\d+)</title>", browse("--dump-dom"))
    assert title is not None and int(title[1]) <= int(title[2])
    browse(f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as shot:
        values = np.asarray(shot.convert("L"))
        ground = values[3, 3]
    assert (ground < 40) == dark and values.std() > 15  # the page's own ground, and something on it
    assert html.escape(NASTY) in path.read_text()
