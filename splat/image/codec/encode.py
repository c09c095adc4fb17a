"""Pictures and fitted models to .s2d files of a wanted size or quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat.core.checks import check_int
from splat.image.codec.finish import BITS, FinishConfig, Params, geometry_of, round_at_once, round_gaussians
from splat.image.codec.header import MAX_CHUNK, MIN_CHUNK, Header, LayerHead, rounded_basis, usual_cell
from splat.image.codec.lattice import MAX_LOG_SCALE, MAX_QP, MIN_LOG_SCALE, OCTAVE, QP_PARTS, Floats
from splat.image.codec.s2d import CodedLayer, Ledger, decode_image, to_model, write
from splat.image.fit import DB_PER_DOUBLING, FitConfig, fit_image
from splat.image.fitter import FitProgress
from splat.image.layered import term_weights
from splat.image.model import TENSORS, ImageGaussians
from splat.image.objective import Objective
from splat.image.picture import Picture, read_picture
from splat.metrics import MAX_PSNR, psnr
from splat.stop import deferred_stop

DEFAULT_QP = 28.0
ANY_SIZE = FitConfig().for_any_size()
"""Files are drawn at any size. On four Kodak pictures at .15 and 1 bit a pixel this changes the PSNR at their own size
by -0.09 to 0.07 dB, 0.01 on average."""


@dataclass(frozen=True)
class EncodeConfig:
    """How small, or how good. Give qp or max_bytes, or neither for qp 28."""

    qp: float | None = None
    """The step of all numbers, 0 to 63.75, rounded to quarters: 6 more double it."""
    max_bytes: int | None = None
    """Size of the file, at most."""
    chunk: int = 0
    """Side in pixels of chunks that can be read alone, a power of two from 32 on; 0: none, which is smaller."""
    finish: FinishConfig = field(default_factory=FinishConfig)

    def __post_init__(self) -> None:
        if self.qp is not None and self.max_bytes is not None:
            raise ValueError("give qp or max_bytes, not both: one follows from the other")
        if self.qp is not None and not 0 <= self.qp <= MAX_QP:
            raise ValueError(f"qp must be in 0 .. {MAX_QP}, got {self.qp}")
        if self.max_bytes is not None:
            check_int("max_bytes", self.max_bytes, 1)
        if self.chunk:
            check_int("chunk", self.chunk, 1 << MIN_CHUNK, 1 << MAX_CHUNK)
            if self.chunk & (self.chunk - 1):
                raise ValueError(f"chunk must be a power of two, got {self.chunk}")


class TooSmallError(ValueError):
    """A wanted size that a model does not go into."""


@dataclass(frozen=True)
class CodedPrefix:
    """A file up to the end of a layer."""

    size: int
    """Bytes."""
    count: int
    """Gaussians."""
    psnr: float
    """dB."""


@dataclass(frozen=True)
class Encoded:
    """A coded picture."""

    data: bytes
    """The file."""
    model: ImageGaussians
    """What a decoder makes of it."""
    ledger: Ledger
    qp: float
    psnr: float
    """dB, against the picture, of the render clamped to 0..1."""
    layers: tuple[CodedPrefix, ...]
    """What the file gives up to the end of each layer; the last is the whole."""
    interrupted: bool = False
    """Whether Ctrl-C came: the file holds what there was of the fit, and is whole."""


def encode_model(
    model: ImageGaussians,
    target: Tensor | None = None,
    config: EncodeConfig = EncodeConfig(),
    tell: Callable[[float], None] | None = None,
) -> Encoded:
    """Codes a fitted model; its levels become the file's layers (of blend sum; a model of blend topk has one).

    Args:
        target: [H, W, D] the picture that it was fitted to, which the rounding keeps as near to as it can (default: the
            model's own render).
        tell: called with the share that is done, 0..1.

    Raises:
        ValueError: max_bytes is too small for this model; the target has another size or other channels.
    """
    if len(model) == 0:
        raise ValueError("model must hold at least one Gaussian")
    if target is None:
        with torch.no_grad():
            target = model.render()
    wanted = [model.height, model.width, model.layout.channels]
    if list(target.shape) != wanted:
        raise ValueError(f"target must have the model's shape {wanted}, got {list(target.shape)}")
    coder = _Coder(model, target, config)
    if config.max_bytes is None:
        return coder.encode(DEFAULT_QP if config.qp is None else config.qp, tell)
    # Rounding with care leaves fewer Gaussians than rounding at once, so the first guess is rarely the last.
    quarters, tried, best = round(coder.quick_qp(config.max_bytes) * QP_PARTS), set[int](), None
    while quarters not in tried and len(tried) < _TRIES and 0 <= quarters <= MAX_QP * QP_PARTS:
        tried.add(quarters)
        encoded = coder.encode(quarters / QP_PARTS, tell)
        size = len(encoded.data)
        if size <= config.max_bytes and (best is None or encoded.psnr > best.psnr):
            best = encoded
        change = _STEPS_PER_DOUBLING * math.log2(size / config.max_bytes)
        quarters += math.ceil(change) if change > 0 else min(0, round(change))
    if best is not None:
        return best
    fewer = min(int(config.max_bytes * 8 / BITS[model.blend]), len(model) * 3 // 4)
    what = f"fit fewer, about {fewer}" if fewer else "no Gaussian fits"
    raise TooSmallError(f"max_bytes {config.max_bytes} is too small for {len(model)} Gaussians; {what}")


def encode_image(
    image: Any,
    config: EncodeConfig = EncodeConfig(),
    fit: FitConfig = ANY_SIZE,
    *,
    callback: Callable[[FitProgress], None] | None = None,
    tell: Callable[[float], None] | None = None,
) -> Encoded:
    """Fits a picture and codes it. With max_bytes the number of Gaussians follows from it, unless `fit` says it. Ctrl-C
    ends the fit, and what there is of it is coded.

    Args:
        image, callback: as of `fit_image`.
        fit: without least_scale and dilation (`FitConfig.for_any_size`) the picture shows needles in larger sizes.
        tell: called with the share of the coding that is done, 0..1, after the fit.
    """
    picture = read_picture(image)
    if config.max_bytes is not None and fit.n is None and fit.target_psnr is None and isinstance(fit.layers, int):
        fit = replace(fit, n=max(1, int(config.max_bytes * 8 / BITS[fit.blend])))
    with deferred_stop() as stop:
        fitted = fit_image(picture, fit, callback=callback)
        encoded = encode_model(fitted.model, picture.pixels.float(), config, tell)
        return replace(encoded, interrupted=fitted.interrupted or stop.requested)


def encode_to_psnr(
    image: Any,
    target_psnr: float,
    config: EncodeConfig = EncodeConfig(),
    fit: FitConfig = ANY_SIZE,
    *,
    callback: Callable[[FitProgress], None] | None = None,
    tell: Callable[[float], None] | None = None,
) -> Encoded:
    """The smallest file found that reaches a PSNR (dB); the best of those tried where none does.

    Sizes are tried along the line of PSNR over log2 of the bytes, which is nearly straight. Ctrl-C ends the search.
    """
    FitConfig(target_psnr=target_psnr)  # its checks
    if fit.target_psnr is not None:
        raise ValueError("fit must have no target_psnr: the number of Gaussians follows from the size of the file")
    picture = read_picture(image)
    with deferred_stop() as stop:
        search = _Search(picture, target_psnr, config, fit)
        while not search.done and not (search.tried and stop.requested):
            search.try_next(callback, tell)
        return replace(search.best, interrupted=search.interrupted or stop.requested)


class _Search:
    """Files of several sizes, for a PSNR."""

    def __init__(self, picture: Picture, target_psnr: float, config: EncodeConfig, fit: FitConfig) -> None:
        self.picture, self.target_psnr, self.config, self.fit = picture, target_psnr, config, fit
        self.size = picture.pixels[..., 0].numel() * 0.3 / 8
        self.tried: list[Encoded] = []
        self.left = _SEARCH

    @property
    def interrupted(self) -> bool:
        return bool(self.tried) and self.tried[-1].interrupted

    @property
    def done(self) -> bool:
        near = bool(self.tried) and 0 <= self.tried[-1].psnr - self.target_psnr < _NEAR
        return near or self.interrupted or self.left == 0

    def try_next(self, callback: Callable[[FitProgress], None] | None, tell: Callable[[float], None] | None) -> None:
        """Codes the picture at the present size, and goes on to the next."""
        self.left -= 1
        self.size = min(max(self.size, 64.0), 4.0 * self.picture.pixels.numel() + 1024)
        sized = replace(self.config, qp=None, max_bytes=round(self.size))
        try:
            self.tried.append(encode_image(self.picture, sized, self.fit, callback=callback, tell=tell))
        except TooSmallError:
            if self.left == 0 and not self.tried:
                raise
            self.size *= 2
            return
        missing, slope = self.target_psnr - self.tried[-1].psnr, DB_PER_DOUBLING
        if len(self.tried) > 1:
            a, b = self.tried[-2:]
            doublings = math.log2(len(b.data) / len(a.data))
            slope = min(8.0, max(2.0, (b.psnr - a.psnr) / doublings)) if abs(doublings) > 0.01 else slope
        # To the middle of what will do: neighbouring sizes differ by a tenth of a dB either way.
        self.size = len(self.tried[-1].data) * 2 ** ((missing + _NEAR / 2) / slope)

    @property
    def best(self) -> Encoded:
        """The smallest that is good enough, else the best."""
        enough = [e for e in self.tried if e.psnr >= self.target_psnr]
        return min(enough, key=lambda e: len(e.data)) if enough else max(self.tried, key=lambda e: e.psnr)


_SEARCH = 8
_NEAR = 0.3
"""dB above the target that a search is content with."""
_TRIES = 6
_STEPS_PER_DOUBLING = 80
"""Quarters of qp that halve a file of a given number of Gaussians, about."""


class _Coder:
    """A model and its picture, to be coded with one qp or another."""

    def __init__(self, model: ImageGaussians, target: Tensor, config: EncodeConfig) -> None:
        self.target, self.config = target, config
        self.params: Params = {name: getattr(model, name).detach().clone() for name in TENSORS}
        colors = self.params["colors"].double().numpy()
        # With topk a colour is the picture's, and only what differs from the usual one has to be written.
        offset = np.median(colors, 0) if model.blend == "topk" else np.zeros(colors.shape[1])
        self.header = Header(
            model.width,
            model.height,
            model.layout,
            rounded_basis(_principal_axes(geometry_of(self.params).lengths[:, None] * (colors - offset))),
            offset.astype(np.float16).astype(np.float64),
            model.blend,
            model.topk,
            float(np.float16(model.dilation)),
            config.chunk.bit_length() - 1 if config.chunk else 0,
        )
        # Layers add up, which pictures of blend topk do not.
        ends = model.layers if model.layers and model.blend == "sum" else (len(model),)
        self.rows = [slice(a, b) for a, b in pairwise((0, *ends))]
        self.options = model.options
        self.later = _left_to_later(model, self.rows)

    def head(self, params: Params, qp: float) -> LayerHead:
        """Of a layer."""
        minor = params["log_scales"].min(1).values.mean() if len(params["means"]) else torch.zeros(())
        typical = round(float(minor) / math.log(2) * OCTAVE)
        count = len(params["means"])
        cell = usual_cell(self.header, count)
        return LayerHead(count, qp, cell, min(MAX_LOG_SCALE, max(MIN_LOG_SCALE, typical)))

    def quick_qp(self, max_bytes: int) -> float:
        """The smallest qp whose file, rounded without care, is small enough."""
        low, high = 0, round(MAX_QP * QP_PARTS)
        while low < high:
            middle = (low + high) // 2
            layers = []
            for rows in self.rows:
                params = {name: value[rows] for name, value in self.params.items()}
                head = self.head(params, middle / QP_PARTS)
                symbols = round_at_once(params, self.header.lattice(head))
                layers.append(CodedLayer(replace(head, count=len(symbols)), symbols))
            if len(write(self.header, layers)[0]) <= max_bytes:
                high = middle
            else:
                low = middle + 1
        return low / QP_PARTS

    def encode(self, qp: float, tell: Callable[[float], None] | None) -> Encoded:
        """The file with this qp."""
        qp = round(qp * QP_PARTS) / QP_PARTS  # as the file holds it
        layers: list[CodedLayer] = []
        left = self.target
        for i, rows in enumerate(self.rows):
            params = {name: value[rows] for name, value in self.params.items()}
            wanted = left - self.later[i]
            objective = Objective.of(wanted, options=self.options, dilation=self.header.dilation)
            head = self.head(params, qp)
            share = _part_of(tell, i, len(self.rows))
            symbols = round_gaussians(params, objective, self.header.lattice(head), self.config.finish, share)
            head = replace(head, count=len(symbols))
            with torch.no_grad():
                left = left - to_model(self.header, head, symbols).render()
            quality = min(MAX_PSNR, psnr((self.target - left).clamp(0, 1), self.target))
            if len(symbols) or (not layers and i + 1 == len(self.rows)):  # a layer that is worth nothing is none
                layers.append(CodedLayer(replace(head, psnr=quality), symbols))
        data, ledger = write(self.header, layers)
        decoded = decode_image(data)
        model, qualities = decoded.model, [layer.head.psnr for layer in layers]
        prefixes = map(CodedPrefix, decoded.layer_bytes, model.layers, qualities)
        return Encoded(data, model, ledger, qp, qualities[-1], tuple(prefixes))


def _left_to_later(model: ImageGaussians, rows: list[slice]) -> list[Tensor]:
    """[H, W, D] for each layer: what it leaves to the layers behind it.

    A layer is a summand of every prefix from its own on. The sum of their weighted squared errors (`term_weights`) is,
    but for a constant, that of the layer alone from the weighted mean of what each of them asks of it; a later layer is
    in that mean by the weight of the prefixes that have it.
    """
    weights, height, width = term_weights([part.stop for part in rows]), model.height, model.width
    left = [model.colors.new_zeros(height, width, model.colors.shape[1])]
    for i in range(len(rows) - 1, 0, -1):
        with torch.no_grad():
            drawn = model.map(lambda t, part=rows[i]: t[part]).render()  # type: ignore[misc]
        left.insert(0, sum(weights[i:]) / sum(weights[i - 1 :]) * (drawn + left[0]))
    return left


def _part_of(tell: Callable[[float], None] | None, part: int, parts: int) -> Callable[[float], None] | None:
    """What one of several parts of the work tells."""
    return None if tell is None else lambda share: tell((part + share) / parts)


def _principal_axes(colors: Floats) -> Floats:
    """[D, D] orthonormal rows, along which the colours [N, D] have most of their energy first (Karhunen-Loeve)."""
    axes: Floats = np.linalg.eigh(colors.T @ colors)[1].T[::-1]
    # The sign is the solver's choice; ours is one for all machines.
    return axes * np.where(axes.sum(1, keepdims=True) < 0, -1.0, 1.0)
