"""Checks of arguments: one short error that names the argument, what was wanted and what came."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

MAX_PIXELS = 1 << 20
"""Most pixels along a side of a picture: tile coordinates stay far inside 32 bits."""


class Arguments:
    """Checks the tensors of one call, which share sizes, dtype and device.

    A dimension is a number or a name: the first tensor with an "N" says what N is, the later ones must agree. The first
    tensor says what device the others must be on, the first float tensor what dtype (float32 or float64) the other
    floats must have. Wrong Python types raise TypeError, all else ValueError.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._first: tuple[str, Tensor] | None = None
        self._first_float: tuple[str, Tensor] | None = None

    def tensor(self, name: str, value: Any, *dims: int | str) -> None:
        """A tensor of any dtype."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        want = [self._sizes.get(d, d) if isinstance(d, str) else d for d in dims]
        got = list(value.shape)
        if len(got) != len(want) or any(not isinstance(w, str) and w != g for w, g in zip(want, got, strict=True)):
            named, sizes = (f"[{', '.join(map(str, shape))}]" for shape in (dims, want))
            raise ValueError(f"{name} must have shape {named}{f' = {sizes}' if sizes != named else ''}, got {got}")
        self._sizes.update({d: g for d, g in zip(dims, got, strict=True) if isinstance(d, str)})
        if self._first is None:
            self._first = name, value
        check_device(name, value, *self._first)

    def floats(self, name: str, value: Any, *dims: int | str) -> None:
        """A float32 or float64 tensor."""
        self.tensor(name, value, *dims)
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32 or float64, got {value.dtype}")
        if self._first_float is None:
            self._first_float = name, value
        first, like = self._first_float
        if value.dtype != like.dtype:
            raise ValueError(f"{name} must have the dtype of {first}, {like.dtype}, got {value.dtype}")

    def integers(self, name: str, value: Any, dtype: torch.dtype, *dims: int | str) -> None:
        """An integer tensor of this dtype."""
        self.tensor(name, value, *dims)
        if value.dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {value.dtype}")


def check_device(name: str, value: Tensor, first: str, like: Tensor) -> None:
    """A tensor on the device of `like`, an argument called `first`."""
    if value.device != like.device:
        raise ValueError(f"{name} must be on the device of {first}, {like.device}, got {value.device}")


def check_int(name: str, value: Any, least: int | None = None, most: int | None = None) -> None:
    """An int in least .. most."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt, Integral)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    number: Any = value
    if most is not None and least is not None and not least <= number <= most:
        raise ValueError(f"{name} must be in {least} .. {most}, got {value}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_type(name: str, value: Any, wanted: type) -> None:
    """An object of this class."""
    if not isinstance(value, wanted):
        raise TypeError(f"{name} must be a {wanted.__name__}, got {type(value).__name__}")


def check_size(width: Any, height: Any) -> None:
    """The size of a picture in pixels."""
    check_int("width", width)
    check_int("height", height)
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1 pixel, got {width} x {height}")
    if width > MAX_PIXELS or height > MAX_PIXELS:
        raise ValueError(f"width and height must be at most {MAX_PIXELS} pixels, got {width} x {height}")
