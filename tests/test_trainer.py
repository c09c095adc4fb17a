"""Training a small rendered capture: it learns, and its bits depend on the seed and the data alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import splat
from splat.scene.checkpoint import load_checkpoint, save_checkpoint
from splat.scene.config import (
    CorrectionConfig,
    DefaultConfig,
    LossConfig,
    ScheduleConfig,
    StartConfig,
    TrainConfig,
    preset,
    seconds,
)
from splat.scene.data import Capture, PhotoCache, load_capture
from splat.scene.run import CHECKPOINT, Run
from splat.scene.train import Trainer
from tests.rendered_captures import BACKGROUND, ball, rendered_data_set, ring, write_data_set

QUICK = TrainConfig(
    steps=60,
    max_gaussians=400,
    sh_degree=1,
    schedule=ScheduleConfig(refine_every=10, coarse=1),
    start=StartConfig(dense=0.5),
    loss=LossConfig(background=",".join(f"{float(v):.3f}" for v in BACKGROUND)),
)
DEFAULT = replace(QUICK, strategy="default", default=DefaultConfig(grow_grad2d=1e-5, reset_every=20))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_data_set(tmp_path_factory.mktemp("data") / "ball", cameras=ring(12, 72, 66))


@contextmanager
def training(data: Path, config: TrainConfig) -> Iterator[Trainer]:
    capture = load_capture(data)
    with PhotoCache(capture.views) as photos:
        trainer = Trainer(capture, photos, config)
        trainer.start_clock()
        yield trainer


def tables_after(data: Path, config: TrainConfig, images: int | None = None) -> dict[str, Tensor]:
    with training(data, config) as trainer:
        while not trainer.done and trainer.images != images:
            trainer.step()
        return trainer.tables()


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("config", [replace(QUICK, steps=300), replace(DEFAULT, steps=300)], ids=["mcmc", "default"])
def test_held_out_views_come_closer(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    with training(data, config) as trainer:
        run = Run(trainer, tmp_path)
        before = run.evaluate(trainer.capture.test).psnr
        assert run.train()
        assert run.evaluate(trainer.capture.test).psnr > before + 4
        assert len(trainer.gaussians) <= 400
        psnrs = [row["psnr"] for row in run.history]
        assert psnrs[-1] > psnrs[0]


@pytest.mark.parametrize("config", [QUICK, DEFAULT], ids=["mcmc", "default"])
def test_the_same_bits_with_any_number_of_threads(data: Path, config: TrainConfig) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            splat.set_num_threads(count)
            torch.set_num_threads(count)
            results.append(tables_after(data, config))
    finally:
        splat.set_num_threads(threads)
        torch.set_num_threads(threads)
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_another_seed_gives_another_scene(data: Path) -> None:
    a, b = tables_after(data, QUICK), tables_after(data, replace(QUICK, seed=1))
    assert a["gaussians.means"].shape != b["gaussians.means"].shape or not torch.equal(
        a["gaussians.means"], b["gaussians.means"]
    )


CORRECTED = replace(QUICK, correct=CorrectionConfig(exposure="affine", poses=True))


@pytest.mark.parametrize("config", [QUICK, DEFAULT, CORRECTED], ids=["mcmc", "default", "corrections"])
@pytest.mark.parametrize("at", [10, 37])
def test_a_resumed_run_ends_in_the_same_bits(data: Path, tmp_path: Path, config: TrainConfig, at: int) -> None:
    whole = tables_after(data, config)
    with training(data, config) as trainer:
        while trainer.images < at:
            trainer.step()
        save_checkpoint(tmp_path / CHECKPOINT, trainer)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT)
    assert checkpoint.config == config
    with training(data, checkpoint.config) as trainer:
        checkpoint.restore(trainer)
        while not trainer.done:
            trainer.step()
        assert_same(trainer.tables(), whole)


def command(data: Path, out: Path, *more: str) -> list[str]:
    words = ["train-scene", str(data), "-o", str(out), "--steps", "200", "--max-gaussians", "300", "--formats", "ply"]
    return [sys.executable, "-m", "splat", *words, "--checkpoint-every", "20", "--quiet", *more]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        time.sleep(0.05)
    raise AssertionError("no checkpoint within a minute")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(data: Path, tmp_path: Path, how: signal.Signals) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(data, tmp_path / "whole"), check=True, env=environment)
    process = subprocess.Popen(command(data, tmp_path / "cut"), env=environment)
    wait_for(tmp_path / "cut" / CHECKPOINT, process)
    process.send_signal(how)
    assert process.wait() == (130 if how == signal.SIGINT else -signal.SIGKILL)
    images = load_checkpoint(tmp_path / "cut" / CHECKPOINT).progress.images
    assert 0 < images < 200
    if how == signal.SIGINT:
        assert (tmp_path / "cut" / "scene.ply").exists()
    subprocess.run(command(data, tmp_path / "cut", "--resume"), check=True, env=environment)
    assert_same(*(load_checkpoint(tmp_path / name / CHECKPOINT).tables for name in ("whole", "cut")))
    assert (tmp_path / "whole" / "scene.ply").read_bytes() == (tmp_path / "cut" / "scene.ply").read_bytes()
    histories = [json.loads((tmp_path / name / "metrics.json").read_text())["history"] for name in ("whole", "cut")]
    for row in (*histories[0], *histories[1]):
        del row["seconds"], row["loss"]  # the mean loss since the last row begins anew at a checkpoint
    assert histories[0] == histories[1]


def test_a_write_that_fails_leaves_the_checkpoint_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    with training(data, QUICK) as trainer:
        run = Run(trainer, tmp_path)
        trainer.step()
        run.checkpoint()
        before = (tmp_path / CHECKPOINT).read_bytes()
        trainer.step()

        def full(tensors: object, path: Path, metadata: object) -> None:
            path.write_bytes(before[:1000])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            run.checkpoint()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    with training(data, QUICK) as trainer:
        save_checkpoint(tmp_path / CHECKPOINT, trainer)
    other = rendered_data_set(tmp_path / "other", cameras=ring(11, 72, 66))
    with training(other, QUICK) as trainer, pytest.raises(ValueError, match="other pictures"):
        load_checkpoint(tmp_path / CHECKPOINT).restore(trainer)


def test_a_checkpoint_of_another_version_is_refused(data: Path, tmp_path: Path) -> None:
    with training(data, QUICK) as trainer:
        save_checkpoint(tmp_path / CHECKPOINT, trainer)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes().replace(b"harmonics_until", b"harmonics_untol"))
    with pytest.raises(ValueError, match="another version"):
        load_checkpoint(path)


def test_masked_pixels_do_not_matter(data: Path, tmp_path: Path) -> None:
    pictures = list(splat.render(ball(), ring(12, 72, 66), background=BACKGROUND).color)
    masks = [torch.ones(66, 72, dtype=torch.bool) for _ in pictures]
    spoiled = []
    for picture, mask in zip(pictures, masks, strict=True):
        mask[20:40, 10:30] = False
        spoiled.append(torch.where(mask[..., None], picture, 1.0))
    results = []
    for i, shown in enumerate((pictures, spoiled)):
        folder = write_data_set(tmp_path / str(i), shown, ring(12, 72, 66), masks)
        # Matching for a dense start looks at windows, which reach over the mask.
        config = replace(QUICK, schedule=ScheduleConfig(refine_every=10, coarse=0), start=StartConfig(dense=0))
        results.append(tables_after(folder, config, 30))
    assert_same(*results)


def test_what_is_transparent_is_learnt_on_any_background(tmp_path: Path) -> None:
    cameras = ring(12, 72, 66)
    seen = splat.render(ball(), cameras)
    rgb = seen.color / seen.alpha.clamp_min(1e-6)
    folder = write_data_set(tmp_path / "alpha", list(torch.cat([rgb, seen.alpha], -1)), cameras)
    config = replace(QUICK, steps=300, loss=LossConfig(background="random"))
    with training(folder, config) as trainer:
        assert trainer.capture.has_alpha
        while not trainer.done:
            trainer.step()
        for row in trainer.capture.test:
            drawn = splat.render(trainer.gaussians, trainer.capture.camera(row)).alpha[0]
            assert float((drawn - seen.alpha[row]).abs().mean()) < 0.06


def test_absgrad_sums_magnitudes(data: Path) -> None:
    sums = []
    for absgrad in (False, True):
        with training(data, replace(DEFAULT, default=DefaultConfig(absgrad=absgrad))) as trainer:
            for _ in range(5):
                trainer.step()
            sums.append(trainer.state.statistics["grad2d"])
    seen = sums[0] > 0
    assert (sums[1][seen] >= 0.999 * sums[0][seen]).all()
    assert float(sums[1].sum()) > 1.5 * float(sums[0].sum())


def test_a_held_out_view_of_which_nothing_counts_is_not_measured(tmp_path: Path) -> None:
    pictures = list(splat.render(ball(), ring(12, 72, 66), background=BACKGROUND).color)
    masks = [torch.ones(66, 72, dtype=torch.bool) for _ in pictures]
    masks[0][:] = False
    masks[3][:] = False
    folder = write_data_set(tmp_path / "masked", pictures, ring(12, 72, 66), masks)
    with training(folder, replace(QUICK, steps=20)) as trainer:
        run = Run(trainer, tmp_path / "out")
        assert run.train()
        assert len(run.evaluate(trainer.capture.test).views) == len(trainer.capture.test) - 1


def test_a_gain_of_some_photographs_is_learnt_apart(tmp_path: Path) -> None:
    cameras = ring(12, 72, 66)
    pictures = list(splat.render(ball(), cameras, background=BACKGROUND).color)
    dim = [picture * (0.6 if i % 3 == 1 else 1.0) for i, picture in enumerate(pictures)]
    folder = write_data_set(tmp_path / "dim", dim, cameras)
    base = replace(QUICK, steps=400, sh_degree=0)
    losses = []
    for exposure in ("none", "affine"):
        with training(folder, replace(base, correct=CorrectionConfig(exposure=exposure))) as trainer:
            while not trainer.done:
                loss = trainer.step().loss
            losses.append(float(loss))
    assert losses[1] < 0.7 * losses[0]


def test_a_run_of_seconds_ends_in_time(data: Path) -> None:
    start = time.perf_counter()
    with training(data, replace(QUICK, time=2.0, start=StartConfig(dense=0))) as trainer:
        while not trainer.done:
            trainer.step()
        assert trainer.images > 0
        assert 1.9 < time.perf_counter() - start < 20


def test_memory_does_not_grow_with_the_steps(data: Path) -> None:
    """Tensors alive after 40 and after 80 steps with densification are as many."""
    import gc

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    with training(data, replace(QUICK, steps=200, schedule=ScheduleConfig(refine_every=10, coarse=0))) as trainer:
        counts = []
        for _ in range(3):
            for _ in range(40):
                trainer.step()
            counts.append(alive())
        assert counts[2] <= counts[1] + 2


def test_presets_and_times() -> None:
    assert [preset(name).steps for name in ("draft", "standard", "best")] == [2_000, 7_000, 30_000]
    assert [seconds(text) for text in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    for text in ("", "m", "-3m", "0", "10d", "nan"):
        with pytest.raises(ValueError, match="wanted a time"):
            seconds(text)


def test_a_configuration_survives_json() -> None:
    config = replace(CORRECTED, time=90.0, loss=LossConfig(depth="points"))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_depths_of_points_want_points(data: Path) -> None:
    capture: Capture = load_capture(data)
    with PhotoCache(capture.views) as photos, pytest.raises(ValueError, match="depth=points"):
        Trainer(capture, photos, replace(QUICK, loss=LossConfig(depth="points")))


@pytest.mark.parametrize("config", [QUICK, DEFAULT], ids=["mcmc", "default"])
def test_there_are_never_more_than_the_budget(data: Path, config: TrainConfig) -> None:
    with training(data, replace(config, max_gaussians=90)) as trainer:
        while not trainer.done:
            assert len(trainer.gaussians) <= 90
            trainer.step()


def test_a_scene_of_which_nothing_is_left_does_not_end_the_run(data: Path) -> None:
    config = replace(DEFAULT, default=DefaultConfig(grow_grad2d=1.0, prune_opacity=0.9))
    with training(data, config) as trainer:
        while not trainer.done:
            trainer.step()
        assert len(trainer.gaussians) == 0


def test_small_pictures_and_a_single_held_out_view(tmp_path: Path) -> None:
    folder = rendered_data_set(tmp_path / "few", cameras=ring(4, 24, 20))
    with training(folder, replace(QUICK, steps=20)) as trainer:
        run = Run(trainer, tmp_path / "out")
        assert run.train()
        assert len(trainer.capture.train) == 3


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(data: Path, tmp_path: Path) -> None:
    with training(data, QUICK) as trainer:
        Run(trainer, tmp_path).train()
    with training(data, replace(QUICK, steps=100)) as trainer:
        run = Run(trainer, tmp_path)
        run.resume()
        assert trainer.images == 60 and trainer.refined_at == trainer.progress == 0.6
        assert run.train()
        assert [row["images"] for row in run.history][-1] == 100
