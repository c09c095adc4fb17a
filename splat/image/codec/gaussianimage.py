"""GaussianImage's own compression (Zhang et al. 2024, section 3.3) as a file, to compare with on one rasteriser.

56 bits a Gaussian: positions in half precision (32), the Cholesky factor of the covariance in 6 bits a number with a
scale and an offset for each of the three (18), colours by two codebooks of 8 entries whose entries add up (6). As the
released code does by default, no entropy coder follows. What differs:

- positions are stored as they are, -1 .. 1 across the picture, where the original stores their inverse hyperbolic
  tangents. The steps are alike (up to 2^-12 of the width near the border); positions outside the picture can be stored;
- the fit that it starts from is ours, so that it comes out better than what the paper reports.

Little-endian: "GIM1", width and height uint16, count uint32, scales and offsets float32 [2, 3], codebooks float32
[2, 8, 3], positions float16 [N, 2], then 24 bits a Gaussian: from the lowest bit up, three codes of 6 bits and two
entries of 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from splat.image.model import ImageGaussians
from splat.io.kmeans import nearest, palette

STAGES, ENTRIES = 2, 8
LEVELS = 63
"""Highest code of 6 bits."""
MIN_DIAGONAL = 1 / 64
"""Pixels. Least of the factor's diagonal numbers, which keeps every covariance positive definite."""
_MAGIC = b"GIM1"
_HEAD = struct.Struct("<4sHHI")
_TABLES = np.dtype([("scale", "<f4", 3), ("offset", "<f4", 3), ("books", "<f4", (STAGES, ENTRIES, 3))])
OVERHEAD = _HEAD.size + _TABLES.itemsize
"""Bytes of a file without Gaussians."""
BYTES_PER_GAUSSIAN = 7
MAX_SIDE = (1 << 16) - 1
"""Longest side of a picture, pixels."""


