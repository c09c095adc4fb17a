"""scripts/bench_gpu.py in a dry run: what it counts, what it files, what it says. No figure of it is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import splat
from splat.core.binning import ALPHA_MIN

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import bench_gpu
import gpu_peers
import gpu_scene
from gpu_tables import target_table
from gpu_timing import Figures, Run, psnr_between

WIDTH, HEIGHT = 96, 64
ARGUMENTS = [
    "--device",
    "cpu",
    "--counts",
    "0.002",
    "--size",
    "96x64",
    "--views",
    "2",
    "--repeats",
    "2",
    "--pictures",
    "500",
]
OURS = [
    "forward",
    "forward, with room",
    "forward + backward",
    "forward + backward, with room",
    "training step",
]


class StandIn(gpu_peers.Peers):
    """gsplat's call as splat has it, which needs no GPU."""

    def __init__(self, run: Run, folder: Path | None, wanted: bool, patience: float) -> None:
        super().__init__(run, folder, False, patience)
        self.found.append(gpu_peers.Gsplat(splat.rasterization, "stand-in"))


def figures_of(tmp_path: Path, *more: str) -> Figures:
    bench_gpu.main([*ARGUMENTS, "--json", str(tmp_path / "figures.json"), *more])
    figures: Figures = json.loads((tmp_path / "figures.json").read_text())
    return figures


def test_a_dry_run_files_and_prints_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(tmp_path)
    said = capsys.readouterr().out
    assert {"machine", "device", "size", "scenes", "pictures", "missing", "seconds"} <= figures.keys()
    assert {"processor", "splat", "torch", "torch_cuda", "cuda_archs"} <= figures["machine"].keys()
    (scene,), (picture,) = figures["scenes"].values(), figures["pictures"].values()
    stages = [*gpu_scene.STAGES, *gpu_scene.APART, "bin, exact"]
    assert set(scene["ms"]) == set(OURS) and set(scene["stages ms"]) == set(stages)
    assert set(picture["ms"]) == {"draw", "draw, with room", "fit step"}
    for timing in (*scene["ms"].values(), *scene["stages ms"].values(), *picture["ms"].values()):
        assert 0 < timing["low"] <= timing["ms"] <= timing["high"] and timing["calls"] == 2 and timing["wall_ms"] > 0
    assert scene["largest difference of the picture with room"] == 0
    needs_a_gpu = {line.partition(": ")[0] for line in figures["missing"]}
    assert all(line.endswith(": needs a GPU") for line in figures["missing"])
    graphs = {"forward, CUDA graph", "training step, CUDA graph", "draw, CUDA graph"}
    memory_and_waits = {"peak memory of a training step", "host waits in a training step"}
    assert needs_a_gpu == graphs | memory_and_waits | {"gsplat"}
    assert all(f"\n  {name} " in said for name in (*OURS, *stages))
    # A picture of other sizes, on another device, says nothing about the target.
    assert "| forward, ms | ≤ 0.9, ≥ 2x |" in said and "not the target's scene" in said and "| yes |" not in said
    bench_gpu.main(["--table", str(tmp_path / "figures.json")])
    assert said.endswith(capsys.readouterr().out)


def test_a_peer_is_measured_and_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peers, "Peers", StandIn)
    (scene,) = figures_of(tmp_path, "--pictures")["scenes"].values()
    peer = scene["peers"]["gsplat"]
    assert peer["PSNR dB"] > 100
    for name in ("forward", "forward + backward", "training step"):
        assert peer[name]["variant"] in ("packed", "not packed") and len(peer[name]["all"]) == 2
        assert peer[name]["ms"] == min(peer[name]["all"].values()) > 0


def test_a_peer_with_another_picture_is_not_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dark(gpu_peers.Gsplat):
        def draw(self, *arguments: object) -> torch.Tensor:
            return 0.9 * super().draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_peers, "Peers", StandIn)
    monkeypatch.setattr(gpu_peers, "Gsplat", Dark)
    figures = figures_of(tmp_path, "--pictures")
    assert list(figures["scenes"]["2,000"]["peers"]["gsplat"]) == ["PSNR dB"]
    assert any("draws another picture" in line for line in figures["missing"])


def test_without_time_nothing_is_measured_and_it_is_said(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, "--budget", "0", "--counts", "0.002", "1")
    assert figures["scenes"] == figures["pictures"] == {}
    assert sum("skipped" in line for line in figures["missing"]) == 3


