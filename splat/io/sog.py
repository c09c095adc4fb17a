"""PlayCanvas's SOG: lossless WebP pictures of 8-bit codes, a pixel for each Gaussian, and a meta.json.

Read: version 2 (zip `.sog`, folder, or its meta.json), version 1 (ranges instead of codebooks) and a level of a
streamed scene (lod-meta.json). Written: version 2, 13 to 17 bytes a Gaussian. Positions have 16 bits of sign(x)
log(|x| + 1); rotations the smallest three components at 8; scales and colours are codes of 256-entry codebooks,
coefficients beyond the constant one an entry of a palette. The axes are those of PLY.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from splat.core.morton import morton_order
from splat.files import atomic_write
from splat.gaussians import Gaussians
from splat.io import quantise
from splat.io.arrays import BANDS, F32, U8, Arrays
from splat.io.bounded import Json, brief, check_room

MAX_SIDE = 16383
"""Pixels along a side that WebP can have."""
_PALETTE_ROW = 64  # entries along a row of the palette's picture
_MAX_PALETTE = 1 << 16
_MAX_META = 1 << 22
_LARGEST_TAG = 252  # the fourth channel of a rotation: this plus the largest component
_BYTES_EACH = 20  # of the pictures of a Gaussian without harmonics, unpacked

Fetch = Callable[[str, int], bytes]
"""The file of a name, which must not be longer than so many bytes."""


def read_sog(path: Path) -> Gaussians:
    """The Gaussians of a `.sog`, or of the meta.json of a folder, in the file's order.

    Raises:
        ValueError: not SOG, of an unknown version, truncated or damaged; a picture does not fit the count.
    """
    if path.suffix == ".json":
        return _decode(path, lambda name, most: _from_folder(path, name, most))
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises what it likes for damaged files
        raise ValueError(f"{path}: not a zip file, or truncated or damaged ({brief(error)})") from error
    with archive:
        return _decode(path, lambda name, most: _from_zip(path, archive, name, most))


def _from_folder(path: Path, name: str, most: int) -> bytes:
    target = path.parent / name
    if not target.is_file():
        raise ValueError(f"{path}: names {name}, which is not there")
    if target.stat().st_size > most:
        raise ValueError(f"{target}: {target.stat().st_size:,} bytes are too many, wanted at most {most:,}")
    return target.read_bytes()


def _from_zip(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    found = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).name == name]
    if not found:
        raise ValueError(f"{path}: not a SOG file: the zip file has no {name}")
    try:
        with archive.open(found[0]) as file:
            data = file.read(most + 1)
    except Exception as error:
        raise ValueError(f"{path}: truncated or damaged zip file ({brief(error)})") from error
    if len(data) > most:
        raise ValueError(f"{path}: {name} is longer than the {most:,} bytes it can have")
    return data


def _decode(path: Path, fetch: Fetch) -> Gaussians:
    meta = Json.parse(path, fetch(path.name if path.suffix == ".json" else "meta.json", _MAX_META))
    if "version" not in meta and "means" in meta and "shape" in meta.object("means"):
        files = _Files(path, meta, fetch, _first_version_count(meta))
        return _decode_first_version(files).gaussians()
    if "version" not in meta:
        raise ValueError(f"{path}: not SOG: it says no version")
    meta.integer("version", 2, 2)
    return _decode_second_version(_Files(path, meta, fetch, meta.integer("count", 1, MAX_SIDE**2))).gaussians()


@dataclass
class _Files:
    """The pictures of one SOG."""

    path: Path
    meta: Json
    fetch: Fetch
    count: int
    """Gaussians."""

    def pictures(self, part: str, count: int = 1) -> list[U8]:
        """[N, 4] the first N pixels of each file of a part."""
        return [
            self.picture(name, self.count).reshape(-1, 4)[: self.count]
            for name in self.meta.object(part).strings("files", count)
        ]

    def picture(self, name: str, pixels: int, most: int | None = None) -> U8:
        """[H, W, 4] a file, which must have at least so many pixels, and at most `most`; without it not many more."""
        from PIL import Image

        if PurePosixPath(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise ValueError(f"{self.path}: wanted the plain name of a file, got {name[:80]!r}")
        most = most or 2 * pixels + (1 << 16)  # rows are filled up, sides rounded
        data = self.fetch(name, 5 * most)
        check_room(self.path, f"{pixels:,} pixels of {name}", 4 * pixels, len(data))
        try:
            with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
                width, height = image.size
                if not pixels <= width * height <= most:
                    raise ValueError(f"{width} x {height} pixels, wanted {pixels:,} to {most:,}")
                return np.asarray(image.convert("RGBA"))
        except Exception as error:  # decoders of damaged pictures raise what they like
            raise ValueError(f"{self.path}: {name}: {brief(error)}") from error


def _decode_second_version(files: _Files) -> Arrays:
    meta = files.meta
    degree = meta.object("shN").integer("bands", 0, 3) if "shN" in meta else 0
    check_room(files.path, f"{files.count:,} Gaussians", _BYTES_EACH * files.count, _stored(files))
    arrays = Arrays.empty(files.count, degree)
    _decode_means(files, arrays)
    _decode_quats(files, arrays)
    arrays.log_scales[:] = _look_up(meta.object("scales"), files.pictures("scales")[0][:, :3])
    codes = files.pictures("sh0")[0]
    arrays.sh0[:, 0] = _look_up(meta.object("sh0"), codes[:, :3])
    arrays.opacity_logits[:] = quantise.logits_of_bytes(codes[:, 3])
    if degree:
        part = meta.object("shN")
        table = _palette_picture(files)
        if table.shape[1] != BANDS[degree]:
            raise ValueError(f"{files.path}: the palette's picture is not as wide as {degree} bands make it")
        _decode_harmonics(files, arrays, _look_up(part, table[: part.integer("count", 1, _MAX_PALETTE)]))
    return arrays


def _stored(files: _Files) -> int:
    """Bytes of the packed scene, at most: of the zip file, or of the folder's pictures."""
    if files.path.suffix != ".json":
        return files.path.stat().st_size
    return sum(item.stat().st_size for item in files.path.parent.iterdir() if item.is_file())


