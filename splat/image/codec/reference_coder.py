"""The entropy coder in plain Python: the twin of cuda_ext/cpu/range_coder.h, function for function, and what reads and
writes files where the compiled library is missing. Change both or neither.

An adaptive binary range coder (Martin 1979; the carry is held back as in Schindler 1998) and the binarisation of
integers on top of it. Integers only, so that every machine writes and reads the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
State = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Kind(IntEnum):
    """What the symbols of a stream are."""

    SIGNED = 0
    UNSIGNED = 1
    BOUNDED = 2
    BITS = 3


# A model of a bit is [slow, fast, count]: two running estimates of the probability that it is one, in units of 2^-24,
# and how often it was seen, up to SLOW_LIMIT. Both start as the mean of what was seen (rate 1 / (n + 1.5)); the fast
# one stops slowing down early. Their mean follows drifting sources and loses little on steady ones.
PROBABILITY_BITS = 24
FAST_LIMIT, SLOW_LIMIT = 20, 500
TRUST = 20  # a model seen this often weighs as much as the coarser ones
LEAST_PROBABILITY = 16  # of 2^16: a bit costs at most 12 bits
RATES = [(1 << 17) // (2 * n + 3) for n in range(SLOW_LIMIT + 1)]  # 2^16 / (n + 1.5)
WEIGHTS = [(n << 16) // (n + TRUST) for n in range(SLOW_LIMIT + 1)]

WHOLE, TOP = (1 << 32) - 1, 1 << 24  # the interval at the start, and the least after a bit
RAW_BITS = 8  # equiprobable bits coded at once

# Nodes of the models of a magnitude: is it above 0, above 1; the length of its Elias gamma code; the code's two bits
# below the leading one, for each length.
UNARY, MAX_LENGTH, TOP_BITS = 2, 31, 2
LENGTH_NODE, TOP_NODES = UNARY, (1 << TOP_BITS) - 1
TOP_NODE = LENGTH_NODE + MAX_LENGTH
ZERO_NODE = TOP_NODE + MAX_LENGTH * TOP_NODES
SIGN_NODE = ZERO_NODE + 1
TREE_BITS = 6
MODEL_NODES = {Kind.SIGNED: SIGN_NODE + 1, Kind.UNSIGNED: ZERO_NODE, Kind.BOUNDED: (1 << TREE_BITS) - 1, Kind.BITS: 0}

MAX_VALUE = (1 << 31) - 1
AHEAD = 4
"""At the end of a whole stream the decoder has asked for one byte fewer than this more than there are; for this many
where there are none."""

BitModel = list[int]
Chain = list[list[BitModel]]
"""The models of one symbol, coarsest first: of all symbols, of its context, of its context and the code before it. All
of them learn from every symbol."""


class Coder(Protocol):
    """What the encoder and the decoder share, so that a binarisation is written once: the encoder codes what it is
    given and returns it, the decoder ignores what it is given."""

    decodes: bool

    def bit(self, one: int, bit: bool) -> bool: ...

    def raw(self, width: int, value: int) -> int: ...


class Encoder:
    """State over several calls: low, range, cache, pending (see _shift)."""

    decodes = False

    def __init__(self, state: State) -> None:
        self._low, self._range, self._cache, self._pending = map(int, state)
        self.bytes = bytearray()

    def save(self, state: State) -> None:
        state[:] = self._low, self._range, self._cache, self._pending

    def bit(self, one: int, bit: bool) -> bool:
        bound = self._range * one >> 16
        if not bit:
            self._low += bound
        self._range = bound if bit else self._range - bound
        self._renormalise()
        return bit

    def raw(self, width: int, value: int) -> int:
        self._range >>= width
        self._low += self._range * value
        self._renormalise()
        return value

    def finish(self) -> None:
        """One byte more puts the zeros that a decoder reads after the end into the interval. Where the interval starts
        at 0 and no byte has left it, none is needed."""
        if self._low > 0 or self._cache >= 0 or self._pending > 0:
            self._low = self._low + TOP - 1 & ~(TOP - 1)
            self._shift()
        # What is held back cannot change any more.
        self.bytes += bytes([self._cache] * (self._cache >= 0)) + b"\xff" * self._pending

    def _renormalise(self) -> None:
        while self._range < TOP:
            self._range = self._range << 8
            self._shift()

    def _shift(self) -> None:
        """The top byte of low leaves. A byte of 255 may still become 0 by a carry, and so may all that precede it: they
        are counted until a byte comes that settles them. cache is the byte before them, -1 at the start."""
        if self._low < 0xFF000000 or self._low > WHOLE:
            carry = self._low >> 32
            if self._cache >= 0:
                self.bytes.append(self._cache + carry & 0xFF)
            self.bytes += bytes([0xFF + carry & 0xFF]) * self._pending
            self._pending = 0
            self._cache = self._low >> 24 & 0xFF
        else:
            self._pending += 1
        self._low = (self._low & 0xFFFFFF) << 8


class Decoder:
    """State over several calls: code, range, position in the data, whether damage was found."""

    decodes = True

    def __init__(self, state: State, data: Bytes) -> None:
        self._code, self._range, self._position, damaged = map(int, state)
        self.damaged = bool(damaged)
        self._data = data.tobytes()

    def save(self, state: State) -> None:
        state[:] = self._code, self._range, self._position, not self.ok()

    def ok(self) -> bool:
        return not self.damaged and self._position <= len(self._data) + AHEAD

    def bit(self, one: int, bit: bool) -> bool:
        bound = self._range * one >> 16
        bit = self._code < bound
        self._code -= 0 if bit else bound
        self._range = bound if bit else self._range - bound
        self._renormalise()
        return bit

    def raw(self, width: int, value: int) -> int:
        self._range >>= width
        value = self._code // self._range
        if value >> width:  # no encoder leaves this rest of the interval
            self.damaged = True
            return 0
        self._code -= self._range * value
        self._renormalise()
        return value

    def _renormalise(self) -> None:
        while self._range < TOP:
            self._range = self._range << 8
            byte = self._data[self._position] if self._position < len(self._data) else 0
            self._code = (self._code << 8 | byte) & WHOLE
            self._position += 1


@dataclass(frozen=True)
class Stream:
    """The symbols of one call, without their values."""

    kind: Kind
    contexts: Ints
    """[M], in 0 .. context_count - 1."""
    extents: Ints
    """[M], levels of BOUNDED, widths of BITS; else [0]."""
    context_count: int
    memory: int
    models: Ints
    """[model_rows, MODEL_NODES, 3], changed in place."""

    def chain(self, context: int, previous: int) -> list[int]:
        """Rows of the models of a symbol, coarsest first; previous: code of the value before it."""
        rows = [0]
        if self.context_count > 1:
            rows.append(1 + context)
        if self.memory > 1:
            first = model_rows(self.context_count, self.memory) - self.context_count * self.memory
            rows.append(first + context * self.memory + min(previous, self.memory - 1))
        return rows


def model_rows(context_count: int, memory: int) -> int:
    """Rows of the models: one for all symbols, one for each context where there are several, one for each context and
    code before it where memory > 1."""
    return 1 + (context_count if context_count > 1 else 0) + (context_count * memory if memory > 1 else 0)


def new_models(kind: Kind, context_count: int, memory: int) -> Ints:
    """Models that have seen nothing."""
    models = np.zeros((model_rows(context_count, memory), MODEL_NODES[kind], 3), np.int32)
    models[..., :2] = 1 << (PROBABILITY_BITS - 1)
    return models


def start_encoding() -> State:
    """State of an encoder that has coded nothing."""
    return np.array([0, WHOLE, -1, 0], np.int64)


def start_decoding(data: Bytes) -> State:
    """State of a decoder before its first symbol."""
    first = data[:4].tobytes().ljust(4, b"\0")
    return np.array([int.from_bytes(first, "big"), WHOLE, 4, 0], np.int64)


def finish(state: State) -> bytes:
    """The last bytes of an encoder's stream."""
    encoder = Encoder(state)
    encoder.finish()
    return bytes(encoder.bytes)


