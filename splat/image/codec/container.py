"""The .s2d file: sections with a name, a length and a check sum.

    "S2D1", then sections: name (4 bytes), length (varint), content, CRC-32 of name and content (4 bytes, little-endian)

    HEAD  what the picture is and the steps of its numbers; first
    LAYR  one layer of Gaussians: its head (header.LayerHead), then coded data (chunk.py)
    INDX  in a file with chunks, before the DATA of each layer: its head, then for each chunk its Gaussians and, where
          there are any, its bytes, its halo (varints; quarters of a pixel that it reaches beyond its square) and the
          CRC-32 of its data
    DATA  the chunks' coded data, one after the other
    META  UTF-8 JSON, optional; nothing is written there yet

Readers pass over sections that they do not know. A file that ends after any section is a whole file, of fewer layers.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

MAGIC = b"S2D1"
MAX_SECTION = 1 << 31


class CodecError(ValueError):
    """A .s2d file that is damaged, cut off, of a newer version, or no .s2d file at all."""


class Writer:
    """Bytes of one section's content."""

    def __init__(self) -> None:
        self.data = bytearray()

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self.data += data

    def byte(self, value: int) -> None:
        """0..255."""
        self.data.append(value)

    def varint(self, value: int) -> None:
        """A whole number from 0 on, 7 bits a byte, the low ones first."""
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def pack(self, format: str, *values: float) -> None:
        """Values as struct has them, little-endian."""
        self.data += struct.pack("<" + format, *values)


class Reader:
    """Reads what a Writer wrote; CodecError where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise CodecError("a section ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        """All that is left."""
        return self.raw(len(self.data) - self.at)

    def byte(self) -> int:
        """0..255."""
        return self.raw(1)[0]

    def varint(self, most: int) -> int:
        """A whole number, at most `most`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if value > most or shift > 63:
                raise CodecError(f"a number is larger than {most}")
            if byte < 0x80:
                return value

    def unpack(self, format: str) -> tuple[float, ...]:
        """Values as struct has them, little-endian."""
        return struct.unpack("<" + format, self.raw(struct.calcsize("<" + format)))


def section(name: bytes, content: bytes) -> bytes:
    """A section as it is in the file."""
    head = Writer()
    head.raw(name)
    head.varint(len(content))
    return bytes(head.data) + content + checksum(name + content)


def checksum(data: bytes) -> bytes:
    """CRC-32, 4 bytes."""
    return struct.pack("<I", zlib.crc32(data))


@dataclass(frozen=True)
class Section:
    """Where a section lies in its file."""

    name: bytes
    start: int
    """Of its content."""
    length: int

    @property
    def end(self) -> int:
        """Behind its check sum."""
        return self.start + self.length + 4

    @property
    def overhead(self) -> int:
        """Bytes of name, length and check sum."""
        return 8 + max(1, -(-self.length.bit_length() // 7))


class Source:
    """A file, or bytes, of which parts are read; counts what was."""

    def __init__(self, source: bytes | str | Path) -> None:
        if isinstance(source, bytes):
            self._file: BinaryIO = io.BytesIO(source)
            self.name, self.size = "data", len(source)
        else:
            path = Path(source)
            if not path.is_file():
                raise CodecError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
            self._file = path.open("rb")
            self.name, self.size = str(path), path.stat().st_size
        self.bytes_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, start: int, count: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        self._file.seek(start)
        data = self._file.read(max(0, min(count, self.size - start)))
        self.bytes_read += len(data)
        return data

    def content(self, which: Section) -> bytes:
        """A section's content; CodecError where its check sum does not fit."""
        data = self.read(which.start, which.length + 4)
        if len(data) < which.length + 4:
            raise CodecError(f"section {_text(which.name)} is cut off")
        content = data[:-4]
        if checksum(which.name + content) != data[-4:]:
            raise CodecError(f"section {_text(which.name)} is damaged (its check sum does not fit)")
        return content

    def sections(self) -> Iterator[Section]:
        """All sections that are whole, in their order; reads no content. Ends at the first that is cut off."""
        if self.read(0, 4) != MAGIC:
            raise CodecError(f"{self.name} is not a .s2d file")
        at = len(MAGIC)
        while at < self.size:
            head = Reader(self.read(at, 14))
            try:
                name = head.raw(4)
                length = head.varint(MAX_SECTION)
            except CodecError:
                return
            self.bytes_read -= len(head.data) - head.at  # looked at, and read again as content
            found = Section(name, at + head.at, length)
            if found.end > self.size:
                return
            yield found
            at = found.end


def _text(name: bytes) -> str:
    return name.decode("ascii", "replace")
