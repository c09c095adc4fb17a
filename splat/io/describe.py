"""What is in a file of Gaussians, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from splat.io import format_of, main_file

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class Description:
    """A file of Gaussians."""

    path: Path
    format: str
    count: int
    sh_degree: int
    invalid: int
    """Gaussians that cannot be drawn."""
    bytes: int
    """Of the file; of the folder for formats of many files."""
    low: tuple[float, ...]
    """Least x, y, z of the means; empty without Gaussians."""
    high: tuple[float, ...]
    opacities: tuple[float, ...]
    """At QUANTILES."""
    scales: tuple[float, ...]
    """Standard deviations of all axes, world units, at QUANTILES."""

    def lines(self) -> Iterator[str]:
        """A line each, for people."""
        each = f", {self.bytes / self.count:.1f} a Gaussian" if self.count else ""
        yield f"{self.path}"
        yield f"format     {self.format}"
        yield f"bytes      {self.bytes:,}{each}"
        yield f"Gaussians  {self.count:,}" + (f", {self.invalid:,} cannot be drawn" if self.invalid else "")
        yield f"harmonics  degree {self.sh_degree}"
        if not self.low:
            return
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            yield f"{axis}          {low:.4g} .. {high:.4g}"
        yield "quantiles  " + "".join(f"{f'{100 * q:g} %':>10}" for q in QUANTILES)
        yield "opacity    " + "".join(f"{value:>10.3f}" for value in self.opacities)
        yield "scale      " + "".join(f"{value:>10.4g}" for value in self.scales)


def describe(path: str | Path) -> Description:
    """Reads a file; ValueError as `load_gaussians`."""
    path = main_file(path)
    kind = format_of(path)
    gaussians = kind.read(path)
    valid = gaussians.valid
    drawable = gaussians if bool(valid.all()) else gaussians.select(valid)
    return Description(
        path=path,
        format=kind.name,
        count=len(gaussians),
        sh_degree=gaussians.sh_degree,
        invalid=len(gaussians) - len(drawable),
        bytes=size_of(path),
        low=tuple(drawable.means.amin(0).tolist()) if len(drawable) else (),
        high=tuple(drawable.means.amax(0).tolist()) if len(drawable) else (),
        opacities=quantiles(drawable.opacities),
        scales=quantiles(drawable.scales),
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of the folder where it is a SOG's meta.json or a folder."""
    if path.name.lower().endswith("meta.json"):
        path = path.parent
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size


def quantiles(values: torch.Tensor) -> tuple[float, ...]:
    """At QUANTILES; empty without values."""
    # numpy's: torch's takes at most 16 million numbers.
    if not values.numel():
        return ()
    return tuple(float(q) for q in np.quantile(values.numpy(), QUANTILES))
