"""The command line and the pictures it reads and writes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.cli import main
from splat.image.layout import Layout
from splat.image.model import ImageGaussians
from splat.image.picture import PictureError, read_picture, write_picture

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim05.png"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    with Image.open(PHOTO) as photo:
        photo.crop((100, 100, 148, 132)).save(tmp_path / "small.png")
    return tmp_path / "small.png"


def test_fit_and_render_write_what_they_promise(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("fit-image", small, "-o", out, "-n", "60", "--preset", "draft", "--anim", "--json-lines") == 0
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["recon.png", "model.safetensors", "metrics.json", "error.png", "ellipses.png", "fit.webp"]
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "done" and lines[0]["event"] == "progress"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["n"] == 60 and metrics["psnr"] > 20 and metrics["schema_version"] == 2
    recon, photo = (read_picture(p).pixels for p in (out / "recon.png", small))
    assert abs(-10 * float(torch.log10((recon - photo).square().mean())) - metrics["psnr"]) < 0.1
    with Image.open(out / "fit.webp") as animation:
        assert animation.n_frames > 5  # type: ignore[attr-defined]
    assert run("render-image", out / "model.safetensors", "-o", tmp_path / "big.png", "--scale", "2") == 0
    assert read_picture(tmp_path / "big.png").pixels.shape == (64, 96, 3)
    assert run("render-image", out / "model.safetensors", "-o", tmp_path / "c.png", "--crop", "4", "4", "10", "8") == 0
    assert read_picture(tmp_path / "c.png").pixels.shape == (8, 10, 3)


@pytest.mark.parametrize("kind", ["missing", "folder", "cut", "text", "animated", "bad-n", "bad-time", "n-and-target"])
def test_bad_input_is_one_line_and_leaves_nothing(
    kind: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, extra = tmp_path / f"{kind}.png", []
    if kind == "folder":
        path.mkdir()
    elif kind == "cut":
        path.write_bytes(small.read_bytes()[:900])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "animated":
        frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
        path = tmp_path / "a.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "bad-n":
        path, extra = small, ["-n", "0"]
    elif kind == "bad-time":
        path, extra = small, ["--time", "inf"]
    elif kind == "n-and-target":
        path, extra = small, ["-n", "5", "--target-psnr", "30"]
    assert run("fit-image", path, "-o", tmp_path / "out", *extra) == 2
    error = capsys.readouterr().err
    assert error.startswith("splat: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["fit-image", "render-image", "upscale", "info"])
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    options = {
        "fit-image": [
            "FILE[:KIND][:CURVE][:WEIGHT]",
            "octa",
            "--stack",
            "--target-psnr",
            "--weights",
            "--mask",
            "--pixel-kernel",
            "--time",
            "--preset",
            "--threads",
            "--json-lines",
        ],
        "render-image": ["--crop", "--scale"],
        "upscale": ["--scale", "--preset", "--model"],
    }
    assert all(option in text for option in options.get(command, ["versions"]))


def test_info_says_which_backends_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    text = capsys.readouterr().out
    assert "reference  yes" in text and "cpu " in text and "cuda       " in text


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 4, [signal.SIGTERM]])
def test_ctrl_c_writes_everything_so_far(signals: list[signal.Signals], small: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splat", "fit-image", str(small), "-o", str(tmp_path / "out"), "--json-lines"]
    process = subprocess.Popen([*command, "--time", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] >= 25:
            break
    began = time.monotonic()
    for number in signals:  # impatient: the later ones come while the outputs are written
        process.send_signal(number)
        time.sleep(0.15)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 30 and errors == ""
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["interrupted"] is True
    assert metrics["psnr"] >= max(row["psnr"] for row in metrics["history"]) - 1e-3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["recon.png", "model.safetensors", "metrics.json", "error.png", "ellipses.png"]
    )


def test_metrics_are_valid_json_even_for_a_perfect_fit(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    assert run("fit-image", tmp_path / "black.png", "-o", tmp_path / "out", "--quiet") == 0

    def refuse(text: str) -> None:
        raise ValueError(text)

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["psnr"] == 100.0
    assert {"processor", "threads", "kernels", "memory_gib", "torch"} <= metrics["machine"].keys()


def test_a_folder_that_cannot_be_written_is_found_before_the_fit(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below", "/proc/nothing"):
        began = time.monotonic()
        assert run("fit-image", small, "-o", str(tmp_path / folder), "--time", "30") == 2
        error = capsys.readouterr().err
        assert error.startswith("splat: error: ") and error.count("\n") == 1 and time.monotonic() - began < 10


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_come_back_bit_for_bit(mode: str, bits: int, tmp_path: Path) -> None:
    depth = len(mode)
    top = 2**bits - 1
    levels = np.random.default_rng(0).integers(0, top + 1, (7, 9, depth)).astype(np.uint16 if bits == 16 else np.uint8)
    if "A" in mode:
        levels[0, 0, -1] = 0
    pixels = read_picture(levels).pixels
    write_picture(tmp_path / "p.png", pixels, Layout.of(mode, bits))  # type: ignore[arg-type]
    again = read_picture(tmp_path / "p.png")
    assert again.layout == Layout.of(mode, bits, name="p")  # type: ignore[arg-type]
    assert torch.equal(again.pixels, pixels)
    assert again.pixels[0, 0].abs().sum() == 0 or "A" not in mode  # premultiplied: transparent is zero


def test_a_stack_is_written_map_by_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "textures"
    if not folder.is_dir():
        pytest.skip("needs the textures of ../shared/data")
    for name in ("color", "normal", "roughness"):
        with Image.open(folder / f"seaside-rocks01-{name}.jpg") as texture:
            crop = texture.crop((520, 560, 648, 656))
            (crop.convert("L") if name == "roughness" else crop).save(tmp_path / f"{name}.png")
    maps = [f"{tmp_path}/color.png", f"{tmp_path}/normal.png:octa:2", f"{tmp_path}/roughness.png"]
    out = tmp_path / "out"
    assert run("fit-image", "--stack", *maps, "-o", out, "-n", "500", "--preset", "draft") == 0
    text = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    floors = {"color": 28.0, "normal": 32.0, "roughness": 32.5}  # measured 28.7, 32.7, 33.5
    for group in metrics["groups"]:
        name = group["name"]
        assert group["psnr"] > floors[name] and f"{name}: {group['psnr']:.2f} dB" in text
        with Image.open(out / f"recon-{name}.png") as recon, Image.open(tmp_path / f"{name}.png") as truth:
            assert (recon.mode, recon.size) == (truth.mode, truth.size)
            error = np.asarray(recon).astype(np.float64) - np.asarray(truth)
        if name != "normal":  # which is scored as octahedral coordinates
            # The file's levels are rounded: that adds 1/12 to the mean squared error, within five standard deviations.
            fitted = 255**2 * 10 ** (-0.1 * group["psnr"])
            spread = 2 * math.sqrt(fitted / 12 / error.size)
            assert (error**2).mean() == pytest.approx(fitted + 1 / 12, abs=5 * spread)
        else:
            assert group["mean_angle"] < 5  # measured 4.5
    assert run("render-image", out / "model.safetensors", "-o", tmp_path / "big.png", "--scale", "2") == 0
    for name, mode in (("color", "RGB"), ("normal", "RGB"), ("roughness", "L")):
        with Image.open(tmp_path / f"big-{name}.png") as big:
            assert (big.mode, big.size) == (mode, (256, 192))


def test_the_blend_takes_its_k_along(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("fit-image", small, "-o", out, "-n", "20", "--preset", "draft", "--blend", "topk:3", "--quiet") == 0
    model = ImageGaussians.load(out / "model.safetensors")
    assert (model.blend, model.topk) == ("topk", 3)
    for wrong in ("sum:3", "topk:x", "alpha", "topk:0"):
        assert run("fit-image", small, "-o", out, "--blend", wrong) == 2
        assert "topk" in capsys.readouterr().err


def test_several_pictures_need_the_stack_flag(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit-image", small, small) == 2
    assert capsys.readouterr().err == "splat: error: give one picture, or several with --stack, got 2\n"
    assert run("fit-image") == 2
    assert "got 0" in capsys.readouterr().err


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10)
    exif = image.getexif()
    exif[0x0112] = 6  # turn clockwise to view
    image.save(tmp_path / "e.png", exif=exif)
    want = np.rot90(np.asarray(image), -1)
    np.testing.assert_allclose(read_picture(tmp_path / "e.png").pixels.numpy() * 255, want, atol=1e-3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 0)),
        np.zeros((3, 4, 5)),
        np.zeros(4),
        np.full((2, 2), np.nan),
        np.zeros((0, 3, 3)),
        np.full((2, 2), 7.0),
    ],
)
def test_bad_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(PictureError):
        read_picture(array)