def encode(state: State, stream: Stream, values: Ints) -> Bytes:
    """Bytes that coding these values int32 [M] settled. Changes the state and the models in place."""
    encoder = Encoder(state)
    _code_stream(encoder, stream, values)
    encoder.save(state)
    return np.array(encoder.bytes, np.uint8)


def decode(state: State, stream: Stream, data: Bytes) -> Ints:
    """The mirror of encode; state[3] is 1 afterwards if the data are damaged."""
    decoder = Decoder(state, data)
    values = np.zeros(len(stream.contexts), np.int32)
    _code_stream(decoder, stream, values)
    decoder.save(state)
    return values


def _code_stream(coder: Encoder | Decoder, stream: Stream, values: Ints) -> None:
    """An encoder reads the values, a decoder writes them, until it finds damage."""
    rows: list[list[BitModel]] = stream.models.tolist()
    kind = stream.kind
    previous = 0  # code of the value before: itself, or for signed ones 0, 1, -1, 2, -2, ... -> 0, 1, 2, 3, 4, ...
    for i, context in enumerate(stream.contexts.tolist()):
        if isinstance(coder, Decoder) and not coder.ok():
            break
        value = 0 if coder.decodes else int(values[i])
        if kind == Kind.BITS:
            value = _code_raw(coder, int(stream.extents[i]), value)
        else:
            chain = [rows[row] for row in stream.chain(context, previous)]
            if kind == Kind.BOUNDED:
                value = _code_bounded(coder, chain, int(stream.extents[i]), value)
            elif kind == Kind.UNSIGNED:
                value = _code_magnitude(coder, chain, value)
            elif _code_bit(coder, chain, ZERO_NODE, value != 0):
                negative = _code_bit(coder, chain, SIGN_NODE, value < 0)
                size = _code_magnitude(coder, chain, abs(value) - 1) + 1
                value = -size if negative else size
            previous = value if kind != Kind.SIGNED else 2 * value - 1 if value > 0 else -2 * value
        if isinstance(coder, Decoder):
            if not -MAX_VALUE - 1 <= value <= MAX_VALUE:
                coder.damaged = True
            values[i] = value if coder.ok() else 0
    stream.models[:] = np.array(rows, np.int32).reshape(stream.models.shape)


