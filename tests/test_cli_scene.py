"""splat render, eval and view."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import splat
from splat import optional
from splat.cli import main
from splat.figures import rgb
from splat.io import load_gaussians, save_gaussians
from splat.scene.paths import read_path, write_path
from splat.scene.video import can_write_mp4
from tests.rendered_captures import BACKGROUND, TARGET, ball, rendered_data_set, ring

COLOR = [str(v) for v in BACKGROUND.tolist()]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    ball().save(tmp_path / "scene.safetensors")
    return tmp_path / "scene.safetensors"


def pictures(folder: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return found


def test_a_path_file_is_rendered_frame_by_frame(scene: Path, tmp_path: Path) -> None:
    write_path(tmp_path / "path.json", ring(3))
    arguments = ("--camera-path", tmp_path / "path.json", "--format", "png", "-o", tmp_path / "f")
    assert run("render", scene, *arguments, "--background", *COLOR) == 0
    want = [rgb(color) for color in splat.render(ball(), ring(3), background=BACKGROUND).color]
    got = pictures(tmp_path / "f")
    assert len(got) == 3 and all(np.array_equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat"])
def test_a_scene_is_drawn_as_its_file_says_whatever_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scene.{suffix}"
    save_gaussians(path, ball())
    load_gaussians(path).save(tmp_path / "read.safetensors")
    for file, folder in ((path, "a"), (tmp_path / "read.safetensors", "b")):
        assert run("render", file, "--frames", 1, "--width", 64, "--height", 48, "-o", tmp_path / folder) == 0
    (got,), (want,) = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert np.array_equal(got, want) and got.max() > 60


@pytest.mark.parametrize("kind", ["fly", "orbit"])
def test_paths_of_a_data_set_are_in_the_world_of_the_scene(
    kind: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rendered_data_set(tmp_path / "data")
    saved = tmp_path / "saved.json"
    where = ("--data", data, "--camera-path", kind, "--frames", 24, "--save-path", saved, "--width", 40, "--height", 30)
    assert run("render", scene, *where, "-o", tmp_path / "a.webp") == 0
    with Image.open(tmp_path / "a.webp") as video:
        assert video.n_frames == 24 and video.size == (40, 30)  # type: ignore[attr-defined]
    assert capsys.readouterr().out == f"{tmp_path / 'a.webp'}  24 frames, 40 x 30\n"
    path = read_path(saved)
    distance = (path.centers - torch.tensor(TARGET)).norm(dim=1)
    assert float((distance - 3.5).abs().max()) < 0.05  # as far from the target as the photos were taken


def test_without_data_a_scene_is_circled(scene: Path, tmp_path: Path) -> None:
    assert run("render", scene, "--frames", 5, "--width", 64, "--height", 48, "-o", tmp_path / "frames") == 0
    got = pictures(tmp_path / "frames")
    assert len(got) == 5 and all(picture.shape == (48, 64, 3) and picture.max() > 60 for picture in got)


def test_the_format_goes_by_the_suffix_and_by_what_is_installed(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--frames", 2, "--width", 16, "--height", 16)
    if can_write_mp4():
        assert run("render", scene, *small) == 0 and (tmp_path / "render.mp4").stat().st_size > 0
    find = optional.find_spec
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find(name))
    assert run("render", scene, *small) == 0 and (tmp_path / "render.webp").is_file()
    capsys.readouterr()
    assert run("render", scene, *small, "-o", "x.mp4") == 2 and not (tmp_path / "x.mp4").exists()
    assert "needs imageio-ffmpeg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.safetensors"], "missing.safetensors: no such file"),
        (["SCENE", "--camera-path", "fly"], "needs --data"),
        (["SCENE", "--camera-path", "nothing.json"], "nothing.json: no such file"),
        (["SCENE", "--camera-path", "p.json", "--frames", "3"], "--frames goes with fly and orbit"),
        (["SCENE", "-o", "a.avi"], "a.avi: wanted a name that ends in .mp4 or .webp"),
        (["SCENE", "-o", "a.webp", "--format", "mp4"], "a.webp: a mp4 must end in .mp4"),
        (["SCENE", "--frames", "0"], "frames must be at least 1"),
        (["SCENE", "--background", "0", "0", "7"], "background must be three values in 0..1"),
        (["SCENE", "--up", "0", "0", "0"], "up must be a direction"),
        (["SCENE", "--data", "nowhere"], "nowhere: no such"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("render", *(str(scene) if a == "SCENE" else a for a in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("splat: error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [scene]


def test_an_evaluation_writes_what_it_promises(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rendered_data_set(tmp_path / "data")
    out = tmp_path / "out"
    assert run("eval", scene, data, "-o", out, "--background", *COLOR, "--no-flip") == 0
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "pictures", "report.html", "sheet.jpg"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["schema_version"] == 1 and metrics["split"] == "test" and metrics["gaussians"] == 60
    assert [row["name"] for row in metrics["per_view"]] == ["images/view00.png", "images/view08.png"]
    assert metrics["psnr"] > 57 and metrics["ssim"] > 0.999  # nothing but the photos' rounding to 8 bits
    assert [p.name for p in sorted((out / "pictures").iterdir())] == [
        "0000_images_view00.jpg",
        "0008_images_view08.jpg",
    ]
    page = (out / "report.html").read_text()
    assert f"{metrics['psnr']:.2f} dB" in page and "images/view08.png" in page
    assert capsys.readouterr().out.startswith(f"{metrics['psnr']:.2f} dB PSNR  {metrics['ssim']:.4f} SSIM  (2 held-out")


def test_a_worse_scene_scores_worse_and_the_training_photos_can_be_measured(tmp_path: Path, scene: Path) -> None:
    data = rendered_data_set(tmp_path / "data")
    g = ball()
    replace(g, sh0=g.sh0 + 0.3).save(scene)
    how = ("--views", "train", "--no-flip", "--quiet", "--video")
    assert run("eval", scene, data, "-o", tmp_path / "out", *how) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["views"] == 8 and metrics["psnr"] < 35
    page = (tmp_path / "out" / "report.html").read_text()
    video = "fly.mp4" if can_write_mp4() else "fly.webp"
    assert (tmp_path / "out" / video).stat().st_size > 0 and f'src="{video}"' in page
    assert "Worst views" in page and "eld-out" not in page.split("</main>")[0]


def test_nothing_held_out_is_an_error(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rendered_data_set(tmp_path / "data")
    assert run("eval", scene, data, "-o", tmp_path / "out", "--test-every", 0) == 2
    assert "no photo is held out; give --views train" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.skipif(not optional.installed("viser"), reason="viser (extra [viewer]) is not installed")
def test_view_serves_until_it_is_stopped(scene: Path, tmp_path: Path) -> None:
    data = rendered_data_set(tmp_path / "data")
    command = [sys.executable, "-m", "splat", "view", str(scene), "--data", str(data), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("scene.safetensors is at http://localhost:")
        with urllib.request.urlopen(line.split()[3], timeout=10) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == ""
