"""One HTML file that shows a fitted picture at any zoom, without a server or a network. Its parts lie in `viewer/`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat.core.rasterize import TOPK_EPSILON
from splat.files import atomic_write
from splat.image.codec.s2d import decode_image
from splat.image.layout import Layout
from splat.image.levels import Level, by_importance, draw_levels, layer_sizes, level_counts
from splat.image.model import ImageGaussians
from splat.image.table import Column, about, columns, from_columns

MOST_DIFFERENCE = 0.25 / 255
"""Mean difference that 16-bit numbers may make to the picture; beyond it the page holds float32."""
_CHECKED_SIDE = 1024  # pixels of the middle of the picture, over which that is measured
_SCRIPTS = ("model.js", "canvas_renderer.js", "webgl_renderer.js", "overlay.js", "main.js")
_SHADERS = ("splat.vert", "splat.frag", "screen.vert", "screen.frag")


@dataclass(frozen=True)
class PageFacts:
    """What a page says of a model beyond the model itself."""

    title: str = "Picture"
    ledger: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the file's parts, by name; the page shows their sum and the bits per pixel."""
    layers: Sequence[int] = ()
    """Sizes of the layers that the Gaussians are ordered by, coarse to fine. Without, the page orders them by
    importance and its slider stops anywhere."""
    psnr: Sequence[float] = ()
    """dB where they are known: up to each layer, or of the whole picture alone."""
    target: Tensor | None = None
    """[H, W, D] in 0..1, the picture that was fitted; from it come the PSNRs of the levels."""


@dataclass(frozen=True)
class _Packed:
    """Columns as one array of bytes."""

    encoding: str
    """uint16 (low + step * q) or float32."""
    ranges: list[dict[str, float]]
    """low and step of each column."""
    data: bytes
    difference: float
    """Mean difference that the packing makes to the picture, 0..1."""


def write_page(path: str | Path, model: ImageGaussians, facts: PageFacts = PageFacts()) -> int:
    """Writes the page and returns its size in bytes. Gaussians with a value that is not finite are left out.

    Raises:
        ValueError: the layers do not add up, or the target has another size than the model.
    """
    text = page_text(model, facts)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text)
    return len(text)


def page_text(model: ImageGaussians, facts: PageFacts = PageFacts()) -> bytes:
    """The page, as UTF-8."""
    model = model.map(lambda t: t.detach().to("cpu", torch.float32))
    level_counts(len(model), facts.layers)  # before the rows that are not finite go
    finite = torch.cat([t.reshape(len(model), -1).isfinite() for t in _tensors(model)], 1).all(1)
    layers = [int(part.sum()) for part in torch.split(finite, list(facts.layers))] if facts.layers else []
    layers = [count for count in layers if count]
    model = model.map(lambda t: t[finite])
    if len(model) == 0:
        raise ValueError("model must have a Gaussian whose values are finite")
    if not layers:
        model = by_importance(model)
    model = _shown(model)
    packed = _pack(model)
    description: dict[str, Any] = {
        "width": model.width,
        "height": model.height,
        "count": len(model),
        "blend": model.blend,
        "topk": model.topk,
        "dilation": model.dilation,
        "cutoff": model.options.cutoff,
        "topk_epsilon": TOPK_EPSILON,
        "encoding": packed.encoding,
        "columns": packed.ranges,
        "difference": 255 * packed.difference,
        "ledger": [[name, int(size)] for name, size in facts.ledger.items()],
        "layered": bool(layers),
        "levels": [asdict(level) for level in _levels(model, layers, facts)],
        "page_bytes": 0,
    }
    parts = {
        "title": escape(facts.title),
        "style": _part("style.css"),
        "script": _script(),
        "gaussians": base64.b64encode(packed.data).decode(),
    }
    while True:  # until the size that the page names is its size
        parts["description"] = json.dumps(description, allow_nan=False).replace("<", "\\u003c")
        text = _filled(parts)
        if len(text) == description["page_bytes"]:
            return text
        description["page_bytes"] = len(text)


