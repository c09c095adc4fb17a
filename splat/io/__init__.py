"""Files of Gaussians: every format that is read and written, through one pair of functions.

| suffix | format | read | written |
|---|---|---|---|
| .safetensors | our own, lossless | yes | yes |
| .ply | 3DGS PLY, lossless | yes | yes |
| .compressed.ply | PlayCanvas's compressed PLY | yes | yes |
| .splat | antimatter15's, no harmonics | yes | yes |
| .ksplat | mkkellogg's | yes | no |
| .spz | Niantic's, versions 2 to 4 | yes | 3, 4 |
| .sog, a folder, meta.json | PlayCanvas's SOG, versions 1 and 2 | yes | 2 |
| lod-meta.json | a level of a streamed SOG scene | yes | no |
| .glb | glTF with KHR_gaussian_splatting | yes | yes |

Whatever the format, Gaussians are unactivated float32 in the axes of 3DGS PLY. What a file says is checked before
memory is taken for it, and what is wrong with it is a ValueError that names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splat.gaussians import Gaussians
from splat.io.compressed_ply import read_compressed_ply, write_compressed_ply
from splat.io.dotsplat import read_dotsplat, write_dotsplat
from splat.io.gltf import read_gltf, write_gltf
from splat.io.ksplat import read_ksplat
from splat.io.ply import read_ply, write_ply
from splat.io.sog import read_lod, read_sog, write_sog
from splat.io.spz import read_spz, write_spz


@dataclass(frozen=True)
class Format:
    """How files of one kind are told, read and written."""

    name: str
    suffix: str
    """In lower case; a file name's, or of meta.json and its like the whole name."""
    magic: tuple[bytes, ...]
    """What a file may begin with; empty where the suffix decides."""
    read: Callable[[Path], Gaussians]
    write: Callable[..., None] | None
    keeps: str
    """What of a Gaussian comes back from a file that was written."""
    with_invalid: bool = False
    """Whether it is written with the Gaussians that cannot be drawn."""

    @property
    def options(self) -> tuple[str, ...]:
        """What `save_gaussians` takes for it."""
        if self.write is None:
            return ()
        parameters = inspect.signature(self.write).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def load_gaussians(path: str | Path) -> Gaussians:
    """The Gaussians of a file of any format that is read, on the CPU.

    Raises:
        ValueError: no such file, not of a known format, truncated or damaged.
    """
    path = main_file(path)
    return format_of(path).read(path)


def save_gaussians(path: str | Path, gaussians: Gaussians, **options: Any) -> None:
    """Writes Gaussians in the format of the suffix, to a temporary name, then renamed. The same Gaussians give the same
    bytes. Packed formats leave out those that cannot be drawn (`Gaussians.valid`), and some sort the others.

    Args:
        options: the format's own: normals (.ply); version, fractional_bits (.spz); palette_size, iterations, effort
            (.sog).

    Raises:
        ValueError: no format of this suffix is written; the format cannot hold these Gaussians.
        TypeError: an option that the format does not have.
    """
    path = Path(path)
    kind = format_to_write(path)
    assert kind.write
    if unknown := [name for name in options if name not in kind.options]:
        has = f"has {', '.join(kind.options)}" if kind.options else "has none"
        raise TypeError(f"unknown option {', '.join(unknown)}: {kind.name} {has}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no such folder: {path.parent}")
    kind.write(path, gaussians, **options)


def main_file(path: str | Path) -> Path:
    """The file itself; of a folder with a SOG scene its lod-meta.json or meta.json.

    Raises:
        ValueError: it is not there.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("lod-meta.json", "meta.json"):
            if (path / name).is_file():
                return path / name
        raise ValueError(f"{path}: a folder without meta.json, which a SOG scene has")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path


def format_to_write(path: str | Path) -> Format:
    """Which format a file of this name is written in; ValueError where there is none."""
    kind = _by_suffix(Path(path))
    if kind is None or kind.write is None:
        raise ValueError(f"{path}: wanted a file name that ends in {', '.join(suffixes(written=True))}")
    return kind


def suffixes(*, written: bool) -> list[str]:
    """Those of the formats that are written, or of all."""
    return [kind.suffix for kind in _FORMATS if kind.write or not written]


def format_of(path: str | Path) -> Format:
    """Which format a file has, by its first bytes where they tell, else by its suffix.

    Raises:
        ValueError: no such file, or neither tells.
    """
    path = main_file(path)
    named = _by_suffix(path)
    if named and not named.magic:
        return named
    with path.open("rb") as file:
        start = file.read(4096)
    found = [kind for kind in _FORMATS if kind.magic and start.startswith(kind.magic)]
    if any(kind.suffix == ".ply" for kind in found):
        packed = b"\nelement chunk " in start.replace(b"\r", b"")
        found = [kind for kind in found if (kind.suffix == ".compressed.ply") == packed]
    if found:
        return found[0]
    if named:
        return named  # whose reader says what is wrong
    raise ValueError(f"{path}: not a file of Gaussians; wanted one of {', '.join(suffixes(written=False))}")


def _by_suffix(path: Path) -> Format | None:
    name = path.name.lower()
    return next((kind for kind in _FORMATS if name.endswith(kind.suffix)), None)


def _write_safetensors(path: Path, gaussians: Gaussians) -> None:
    gaussians.save(path)


_ALL = "all of float32"
_COMPRESSED_PLY = (
    "11 + 10 + 11 bits of position and of log scale in chunks of 256, 32 of rotation, 8 a number of the rest"
)
_DOTSPLAT = "position and scale, 8 bits a number of rotation, opacity and colour; no harmonics beyond the constant one"
_SPZ = "position in fixed point, 8 bits of log scale, opacity and colour, 32 of rotation, 5 or 4 of the harmonics"
_SOG = (
    "16 bits of log position, codebooks of 256 for scale and colour, 26 bits of rotation, a palette for the harmonics"
)

_FORMATS = (  # a suffix that ends another comes after it
    Format("splat", ".safetensors", (), Gaussians.load, _write_safetensors, _ALL, with_invalid=True),
    Format("compressed PLY", ".compressed.ply", (b"ply",), read_compressed_ply, write_compressed_ply, _COMPRESSED_PLY),
    Format("PLY", ".ply", (b"ply",), read_ply, write_ply, _ALL, with_invalid=True),
    Format("ksplat", ".ksplat", (), read_ksplat, None, ""),
    Format(".splat", ".splat", (), read_dotsplat, write_dotsplat, _DOTSPLAT),
    Format("SPZ", ".spz", (b"NGSP", b"\x1f\x8b"), read_spz, write_spz, _SPZ),
    Format("SOG", ".sog", (b"PK\3\4", b"PK\5\6"), read_sog, write_sog, _SOG),
    Format("streamed SOG", "lod-meta.json", (), read_lod, None, ""),
    Format("SOG folder", "meta.json", (), read_sog, write_sog, _SOG),
    Format("glTF", ".glb", (b"glTF",), read_gltf, write_gltf, _ALL),
)
