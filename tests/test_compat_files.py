"""PngCompression and export_splats: gsplat 1.5.3 reads what they write, and they read what it writes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from splat.compat.gsplat import PngCompression, export_splats
from splat.compat.gsplat.utils import inverse_log_transform, log_transform, normalized_quat_to_rotmat

gsplat_png = pytest.importorskip("gsplat.compression.png_compression", reason="gsplat (a dev extra) is the oracle here")
gsplat_exporter = pytest.importorskip("gsplat.exporter", reason="gsplat (a dev extra) is the oracle here")

BITS = {"means": 16, "scales": 8, "quats": 8, "opacities": 8, "sh0": 8, "shN": 6}


def rand(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def splats(count: int = 400, bands: int = 8) -> dict[str, Tensor]:
    return {
        "means": (rand(count, 3) - 0.5) * 20,
        "scales": rand(count, 3, seed=1) * 4 - 5,
        "quats": torch.nn.functional.normalize(rand(count, 4, seed=2) - 0.5, dim=-1),
        "opacities": rand(count, seed=3) * 8 - 3,
        "sh0": rand(count, 1, 3, seed=4) - 0.5,
        "shN": (rand(count, bands, 3, seed=6) - 0.5) * 0.4,
        "features": rand(count, 5, seed=7),
    }


def order_of(values: dict[str, Tensor], read: dict[str, Tensor]) -> Tensor:
    """Which row of `values` each row that was read is, by the features, which lose nothing."""
    order = torch.cdist(read["features"], values["features"]).argmin(1)
    assert torch.equal(read["features"], values["features"][order])
    return order


def assert_near(values: dict[str, Tensor], read: dict[str, Tensor]) -> None:
    """Within half a step of the quantisation; means in their logs."""
    order = order_of(values, read)
    for name, bits in BITS.items():
        want, got = values[name][order], read[name]
        assert got.shape == want.shape and got.dtype == want.dtype, name
        if name == "means":
            want, got = log_transform(want), log_transform(got)
        step = float(want.max() - want.min()) / (2**bits - 1)
        assert (got - want).abs().max() <= 0.51 * step, name


def test_gsplat_reads_what_is_written(tmp_path: Path) -> None:
    values = splats()
    PngCompression(verbose=False).compress(tmp_path, values)
    names = {"meta.json", "means_l.png", "means_u.png", "scales.png", "quats.png", "opacities.png", "sh0.png"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"shN.npz", "features.npz"}
    theirs = gsplat_png.PngCompression(verbose=False).decompress(str(tmp_path))
    ours = PngCompression().decompress(tmp_path)
    assert list(theirs) == list(ours) == list(values)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-6)
    assert_near(values, theirs)


def test_what_gsplat_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its k-means is replaced: a cluster for each Gaussian."""
    torchpq, clustering = ModuleType("torchpq"), ModuleType("torchpq.clustering")

    class KMeans:
        def __init__(self, **_: Any) -> None:
            self.centroids = torch.zeros(0)

        def fit(self, x: Tensor) -> Tensor:
            self.centroids = x
            return torch.arange(x.shape[1])

    clustering.KMeans = KMeans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchpq", torchpq)
    monkeypatch.setitem(sys.modules, "torchpq.clustering", clustering)
    values = splats()
    gsplat_png.PngCompression(use_sort=False, verbose=False).compress(str(tmp_path), dict(values))
    read = PngCompression().decompress(tmp_path)
    assert_near(values, read)
    assert torch.equal(order_of(values, read), torch.arange(400))


def test_what_is_given_stays_as_it_is(tmp_path: Path) -> None:
    values = splats(10)
    before = {name: value.clone() for name, value in values.items()}
    PngCompression(verbose=False).compress(tmp_path, values)
    assert all(torch.equal(value, before[name]) for name, value in values.items())