def _decode_means(files: _Files, arrays: Arrays) -> None:
    part = files.meta.object("means")
    low, high = (np.array(part.numbers(key, 3), np.float64) for key in ("mins", "maxs"))
    lower, upper = (picture[:, :3].astype(np.uint16) for picture in files.pictures("means", 2))
    logs = low + (high - low) * ((upper << np.uint16(8) | lower) / 65535)
    with np.errstate(over="ignore"):
        arrays.means[:] = np.sign(logs) * np.expm1(np.abs(logs))


def _decode_quats(files: _Files, arrays: Arrays) -> None:
    codes = files.pictures("quats")[0]
    rest = codes[:, :3] / np.float32(255) * 2 - 1
    known = codes[:, 3] >= _LARGEST_TAG
    arrays.quats[:] = quantise.of_smallest_three(np.where(known, codes[:, 3], _LARGEST_TAG) - _LARGEST_TAG, rest)
    arrays.quats[~known] = (1, 0, 0, 0)


def _look_up(part: Json, codes: U8) -> F32:
    """The codebook's numbers of codes of any shape."""
    book = np.array(part.numbers("codebook", 1, 256), np.float32)
    if codes.size and int(codes.max()) >= len(book):
        raise part.error("codebook", f"{int(codes.max()) + 1} numbers, as the codes want")
    return book[codes]


