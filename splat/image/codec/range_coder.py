"""The entropy coder of pictures: lists of integers to bytes and back, by adaptive models, the same on every machine.

An encoder takes one list after another and gives all of them as one string of bytes; a decoder that is asked for the
same kinds of lists, with the same contexts, gives them back. What a symbol costs follows from the symbols before it in
its context: nothing about the source is written down.

The work is done by the compiled library (cuda_ext/cpu/range_coder.h), or without it by the twin in reference_coder.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splat.core import ops
from splat.core.checks import check_int
from splat.image.codec import reference_coder as twin
from splat.image.codec.reference_coder import AHEAD, MAX_VALUE, Ints, Kind, Stream

MAX_ROWS = 1 << 16
"""Most models of a Models object: contexts x memory. They take 1.5 kB each."""

MAX_WIDTH = 31
"""Most bits of a symbol of `bits`."""


class Models:
    """What a coder has learnt about lists of one kind, for `contexts` kinds of symbols.

    Given to several calls, the later ones go on with what was learnt in the earlier. Encoder and decoder each need
    their own. A context that is new starts from what all of them have in common, so many contexts cost little.
    """

    def __init__(self, contexts: int = 1) -> None:
        check_int("contexts", contexts, 1, MAX_ROWS)
        self.contexts = contexts
        self._rows: Ints | None = None
        self._use = ""

    def rows(self, kind: Kind, memory: int) -> Ints:
        """int32 [rows, nodes, 3]: the models (reference_coder.py), made at the first call."""
        if self._rows is None:
            check_int("memory x contexts", memory * self.contexts, 0, MAX_ROWS)
            self._rows = twin.new_models(kind, self.contexts, memory)
            self._use = f"{kind.name.lower()} with memory {memory}"
        if self._use != (use := f"{kind.name.lower()} with memory {memory}"):
            raise ValueError(f"models were first used for {self._use}, now for {use}")
        return self._rows


class RangeEncoder:
    """Codes lists of integers into one string of bytes.

    Arrays are int32 [M]: NumPy arrays, or what np.asarray turns into integers in that range (a list, a tensor on the
    CPU). contexts says which of the models each symbol uses; the caller computes it from what a decoder knows by then.
    With memory = K > 1 each context is split by the value before it in the list, 0 .. K - 2 or more (for signed values
    by 0, 1, -1, 2, -2, ...); the first value has 0 before it. models: None for new ones.

    Errors: ValueError for values, contexts and sizes out of range, TypeError for arrays that are not integers.
    """

    def __init__(self) -> None:
        self._state = twin.start_encoding()
        self._bytes = bytearray()
        self._finished = False

    def signed(self, values: Any, contexts: Any, models: Models | None = None, memory: int = 0) -> None:
        """Values of either sign, near 0 the cheapest to begin with: residuals."""
        self._encode(values, _stream(Kind.SIGNED, contexts, None, models, memory))

    def unsigned(self, values: Any, contexts: Any, models: Models | None = None, memory: int = 0) -> None:
        """Values in 0 .. 2^31 - 1, small ones the cheapest to begin with: counts and gaps."""
        self._encode(values, _stream(Kind.UNSIGNED, contexts, None, models, memory))

    def bounded(self, values: Any, levels: Any, contexts: Any, models: Models | None = None, memory: int = 0) -> None:
        """Values in 0 .. levels[i] - 1, levels int32 [M]: angles, classes. The first six bits are learnt, the rest
        taken as equally probable. Symbols of one context share what is learnt whatever their levels."""
        self._encode(values, _stream(Kind.BOUNDED, contexts, levels, models, memory))

    def bits(self, values: Any, widths: Any) -> None:
        """Values in 0 .. 2^widths[i] - 1, all equally probable; widths int32 [M] in 0 .. 31."""
        self._encode(values, _bits_stream(widths))

    @property
    def size(self) -> int:
        """Bytes so far; a few more are still held back."""
        return len(self._bytes)

    def finish(self) -> bytes:
        """All bytes. The encoder takes nothing more."""
        if not self._finished:
            self._bytes += twin.finish(self._state)
            self._finished = True
        return bytes(self._bytes)

    def _encode(self, values_in: Any, stream: Stream) -> None:
        if self._finished:
            raise ValueError("the encoder is finished; make a new one")
        values = _ints("values", values_in, len(stream.contexts))
        if stream.kind == Kind.UNSIGNED:
            _check_range("values", values, 0, MAX_VALUE)
        elif stream.kind != Kind.SIGNED:
            levels = stream.extents if stream.kind == Kind.BOUNDED else 1 << stream.extents.astype(np.int64)
            _check_range("values", values, 0, levels - 1)
        if ops.available:
            of = _Tensors(stream)
            settled = torch.ops.splat.range_encode(
                torch.from_numpy(self._state), of.models, of.kind, torch.from_numpy(values), *of.symbols
            )
            self._bytes += settled.numpy().tobytes()
        else:
            self._bytes += twin.encode(self._state, stream, values).tobytes()


class RangeDecoder:
    """Gives back what a RangeEncoder coded, call by call: the same methods with the same contexts, sizes and models,
    and int32 NumPy arrays [M] as results.

    Damaged data give wrong values or a ValueError, never more than M values, and finish tells what is left over.

    Args:
        data: what RangeEncoder.finish gave.
    """

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(bytearray(data), np.uint8)
        self._state = twin.start_decoding(self._data)

    def signed(self, contexts: Any, models: Models | None = None, memory: int = 0) -> Ints:
        """Mirror of RangeEncoder.signed."""
        return self._decode(_stream(Kind.SIGNED, contexts, None, models, memory))

    def unsigned(self, contexts: Any, models: Models | None = None, memory: int = 0) -> Ints:
        """Mirror of RangeEncoder.unsigned."""
        return self._decode(_stream(Kind.UNSIGNED, contexts, None, models, memory))

    def bounded(self, levels: Any, contexts: Any, models: Models | None = None, memory: int = 0) -> Ints:
        """Mirror of RangeEncoder.bounded."""
        return self._decode(_stream(Kind.BOUNDED, contexts, levels, models, memory))

    def bits(self, widths: Any) -> Ints:
        """Mirror of RangeEncoder.bits."""
        return self._decode(_bits_stream(widths))

    def finish(self) -> None:
        """Checks that the data end with the last symbol: ValueError where bytes are left or missing."""
        left = len(self._data) + AHEAD - 1 - int(self._state[2])
        if self._state[3] or (left < 0 and len(self._data) > 0):
            raise ValueError(_DAMAGED)
        if left > 0:
            raise ValueError(f"coded data are damaged: {left} bytes follow the last symbol")

    def _decode(self, stream: Stream) -> Ints:
        values: Ints
        if ops.available:
            of = _Tensors(stream)
            state, data = torch.from_numpy(self._state), torch.from_numpy(self._data)
            values = torch.ops.splat.range_decode(state, of.models, data, of.kind, *of.symbols).numpy()
        else:
            values = twin.decode(self._state, stream, self._data)
        if self._state[3]:
            raise ValueError(_DAMAGED)
        return values


class _Tensors:
    """A stream as the compiled coder takes it: tensors that share its memory."""

    def __init__(self, stream: Stream) -> None:
        self.models, self.kind = torch.from_numpy(stream.models), int(stream.kind)
        contexts, extents = torch.from_numpy(stream.contexts), torch.from_numpy(stream.extents)
        self.symbols = (contexts, extents, stream.context_count, stream.memory)


def _stream(kind: Kind, contexts_in: Any, extents_in: Any, models: Models | None, memory: int) -> Stream:
    """The checked arguments that both directions share."""
    check_int("memory", memory, 0, MAX_ROWS)
    contexts, extents = _ints("contexts", contexts_in), np.zeros(0, np.int32)
    top = int(contexts.max(initial=0))
    if models is None:
        models = Models(top + 1)
    _check_range("contexts", contexts, 0, models.contexts - 1)
    if kind in (Kind.BOUNDED, Kind.BITS):
        name, least, most = ("levels", 1, MAX_VALUE) if kind == Kind.BOUNDED else ("widths", 0, MAX_WIDTH)
        extents = _ints(name, extents_in, len(contexts))
        _check_range(name, extents, least, most)
    return Stream(kind, contexts, extents, models.contexts, memory, models.rows(kind, memory))


def _bits_stream(widths: Any) -> Stream:
    widths = _ints("widths", widths)
    return _stream(Kind.BITS, np.zeros_like(widths), widths, None, 0)


_DAMAGED = "coded data are damaged or end too early"


def _ints(name: str, value: Any, count: int | None = None) -> Ints:
    """A contiguous int32 array [M] of the value, M = count where that is given."""
    array: npt.NDArray[Any] = np.asarray(value)
    if array.ndim != 1 or (count is not None and len(array) != count):
        wanted = "[M]" if count is None else f"[M] = [{count}]"
        raise ValueError(f"{name} must have shape {wanted}, got {list(array.shape)}")
    if array.dtype.kind not in "iub" and array.size:
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.dtype != np.int32:
        _check_range(name, array, -MAX_VALUE - 1, MAX_VALUE)
    return np.ascontiguousarray(array, np.int32)


def _check_range(name: str, array: npt.NDArray[Any], least: int, most: Any) -> None:
    outside = (array < least) | (array > most)
    if outside.any():
        i = int(outside.argmax())
        limit = int(np.broadcast_to(most, array.shape)[i])
        raise ValueError(f"{name}[{i}] must be in {least} .. {limit}, got {array[i]}")


@ops.register_fake("splat::range_encode")
def _(coder: Tensor, models: Tensor, kind: int, values: Tensor, *_: Any) -> Tensor:
    return values.new_empty([torch.library.get_ctx().new_dynamic_size()], dtype=torch.uint8)


@ops.register_fake("splat::range_decode")
def _(coder: Tensor, models: Tensor, data: Tensor, kind: int, contexts: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(contexts)