def test_faint_and_broken_gaussians_are_left_out_for_a_square(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = splats(103)
    values["means"][5, 1] = torch.nan
    values["shN"][6, 1] = torch.inf
    PngCompression().compress(tmp_path, values)
    assert "3 of 103 Gaussians left out, for a square of 10 x 10" in capsys.readouterr().out
    order = order_of(values, PngCompression().decompress(tmp_path))
    faintest = values["opacities"].index_fill(0, torch.tensor([5, 6]), 99.0).argmin()
    assert set(range(103)) - set(order.tolist()) == {5, 6, int(faintest)}


@pytest.mark.parametrize("count", [1, 4])
def test_values_that_are_all_equal_come_back(tmp_path: Path, count: int) -> None:
    values = {name: value[:1].expand(count, *value.shape[1:]).clone() for name, value in splats().items()}
    PngCompression(verbose=False).compress(tmp_path, values)
    for read in (PngCompression().decompress(tmp_path), gsplat_png.PngCompression().decompress(str(tmp_path))):
        for name, value in values.items():
            if name != "shN":
                torch.testing.assert_close(read[name], value, rtol=1e-5, atol=1e-6, msg=name)
        assert_near(values, read) if count == 1 else None


def test_without_harmonics_or_gaussians(tmp_path: Path) -> None:
    values = splats(9, bands=0)
    PngCompression(verbose=False).compress(tmp_path / "a", values)
    assert PngCompression().decompress(tmp_path / "a")["shN"].shape == (9, 0, 3)
    PngCompression(verbose=False).compress(tmp_path / "b", splats(0))
    read = PngCompression().decompress(tmp_path / "b")
    assert read["means"].shape == (0, 3) and read["shN"].shape == (0, 8, 3)


def test_sorting_makes_smaller_files_of_a_scene_with_places(tmp_path: Path) -> None:
    values = splats(2500)
    centre = values["means"]
    values["sh0"] = (centre / 20)[:, None] + 0.02 * values["sh0"]
    values["scales"] = centre / 4 + 0.1 * values["scales"]
    sizes = []
    for use_sort in (False, True):
        folder = tmp_path / str(use_sort)
        PngCompression(use_sort, verbose=False).compress(folder, values)
        sizes.append(sum((folder / f"{name}.png").stat().st_size for name in ("means_u", "scales", "sh0")))
    assert sizes[1] < 0.9 * sizes[0]


def test_a_damaged_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"meta.json: No such file or directory"):
        PngCompression().decompress(tmp_path)
    PngCompression(verbose=False).compress(tmp_path, splats(9))
    whole = (tmp_path / "meta.json").read_text()
    (tmp_path.parent / "a.npz").write_bytes((tmp_path / "features.npz").read_bytes())
    outside = '{"../a": {"shape": [9, 5], "dtype": "float32"}}'
    for broken in ("{", whole.replace("[9, 3]", "[8, 3]"), whole.replace("float32", "load"), "[1]", outside):
        (tmp_path / "meta.json").write_text(broken)
        with pytest.raises(ValueError, match="damaged, or not a folder of PngCompression"):
            PngCompression().decompress(tmp_path)
    (tmp_path / "meta.json").write_text(whole)
    (tmp_path / "sh0.png").unlink()
    with pytest.raises(ValueError, match=r"sh0.png: No such file"):
        PngCompression().decompress(tmp_path)
    with pytest.raises(ValueError, match="splats must hold quats, opacities, got means"):
        PngCompression().compress(tmp_path, {"means": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="splats must have 9 rows each, as means has, got 4 of extra"):
        PngCompression().compress(tmp_path, splats(9) | {"extra": torch.zeros(4)})


def exported(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name != "features"}


def table(data: bytes) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Properties and values of a PLY of float32."""
    head, body = data.split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in head.splitlines() if line.startswith(b"property float")]
    return names, np.frombuffer(body, "<f4").reshape(-1, len(names))


@pytest.mark.parametrize("bands", [0, 8, 15])
def test_ply_has_gsplats_properties_and_values(bands: int) -> None:
    values = exported(splats(20, bands))
    values["means"][3, 0] = torch.nan
    values["shN"][4:5] = torch.inf
    names, rows = table(export_splats(**values))
    want_names, want = table(gsplat_exporter.export_splats(**values))
    assert names == want_names and len(rows) == (18 if bands else 19)
    np.testing.assert_array_equal(rows, want)


def test_a_broken_opacity_costs_one_gaussian() -> None:
    """gsplat leaves all out."""
    values = exported(splats(20))
    values["opacities"][3] = torch.nan
    assert len(table(export_splats(**values))[1]) == 19 and len(table(gsplat_exporter.export_splats(**values))[1]) == 0


def test_splat_has_gsplats_gaussians() -> None:
    """In another order, and rounded where gsplat cuts off."""
    values = exported(splats(50))
    rows = []
    for function in (export_splats, gsplat_exporter.export_splats):
        data = function(**values, format="splat")
        assert len(data) == 50 * 32
        rows.append(sorted(struct.iter_unpack("<6f8B", data)))
    for got, want in zip(*rows, strict=True):
        assert got[:3] == want[:3] and np.allclose(got[3:6], want[3:6], rtol=1e-6)
        assert max(abs(x - y) for x, y in zip(got[6:], want[6:], strict=True)) <= 1


def unpacked(data: bytes) -> np.ndarray[Any, Any]:
    """Positions of a compressed PLY, [N, 3]."""
    head, body = data.split(b"end_header\n", 1)
    chunks, count = (
        int(line.split()[2]) for line in head.splitlines() if line.startswith((b"element c", b"element v"))
    )
    ranges = np.frombuffer(body[: chunks * 72], "<f4").reshape(chunks, 18)
    words = np.frombuffer(body[chunks * 72 : chunks * 72 + 16 * count], "<u4").reshape(count, 4)[:, 0]
    share = np.stack([words >> 21, words >> 11 & 1023, words & 2047], 1) / [2047, 1023, 2047]
    own = ranges[np.arange(count) // 256]
    return own[:, :3] + share * (own[:, 3:6] - own[:, :3])


def test_compressed_ply_has_gsplats_gaussians() -> None:
    values = exported(splats(700))
    values["opacities"][:40] = -6.0
    data = [f(**values, format="ply_compressed") for f in (export_splats, gsplat_exporter.export_splats)]
    heads = [[line for line in d.split(b"end_header")[0].splitlines() if not line.startswith(b"comment")] for d in data]
    assert heads[0] == heads[1]
    kept = values["means"][40:].numpy()
    for d in data:
        nearest = np.abs(unpacked(d)[:, None] - kept[None]).max(-1)
        assert len(nearest) == 660 and nearest.min(1).max() < 0.02 and len(set(nearest.argmin(1))) == 660


def test_a_file_is_written_too(tmp_path: Path) -> None:
    values = exported(splats(9))
    data = export_splats(**values, save_to=str(tmp_path / "a.ply"))
    assert (tmp_path / "a.ply").read_bytes() == data
    with pytest.raises(ValueError, match="format must be one of ply, splat, ply_compressed, got 'obj'"):
        export_splats(**values, format="obj")  # type: ignore[arg-type]


def test_logs_come_back_and_quaternions_turn() -> None:
    x = torch.tensor([-1e4, -1.0, 0.0, 3.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(inverse_log_transform(log_transform(x)), x)
    turn = normalized_quat_to_rotmat(torch.tensor([0.5**0.5, 0, 0, 0.5**0.5], dtype=torch.float64))
    torch.testing.assert_close(turn, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64))