def _palette_picture(files: _Files) -> U8:
    """[entries, K - 1, 3] codes: 64 entries a row of the picture, a pixel for each coefficient."""
    name = files.meta.object("shN").strings("files", 2)[0]
    table = files.picture(name, _PALETTE_ROW * BANDS[1], _MAX_PALETTE * BANDS[3])
    if table.shape[1] not in [_PALETTE_ROW * bands for bands in BANDS[1:4]]:
        raise ValueError(f"{files.path}: {name} must be 192, 512 or 960 pixels wide, got {table.shape[1]}")
    return table.reshape(-1, table.shape[1] // _PALETTE_ROW, 4)[:, :, :3]


def _decode_harmonics(files: _Files, arrays: Arrays, palette: F32) -> None:
    """Labels are 16 bits in two channels."""
    name = files.meta.object("shN").strings("files", 2)[1]
    pixels = files.picture(name, files.count).reshape(-1, 4)[: files.count].astype(np.int64)
    label = pixels[:, 0] | pixels[:, 1] << 8
    if int(label.max()) >= len(palette):
        raise ValueError(f"{files.path}: {name} names entry {int(label.max())} of a palette of {len(palette)}")
    arrays.shN[:] = palette[label]


def _first_version_count(meta: Json) -> int:
    shape = meta.object("means").numbers("shape", 2)
    if not (1 <= shape[0] <= MAX_SIDE**2 and shape[0].is_integer()):
        raise meta.object("means").error("shape", "[count, 3]")
    return int(shape[0])


def _decode_first_version(files: _Files) -> Arrays:
    meta = files.meta
    check_room(files.path, f"{files.count:,} Gaussians", _BYTES_EACH * files.count, _stored(files))
    table = _palette_picture(files) if "shN" in meta else None
    arrays = Arrays.empty(files.count, 0 if table is None else BANDS.index(table.shape[1]))
    _decode_means(files, arrays)
    _decode_quats(files, arrays)
    arrays.log_scales[:] = _between(meta.object("scales"), files.pictures("scales")[0][:, :3])
    colors = _between(meta.object("sh0"), files.pictures("sh0")[0])
    arrays.sh0[:, 0], arrays.opacity_logits[:] = colors[:, :3], colors[:, 3]
    if table is not None:
        least, greatest = (meta.object("shN").number(key) for key in ("mins", "maxs"))
        _decode_harmonics(files, arrays, (least + table * ((greatest - least) / 255)).astype(np.float32))
    return arrays


def _between(part: Json, codes: U8) -> F32:
    """Codes [N, C] as numbers between the part's mins and maxs."""
    low, high = (np.array(part.numbers(key, codes.shape[1])) for key in ("mins", "maxs"))
    numbers: F32 = (low + (high - low) * (codes / 255)).astype(np.float32)
    return numbers


def write_sog(
    path: Path, gaussians: Gaussians, *, palette_size: int | None = None, iterations: int = 10, effort: int = 4
) -> None:
    """Writes the Gaussians that can be drawn in Morton order: a zip file, or the files beside `path` if it is a .json.

    Args:
        palette_size: entries for the coefficients beyond the constant one, 1 .. 65536. Without it a power of two, an
            eighth of the Gaussians or less (but 1024), as the palette is most of a small scene's bytes.
        iterations: of k-means for the palette.
        effort: of WebP, 0 (fast) .. 6 (small).

    Raises:
        ValueError: nothing to draw, too many for a picture, harmonics of degree 4.
    """
    arrays = Arrays.of(gaussians, drawable=True)
    if not 1 <= len(arrays) <= (MAX_SIDE // 4 * 4) ** 2:
        raise ValueError(f"{path}: SOG holds 1 to {(MAX_SIDE // 4 * 4) ** 2:,} Gaussians, got {len(arrays):,} to draw")
    if arrays.sh_degree > 3:
        raise ValueError(f"{path}: SOG has harmonics up to degree 3, got {arrays.sh_degree}")
    if palette_size is not None and not 1 <= palette_size <= _MAX_PALETTE:
        raise ValueError(f"palette_size must be in 1 .. {_MAX_PALETTE}, got {palette_size}")
    arrays = arrays.select(morton_order(torch.from_numpy(arrays.means)).numpy())
    meta, pictures = _encode(arrays, palette_size or _default_palette(len(arrays)), iterations)
    files = {name: _webp(picture, effort) for name, picture in pictures.items()}
    files["meta.json"] = json.dumps(meta, separators=(",", ":"), allow_nan=False).encode()
    if path.suffix == ".json":
        for name, data in files.items():  # meta.json is the last: it names the others
            with atomic_write(path if name == "meta.json" else path.parent / name) as temporary:
                temporary.write_bytes(data)
        return
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _default_palette(count: int) -> int:
    return min(_MAX_PALETTE, max(1024, 1 << max(count // 8, 1).bit_length() - 1))


def _encode(arrays: Arrays, palette_size: int, iterations: int) -> tuple[dict[str, Any], dict[str, U8]]:
    """meta.json and the pictures by name, in the order in which the format's tools write them."""
    from splat.io.kmeans import codebook_1d, palette

    side = _side(len(arrays))
    logs = np.sign(arrays.means) * np.log1p(np.abs(arrays.means.astype(np.float64)))
    low, high = logs.min(0), logs.max(0)
    size = np.where(high > low, high - low, 1)
    codes = quantise.levels((logs - low) / size, 65535, np.uint16)
    largest, rest = quantise.smallest_three(arrays.quats)
    scale_book, scales = codebook_1d(np.clip(arrays.log_scales, -30, 30))
    color_book, colors = codebook_1d(arrays.sh0[:, 0])
    alpha = quantise.opacity_bytes(arrays.opacity_logits)[:, None]
    tag = (largest + _LARGEST_TAG).astype(np.uint8)[:, None]
    pictures = {
        "means_l.webp": _pixels(side, (codes & 255).astype(np.uint8)),
        "means_u.webp": _pixels(side, (codes >> 8).astype(np.uint8)),
        "quats.webp": _pixels(side, np.concatenate([quantise.levels(rest * 0.5 + 0.5, 255), tag], 1)),
        "scales.webp": _pixels(side, scales),
        "sh0.webp": _pixels(side, np.concatenate([colors, alpha], 1)),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "splat"},
        "count": len(arrays),
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": _full(scale_book), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": _full(color_book), "files": ["sh0.webp"]},
    }
    if arrays.sh_degree:
        entries, labels = palette(arrays.shN.reshape(len(arrays), -1), palette_size, iterations)
        book, codes_of_entries = codebook_1d(entries)
        bands = arrays.shN.shape[1]
        rows = -(-len(entries) // _PALETTE_ROW)
        pictures["shN_centroids.webp"] = _pixels((_PALETTE_ROW * bands, rows), codes_of_entries.reshape(-1, 3))
        pictures["shN_labels.webp"] = _pixels(
            side, np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], 1).astype(np.uint8)
        )
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(entries), "bands": arrays.sh_degree, "codebook": _full(book), "files": files}
    return meta, pictures


def _full(book: F32) -> list[float]:
    """The 256 numbers that readers expect; the last is repeated."""
    return [*book.tolist(), *[float(book[-1])] * (256 - len(book))]


def _side(count: int) -> tuple[int, int]:
    """Width and height, multiples of 4, of the picture for so many Gaussians."""
    width = -(-int(np.ceil(np.sqrt(count))) // 4) * 4
    return width, -(-count // (4 * width)) * 4


def _pixels(side: tuple[int, int], codes: npt.NDArray[np.uint8]) -> U8:
    """[H, W, 4] of codes [N, 3 or 4]; the fourth channel is 255 where they have none, the rest of the picture 0."""
    width, height = side
    picture = np.zeros((height * width, 4), np.uint8)
    picture[: len(codes), : codes.shape[1]] = codes
    if codes.shape[1] == 3:
        picture[:, 3] = 255
    return picture.reshape(height, width, 4)


def _webp(picture: U8, effort: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    # exact: colours under alpha 0 are numbers here, too.
    Image.fromarray(picture).save(out, "WEBP", lossless=True, exact=True, quality=75, method=effort)
    return out.getvalue()


def read_lod(path: Path, level: int | None = None) -> Gaussians:
    """A level of a streamed scene.

    Args:
        path: lod-meta.json.
        level: 0 is the finest. Without it the finest whose files are all there.

    Raises:
        ValueError: damaged, or files of the level are missing.
    """
    meta = Json.parse(path, path.read_bytes())
    names = meta.strings("filenames")
    for name in names:
        if "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise ValueError(f"{path}: wanted names of files below its folder, got {name[:80]!r}")
    levels = _levels(meta, len(names))
    present = [k for k in sorted(levels) if all((path.parent / names[i]).is_file() for i in levels[k])]
    if level is None and not present:
        raise ValueError(f"{path}: no level has all its files here")
    level = present[0] if level is None else level
    if level not in levels:
        raise ValueError(f"{path}: wanted a level of {', '.join(map(str, sorted(levels)))}, got {level}")
    if level not in present:
        absent = [names[i] for i in levels[level] if not (path.parent / names[i]).is_file()]
        raise ValueError(f"{path}: level {level} wants {', '.join(absent[:3])}, which is not here")
    return Gaussians.concat([_rows(path.parent / names[i], ranges) for i, ranges in sorted(levels[level].items())])


_Ranges = list[tuple[int, int]]


def _levels(meta: Json, files: int) -> dict[int, dict[int, _Ranges]]:
    """For each level, for each of its files, the rows [start, end) that the tree's leaves name."""
    levels: dict[int, dict[int, _Ranges]] = {}
    nodes = [meta.object("tree")]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.objects("children"))
        if "lods" not in node:
            continue
        lods = node.object("lods")
        for key in lods.names:
            if not (key.isascii() and key.isdigit() and len(key) < 4):
                raise node.error("lods", "an object with numbers for names")
            part = lods.object(key)
            start = part.integer("offset", 0, MAX_SIDE**2)
            end = start + part.integer("count", 0, MAX_SIDE**2)
            file = part.integer("file", 0, files - 1)
            levels.setdefault(int(key), {}).setdefault(file, []).append((start, end))
    return levels


def _rows(path: Path, ranges: _Ranges) -> Gaussians:
    gaussians = read_sog(path)
    ranges = sorted(ranges)
    ends = [0, *(end for _, end in ranges)]
    if any(start < end for (start, _), end in zip(ranges, ends, strict=False)) or ends[-1] > len(gaussians):
        raise ValueError(f"{path}: lod-meta.json names rows beyond its {len(gaussians):,}, or twice")
    if len(gaussians) == sum(end - start for start, end in ranges):
        return gaussians
    return gaussians.select(torch.cat([torch.arange(start, end) for start, end in ranges]))