def brute_pairs(tiles: splat.core.binning.TileLists) -> int:
    """Pixels of all 8x4 sub-tiles that a mask reaches, bit by bit."""
    pairs = 0
    for mask in tiles.masks.tolist():
        for y in range(4):
            for half in range(2):
                blocks = (4 * y + 2 * half, 4 * y + 2 * half + 1)
                pairs += 32 * any(mask >> block & 1 for block in blocks)
    return pairs


def test_pairs_per_pixel_are_those_of_a_brute_count(tmp_path: Path) -> None:
    gaussians, cameras = gpu_scene.trained_like(2000, views=2)
    cameras = gpu_scene.sized(cameras, WIDTH, HEIGHT)
    found = []
    for view in range(2):
        info = splat.render(gaussians, cameras[view], backend="reference").info
        assert info.tiles is not None
        found.append(brute_pairs(info.tiles) / (WIDTH * HEIGHT))
        # From the pixels themselves: what draws at a pixel of a sub-tile is evaluated there, and little else is. A
        # splat can pass between the centres of pixels.
        s = info.splats
        x = torch.stack(torch.meshgrid(torch.arange(WIDTH), torch.arange(HEIGHT), indexing="xy"), -1) + 0.5
        dx, dy = (x.view(-1, 1, 2) - s.means2d[0]).unbind(-1)
        a, b, c = s.conics[0].unbind(-1)
        weight = s.opacities[0] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        drawn = ((weight >= ALPHA_MIN) & (s.radii[0] > 0).all(-1)).view(HEIGHT // 4, 4, WIDTH // 8, 8, -1)
        needed = 32 * int(drawn.any(3).any(1).sum()) / (WIDTH * HEIGHT)
        assert needed <= found[-1] <= 1.1 * needed
    statistics = figures_of(tmp_path, "--pictures")["scenes"]["2,000"]["statistics"]
    assert statistics["pairs per pixel"] == pytest.approx(sum(found) / 2, rel=1e-3)
    assert statistics["entries per visible splat"] > 1 and statistics["visible"] <= statistics["projected"]


def test_targets_are_judged_on_the_target_scene_alone() -> None:
    scene: Figures = {
        "ms": {"forward": {"ms": 0.5}, "training step": {"ms": 3.0}, "training step, CUDA graph": {"ms": 2.5}},
        "peak GB": 3.9,
        "host waits": 0,
        "peers": {"gsplat": {"forward": {"ms": 1.5}, "training step": {"ms": 6.0}}},
    }
    figures: Figures = {"device": "cuda", "size": [1920, 1080], "scenes": {"3,000,000": scene}}
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in target_table(figures).split("\n")
    }
    assert rows["forward, ms"][2:] == ["0.5", "1.5", "3.00x", "yes"]
    assert rows["training step, ms"][2:] == ["3", "6", "2.00x", "no"]
    assert rows["forward + backward, ms"][2:] == ["-", "-", "-", "?"]
    assert rows["peak memory of a training step, GB"][-1] == "no"
    assert rows["host waits in a training step"][-1] == "yes"
    for other in ({"device": "cpu"}, {"size": [960, 540]}, {"scenes": {"100,000": scene}}):
        assert "yes" not in target_table(figures | other)


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("_C = None", "gsplat found no CUDA toolkit"),
        ("print('a.cu(3): error: nvcc is ill')\nraise RuntimeError('Error building extension')", "nvcc is ill"),
        ("_C = object()", None),
    ],
)
def test_gsplat_is_compiled_in_a_process_of_its_own(
    module: str, error: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gsplat"
    (package / "cuda").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'\nrasterization = print\n")
    (package / "cuda" / "__init__.py").touch()
    (package / "cuda" / "_backend.py").write_text(module + "\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    build = gpu_peers.GsplatBuild(tmp_path)
    try:
        assert not build.running(60)
        if error is None:
            assert build.load().version == "0"
        else:
            with pytest.raises(ImportError, match=error):
                build.load()
    finally:
        build.stop()
        build.log.close()
        sys.modules.pop("gsplat", None)


def test_psnr_stays_a_number() -> None:
    a = torch.zeros(2, 2)
    assert psnr_between(a, a) == 200 and psnr_between(a, a + 0.1) == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("wrong", [["--size", "96"], ["--counts", "0"], ["--counts", "x"], ["--views", "0"]])
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_gpu.main([*ARGUMENTS, *wrong])
    assert "must be" in capsys.readouterr().err
