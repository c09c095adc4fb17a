"""Reading files that nobody vouches for: sizes are checked before memory is taken, and errors name the file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

FREE_BYTES = 64 << 20
MAX_RATIO = 1024
"""A file may unpack to FREE_BYTES, and beyond that to MAX_RATIO times its size (as gzip can at most)."""
_PIECE = 1 << 20
_MOST = 3.4028234663852886e38  # of float32


def brief(error: Exception) -> str:
    """A library's message in a line of bounded length; it may quote the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def check_room(path: Path, what: str, wanted: int, stored: int) -> None:
    """Whether `stored` bytes of a packed file may hold what takes `wanted` bytes unpacked."""
    if wanted > max(FREE_BYTES, MAX_RATIO * stored):
        raise ValueError(f"{path}: {what} would take {wanted:,} bytes, too many for the {stored:,} bytes of the file")


def check_length(path: Path, what: str, wanted: int, got: int) -> None:
    """Whether the file has the bytes that its header speaks of."""
    if got < wanted:
        raise ValueError(f"{path}: truncated or damaged: {what} wants {wanted:,} bytes, got {got:,}")


class Gunzip:
    """A gzip file in memory, unpacked no further than asked for."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self._unpack = zlib.decompressobj(wbits=31)

    def read(self, what: str, count: int) -> bytes:
        """`count` bytes; ValueError where there are fewer."""
        parts = bytearray()
        while len(parts) < count and (piece := self._next(min(_PIECE, count - len(parts)))):
            parts += piece
        check_length(self._path, what, count, len(parts))
        return bytes(parts)

    def check_end(self) -> None:
        """Whether nothing follows, and the checksum is right."""
        if self._next(1):
            raise ValueError(f"{self._path}: damaged: it goes on after the last Gaussian")
        if not self._unpack.eof:
            raise ValueError(f"{self._path}: truncated: the end of its gzip stream is missing")

    def skip_rest(self) -> None:
        """Reads to the end, for its checksum, and forgets it."""
        while self._next(_PIECE):
            pass

    def _next(self, most: int) -> bytes:
        try:
            piece = self._unpack.decompress(self._data, most)
        except zlib.error as error:
            raise ValueError(f"{self._path}: damaged gzip data ({brief(error)})") from error
        self._data = self._unpack.unconsumed_tail
        return piece


def unzstd(path: Path, what: str, data: bytes | memoryview, size: int) -> bytes:
    """The `size` bytes of a Zstandard frame; ValueError where it holds more or fewer."""
    import zstandard

    check_room(path, what, size, len(data))
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.window_size > max(8 << 20, 2 * size):
            raise ValueError(f"{path}: {what} asks for a window of {frame.window_size:,} bytes for {size:,} bytes")
        parts = bytearray()
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            while len(parts) <= size and (piece := reader.read(min(_PIECE, size + 1 - len(parts)))):
                parts += piece
    except zstandard.ZstdError as error:
        raise ValueError(f"{path}: {what}: damaged Zstandard data ({brief(error)})") from error
    if len(parts) != size:
        got = "more" if len(parts) > size else f"{len(parts):,}"
        raise ValueError(f"{path}: {what} wants {size:,} bytes, got {got}")
    return bytes(parts)


class Json:
    """A JSON object of a file; what is read from it is checked, with errors that say where it stands."""

    def __init__(self, path: Path, value: Any, name: str = "") -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{path}: wanted a JSON object{f' {name!r}' if name else ''}, got {type(value).__name__}")
        self.path = path
        self._value: dict[str, Any] = value
        self._name = name

    @classmethod
    def parse(cls, path: Path, data: bytes) -> Json:
        """The object a file consists of."""
        try:
            return cls(path, json.loads(data))
        except (ValueError, RecursionError) as error:
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}: damaged JSON ({brief(error)})") from error

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def error(self, key: str, wanted: str) -> ValueError:
        """For a value that is not as wanted."""
        got = repr(self._value.get(key))
        place = f"{self._name}.{key}" if self._name else key
        return ValueError(f"{self.path}: {place} must be {wanted}, got {got if len(got) < 60 else got[:57] + '...'}")

    def object(self, key: str) -> Json:
        """The object of this name."""
        place = f"{self._name}.{key}" if self._name else key
        return Json(self.path, self._value.get(key), place)

    @property
    def names(self) -> list[str]:
        """Of what is in it."""
        return list(self._value)

    def objects(self, key: str) -> list[Json]:
        """A list of objects; empty where it is missing."""
        value = self._value.get(key, [])
        if not isinstance(value, list):
            raise self.error(key, "a list")
        return [Json(self.path, item, f"{key}[{i}]") for i, item in enumerate(value)]

    def item(self, key: str, index: int) -> Json:
        """An object of a list of objects."""
        value = self._value.get(key)
        if not isinstance(value, list) or index >= len(value):
            raise ValueError(f"{self.path}: {key} has no item {index}")
        return Json(self.path, value[index], f"{key}[{index}]")

    def string(self, key: str) -> str:
        """A string."""
        value = self._value.get(key)
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def flag(self, key: str) -> bool:
        """Whether it is there and true."""
        return self._value.get(key) is True

    def integer(self, key: str, least: int, most: int) -> int:
        """A whole number in least .. most."""
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, f"an integer in {least} .. {most}" if least < most else str(least))
        return value

    def numbers(self, key: str, least: int, most: int | None = None) -> list[float]:
        """A list of `least` (.. `most`) finite numbers of float32's range."""
        value, most = self._value.get(key), most or least
        wanted = f"{least} numbers" if most == least else f"{least} .. {most} numbers"
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self.error(key, wanted)
        for item in value:
            if isinstance(item, bool) or not isinstance(item, (int, float)) or not abs(item) <= _MOST:
                raise self.error(key, wanted)
        return [float(item) for item in value]

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST:
            raise self.error(key, "a number")
        return float(value)

    def strings(self, key: str, count: int | None = None) -> list[str]:
        """A list of strings, `count` of them if given."""
        value = self._value.get(key)
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not good or (count is not None and len(value or ()) != count):
            raise self.error(key, f"{count} strings" if count is not None else "a list of strings")
        return list(value or ())
