"""Rate-distortion curves, for scripts/bench_rd.py: their difference (BD-rate) and points that others have published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Curve = Sequence[tuple[float, float]]
"""(rate, quality) points; quality rises with the rate."""

PUBLISHED: dict[str, list[tuple[float, float, float | None]]] = {
    "JPEG, published": [(0.22, 23.8, None), (1.03, 32.8, None)],
    "GaussianImage, published": [(0.15, 25.0, None), (1.00, 29.7, None)],
    "GaussianImage++, published": [(0.15, 25.3, 0.834), (1.08, 31.1, 0.961)],
}
"""(bits per pixel, PSNR, MS-SSIM) on the 24 Kodak pictures, from the table of GaussianImage++ (2026). The bits of the
Gaussian codecs are counted from the sizes of tensors there, not of files."""


def bd_rate(anchor: Curve, test: Curve) -> float | None:
    """The average difference in rate at equal quality, percent of the anchor's; negative: `test` needs less.

    Bjontegaard 2001 (VCEG-M33) with the interpolation of the JCT-VC common test conditions: the log of the rate as a
    function of the quality, by piecewise cubic Hermite polynomials (Fritsch & Butland 1984), the difference averaged
    over the qualities that both curves have. A curve of two points is a straight line in the log of the rate.

    Returns:
        None where the curves have no quality in common.

    Raises:
        ValueError: a curve has fewer than two points, a rate that is not positive, or a quality that does not rise.
    """
    curves = [_LogRate(anchor), _LogRate(test)]
    low, high = max(c.quality[0] for c in curves), min(c.quality[-1] for c in curves)
    if low >= high:
        return None
    of_anchor, of_test = (c.integral(low, high) / (high - low) for c in curves)
    return 100 * math.expm1(of_test - of_anchor)


class _LogRate:
    """The log of the rate over the quality."""

    def __init__(self, curve: Curve) -> None:
        if len(curve) < 2:
            raise ValueError(f"a curve must have two points or more, got {len(curve)}")
        points = sorted(curve)
        if points[0][0] <= 0:
            raise ValueError(f"rates must be positive, got {points[0][0]}")
        self.quality = [quality for _, quality in points]
        self.value = [math.log(rate) for rate, _ in points]
        steps = [b - a for a, b in pairwise(self.quality)]
        if min(steps) <= 0 or any(a >= b for a, b in pairwise(self.value)):
            raise ValueError(f"quality must rise with the rate, got {self.quality} at {[rate for rate, _ in points]}")
        slopes = [(b - a) / h for (a, b), h in zip(pairwise(self.value), steps, strict=True)]
        self.slope = _pchip_slopes(steps, slopes)

    def __call__(self, quality: float) -> float:
        inner = sum(q <= quality for q in self.quality[1:-1])
        h = self.quality[inner + 1] - self.quality[inner]
        t = (quality - self.quality[inner]) / h
        a, b, da, db = *self.value[inner : inner + 2], *self.slope[inner : inner + 2]
        return a + t * (h * da + t * (3 * (b - a) - h * (2 * da + db) + t * (2 * (a - b) + h * (da + db))))

    def integral(self, low: float, high: float) -> float:
        """Exact: Simpson's rule on each cubic."""
        ends = [low, *(q for q in self.quality if low < q < high), high]
        return sum((b - a) / 6 * (self(a) + 4 * self(0.5 * (a + b)) + self(b)) for a, b in pairwise(ends))


def _pchip_slopes(steps: list[float], slopes: list[float]) -> list[float]:
    """Derivatives at the points of a rising curve: weighted harmonic means inside, three-point formulae at the ends,
    but not below 0. What the method says of curves that turn is not needed."""
    if len(slopes) == 1:
        return slopes * 2
    inside = []
    for i in range(len(slopes) - 1):
        before, after, left, right = slopes[i], slopes[i + 1], 2 * steps[i + 1] + steps[i], steps[i + 1] + 2 * steps[i]
        inside.append((left + right) / (left / before + right / after))
    ends = [_end(steps[:2], slopes[:2]), _end(steps[:-3:-1], slopes[:-3:-1])]
    return [ends[0], *inside, ends[1]]


def _end(steps: list[float], slopes: list[float]) -> float:
    (near, far), (first, second) = steps, slopes
    return max(0.0, ((2 * near + far) * first - near * second) / (near + far))


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """The curve of the mean rate and the mean quality of curves with one point for each asked rate."""
    return [
        (sum(r for r, _ in points) / len(points), sum(q for _, q in points) / len(points))
        for points in zip(*curves, strict=True)
    ]
