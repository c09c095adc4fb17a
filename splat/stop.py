"""Ctrl-C as a request: long work ends at the next good moment and keeps what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether the person at the keyboard (or the system) has asked for the end."""

    requested: bool = False


_state = threading.local()  # .current: the Stop of this thread's outermost block


@contextmanager
def deferred_stop(*signals: signal.Signals) -> Iterator[Stop]:
    """Within the block the given signals (default SIGINT) only set `requested`, which the block asks between its steps.

    An inner block shares the request of the outer one. Outside the main thread, and where the program has a handler of
    its own, nothing is installed and nothing is ever requested.
    """
    outer: Stop | None = getattr(_state, "current", None)
    if outer is not None:
        yield outer
        return
    stop = Stop()

    def request(_: int, __: FrameType | None) -> None:
        stop.requested = True

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in signals or (signal.SIGINT,):
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                previous[number] = signal.signal(number, request)
    _state.current = stop
    try:
        yield stop
    finally:
        _state.current = None
        for number, handler in previous.items():
            signal.signal(number, handler)
