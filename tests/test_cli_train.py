"""splat train-scene, from photographs to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import splat
from splat.cli import main
from splat.io import load_gaussians
from splat.optional import installed
from splat.scene.checkpoint import load_checkpoint
from splat.scene.data import load_capture
from splat.scene.run import CHECKPOINT
from tests.rendered_captures import TARGET, rendered_data_set, ring

BUNDLED = Path(__file__).parents[1] / "scenes" / "saharov"
FEW = ("--steps", "60", "--max-gaussians", "400", "--schedule.refine-every", "20")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_data_set(tmp_path_factory.mktemp("data") / "ball", cameras=ring(12, 72, 66))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run("train-scene", data, "-o", out, *FEW, "--quiet") == 0
    return out


def test_a_run_leaves_all_there_is_to_look_at(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    scenes = {"scene.ply", "scene.compressed.ply", "scene.splat", "scene.spz", "scene.sog"}
    assert scenes | {"report.html", "metrics.json", "sheet.jpg", "pictures", CHECKPOINT, "history.jsonl"} == names
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["images"] == 60 and metrics["done"] and metrics["held_out"]
    assert metrics["gaussians"] == len(load_gaussians(trained / "scene.ply")) <= 400
    assert {row["name"] for row in metrics["files"]} == scenes
    lossless = next(row for row in metrics["files"] if row["name"] == "scene.ply")
    assert lossless["psnr"] == pytest.approx(metrics["psnr"], abs=0.01)
    assert [row["images"] for row in metrics["history"]] == sorted(row["images"] for row in metrics["history"])
    page = (trained / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_scene_is_in_the_units_of_the_data(trained: Path, data: Path) -> None:
    """The ball stands away from the origin: what is exported looks the same from the data set's own cameras."""
    gaussians = load_gaussians(trained / "scene.ply")
    opaque = gaussians.opacities > 0.3
    assert float((gaussians.means[opaque].median(0).values - torch.tensor(TARGET)).norm()) < 0.6
    capture = load_capture(data)
    row = capture.test[0]
    world = capture.normalisation.cameras_to_world(capture.camera(row))
    seen = splat.render(gaussians, world).color
    normal = splat.render(capture.normalisation.gaussians(gaussians), capture.camera(row)).color
    assert float((seen - normal).abs().max()) < 1e-3


def test_a_finished_run_goes_farther_than_it_was_to_go(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (CHECKPOINT, "history.jsonl"):
        (out / name).write_bytes((trained / name).read_bytes())
    command = ("train-scene", data, "-o", out, "--resume", "--steps", "80", "--formats", "ply", "--quiet")
    assert run(*command) == 0
    checkpoint = load_checkpoint(out / CHECKPOINT)
    assert checkpoint.progress.images == 80
    assert checkpoint.config.max_gaussians == 400  # what is not given stays as it was
    assert checkpoint.config.steps == 80


def test_what_is_given_at_a_resume_counts_and_what_is_not_stays(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("train-scene", data, "-o", out, "--formats", "ply", "--quiet")
    assert run(*command, "--time", "2", "--start.dense", "0", "--max-gaussians", "300", "--sh-degree", "1") == 0
    images = load_checkpoint(out / CHECKPOINT).progress.images
    assert run(*command, "--resume", "--steps", str(images + 20), "--mcmc.noise", "5e5", "--loss.ssim", "0.3") == 0
    checkpoint = load_checkpoint(out / CHECKPOINT)
    assert checkpoint.progress.images == images + 20
    config = checkpoint.config
    assert (config.time, config.sh_degree, config.max_gaussians, config.loss.ssim) == (None, 1, 300, 0.3)


def test_what_cannot_change_at_a_resume_is_refused(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("--strategy", "default"),
        ("--sh-degree", "2"),
        ("--correct.exposure", "affine"),
        ("--preset", "best"),
    ):
        assert run("train-scene", data, "-o", trained, "--resume", *words) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and words[0].strip("-").partition(".")[0].replace("-", "_") in error[0].replace("-", "_")


def test_a_folder_with_a_run_is_not_written_over(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / CHECKPOINT).read_bytes()
    assert run("train-scene", data, "-o", trained, *FEW) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--resume" in error
    assert (trained / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--resume",), "no such file"),
        (("--formats", "jpg"), "jpg"),
        (("--loss.background", "pink"), "background"),
        (("--loss.depth", "points"), "depth=points"),
        (("--steps", "0"), "steps"),
        (("--max-gaussians", "0"), "max_gaussians"),
        (("--sh-degree", "7"), "sh_degree"),
        (("--steps", "9", "--time", "9"), "either"),
        (("--loss.depth", "maps"), "depth=maps"),
        (("--schedule.refine-every", "0"), "refine_every"),
        (("--rates.means-final", "-1"), "means_final"),
        (("--checkpoint-every", "0"), "checkpoint_every"),
        (("--device", "tpu9"), "device"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(
    words: tuple[str, ...], says: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train-scene", data, "-o", tmp_path / "out", *words, "--quiet") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
    assert not (tmp_path / "out" / CHECKPOINT).exists()


def test_a_broken_photograph_is_named_and_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rendered_data_set(tmp_path / "ball", cameras=ring(12, 72, 66))
    broken = folder / "images" / "view05.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert run("train-scene", folder, "-o", tmp_path / "out", *FEW, "--formats", "ply") == 0
    assert "view05.png" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["data"] == {"kind": "transforms", "train": 9, "test": 2}


def test_json_lines_are_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("train-scene", data, "-o", tmp_path / "out", *FEW, "--steps", "120", "--formats", "ply")
    assert run(*command, "--json-lines") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1]["event"] == "done" and rows[-1]["images"] == 120
    assert any(row["event"] == "progress" for row in rows)


def test_presets_differ_and_what_is_given_takes_precedence(data: Path, tmp_path: Path) -> None:
    command = ("train-scene", data, "-o", tmp_path / "out", "--preset", "draft", *FEW, "--formats", "ply", "--quiet")
    assert run(*command) == 0
    config = load_checkpoint(tmp_path / "out" / CHECKPOINT).config
    assert (config.steps, config.sh_degree) == (60, 2)


def test_the_bundled_capture_trains(tmp_path: Path) -> None:
    command = ("train-scene", BUNDLED, "-o", tmp_path / "out", "--steps", "60", "--max-gaussians", "4000")
    assert run(*command, "--formats", "ply", "--quiet") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["views"] == 4
    assert metrics["history"][-1]["psnr"] > metrics["history"][0]["psnr"]
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        assert sheet.width > 500


@pytest.mark.skipif(not installed("viser"), reason="viser (extra [viewer]) is not installed")
def test_a_run_can_be_watched(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("train-scene", data, "-o", tmp_path / "out", *FEW, "--formats", "ply", "--view", "--port", "0")
    assert run(*command) == 0
    assert "live at http://localhost:" in capsys.readouterr().out