def _code_bit(coder: Coder, chain: Chain, node: int, bit: bool) -> bool:
    bit = coder.bit(_probability(chain, node), bit)
    for row in chain:
        _update(row[node], bit)
    return bit


def _update(model: BitModel, bit: bool) -> None:
    slow, fast, count = model
    target = 1 << PROBABILITY_BITS if bit else 0
    model[0] = slow + ((target - slow) * RATES[count] >> 16)
    model[1] = fast + ((target - fast) * RATES[min(count, FAST_LIMIT)] >> 16)
    model[2] = min(count + 1, SLOW_LIMIT)


def _probability(chain: Chain, node: int) -> int:
    """Probability of a one, of 2^16. A finer model weighs n / (n + TRUST), what the coarser ones say the rest: a new
    context starts from what all have in common. (Linear interpolation, as Jelinek & Mercer 1980 smooth the contexts of
    words.)"""
    mixed = 0  # of 2^(PROBABILITY_BITS + 1)
    for i, row in enumerate(chain):
        slow, fast, count = row[node]
        own = slow + fast
        mixed = own if i == 0 else mixed + ((own - mixed) * WEIGHTS[count] >> 16)
    one = mixed >> (PROBABILITY_BITS + 1 - 16)
    return min(max(one, LEAST_PROBABILITY), (1 << 16) - LEAST_PROBABILITY)


def _code_raw(coder: Coder, width: int, value: int) -> int:
    """`width` equiprobable bits, the highest first."""
    coded = 0
    while width > 0:
        part = min(width, RAW_BITS)
        width -= part
        coded = coded << part | coder.raw(part, value >> width & ((1 << part) - 1))
    return coded


def _code_magnitude(coder: Coder, chain: Chain, value: int) -> int:
    """0 .. 2^31 - 1: small ones bit by bit, others by the Elias gamma code (Elias 1975) of what is left, plus one. A
    decoded one may reach 2^32: the caller checks it."""
    for i in range(UNARY):
        if not _code_bit(coder, chain, i, value > i):
            return i
    rest = 1 if coder.decodes else value - UNARY + 1
    wanted = rest.bit_length() - 1
    length = 0
    while length < MAX_LENGTH and _code_bit(coder, chain, LENGTH_NODE + length, length < wanted):
        length += 1
    top, left = 1, length
    while left > 0 and length - left < TOP_BITS:
        left -= 1
        node = TOP_NODE + (length - 1) * TOP_NODES + top - 1
        top = top << 1 | _code_bit(coder, chain, node, bool(rest >> left & 1))
    return (top << left | _code_raw(coder, left, rest & ((1 << left) - 1))) - 1 + UNARY


def _code_bounded(coder: Coder, chain: Chain, levels: int, value: int) -> int:
    """A bit tree of 0 .. levels - 1: the first bits by their models, the rest equiprobable; a bit that only zero leaves
    in range is not coded."""
    prefix, tree = 0, 1
    depth = (levels - 1).bit_length()
    for k in range(depth):
        left = depth - 1 - k
        wanted, bit = bool(value >> left & 1), False
        if (prefix << 1 | 1) << left < levels:
            bit = _code_bit(coder, chain, tree - 1, wanted) if k < TREE_BITS else bool(coder.raw(1, wanted))
        prefix, tree = prefix << 1 | bit, tree << 1 | bit
    return prefix
