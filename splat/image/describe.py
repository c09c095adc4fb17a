"""What is in a file of a fitted picture, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from splat.image.export import load_image_model
from splat.io.describe import QUANTILES, quantiles


def describe_image(path: str | Path) -> Iterator[str]:
    """A line each, for people; ValueError as `load_image_model`."""
    path = Path(path)
    model = load_image_model(path)
    count, size = len(model), path.stat().st_size
    finite = torch.cat([model.means, model.log_scales, model.angles[:, None], model.colors], 1).isfinite().all(1)
    invalid = count - int(finite.sum())
    each = f", {size / count:.1f} a Gaussian" if count else ""
    yield f"{path}"
    yield f"format     fitted picture, {path.suffix[1:]}"
    yield f"bytes      {size:,}{each}, {8 * size / model.width / model.height:.3f} bits a pixel"
    yield f"Gaussians  {count:,}" + (f", {invalid:,} cannot be drawn" if invalid else "")
    groups = ", ".join(f"{g.name}: {g.kind}, {g.channels} channels" for g in model.layout.groups)
    yield f"picture    {model.width} x {model.height} pixels, {model.layout.mode or groups}"
    yield f"blend      {model.blend}" + (f", the {model.topk} largest" if model.blend == "topk" else "")
    if path.suffix.lower() == ".s2d":
        yield from _s2d(path)
    elif model.layers:
        yield f"levels     {', '.join(f'{end:,}' for end in model.layers)} Gaussians"
    model = model.map(lambda t: t[finite])
    if not len(model):
        return
    yield "quantiles  " + "".join(f"{f'{100 * q:g} %':>10}" for q in QUANTILES)
    yield "scale      " + "".join(f"{value:>10.4g}" for value in quantiles(model.log_scales.exp()))
    yield "colour     " + "".join(f"{value:>10.4g}" for value in quantiles(model.colors))


def _s2d(path: Path) -> Iterator[str]:
    """Where the bytes of a coded picture are."""
    from splat.image.codec.container import Source
    from splat.image.codec.s2d import decode_image

    decoded = decode_image(path)
    parts = zip(decoded.layer_bytes, decoded.model.layers, decoded.psnr, strict=True)
    for i, (size, end, quality) in enumerate(parts, 1):
        known = f", {quality:.2f} dB PSNR" if quality else ""
        yield f"layer {i}    up to {end:,} Gaussians in {size:,} bytes{known}"
    if decoded.header.chunk:
        yield f"chunks     {1 << decoded.header.chunk} pixels a side, each readable alone"
    with Source(path) as file:
        for section in file.sections():
            yield f"section    {section.name.decode('ascii', 'replace')} {section.length + section.overhead:,} bytes"