def _shown(model: ImageGaussians) -> ImageGaussians:
    """The first group's channels as a page shows them: grey, RGB or premultiplied RGBA."""
    group, colors = model.layout.groups[0], model.colors[:, : model.layout.groups[0].channels]
    if group.kind == "grey-alpha":
        return replace(model, colors=colors[:, [0, 0, 0, 1]], layout=Layout.of("RGBA"))
    if group.kind == "normal" and group.channels == 2:
        raise ValueError("the first picture of the stack is octahedral normals, which no page shows; fit them as 3")
    if group.kind == "rgba":
        return replace(model, colors=colors, layout=Layout.of("RGBA"))
    if group.channels == 3:
        return replace(model, colors=colors, layout=Layout.of("RGB"))
    return replace(model, colors=colors[:, :1], layout=Layout.of("L"))


def _tensors(model: ImageGaussians) -> tuple[Tensor, ...]:
    return model.means, model.log_scales, model.angles, model.colors


def _part(name: str) -> str:
    return (resources.files("splat.image") / "viewer" / name).read_text(encoding="utf-8").rstrip("\n")


def _script() -> str:
    """The scripts in one module, with the shaders as its strings."""
    shaders = json.dumps({name: _part(f"{name}.glsl") for name in _SHADERS})
    return "\n\n".join([f"const SHADERS = {shaders};", *map(_part, _SCRIPTS)])


def _filled(parts: Mapping[str, str]) -> bytes:
    """The page with its {{places}} filled; what is filled in is not looked through again."""
    pieces = _part("page.html").split("{{")
    text = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        text += [parts[name], rest]
    return ("".join(text) + "\n").encode()


def _levels(model: ImageGaussians, layers: Sequence[int], facts: PageFacts) -> list[Level]:
    if facts.target is not None:
        return [level for level, _ in draw_levels(model, layers, facts.target)]
    counts = level_counts(len(model), layers)
    known = [value if math.isfinite(value) else None for value in facts.psnr][-len(counts) :]
    return list(map(Level, counts, [None] * (len(counts) - len(known)) + known))


def _pack(model: ImageGaussians) -> _Packed:
    """The columns in 16 bits where that does not show, else in float32."""
    table = columns(model)
    table["rotation"] = np.remainder(table["rotation"], np.float32(math.pi))  # half a turn is the same ellipse
    ranges, numbers, decoded = [], [], {}
    for name, values in table.items():
        low, high = float(values.min()), float(values.max())
        step = (high - low) / 65535
        q = np.round((values.astype(np.float64) - low) / (step or 1.0)).astype("<u2")
        ranges.append({"low": low, "step": step})
        numbers.append(q.tobytes())
        decoded[name] = (low + step * q).astype(np.float32)
    difference = _difference(model, from_columns(decoded, about(model), "page"))
    if difference <= MOST_DIFFERENCE:
        return _Packed("uint16", ranges, b"".join(numbers), difference)
    plain: list[Column] = [values.astype("<f4", copy=False) for values in table.values()]
    return _Packed("float32", [{"low": 0.0, "step": 1.0} for _ in plain], b"".join(v.tobytes() for v in plain), 0.0)


def _difference(model: ImageGaussians, other: ImageGaussians) -> float:
    """Mean |difference| of the middle of both pictures, as shown (clamped)."""
    w, h = min(model.width, _CHECKED_SIDE), min(model.height, _CHECKED_SIDE)
    crop = ((model.width - w) // 2, (model.height - h) // 2, w, h)
    with torch.no_grad():
        a, b = (m.render(crop=crop).clamp(0, 1) for m in (model, other))
    return float((a - b).abs().mean())


def facts_beside(path: Path, model: ImageGaussians) -> PageFacts:
    """What is known of a model's file: its bytes, and the PSNR that a .s2d file holds; of other files that of the
    metrics.json beside it, where it is of this model."""
    psnr: tuple[float, ...] = ()
    metrics = path.with_name("metrics.json")
    if path.suffix.lower() == ".s2d":
        psnr = tuple(value or math.nan for value in decode_image(path).psnr)  # 0: the file does not say it
    elif metrics.is_file():
        try:
            said = json.loads(metrics.read_text())
            same = (said["n"], said["width"], said["height"]) == (len(model), model.width, model.height)
            psnr = (float(said["psnr"]),) if same else ()
        except (ValueError, KeyError, TypeError):
            psnr = ()  # not ours
    return PageFacts(path.name, {path.name: path.stat().st_size}, layer_sizes(model), psnr)
