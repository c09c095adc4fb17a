"""The figures of scripts/bench_gpu.py as tables for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gpu_timing import Figures

PEER = "gsplat"
TARGET_SCENE = "3,000,000"
TARGET_SIZE = (1920, 1080)
PICTURES = {"10,000": 6000.0, "70,000": 4000.0}
"""Least frames per second."""


class Target(NamedTuple):
    """At most `most`, and at least `ratio` times better than the peer."""

    most: float
    ratio: float | None = None


TIMES: dict[str, tuple[Target | None, str]] = {
    "forward": (Target(0.9, 2.0), "forward"),
    "forward, with room": (None, "forward"),
    "forward, CUDA graph": (None, "forward"),
    "forward + backward": (Target(2.9, 2.2), "forward + backward"),
    "forward + backward, with room": (None, "forward + backward"),
    "training step": (Target(3.3, 2.5), "training step"),
    "training step, CUDA graph": (None, "training step"),
}
"""By the name of our figure: its target, and the peer's figure beside it."""
PEAK = Target(3.8)


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"
    return f"{text} {unit}".strip()


def dig(figures: Figures | None, *path: str) -> float | None:
    """figures[path[0]][path[1]]..., or None where that was not measured."""
    value: object = figures
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def ratio_text(theirs: float | None, ours: float | None) -> str:
    return "-" if theirs is None or not ours else f"{theirs / ours:.2f}x"


def verdict(holds: list[bool | None]) -> str:
    """Of the conditions of a target; None where one was not measured."""
    if False in holds:
        return "no"
    return "?" if None in holds else "yes"


def _judge(target: Target | None, ours: float | None, theirs: float | None) -> tuple[str, str]:
    """The target's text and whether it is met."""
    if target is None:
        return "", ""
    text, holds = f"≤ {target.most:g}", [None if ours is None else ours <= target.most]
    if target.ratio is not None:
        text += f", ≥ {target.ratio:g}x"
        holds.append(None if not ours or theirs is None else theirs / ours >= target.ratio)
    return text, verdict(holds)


def _scene_targets(scene: Figures) -> Iterator[list[str]]:
    for name, (target, beside) in TIMES.items():
        ours, theirs = dig(scene, "ms", name, "ms"), dig(scene, "peers", PEER, beside, "ms")
        text, met = _judge(target, ours, theirs)
        yield [f"{name}, ms", text, number(ours), number(theirs), ratio_text(theirs, ours), met]
    ours, theirs = dig(scene, "peak GB"), dig(scene, "peers", PEER, "peak GB")
    text, met = _judge(PEAK, ours, theirs)
    yield ["peak memory of a training step, GB", text, number(ours), number(theirs), ratio_text(theirs, ours), met]
    waits, captured = scene.get("host waits"), dig(scene, "ms", "training step, CUDA graph", "ms")
    text = "-" if waits is None else f"{waits}, {'' if captured else 'not '}captured in a graph"
    met = verdict([None if waits is None else waits == 0, captured is not None])
    yield ["host waits in a training step", "0", text, "", "", met]


def _picture_targets(pictures: Figures) -> Iterator[list[str]]:
    for count, least in PICTURES.items():
        frames = pictures.get(count, {}).get("frames per second", {})
        best = max(frames, key=frames.get) if frames else None
        value = frames[best] if best is not None else None
        met = verdict([None if value is None else value >= least])
        name = f"2D sum, 768 x 512, {count}: frames/s" + (f" ({best})" if best else "")
        yield [name, f"≥ {least:,.0f}", number(value), "", "", met]


def target_table(figures: Figures) -> str:
    """Measured beside wanted, for the target scene; for the first one that was measured where that is not there, and
    then without a verdict, as on any device but a GPU."""
    scenes = figures.get("scenes", {})
    if not scenes:
        return "no scene was measured"
    count = TARGET_SCENE if TARGET_SCENE in scenes else next(iter(scenes))
    width, height = figures["size"]
    judged = figures["device"] == "cuda" and count == TARGET_SCENE and (width, height) == TARGET_SIZE
    body = [*_scene_targets(scenes[count]), *_picture_targets(figures.get("pictures", {}))]
    if not judged:
        body = [[*row[:5], ""] for row in body]
    what = f"{count} Gaussians, {width} x {height}, SH 3" + ("" if judged else "; not the target's scene and device")
    header = [what, "target", "splat", PEER, f"{PEER} / splat", "met"]
    return rows(header, body)


def _line(title: str, scenes: Figures, *path: str) -> list[str]:
    return [title, *(number(dig(scene, *path)) for scene in scenes.values())]


def all_table(figures: Figures) -> str:
    """A column for each scene."""
    scenes: Figures = figures.get("scenes", {})
    names: dict[str, list[str]] = {
        kind: list(dict.fromkeys(name for scene in scenes.values() for name in scene.get(kind, {})))
        for kind in ("statistics", "ms", "stages ms")
    }
    body = [_line(name, scenes, "statistics", name) for name in names["statistics"]]
    body += [_line(f"{name}, ms", scenes, "ms", name, "ms") for name in names["ms"]]
    body += [_line(f"stage: {name}, ms", scenes, "stages ms", name, "ms") for name in names["stages ms"]]
    body += [_line("stages of a step, sum, ms", scenes, "stages of a step, sum, ms")]
    body += [_line("peak memory of a training step, GB", scenes, "peak GB")]
    for peer in dict.fromkeys(peer for scene in scenes.values() for peer in scene.get("peers", {})):
        for name in ("forward", "forward + backward", "training step"):
            body.append(_line(f"{peer}: {name}, ms", scenes, "peers", peer, name, "ms"))
            pairs = [(dig(s, "peers", peer, name, "ms"), dig(s, "ms", name, "ms")) for s in scenes.values()]
            body.append([f"{peer} / splat: {name}", *(ratio_text(theirs, ours) for theirs, ours in pairs)])
        body.append(_line(f"{peer}: peak memory of a training step, GB", scenes, "peers", peer, "peak GB"))
        body.append(_line(f"{peer}: PSNR between the pictures, dB", scenes, "peers", peer, "PSNR dB"))
    return rows(["Gaussians", *scenes], [line for line in body if set(line[1:]) != {"-"}])


def picture_table(figures: Figures) -> str:
    pictures: Figures = figures.get("pictures", {})
    names = list(dict.fromkeys(name for picture in pictures.values() for name in picture.get("ms", {})))
    body = [_line(name, pictures, "statistics", name) for name in ("entries per visible splat", "pairs per pixel")]
    body += [_line(f"{name}, ms", pictures, "ms", name, "ms") for name in names]
    body += [_line(f"{n}, frames/s", pictures, "frames per second", n) for n in names if n.startswith("draw")]
    return rows(["Gaussians, 768 x 512", *pictures], body)
