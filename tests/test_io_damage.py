"""splat.io: truncated, mutated and hostile files. Whatever they are, the reader returns Gaussians or says what is wrong
with a ValueError that names the file, in memory bounded by the file's size."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splat.gaussians import Gaussians
from splat.io import load_gaussians, save_gaussians
from splat.io.bounded import FREE_BYTES
from tests.io_models import HIGHEST, model, name_of

MEMORY = 24 << 20  # beyond what small files take; far less than their counts ask for


def _ksplat(level: int = 1) -> bytes:
    """Two sections: 3 Gaussians in buckets with 2 and 1 of 4 places, 2 in a full bucket."""
    header = bytearray(4096)
    struct.pack_into("<BB", header, 0, 0, 1)
    struct.pack_into("<IIIIH", header, 4, 2, 2, 5, 5, level)
    body, sections = b"", b""
    for count, degree, capacity, full, partial in ((3, 1, 4, 0, [2, 1]), (2, 0, 2, 1, [])):
        section = bytearray(1024)
        buckets = full + len(partial)
        numbers = (count, 4, capacity, buckets, 5.0, 12, 32767, 0, full, len(partial), degree)
        struct.pack_into("<IIIIfHxxIIIIH", section, 0, *numbers)
        sections += bytes(section)
        body += struct.pack(f"<{len(partial)}I", *partial)
        body += np.arange(3 * buckets, dtype="<f4").tobytes()
        for row in range(4):
            body += struct.pack("<3H3e4e4B", 32767, 32767 + 100 * row, 0, 0.1, 0.2, 0.3, 1, 0, 0, 0, 255, 0, 128, 200)
            body += struct.pack(f"<{(0, 9)[degree]}e", *[k / 10 for k in range((0, 9)[degree])])
    return bytes(header) + sections + body


@cache
def sample(suffix: str) -> bytes:
    """A small valid file."""
    if suffix == ".ksplat":
        return _ksplat()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix.removeprefix('v3')}"
        save_gaussians(path, model(12, min(1, HIGHEST[path.suffix])), **({"version": 3} if suffix[:2] == "v3" else {}))
        return path.read_bytes()


BINARY = [".ply", ".compressed.ply", ".splat", ".ksplat", ".spz", "v3.spz", ".sog", ".glb", ".safetensors"]


def read(name: str, data: bytes) -> Gaussians | None:
    """What a file of these bytes is read as; None where it is refused properly."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return loaded(path)


def loaded(path: Path) -> Gaussians | None:
    try:
        return load_gaussians(path)
    except ValueError as error:
        assert path.name in str(error) and len(str(error)) < 1000
        return None


@pytest.mark.parametrize("suffix", BINARY)
def test_samples_are_read(suffix: str) -> None:
    got = read(f"m{suffix.removeprefix('v3')}", sample(suffix))
    assert got is not None and len(got) == (5 if suffix == ".ksplat" else 12)


