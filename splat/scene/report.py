"""report.html: one file that shows how a scene turned out. Opens offline; pictures, curves and script are inside it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splat.figures import HEAT, Pixels, rgb
from splat.files import atomic_write
from splat.scene.charts import Axis, duration, line_chart
from splat.scene.evaluate import Evaluation, ViewPair, ViewScore
from splat.scene.figures import ERROR_LIMITS, error_limit, error_map, shrink
from splat.scene.report_style import SCRIPT, STYLE

STEP_COLORS = ("#3b7dd8", "#e08a2e", "#3fa66b", "#b45fc4", "#d4574f", "#2aa3ad", "#8a8f98", "#c2a62b")
CURVE_ROWS = 40
"""Of the table behind the curves."""


@dataclass(frozen=True)
class Compared:
    """A photo beside its render, as small as the page shows them."""

    score: ViewScore
    truth: Pixels
    image: Pixels
    error: Tensor
    """[h, w] mean absolute difference, 0..1, at the pictures' size or a little less."""

    @classmethod
    def of(cls, pair: ViewPair, score: ViewScore, longest: int = 960) -> Compared:
        """Pictures of at most `longest` pixels a side."""
        parts = -(-max(pair.error.shape) // longest)
        error = torch.nn.functional.avg_pool2d(pair.error[None], parts, ceil_mode=True, count_include_pad=False)[0]
        return cls(score, shrink(rgb(pair.truth), longest), shrink(rgb(pair.image), longest), error)


@dataclass(frozen=True)
class FileRow:
    """What the scene takes in a format, and what of it is left after reading it back."""

    format: str
    bytes: int
    gaussians: int
    psnr: float | None = None
    """Mean over the held-out views, dB; None where it was not measured."""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What the page tells; empty parts are left out."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    """Names and values under the title, such as data, preset, steps, time."""
    gaussians: int | None = None
    evaluation: Evaluation | None = None
    views: Sequence[Compared] = ()
    """Held-out views to show."""
    worst: Sequence[Compared] = ()
    """Those of lowest PSNR."""
    history: Sequence[Mapping[str, Any]] = ()
    """Rows in order: images (iterations, counted in images), seconds, loss, n (Gaussians), psnr (held out), and
    step_seconds; what a row lacks or has as None is not drawn."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of a step by its parts."""
    files: Sequence[FileRow] = ()
    config: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    machine: Mapping[str, Any] | None = None
    """As `splat.machine.describe` makes it."""
    video: str | None = None
    """Name of a fly-through beside the page: .mp4 or .webp."""
    held_out: bool = True
    """Whether the views are ones that the training has not seen."""


def write_report(folder: str | Path, report: Report) -> Path:
    """Writes report.html into `folder` and returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page(report), encoding="utf-8")
    return path


def page(report: Report) -> str:
    """The page's text."""
    limit = max((error_limit(c.error) for c in (*report.views, *report.worst)), default=ERROR_LIMITS[0])
    kind = "held-out" if report.held_out else "measured"
    sections = [
        _header(report),
        _cards(report, kind),
        _slider(report.views, kind),
        _video(report.video),
        _curves(report.history),
        _views(f"{kind} views".capitalize(), f"Photo, render and difference of {kind} views.", report.views, limit),
        _views("Worst views", f"The {kind} views of lowest PSNR, the worst first.", report.worst, limit),
        _table_of_views(report.evaluation, kind),
        _step(report.step_seconds),
        _files(report.files),
        _notes(report.notes),
        _config(report.config),
        _machine(report.machine),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)} - splat</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(s for s in sections if s)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


# Parts. Everything that comes from outside goes through `escape`.


def _picture(pixels: Pixels, alt: str) -> str:
    """An <img> that holds its picture."""
    height, width = pixels.shape[:2]
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="WEBP", quality=86, method=4)
    source = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img src="data:image/webp;base64,{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = ()) -> str:
    """Cells are HTML already; a cell that starts with <td is one."""

    def line(cells: Sequence[str], first: str = "th") -> str:
        row = "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in cells[1:])
        return f'<tr><{first} scope="row">{cells[0]}</{first}>{row}</tr>'

    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    end = f"<tfoot>{line(foot)}</tfoot>" if foot else ""
    body = "".join(line(row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody>{end}</table></div>'
    )


def _header(report: Report) -> str:
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in report.facts)
    return f'<header><h1>{escape(report.title)}</h1><dl class="facts">{facts}</dl></header>'


