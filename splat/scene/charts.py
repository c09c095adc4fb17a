"""Line charts as SVG text: no library, no script needed to see them, colours from the page's style sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 38
MAX_POINTS = 400
"""Of a line; more are thinned, keeping the lowest and highest of each stretch."""


@dataclass(frozen=True)
class Axis:
    """What is drawn along a side."""

    label: str
    unit: str = ""
    log: bool = False
    zero: bool = False
    """Whether the axis starts at 0."""


@dataclass(frozen=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def number(value: float) -> str:
    """Short, for people: 1.5M, 30k, 27.42, 0.031."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit * 0.99995:
            part = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{value / part:.4g}{letter}"
    return f"{value:,.0f}" if size >= 1000 and value == round(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """12 s, 3:05 min, 1:02 h."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes % 60 else f"{minutes // 60} h"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(high: float, count: int = 5) -> list[float]:
    """From 0 to `high` seconds in steps of whole seconds, minutes or hours, at most `count` of them after 0."""
    for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800):
        if 2 <= high / step <= count:
            return [float(i * step) for i in range(int(high / step + 1e-9) + 1)]
    return ticks(0, high, count)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [f * 10.0**p for p in powers for f in (1, 2, 5) if low * 0.999 <= f * 10.0**p <= high * 1.001]
    return found if len(found) <= 6 else [t for t in found if round(math.log10(t), 6).is_integer()]


def _limits(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    low, high = min(values), max(values)
    if axis.log:
        return (low / 1.1, high * 1.1)
    if axis.zero:
        low = min(0.0, low)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))
    room = 0.06 * (high - low)
    return (low if axis.zero and low == 0 else low - room, high + room)


def thinned(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, in order, with the extremes kept."""
    if len(points) <= most:
        return list(points)
    parts = most // 2
    kept = []
    for i in range(parts):
        part = points[i * len(points) // parts : (i + 1) * len(points) // parts]
        ends = {min(range(len(part)), key=lambda k: part[k][1]), max(range(len(part)), key=lambda k: part[k][1])}
        kept += [part[k] for k in sorted(ends)]
    return kept


def line_chart(points: Sequence[tuple[float, float]], x: Axis, y: Axis, *, dots: bool = False) -> str:
    """An <svg> of (x, y) points; those that are not finite (on a log axis: positive) are left out. Empty without
    points."""
    good = [p for p in points if all(map(math.isfinite, p)) and (not y.log or p[1] > 0)]
    if not good:
        return ""
    good = thinned(good)
    xs, ys = [p[0] for p in good], [p[1] for p in good]
    x_low, x_high = min(0.0, *xs), max(xs)
    if x_high <= x_low:
        x_high = x_low + 1
    across = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT, False)
    y_low, y_high = _limits(ys, y)
    up = _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, y.log)
    y_text = duration if y.unit == "s" else number
    x_text = duration if x.unit == "s" else number

    parts = []
    for tick in _log_ticks(y_low, y_high) if y.log else ticks(y_low, y_high):
        at = f"{up(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{at}" dy=".32em" text-anchor="end">{y_text(tick)}</text>')
    for tick in time_ticks(x_high) if x.unit == "s" and x_low == 0 else ticks(x_low, x_high):
        at = f"{across(tick):.1f}"
        parts.append(
            f'<text class="tick" x="{at}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x_text(tick)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x.label)}</text>')
    places = [(round(across(a), 1), round(up(b), 1)) for a, b in good]
    path = " ".join(f"{a},{b}" for a, b in places)
    parts.append(f'<polyline class="line" points="{path}"/>')
    if dots and len(places) <= 60:
        parts += [f'<circle class="dot" cx="{a}" cy="{b}" r="2.6"/>' for a, b in places]
    unit = f" {y.unit}" if y.unit and y.unit != "s" else ""
    told = [[*place, f"{y_text(b)}{unit} at {x_text(a)}"] for place, (a, b) in zip(places, good, strict=True)]
    alt = f"{y.label} over {x.label}: from {y_text(ys[0])} to {y_text(ys[-1])}{unit}, {len(good)} points"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}" '
        f'data-points="{escape(json.dumps(told))}">{"".join(parts)}</svg>'
    )
