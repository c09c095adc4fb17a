"""splat.io on files that others made: each reads, and one model in two formats is one model. And SOG's version 1."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import splat
from splat.gaussians import Gaussians
from splat.io import format_of, load_gaussians, save_gaussians
from splat.metrics import psnr
from tests.io_models import SHARED, WHY_NOT, Differences, matched, model

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=WHY_NOT)

FILES = {
    "biker.compressed.ply": ("compressed PLY", 152_746, 0),
    "biker.spz": ("SPZ", 152_746, 0),
    "guitar.compressed.ply": ("compressed PLY", 90_854, 0),
    "derived_ply/guitar.ply": ("PLY", 90_854, 0),
    "kitchen_room.splat": (".splat", 124_495, 0),
    "logo_sog_unbundled": ("SOG folder", 307_128, 0),
    "statues_sog/angel.sog": ("SOG", 71_359, 0),
    "statues_sog/massa.sog": ("SOG", 58_649, 0),
    "playbot_sog/lod-meta.json": ("streamed SOG", 125_000, 2),
    "playbot_sog/2_0/meta.json": ("SOG folder", 125_000, 2),
    "playbot_sog/5_0/meta.json": ("SOG folder", 3_000, 2),
    "minimal_fixtures/minimal-raw.spz": ("SPZ", 4, 0),
    "minimal_fixtures/minimal-v2.spz": ("SPZ", 4, 0),
    "minimal_fixtures/minimal-v3.spz": ("SPZ", 4, 0),
    "minimal_fixtures/minimal-v4.spz": ("SPZ", 4, 0),
    "minimal_fixtures/minimal.splat": (".splat", 4, 0),
    "minimal_fixtures/minimal.ksplat": ("ksplat", 4, 0),
}


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_read_whole(name: str) -> None:
    got = load_gaussians(SHARED / name)
    assert (format_of(SHARED / name).name, len(got), got.sh_degree) == FILES[name]
    assert bool(got.valid.all()) and bool(got.opacity_logits.isfinite().all())
    assert 1e-6 < got.scales.median() < 0.5 and 0.05 < got.opacities.median() < 1
    colors = got.sh0 * 0.28209479177387814 + 0.5
    assert -0.1 < colors.median() < 1.1


@needs_data
def test_all_files_of_the_folder_are_known() -> None:
    formats = {".ply", ".spz", ".splat", ".ksplat", ".sog", ".json"}
    there = {str(file.relative_to(SHARED)) for file in SHARED.rglob("*") if file.suffix in formats}
    assert there <= {*FILES, "logo_sog_unbundled/meta.json"}


def _covariances(gaussians: Gaussians) -> torch.Tensor:
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats.double(), dim=1).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    half = torch.stack(rows, 1).reshape(-1, 3, 3) * gaussians.scales.double()[:, None]
    return half @ half.mT


@needs_data
def test_a_compressed_ply_and_its_ply_are_one_model() -> None:
    packed, plain = (load_gaussians(SHARED / f"{name}.ply") for name in ("guitar.compressed", "derived_ply/guitar"))
    # Another program unpacked the file: what it did in float64 we do in float32.
    differences = Differences.between(packed, plain)
    assert differences.within(Differences(1e-6, 1e-3, 2e-6, 2e-6, 5e-6, 0)), differences


@needs_data
def test_biker_in_spz_and_in_compressed_ply_is_one_model() -> None:
    spz, ply = (load_gaussians(SHARED / f"biker.{suffix}") for suffix in ("spz", "compressed.ply"))
    # The PLY was written from the SPZ (or both from one model), in an order of its own: the sums over all agree, and so
    # do those over each octant, which no wrong axis would leave alone.
    middle = spz.means.median(0).values
    for a, b in zip(_octants(spz, middle), _octants(ply, middle), strict=True):
        assert abs(len(a) - len(b)) <= 0.02 * len(b)
        torch.testing.assert_close(a.sh0.mean(0), b.sh0.mean(0), atol=0.02, rtol=0)
        torch.testing.assert_close(a.means.mean(0), b.means.mean(0), atol=5e-3, rtol=0)
        torch.testing.assert_close(a.opacities.mean(), b.opacities.mean(), atol=0.01, rtol=0)
        # Turned with the axes, off-diagonal covariances change signs.
        mean_a, mean_b = (_covariances(part).mean(0) for part in (a, b))
        assert (mean_a - mean_b).abs().max() < 0.02 * mean_b.diagonal().max()


def _octants(gaussians: Gaussians, middle: torch.Tensor) -> list[Gaussians]:
    which = ((gaussians.means > middle) * torch.tensor([1, 2, 4])).sum(1)
    return [gaussians.select(which == k) for k in range(8)]


@needs_data
def test_biker_in_both_formats_is_one_picture() -> None:
    pictures = []
    for suffix in ("spz", "compressed.ply"):
        gaussians = load_gaussians(SHARED / f"biker.{suffix}")
        cameras = splat.Cameras.look_at(
            (1.6, -2.4, -2.4), (-0.1, -1.0, 0.0), up=(0.0, -1.0, 0.0), fov_y=50.0, width=160, height=160
        )
        pictures.append(splat.render(gaussians, cameras, background=torch.ones(3)).color.clamp(0, 1))
    assert pictures[0].std() > 0.1
    assert psnr(pictures[0][0], pictures[1][0]) > 34


@needs_data
def test_minimal_models_of_all_versions_are_one_model() -> None:
    folder = SHARED / "minimal_fixtures"
    splat_file = load_gaussians(folder / "minimal.splat")
    old = [load_gaussians(folder / f"minimal-{version}.spz") for version in ("raw", "v2")]
    assert Differences.between(*old).within(Differences(0, 0, 0, 0, 0, 0))
    new = [load_gaussians(folder / f"minimal-{version}.spz") for version in ("v3", "v4")]
    assert Differences.between(*new).within(Differences(0, 0, 0, 0, 0, 0))
    # The Gaussians are round; their rotations differ, by half a turn about z or not at all.
    for got in (new[0], matched(load_gaussians(folder / "minimal.ksplat"), splat_file)):
        differences = Differences.between(got, splat_file)
        assert differences.within(Differences(1e-3, 3.15, 0.02, 2e-3, 0.03, 0)), differences


@needs_data
@pytest.mark.parametrize("suffix", [".compressed.ply", ".spz", ".sog", ".glb", ".splat"])
def test_a_real_model_looks_the_same_from_every_format(tmp_path: Path, suffix: str) -> None:
    wanted = load_gaussians(SHARED / "playbot_sog" / "5_0")
    save_gaussians(tmp_path / f"m{suffix}", wanted)
    got = load_gaussians(tmp_path / f"m{suffix}")
    cameras = splat.Cameras.look_at(
        (1.2, -1.5, -1.8), (0.0, -0.5, 0.0), up=(0.0, -1.0, 0.0), fov_y=50.0, width=160, height=160
    )
    degree = 0 if suffix == ".splat" else None
    a, b = (splat.render(model, cameras, sh_degree=degree).color.clamp(0, 1)[0] for model in (wanted, got))
    least = {".compressed.ply": 36, ".spz": 38, ".sog": 36, ".glb": 80, ".splat": 38}[suffix]
    assert psnr(a, b) > least


# --- SOG version 1, which is read only


def _version_1(folder: Path, degree: int) -> None:
    """Two Gaussians, as the format's first version had them."""

    def save(name: str, pixels: np.ndarray) -> None:
        out = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(out, "WEBP", lossless=True, exact=True)
        (folder / name).write_bytes(out.getvalue())

    save("l.webp", np.array([[[0, 255, 0, 255], [255, 255, 128, 255]]]))
    save("u.webp", np.array([[[0, 255, 0, 255], [255, 255, 128, 255]]]))
    save("q.webp", np.array([[[128, 128, 255, 252], [0, 128, 128, 255]]]))
    save("s.webp", np.array([[[0, 51, 255, 255], [255, 0, 0, 255]]]))
    save("c.webp", np.array([[[0, 255, 51, 102], [255, 0, 0, 255]]]))
    size = {"mins": [-1, -2, -3], "maxs": [0, 2, 3]}
    meta: dict[str, object] = {
        "means": {"shape": [2, 3], **size, "files": ["l.webp", "u.webp"]},
        "scales": {"mins": [-5, -5, -5], "maxs": [0, 0, 0], "files": ["s.webp"]},
        "quats": {"encoding": "quaternion_packed", "files": ["q.webp"]},
        "sh0": {"mins": [-1, -1, -1, -5], "maxs": [1, 1, 1, 5], "files": ["c.webp"]},
    }
    if degree:
        bands = (degree + 1) ** 2 - 1
        table = np.full((2, 64 * bands, 4), 255)
        table[..., :3] = 0
        table[1, bands : 2 * bands, 0] = 255  # the red of entry 65
        save("e.webp", table)
        save("n.webp", np.array([[[65, 0, 0, 255], [0, 0, 0, 255]]]))
        meta["shN"] = {"mins": -0.5, "maxs": 0.5, "files": ["e.webp", "n.webp"]}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("degree", range(4))
