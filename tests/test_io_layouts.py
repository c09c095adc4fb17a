"""splat.io: what the bytes of each format mean, held against files made by hand."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splat.io import format_of, load_gaussians, save_gaussians
from splat.io.arrays import Arrays
from tests.io_models import matched, model

# --- PLY


def _ply(path: Path, header: str, rows: np.ndarray) -> Path:
    path.write_bytes(f"ply\nformat binary_little_endian 1.0\n{header}end_header\n".encode() + rows.tobytes())
    return path


def test_ply_is_read_by_name_in_any_order_and_type(tmp_path: Path) -> None:
    wanted = model(9, 1)
    arrays = Arrays.of(wanted, drawable=True)
    columns = {f"f_rest_{c * 3 + k}": arrays.shN[:, k, c] for k in range(3) for c in range(3)}
    columns |= {f"rot_{i}": arrays.quats[:, i] for i in range(4)} | {"opacity": arrays.opacity_logits}
    columns |= {f"scale_{i}": arrays.log_scales[:, i] for i in (2, 0, 1)}
    columns |= {f"f_dc_{i}": arrays.sh0[:, 0, i] for i in range(3)} | {
        c: arrays.means[:, i] for i, c in enumerate("xyz")
    }
    dtype = [("id", "<u2"), *((name, "<f8" if name == "opacity" else "<f4") for name in reversed(columns))]
    rows = np.zeros(9, dtype)
    for name, column in columns.items():
        rows[name] = column
    kinds = {"<u2": "ushort", "<f8": "double", "<f4": "float32"}
    header = "comment of another writer\nelement camera 2\nproperty uchar a\nelement vertex 9\n"
    header += "".join(f"property {kinds[kind]} {name}\n" for name, kind in dtype)
    header += "element face 1\nproperty list uchar int vertex_indices\n"
    path = _ply(tmp_path / "m.ply", header, np.frombuffer(b"ab" + rows.tobytes() + b"\x01\0\0\0\0", np.uint8))
    got = load_gaussians(path)
    for name, value in wanted.parameters().items():
        assert torch.equal(getattr(got, name), value), name


def test_ply_is_written_as_inria_does(tmp_path: Path) -> None:
    wanted = model(3, 1)
    save_gaussians(tmp_path / "m.ply", wanted)
    head, _, body = (tmp_path / "m.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property float ")]
    rest = [f"f_rest_{i}" for i in range(9)]
    tail = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, *tail]
    table = np.frombuffer(body, "<f4").reshape(3, -1)
    assert not table[:, 3:6].any()
    assert np.array_equal(
        table[:, 9:18].reshape(3, 3, 3), wanted.shN.transpose(1, 2).numpy()
    )  # a channel after the other
    save_gaussians(tmp_path / "n.ply", wanted, normals=False)
    assert (tmp_path / "m.ply").stat().st_size - (tmp_path / "n.ply").stat().st_size == 3 * 12 + 3 * len(
        "property float nx\n"
    )


def test_big_endian_ply_is_read(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "m.ply", model(5))
    head, mark, body = (tmp_path / "m.ply").read_bytes().partition(b"end_header\n")
    swapped = np.frombuffer(body, "<f4").astype(">f4").tobytes()
    (tmp_path / "b.ply").write_bytes(head.replace(b"little", b"big") + mark + swapped)
    assert torch.equal(load_gaussians(tmp_path / "b.ply").means, model(5).means)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"property float scale_2\n", b""), "no property scale_2"),
        ((b"binary_little_endian", b"ascii"), "wanted a binary PLY"),
        ((b"element vertex 4", b"element vertex 99999999999"), "wants .* bytes, got"),
        ((b"element vertex 4", b"element vertex 5"), "wants .* bytes, got"),
        ((b"element vertex 4", b"element vertex -4"), "damaged PLY header"),
        ((b"element vertex 4", b"element points 4"), "no element vertex"),
        ((b"property float f_rest_8\n", b""), "f_rest"),
        ((b"end_header", b"end_footer"), "damaged PLY header|no end"),
        ((b"property float x", b"property quad x"), "damaged PLY header"),
        ((b"property float y", b"property float x"), "damaged PLY header"),
        ((b"ply\n", b"plx\n"), "not a PLY file"),
    ],
)
def test_wrong_ply_headers_are_named(tmp_path: Path, change: tuple[bytes, bytes], message: str) -> None:
    path = tmp_path / "m.ply"
    save_gaussians(path, model(4, 1))
    path.write_bytes(path.read_bytes().replace(*change))
    with pytest.raises(ValueError, match=f"m.ply: .*({message})"):
        load_gaussians(path)


def test_compressed_ply_has_chunks_of_256_in_morton_order(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "m.compressed.ply", model(700, 1))
    head = (tmp_path / "m.compressed.ply").read_bytes().partition(b"end_header\n")[0].decode()
    assert "element chunk 3\n" in head and "element vertex 700\n" in head and "property uchar f_rest_8" in head
    means = load_gaussians(tmp_path / "m.compressed.ply").means
    assert means.diff(dim=0).norm(dim=1).mean() < 0.3 * model(700).means.diff(dim=0).norm(dim=1).mean()


def test_compressed_ply_with_too_few_chunks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.compressed.ply"
    save_gaussians(path, model(300))
    path.write_bytes(path.read_bytes().replace(b"element chunk 2\n", b"element chunk 1\n"))
    with pytest.raises(ValueError, match="300 Gaussians want a chunk for each 256, got 1"):
        load_gaussians(path)


def test_compressed_ply_without_colour_ranges_means_0_to_1(tmp_path: Path) -> None:
    ranges = np.array([[-1, -1, -1, 1, 1, 1, -3, -3, -3, 0, 0, 0]], "<f4")
    word = (1023 << 20) | (512 << 10) | 512  # the largest component is the first
    packed = np.array([[0xFFFFFFFF, word, 0, 0xFF00807F]], "<u4")
    names = [f"{side}_{kind}{axis}" for kind in ("", "scale_") for side in ("min", "max") for axis in "xyz"]
    header = "element chunk 1\n" + "".join(f"property float {name}\n" for name in names) + "element vertex 1\n"
    header += "".join(f"property uint packed_{name}\n" for name in ("position", "rotation", "scale", "color"))
    path = _ply(tmp_path / "m.ply", header, np.frombuffer(ranges.tobytes() + packed.tobytes(), np.uint8))
    assert format_of(path).name == "compressed PLY"
    got = load_gaussians(path)
    assert got.means.tolist() == [[1, 1, 1]] and got.log_scales.tolist() == [[-3, -3, -3]]
    colors = got.sh0[0, 0] * 0.28209479177387814 + 0.5
    torch.testing.assert_close(colors, torch.tensor([1.0, 0.0, 128 / 255]))
    torch.testing.assert_close(got.opacities, torch.tensor([127 / 255]))
    torch.testing.assert_close(got.quats[0, :2], torch.tensor([0.5**0.5, 0.5**0.5]), atol=1e-3, rtol=0)


# --- .splat


def test_a_splat_row_is_read_as_its_format_says(tmp_path: Path) -> None:
    row = struct.pack("<6f8B", 1, 2, 3, 0.1, 0.2, 0.4, 255, 0, 51, 102, 128, 255, 128, 128)
    (tmp_path / "m.splat").write_bytes(row)
    got = load_gaussians(tmp_path / "m.splat")
    assert got.means.tolist() == [[1, 2, 3]] and got.quats.tolist() == [[0, 1, 0, 0]]
    torch.testing.assert_close(got.scales, torch.tensor([[0.1, 0.2, 0.4]]))
    torch.testing.assert_close(got.opacities, torch.tensor([0.4]))
    torch.testing.assert_close(got.sh0[0, 0] * 0.28209479177387814 + 0.5, torch.tensor([1, 0, 0.2]))


def test_splat_rows_come_large_and_opaque_first(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "m.splat", model(200))
    got = load_gaussians(tmp_path / "m.splat")
    volume = got.log_scales.sum(1).exp()
    weight, rounding = volume * got.opacities, volume * 0.51 / 255
    assert bool((weight[1:] - rounding[1:] <= weight[:-1] + rounding[:-1]).all())
    assert weight[:50].min() > weight[-50:].max()


# --- SPZ


def _spz(version: int, *, flags: int = 0, rotation: bytes, count: int = 1) -> bytes:
    position = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1, 2, -3))
    body = position + bytes([204]) + bytes([128, 0, 255]) + bytes([96, 112, 128]) + rotation
    return struct.pack("<4sIIBBBB", b"NGSP", version, count, 1, 12, flags, 0) + body + bytes([128 + 64] * 3 + [128] * 6)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [True, False])
def test_an_spz_gaussian_is_read_as_its_format_says(tmp_path: Path, version: int, packed: bool) -> None:
    # Half a turn about y: in xyzw (0, 1, 0, 0), of which y is the largest.
    rotation = bytes([128, 255, 128]) if version == 2 else struct.pack("<I", 1 << 30)
    data = _spz(version, rotation=rotation)
    (tmp_path / "m.spz").write_bytes(gzip.compress(data) if packed else data)
    got = load_gaussians(tmp_path / "m.spz")
    assert got.means.tolist() == [[1, -2, 3]]  # right, up, back became right, down, forward
    assert got.log_scales.tolist() == [[-4, -3, -2]]
    torch.testing.assert_close(got.opacities, torch.tensor([0.8]))
    torch.testing.assert_close(got.sh0[0, 0], torch.tensor([0.5 / 255, -0.5, 0.5]) / 0.15)
    torch.testing.assert_close(
        got.quats.abs(), torch.tensor([[0.0, 0, 1, 0]]), atol=0.07 if version == 2 else 1e-6, rtol=0
    )
    assert got.shN.tolist() == [[[-0.5, -0.5, -0.5], [0, 0, 0], [0, 0, 0]]]  # y, z, x: that of y changes its sign


def test_spz_with_records_of_vendors_is_read(tmp_path: Path) -> None:
    data = _spz(3, flags=2, rotation=bytes(4)) + b"records" * 9
    (tmp_path / "m.spz").write_bytes(gzip.compress(data))
    assert len(load_gaussians(tmp_path / "m.spz")) == 1


@pytest.mark.parametrize("version", [3, 4])
def test_an_spz_model_written_again_is_the_same_file(tmp_path: Path, version: int) -> None:
    save_gaussians(tmp_path / "a.spz", model(200, 4), version=version)
    save_gaussians(tmp_path / "b.spz", load_gaussians(tmp_path / "a.spz"), version=version)
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()
    assert (tmp_path / "a.spz").read_bytes()[:4] == (b"NGSP" if version == 4 else b"\x1f\x8b\x08\0")


def test_spz_versions_hold_the_same_model(tmp_path: Path) -> None:
    for version in (3, 4):
        save_gaussians(tmp_path / f"{version}.spz", model(50, 2), version=version)
    old, new = (load_gaussians(tmp_path / f"{version}.spz") for version in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(old.parameters().values(), new.parameters().values(), strict=True))


def test_spz_gives_large_scenes_fewer_fractional_bits(tmp_path: Path) -> None:
    for extent in (1, 2047.9, 2048, 50_000, 8e6):
        wanted = model(20)
        wanted = replace(wanted, means=wanted.means / 2 * extent)
        save_gaussians(tmp_path / "m.spz", wanted)
        step = max(2.0**-12, extent / 2**21)
        assert (load_gaussians(tmp_path / "m.spz").means - wanted.means).abs().max() <= step
    with pytest.raises(ValueError, match="do not fit"):
        save_gaussians(tmp_path / "m.spz", replace(wanted, means=wanted.means * 2))
    with pytest.raises(ValueError, match="do not fit"):
        save_gaussians(tmp_path / "m.spz", wanted, fractional_bits=12)
    with pytest.raises(ValueError, match="version must be 3 or 4"):
        save_gaussians(tmp_path / "m.spz", wanted, version=2)


# --- SOG


def test_sog_keeps_the_numbers_of_a_small_codebook(tmp_path: Path) -> None:
    wanted = model(1000, 1)
    few = torch.linspace(-1, 1, 200)[torch.randint(0, 200, (1000, 3), generator=torch.Generator().manual_seed(0))]
    wanted = replace(wanted, log_scales=few - 4, sh0=few[:, None].flip(2))
    save_gaussians(tmp_path / "m.sog", wanted)
    got = matched(load_gaussians(tmp_path / "m.sog"), wanted)
    assert torch.equal(got.log_scales, wanted.log_scales) and torch.equal(got.sh0, wanted.sh0)


def test_sog_palette_of_all_vectors_loses_only_the_codebook(tmp_path: Path) -> None:
    errors = []
    for size in (16, 128, 1000):
        save_gaussians(tmp_path / "m.sog", model(1000, 2), palette_size=size)
        with zipfile.ZipFile(tmp_path / "m.sog") as archive:
            meta = json.loads(archive.read("meta.json"))
        assert meta["shN"]["count"] <= size and len(meta["shN"]["codebook"]) == 256
        got = matched(load_gaussians(tmp_path / "m.sog"), model(1000))
        errors.append(float((got.shN - model(1000, 2).shN).square().mean().sqrt()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.002


def test_sog_folder_and_zip_hold_the_same(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "m.sog", model(90, 2))
    (tmp_path / "folder").mkdir()
    save_gaussians(tmp_path / "folder" / "meta.json", model(90, 2))
    with zipfile.ZipFile(tmp_path / "m.sog") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "folder" / name).read_bytes()
    a, b = load_gaussians(tmp_path / "folder"), load_gaussians(tmp_path / "m.sog")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters().values(), b.parameters().values(), strict=True))


def test_sog_of_one_place_is_not_divided_by_zero(tmp_path: Path) -> None:
    wanted = model(10)
    wanted = replace(wanted, means=torch.full((10, 3), 1.5), log_scales=torch.zeros(10, 3), sh0=torch.ones(10, 1, 3))
    save_gaussians(tmp_path / "m.sog", wanted)
    got = load_gaussians(tmp_path / "m.sog")
    torch.testing.assert_close(got.means, wanted.means)
    assert torch.equal(got.log_scales, wanted.log_scales)


@pytest.mark.parametrize("name", ["../scales.webp", "sub/scales.webp", "..\\scales.webp", "..", ""])
def test_sog_pictures_are_looked_for_in_its_folder_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    save_gaussians(folder / "meta.json", model(9))
    for place in (tmp_path, folder / "sub"):
        (place / "scales.webp").write_bytes((folder / "scales.webp").read_bytes())
    meta = json.loads((folder / "meta.json").read_text())
    meta["scales"]["files"] = [name]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="wanted the plain name of a file"):
        load_gaussians(folder)


def _lod(tmp_path: Path, **change: object) -> Path:
    for name, seed in (("0_0", 0), ("1_0", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        save_gaussians(tmp_path / name / "meta.json", model(40, 1, seed=seed))
    half = {
        "children": [
            {"lods": {"0": {"file": 0, "offset": 10, "count": 5}, "1": {"file": 1, "offset": 20, "count": 20}}}
        ]
    }
    tree = {
        "children": [
            half,
            {"lods": {"0": {"file": 2, "offset": 0, "count": 9}, "1": {"file": 1, "offset": 0, "count": 20}}},
        ]
    }
    meta = {"lodLevels": 2, "filenames": ["0_0/meta.json", "1_0/meta.json", "9_9/meta.json"], "tree": tree} | change
    (tmp_path / "lod-meta.json").write_text(json.dumps(meta))
    return tmp_path / "lod-meta.json"


def test_the_finest_level_with_all_its_files_is_read(tmp_path: Path) -> None:
    from splat.io.sog import read_lod

    path = _lod(tmp_path)
    assert torch.equal(load_gaussians(path).means, load_gaussians(tmp_path / "1_0").means)
    assert torch.equal(load_gaussians(tmp_path).means, load_gaussians(tmp_path / "1_0").means)
    with pytest.raises(ValueError, match=r"level 0 wants 9_9/meta\.json"):
        read_lod(path, 0)
    with pytest.raises(ValueError, match="wanted a level of 0, 1, got 7"):
        read_lod(path, 7)
    path = _lod(tmp_path, tree={"lods": {"0": {"file": 0, "offset": 10, "count": 5}}})
    assert torch.equal(load_gaussians(path).means, load_gaussians(tmp_path / "0_0").means[10:15])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filenames": ["../0_0/meta.json"]}, "below its folder"),
        ({"filenames": ["/0_0/meta.json"]}, "below its folder"),
        ({"tree": {"lods": {"0": {"file": 0, "offset": 30, "count": 11}}}}, "rows beyond"),
        ({"tree": {"children": [{"lods": {"0": {"file": 0, "offset": 0, "count": 30}}}] * 2}}, "or twice"),
        ({"tree": {"lods": {"0": {"file": 3, "offset": 0, "count": 1}}}}, "file must be"),
        ({"tree": {"lods": {"x": {}}}}, "numbers for names"),
        ({"tree": {}}, "no level has all"),
        ({"tree": 3}, "wanted a JSON object"),
    ],
)
def test_wrong_levels_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_gaussians(_lod(tmp_path, **change))


# --- glTF


def test_glb_is_points_with_the_ratified_attributes(tmp_path: Path) -> None:
    wanted = model(7, 1)
    save_gaussians(tmp_path / "m.glb", wanted)
    data = (tmp_path / "m.glb").read_bytes()
    magic, version, length, text, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON") and text % 4 == 0
    document = json.loads(data[20 : 20 + text])
    binary = data[28 + text :]
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension["kernel"] == "ellipse" and extension["colorSpace"] == "srgb_rec709_display"

    def values(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(part, kind).reshape(accessor["count"], -1)

    prefix = "KHR_gaussian_splatting:"
    means = wanted.means.numpy() * [-1, -1, 1]  # half a turn about z: y up
    assert np.array_equal(values("POSITION"), means)
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert position["min"] == means.min(0).tolist() and position["max"] == means.max(0).tolist()
    np.testing.assert_allclose(values(f"{prefix}SCALE"), wanted.scales.numpy(), rtol=1e-6)
    np.testing.assert_allclose(values(f"{prefix}OPACITY")[:, 0], wanted.opacities.numpy(), rtol=1e-6)
    unit = torch.nn.functional.normalize(wanted.quats, dim=1).numpy()[:, [1, 2, 3, 0]] * [-1, -1, 1, 1]
    np.testing.assert_allclose(values(f"{prefix}ROTATION"), unit, atol=1e-6)
    assert np.array_equal(values(f"{prefix}SH_DEGREE_0_COEF_0"), wanted.sh0[:, 0].numpy())
    assert np.array_equal(values(f"{prefix}SH_DEGREE_1_COEF_1"), wanted.shN[:, 1].numpy())  # z
    assert np.array_equal(values(f"{prefix}SH_DEGREE_1_COEF_2"), -wanted.shN[:, 2].numpy())  # x
    colors = (wanted.sh0[:, 0].numpy() * 0.28209479 + 0.5).clip(0, 1) * 255
    assert np.abs(values("COLOR_0")[:, :3] - colors).max() <= 0.501
