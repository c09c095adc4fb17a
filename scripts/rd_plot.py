"""Curves of several codecs in one chart, as PNG (Pillow) and as SVG that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from splat.figures import write_figure
from splat.files import atomic_write
from splat.scene.charts import number, ticks

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 56
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
"""Okabe & Ito's, which people with any colour vision tell apart."""
_LARGER = 2  # the PNG is drawn this much larger


@dataclass(frozen=True)
class Series:
    """Points of one name."""

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = True
    """Joined, with dots; else squares alone."""


class _Png:
    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * _LARGER, HEIGHT * _LARGER), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(13 * _LARGER)

    def path(self, points: Sequence[tuple[float, float]], color: str, width: float) -> None:
        scaled = [(x * _LARGER, y * _LARGER) for x, y in points]
        self.draw.line(scaled, color, round(width * _LARGER), joint="curve")

    def mark(self, at: tuple[float, float], color: str, round_: bool) -> None:
        x, y, r = (v * _LARGER for v in (*at, 4))
        (self.draw.ellipse if round_ else self.draw.rectangle)((x - r, y - r, x + r, y + r), color)

    def text(self, at: tuple[float, float], text: str, anchor: str) -> None:
        x, y = at
        self.draw.text((x * _LARGER, y * _LARGER), text, "#222222", self.font, anchor)

    def write(self, path: Path) -> None:
        write_figure(self.image, path.with_suffix(".png"))


class _Svg:
    def __init__(self) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            f'font-size="13" fill="#222222"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        ]

    def path(self, points: Sequence[tuple[float, float]], color: str, width: float) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}"/>')

    def mark(self, at: tuple[float, float], color: str, round_: bool) -> None:
        x, y = at
        shape = f'circle cx="{x:.1f}" cy="{y:.1f}" r="4"'
        square = f'rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
        self.parts.append(f'<{shape if round_ else square} fill="{color}"/>')

    def text(self, at: tuple[float, float], text: str, anchor: str) -> None:
        (x, y), side = at, {"l": "start", "m": "middle", "r": "end"}[anchor[0]]
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" dy=".35em" text-anchor="{side}">{escape(text)}</text>')

    def write(self, path: Path) -> None:
        with atomic_write(path.with_suffix(".svg")) as temporary:
            temporary.write_text("".join([*self.parts, "</svg>\n"]))


def plot(series: Sequence[Series], labels: tuple[str, str], path: Path) -> None:
    """Writes the chart to path.png and path.svg; x starts at 0. Nothing is written without points."""
    points = [point for one in series for point in one.points]
    if not points:
        return
    right = 1.05 * max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / right,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low),
        )

    for canvas in (_Png(), _Svg()):
        for tick in ticks(low, high, 7):
            canvas.path([place((0, tick)), place((right, tick))], "#dddddd", 1)
            canvas.text((LEFT - 8, place((0, tick))[1]), number(tick), "rm")
        for tick in ticks(0, right, 8):
            canvas.path([place((tick, low)), place((tick, high))], "#dddddd", 1)
            canvas.text((place((tick, low))[0], HEIGHT - BOTTOM + 14), number(tick), "mm")
        canvas.path([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "#222222", 1)
        canvas.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14), labels[0], "mm")
        canvas.text((LEFT + 10, TOP + 6), labels[1], "lm")
        for i, one in enumerate(series):
            color, places = COLORS[i % len(COLORS)], [place(point) for point in one.points]
            if one.line:
                canvas.path(places, color, 2)
            key = (WIDTH - RIGHT - 230, HEIGHT - BOTTOM - 20 * (len(series) - i))
            for at in [*places, key]:
                canvas.mark(at, color, one.line)
            canvas.text((key[0] + 12, key[1]), one.name, "lm")
        canvas.write(path)