def test_sog_version_1_has_ranges_for_codebooks(tmp_path: Path, degree: int) -> None:
    _version_1(tmp_path, degree)
    got = load_gaussians(tmp_path)
    assert got.sh_degree == degree
    e = np.exp
    np.testing.assert_allclose(
        got.means,
        [[1 - e(1), e(2) - 1, 1 - e(3)], [0, e(2) - 1, e(6 * 32896 / 65535 - 3) - 1]],
        atol=1e-5,
    )
    np.testing.assert_allclose(got.log_scales, [[-5, -4, 0], [0, -5, -5]], atol=1e-6)
    np.testing.assert_allclose(got.sh0[:, 0], [[-1, 1, -0.6], [1, -1, -1]], atol=1e-6)
    np.testing.assert_allclose(got.opacity_logits, [-1, 5], atol=1e-6)
    half = 0.5**0.5
    np.testing.assert_allclose(got.quats, [[half, 0, 0, half], [-half, 0, 0, half]], atol=5e-3)
    if degree:
        assert (got.shN[0, :, 0] == 0.5).all() and (got.shN[0, :, 1:] == -0.5).all() and (got.shN[1] == -0.5).all()


def test_sog_version_1_is_read_or_refused(tmp_path: Path) -> None:
    _version_1(tmp_path, 1)
    meta = json.loads((tmp_path / "meta.json").read_text())
    changes = [
        ("means", "shape", [2.5, 3]),
        ("means", "shape", [10**9, 3]),
        ("scales", "mins", [1, 2]),
        ("shN", "mins", "a"),
    ]
    changes += [("sh0", "maxs", [1, 1, 1]), ("means", "shape", [3, 3]), ("shN", "files", ["n.webp", "n.webp"])]
    for part, key, value in changes:
        (tmp_path / "meta.json").write_text(json.dumps(meta | {part: meta[part] | {key: value}}))
        with pytest.raises(ValueError, match=r"meta\.json"):
            load_gaussians(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"version": 3}))
    with pytest.raises(ValueError, match="version must be 2, got 3"):
        load_gaussians(tmp_path)


def test_models_of_the_tests_are_compared_whatever_their_order() -> None:
    wanted = model(40, 1)
    shuffled = wanted.select(torch.randperm(40, generator=torch.Generator().manual_seed(3)))
    assert Differences.between(matched(shuffled, wanted), wanted).within(Differences(0, 0, 0, 0, 0, 0))
    assert Differences.between(shuffled, wanted).means > 0.1