def count_for(size: int) -> int:
    """The number of Gaussians that a file of `size` bytes holds (0: it is too small for one)."""
    return max(0, (size - OVERHEAD) // BYTES_PER_GAUSSIAN)


def uniform(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """[N, 3] the numbers (l11, l21, l22) in pixels of codes [N, 3], the diagonal kept positive. Differentiable."""
    values = codes * scale + offset
    return torch.stack([values[:, 0].clamp_min(MIN_DIAGONAL), values[:, 1], values[:, 2].clamp_min(MIN_DIAGONAL)], -1)


def covariances(factors: Tensor) -> Tensor:
    """[N, 2, 2] L L^T in pixels^2 of L = [[l11, 0], [l21, l22]], given as [N, 3]. Differentiable."""
    l11, l21, l22 = factors.unbind(-1)
    xy = l11 * l21
    return torch.stack([l11 * l11, xy, xy, l21 * l21 + l22 * l22], -1).view(-1, 2, 2)


def cholesky(model: ImageGaussians) -> Tensor:
    """[N, 3] the factors of a model's covariances."""
    variances = (2 * model.log_scales.double()).exp()
    cos, sin = model.angles.double().cos(), model.angles.double().sin()
    xx = cos * cos * variances[:, 0] + sin * sin * variances[:, 1]
    xy = cos * sin * (variances[:, 0] - variances[:, 1])
    l11 = xx.sqrt()
    # The determinant is the product of the variances, without the cancellation of xx yy - xy^2.
    return torch.stack([l11, xy / l11, model.log_scales.double().sum(-1).exp() / l11], -1).float()


def normalised(means: Tensor, width: int, height: int) -> Tensor:
    """[N, 2] positions in pixels -> -1 .. 1 across the picture. `in_pixels` is the inverse."""
    return 2 * means / means.new_tensor([width, height]) - 1


def in_pixels(positions: Tensor, width: int, height: int) -> Tensor:
    """[N, 2] positions of -1 .. 1 across the picture -> pixels."""
    return (positions + 1) * (0.5 * positions.new_tensor([width, height]))


def nearest_entries(colors: Tensor, books: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Residual vector quantisation of colors [N, 3]: int64 [N, STAGES] which entry of each book, and what was left
    before each stage, [N, 3] each."""
    entries, left = [], [colors]
    for book in books:
        entries.append(nearest(left[-1], book))
        left.append(left[-1] - book[entries[-1]])
    return torch.stack(entries, 1), left[:-1]


def sum_of_entries(entries: Tensor, books: Tensor) -> Tensor:
    """[N, 3] the colours of entries [N, STAGES]."""
    return books[torch.arange(len(books)), entries.long()].sum(1)


@dataclass(frozen=True)
class Quantised:
    """What a file holds."""

    positions: Tensor
    """float16 [N, 2], -1 .. 1 across the picture."""
    codes: Tensor
    """uint8 [N, 3], 0 .. 63: the covariance's Cholesky factor."""
    entries: Tensor
    """uint8 [N, 2], 0 .. 7: the colour."""
    scale: Tensor
    """[3] pixels a step of the codes."""
    offset: Tensor
    """[3] pixels that code 0 stands for."""
    books: Tensor
    """[2, 8, 3] colours that are added."""
    width: int
    """Pixels."""
    height: int

    def model(self) -> ImageGaussians:
        """The Gaussians that it stands for."""
        with torch.no_grad():
            factors = uniform(self.codes.double(), self.scale.double(), self.offset.double())
            (xx, xy), (_, yy) = covariances(factors).permute(1, 2, 0).unbind()
            largest = 0.5 * (xx + yy) + torch.hypot(0.5 * (xx - yy), xy)
            first = 0.5 * largest.log()
            second = (factors[:, 0] * factors[:, 2]).log() - first
            return ImageGaussians(
                means=in_pixels(self.positions.float(), self.width, self.height),
                log_scales=torch.stack([first, second], -1).float(),
                angles=(0.5 * torch.atan2(2 * xy, xx - yy)).float(),
                colors=sum_of_entries(self.entries, self.books),
                width=self.width,
                height=self.height,
            )

    def to_bytes(self) -> bytes:
        """The file: OVERHEAD + 7 N bytes."""
        head = _HEAD.pack(_MAGIC, self.width, self.height, len(self.positions))
        tables = np.zeros((), _TABLES)
        for name in ("scale", "offset", "books"):
            tables[name] = getattr(self, name).numpy()
        fields = np.concatenate([self.codes.numpy(), self.entries.numpy()], 1).astype(np.uint32)
        words = (fields << _SHIFTS).sum(1, dtype=np.uint32).astype("<u4")
        packed = words.view(np.uint8).reshape(-1, 4)[:, :3]
        positions = self.positions.numpy().astype("<f2")
        return b"".join([head, tables.tobytes(), positions.tobytes(), packed.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: other or damaged bytes, or values that no picture has.
        """
        if len(data) < OVERHEAD or data[:4] != _MAGIC:
            raise ValueError(f"data must be a GaussianImage file ({_MAGIC.decode()}, {OVERHEAD} bytes and more)")
        _, width, height, count = _HEAD.unpack_from(data)
        wanted = OVERHEAD + BYTES_PER_GAUSSIAN * count
        if len(data) != wanted:
            raise ValueError(f"data must have {wanted:,} bytes for its {count:,} Gaussians, got {len(data):,}")
        if not width or not height:
            raise ValueError(f"data must be of a picture with pixels, got {width} x {height}")
        tables = np.frombuffer(data, _TABLES, 1, _HEAD.size)[0]
        positions = np.frombuffer(data, "<f2", 2 * count, OVERHEAD).reshape(count, 2)
        words = np.zeros((count, 4), np.uint8)
        words[:, :3] = np.frombuffer(data, np.uint8, 3 * count, OVERHEAD + 4 * count).reshape(count, 3)
        fields = (words.view("<u4") >> _SHIFTS & _MASKS).astype(np.uint8)
        scale, offset, books = (torch.from_numpy(tables[name].astype(np.float32)) for name in _TABLES.names or ())
        bounded = all(float(table.abs().max()) <= MAX_SIDE for table in (scale, offset, books))
        if not bounded or not np.isfinite(positions).all():
            raise ValueError(f"data must hold finite positions and tables of values up to {MAX_SIDE}")
        codes, entries = torch.from_numpy(fields[:, :3].copy()), torch.from_numpy(fields[:, 3:].copy())
        return cls(torch.from_numpy(positions.astype(np.float16)), codes, entries, scale, offset, books, width, height)


_SHIFTS = np.array([0, 6, 12, 18, 21], np.uint32)
_MASKS = np.array([LEVELS] * 3 + [ENTRIES - 1] * STAGES, np.uint32)


def first_tables(factors: Tensor, colors: Tensor, inside: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """scale [3], offset [3] and books [2, 8, 3] of a model before any finishing: codes for the share `inside` of the
    numbers of factors [N, 3] (without as many of the least as of the greatest), codebooks by k-means of colors [N, 3].
    """
    low, high = factors.quantile(0.5 - inside / 2, 0), factors.quantile(0.5 + inside / 2, 0)
    scale = ((high - low) / LEVELS).clamp_min(1e-6)
    left, books = colors, torch.zeros(STAGES, ENTRIES, 3)
    for book in books:
        found, labels = palette(left.numpy(), ENTRIES)
        book[: len(found)] = torch.from_numpy(found)
        left = left - book[torch.from_numpy(labels)]
    return scale, low, books


def check_codable(model: ImageGaussians) -> None:
    """ValueError for a model that the format cannot hold."""
    if model.layout.mode != "RGB" or model.blend != "sum" or model.dilation:
        raise ValueError(
            f"model must have channels RGB, blend sum and no dilation, got {model.layout.mode}, {model.blend}, "
            f"{model.dilation:g}"
        )
    if max(model.width, model.height) > MAX_SIDE:
        raise ValueError(f"model must be at most {MAX_SIDE} pixels a side, got {model.width} x {model.height}")
    if not len(model):
        raise ValueError("model must have a Gaussian")
    if not all(bool(t.isfinite().all()) for t in (model.means, model.log_scales, model.angles, model.colors)):
        raise ValueError("model must be finite")


def quantise(model: ImageGaussians) -> Quantised:
    """A model rounded to what a file can hold; `gaussianimage_finish.finish` makes it better.

    Raises:
        ValueError: it is not RGB, empty, not finite or too large.
    """
    check_codable(model)
    model = model.map(lambda t: t.detach().cpu().float())
    factors = cholesky(model)
    scale, offset, books = first_tables(factors, model.colors)
    positions = normalised(model.means, model.width, model.height)
    return rounded(positions, factors, nearest_entries(model.colors, books)[0], (scale, offset, books), model)


def rounded(
    positions: Tensor, factors: Tensor, entries: Tensor, tables: tuple[Tensor, Tensor, Tensor], like: ImageGaussians
) -> Quantised:
    """Positions [N, 2] of -1 .. 1, factors [N, 3] and entries [N, 2] as a file holds them, with tables (scale, offset,
    books) and the size of `like`."""
    scale, offset, books = (table.detach().clone() for table in tables)
    codes = ((factors.detach() - offset) / scale).clamp(0, LEVELS).round().to(torch.uint8)
    half = positions.detach().clamp(-_FURTHEST, _FURTHEST).half()
    return Quantised(half, codes, entries.to(torch.uint8), scale, offset, books, like.width, like.height)


_FURTHEST = 1024.0  # half precision goes on to 65504, but nothing is drawn from there


def encode(model: ImageGaussians) -> bytes:
    """The file of a model, rounded without finishing. ValueError as `quantise`."""
    return quantise(model).to_bytes()


def decode(data: bytes) -> ImageGaussians:
    """The model of a file. ValueError as `Quantised.from_bytes`."""
    return Quantised.from_bytes(data).model()
