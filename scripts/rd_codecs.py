"""The codecs of scripts/bench_rd.py: each makes a file of at most so many bytes of a picture, and reads it again."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from splat.figures import rgb
from splat.image.codec import gaussianimage
from splat.image.codec.encode import EncodeConfig, encode_image
from splat.image.codec.gaussianimage_finish import finish
from splat.image.codec.s2d import decode_image
from splat.image.fit import FitConfig, fit_image
from splat.image.model import ImageGaussians
from splat.image.picture import Picture, read_picture


@dataclass
class Seconds:
    """Of the wall, and of this process on all its threads."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed() -> Iterator[Seconds]:
    """The time of the block, once it has ended."""
    spent, wall, cpu = Seconds(), time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Encoded:
    """A file and how it was made."""

    data: bytes
    setting: str
    """What the encoder chose for this picture and rate."""
    seconds: Seconds
    """Of the encoding; without the search for a quality, which a user does not need."""


@dataclass(frozen=True)
class Codec:
    """A codec by its functions."""

    encode: Callable[[Picture, int], Encoded]
    """A file of at most so many bytes, as near to them as it can; more bytes where the codec has nothing as small."""
    decode: Callable[[bytes], Tensor]
    """[H, W, 3] in 0..1, 8-bit levels."""
    about: str
    """Everything that is fixed about the encoder. Rows made otherwise are not taken for this codec's."""
    present: Callable[[], bool] = lambda: True
    """Whether it can be run here."""


@dataclass(frozen=True)
class Qualities:
    """The qualities of an encoder: `steps` + 1 of them, from `low` to `high`."""

    low: float
    high: float
    steps: int

    def __getitem__(self, index: int) -> float:
        return self.low + (self.high - self.low) * index / self.steps


def best_within(make: Callable[[float], bytes], budget: int, qualities: Qualities) -> float:
    """The highest quality whose file has at most `budget` bytes, by bisection; the lowest of all where none has.

    Files are taken to grow with the quality. Where one does not, some quality within the budget is found all the same.
    """
    fits, exceeds = 0, qualities.steps + 1
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if len(make(qualities[middle])) <= budget:
            fits = middle
        else:
            exceeds = middle
    return qualities[fits]


def pillow(format: str, qualities: Qualities, about: str, **options: Any) -> Codec:
    """A codec of Pillow's."""

    def encode(picture: Picture, budget: int) -> Encoded:
        image = Image.fromarray(rgb(picture.pixels))

        def make(quality: float) -> bytes:
            file = io.BytesIO()
            image.save(file, format, quality=quality if quality % 1 else int(quality), **options)
            return file.getvalue()

        quality = best_within(make, budget, qualities)
        with timed() as spent:
            data = make(quality)
        return Encoded(data, f"quality {quality:g}", spent)

    def decode(data: bytes) -> Tensor:
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255

    return Codec(encode, decode, about, lambda: bool(features.check(format.lower().replace("jpeg", "jpg"))))


def _drawn(model: ImageGaussians) -> Tensor:
    with torch.no_grad():
        return torch.from_numpy(rgb(model.render())).float() / 255


GAUSSIANIMAGE_STEPS = 600


def _encode_gaussianimage(picture: Picture, budget: int) -> Encoded:
    n = gaussianimage.count_for(budget)
    if not n:
        raise ValueError(f"{picture.name}: no Gaussian fits into {budget} bytes")
    with timed() as spent:
        model = fit_image(picture, FitConfig(n=n)).model
        data = finish(model, picture.pixels, GAUSSIANIMAGE_STEPS).to_bytes()
    return Encoded(data, f"{len(model)} Gaussians", spent)


def _encode_ours(picture: Picture, budget: int) -> Encoded:
    with timed() as spent:
        encoded = encode_image(picture, EncodeConfig(max_bytes=budget))
    return Encoded(encoded.data, f"{len(encoded.model)} Gaussians, qp {encoded.qp:g}", spent)


CODECS: dict[str, Codec] = {
    "JPEG": pillow(
        "JPEG",
        Qualities(1, 95, 94),
        "4:2:0, progressive, optimised Huffman tables",
        subsampling="4:2:0",
        progressive=True,
        optimize=True,
    ),
    "WebP": pillow("WEBP", Qualities(0, 100, 400), "4:2:0, method 6", method=6),
    "AVIF": pillow("AVIF", Qualities(0, 100, 100), "4:2:0, speed 6", subsampling="4:2:0", speed=6, max_threads=1),
    "GaussianImage profile": Codec(
        _encode_gaussianimage,
        lambda data: _drawn(gaussianimage.decode(data)),
        f"our fit (fast), {GAUSSIANIMAGE_STEPS} steps of finishing",
    ),
    "ours": Codec(
        _encode_ours, lambda data: _drawn(decode_image(data).model), "fit fast, pixel kernel, no chunks, one layer"
    ),
}


def read_rgb(path: Path) -> Picture:
    """An RGB picture of 8 bits; ValueError for another."""
    picture = read_picture(path)
    if picture.layout.mode != "RGB" or picture.layout.groups[0].bits != 8:
        raise ValueError(f"{path}: wanted an RGB picture of 8 bits, got {picture.layout.records()}")
    return picture
