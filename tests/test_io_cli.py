"""splat convert and splat info FILE."""

from __future__ import annotations

from pathlib import Path

import pytest

from splat.cli import main
from splat.io import load_gaussians, save_gaussians
from tests.io_models import model, with_extremes


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_gaussians(tmp_path / "a.ply", model(64, 2))
    return tmp_path / "a.ply"


def test_convert_says_what_it_did(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", source, tmp_path / "b.spz", "--sh-degree", "1", "--spz-version", "3") == 0
    got = load_gaussians(tmp_path / "b.spz")
    assert (len(got), got.sh_degree) == (64, 1)
    assert (tmp_path / "b.spz").read_bytes()[:2] == b"\x1f\x8b"
    said = capsys.readouterr().out
    for part in ("a.ply  PLY, 64 Gaussians", "b.spz  SPZ", "a Gaussian", "of the source", "kept: position in fixed"):
        assert part in said
    assert f"{source.stat().st_size:,} bytes" in said and f"{(tmp_path / 'b.spz').stat().st_size:,} bytes" in said


def test_convert_names_what_cannot_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gaussians(tmp_path / "a.ply", with_extremes(model(20)))
    assert run("convert", tmp_path / "a.ply", tmp_path / "b.glb") == 0
    assert "left out: 5 Gaussians" in capsys.readouterr().out
    assert run("convert", tmp_path / "a.ply", tmp_path / "b.safetensors") == 0
    assert "left out" not in capsys.readouterr().out


def test_convert_passes_the_options_on(source: Path, tmp_path: Path) -> None:
    assert run("convert", source, tmp_path / "b.ply", "--no-normals") == 0
    assert (tmp_path / "b.ply").stat().st_size < source.stat().st_size
    assert run("convert", source, tmp_path / "b.sog", "--palette-size", "4") == 0
    assert len(load_gaussians(tmp_path / "b.sog").shN.unique(dim=0)) <= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("b.xyz",), "wanted a file name that ends in"),
        (("b.ply", "--spz-version", "3"), "--spz-version is no option for b.ply (PLY)"),
        (("b.spz", "--no-normals"), "--no-normals is no option for b.spz (SPZ)"),
        (("b.glb", "--palette-size", "9"), "--palette-size is no option for b.glb (glTF)"),
        (("none/b.ply",), "no such folder"),
    ],
)
def test_convert_refuses_before_it_writes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("convert", source, tmp_path / arguments[0], *arguments[1:]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_info_shows_what_is_in_a_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", source) == 0
    said = capsys.readouterr().out
    for part in ("format     PLY", "Gaussians  64", "harmonics  degree 2", "opacity", "scale", "quantiles"):
        assert part in said
    assert f"bytes      {source.stat().st_size:,}" in said


def test_info_of_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.spz").write_bytes(b"hello, this is no model")
    assert run("info", tmp_path / "a.spz") == 2
    said = capsys.readouterr().err
    assert "not an SPZ file" in said and said.count("\n") == 1