def _cards(report: Report, kind: str) -> str:
    cards: list[tuple[str, str]] = []
    if report.evaluation is not None:
        e = report.evaluation
        cards.append((f"{e.psnr:.2f} dB", f"PSNR, mean of {len(e.views)} {kind} views"))
        cards.append((f"{e.ssim:.4f}", "SSIM"))
        for name in ("flip", "lpips"):
            if (value := e.mean(name)) is not None:
                cards.append((f"{value:.4f}", f"{name.upper()} (lower is better)"))
    if report.gaussians is not None:
        cards.append((f"{report.gaussians:,}", "Gaussians"))
    if report.history and (seconds := report.history[-1].get("seconds")) is not None:
        cards.append((duration(seconds), "training"))
    if report.files:
        least = min(report.files, key=lambda row: row.bytes)
        cards.append((_size(least.bytes), f"smallest file ({escape(least.format)})"))
    inside = "".join(f'<div class="card"><b>{value}</b><span>{label}</span></div>' for value, label in cards)
    return f'<div class="cards">{inside}</div>' if cards else ""


def _slider(views: Sequence[Compared], kind: str) -> str:
    """One view as photo and render in one frame: the one in the middle by PSNR, which neither flatters nor shames."""
    if not views:
        return ""
    view = sorted(views, key=lambda c: c.score.psnr)[len(views) // 2]
    name = view.score.name
    return (
        '<section aria-label="Photo and render in one frame"><div class="compare">'
        + _picture(view.truth, f"Photo {name}")
        + _picture(view.image, f"Render of {name}, {view.score.psnr:.2f} dB").replace("<img", '<img class="over"', 1)
        + '<span class="left">photo</span><span class="right">render</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="Share of the photo that is shown, per cent">'
        f'</div><p class="soft small" style="text-align:center">{escape(name)}, a {kind} view, '
        f"{view.score.psnr:.2f} dB. Move the line to compare.</p></section>"
    )


def _video(name: str | None) -> str:
    if name is None:
        return ""
    source = escape(name)
    if Path(name).suffix.lower() == ".mp4":
        how = 'controls loop muted playsinline preload="auto" aria-label="Fly-through of the scene"'
        shown = f'<video src="{source}" {how}></video>'
    else:
        shown = f'<img class="film" src="{source}" alt="Fly-through of the scene">'
    where = f'<p class="soft small" style="text-align:center">In the file {source} beside this page.</p>'
    return f"<section><h2>Fly-through</h2>{shown}{where}</section>"


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    rows = _with_step_seconds(history)
    kinds = (
        ("psnr", Axis("held-out PSNR", "dB"), True),
        ("loss", Axis("training loss", log=_spans(rows, "loss", 20)), False),
        ("n", Axis("Gaussians", zero=True), False),
        ("step_seconds", Axis("time of a step", "s", zero=True), False),
    )
    charts = []
    for key, y, dots in kinds:
        for x, name in ((Axis("images"), "images"), (Axis("time", "s"), "time")):
            at = "seconds" if name == "time" else "images"
            points = [(float(r[at]), float(r[key])) for r in rows if r.get(at) is not None and r.get(key) is not None]
            if svg := line_chart(points, x, y, dots=dots):
                title = f"{y.label}, {y.unit}" if y.unit == "dB" else y.label
                title = title[0].upper() + title[1:]
                charts.append(f'<div class="card {name}"><h3>{escape(title)}</h3>{svg}</div>')
    if not charts:
        return ""
    return (
        '<section class="curves"><h2>Training</h2><div class="switch" role="radiogroup" aria-label="Curves over">'
        '<input type="radio" name="over" id="over-images" checked><label for="over-images">over images</label>'
        '<input type="radio" name="over" id="over-time"><label for="over-time">over time</label></div>'
        f'<div class="charts">{"".join(charts)}</div>{_numbers(rows)}</section>'
    )


def _with_step_seconds(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fills in the time per image since the row before, where rows do not say it."""
    rows = [dict(row) for row in history]
    for before, row in pairwise(rows):
        images = row.get("images", 0) - before.get("images", 0)
        if row.get("step_seconds") is None and images > 0 and None not in (row.get("seconds"), before.get("seconds")):
            row["step_seconds"] = (row["seconds"] - before["seconds"]) / images
    return rows


def _spans(rows: Sequence[Mapping[str, Any]], key: str, factor: float) -> bool:
    values = [row[key] for row in rows if row.get(key) is not None and 0 < row[key] < math.inf]
    return bool(values) and max(values) > factor * min(values)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table behind the curves, at most CURVE_ROWS even rows of it."""
    if len(rows) > CURVE_ROWS:
        measured = [row for row in rows if row.get("psnr") is not None]
        rows = measured if 2 <= len(measured) <= CURVE_ROWS else rows
        step = (len(rows) - 1) / (CURVE_ROWS - 1)
        rows = [rows[round(i * step)] for i in range(CURVE_ROWS)] if len(rows) > CURVE_ROWS else rows

    def cell(row: Mapping[str, Any], key: str, form: str) -> str:
        value = row.get(key)
        return "" if value is None else format(value, form)

    lines = [
        [
            cell(row, "images", ","),
            duration(row["seconds"]) if row.get("seconds") is not None else "",
            cell(row, "loss", ".4f"),
            cell(row, "psnr", ".2f"),
            cell(row, "n", ","),
        ]
        for row in rows
    ]
    table = _table(("images", "time", "loss", "held-out PSNR", "Gaussians"), lines)
    return f"<details><summary>The numbers behind the curves</summary>{table}</details>"


def _views(title: str, about: str, views: Sequence[Compared], limit: int) -> str:
    if not views:
        return ""
    stops = ", ".join(f"rgb({int(r)} {int(g)} {int(b)})" for r, g, b in HEAT)
    legend = (
        f'<div class="legend"><span>difference: 0</span><i style="background:linear-gradient(90deg, {stops})"></i>'
        f"<span>{limit} of 255 levels and more (mean of the channels)</span></div>"
    )
    return (
        f'<section><h2>{title}</h2><p class="soft">{about}</p>{legend}'
        f'<div class="views">{"".join(_view(view, limit) for view in views)}</div></section>'
    )


def _view(view: Compared, limit: int) -> str:
    score = view.score
    name, measures = score.name, f"{score.psnr:.2f} dB PSNR, {score.ssim:.4f} SSIM"
    if score.flip is not None:
        measures += f", {score.flip:.4f} FLIP"
    if score.lpips is not None:
        measures += f", {score.lpips:.4f} LPIPS"
    error = Image.fromarray(error_map(view.error, limit)).resize(view.image.shape[1::-1])
    mean = float(view.error.mean()) * 255
    pictures = (
        ("photo", _picture(view.truth, f"Photo {name}")),
        ("render", _picture(view.image, f"Render of {name}")),
        ("difference", _picture(np.asarray(error), f"Difference of {name}, {mean:.1f} of 255 levels in the mean")),
    )
    figures = "".join(f"<figure>{img}<figcaption>{what}</figcaption></figure>" for what, img in pictures)
    title = f"<h3>{escape(name)} <span>{measures}</span></h3>"
    return f'<article class="view">{title}<div class="three">{figures}</div></article>'


def _table_of_views(evaluation: Evaluation | None, kind: str) -> str:
    if evaluation is None:
        return ""
    best = max(view.psnr for view in evaluation.views)
    least = min(view.psnr for view in evaluation.views)
    others = [m for m in evaluation.measures if m != "psnr"]
    rows = []
    for view in evaluation.views:
        part = 100 * (0.1 + 0.9 * (view.psnr - least) / (best - least)) if best > least else 100
        bar = f'<td class="barred" style="--part:{part:.0f}%">{view.psnr:.2f}</td>'
        rows.append([escape(view.name), bar, *(f"{getattr(view, m):.4f}" for m in others), duration(view.seconds)])
    means = [f"{evaluation.mean(m):.4f}" for m in others]
    foot = ["mean", f"{evaluation.psnr:.2f}", *means, duration(evaluation.mean("seconds") or 0)]
    head = ("view", "PSNR, dB", *(m.upper() for m in others), "render")
    return f"<section><h2>Every {kind} view</h2>{_table(head, rows, foot)}</section>"


def _step(parts: Mapping[str, float]) -> str:
    if not parts:
        return ""
    total = sum(parts.values()) or 1.0
    colors = [STEP_COLORS[i % len(STEP_COLORS)] for i in range(len(parts))]
    bars = "".join(
        f'<div style="flex:{seconds / total:.5f} 0 0;background:{color}" title="{escape(name)}"></div>'
        for (name, seconds), color in zip(parts.items(), colors, strict=True)
    )
    keys = "".join(
        f'<li><i style="background:{color}"></i>{escape(name)} {duration(seconds)} ({seconds / total:.0%})</li>'
        for (name, seconds), color in zip(parts.items(), colors, strict=True)
    )
    return (
        f'<section><h2>Where a step\'s time goes</h2><p class="soft">{duration(total)} a step.</p>'
        f'<div class="stack" aria-hidden="true">{bars}</div><ul class="keys">{keys}</ul></section>'
    )


def _files(files: Sequence[FileRow]) -> str:
    if not files:
        return ""
    largest = max(row.bytes for row in files)
    rows = [
        [
            escape(row.format),
            f'<td class="barred" style="--part:{100 * row.bytes / max(1, largest):.1f}%">{_size(row.bytes)}</td>',
            f"{row.bytes / max(1, row.gaussians):.1f}",
            f"{row.gaussians:,}",
            "" if row.psnr is None else f"{row.psnr:.2f}",
            escape(row.note),
        ]
        for row in files
    ]
    head = ["format", "size", "bytes per Gaussian", "Gaussians", "PSNR read back, dB", "note"]
    if not any(row.note for row in files):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return f"<section><h2>Files</h2>{_table(head, rows)}</section>"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count} B"


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""


def _config(config: Mapping[str, Any] | None) -> str:
    if config is None:
        return ""
    text = json.dumps(config, indent=2, default=str)
    return f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"


def _machine(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return ""
    return f"<footer>{escape(', '.join(f'{k} {v}' for k, v in machine.items()))}</footer>"
