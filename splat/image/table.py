"""An ImageGaussians as named columns, the form that its readable files and its page share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splat.image.layout import Layout
from splat.image.model import TENSORS, ImageGaussians

Column = npt.NDArray[Any]
"""[N] float32 or float64"""
_SHAPE = ("x", "y", "scale_0", "scale_1", "rotation")


def column_names(channels: int) -> list[str]:
    """x, y: means, pixels; scale_0, scale_1: logs of the standard deviations, pixels; rotation: radians; f_0 ..: the
    channels of the colours."""
    return [*_SHAPE, *(f"f_{i}" for i in range(channels))]


def columns(model: ImageGaussians) -> dict[str, Column]:
    """The model's numbers, to the bit."""
    parts = [model.means, model.log_scales, model.angles[:, None], model.colors]
    table = torch.cat([part.detach().cpu() for part in parts], 1).numpy()
    return {name: table[:, i] for i, name in enumerate(column_names(model.colors.shape[1]))}


def about(model: ImageGaussians) -> dict[str, Any]:
    """Everything of the model that is no tensor, as JSON has it: width, height, layout, ..."""
    values = {field.name: getattr(model, field.name) for field in fields(model)}
    plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    return plain | {"layout": model.layout.records(), "layers": list(model.layers)}


def model_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What `about` gave as the model has it; ValueError, which begins with `where`, for anything else."""
    plain = dict(values)
    try:
        if "layout" in plain:
            plain["layout"] = Layout.from_records(plain["layout"])
        plain["layers"] = tuple(int(end) for end in plain.get("layers", ()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    return plain


def from_columns(table: Mapping[str, Column], values: Mapping[str, Any], where: str) -> ImageGaussians:
    """The model of these columns and these values of `about`.

    Raises:
        ValueError: a column or a value is missing, unknown or of another type; begins with `where`.
    """
    channels = sum(name.startswith("f_") for name in table)
    names = column_names(channels)
    if missing := [name for name in names if name not in table]:
        raise ValueError(f"{where}: has no {', '.join(missing)}")
    wanted = {f.name: f for f in fields(ImageGaussians) if f.name not in TENSORS}
    if unknown := [name for name in values if name not in wanted]:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; a newer version may know it")
    if lacking := [name for name, f in wanted.items() if name not in values and f.default is MISSING]:
        raise ValueError(f"{where}: does not say its {', '.join(lacking)}")
    lengths = {len(table[name]) for name in names}
    kinds = {np.asarray(table[name]).dtype.newbyteorder("=") for name in names}
    if len(lengths) != 1 or len(kinds) != 1 or not kinds <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"{where}: the columns must be of one length and all float32 or all float64")
    rows = torch.from_numpy(np.stack([table[name] for name in names], 1).astype(kinds.pop(), copy=False))
    means, log_scales, angles, colors = torch.split(rows, [2, 2, 1, channels], 1)
    try:
        model = ImageGaussians(means, log_scales, angles[:, 0], colors, **model_values(values, where))
        return model.map(torch.Tensor.contiguous)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