def test_a_ksplat_is_read_as_its_format_says(tmp_path: Path) -> None:
    (tmp_path / "m.ksplat").write_bytes(sample(".ksplat"))
    got = load_gaussians(tmp_path / "m.ksplat")
    step = 5.0 / 2 / 32767
    # Two in the bucket at (0, 1, 2), one in that at (3, 4, 5); the second section's two at (0, 1, 2).
    wanted = [
        [0, 1, -0.5],
        [0, 1 + 100 * step, -0.5],
        [3, 4 + 200 * step, 2.5],
        [0, 1, -0.5],
        [0, 1 + 100 * step, -0.5],
    ]
    np.testing.assert_allclose(got.means, wanted, atol=1e-5)
    np.testing.assert_allclose(got.scales[0], [0.1, 0.2, 0.3], rtol=1e-3)
    np.testing.assert_allclose(got.opacities, [200 / 255] * 5, rtol=1e-5)
    np.testing.assert_allclose(got.shN[0], np.array([[0, 3, 6], [1, 4, 7], [2, 5, 8]]) / 10, atol=1e-3)
    assert not got.shN[3:].any() and got.quats[0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("level", [0, 2])
def test_other_levels_of_ksplat_are_read(tmp_path: Path, level: int) -> None:
    header, section = bytearray(4096), bytearray(1024)
    struct.pack_into("<BB", header, 0, 0, 1)
    struct.pack_into("<IIIIH", header, 4, 1, 1, 1, 1, level)
    struct.pack_into("<ff", header, 36, -2.0, 2.0)
    struct.pack_into("<IIIIfHxxIIIIH", section, 0, 1, 1, 1, int(level > 0), 5.0, 12, 0, 0, int(level > 0), 0, 1)
    if level:
        row = np.array([1, 2, 3], "<f4").tobytes() + struct.pack(
            "<3H3e4e4B", 32767, 32767, 32767, 1, 1, 1, 1, 0, 0, 0, *[255] * 4
        )
        row += bytes(range(0, 9 * 25, 25))
        wanted = np.arange(0, 225, 25) / 255 * 4 - 2
    else:
        row = struct.pack("<3f3f4f4B9f", 1, 2, 3, 1, 1, 1, 1, 0, 0, 0, *[255] * 4, *range(9))
        wanted = np.arange(9.0)
    (tmp_path / "m.ksplat").write_bytes(header + section + row)
    got = load_gaussians(tmp_path / "m.ksplat")
    assert got.means.tolist() == [[1, 2, 3]] and got.log_scales.tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(got.shN[0].T.ravel(), wanted, atol=1e-6)


@pytest.mark.parametrize("suffix", BINARY)
def test_every_truncation_is_refused(suffix: str) -> None:
    data = sample(suffix)
    name = f"m{suffix.removeprefix('v3')}"
    # All of the first bytes and of the last, and some between.
    for length in sorted({*range(0, min(len(data), 300)), *range(0, len(data), 97), *range(len(data) - 40, len(data))}):
        whole_rows = suffix == ".splat" and length % 32 == 0 and length
        assert bool(whole_rows) or suffix == ".ksplat" or read(name, data[:length]) is None, length
        if suffix == ".ksplat" and length < len(data) - 2 * 24:  # its last section has room for two more
            assert read(name, data[:length]) is None


@given(st.data())
@settings(max_examples=120, deadline=None)
@pytest.mark.parametrize("suffix", BINARY)
def test_mutated_files_are_read_or_refused(suffix: str, data: st.DataObject) -> None:
    contents = bytearray(sample(suffix))
    # The head is where counts, sizes and offsets are, so half of the changes are there.
    place = st.integers(0, len(contents) - 1) | st.integers(0, min(len(contents), 200) - 1)
    value = st.integers(0, 255) | st.sampled_from([0, 1, 127, 128, 255])
    for at, byte in data.draw(st.lists(st.tuples(place, value), min_size=1, max_size=6)):
        contents[at] = byte
    read(f"m{suffix.removeprefix('v3')}", bytes(contents))


@given(st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply"])
def test_ply_headers_of_other_words_are_read_or_refused(suffix: str, data: st.DataObject) -> None:
    head, mark, body = sample(suffix).partition(b"end_header\n")
    lines = head.decode().splitlines()
    names = ["x", "opacity", "f_rest_0", "vertex", "chunk", "sh", "list", "uchar", "double", "int", "packed_color", "ä"]
    word = st.sampled_from(names) | st.integers(-5, 10**20).map(str) | st.sampled_from(["property", "element"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        words = lines[at].split()
        change = data.draw(st.sampled_from(["word", "drop", "again"]))
        if change == "word" and words:
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(word)
            lines[at] = " ".join(words)
        elif change == "again":
            lines.insert(data.draw(st.integers(0, len(lines))), lines[at])
        elif len(lines) > 1:
            del lines[at]
    read(f"m{suffix}", "\n".join(lines).encode() + b"\n" + mark + body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([0, 1, 12, 13, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _change(value: Any, data: st.DataObject) -> Any:
    """With one part of a JSON value, at any depth, replaced or dropped."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        if data.draw(st.integers(0, 9)) == 0:
            del copy[key]
        else:
            copy[key] = _change(value[key], data)
        return copy
    return data.draw(JSON_VALUES)


@cache
def _folder() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        save_gaussians(Path(folder) / "meta.json", model(12, 1))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_sog_with_another_meta_is_read_or_refused(data: st.DataObject) -> None:
    meta = _change(json.loads(_folder()["meta.json"]), data)
    with TemporaryDirectory() as folder:
        for name, contents in _folder().items():
            (Path(folder) / name).write_bytes(contents)
        (Path(folder) / "meta.json").write_text(json.dumps(meta))
        loaded(Path(folder) / "meta.json")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_lod_meta_of_any_form_is_read_or_refused(data: st.DataObject) -> None:
    tree = {"children": [{"lods": {"0": {"file": 0, "offset": 0, "count": 12}}}]}
    meta = _change({"filenames": ["0/meta.json"], "tree": tree}, data)
    with TemporaryDirectory() as folder:
        (Path(folder) / "0").mkdir()
        for name, contents in _folder().items():
            (Path(folder) / "0" / name).write_bytes(contents)
        (Path(folder) / "lod-meta.json").write_text(json.dumps(meta))
        loaded(Path(folder) / "lod-meta.json")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_glb_with_another_document_is_read_or_refused(data: st.DataObject) -> None:
    contents = sample(".glb")
    length = struct.unpack_from("<I", contents, 12)[0]
    text = json.dumps(_change(json.loads(contents[20 : 20 + length]), data)).encode()
    head = contents[:8] + struct.pack("<II4s", 20 + len(text) + len(contents) - 20 - length, len(text), b"JSON")
    read("m.glb", head + text + contents[20 + length :])


@given(suffix=st.sampled_from(sorted(HIGHEST)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_gaussians_of_any_floats_are_written_and_those_to_draw_come_back(suffix: str, data: st.DataObject) -> None:
    import torch

    gaussians = model(6, min(1, HIGHEST[suffix]))
    value = st.floats(width=32) | st.sampled_from([0.0, 1e-45, 3.4e38, 80.0, -200.0])
    tables = {name: tensor.clone() for name, tensor in gaussians.parameters().items()}
    for _ in range(data.draw(st.integers(1, 4))):
        tensor = tables[data.draw(st.sampled_from(sorted(name for name in tables if tables[name].numel())))].view(-1)
        tensor[data.draw(st.integers(0, len(tensor) - 1))] = data.draw(value)
    gaussians = Gaussians(**tables)
    with TemporaryDirectory() as folder:
        path = name_of(suffix, Path(folder))
        try:
            save_gaussians(path, gaussians)
        except ValueError as error:
            assert suffix == ".spz" and "do not fit" in str(error)
            return
        got = load_gaussians(path)
    whole = suffix in (".ply", ".safetensors")
    assert len(got) == (6 if whole else int(gaussians.valid.sum()))
    if not whole:
        assert bool(got.valid.all()) and bool(torch.isfinite(got.opacity_logits).all())


# --- files that ask for more memory than they justify


@pytest.fixture
def peak() -> Any:
    """The most memory that reading takes, as numpy and Python see it."""

    def measure(path: Path, message: str) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message) as error:
                load_gaussians(path)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert path.name in str(error.value)
        assert most < MEMORY + 3 * path.stat().st_size, f"{most:,} bytes"

    return measure


HEAD = struct.Struct("<4sIIBBBB")
ZEROS = 200 << 20


def test_spz_with_a_huge_count_takes_no_memory(tmp_path: Path, peak: Any) -> None:
    head = HEAD.pack(b"NGSP", 3, (1 << 32) - 1, 3, 12, 0, 0)
    path = tmp_path / "m.spz"
    path.write_bytes(gzip.compress(head + bytes(100)))
    peak(path, "too many for the")
    path.write_bytes(head + bytes(100))
    peak(path, "wants .* bytes, got")
    count = FREE_BYTES // 70  # what may be unpacked from anything, but is not there
    path.write_bytes(gzip.compress(HEAD.pack(b"NGSP", 3, count, 3, 12, 0, 0) + bytes(100)))
    peak(path, "truncated or damaged: positions wants")


def test_a_gzip_bomb_is_unpacked_no_further_than_its_count(tmp_path: Path, peak: Any) -> None:
    compress = zlib.compressobj(9, wbits=31)
    parts = [compress.compress(HEAD.pack(b"NGSP", 3, 4, 0, 12, 0, 0))]
    parts += [compress.compress(bytes(1 << 20)) for _ in range(ZEROS >> 20)]
    (tmp_path / "m.spz").write_bytes(b"".join([*parts, compress.flush()]))
    peak(tmp_path / "m.spz", "goes on after the last Gaussian")


def _spz4(count: int, sizes: list[int], frames: list[bytes]) -> bytes:
    head = HEAD.pack(b"NGSP", 4, count, 0, 12, 0, len(sizes)) + struct.pack("<I12x", 32)
    table = b"".join(struct.pack("<QQ", len(frame), size) for frame, size in zip(frames, sizes, strict=True))
    return head + table + b"".join(frames)


def test_a_zstd_bomb_is_unpacked_no_further_than_its_count(tmp_path: Path, peak: Any) -> None:
    path = tmp_path / "m.spz"
    bomb = zstandard.ZstdCompressor().compress(bytes(ZEROS))
    path.write_bytes(_spz4(4, [36, 4, 12, 12, 16], [bomb] * 5))
    peak(path, "stream positions")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(ZEROS >> 3))
    path.write_bytes(_spz4(4, [36, 4, 12, 12, 16], [unsized] * 5))
    peak(path, "stream positions (wants 36 bytes, got more|asks for a window)")
    count = ZEROS // 9
    path.write_bytes(_spz4(count, [9 * count, count, 3 * count, 3 * count, 4 * count], [bomb] * 5))
    peak(path, "too many for the")
    good = [zstandard.ZstdCompressor().compress(bytes(size)) for size in (36, 4, 12, 12, 16)]
    path.write_bytes(_spz4(4, [36, 4, 12, 12, 1 << 62], good))
    peak(path, "stream rotations must have 16 bytes, got 4,611,686,018,427,387,904")
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    compress = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    frame = compress.compress(bytes(36)) + compress.flush()
    path.write_bytes(_spz4(4, [36, 4, 12, 12, 16], [frame, *good[1:]]))
    peak(path, "asks for a window of 134,217,728 bytes")


def test_a_zip_bomb_is_unpacked_no_further_than_its_pictures_may_be(tmp_path: Path, peak: Any) -> None:
    path = tmp_path / "m.sog"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", b" " * (40 << 20))
    peak(path, "longer than")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", _folder()["meta.json"])
        archive.writestr("means_l.webp", bytes(ZEROS))
        archive.writestr("means_u.webp", bytes(ZEROS))
    peak(path, r"means_l\.webp is longer than")


def _webp(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (width, height)).save(out, "WEBP", lossless=True)
    return out.getvalue()


def test_sog_pictures_larger_than_the_count_are_not_decoded(tmp_path: Path, peak: Any) -> None:
    for name, contents in _folder().items():
        (tmp_path / name).write_bytes(contents)
    (tmp_path / "means_l.webp").write_bytes(_webp(6000, 6000))
    peak(tmp_path / "meta.json", r"means_l\.webp: 6000 x 6000 pixels, wanted 12 to")


def test_sog_with_a_huge_count_takes_no_memory(tmp_path: Path, peak: Any) -> None:
    for name, contents in _folder().items():
        (tmp_path / name).write_bytes(contents)
    meta = json.loads(_folder()["meta.json"])
    for count, message in ((16383**2, "too many for the"), (16383**2 + 1, "count must be"), (10**6, "pixels, wanted")):
        (tmp_path / "meta.json").write_text(json.dumps(meta | {"count": count}))
        if count < 10**7:
            with pytest.raises(ValueError, match=message):
                load_gaussians(tmp_path / "meta.json")
        else:
            peak(tmp_path / "meta.json", message)


def test_other_huge_counts_take_no_memory(tmp_path: Path, peak: Any) -> None:
    ply = sample(".ply").replace(b"element vertex 12", b"element vertex 400000000")
    (tmp_path / "m.ply").write_bytes(ply)
    peak(tmp_path / "m.ply", "wants .* bytes, got")
    packed = sample(".compressed.ply").replace(b"element chunk 1", b"element chunk 99999999")
    (tmp_path / "c.ply").write_bytes(packed)
    peak(tmp_path / "c.ply", "wants .* bytes, got")
    old = bytearray(sample(".ksplat"))
    struct.pack_into("<I", old, 4, (1 << 32) - 1)
    (tmp_path / "m.ksplat").write_bytes(old)
    peak(tmp_path / "m.ksplat", "4,294,967,295 sections")
    old = bytearray(sample(".ksplat"))
    struct.pack_into("<II", old, 4096, 3, (1 << 32) - 1)
    (tmp_path / "m.ksplat").write_bytes(old)
    peak(tmp_path / "m.ksplat", "a section of 4,294,967,295")
    glb = sample(".glb").replace(b'"count":12,', b'"count":99,')
    (tmp_path / "m.glb").write_bytes(glb)
    peak(tmp_path / "m.glb", "POSITION wants")


def test_json_nested_without_end_is_refused(tmp_path: Path, peak: Any) -> None:
    (tmp_path / "meta.json").write_bytes(b"[" * 200_000)
    peak(tmp_path / "meta.json", "damaged JSON")
    (tmp_path / "meta.json").write_bytes(b'{"version": ' + b"9" * 10_000 + b"}")
    peak(tmp_path / "meta.json", "damaged JSON|version must be")


@pytest.mark.parametrize("suffix", BINARY)
def test_files_of_something_else_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix.removeprefix('v3')}"
    for contents in (b"", b"\0", b"not a model at all, but a line of text\n", bytes(7000), b"\xff" * 7001):
        path.write_bytes(contents)
        whole_rows = suffix == ".splat" and contents and len(contents) % 32 == 0
        assert whole_rows or loaded(path) is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gaussians(tmp_path / "m.spz", model(5))
    before = (tmp_path / "m.spz").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_gaussians(tmp_path / "m.spz", model(9))
    assert [file.name for file in tmp_path.iterdir()] == ["m.spz"]
    assert (tmp_path / "m.spz").read_bytes() == before
