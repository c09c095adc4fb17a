"""Evaluation on held-out views: known pictures have known measures."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from splat import optional
from splat.gaussians import Gaussians
from splat.metrics import MAX_PSNR
from splat.scene.data import Capture, PhotoCache, load_capture
from splat.scene.evaluate import EvaluateOptions, Evaluation, ViewPair, ViewScore, evaluate, view_pair
from tests.rendered_captures import BACKGROUND, ball, rendered_data_set, ring, write_data_set

PLAIN = EvaluateOptions(flip=False, lpips=False)


def measure(
    capture: Capture, gaussians: Gaussians, background: Tensor = BACKGROUND, options: EvaluateOptions = PLAIN
) -> Evaluation:
    with PhotoCache(capture.views) as photos:
        normal = capture.normalisation.gaussians(gaussians)
        return evaluate(normal, capture, capture.test, photos, background=background, options=options)


def unseen() -> Gaussians:
    """Far from every camera: pictures show the background alone."""
    g = ball(3)
    return replace(g, means=g.means + 1e4)


def plain(folder: Path, levels: int, masks: list[Tensor] | None = None) -> Capture:
    pictures = [torch.full((36, 48, 3), levels / 255)] * 10
    return load_capture(write_data_set(folder, pictures, ring(), masks))


def test_the_scene_that_the_photos_show_is_off_by_their_rounding_alone(tmp_path: Path) -> None:
    capture = load_capture(rendered_data_set(tmp_path / "data"))
    result = measure(capture, ball())
    rounding = -10 * math.log10(1 / 255**2 / 12)
    assert len(result.views) == len(capture.test) == 2
    assert all(view.psnr == pytest.approx(rounding, abs=0.5) and view.ssim > 0.999 for view in result.views)
    assert [view.name for view in result.views] == [capture.views[row].name for row in capture.test]
    assert measure(capture, ball(seed=1)).psnr < 25


def test_equal_pictures_have_the_best_score_and_an_offset_the_known_one(tmp_path: Path) -> None:
    capture = plain(tmp_path / "data", 51)
    same = measure(capture, unseen(), torch.tensor([0.2, 0.2, 0.2]))
    assert same.psnr == MAX_PSNR and same.ssim == pytest.approx(1)
    assert measure(capture, unseen(), torch.tensor([0.3, 0.3, 0.3])).psnr == pytest.approx(20, abs=1e-4)
    channel = measure(capture, unseen(), torch.tensor([0.3, 0.2, 0.2])).psnr
    assert channel == pytest.approx(20 + 10 * math.log10(3), abs=1e-4)


def test_alpha_is_laid_over_the_background(tmp_path: Path) -> None:
    clear = torch.full((36, 48, 4), 1.0)
    clear[..., 3] = 0
    half = clear.clone()
    half[:18, :, 3] = 1
    capture = load_capture(write_data_set(tmp_path / "clear", [clear] * 10, ring()))
    assert capture.has_alpha and measure(capture, unseen()).psnr == MAX_PSNR
    capture = load_capture(write_data_set(tmp_path / "half", [half] * 10, ring()))
    black = torch.zeros(3)
    assert measure(capture, unseen(), black).psnr == pytest.approx(10 * math.log10(2), abs=1e-4)


def test_masked_pixels_are_left_out(tmp_path: Path) -> None:
    mask = torch.ones(36, 48, dtype=torch.bool)
    mask[:, 20:] = False
    picture = torch.full((36, 48, 3), 51 / 255)
    picture[:, 20:] = torch.rand(36, 28, 3, generator=torch.Generator().manual_seed(0))
    data = write_data_set(tmp_path / "data", [picture] * 10, ring(), [mask] * 10)
    capture = load_capture(data)
    with PhotoCache(capture.views) as photos:
        pair = view_pair(unseen(), capture, 0, photos, background=torch.full((3,), 0.3))
    assert pair.mask is not None and torch.equal(pair.mask, mask)
    assert float(pair.error[:, 20:].max()) == 0 and float(pair.error[:, :20].mean()) == pytest.approx(0.1, abs=1e-6)
    result = measure(capture, unseen(), torch.full((3,), 0.3))
    assert result.psnr == pytest.approx(20, abs=1e-4)
    assert measure(capture, unseen(), torch.full((3,), 0.2)).ssim == pytest.approx(1)


def test_the_numbers_are_the_same_on_every_run(tmp_path: Path) -> None:
    capture = load_capture(rendered_data_set(tmp_path / "data"))
    first, second = (measure(capture, ball(seed=1)) for _ in range(2))
    assert [(v.psnr, v.ssim) for v in first.views] == [(v.psnr, v.ssim) for v in second.views]


def test_pictures_are_corrected_and_halved_before_they_are_compared(tmp_path: Path) -> None:
    capture = plain(tmp_path / "data", 51)
    seen: list[ViewPair] = []
    with PhotoCache(capture.views) as photos:
        result = evaluate(
            unseen(),
            capture,
            capture.test,
            photos,
            background=torch.full((3,), 0.4),
            correct=lambda row, color: color * (0.5 if row in capture.test else 1.0),
            options=replace(PLAIN, halvings=1),
            each=lambda pair, score: seen.append(pair),
        )
    assert result.psnr == MAX_PSNR
    assert [pair.row for pair in seen] == list(capture.test) and seen[0].image.shape == (18, 24, 3)


def test_a_halved_view_is_the_same_view(tmp_path: Path) -> None:
    capture = load_capture(rendered_data_set(tmp_path / "data"))
    assert measure(capture, ball(), options=replace(PLAIN, halvings=1)).psnr > 30


def test_what_was_not_measured_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = plain(tmp_path / "data", 51)
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    result = measure(capture, unseen(), options=EvaluateOptions())
    content = result.to_dict()
    assert result.measures == ("psnr", "ssim")
    assert set(content) == {"schema_version", "views", "psnr", "ssim", "seconds", "per_view"}
    assert set(content["per_view"][0]) == {"name", "psnr", "ssim", "seconds"}
    json.dumps(content, allow_nan=False)
    with pytest.raises(ValueError, match=r"FLIP needs flip-evaluator.*torchsplat\[metrics\]"):
        measure(capture, unseen(), options=EvaluateOptions(flip=True))
    with pytest.raises(ValueError, match=r"LPIPS needs the packages lpips and torchvision, and the weights .*alexnet"):
        measure(capture, unseen(), options=EvaluateOptions(lpips=True))


@pytest.mark.skipif(
    not optional.installed("flip_evaluator"), reason="flip-evaluator (extra [metrics]) is not installed"
)
def test_flip_is_0_for_equal_pictures_and_counts_what_the_mask_leaves(tmp_path: Path) -> None:
    left = torch.ones(36, 48, dtype=torch.bool)
    left[:, 24:] = False
    options = EvaluateOptions(lpips=False)
    whole = plain(tmp_path / "whole", 51)
    part = plain(tmp_path / "part", 51, [left] * 10)
    assert measure(whole, unseen(), torch.full((3,), 0.2), options).mean("flip") == 0
    off = measure(whole, unseen(), torch.full((3,), 0.5), options).mean("flip")
    masked = measure(part, unseen(), torch.full((3,), 0.5), options).mean("flip")
    assert off is not None and 0.1 < off < 1
    # Within a few pixels of the mask FLIP sees an edge that the photo has not; counting what is masked would be 0.5 x.
    assert masked == pytest.approx(off, rel=0.1)


def test_lpips_is_measured_only_with_its_own_weights_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net:
        def __init__(self, net: str, verbose: bool) -> None:
            assert net == "alex"

        def eval(self) -> Net:
            return self

        def __call__(self, image: Tensor, truth: Tensor) -> Tensor:
            assert image.shape == (1, 3, 36, 48) and float(image.min()) >= -1
            return (image - truth).abs().mean()

    module = ModuleType("lpips")
    module.LPIPS = Net  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(optional, "find_spec", lambda name: object() if name in ("lpips", "torchvision") else None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    capture = plain(tmp_path / "data", 51)
    assert measure(capture, unseen(), options=EvaluateOptions()).mean("lpips") is None
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"")
    result = measure(capture, unseen(), torch.full((3,), 0.3), EvaluateOptions())
    assert result.mean("lpips") == pytest.approx(0.2, abs=1e-5) and result.to_dict()["lpips_net"] == "alex"


def test_the_worst_come_first() -> None:
    psnrs = [30.0, 20.0, 25.0, 20.0, 40.0, 22.0]
    views = tuple(ViewScore(f"{i}", i, p, 0.9, None, None, 0.1) for i, p in enumerate(psnrs))
    assert [view.row for view in Evaluation(views).worst(4)] == [1, 3, 5, 2]
    assert Evaluation(views).psnr == pytest.approx(sum(psnrs) / 6)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    capture = plain(tmp_path / "data", 51)
    with PhotoCache(capture.views) as photos, pytest.raises(ValueError, match="rows must hold at least one view"):
        evaluate(unseen(), capture, [], photos, background=BACKGROUND)
